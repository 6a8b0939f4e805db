#pragma once

// The vector vocabulary on AArch64 Advanced SIMD: sixteen lanes are four 128-bit registers. See README.md.

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/simd/words.h"

#ifndef LOWBIT_ISA  // an instruction set that adds to this one has named itself
#define LOWBIT_ISA neon
#endif

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::size_t kLanes = 16;

constexpr std::size_t kRegisters = 8;

struct F32x16 {
  float32x4_t a, b, c, d;
};
struct I32x16 {
  int32x4_t a, b, c, d;
};

LOWBIT_INLINE F32x16 broadcast(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {v, v, v, v};
}
LOWBIT_INLINE I32x16 broadcast(std::int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {v, v, v, v};
}

LOWBIT_INLINE F32x16 in_register(F32x16 x) { return x; }

LOWBIT_INLINE F32x16 add(F32x16 x, F32x16 y) {
  return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
LOWBIT_INLINE F32x16 sub(F32x16 x, F32x16 y) {
  return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
}
LOWBIT_INLINE F32x16 mul(F32x16 x, F32x16 y) {
  return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
LOWBIT_INLINE F32x16 div(F32x16 x, F32x16 y) {
  return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}
// Compare and select, so that a NaN gives the second operand as on x86: FMIN and FMAX would give the NaN.
LOWBIT_INLINE float32x4_t lesser(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
LOWBIT_INLINE float32x4_t greater(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
LOWBIT_INLINE F32x16 min(F32x16 x, F32x16 y) {
  return {lesser(x.a, y.a), lesser(x.b, y.b), lesser(x.c, y.c), lesser(x.d, y.d)};
}
LOWBIT_INLINE F32x16 max(F32x16 x, F32x16 y) {
  return {greater(x.a, y.a), greater(x.b, y.b), greater(x.c, y.c), greater(x.d, y.d)};
}
LOWBIT_INLINE F32x16 fused(F32x16 x, F32x16 y, F32x16 z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
LOWBIT_INLINE F32x16 fused_negative(F32x16 x, F32x16 y, F32x16 z) {
  return {vfmsq_f32(z.a, x.a, y.a), vfmsq_f32(z.b, x.b, y.b), vfmsq_f32(z.c, x.c, y.c), vfmsq_f32(z.d, x.d, y.d)};
}

LOWBIT_INLINE I32x16 add(I32x16 x, I32x16 y) {
  return {vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b), vaddq_s32(x.c, y.c), vaddq_s32(x.d, y.d)};
}
LOWBIT_INLINE I32x16 sub(I32x16 x, I32x16 y) {
  return {vsubq_s32(x.a, y.a), vsubq_s32(x.b, y.b), vsubq_s32(x.c, y.c), vsubq_s32(x.d, y.d)};
}
LOWBIT_INLINE I32x16 max(I32x16 x, I32x16 y) {
  return {vmaxq_s32(x.a, y.a), vmaxq_s32(x.b, y.b), vmaxq_s32(x.c, y.c), vmaxq_s32(x.d, y.d)};
}
LOWBIT_INLINE I32x16 bit_xor(I32x16 x, I32x16 y) {
  return {veorq_s32(x.a, y.a), veorq_s32(x.b, y.b), veorq_s32(x.c, y.c), veorq_s32(x.d, y.d)};
}

LOWBIT_INLINE I32x16 bit_and(I32x16 x, I32x16 y) {
  return {vandq_s32(x.a, y.a), vandq_s32(x.b, y.b), vandq_s32(x.c, y.c), vandq_s32(x.d, y.d)};
}
LOWBIT_INLINE I32x16 bit_or(I32x16 x, I32x16 y) {
  return {vorrq_s32(x.a, y.a), vorrq_s32(x.b, y.b), vorrq_s32(x.c, y.c), vorrq_s32(x.d, y.d)};
}
LOWBIT_INLINE int32x4_t bit_select(int32x4_t mask, int32x4_t x, int32x4_t y) {
  return vbslq_s32(vreinterpretq_u32_s32(mask), x, y);
}
LOWBIT_INLINE I32x16 bit_select(I32x16 mask, I32x16 x, I32x16 y) {
  return {bit_select(mask.a, x.a, y.a), bit_select(mask.b, x.b, y.b), bit_select(mask.c, x.c, y.c),
          bit_select(mask.d, x.d, y.d)};
}
LOWBIT_INLINE I32x16 mul(I32x16 x, I32x16 y) {
  return {vmulq_s32(x.a, y.a), vmulq_s32(x.b, y.b), vmulq_s32(x.c, y.c), vmulq_s32(x.d, y.d)};
}
template <int N>
LOWBIT_INLINE I32x16 shift_left(I32x16 x) {
  return {vshlq_n_s32(x.a, N), vshlq_n_s32(x.b, N), vshlq_n_s32(x.c, N), vshlq_n_s32(x.d, N)};
}
template <int N>
LOWBIT_INLINE I32x16 shift_right(I32x16 x) {
  if constexpr (N == 0) {
    return x;  // the instruction has no shift by nothing
  } else {
    return {vshrq_n_s32(x.a, N), vshrq_n_s32(x.b, N), vshrq_n_s32(x.c, N), vshrq_n_s32(x.d, N)};
  }
}
template <int N>
LOWBIT_INLINE int32x4_t shift_right_unsigned(int32x4_t x) {
  return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), N));
}
template <int N>
LOWBIT_INLINE I32x16 shift_right_unsigned(I32x16 x) {
  return {shift_right_unsigned<N>(x.a), shift_right_unsigned<N>(x.b), shift_right_unsigned<N>(x.c),
          shift_right_unsigned<N>(x.d)};
}
LOWBIT_INLINE I32x16 or_difference(I32x16 seen, I32x16 x, I32x16 y) {
  return {vorrq_s32(seen.a, veorq_s32(x.a, y.a)), vorrq_s32(seen.b, veorq_s32(x.b, y.b)),
          vorrq_s32(seen.c, veorq_s32(x.c, y.c)), vorrq_s32(seen.d, veorq_s32(x.d, y.d))};
}
LOWBIT_INLINE bool is_zero(I32x16 x) {
  return vmaxvq_u32(vreinterpretq_u32_s32(vorrq_s32(vorrq_s32(x.a, x.b), vorrq_s32(x.c, x.d)))) == 0;
}

LOWBIT_INLINE I32x16 as_bits(F32x16 x) {
  return {vreinterpretq_s32_f32(x.a), vreinterpretq_s32_f32(x.b), vreinterpretq_s32_f32(x.c),
          vreinterpretq_s32_f32(x.d)};
}
LOWBIT_INLINE F32x16 as_floats(I32x16 x) {
  return {vreinterpretq_f32_s32(x.a), vreinterpretq_f32_s32(x.b), vreinterpretq_f32_s32(x.c),
          vreinterpretq_f32_s32(x.d)};
}
LOWBIT_INLINE I32x16 magnitude_bits(F32x16 x) {
  return as_bits({vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)});
}
LOWBIT_INLINE I32x16 round_to_int(F32x16 x) {
  return {vcvtnq_s32_f32(x.a), vcvtnq_s32_f32(x.b), vcvtnq_s32_f32(x.c), vcvtnq_s32_f32(x.d)};
}
LOWBIT_INLINE F32x16 to_float(I32x16 x) {
  return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)};
}

