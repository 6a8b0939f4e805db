// Dot products of bytes on AVX2, exact although VPMADDUBSW saturates at 16 bits: small codes can't reach that, and
// other codes are widened first. With AVX-VNNI both are one VPDPBUSD.

#include "ops/matmul/matmul_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::int32_t kByteOffset = 0;
constexpr bool kRowPairs = false;

struct Line {
  __m256i low, high;  // columns 0–7, 8–15
};
LOWBIT_INLINE Line load_line(const std::uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
LOWBIT_INLINE Line load_wide_line(const std::uint8_t* p) { return load_line(p); }
LOWBIT_INLINE void store_line(std::uint8_t* p, Line line) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), line.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), line.high);
}
LOWBIT_INLINE I32x16 lanes_of(Line line) { return {line.low, line.high}; }
LOWBIT_INLINE Line either(Line a, Line b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }

// Entries 0 … 15 of a table of bytes.
LOWBIT_INLINE Line look_up_bytes(const std::uint8_t* table, Line indices) {
  const __m256i entries = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_shuffle_epi8(entries, indices.low), _mm256_shuffle_epi8(entries, indices.high)};
}

// (byte >> Shift) & Mask
template <int Shift, int Mask>
LOWBIT_INLINE Line field(Line line) {
  const __m256i mask = _mm256_set1_epi8(Mask);
  return {_mm256_and_si256(Shift == 0 ? line.low : _mm256_srli_epi16(line.low, Shift), mask),
          _mm256_and_si256(Shift == 0 ? line.high : _mm256_srli_epi16(line.high, Shift), mask)};
}
template <int J>
LOWBIT_INLINE __m256i bit_as_third(__m256i bytes) {
  const __m256i moved =
      J < 2 ? _mm256_slli_epi16(bytes, J < 2 ? 2 - J : 0) : _mm256_srli_epi16(bytes, J < 2 ? 0 : J - 2);
  return _mm256_and_si256(moved, _mm256_set1_epi8(4));
}
// Bit J of every byte, as its third bit.
template <int J>
LOWBIT_INLINE Line third_bit(Line line) {
  return {bit_as_third<J>(line.low), bit_as_third<J>(line.high)};
}

struct Quad {
  __m256i v;
};
LOWBIT_INLINE Quad load_quad(const std::int32_t* p) { return {_mm256_set1_epi32(*p)}; }

#if defined(__AVXVNNI__) || defined(LOWBIT_AVXVNNI_STAND_IN)

constexpr LineFormat kSmallFormat = LineFormat::kBits8;  // small codes need no kernel of their own

template <bool Wide>
struct Partial {
  __m256i low, high;
  static LOWBIT_INLINE Partial begin(I32x16 sum) { return {sum.low, sum.high}; }
  LOWBIT_INLINE I32x16 end(I32x16) const { return {low, high}; }
};
template <bool Wide>
LOWBIT_INLINE Partial<Wide> dot(Partial<Wide> sum, Line codes, Quad quad) {
  return {_mm256_dpbusd_avx_epi32(sum.low, codes.low, quad.v), _mm256_dpbusd_avx_epi32(sum.high, codes.high, quad.v)};
}

#else

constexpr LineFormat kSmallFormat = LineFormat::kSmallBytes;

template <bool Wide>
struct Partial;

// Sums of 16 bits: a run of 8 quads adds at most 8 · 2 · 15 · 127 < 2^15.
template <>
struct Partial<false> {
  __m256i low, high;
  static LOWBIT_INLINE Partial begin(I32x16) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  LOWBIT_INLINE I32x16 end(I32x16 sum) const {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_add_epi32(sum.low, _mm256_madd_epi16(low, ones)),
            _mm256_add_epi32(sum.high, _mm256_madd_epi16(high, ones))};
  }
};
// GCC would add the products as a tree, and keep all of them on the stack until then.
LOWBIT_INLINE __m256i in_order(__m256i sum) {
#if defined(__GNUC__) && !defined(__clang__)
  __asm__("" : "+x"(sum));
#endif
  return sum;
}
LOWBIT_INLINE Partial<false> dot(Partial<false> sum, Line codes, Quad quad) {
  return {in_order(_mm256_add_epi16(sum.low, _mm256_maddubs_epi16(codes.low, quad.v))),
          in_order(_mm256_add_epi16(sum.high, _mm256_maddubs_epi16(codes.high, quad.v)))};
}

// Sums of 32 bits, two for every column.
template <>
struct Partial<true> {
  __m256i v[4];  // columns 0–3, 4–7, 8–11, 12–15
  static LOWBIT_INLINE Partial begin(I32x16) {
    const __m256i zero = _mm256_setzero_si256();
    return {{zero, zero, zero, zero}};
  }
  LOWBIT_INLINE I32x16 end(I32x16 sum) const {
    return {_mm256_add_epi32(sum.low, _mm256_permute4x64_epi64(_mm256_hadd_epi32(v[0], v[1]), 0xd8)),
            _mm256_add_epi32(sum.high, _mm256_permute4x64_epi64(_mm256_hadd_epi32(v[2], v[3]), 0xd8))};
  }
};
LOWBIT_INLINE __m256i add_products(__m256i sum, __m128i codes, __m256i activations) {
  return in_order(_mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(codes), activations)));
}
LOWBIT_INLINE Partial<true> dot(Partial<true> sum, Line codes, Quad quad) {
  const __m256i activations = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(quad.v));
  return {{add_products(sum.v[0], _mm256_castsi256_si128(codes.low), activations),
           add_products(sum.v[1], _mm256_extracti128_si256(codes.low, 1), activations),
           add_products(sum.v[2], _mm256_castsi256_si128(codes.high), activations),
           add_products(sum.v[3], _mm256_extracti128_si256(codes.high, 1), activations)}};
}

#endif

LOWBIT_INLINE __m256i pairs_of(__m256i zero) {
  return _mm256_or_si256(_mm256_slli_epi32(zero, 7), _mm256_slli_epi32(zero, 16));
}
LOWBIT_INLINE I32x16 zero_times_pair(I32x16 zero, std::int32_t pair) {
  const __m256i start = _mm256_set1_epi32(pair);
  return {_mm256_madd_epi16(pairs_of(zero.low), start), _mm256_madd_epi16(pairs_of(zero.high), start)};
}

// Sixteen registers of half a tile's row: 5 × 1 sums; 6 × 1 sums of floats.
constexpr int kDotRows = 5, kFloatRows = 6;
constexpr int dot_tiles_for(int rows) { return rows <= 1 ? 2 : 1; }
constexpr int float_tiles_for(int rows) { return rows <= 2 ? 2 : 1; }
constexpr std::size_t kDecodeRows = 40;

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
