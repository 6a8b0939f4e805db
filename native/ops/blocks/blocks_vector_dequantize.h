// GGUF blocks, sixteen lanes at a time: back to floats. Part of blocks_vector.h.
//
// Sixteen bytes become sixteen lanes, each of which holds the codes of two to eight elements that lie 16 or 32 apart:
// shifts and masks take them out, in place, and every one of them goes through the same float operations as in the
// specification.

#pragma once

#include <type_traits>

#include "ops/blocks/blocks_math.h"

namespace lowbit::LOWBIT_ISA {
namespace {

template <int I>
using Index = std::integral_constant<int, I>;

// body(Index<0>{}), body(Index<1>{}) …, for shifts that must be known to the compiler.
template <int Count, int First = 0, typename Body>
LOWBIT_INLINE void for_each_index(const Body& body) {
  if constexpr (First < Count) {
    body(Index<First>{});
    for_each_index<Count, First + 1>(body);
  }
}

LOWBIT_INLINE I32x16 load_bytes16(const std::uint8_t* in) { return load_codes<8>(in); }
LOWBIT_INLINE I32x16 load_signed16(const std::uint8_t* in) {
  return shift_right<24>(shift_left<24>(load_codes<8>(in)));
}
LOWBIT_INLINE float load_scale(const std::uint8_t* in) { return widen_half(load_u16(in)); }

// `Bits` bits of each lane from bit `First` on; lanes are not negative.
template <int First, int Bits>
LOWBIT_INLINE I32x16 field(I32x16 x) {
  if constexpr (First == 0) {
    return bit_and(x, broadcast((1 << Bits) - 1));
  } else {
    return bit_and(shift_right<First>(x), broadcast((1 << Bits) - 1));
  }
}

// Stores around the caches must fill cache lines in turn: few of them can wait for the rest of what they get, and then
// they are written in pieces, at a tenth of the speed. Compilers would change the order of stores in straight code.
template <bool Stream>
LOWBIT_INLINE void put(float* out, F32x16 x) {
  store<FloatType::kFloat32, Stream>(out, x);
#if defined(__GNUC__)
  if constexpr (Stream) __asm__ volatile("" ::: "memory");
#endif
}

LOWBIT_INLINE F32x16 integers_times(I32x16 codes, F32x16 scale) { return mul(to_float(codes), scale); }

// Whether a type's bytes hold elements that lie far apart, so that they are not decoded one after the other.
constexpr bool is_scattered(BlockType type) {
  return type == BlockType::kQ2_K || type == BlockType::kQ3_K || type == BlockType::kQ6_K ||
         type == BlockType::kTQ1_0 || type == BlockType::kTQ2_0;
}

// Block after block, for a type's decode<Stream>(block, elements).
template <BlockType Type, bool Stream, typename Decoder>
LOWBIT_INLINE void decode_all(const std::uint8_t* in, std::size_t blocks, float* out) {
  constexpr BlockFormat kFormat = format_of(Type);
  const Decoder decoder;
  LOWBIT_NO_UNROLL
  for (std::size_t b = 0; b < blocks; b++) {
    float* x = out + b * kFormat.length;
    if constexpr (Stream && is_scattered(Type)) {
      alignas(64) float decoded[kSuperblock];  // so that what was just stored is loaded as it was
      decoder.template decode<false>(in + b * kFormat.bytes, decoded);
      LOWBIT_NO_UNROLL
      for (std::size_t i = 0; i < kSuperblock; i += kLanes) put<true>(x + i, load<FloatType::kFloat32>(decoded + i));
    } else {
      decoder.template decode<Stream>(in + b * kFormat.bytes, x);
    }
  }
  if constexpr (Stream) stream_fence();
}

template <BlockType Type, typename Decoder>
void dequantize(const std::uint8_t* in, std::size_t blocks, float* out, bool stream) {
  if (stream && can_stream(out)) {
    decode_all<Type, true, Decoder>(in, blocks, out);
  } else {
    decode_all<Type, false, Decoder>(in, blocks, out);
  }
}

// --- 32 elements ---

struct Q4_0 {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const F32x16 scale = broadcast(load_scale(y));
    const I32x16 bytes = load_bytes16(y + 2), zero = broadcast(8);
    put<Stream>(x, integers_times(sub(field<0, 4>(bytes), zero), scale));
    put<Stream>(x + 16, integers_times(sub(field<4, 4>(bytes), zero), scale));
  }
};

struct Q4_1 {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const F32x16 scale = broadcast(load_scale(y)), minimum = broadcast(load_scale(y + 2));
    const I32x16 bytes = load_bytes16(y + 4);
    put<Stream>(x, add(integers_times(field<0, 4>(bytes), scale), minimum));
    put<Stream>(x + 16, add(integers_times(field<4, 4>(bytes), scale), minimum));
  }
};

