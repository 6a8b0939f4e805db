// Counting bits on AVX-512 without VPOPCNTDQ: as on AVX2, with carry-save adders of two instructions.

#include "ops/bits/bits_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

struct Bits {
  __m512i v;
};
constexpr std::size_t kBitsBytes = 64;
constexpr std::size_t kRunVectors = 4;
constexpr int kBlockRows = 1;

LOWBIT_INLINE Bits load_bits(const std::uint8_t* p) { return {_mm512_loadu_si512(p)}; }
LOWBIT_INLINE Bits bit_xor(Bits a, Bits b) { return {_mm512_xor_si512(a.v, b.v)}; }

LOWBIT_INLINE __m512i lane_counts(__m512i x) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i counts = _mm512_add_epi8(_mm512_shuffle_epi8(table, _mm512_and_si512(x, nibble)),
                                         _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble)));
  return _mm512_sad_epu8(counts, _mm512_setzero_si512());
}

// low + 2 · high = a + b + c, bit by bit.
LOWBIT_INLINE void carry_save(__m512i& high, __m512i& low, __m512i a, __m512i b, __m512i c) {
  high = _mm512_ternarylogic_epi64(a, b, c, 0xe8);
  low = _mm512_ternarylogic_epi64(a, b, c, 0x96);
}

struct Count {
  __m512i ones, twos;      // bits that are not counted yet
  __m512i fours, counted;  // sums in 64-bit lanes

  static LOWBIT_INLINE Count zero() {
    const __m512i none = _mm512_setzero_si512();
    return {none, none, none, none};
  }
  LOWBIT_INLINE void add_run(const Bits (&x)[kRunVectors]) {
    __m512i first, second, four;
    carry_save(first, ones, ones, x[0].v, x[1].v);
    carry_save(second, ones, ones, x[2].v, x[3].v);
    carry_save(four, twos, twos, first, second);
    fours = _mm512_add_epi64(fours, lane_counts(four));
  }
  LOWBIT_INLINE void add(Bits x) { counted = _mm512_add_epi64(counted, lane_counts(x.v)); }
  // Lanes of 32 bits that add up to the count.
  LOWBIT_INLINE __m512i lanes(bool runs) const {
    if (!runs) return counted;
    const __m512i rest = _mm512_add_epi64(_mm512_slli_epi64(lane_counts(twos), 1), lane_counts(ones));
    return _mm512_add_epi64(_mm512_add_epi64(_mm512_slli_epi64(fours, 2), counted), rest);
  }
};

}  // namespace
}  // namespace lowbit::LOWBIT_ISA

#include "ops/bits/bits_count_zmm.h"
