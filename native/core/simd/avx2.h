#pragma once

// The vector vocabulary on AVX2 + FMA + F16C: sixteen lanes are two 256-bit registers. See README.md.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/simd/words.h"

#ifndef LOWBIT_ISA  // an instruction set that adds to this one has named itself
#define LOWBIT_ISA avx2
#endif
#include "core/simd/x86.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::size_t kRegisters = 8;

struct F32x16 {
  __m256 low, high;
};
struct I32x16 {
  __m256i low, high;
};

LOWBIT_INLINE F32x16 broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
LOWBIT_INLINE I32x16 broadcast(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }

LOWBIT_INLINE F32x16 in_register(F32x16 x) {
#if defined(__GNUC__)
  __asm__("" : "+x"(x.low), "+x"(x.high));
#endif
  return x;
}

LOWBIT_INLINE F32x16 add(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
LOWBIT_INLINE F32x16 sub(F32x16 a, F32x16 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
LOWBIT_INLINE F32x16 mul(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
LOWBIT_INLINE F32x16 div(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
LOWBIT_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
LOWBIT_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
LOWBIT_INLINE F32x16 fused(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
LOWBIT_INLINE F32x16 fused_negative(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}

LOWBIT_INLINE I32x16 add(I32x16 a, I32x16 b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
LOWBIT_INLINE I32x16 sub(I32x16 a, I32x16 b) {
  return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
LOWBIT_INLINE I32x16 max(I32x16 a, I32x16 b) {
  return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
}
LOWBIT_INLINE I32x16 bit_xor(I32x16 a, I32x16 b) {
  return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
}
LOWBIT_INLINE I32x16 bit_and(I32x16 a, I32x16 b) {
  return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}
LOWBIT_INLINE I32x16 bit_or(I32x16 a, I32x16 b) {
  return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}
LOWBIT_INLINE I32x16 bit_select(I32x16 mask, I32x16 a, I32x16 b) {
  return {_mm256_or_si256(_mm256_and_si256(mask.low, a.low), _mm256_andnot_si256(mask.low, b.low)),
          _mm256_or_si256(_mm256_and_si256(mask.high, a.high), _mm256_andnot_si256(mask.high, b.high))};
}
LOWBIT_INLINE I32x16 mul(I32x16 a, I32x16 b) {
  return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
}
template <int N>
LOWBIT_INLINE I32x16 shift_left(I32x16 x) {
  return {_mm256_slli_epi32(x.low, N), _mm256_slli_epi32(x.high, N)};
}
template <int N>
LOWBIT_INLINE I32x16 shift_right(I32x16 x) {
  return {_mm256_srai_epi32(x.low, N), _mm256_srai_epi32(x.high, N)};
}
template <int N>
LOWBIT_INLINE I32x16 shift_right_unsigned(I32x16 x) {
  return {_mm256_srli_epi32(x.low, N), _mm256_srli_epi32(x.high, N)};
}
LOWBIT_INLINE I32x16 or_difference(I32x16 seen, I32x16 a, I32x16 b) {
  return {_mm256_or_si256(seen.low, _mm256_xor_si256(a.low, b.low)),
          _mm256_or_si256(seen.high, _mm256_xor_si256(a.high, b.high))};
}
LOWBIT_INLINE bool is_zero(I32x16 x) {
  const __m256i any = _mm256_or_si256(x.low, x.high);
  return _mm256_testz_si256(any, any) != 0;
}

LOWBIT_INLINE I32x16 as_bits(F32x16 x) { return {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)}; }
LOWBIT_INLINE F32x16 as_floats(I32x16 x) { return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)}; }
LOWBIT_INLINE I32x16 magnitude_bits(F32x16 x) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  return {_mm256_and_si256(_mm256_castps_si256(x.low), mask), _mm256_and_si256(_mm256_castps_si256(x.high), mask)};
}
LOWBIT_INLINE I32x16 round_to_int(F32x16 x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }
LOWBIT_INLINE F32x16 to_float(I32x16 x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }

LOWBIT_INLINE F32x16 select_zero(F32x16 x, F32x16 if_zero, F32x16 otherwise) {
  const __m256 zero = _mm256_setzero_ps();
  return {_mm256_blendv_ps(otherwise.low, if_zero.low, _mm256_cmp_ps(x.low, zero, _CMP_EQ_OQ)),
          _mm256_blendv_ps(otherwise.high, if_zero.high, _mm256_cmp_ps(x.high, zero, _CMP_EQ_OQ))};
}

LOWBIT_INLINE std::int32_t horizontal_max(I32x16 v) {
  const __m256i eight = _mm256_max_epi32(v.low, v.high);
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return _mm_cvtsi128_si32(four);
}
LOWBIT_INLINE std::int32_t horizontal_sum(I32x16 v) {
  const __m256i eight = _mm256_add_epi32(v.low, v.high);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return _mm_cvtsi128_si32(four);
}
LOWBIT_INLINE float horizontal_max(F32x16 v) {
  const __m256 eight = _mm256_max_ps(v.low, v.high);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  four = _mm_max_ss(four, _mm_movehdup_ps(four));
  return _mm_cvtss_f32(four);
}
LOWBIT_INLINE float horizontal_min(F32x16 v) {
  const __m256 eight = _mm256_min_ps(v.low, v.high);
  __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_min_ps(four, _mm_movehl_ps(four, four));
  four = _mm_min_ss(four, _mm_movehdup_ps(four));
  return _mm_cvtss_f32(four);
}

LOWBIT_INLINE void store_range(float* min, float* max, F32x16 least, F32x16 greatest) {
  store_range_of_eight(min, max, _mm256_min_ps(least.low, least.high), _mm256_max_ps(greatest.low, greatest.high));
}

LOWBIT_INLINE void store_lanes(float* out, F32x16 v) {
  _mm256_storeu_ps(out, v.low);
  _mm256_storeu_ps(out + 8, v.high);
}
LOWBIT_INLINE void store_lanes(std::int32_t* out, I32x16 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), v.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), v.high);
}
LOWBIT_INLINE I32x16 load_lanes(const std::int32_t* in) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + 8))};
}

