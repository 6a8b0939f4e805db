// Signs to bits and back, ternary digits from bytes, sixteen lanes at a time. Part of bits_vector.h.

#pragma once

#include "ops/bits/bits_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// Calls body(std::integral_constant<FloatType, …>) for a run-time type.
template <typename Body>
LOWBIT_INLINE auto with_type(FloatType type, Body body) {
  switch (type) {
    case FloatType::kFloat16:
      return body(std::integral_constant<FloatType, FloatType::kFloat16>{});
    case FloatType::kBfloat16:
      return body(std::integral_constant<FloatType, FloatType::kBfloat16>{});
    case FloatType::kFloat32:
      break;
  }
  return body(std::integral_constant<FloatType, FloatType::kFloat32>{});
}

// Sixteen bits, or the first of them.
LOWBIT_INLINE std::uint32_t load_sixteen(const std::uint8_t* bits) {
  return bits[0] | static_cast<std::uint32_t>(bits[1]) << 8;
}
LOWBIT_INLINE std::uint32_t load_first_bits(const std::uint8_t* bits, std::size_t count) {
  return count > 8 ? load_sixteen(bits) : bits[0];
}
LOWBIT_INLINE void store_sixteen(std::uint8_t* bits, std::uint32_t value) {
  bits[0] = static_cast<std::uint8_t>(value);
  bits[1] = static_cast<std::uint8_t>(value >> 8);
}
LOWBIT_INLINE void store_first_bits(std::uint8_t* bits, std::uint32_t value, std::size_t count) {
  value &= (1U << count) - 1U;
  bits[0] = static_cast<std::uint8_t>(value);
  if (count > 8) bits[1] = static_cast<std::uint8_t>(value >> 8);
}

// One bit per lane: is it at least zero. The sign alone does not tell: that of −0 is set.
LOWBIT_INLINE std::uint32_t at_least_zero(F32x16 x) {
  return ~sign_mask(select(less(x, broadcast(0.0F)), broadcast(-1), broadcast(0)));
}

template <FloatType Type>
bool pack_signs_of(const Storage<Type>* x, std::size_t count, std::uint8_t* bits) {
  I32x16 largest = broadcast(0);  // NaN lies above infinity
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) {
    const F32x16 v = load<Type>(x + i);
    largest = max(largest, magnitude_bits(v));
    store_sixteen(bits + i / 8, at_least_zero(v));
  }
  if (i < count) {
    const F32x16 v = load_first<Type>(x + i, count - i);
    largest = max(largest, magnitude_bits(v));
    store_first_bits(bits + i / 8, at_least_zero(v), count - i);
  }
  return horizontal_max(largest) <= 0x7f800000;
}

bool pack_signs(const void* x, FloatType type, std::size_t count, std::uint8_t* bits) {
  return with_type(
      type, [&](auto t) { return pack_signs_of<t.value>(static_cast<const Storage<t.value>*>(x), count, bits); });
}

// The bytes of sixteen lanes, sign bits on top.
LOWBIT_INLINE std::uint32_t not_negative(I32x16 bytes) { return ~sign_mask(shift_left<24>(bytes)); }

void pack_byte_signs(const std::int8_t* x, std::size_t count, std::uint8_t* bits) {
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(x);
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) store_sixteen(bits + i / 8, not_negative(load_codes<8>(bytes + i)));
  if (i < count) store_first_bits(bits + i / 8, not_negative(load_first_codes<8>(bytes + i, count - i)), count - i);
}

LOWBIT_INLINE void store_first_bytes(std::int8_t* out, I32x16 bytes, std::size_t count) {
  std::uint8_t room[kLanes];
  store_low_bytes(room, bytes);
  std::memcpy(out, room, count);
}

// 1 and −1 as the low byte of each lane.
LOWBIT_INLINE I32x16 byte_signs(std::uint32_t bits) {
  return bit_xor(keep_where(bits, broadcast(0xfe)), broadcast(0xff));
}

