#pragma once

// The vector vocabulary on AVX-512 F, BW, VL, DQ: sixteen lanes are one 512-bit register. See README.md.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/simd/words.h"

#ifndef LOWBIT_ISA  // an instruction set that adds to this one has named itself
#define LOWBIT_ISA avx512
#endif
#include "core/simd/x86.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::size_t kRegisters = 32;

struct F32x16 {
  __m512 v;
};
struct I32x16 {
  __m512i v;
};

LOWBIT_INLINE F32x16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
LOWBIT_INLINE I32x16 broadcast(std::int32_t x) { return {_mm512_set1_epi32(x)}; }

LOWBIT_INLINE F32x16 in_register(F32x16 x) {
#if defined(__GNUC__)
  __asm__("" : "+v"(x.v));
#endif
  return x;
}

LOWBIT_INLINE F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
LOWBIT_INLINE F32x16 sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
LOWBIT_INLINE F32x16 mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
LOWBIT_INLINE F32x16 div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
LOWBIT_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
LOWBIT_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
LOWBIT_INLINE F32x16 fused(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
LOWBIT_INLINE F32x16 fused_negative(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }

LOWBIT_INLINE I32x16 add(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
LOWBIT_INLINE I32x16 sub(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
LOWBIT_INLINE I32x16 max(I32x16 a, I32x16 b) { return {_mm512_max_epi32(a.v, b.v)}; }
LOWBIT_INLINE I32x16 bit_xor(I32x16 a, I32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
LOWBIT_INLINE I32x16 bit_and(I32x16 a, I32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
LOWBIT_INLINE I32x16 bit_or(I32x16 a, I32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
LOWBIT_INLINE I32x16 bit_select(I32x16 mask, I32x16 a, I32x16 b) {
  return {_mm512_ternarylogic_epi32(mask.v, a.v, b.v, 0xca)};
}
LOWBIT_INLINE I32x16 mul(I32x16 a, I32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
template <int N>
LOWBIT_INLINE I32x16 shift_left(I32x16 x) {
  return {_mm512_slli_epi32(x.v, N)};
}
template <int N>
LOWBIT_INLINE I32x16 shift_right(I32x16 x) {
  return {_mm512_srai_epi32(x.v, N)};
}
template <int N>
LOWBIT_INLINE I32x16 shift_right_unsigned(I32x16 x) {
  return {_mm512_srli_epi32(x.v, N)};
}
LOWBIT_INLINE I32x16 or_difference(I32x16 seen, I32x16 a, I32x16 b) {
  return {_mm512_ternarylogic_epi32(seen.v, a.v, b.v, 0xf6)};
}
LOWBIT_INLINE bool is_zero(I32x16 x) { return _mm512_test_epi32_mask(x.v, x.v) == 0; }

LOWBIT_INLINE I32x16 as_bits(F32x16 x) { return {_mm512_castps_si512(x.v)}; }
LOWBIT_INLINE F32x16 as_floats(I32x16 x) { return {_mm512_castsi512_ps(x.v)}; }
LOWBIT_INLINE I32x16 magnitude_bits(F32x16 x) {
  return {_mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7fffffff))};
}
LOWBIT_INLINE I32x16 round_to_int(F32x16 x) { return {_mm512_cvtps_epi32(x.v)}; }
LOWBIT_INLINE F32x16 to_float(I32x16 x) { return {_mm512_cvtepi32_ps(x.v)}; }

LOWBIT_INLINE F32x16 select_zero(F32x16 x, F32x16 if_zero, F32x16 otherwise) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_EQ_OQ), otherwise.v, if_zero.v)};
}

LOWBIT_INLINE std::int32_t horizontal_max(I32x16 v) { return _mm512_reduce_max_epi32(v.v); }
LOWBIT_INLINE std::int32_t horizontal_sum(I32x16 v) { return _mm512_reduce_add_epi32(v.v); }
LOWBIT_INLINE float horizontal_max(F32x16 v) { return _mm512_reduce_max_ps(v.v); }
LOWBIT_INLINE float horizontal_min(F32x16 v) { return _mm512_reduce_min_ps(v.v); }

LOWBIT_INLINE void store_range(float* min, float* max, F32x16 least, F32x16 greatest) {
  store_range_of_eight(min, max, _mm256_min_ps(_mm512_castps512_ps256(least.v), _mm512_extractf32x8_ps(least.v, 1)),
                       _mm256_max_ps(_mm512_castps512_ps256(greatest.v), _mm512_extractf32x8_ps(greatest.v, 1)));
}

LOWBIT_INLINE void store_lanes(float* out, F32x16 v) { _mm512_storeu_ps(out, v.v); }
LOWBIT_INLINE void store_lanes(std::int32_t* out, I32x16 v) { _mm512_storeu_si512(out, v.v); }
LOWBIT_INLINE I32x16 load_lanes(const std::int32_t* in) { return {_mm512_loadu_si512(in)}; }

template <FloatType Type>
LOWBIT_INLINE F32x16 load(const Storage<Type>* in) {
  if constexpr (Type == FloatType::kFloat32) {
    return {_mm512_loadu_ps(in)};
  } else {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
    if constexpr (Type == FloatType::kFloat16) {
      return {_mm512_cvtph_ps(halves)};
    } else {
      return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
    }
  }
}

// Sixteen 16-bit patterns, in order. VCVTNEPS2BF16 is not used: it flushes subnormals to zero.
template <FloatType Type>
LOWBIT_INLINE __m256i narrow(F32x16 x) {
  if constexpr (Type == FloatType::kFloat16) {
    return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT);
  } else {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    if (const __mmask16 is_nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q); is_nan != 0) {
      rounded = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
    }
    const __m512i upper_halves = _mm512_castsi256_si512(_mm256_setr_epi32(
        0x00030001, 0x00070005, 0x000b0009, 0x000f000d, 0x00130011, 0x00170015, 0x001b0019, 0x001f001d));
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper_halves, rounded));
  }
}