template <FloatType Type>
LOWBIT_INLINE F32x16 load(const Storage<Type>* in) {
  if constexpr (Type == FloatType::kFloat32) {
    return {_mm256_loadu_ps(in), _mm256_loadu_ps(in + 8)};
  } else {
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 8));
    if constexpr (Type == FloatType::kFloat16) {
      return {_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)};
    } else {
      return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(low), 16)),
              _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(high), 16))};
    }
  }
}

// Eight bfloat16 patterns, each in the low half of its lane. NaN is wrong: see quiet_nan().
LOWBIT_INLINE __m256i rounded_bfloat16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
}
LOWBIT_INLINE __m256i quiet_nan(__m256 x, __m256i rounded) {
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(x), 16), _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}

// Sixteen 16-bit patterns, in order.
template <FloatType Type>
LOWBIT_INLINE __m256i narrow(F32x16 v) {
  if constexpr (Type == FloatType::kFloat16) {
    const __m128i low = _mm256_cvtps_ph(v.low, _MM_FROUND_TO_NEAREST_INT);
    const __m128i high = _mm256_cvtps_ph(v.high, _MM_FROUND_TO_NEAREST_INT);
    return _mm256_set_m128i(high, low);
  } else {
    __m256i low = rounded_bfloat16(v.low), high = rounded_bfloat16(v.high);
    if (_mm256_movemask_ps(_mm256_cmp_ps(v.low, v.high, _CMP_UNORD_Q)) != 0) {  // a NaN in either
      low = quiet_nan(v.low, low);
      high = quiet_nan(v.high, high);
    }
    // packus works within 128-bit halves: [0-3, 8-11 | 4-7, 12-15]; the permutation restores the order.
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
  }
}