void unpack_signs(const std::uint8_t* bits, std::size_t count, std::int8_t* out) {
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) {
    store_low_bytes(reinterpret_cast<std::uint8_t*>(out + i), byte_signs(load_sixteen(bits + i / 8)));
  }
  if (i < count) store_first_bytes(out + i, byte_signs(load_first_bits(bits + i / 8, count - i)), count - i);
}

void unpack_float_signs(const std::uint8_t* bits, std::size_t count, float value, float* out) {
  const I32x16 minus = as_bits(broadcast(-value)), sign = broadcast(INT32_MIN);
  const auto floats = [&](std::uint32_t sixteen) { return as_floats(bit_xor(minus, keep_where(sixteen, sign))); };
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) {
    store<FloatType::kFloat32, false>(out + i, floats(load_sixteen(bits + i / 8)));
  }
  if (i < count) {
    store_first<FloatType::kFloat32>(out + i, floats(load_first_bits(bits + i / 8, count - i)), count - i);
  }
}

LOWBIT_INLINE I32x16 signed_two_bits(I32x16 codes) {
  return bit_and(sub(bit_xor(codes, broadcast(2)), broadcast(2)), broadcast(0xff));
}

void unpack_two_bits(const std::uint8_t* bytes, std::size_t count, std::int8_t* out) {
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) {
    store_low_bytes(reinterpret_cast<std::uint8_t*>(out + i), signed_two_bits(load_codes<2>(bytes + i / 4)));
  }
  if (i < count) store_first_bytes(out + i, signed_two_bits(load_first_codes<2>(bytes + i / 4, count - i)), count - i);
}

// Sixteen bytes are eighty digits, five vectors. Lane l of vector v is digit (16 v + l) mod 5 of byte (16 v + l) / 5:
// byte / 3^digit mod 3, where x / 3^d is x · ⌈2^16 / 3^d⌉ / 2^16, exact for all bytes (the error of the factor is less
// than 3^−d / 2^8 · 2^16 / x).
struct Base3Tables {
  std::int32_t byte[kDigitsPerByte * kLanes], factor[kDigitsPerByte * kLanes];
};

constexpr Base3Tables base3_tables() {
  constexpr std::int32_t kFactors[kDigitsPerByte] = {65536, 21846, 7282, 2428, 810};
  Base3Tables tables{};
  for (std::size_t i = 0; i < kDigitsPerByte * kLanes; i++) {
    tables.byte[i] = static_cast<std::int32_t>(i / kDigitsPerByte);
    tables.factor[i] = kFactors[i % kDigitsPerByte];
  }
  return tables;
}

void unpack_base3(const std::uint8_t* bytes, std::size_t count, std::int8_t* out) {
  static constexpr Base3Tables kTables = base3_tables();
  constexpr std::size_t kBatch = kDigitsPerByte * kLanes;
  for (std::size_t i = 0; i < count; i += kBatch) {
    const std::size_t left = count - i < kBatch ? count - i : kBatch;
    const std::size_t left_bytes = (left + kDigitsPerByte - 1) / kDigitsPerByte;
    const std::uint8_t* const in = bytes + i / kDigitsPerByte;
    const F32x16 sixteen = as_floats(left_bytes == kLanes ? load_codes<8>(in) : load_first_codes<8>(in, left_bytes));
    for (std::size_t begin = 0; begin < left; begin += kLanes) {
      const I32x16 byte = as_bits(look_up(sixteen, load_lanes(kTables.byte + begin)));
      const I32x16 shifted = shift_right<16>(mul(byte, load_lanes(kTables.factor + begin)));
      const I32x16 third = shift_right<16>(mul(shifted, broadcast(21846)));
      const I32x16 digit = sub(sub(shifted, add(add(third, third), third)), broadcast(1));
      const I32x16 low = bit_and(digit, broadcast(0xff));
      if (left - begin >= kLanes) {
        store_low_bytes(reinterpret_cast<std::uint8_t*>(out + i + begin), low);
      } else {
        store_first_bytes(out + i + begin, low, left - begin);
      }
    }
  }
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
