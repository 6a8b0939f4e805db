// Part of the AVX2 and AVX-512 vocabularies: what 256-bit registers do in both.

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::size_t kLanes = 16;

// The smallest of eight lanes and the largest of eight others, which share the steps of their reduction.
LOWBIT_INLINE void store_range_of_eight(float* min, float* max, __m256 least, __m256 greatest) {
  const __m256 negated = _mm256_xor_ps(least, _mm256_set1_ps(-0.0F));
  const __m256 four = _mm256_max_ps(_mm256_unpacklo_ps(negated, greatest), _mm256_unpackhi_ps(negated, greatest));
  const __m128 two = _mm_max_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1));
  const __m128 one = _mm_max_ps(two, _mm_movehl_ps(two, two));
  *min = -_mm_cvtss_f32(one);
  *max = _mm_cvtss_f32(_mm_movehdup_ps(one));
}

// One float16 pattern.
LOWBIT_INLINE float widen_half(std::uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }
LOWBIT_INLINE std::uint16_t narrow_half(float x) {
  return static_cast<std::uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
}

struct I8x32 {
  __m256i v;
};
LOWBIT_INLINE I8x32 broadcast8(int x) { return {_mm256_set1_epi8(static_cast<char>(x))}; }
LOWBIT_INLINE I8x32 min(I8x32 a, I8x32 b) { return {_mm256_min_epi8(a.v, b.v)}; }
LOWBIT_INLINE I8x32 max(I8x32 a, I8x32 b) { return {_mm256_max_epi8(a.v, b.v)}; }
LOWBIT_INLINE I8x32 load_bytes(const std::uint8_t* in) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in))};
}

// For a shuffle of bytes: the first three to a 32-bit lane, and a zero.
constexpr int kThreeBytes = static_cast<int>(0x80020100U);

// Twelve bytes, and zeros.
LOWBIT_INLINE __m128i load_twelve(const std::uint8_t* in) {
  return _mm_insert_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in)), static_cast<int>(load_u32(in + 8)), 2);
}

template <bool Stream>
LOWBIT_INLINE void store_sixteen(std::uint8_t* out, __m128i bytes) {
  if constexpr (Stream) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(out), bytes);
  } else {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
  }
}

template <int Bits, bool Stream>
LOWBIT_INLINE void store_codes(std::uint8_t* out, I8x32 x, std::uint64_t flip) {
  const __m256i flips = _mm256_set1_epi64x(static_cast<std::int64_t>(flip));
  if constexpr (Bits == 8) {
    const __m256i bytes = _mm256_xor_si256(x.v, flips);
    if constexpr (Stream) {
      store_sixteen<true>(out, _mm256_castsi256_si128(bytes));
      store_sixteen<true>(out + 16, _mm256_extracti128_si256(bytes, 1));
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
    }
    return;
  }
  // Two codes to a 16-bit lane: first + 2^Bits · second.
  const __m256i pairs = _mm256_maddubs_epi16(x.v, _mm256_set1_epi16(Bits < 8 ? (1 << (8 + Bits)) | 1 : 0));
  if constexpr (Bits == 4) {
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(pairs, pairs), 0xd8);
    store_sixteen<Stream>(out, _mm256_castsi256_si128(_mm256_xor_si256(bytes, flips)));
  } else if constexpr (Bits == 6) {
    // Four to three bytes of a 32-bit lane, sixteen to twelve bytes of a 128-bit lane, all in a row.
    const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32((1 << (16 + 2 * Bits)) | 1));
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    const __m256i bytes =
        _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(fours, order), _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7));
    store_sixteen<false>(out, _mm256_castsi256_si128(bytes));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 16), _mm256_extracti128_si256(bytes, 1));
  } else if constexpr (Bits < 4) {
    // Four to a 32-bit lane, eight in the low bits of a 64-bit lane, sixteen in those of a 128-bit lane.
    const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32((1 << (16 + 2 * Bits)) | 1));
    const __m256i eights = _mm256_or_si256(fours, _mm256_srli_epi64(fours, 32 - 4 * Bits));
    const __m128i order = Bits == 3 ? _mm_setr_epi8(0, 1, 2, 8, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1)
                                    : _mm_setr_epi8(0, 1, 8, 9, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m128i low = _mm_shuffle_epi8(_mm256_castsi256_si128(eights), order);
    const __m128i high = _mm_shuffle_epi8(_mm256_extracti128_si256(eights, 1), order);
    store_bytes<2 * Bits>(out, static_cast<std::uint64_t>(_mm_cvtsi128_si64(low)) ^ flip);
    store_bytes<2 * Bits>(out + 2 * Bits, static_cast<std::uint64_t>(_mm_cvtsi128_si64(high)) ^ flip);
  }
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