// 128-bit streaming stores: buffers from JavaScript are aligned to 16 bytes, seldom to 32, and the write-combining
// buffers join the halves.
constexpr std::size_t kStreamAlignment = 16;

template <FloatType Type, bool Stream>
LOWBIT_INLINE void store(Storage<Type>* out, F32x16 v) {
  if constexpr (Type == FloatType::kFloat32) {
    if constexpr (Stream) {
      _mm_stream_ps(out, _mm256_castps256_ps128(v.low));
      _mm_stream_ps(out + 4, _mm256_extractf128_ps(v.low, 1));
      _mm_stream_ps(out + 8, _mm256_castps256_ps128(v.high));
      _mm_stream_ps(out + 12, _mm256_extractf128_ps(v.high, 1));
    } else {
      _mm256_storeu_ps(out, v.low);
      _mm256_storeu_ps(out + 8, v.high);
    }
  } else {
    const __m256i packed = narrow<Type>(v);
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
  // Packing works within 128-bit halves: bytes [a0-3, a8-11, b0-3, b8-11 | a4-7, a12-15, b4-7, b12-15].
  const __m256i mixed = _mm256_packs_epi16(_mm256_packs_epi32(a.low, a.high), _mm256_packs_epi32(b.low, b.high));
  return {_mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))};
}

// Eight codes from one 32-bit word: the word in every lane, shifted by the lane's own amount.
template <int Bits>
LOWBIT_INLINE __m256i spread_codes(std::uint32_t word, int first_shift) {
  const __m256i shifts =
      _mm256_add_epi32(_mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits),
                       _mm256_set1_epi32(first_shift));
  const __m256i mask = _mm256_set1_epi32((1 << Bits) - 1);
  return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(word)), shifts), mask);
}

template <int Bits>
LOWBIT_INLINE I32x16 load_codes(const std::uint8_t* in) {
  if constexpr (Bits == 8) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in))),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + 8)))};
  } else if constexpr (Bits == 6) {
    // Four codes are three bytes: every lane gets those of its four, and shifts.
    const __m256i bytes = _mm256_broadcastsi128_si256(load_twelve(in));
    const __m256i first = _mm256_set1_epi32(kThreeBytes);
    const __m256i low = _mm256_add_epi8(first, _mm256_setr_epi32(0, 0, 0, 0, 0x030303, 0x030303, 0x030303, 0x030303));
    const __m256i high = _mm256_add_epi8(low, _mm256_set1_epi32(0x060606));
    const __m256i shifts = _mm256_setr_epi32(0, 6, 12, 18, 0, 6, 12, 18), mask = _mm256_set1_epi32(63);
    return {_mm256_and_si256(_mm256_srlv_epi32(_mm256_shuffle_epi8(bytes, low), shifts), mask),
            _mm256_and_si256(_mm256_srlv_epi32(_mm256_shuffle_epi8(bytes, high), shifts), mask)};
  } else if constexpr (Bits == 4) {
    return {spread_codes<4>(load_u32(in), 0), spread_codes<4>(load_u32(in + 4), 0)};
  } else if constexpr (Bits == 3) {
    return {spread_codes<3>(load_u32(in), 0), spread_codes<3>(load_u32(in + 2), 8)};
  } else {
    const std::uint32_t word = load_u32(in);
    return {spread_codes<2>(word, 0), spread_codes<2>(word, 16)};
  }
}

// Which lanes: all bits of each, or none.
struct Mask16 {
  __m256 low, high;
};
LOWBIT_INLINE Mask16 less(F32x16 a, F32x16 b) {
  return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}