LOWBIT_INLINE float32x4_t select_zero(float32x4_t x, float32x4_t if_zero, float32x4_t otherwise) {
  return vbslq_f32(vceqzq_f32(x), if_zero, otherwise);
}
LOWBIT_INLINE F32x16 select_zero(F32x16 x, F32x16 if_zero, F32x16 otherwise) {
  return {select_zero(x.a, if_zero.a, otherwise.a), select_zero(x.b, if_zero.b, otherwise.b),
          select_zero(x.c, if_zero.c, otherwise.c), select_zero(x.d, if_zero.d, otherwise.d)};
}

LOWBIT_INLINE std::int32_t horizontal_max(I32x16 x) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.a, x.b), vmaxq_s32(x.c, x.d)));
}
LOWBIT_INLINE std::int32_t horizontal_sum(I32x16 x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d)));
}
LOWBIT_INLINE float horizontal_max(F32x16 x) { return vmaxvq_f32(greater(greater(x.a, x.b), greater(x.c, x.d))); }
LOWBIT_INLINE float horizontal_min(F32x16 x) { return vminvq_f32(lesser(lesser(x.a, x.b), lesser(x.c, x.d))); }

LOWBIT_INLINE void store_range(float* min, float* max, F32x16 least, F32x16 greatest) {
  *min = horizontal_min(least);
  *max = horizontal_max(greatest);
}

