// Bits and ternary digits over vectors. Included by one file per instruction set, after its vector vocabulary
// (core/simd/<isa>.h) and its way of counting bits (bits_count_<isa>.h):
//
//   Bits                      kBitsBytes bytes; load_bits, bit_xor
//   Count                     bits counted so far: zero, add, add_run of kRunVectors vectors, lanes
//   CountLanes                lanes of 32 bits that add up to a count; sum_of_one, store_four
//   kBlockRows                the most rows that are counted together, so that every vector loaded serves them all

#include "ops/bits/bits_vector_pack.h"
#include "ops/bits/bits_vector_sums.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr int kBlockColumns = 4;
constexpr std::size_t kRunBytes = kRunVectors * kBitsBytes;

template <int Rows, int Columns>
LOWBIT_INLINE void count_bytes(Count (&counts)[Rows][Columns], const std::uint8_t* const (&a)[Rows],
                               const std::uint8_t* const (&b)[Columns], std::size_t bytes) {
  std::size_t at = 0;
  LOWBIT_NO_UNROLL
  for (; at + kRunBytes <= bytes; at += kRunBytes) {
    Bits left[Rows][kRunVectors];
    LOWBIT_UNROLL
    for (std::size_t r = 0; r < Rows; r++) {
      LOWBIT_UNROLL
      for (std::size_t i = 0; i < kRunVectors; i++) left[r][i] = load_bits(a[r] + at + i * kBitsBytes);
    }
    LOWBIT_UNROLL
    for (std::size_t c = 0; c < Columns; c++) {
      Bits right[kRunVectors];
      LOWBIT_UNROLL
      for (std::size_t i = 0; i < kRunVectors; i++) right[i] = load_bits(b[c] + at + i * kBitsBytes);
      LOWBIT_UNROLL
      for (std::size_t r = 0; r < Rows; r++) {
        Bits run[kRunVectors];
        LOWBIT_UNROLL
        for (std::size_t i = 0; i < kRunVectors; i++) run[i] = bit_xor(left[r][i], right[i]);
        counts[r][c].add_run(run);
      }
    }
  }
  LOWBIT_NO_UNROLL
  for (; at < bytes; at += kBitsBytes) {
    LOWBIT_UNROLL
    for (std::size_t c = 0; c < Columns; c++) {
      LOWBIT_UNROLL
      for (std::size_t r = 0; r < Rows; r++) {
        counts[r][c].add(bit_xor(load_bits(a[r] + at), load_bits(b[c] + at)));
      }
    }
  }
}

template <int Rows, int Columns>
LOWBIT_INLINE void count_block(const XorCountArguments& a, std::size_t row, std::size_t column,
                               CountLanes (&lanes)[Rows][Columns]) {
  Count counts[Rows][Columns];
  const std::uint8_t* left[Rows];
  const std::uint8_t* right[Columns];
  LOWBIT_UNROLL
  for (std::size_t r = 0; r < Rows; r++) {
    left[r] = a.a.data + (row + r) * a.a.stride;
    LOWBIT_UNROLL
    for (std::size_t c = 0; c < Columns; c++) counts[r][c] = Count::zero();
  }
  LOWBIT_UNROLL
  for (std::size_t c = 0; c < Columns; c++) right[c] = a.b.data + (column + c) * a.b.stride;
  count_bytes<Rows, Columns>(counts, left, right, a.line_bytes);
  if (a.a.tails != nullptr) {
    LOWBIT_UNROLL
    for (std::size_t r = 0; r < Rows; r++) left[r] = a.a.tails + (row + r) * kBitLine;
    LOWBIT_UNROLL
    for (std::size_t c = 0; c < Columns; c++) right[c] = a.b.tails + (column + c) * kBitLine;
    count_bytes<Rows, Columns>(counts, left, right, kBitLine);
  }
  const bool runs = a.line_bytes >= kRunBytes || kBitLine >= kRunBytes;
  LOWBIT_UNROLL
  for (std::size_t r = 0; r < Rows; r++) {
    LOWBIT_UNROLL
    for (std::size_t c = 0; c < Columns; c++) lanes[r][c] = counts[r][c].lanes(runs);
  }
}

template <int Rows>
void count_rows(const XorCountArguments& a, std::size_t row) {
  std::int32_t* const out = a.out + row * a.out_stride;
  std::size_t column = 0;
  for (; column + kBlockColumns <= a.columns; column += kBlockColumns) {
    CountLanes lanes[Rows][kBlockColumns];
    if constexpr (kBlockRows == 1) {  // what one pair of rows needs fills the registers
      for (std::size_t c = 0; c < kBlockColumns; c++) {
        CountLanes one[1][1];
        count_block<1, 1>(a, row, column + c, one);
        lanes[0][c] = one[0][0];
      }
    } else {
      count_block<Rows, kBlockColumns>(a, row, column, lanes);
    }
    for (std::size_t r = 0; r < Rows; r++) store_four(out + r * a.out_stride + column, lanes[r], a.start, a.step);
  }
  for (; column < a.columns; column++) {
    CountLanes lanes[Rows][1];
    count_block<Rows, 1>(a, row, column, lanes);
    for (std::size_t r = 0; r < Rows; r++) {
      const std::uint32_t count = sum_of_one(lanes[r][0]);
      const std::uint32_t result = static_cast<std::uint32_t>(a.start) + static_cast<std::uint32_t>(a.step) * count;
      out[r * a.out_stride + column] = static_cast<std::int32_t>(result);
    }
  }
}

void xor_counts(const XorCountArguments& a) {
  std::size_t row = 0;
  for (; row + kBlockRows <= a.rows; row += kBlockRows) count_rows<kBlockRows>(a, row);
  for (; row < a.rows; row++) count_rows<1>(a, row);
}

}  // namespace

const BitsKernels kBits = {xor_counts,      pack_signs,   pack_byte_signs, unpack_signs, unpack_float_signs,
                           unpack_two_bits, unpack_base3, abs_sums,        sums_above};

}  // namespace lowbit::LOWBIT_ISA