LOWBIT_INLINE Mask16 less(I32x16 a, I32x16 b) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(b.low, a.low)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(b.high, a.high))};
}
LOWBIT_INLINE Mask16 both(Mask16 a, Mask16 b) { return {_mm256_and_ps(a.low, b.low), _mm256_and_ps(a.high, b.high)}; }
LOWBIT_INLINE bool any(Mask16 a) { return _mm256_movemask_ps(_mm256_or_ps(a.low, a.high)) != 0; }
LOWBIT_INLINE F32x16 select(Mask16 which, F32x16 a, F32x16 b) {
  return {_mm256_blendv_ps(b.low, a.low, which.low), _mm256_blendv_ps(b.high, a.high, which.high)};
}
LOWBIT_INLINE I32x16 select(Mask16 which, I32x16 a, I32x16 b) {
  return as_bits(select(which, as_floats(a), as_floats(b)));
}
LOWBIT_INLINE I32x16 min(I32x16 a, I32x16 b) {
  return {_mm256_min_epi32(a.low, b.low), _mm256_min_epi32(a.high, b.high)};
}
LOWBIT_INLINE F32x16 square_root(F32x16 x) { return {_mm256_sqrt_ps(x.low), _mm256_sqrt_ps(x.high)}; }
LOWBIT_INLINE I32x16 truncate_to_int(F32x16 x) { return {_mm256_cvttps_epi32(x.low), _mm256_cvttps_epi32(x.high)}; }

LOWBIT_INLINE I32x16 keep_where(std::uint32_t bits, I32x16 x) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i low = _mm256_set1_epi32(static_cast<int>(bits)), high = _mm256_set1_epi32(static_cast<int>(bits >> 8));
  return {_mm256_and_si256(_mm256_cmpeq_epi32(_mm256_and_si256(low, lane), lane), x.low),
          _mm256_and_si256(_mm256_cmpeq_epi32(_mm256_and_si256(high, lane), lane), x.high)};
}
LOWBIT_INLINE std::uint32_t sign_mask(I32x16 x) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(x.low)) |
                                    _mm256_movemask_ps(_mm256_castsi256_ps(x.high)) << 8);
}

// A permutation knows eight entries: bit 3 of the index, moved to the sign, chooses between two.
LOWBIT_INLINE __m256 look_up(F32x16 table, __m256i index) {
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index), _mm256_permutevar8x32_ps(table.high, index),
                          _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
LOWBIT_INLINE F32x16 look_up(F32x16 table, I32x16 index) {
  return {look_up(table, index.low), look_up(table, index.high)};
}

LOWBIT_INLINE F32x16 look_up8(F32x16 table, I32x16 index) {
  return {_mm256_permutevar8x32_ps(table.low, index.low), _mm256_permutevar8x32_ps(table.low, index.high)};
}
LOWBIT_INLINE I32x16 load_halves(const std::uint8_t* in) {
  const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in)));
  return {_mm256_and_si256(bytes, _mm256_set1_epi32(15)), _mm256_srli_epi32(bytes, 4)};
}

// The largest lane of each of eight vectors.
LOWBIT_INLINE __m256 maxima_of_eight(const F32x16* x) {
  // Two vectors become one with half as many lanes of each, until one has a lane of each.
  const auto halves = [=](std::size_t i) {
    const __m256 a = _mm256_max_ps(x[i].low, x[i].high), b = _mm256_max_ps(x[i + 4].low, x[i + 4].high);
    return _mm256_max_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  };
  const auto pairs = [](__m256 a, __m256 b) {
    return _mm256_max_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
  };
  const __m256 low = pairs(halves(0), halves(1)), high = pairs(halves(2), halves(3));
  return _mm256_max_ps(_mm256_shuffle_ps(low, high, 0x88), _mm256_shuffle_ps(low, high, 0xdd));
}
LOWBIT_INLINE F32x16 maxima(const F32x16 (&x)[kLanes]) { return {maxima_of_eight(x), maxima_of_eight(x + 8)}; }