LOWBIT_INLINE void store_lanes(float* out, F32x16 x) {
  vst1q_f32(out, x.a);
  vst1q_f32(out + 4, x.b);
  vst1q_f32(out + 8, x.c);
  vst1q_f32(out + 12, x.d);
}
LOWBIT_INLINE void store_lanes(std::int32_t* out, I32x16 x) {
  vst1q_s32(out, x.a);
  vst1q_s32(out + 4, x.b);
  vst1q_s32(out + 8, x.c);
  vst1q_s32(out + 12, x.d);
}
LOWBIT_INLINE I32x16 load_lanes(const std::int32_t* in) {
  return {vld1q_s32(in), vld1q_s32(in + 4), vld1q_s32(in + 8), vld1q_s32(in + 12)};
}

LOWBIT_INLINE float32x4_t widen_bfloat16(uint16x4_t x) { return vreinterpretq_f32_u32(vshll_n_u16(x, 16)); }

template <FloatType Type>
LOWBIT_INLINE F32x16 load(const Storage<Type>* in) {
  if constexpr (Type == FloatType::kFloat32) {
    return {vld1q_f32(in), vld1q_f32(in + 4), vld1q_f32(in + 8), vld1q_f32(in + 12)};
  } else {
    const uint16x8_t low = vld1q_u16(in), high = vld1q_u16(in + 8);
    if constexpr (Type == FloatType::kFloat16) {
      const float16x8_t l = vreinterpretq_f16_u16(low), h = vreinterpretq_f16_u16(high);
      return {vcvt_f32_f16(vget_low_f16(l)), vcvt_high_f32_f16(l), vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
    } else {
      return {widen_bfloat16(vget_low_u16(low)), widen_bfloat16(vget_high_u16(low)), widen_bfloat16(vget_low_u16(high)),
              widen_bfloat16(vget_high_u16(high))};
    }
  }
}

LOWBIT_INLINE uint16x4_t narrow_bfloat16(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
}

template <FloatType Type>
LOWBIT_INLINE uint16x8_t narrow(float32x4_t low, float32x4_t high) {
  if constexpr (Type == FloatType::kFloat16) {
    return vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(low), high));
  } else {
    return vcombine_u16(narrow_bfloat16(low), narrow_bfloat16(high));
  }
}

// Advanced SIMD has no portable streaming store; the plain one is used.
constexpr std::size_t kStreamAlignment = 1;

template <FloatType Type, bool Stream>
LOWBIT_INLINE void store(Storage<Type>* out, F32x16 x) {
  if constexpr (Type == FloatType::kFloat32) {
    store_lanes(out, x);
  } else {
    vst1q_u16(out, narrow<Type>(x.a, x.b));
    vst1q_u16(out + 8, narrow<Type>(x.c, x.d));
  }
}

LOWBIT_INLINE void stream_fence() {}
LOWBIT_INLINE void prefetch(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#endif
}

