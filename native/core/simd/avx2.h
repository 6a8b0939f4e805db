#pragma once

// The vector vocabulary on AVX2 + FMA + F16C: sixteen lanes are two 256-bit registers. See README.md.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "core/macros.h"

#define LOWBIT_ISA avx2

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::size_t kLanes = 16;

struct F32x16 {
  __m256 low, high;
};
struct I32x16 {
  __m256i low, high;
};

LOWBIT_INLINE F32x16 broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
LOWBIT_INLINE I32x16 broadcast(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }

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

// Eight bfloat16 patterns, each in the low half of its lane.
LOWBIT_INLINE __m256i bfloat16_lanes(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, quiet, is_nan);
}

// Sixteen 16-bit patterns, in order.
template <FloatType Type>
LOWBIT_INLINE __m256i narrow(F32x16 v) {
  if constexpr (Type == FloatType::kFloat16) {
    const __m128i low = _mm256_cvtps_ph(v.low, _MM_FROUND_TO_NEAREST_INT);
    const __m128i high = _mm256_cvtps_ph(v.high, _MM_FROUND_TO_NEAREST_INT);
    return _mm256_set_m128i(high, low);
  } else {
    // packus works within 128-bit halves: [0-3, 8-11 | 4-7, 12-15]; the permutation restores the order.
    const __m256i mixed = _mm256_packus_epi32(bfloat16_lanes(v.low), bfloat16_lanes(v.high));
    return _mm256_permute4x64_epi64(mixed, 0xd8);
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

template <int Bits>
LOWBIT_INLINE I32x16 load_codes(const std::uint8_t* in) {
  if constexpr (Bits == 8) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
  } else {
    // Eight codes are `Bits` bytes: the same 32-bit word in every lane, shifted by the lane's own amount.
    std::uint32_t low = 0, high = 0;
    std::memcpy(&low, in, Bits);
    std::memcpy(&high, in + Bits, Bits);
    const __m256i shifts = _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits);
    const __m256i mask = _mm256_set1_epi32((1 << Bits) - 1);
    return {_mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(low)), shifts), mask),
            _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(high)), shifts), mask)};
  }
}

template <int Bits>
LOWBIT_INLINE void store_codes(std::uint8_t* out, I32x16 v) {
  if constexpr (Bits == 8 || Bits == 4) {
    const __m256i low_byte = _mm256_set1_epi32(Bits == 8 ? 0xff : 0x0f);
    const __m256i words = _mm256_packus_epi32(_mm256_and_si256(v.low, low_byte), _mm256_and_si256(v.high, low_byte));
    const __m256i mixed = _mm256_packus_epi16(words, words);  // dwords [0-3, 8-11, … | 4-7, 12-15, …]
    const __m128i bytes =
        _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5)));
    if constexpr (Bits == 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
    } else {
      const __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));  // first + 16·second
      _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(pairs, pairs));
    }
  } else {
    // Each code moves to its place in a 32-bit word; the lanes of eight are then or-ed together.
    const __m256i shifts = _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits);
    const __m256i mask = _mm256_set1_epi32((1 << Bits) - 1);
    const __m256i halves[2] = {v.low, v.high};
    for (int h = 0; h < 2; h++) {
      const __m256i placed = _mm256_sllv_epi32(_mm256_and_si256(halves[h], mask), shifts);
      __m128i four = _mm_or_si128(_mm256_castsi256_si128(placed), _mm256_extracti128_si256(placed, 1));
      four = _mm_or_si128(four, _mm_shuffle_epi32(four, 0x4e));
      four = _mm_or_si128(four, _mm_shuffle_epi32(four, 0xb1));
      const std::uint32_t word = static_cast<std::uint32_t>(_mm_cvtsi128_si32(four));
      std::memcpy(out + h * Bits, &word, Bits);
    }
  }
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
LOWBIT_INLINE F64x8 magnitude(F64x8 x) {
  const __m256d sign = _mm256_set1_pd(-0.0);
  return {_mm256_andnot_pd(sign, x.low), _mm256_andnot_pd(sign, x.high)};
}
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
