// Part of the counting of bits on AVX2 and AVX-512.

namespace lowbit::LOWBIT_ISA {
namespace {

// out[i] = start + step · Σ lanes of x[i]
LOWBIT_INLINE void store_four(std::int32_t* out, const CountLanes (&x)[4], std::int32_t start, std::int32_t step) {
  const __m128i scaled = _mm_mullo_epi32(sums_of_four(x), _mm_set1_epi32(step));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_add_epi32(scaled, _mm_set1_epi32(start)));
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