struct I8x32 {
  int8x16_t low, high;
};
LOWBIT_INLINE I8x32 broadcast8(int x) {
  const int8x16_t v = vdupq_n_s8(static_cast<std::int8_t>(x));
  return {v, v};
}
LOWBIT_INLINE I8x32 min(I8x32 x, I8x32 y) { return {vminq_s8(x.low, y.low), vminq_s8(x.high, y.high)}; }
LOWBIT_INLINE I8x32 max(I8x32 x, I8x32 y) { return {vmaxq_s8(x.low, y.low), vmaxq_s8(x.high, y.high)}; }
LOWBIT_INLINE I8x32 load_bytes(const std::uint8_t* in) {
  return {vreinterpretq_s8_u8(vld1q_u8(in)), vreinterpretq_s8_u8(vld1q_u8(in + 16))};
}
LOWBIT_INLINE int8x16_t narrow(I32x16 x) {
  const int16x8_t low = vqmovn_high_s32(vqmovn_s32(x.a), x.b), high = vqmovn_high_s32(vqmovn_s32(x.c), x.d);
  return vqmovn_high_s16(vqmovn_s16(low), high);
}
LOWBIT_INLINE I8x32 narrow(I32x16 x, I32x16 y) { return {narrow(x), narrow(y)}; }

// Four codes of a word, from this one on.
template <int Bits>
LOWBIT_INLINE int32x4_t spread_codes(std::uint64_t word, int first) {
  const int32_t amounts[4] = {0, -Bits, -2 * Bits, -3 * Bits};
  const uint32x4_t words = vdupq_n_u32(static_cast<std::uint32_t>(word >> (first * Bits)));
  return vreinterpretq_s32_u32(vandq_u32(vshlq_u32(words, vld1q_s32(amounts)), vdupq_n_u32((1U << Bits) - 1)));
}

// Four codes of 6 bits, from the three bytes that begin there.
template <std::uint32_t First>
LOWBIT_INLINE int32x4_t own_code(uint8x16_t bytes) {
  constexpr std::uint32_t kOwn = 0xff020100U + First * 0x010101U;
  const std::int32_t amounts[4] = {0, -6, -12, -18};
  const uint32x4_t words = vreinterpretq_u32_u8(vqtbl1q_u8(bytes, vreinterpretq_u8_u32(vdupq_n_u32(kOwn))));
  return vreinterpretq_s32_u32(vandq_u32(vshlq_u32(words, vld1q_s32(amounts)), vdupq_n_u32(63)));
}

template <int Bits>
LOWBIT_INLINE I32x16 load_codes(const std::uint8_t* in) {
  if constexpr (Bits == 8 || Bits == 4) {
    uint8x16_t bytes;
    if constexpr (Bits == 8) {
      bytes = vld1q_u8(in);
    } else {
      const uint8x8_t pairs = vld1_u8(in);
      const uint8x8_t first = vand_u8(pairs, vdup_n_u8(0x0f)), second = vshr_n_u8(pairs, 4);
      bytes = vcombine_u8(vzip1_u8(first, second), vzip2_u8(first, second));
    }
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
    return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_high_u16(low)),
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))), vreinterpretq_s32_u32(vmovl_high_u16(high))};
  } else if constexpr (Bits == 6) {
    // Four codes are three bytes: every lane gets those of its four, and shifts.
    const uint8x16_t bytes = vcombine_u8(vld1_u8(in), vcreate_u8(load_u32(in + 8)));
    return {own_code<0>(bytes), own_code<3>(bytes), own_code<6>(bytes), own_code<9>(bytes)};
  } else {
    std::uint64_t word = load_u32(in);
    if constexpr (Bits == 3) word |= static_cast<std::uint64_t>(load_u32(in + 2) >> 16) << 32;
    return {spread_codes<Bits>(word, 0), spread_codes<Bits>(word, 4), spread_codes<Bits>(word, 8),
            spread_codes<Bits>(word, 12)};
  }
}