struct Q5_0 {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const F32x16 scale = broadcast(load_scale(y));
    const std::uint32_t fifth = load_u32(y + 2);
    // A code without its fifth bit is 16 too small, and 16 is subtracted: so it is done where the bit is clear.
    const I32x16 bytes = load_bytes16(y + 6), zero = broadcast(16);
    const I32x16 low = sub(field<0, 4>(bytes), keep_where(~fifth, zero));
    const I32x16 high = sub(field<4, 4>(bytes), keep_where(~fifth >> 16, zero));
    put<Stream>(x, integers_times(low, scale));
    put<Stream>(x + 16, integers_times(high, scale));
  }
};

struct Q5_1 {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const F32x16 scale = broadcast(load_scale(y)), minimum = broadcast(load_scale(y + 2));
    const std::uint32_t fifth = load_u32(y + 4);
    const I32x16 bytes = load_bytes16(y + 8), bit = broadcast(16);
    const I32x16 low = add(field<0, 4>(bytes), keep_where(fifth & 0xffff, bit));
    const I32x16 high = add(field<4, 4>(bytes), keep_where(fifth >> 16, bit));
    put<Stream>(x, add(integers_times(low, scale), minimum));
    put<Stream>(x + 16, add(integers_times(high, scale), minimum));
  }
};

struct Q8_0 {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const F32x16 scale = broadcast(load_scale(y));
    put<Stream>(x, integers_times(load_signed16(y + 2), scale));
    put<Stream>(x + 16, integers_times(load_signed16(y + 18), scale));
  }
};

// Sixteen levels as floats.
LOWBIT_INLINE F32x16 levels_of(const std::int8_t (&levels)[16]) {
  float floats[kLanes];
  for (std::size_t i = 0; i < kLanes; i++) floats[i] = static_cast<float>(levels[i]);
  return load<FloatType::kFloat32>(floats);
}

struct IQ4_NL {
  F32x16 levels = levels_of(kNonlinear);

  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    decode_group<Stream>(y + 2, broadcast(load_scale(y)), x);
  }
  template <bool Stream>
  LOWBIT_INLINE void decode_group(const std::uint8_t* y, F32x16 scale, float* x) const {
    const I32x16 bytes = load_bytes16(y);
    put<Stream>(x, mul(scale, look_up(levels, field<0, 4>(bytes))));
    put<Stream>(x + 16, mul(scale, look_up(levels, field<4, 4>(bytes))));
  }
};

struct MXFP4 {
  F32x16 levels = levels_of(kTwiceE2M1);

  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const F32x16 scale = broadcast(half_e8m0(y[0]));
    const I32x16 bytes = load_bytes16(y + 1);
    put<Stream>(x, mul(look_up(levels, field<0, 4>(bytes)), scale));
    put<Stream>(x + 16, mul(look_up(levels, field<4, 4>(bytes)), scale));
  }
};

// half_ue4m3() of all bytes.
struct HalfUE4M3 {
  float values[256];

