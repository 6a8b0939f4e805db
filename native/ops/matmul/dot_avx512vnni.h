// Dot products of bytes on AVX-512 VNNI: a line is one register, and VPDPBUSD multiplies unsigned codes by signed
// activations and adds four products to a lane.

#include "ops/matmul/matmul_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::int32_t kByteOffset = 0;
constexpr bool kRowPairs = false;
constexpr LineFormat kSmallFormat = LineFormat::kBits8;  // small codes need no kernel of their own

struct Line {
  __m512i v;
};
LOWBIT_INLINE Line load_line(const std::uint8_t* p) { return {_mm512_loadu_si512(p)}; }
LOWBIT_INLINE Line load_wide_line(const std::uint8_t* p) { return load_line(p); }
LOWBIT_INLINE void store_line(std::uint8_t* p, Line line) { _mm512_storeu_si512(p, line.v); }
LOWBIT_INLINE I32x16 lanes_of(Line line) { return {line.v}; }
LOWBIT_INLINE Line either(Line a, Line b) { return {_mm512_or_si512(a.v, b.v)}; }

// Entries 0 … 15 of a table of bytes.
LOWBIT_INLINE Line look_up_bytes(const std::uint8_t* table, Line indices) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), indices.v)};
}

// (byte >> Shift) & Mask
template <int Shift, int Mask>
LOWBIT_INLINE Line field(Line line) {
  return {_mm512_and_si512(Shift == 0 ? line.v : _mm512_srli_epi16(line.v, Shift), _mm512_set1_epi8(Mask))};
}
// Bit J of every byte, as its third bit.
template <int J>
LOWBIT_INLINE Line third_bit(Line line) {
  __m512i moved = line.v;
  if constexpr (J < 2) moved = _mm512_slli_epi16(moved, 2 - J);
  if constexpr (J > 2) moved = _mm512_srli_epi16(moved, J - 2);
  return {_mm512_and_si512(moved, _mm512_set1_epi8(4))};
}

struct Quad {
  __m512i v;
};
LOWBIT_INLINE Quad load_quad(const std::int32_t* p) { return {_mm512_set1_epi32(*p)}; }

template <bool Wide>
struct Partial {
  __m512i v;
  static LOWBIT_INLINE Partial begin(I32x16 sum) { return {sum.v}; }
  LOWBIT_INLINE I32x16 end(I32x16) const { return {v}; }
};
template <bool Wide>
LOWBIT_INLINE Partial<Wide> dot(Partial<Wide> sum, Line codes, Quad quad) {
  return {_mm512_dpbusd_epi32(sum.v, codes.v, quad.v)};
}

LOWBIT_INLINE I32x16 zero_times_pair(I32x16 zero, std::int32_t pair) {
  const __m512i pairs = _mm512_or_si512(_mm512_slli_epi32(zero.v, 7), _mm512_slli_epi32(zero.v, 16));
  return {_mm512_madd_epi16(pairs, _mm512_set1_epi32(pair))};
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