// 128-bit streaming stores: buffers from JavaScript are aligned to 16 bytes, seldom to 64, and the write-combining
// buffers join the parts.
constexpr std::size_t kStreamAlignment = 16;

template <FloatType Type, bool Stream>
LOWBIT_INLINE void store(Storage<Type>* out, F32x16 x) {
  if constexpr (Type == FloatType::kFloat32) {
    if constexpr (Stream) {
      _mm_stream_ps(out, _mm512_castps512_ps128(x.v));
      _mm_stream_ps(out + 4, _mm512_extractf32x4_ps(x.v, 1));
      _mm_stream_ps(out + 8, _mm512_extractf32x4_ps(x.v, 2));
      _mm_stream_ps(out + 12, _mm512_extractf32x4_ps(x.v, 3));
    } else {
      _mm512_storeu_ps(out, x.v);
    }
  } else {
    const __m256i packed = narrow<Type>(x);
    if constexpr (Stream) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(packed));
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + 8), _mm256_extracti128_si256(packed, 1));
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), packed);
    }
  }
}

LOWBIT_INLINE void stream_fence() { _mm_sfence(); }
LOWBIT_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

LOWBIT_INLINE I8x32 narrow(I32x16 a, I32x16 b) {
  // Words [a0-3, b0-3 | a4-7, b4-7 | …], so are the bytes.
  const __m256i mixed = _mm512_cvtsepi16_epi8(_mm512_packs_epi32(a.v, b.v));
  return {_mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7))};
}

