// Part of the counting of bits on AVX-512: sums of lanes.

namespace lowbit::LOWBIT_ISA {
namespace {

using CountLanes = __m512i;

LOWBIT_INLINE __m512i add_pairs(__m512i a, __m512i b) {  // of 32-bit lanes: [a b a b] in every 128 bits
  return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}
LOWBIT_INLINE __m128i sums_of_four(const CountLanes (&x)[4]) {
  const __m512i first = add_pairs(x[0], x[1]), second = add_pairs(x[2], x[3]);
  const __m512i sums = _mm512_add_epi32(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
LOWBIT_INLINE std::uint32_t sum_of_one(CountLanes x) { return static_cast<std::uint32_t>(_mm512_reduce_add_epi32(x)); }

}  // namespace
}  // namespace lowbit::LOWBIT_ISA

#include "ops/bits/bits_count_x86.h"
