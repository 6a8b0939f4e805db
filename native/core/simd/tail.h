// Part of every vector vocabulary: fewer than sixteen elements at the end of a run, by way of the stack.

namespace lowbit::LOWBIT_ISA {
namespace {

template <FloatType Type>
LOWBIT_INLINE F32x16 load_first(const Storage<Type>* in, std::size_t count) {
  Storage<Type> padded[kLanes] = {};
  std::memcpy(padded, in, count * sizeof padded[0]);
  return load<Type>(padded);
}

template <FloatType Type>
LOWBIT_INLINE void store_first(Storage<Type>* out, F32x16 v, std::size_t count) {
  Storage<Type> padded[kLanes];
  store<Type, false>(padded, v);
  std::memcpy(out, padded, count * sizeof padded[0]);
}

LOWBIT_INLINE I32x16 load_first_lanes(const std::int32_t* in, std::size_t count) {
  std::int32_t padded[kLanes] = {};
  std::memcpy(padded, in, count * sizeof padded[0]);
  return load_lanes(padded);
}

template <int Bits>
LOWBIT_INLINE I32x16 load_first_codes(const std::uint8_t* in, std::size_t count) {
  std::uint8_t padded[2 * Bits] = {};
  std::memcpy(padded, in, (count * Bits + 7) / 8);
  return load_codes<Bits>(padded);
}

// Fewer than thirty-two codes. The unused high bits of the last byte become zero.
template <int Bits>
LOWBIT_INLINE void store_first_codes(std::uint8_t* out, I8x32 v, std::uint64_t flip, std::size_t count) {
  std::uint8_t padded[4 * Bits];
  store_codes<Bits, false>(padded, v, flip);
  const std::size_t bytes = (count * Bits + 7) / 8;
  const std::size_t spare_bits = bytes * 8 - count * Bits;
  padded[bytes - 1] = static_cast<std::uint8_t>(padded[bytes - 1] & (0xff >> spare_bits));
  std::memcpy(out, padded, bytes);
}

// The same, for a count that may also be sixteen.
template <FloatType Type>
LOWBIT_INLINE F32x16 load_up_to(const Storage<Type>* in, std::size_t count) {
  return count == kLanes ? load<Type>(in) : load_first<Type>(in, count);
}
template <FloatType Type>
LOWBIT_INLINE void store_up_to(Storage<Type>* out, F32x16 v, std::size_t count) {
  if (count == kLanes) {
    store<Type, false>(out, v);
  } else {
    store_first<Type>(out, v, count);
  }
}
LOWBIT_INLINE I32x16 load_up_to_lanes(const std::int32_t* in, std::size_t count) {
  return count == kLanes ? load_lanes(in) : load_first_lanes(in, count);
}
LOWBIT_INLINE void store_up_to_lanes(std::int32_t* out, I32x16 v, std::size_t count) {
  std::int32_t padded[kLanes];
  store_lanes(padded, v);
  std::memcpy(out, padded, count * sizeof padded[0]);
}
template <int Bits>
LOWBIT_INLINE I32x16 load_up_to_codes(const std::uint8_t* in, std::size_t count) {
  return count == kLanes ? load_codes<Bits>(in) : load_first_codes<Bits>(in, count);
}
template <int Bits>
LOWBIT_INLINE void store_up_to_codes(std::uint8_t* out, I8x32 v, std::uint64_t flip, std::size_t count) {
  if (count == 2 * kLanes) {
    store_codes<Bits, false>(out, v, flip);
  } else {
    store_first_codes<Bits>(out, v, flip, count);
  }
}

LOWBIT_INLINE bool can_stream(const void* out) { return reinterpret_cast<std::uintptr_t>(out) % kStreamAlignment == 0; }

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
