// Counting bits on AVX2: a table of sixteen counts, looked up for both nibbles of every byte. Carry-save adders put
// four vectors into one before they are counted (Muła, Kurz, Lemire, "Faster Population Counts Using AVX2
// Instructions", arXiv:1611.07612).

#include "ops/bits/bits_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

struct Bits {
  __m256i v;
};
constexpr std::size_t kBitsBytes = 32;
constexpr std::size_t kRunVectors = 4;  // bit_xor of so many vectors at a time goes to Count::add_run
constexpr int kBlockRows = 1;

LOWBIT_INLINE Bits load_bits(const std::uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
LOWBIT_INLINE Bits bit_xor(Bits a, Bits b) { return {_mm256_xor_si256(a.v, b.v)}; }

LOWBIT_INLINE __m256i byte_counts(__m256i x) {
  const __m256i table =
      _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble)),
                         _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble)));
}
LOWBIT_INLINE __m256i lane_counts(__m256i x) { return _mm256_sad_epu8(byte_counts(x), _mm256_setzero_si256()); }

// low + 2 · high = a + b + c, bit by bit.
LOWBIT_INLINE void carry_save(__m256i& high, __m256i& low, __m256i a, __m256i b, __m256i c) {
  const __m256i one = _mm256_xor_si256(a, b);
  high = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(one, c));
  low = _mm256_xor_si256(one, c);
}

struct Count {
  __m256i ones, twos;      // bits that are not counted yet
  __m256i fours, counted;  // sums in 64-bit lanes

  static LOWBIT_INLINE Count zero() {
    const __m256i none = _mm256_setzero_si256();
    return {none, none, none, none};
  }
  LOWBIT_INLINE void add_run(const Bits (&x)[kRunVectors]) {
    __m256i first, second, four;
    carry_save(first, ones, ones, x[0].v, x[1].v);
    carry_save(second, ones, ones, x[2].v, x[3].v);
    carry_save(four, twos, twos, first, second);
    fours = _mm256_add_epi64(fours, lane_counts(four));
  }
  LOWBIT_INLINE void add(Bits x) { counted = _mm256_add_epi64(counted, lane_counts(x.v)); }
  // Lanes of 32 bits that add up to the count.
  LOWBIT_INLINE __m256i lanes(bool runs) const {
    if (!runs) return counted;
    const __m256i rest = _mm256_add_epi64(_mm256_slli_epi64(lane_counts(twos), 1), lane_counts(ones));
    return _mm256_add_epi64(_mm256_add_epi64(_mm256_slli_epi64(fours, 2), counted), rest);
  }
};

using CountLanes = __m256i;

LOWBIT_INLINE __m128i sums_of_four(const CountLanes (&x)[4]) {
  const __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3]));
  return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}
LOWBIT_INLINE std::uint32_t sum_of_one(CountLanes x) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1));
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA

#include "ops/bits/bits_count_x86.h"