// Sixteen codes of at most 3 bits in the low bits of a word.
template <int Bits>
LOWBIT_INLINE std::uint64_t join_codes(uint8x16_t x) {
  // Pairs in the low bits of 16-bit lanes, fours in those of 32-bit lanes, eights in those of 64-bit lanes.
  const uint16x8_t one = vreinterpretq_u16_u8(x);
  const uint32x4_t two = vreinterpretq_u32_u16(vsraq_n_u16(vandq_u16(one, vdupq_n_u16(0xff)), one, 8 - Bits));
  const uint64x2_t four = vreinterpretq_u64_u32(vsraq_n_u32(vandq_u32(two, vdupq_n_u32(0xffff)), two, 16 - 2 * Bits));
  const uint64x2_t eight = vsraq_n_u64(vandq_u64(four, vdupq_n_u64(0xffffffff)), four, 32 - 4 * Bits);
  return vgetq_lane_u64(eight, 0) | (vgetq_lane_u64(eight, 1) << (8 * Bits));
}

// Sixteen codes of 6 bits: pairs in the low bits of 16-bit lanes, fours in three bytes of 32-bit lanes, all in a row.
LOWBIT_INLINE void store_sixteen_sixes(std::uint8_t* out, uint8x16_t x) {
  const uint16x8_t one = vreinterpretq_u16_u8(x);
  const uint32x4_t two = vreinterpretq_u32_u16(vsliq_n_u16(one, vshrq_n_u16(one, 8), 6));
  const uint8x16_t four = vreinterpretq_u8_u32(vsliq_n_u32(two, vshrq_n_u32(two, 16), 12));
  const std::uint8_t order[16] = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 255, 255, 255, 255};
  const uint8x16_t bytes = vqtbl1q_u8(four, vld1q_u8(order));
  vst1_u8(out, vget_low_u8(bytes));
  const std::uint32_t last = vgetq_lane_u32(vreinterpretq_u32_u8(bytes), 2);
  std::memcpy(out + 8, &last, sizeof last);
}

template <int Bits, bool Stream>
LOWBIT_INLINE void store_codes(std::uint8_t* out, I8x32 x, std::uint64_t flip) {
  const uint8x16_t low = vreinterpretq_u8_s8(x.low), high = vreinterpretq_u8_s8(x.high);
  const uint8x16_t flips = vreinterpretq_u8_u64(vdupq_n_u64(flip));
  if constexpr (Bits == 8) {
    vst1q_u8(out, veorq_u8(low, flips));
    vst1q_u8(out + 16, veorq_u8(high, flips));
  } else if constexpr (Bits == 4) {
    const uint8x16_t first = vuzp1q_u8(low, high), second = vuzp2q_u8(low, high);
    vst1q_u8(out, veorq_u8(vsliq_n_u8(first, second, 4), flips));
  } else if constexpr (Bits == 6) {
    store_sixteen_sixes(out, low);
    store_sixteen_sixes(out + 12, high);
  } else {
    store_bytes<2 * Bits>(out, join_codes<Bits>(low) ^ flip);
    store_bytes<2 * Bits>(out + 2 * Bits, join_codes<Bits>(high) ^ flip);
  }
}