// Eight vectors of eight lanes.
LOWBIT_INLINE void transpose(__m256 (&x)[8]) {
  __m256 t[8];
  LOWBIT_UNROLL
  for (std::size_t i = 0; i < 8; i += 4) {  // four by four within 128-bit lanes
    const __m256d low[2] = {_mm256_castps_pd(_mm256_unpacklo_ps(x[i], x[i + 1])),
                            _mm256_castps_pd(_mm256_unpacklo_ps(x[i + 2], x[i + 3]))};
    const __m256d high[2] = {_mm256_castps_pd(_mm256_unpackhi_ps(x[i], x[i + 1])),
                             _mm256_castps_pd(_mm256_unpackhi_ps(x[i + 2], x[i + 3]))};
    t[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(low[0], low[1]));
    t[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low[0], low[1]));
    t[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high[0], high[1]));
    t[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high[0], high[1]));
  }
  LOWBIT_UNROLL
  for (std::size_t c = 0; c < 4; c++) {  // and the 128-bit lanes
    x[c] = _mm256_permute2f128_ps(t[c], t[4 + c], 0x20);
    x[4 + c] = _mm256_permute2f128_ps(t[c], t[4 + c], 0x31);
  }
}
LOWBIT_INLINE void transpose(F32x16 (&x)[kLanes]) {
  __m256 parts[4][8];
  LOWBIT_UNROLL
  for (std::size_t i = 0; i < 8; i++) {
    parts[0][i] = x[i].low;
    parts[1][i] = x[i].high;
    parts[2][i] = x[i + 8].low;
    parts[3][i] = x[i + 8].high;
  }
  for (auto& part : parts) transpose(part);
  LOWBIT_UNROLL
  for (std::size_t i = 0; i < 8; i++) {
    x[i] = {parts[0][i], parts[2][i]};
    x[i + 8] = {parts[1][i], parts[3][i]};
  }
}

LOWBIT_INLINE void store_low_bytes(std::uint8_t* out, I32x16 x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(x.low, x.high), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

// Eight float64 lanes, for sums that must not lose bits.
struct F64x8 {
  __m256d low, high;
};
LOWBIT_INLINE F64x8 broadcast(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
LOWBIT_INLINE F64x8 widen_low(F32x16 x) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(x.low)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.low, 1))};
}
LOWBIT_INLINE F64x8 widen_high(F32x16 x) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(x.high)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.high, 1))};
}
LOWBIT_INLINE F64x8 add(F64x8 a, F64x8 b) { return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)}; }
LOWBIT_INLINE F64x8 sub(F64x8 a, F64x8 b) { return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)}; }
LOWBIT_INLINE F64x8 mul(F64x8 a, F64x8 b) { return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)}; }
LOWBIT_INLINE F64x8 max(F64x8 a, F64x8 b) { return {_mm256_max_pd(a.low, b.low), _mm256_max_pd(a.high, b.high)}; }
LOWBIT_INLINE F64x8 fused(F64x8 a, F64x8 b, F64x8 c) {
  return {_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}
LOWBIT_INLINE F64x8 load_lanes(const double* in) { return {_mm256_loadu_pd(in), _mm256_loadu_pd(in + 4)}; }
LOWBIT_INLINE void store_lanes(double* out, F64x8 x) {
  _mm256_storeu_pd(out, x.low);
  _mm256_storeu_pd(out + 4, x.high);
}
LOWBIT_INLINE F64x8 magnitude(F64x8 x) {
  const __m256d sign = _mm256_set1_pd(-0.0);
  return {_mm256_andnot_pd(sign, x.low), _mm256_andnot_pd(sign, x.high)};
}
LOWBIT_INLINE __m256d two_to_the(__m256d shifted) {
  const __m256i biased = _mm256_add_epi64(_mm256_castpd_si256(shifted), _mm256_set1_epi64x(1023));
  return _mm256_castsi256_pd(_mm256_slli_epi64(biased, 52));
}
LOWBIT_INLINE F64x8 two_to_the(F64x8 shifted) { return {two_to_the(shifted.low), two_to_the(shifted.high)}; }
LOWBIT_INLINE double pairwise_sum(F64x8 x) {
  const __m256d four = _mm256_add_pd(x.low, x.high);
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
LOWBIT_INLINE double horizontal_max(F64x8 x) {
  const __m256d four = _mm256_max_pd(x.low, x.high);
  const __m128d two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA

#include "core/simd/tail.h"