  constexpr HalfUE4M3() : values() {
    for (int byte = 0; byte < 256; byte++) {
      const int code = byte & 0x7f;
      float value = static_cast<float>(code < 8 ? code : (code & 7) + 8) * 0x1p-10F;
      for (int exponent = code >> 3; exponent > 1; exponent--) value *= 2.0F;
      values[byte] = byte == 0x7f ? 0.0F : value;
    }
  }
};
constexpr HalfUE4M3 kHalfUE4M3;

struct NVFP4 {
  F32x16 levels = levels_of(kTwiceE2M1);

  // Eight bytes hold sixteen elements, j and j + 8.
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    for (std::size_t s = 0; s < 4; s++) {
      const F32x16 scale = broadcast(kHalfUE4M3.values[y[s]]);
      put<Stream>(x + 16 * s, mul(look_up(levels, load_halves(y + 4 + 8 * s)), scale));
    }
  }
};

// --- 256 elements ---

struct Q2_K {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const I32x16 packed = load_bytes16(y);
    float steps[kLanes], offsets[kLanes];
    store_lanes(steps, mul(broadcast(load_scale(y + 80)), to_float(field<0, 4>(packed))));
    store_lanes(offsets, mul(broadcast(load_scale(y + 82)), to_float(field<4, 4>(packed))));
    for (std::size_t quarter = 0; quarter < 4; quarter++) {  // sixteen bytes: bit 1 of it is h, bit 0 the half of 32
      const I32x16 bytes = load_bytes16(y + 16 + 16 * quarter);
      const std::size_t h = quarter / 2, s = quarter % 2;
      for_each_index<4>([&](auto n) {
        const std::size_t group = 8 * h + 2 * n.value + s;
        const F32x16 product = mul(broadcast(steps[group]), to_float(field<2 * n.value, 2>(bytes)));
        put<Stream>(x + 16 * group, sub(product, broadcast(offsets[group])));
      });
    }
  }
};

struct Q3_K {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const float scale = load_scale(y + 108);
    for (std::size_t s = 0; s < 2; s++) {
      const I32x16 third = load_bytes16(y + 16 * s);
      for_each_index<2>([&](auto h) {
        const I32x16 bytes = load_bytes16(y + 32 + 32 * h.value + 16 * s);
        for_each_index<4>([&](auto n) {
          const std::size_t group = 8 * h.value + 2 * n.value + s;
          const F32x16 step = broadcast(scale * static_cast<float>(load_q3_k_scale(y + 96, group)));
          const I32x16 high = shift_left<2>(field<4 * h.value + n.value, 1>(third));
          const I32x16 code = sub(add(field<2 * n.value, 2>(bytes), high), broadcast(4));
          put<Stream>(x + 16 * group, mul(step, to_float(code)));
        });
      });
    }
  }
};

struct Q4_K {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const float scale = load_scale(y), minimum = load_scale(y + 2);
    for_each_index<8>([&](auto g) {
      const ScaleAndMinimum packed = load_six_bits(y + 4, g.value);
      const F32x16 step = broadcast(scale * static_cast<float>(packed.scale));
      const F32x16 offset = broadcast(minimum * static_cast<float>(packed.minimum));
      for (std::size_t s = 0; s < 2; s++) {
        const I32x16 bytes = load_bytes16(y + 16 + 32 * (g.value / 2) + 16 * s);
        const F32x16 product = mul(step, to_float(field<4 * (g.value % 2), 4>(bytes)));
        put<Stream>(x + 32 * g.value + 16 * s, sub(product, offset));
      }
    });
  }
};

struct Q5_K {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const float scale = load_scale(y), minimum = load_scale(y + 2);
    const I32x16 fifth[2] = {load_bytes16(y + 16), load_bytes16(y + 32)};
    for_each_index<8>([&](auto g) {
      const ScaleAndMinimum packed = load_six_bits(y + 4, g.value);
      const F32x16 step = broadcast(scale * static_cast<float>(packed.scale));
      const F32x16 offset = broadcast(minimum * static_cast<float>(packed.minimum));
      for (std::size_t s = 0; s < 2; s++) {
        const I32x16 bytes = load_bytes16(y + 48 + 32 * (g.value / 2) + 16 * s);
        const I32x16 high = shift_left<4>(field<g.value, 1>(fifth[s]));
        const I32x16 code = add(field<4 * (g.value % 2), 4>(bytes), high);
        put<Stream>(x + 32 * g.value + 16 * s, sub(mul(step, to_float(code)), offset));
      }
    });
  }
};