// Which lanes: all bits of each, or none.
struct Mask16 {
  uint32x4_t a, b, c, d;
};
LOWBIT_INLINE Mask16 less(F32x16 x, F32x16 y) {
  return {vcltq_f32(x.a, y.a), vcltq_f32(x.b, y.b), vcltq_f32(x.c, y.c), vcltq_f32(x.d, y.d)};
}
LOWBIT_INLINE Mask16 less(I32x16 x, I32x16 y) {
  return {vcltq_s32(x.a, y.a), vcltq_s32(x.b, y.b), vcltq_s32(x.c, y.c), vcltq_s32(x.d, y.d)};
}
LOWBIT_INLINE Mask16 both(Mask16 x, Mask16 y) {
  return {vandq_u32(x.a, y.a), vandq_u32(x.b, y.b), vandq_u32(x.c, y.c), vandq_u32(x.d, y.d)};
}
LOWBIT_INLINE bool any(Mask16 x) { return vmaxvq_u32(vorrq_u32(vorrq_u32(x.a, x.b), vorrq_u32(x.c, x.d))) != 0; }
LOWBIT_INLINE F32x16 select(Mask16 which, F32x16 x, F32x16 y) {
  return {vbslq_f32(which.a, x.a, y.a), vbslq_f32(which.b, x.b, y.b), vbslq_f32(which.c, x.c, y.c),
          vbslq_f32(which.d, x.d, y.d)};
}
LOWBIT_INLINE I32x16 select(Mask16 which, I32x16 x, I32x16 y) {
  return {vbslq_s32(which.a, x.a, y.a), vbslq_s32(which.b, x.b, y.b), vbslq_s32(which.c, x.c, y.c),
          vbslq_s32(which.d, x.d, y.d)};
}
LOWBIT_INLINE I32x16 min(I32x16 x, I32x16 y) {
  return {vminq_s32(x.a, y.a), vminq_s32(x.b, y.b), vminq_s32(x.c, y.c), vminq_s32(x.d, y.d)};
}
LOWBIT_INLINE F32x16 square_root(F32x16 x) {
  return {vsqrtq_f32(x.a), vsqrtq_f32(x.b), vsqrtq_f32(x.c), vsqrtq_f32(x.d)};
}
LOWBIT_INLINE I32x16 truncate_to_int(F32x16 x) {
  return {vcvtq_s32_f32(x.a), vcvtq_s32_f32(x.b), vcvtq_s32_f32(x.c), vcvtq_s32_f32(x.d)};
}

// Four lanes of a constant that counts lanes.
LOWBIT_INLINE int32x4_t counted(std::int32_t a, std::int32_t b, std::int32_t c, std::int32_t d) {
  const std::int32_t lanes[4] = {a, b, c, d};
  return vld1q_s32(lanes);
}

LOWBIT_INLINE I32x16 keep_where(std::uint32_t bits, I32x16 x) {
  const int32x4_t all = vdupq_n_s32(static_cast<std::int32_t>(bits));
  const auto kept = [=](int32x4_t lane, int32x4_t y) {
    return vandq_s32(vreinterpretq_s32_u32(vtstq_s32(all, lane)), y);
  };
  return {kept(counted(1, 2, 4, 8), x.a), kept(counted(16, 32, 64, 128), x.b), kept(counted(256, 512, 1024, 2048), x.c),
          kept(counted(4096, 8192, 16384, 32768), x.d)};
}
LOWBIT_INLINE std::uint32_t sign_mask(I32x16 x) {
  const int32x4_t bits = vdupq_n_s32(1);
  const auto signs = [=](int32x4_t y, int32x4_t places) {
    return vshlq_s32(vandq_s32(vshrq_n_s32(y, 31), bits), places);
  };
  return static_cast<std::uint32_t>(
      vaddvq_s32(vorrq_s32(vorrq_s32(signs(x.a, counted(0, 1, 2, 3)), signs(x.b, counted(4, 5, 6, 7))),
                           vorrq_s32(signs(x.c, counted(8, 9, 10, 11)), signs(x.d, counted(12, 13, 14, 15))))));
}

// A table of 64 bytes, four of which belong to a lane; indices past it would give zeros.
LOWBIT_INLINE F32x16 look_up(F32x16 table, I32x16 index) {
  const uint8x16x4_t bytes = {{vreinterpretq_u8_f32(table.a), vreinterpretq_u8_f32(table.b),
                               vreinterpretq_u8_f32(table.c), vreinterpretq_u8_f32(table.d)}};
  const auto four = [=](int32x4_t i) {
    const int32x4_t low = vandq_s32(i, vdupq_n_s32(15));
    const int32x4_t places = vmlaq_s32(vdupq_n_s32(0x03020100), low, vdupq_n_s32(0x04040404));
    return vreinterpretq_f32_u8(vqtbl4q_u8(bytes, vreinterpretq_u8_s32(places)));
  };
  return {four(index.a), four(index.b), four(index.c), four(index.d)};
}