template <int Bits>
LOWBIT_INLINE I32x16 load_codes(const std::uint8_t* in) {
  if constexpr (Bits == 8) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in)))};
  } else if constexpr (Bits == 6) {
    // Four codes are three bytes: every lane gets those of its four, and shifts.
    const __m512i bytes = _mm512_broadcast_i32x4(load_twelve(in));
    const __m512i own =
        _mm512_add_epi8(_mm512_set1_epi32(kThreeBytes),
                        _mm512_setr_epi32(0, 0, 0, 0, 0x030303, 0x030303, 0x030303, 0x030303, 0x060606, 0x060606,
                                          0x060606, 0x060606, 0x090909, 0x090909, 0x090909, 0x090909));
    const __m512i shifts = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 6, 12, 18));
    return {_mm512_and_si512(_mm512_srlv_epi32(_mm512_shuffle_epi8(bytes, own), shifts), _mm512_set1_epi32(63))};
  } else {
    // Eight codes are `Bits` bytes: one 32-bit word for the lower and one for the upper eight lanes, shifted by the
    // lane's own amount. With 3 bits the upper word starts a byte early, so that nothing is read past the end.
    constexpr int kEarly = Bits == 3 ? 8 : Bits == 2 ? 16 : 0;
    const std::uint32_t low = load_u32(in), high = Bits == 2 ? low : load_u32(in + Bits - kEarly / 8);
    const __m512i words =
        _mm512_mask_set1_epi32(_mm512_set1_epi32(static_cast<int>(low)), 0xff00, static_cast<int>(high));
    const __m512i shifts = _mm512_setr_epi32(
        0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits, kEarly, kEarly + Bits, kEarly + 2 * Bits,
        kEarly + 3 * Bits, kEarly + 4 * Bits, kEarly + 5 * Bits, kEarly + 6 * Bits, kEarly + 7 * Bits);
    return {_mm512_and_si512(_mm512_srlv_epi32(words, shifts), _mm512_set1_epi32((1 << Bits) - 1))};
  }
}

// Which lanes: one bit for each.
struct Mask16 {
  __mmask16 v;
};
LOWBIT_INLINE Mask16 less(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
LOWBIT_INLINE Mask16 less(I32x16 a, I32x16 b) { return {_mm512_cmplt_epi32_mask(a.v, b.v)}; }
LOWBIT_INLINE Mask16 both(Mask16 a, Mask16 b) { return {static_cast<__mmask16>(a.v & b.v)}; }
LOWBIT_INLINE bool any(Mask16 a) { return a.v != 0; }
LOWBIT_INLINE F32x16 select(Mask16 which, F32x16 a, F32x16 b) { return {_mm512_mask_blend_ps(which.v, b.v, a.v)}; }
LOWBIT_INLINE I32x16 select(Mask16 which, I32x16 a, I32x16 b) { return {_mm512_mask_blend_epi32(which.v, b.v, a.v)}; }
LOWBIT_INLINE I32x16 min(I32x16 a, I32x16 b) { return {_mm512_min_epi32(a.v, b.v)}; }
LOWBIT_INLINE F32x16 square_root(F32x16 x) { return {_mm512_sqrt_ps(x.v)}; }
LOWBIT_INLINE I32x16 truncate_to_int(F32x16 x) { return {_mm512_cvttps_epi32(x.v)}; }

LOWBIT_INLINE I32x16 keep_where(std::uint32_t bits, I32x16 x) {
  return {_mm512_maskz_mov_epi32(static_cast<__mmask16>(bits), x.v)};
}
LOWBIT_INLINE std::uint32_t sign_mask(I32x16 x) { return _mm512_movepi32_mask(x.v); }
LOWBIT_INLINE F32x16 look_up(F32x16 table, I32x16 index) { return {_mm512_permutexvar_ps(index.v, table.v)}; }
LOWBIT_INLINE F32x16 look_up8(F32x16 table, I32x16 index) { return look_up(table, index); }
LOWBIT_INLINE I32x16 load_halves(const std::uint8_t* in) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(in));
  const __m512i twice = _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4)));
  return {_mm512_and_si512(twice, _mm512_set1_epi32(15))};
}