struct Q6_K {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    float steps[kLanes];
    store_lanes(steps, mul(broadcast(load_scale(y + 208)), to_float(load_signed16(y + 192))));
    for (std::size_t h = 0; h < 2; h++) {
      for (std::size_t s = 0; s < 2; s++) {
        const I32x16 top = load_bytes16(y + 128 + 32 * h + 16 * s);
        const I32x16 low[2] = {load_bytes16(y + 64 * h + 16 * s), load_bytes16(y + 64 * h + 32 + 16 * s)};
        for_each_index<4>([&](auto n) {
          const std::size_t group = 8 * h + 2 * n.value + s;
          const I32x16 high = shift_left<4>(field<2 * n.value, 2>(top));
          const I32x16 code = sub(add(field<4 * (n.value / 2), 4>(low[n.value % 2]), high), broadcast(32));
          put<Stream>(x + 16 * group, mul(broadcast(steps[group]), to_float(code)));
        });
      }
    }
  }
};

struct Q8_K {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    float scale;
    std::memcpy(&scale, y, sizeof scale);
    for (std::size_t i = 0; i < kSuperblock; i += kLanes) {
      put<Stream>(x + i, mul(broadcast(scale), to_float(load_signed16(y + 4 + i))));
    }
  }
};

struct IQ4_XS {
  IQ4_NL levels;

  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const float scale = load_scale(y);
    const std::uint16_t high = load_u16(y + 2);
    for (std::size_t g = 0; g < kSuperblock / kBlock; g++) {
      const int s = ((y[4 + g / 2] >> (4 * (g % 2))) & 15) | ((high >> (2 * g)) & 3) << 4;
      const F32x16 step = broadcast(scale * static_cast<float>(s - 32));
      levels.decode_group<Stream>(y + 8 + 16 * g, step, x + g * kBlock);
    }
  }
};

struct TQ1_0 {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const F32x16 scale = broadcast(load_scale(y + 52));
    for (std::size_t run = 0; run < 3; run++) {
      float* first = x + (run < 2 ? 16 * run : 160);
      I32x16 turned = load_bytes16(y + 16 * run);
      const std::size_t distance = run < 2 ? 32 : 16;
      for (std::size_t n = 0; n < 5; n++) {
        put<Stream>(first + distance * n, integers_times(next_digit(turned), scale));
      }
    }
    std::uint8_t last[kLanes] = {};
    std::memcpy(last, y + 48, 4);
    I32x16 turned = load_bytes16(last);
    for (std::size_t n = 0; n < 4; n++) {
      store_first<FloatType::kFloat32>(x + 240 + 4 * n, integers_times(next_digit(turned), scale), 4);
    }
  }

  // −1, 0 or 1, and on to the next.
  LOWBIT_INLINE static I32x16 next_digit(I32x16& turned) {
    const I32x16 tripled = add(turned, shift_left<1>(turned));
    turned = bit_and(tripled, broadcast(255));
    return sub(shift_right<8>(tripled), broadcast(1));
  }
};

struct TQ2_0 {
  template <bool Stream>
  LOWBIT_INLINE void decode(const std::uint8_t* y, float* x) const {
    const F32x16 scale = broadcast(load_scale(y + 64));
    for (std::size_t quarter = 0; quarter < 4; quarter++) {
      const I32x16 bytes = load_bytes16(y + 16 * quarter);
      float* first = x + 128 * (quarter / 2) + 16 * (quarter % 2);
      for_each_index<4>([&](auto n) {
        put<Stream>(first + 32 * n.value, integers_times(sub(field<2 * n.value, 2>(bytes), broadcast(1)), scale));
      });
    }
  }
};

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