LOWBIT_INLINE F32x16 look_up8(F32x16 table, I32x16 index) {
  const uint8x16x2_t bytes = {{vreinterpretq_u8_f32(table.a), vreinterpretq_u8_f32(table.b)}};
  const auto four = [=](int32x4_t i) {
    const int32x4_t places = vmlaq_s32(vdupq_n_s32(0x03020100), i, vdupq_n_s32(0x04040404));
    return vreinterpretq_f32_u8(vqtbl2q_u8(bytes, vreinterpretq_u8_s32(places)));
  };
  return {four(index.a), four(index.b), four(index.c), four(index.d)};
}
LOWBIT_INLINE I32x16 load_halves(const std::uint8_t* in) {
  const uint8x8_t bytes = vld1_u8(in);
  const uint16x8_t low = vmovl_u8(vand_u8(bytes, vdup_n_u8(15))), high = vmovl_u8(vshr_n_u8(bytes, 4));
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_high_u16(low)),
          vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))), vreinterpretq_s32_u32(vmovl_high_u16(high))};
}

LOWBIT_INLINE F32x16 maxima(const F32x16 (&x)[kLanes]) {
  const auto largest = [&](std::size_t i) { return vmaxq_f32(vmaxq_f32(x[i].a, x[i].b), vmaxq_f32(x[i].c, x[i].d)); };
  const auto four = [&](std::size_t i) {
    return vpmaxq_f32(vpmaxq_f32(largest(i), largest(i + 1)), vpmaxq_f32(largest(i + 2), largest(i + 3)));
  };
  return {four(0), four(4), four(8), four(12)};
}

// Four vectors of four lanes: the lanes i of all of them.
LOWBIT_INLINE void transpose(float32x4_t (&x)[4]) {
  const auto wide = [](float32x4_t y) { return vreinterpretq_f64_f32(y); };
  const float64x2_t even[2] = {wide(vtrn1q_f32(x[0], x[1])), wide(vtrn1q_f32(x[2], x[3]))};
  const float64x2_t odd[2] = {wide(vtrn2q_f32(x[0], x[1])), wide(vtrn2q_f32(x[2], x[3]))};
  x[0] = vreinterpretq_f32_f64(vtrn1q_f64(even[0], even[1]));
  x[1] = vreinterpretq_f32_f64(vtrn1q_f64(odd[0], odd[1]));
  x[2] = vreinterpretq_f32_f64(vtrn2q_f64(even[0], even[1]));
  x[3] = vreinterpretq_f32_f64(vtrn2q_f64(odd[0], odd[1]));
}
LOWBIT_INLINE void transpose(F32x16 (&x)[kLanes]) {
  float32x4_t parts[4][4][4];  // [rows / 4][columns / 4][row]
  LOWBIT_UNROLL
  for (std::size_t i = 0; i < kLanes; i++) {
    parts[i / 4][0][i % 4] = x[i].a;
    parts[i / 4][1][i % 4] = x[i].b;
    parts[i / 4][2][i % 4] = x[i].c;
    parts[i / 4][3][i % 4] = x[i].d;
  }
  for (auto& row : parts) {
    for (auto& part : row) transpose(part);
  }
  LOWBIT_UNROLL
  for (std::size_t i = 0; i < kLanes; i++) {
    x[i] = {parts[0][i / 4][i % 4], parts[1][i / 4][i % 4], parts[2][i / 4][i % 4], parts[3][i / 4][i % 4]};
  }
}

LOWBIT_INLINE void store_low_bytes(std::uint8_t* out, I32x16 x) {
  const uint16x8_t low = vreinterpretq_u16_s16(vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b)));
  const uint16x8_t high = vreinterpretq_u16_s16(vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d)));
  vst1q_u8(out, vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
}

// One float16 pattern.
LOWBIT_INLINE float widen_half(std::uint16_t half) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}
LOWBIT_INLINE std::uint16_t narrow_half(float x) {
  return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x))), 0);
}