LOWBIT_INLINE F32x16 maxima(const F32x16 (&x)[kLanes]) {
  // Two vectors become one with half as many lanes of each, until one has a lane of each.
  const auto halves = [](__m512 a, __m512 b) {
    return _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const auto quarters = [](__m512 a, __m512 b) {
    return _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  const auto four = [&](std::size_t k) {
    return quarters(halves(x[k].v, x[4 + k].v), halves(x[8 + k].v, x[12 + k].v));
  };
  const auto pairs = [](__m512 a, __m512 b) {
    return _mm512_max_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
  };
  const __m512 low = pairs(four(0), four(1)), high = pairs(four(2), four(3));
  return {_mm512_max_ps(_mm512_shuffle_ps(low, high, 0x88), _mm512_shuffle_ps(low, high, 0xdd))};
}

LOWBIT_INLINE void transpose(F32x16 (&x)[kLanes]) {
  __m512 t[kLanes];
  LOWBIT_UNROLL
  for (std::size_t i = 0; i < kLanes; i += 4) {  // four by four within 128-bit lanes
    const __m512d low[2] = {_mm512_castps_pd(_mm512_unpacklo_ps(x[i].v, x[i + 1].v)),
                            _mm512_castps_pd(_mm512_unpacklo_ps(x[i + 2].v, x[i + 3].v))};
    const __m512d high[2] = {_mm512_castps_pd(_mm512_unpackhi_ps(x[i].v, x[i + 1].v)),
                             _mm512_castps_pd(_mm512_unpackhi_ps(x[i + 2].v, x[i + 3].v))};
    t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1]));
    t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1]));
    t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1]));
    t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1]));
  }
  LOWBIT_UNROLL
  for (std::size_t c = 0; c < 4; c++) {  // and the 128-bit lanes
    const __m512 even[2] = {_mm512_shuffle_f32x4(t[c], t[4 + c], 0x88),
                            _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0x88)};
    const __m512 odd[2] = {_mm512_shuffle_f32x4(t[c], t[4 + c], 0xdd), _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0xdd)};
    x[c].v = _mm512_shuffle_f32x4(even[0], even[1], 0x88);
    x[8 + c].v = _mm512_shuffle_f32x4(even[0], even[1], 0xdd);
    x[4 + c].v = _mm512_shuffle_f32x4(odd[0], odd[1], 0x88);
    x[12 + c].v = _mm512_shuffle_f32x4(odd[0], odd[1], 0xdd);
  }
}

LOWBIT_INLINE void store_low_bytes(std::uint8_t* out, I32x16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(x.v));
}

// Eight float64 lanes, for sums that must not lose bits.
struct F64x8 {
  __m512d v;
};
LOWBIT_INLINE F64x8 broadcast(double x) { return {_mm512_set1_pd(x)}; }
LOWBIT_INLINE F64x8 widen_low(F32x16 x) { return {_mm512_cvtps_pd(_mm512_castps512_ps256(x.v))}; }
LOWBIT_INLINE F64x8 widen_high(F32x16 x) { return {_mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1))}; }
LOWBIT_INLINE F64x8 add(F64x8 a, F64x8 b) { return {_mm512_add_pd(a.v, b.v)}; }
LOWBIT_INLINE F64x8 sub(F64x8 a, F64x8 b) { return {_mm512_sub_pd(a.v, b.v)}; }
LOWBIT_INLINE F64x8 mul(F64x8 a, F64x8 b) { return {_mm512_mul_pd(a.v, b.v)}; }
LOWBIT_INLINE F64x8 max(F64x8 a, F64x8 b) { return {_mm512_max_pd(a.v, b.v)}; }
LOWBIT_INLINE F64x8 fused(F64x8 a, F64x8 b, F64x8 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
LOWBIT_INLINE F64x8 load_lanes(const double* in) { return {_mm512_loadu_pd(in)}; }
LOWBIT_INLINE void store_lanes(double* out, F64x8 x) { _mm512_storeu_pd(out, x.v); }
LOWBIT_INLINE F64x8 magnitude(F64x8 x) { return {_mm512_abs_pd(x.v)}; }
LOWBIT_INLINE F64x8 two_to_the(F64x8 shifted) {
  const __m512i biased = _mm512_add_epi64(_mm512_castpd_si512(shifted.v), _mm512_set1_epi64(1023));
  return {_mm512_castsi512_pd(_mm512_slli_epi64(biased, 52))};
}
LOWBIT_INLINE double pairwise_sum(F64x8 x) {
  const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(x.v), _mm512_extractf64x4_pd(x.v, 1));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
LOWBIT_INLINE double horizontal_max(F64x8 x) { return _mm512_reduce_max_pd(x.v); }

}  // namespace
}  // namespace lowbit::LOWBIT_ISA

#include "core/simd/tail.h"