// Eight float64 lanes, for sums that must not lose bits.
struct F64x8 {
  float64x2_t a, b, c, d;
};
LOWBIT_INLINE F64x8 broadcast(double x) {
  const float64x2_t v = vdupq_n_f64(x);
  return {v, v, v, v};
}
LOWBIT_INLINE F64x8 widen_low(F32x16 x) {
  return {vcvt_f64_f32(vget_low_f32(x.a)), vcvt_high_f64_f32(x.a), vcvt_f64_f32(vget_low_f32(x.b)),
          vcvt_high_f64_f32(x.b)};
}
LOWBIT_INLINE F64x8 widen_high(F32x16 x) {
  return {vcvt_f64_f32(vget_low_f32(x.c)), vcvt_high_f64_f32(x.c), vcvt_f64_f32(vget_low_f32(x.d)),
          vcvt_high_f64_f32(x.d)};
}
LOWBIT_INLINE F64x8 add(F64x8 x, F64x8 y) {
  return {vaddq_f64(x.a, y.a), vaddq_f64(x.b, y.b), vaddq_f64(x.c, y.c), vaddq_f64(x.d, y.d)};
}
LOWBIT_INLINE F64x8 sub(F64x8 x, F64x8 y) {
  return {vsubq_f64(x.a, y.a), vsubq_f64(x.b, y.b), vsubq_f64(x.c, y.c), vsubq_f64(x.d, y.d)};
}
LOWBIT_INLINE F64x8 mul(F64x8 x, F64x8 y) {
  return {vmulq_f64(x.a, y.a), vmulq_f64(x.b, y.b), vmulq_f64(x.c, y.c), vmulq_f64(x.d, y.d)};
}
LOWBIT_INLINE float64x2_t greater(float64x2_t x, float64x2_t y) { return vbslq_f64(vcgtq_f64(x, y), x, y); }
LOWBIT_INLINE F64x8 max(F64x8 x, F64x8 y) {
  return {greater(x.a, y.a), greater(x.b, y.b), greater(x.c, y.c), greater(x.d, y.d)};
}
LOWBIT_INLINE F64x8 fused(F64x8 x, F64x8 y, F64x8 z) {
  return {vfmaq_f64(z.a, x.a, y.a), vfmaq_f64(z.b, x.b, y.b), vfmaq_f64(z.c, x.c, y.c), vfmaq_f64(z.d, x.d, y.d)};
}
LOWBIT_INLINE F64x8 load_lanes(const double* in) {
  return {vld1q_f64(in), vld1q_f64(in + 2), vld1q_f64(in + 4), vld1q_f64(in + 6)};
}
LOWBIT_INLINE void store_lanes(double* out, F64x8 x) {
  vst1q_f64(out, x.a);
  vst1q_f64(out + 2, x.b);
  vst1q_f64(out + 4, x.c);
  vst1q_f64(out + 6, x.d);
}
LOWBIT_INLINE F64x8 magnitude(F64x8 x) { return {vabsq_f64(x.a), vabsq_f64(x.b), vabsq_f64(x.c), vabsq_f64(x.d)}; }
LOWBIT_INLINE float64x2_t two_to_the(float64x2_t shifted) {
  const int64x2_t biased = vaddq_s64(vreinterpretq_s64_f64(shifted), vdupq_n_s64(1023));
  return vreinterpretq_f64_s64(vshlq_n_s64(biased, 52));
}
LOWBIT_INLINE F64x8 two_to_the(F64x8 x) { return {two_to_the(x.a), two_to_the(x.b), two_to_the(x.c), two_to_the(x.d)}; }
LOWBIT_INLINE double pairwise_sum(F64x8 x) { return vaddvq_f64(vaddq_f64(vaddq_f64(x.a, x.c), vaddq_f64(x.b, x.d))); }
LOWBIT_INLINE double horizontal_max(F64x8 x) { return vmaxvq_f64(greater(greater(x.a, x.b), greater(x.c, x.d))); }

}  // namespace
}  // namespace lowbit::LOWBIT_ISA

#include "core/simd/tail.h"
