// Codes in the words of GPTQ and AWQ, sixteen words at a time. Included by one file per instruction set, after its
// vector vocabulary (core/simd/<isa>.h), which names the namespace.

#include "core/macros.h"
#include "ops/repack/repack_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// Words travel as float32 lanes, which is what the vocabulary transposes; their bits are not looked at.
LOWBIT_INLINE I32x16 load_words(const std::uint32_t* in) {
  return load_lanes(reinterpret_cast<const std::int32_t*>(in));
}
LOWBIT_INLINE void store_words(std::uint32_t* out, I32x16 v) { store_lanes(reinterpret_cast<std::int32_t*>(out), v); }

LOWBIT_INLINE ConstWords at(ConstWords m, std::size_t row, std::size_t column) {
  return {m.data + row * m.stride + column, m.stride};
}
LOWBIT_INLINE Words at(Words m, std::size_t row, std::size_t column) {
  return {m.data + row * m.stride + column, m.stride};
}

// Sixteen rows of sixteen words.
LOWBIT_NOINLINE void transpose_tile(ConstWords in, Words out) {
  F32x16 x[kLanes];
  LOWBIT_UNROLL
  for (std::size_t i = 0; i < kLanes; i++) x[i] = as_floats(load_words(in.data + i * in.stride));
  transpose(x);
  LOWBIT_UNROLL
  for (std::size_t i = 0; i < kLanes; i++) store_words(out.data + i * out.stride, as_bits(x[i]));
}

void transpose_words(ConstWords in, std::size_t rows, std::size_t columns, Words out) {
  const std::size_t whole_rows = rows / kLanes * kLanes, whole_columns = columns / kLanes * kLanes;
  for (std::size_t r = 0; r < whole_rows; r += kLanes) {
    for (std::size_t c = 0; c < whole_columns; c += kLanes) transpose_tile(at(in, r, c), at(out, c, r));
  }
  if (whole_columns < columns) {
    scalar::kRepack.transpose(at(in, 0, whole_columns), whole_rows, columns - whole_columns, at(out, whole_columns, 0));
  }
  if (whole_rows < rows) {
    scalar::kRepack.transpose(at(in, whole_rows, 0), rows - whole_rows, columns, at(out, 0, whole_rows));
  }
}

// Nibble i of word j and nibble j of word i change places, in every lane.
template <int Distance>
LOWBIT_INLINE void swap_nibbles(I32x16 (&x)[8], std::int32_t low) {
  const I32x16 mask = broadcast(low);
  LOWBIT_UNROLL
  for (int i = 0; i < 8; i++) {
    if ((i & Distance) != 0) continue;
    const I32x16 a = x[i], b = x[i + Distance];
    x[i] = bit_select(mask, a, shift_left<4 * Distance>(b));
    x[i + Distance] = bit_select(mask, shift_right_unsigned<4 * Distance>(a), b);
  }
}
LOWBIT_INLINE void transpose_nibbles(I32x16 (&x)[8]) {
  swap_nibbles<1>(x, 0x0f0f0f0f);
  swap_nibbles<2>(x, 0x00ff00ff);
  swap_nibbles<4>(x, 0x0000ffff);
}

// Sixteen words of AWQ beside each other and 128 of K, which are sixteen words of 128 rows.
LOWBIT_NOINLINE void awq_tile_to_rows(ConstWords in, Words out) {
  F32x16 x[8][kLanes];
  for (std::size_t w = 0; w < kLanes; w++) {
    I32x16 nibbles[8];
    LOWBIT_UNROLL
    for (std::size_t j = 0; j < 8; j++) nibbles[j] = load_words(in.data + (8 * w + j) * in.stride);
    transpose_nibbles(nibbles);
    LOWBIT_UNROLL
    for (std::size_t i = 0; i < 8; i++) x[i][w] = as_floats(nibbles[i]);
  }
  for (std::size_t i = 0; i < 8; i++) {
    transpose(x[i]);
    for (std::size_t c = 0; c < kLanes; c++) {
      store_words(out.data + (8 * c + kAwqOrder[i]) * out.stride, as_bits(x[i][c]));
    }
  }
}
LOWBIT_NOINLINE void rows_tile_to_awq(ConstWords in, Words out) {
  F32x16 x[8][kLanes];
  for (std::size_t i = 0; i < 8; i++) {
    for (std::size_t c = 0; c < kLanes; c++) {
      x[i][c] = as_floats(load_words(in.data + (8 * c + kAwqOrder[i]) * in.stride));
    }
    transpose(x[i]);
  }
  for (std::size_t w = 0; w < kLanes; w++) {
    I32x16 nibbles[8];
    LOWBIT_UNROLL
    for (std::size_t i = 0; i < 8; i++) nibbles[i] = as_bits(x[i][w]);
    transpose_nibbles(nibbles);
    LOWBIT_UNROLL
    for (std::size_t j = 0; j < 8; j++) store_words(out.data + (8 * w + j) * out.stride, nibbles[j]);
  }
}

void awq_to_rows(ConstWords in, std::size_t k_words, std::size_t columns, Words out) {
  const std::size_t whole_words = k_words / kLanes * kLanes, whole_columns = columns / kLanes * kLanes;
  for (std::size_t w = 0; w < whole_words; w += kLanes) {
    for (std::size_t c = 0; c < whole_columns; c += kLanes) awq_tile_to_rows(at(in, 8 * w, c), at(out, 8 * c, w));
  }
  if (whole_columns < columns) {
    scalar::kRepack.awq_to_rows(at(in, 0, whole_columns), whole_words, columns - whole_columns,
                                at(out, 8 * whole_columns, 0));
  }
  if (whole_words < k_words) {
    scalar::kRepack.awq_to_rows(at(in, 8 * whole_words, 0), k_words - whole_words, columns, at(out, 0, whole_words));
  }
}

void rows_to_awq(ConstWords in, std::size_t k_words, std::size_t columns, Words out) {
  const std::size_t whole_words = k_words / kLanes * kLanes, whole_columns = columns / kLanes * kLanes;
  for (std::size_t w = 0; w < whole_words; w += kLanes) {
    for (std::size_t c = 0; c < whole_columns; c += kLanes) rows_tile_to_awq(at(in, 8 * c, w), at(out, 8 * w, c));
  }
  if (whole_columns < columns) {
    scalar::kRepack.rows_to_awq(at(in, 8 * whole_columns, 0), whole_words, columns - whole_columns,
                                at(out, 0, whole_columns));
  }
  if (whole_words < k_words) {
    scalar::kRepack.rows_to_awq(at(in, 0, whole_words), k_words - whole_words, columns, at(out, 8 * whole_words, 0));
  }
}

// Sixteen columns: every code is taken out of sixteen words alike, by the same amount of bits.
template <unsigned Bits>
LOWBIT_INLINE void select_sixteen(ConstWords in, const std::int32_t* order, std::size_t count, Words out) {
  constexpr std::uint32_t kMask = (1U << Bits) - 1U;
  std::uint32_t word[kLanes] = {}, code[kLanes];
  unsigned used = 0;
  std::uint32_t* to = out.data;
  for (std::size_t i = 0; i < count; i++) {
    const std::size_t bit = static_cast<std::size_t>(order[i]) * Bits;
    const auto shift = static_cast<unsigned>(bit % 32);
    const std::uint32_t* const from = in.data + bit / 32 * in.stride;
    if (32 % Bits != 0 && shift + Bits > 32) {
      const std::uint32_t* const next = from + in.stride;
      for (std::size_t l = 0; l < kLanes; l++) code[l] = ((from[l] >> shift) | (next[l] << (32 - shift))) & kMask;
    } else {
      for (std::size_t l = 0; l < kLanes; l++) code[l] = (from[l] >> shift) & kMask;
    }
    for (std::size_t l = 0; l < kLanes; l++) word[l] |= code[l] << used;
    used += Bits;
    if (used < 32) continue;
    for (std::size_t l = 0; l < kLanes; l++) to[l] = word[l];
    to += out.stride;
    used -= 32;
    for (std::size_t l = 0; l < kLanes; l++) word[l] = used == 0 ? 0 : code[l] >> (Bits - used);
  }
}

void select_codes(ConstWords in, unsigned bits, const std::int32_t* order, std::size_t count, std::size_t columns,
                  Words out) {
  std::size_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    switch (bits) {
      case 2:
        select_sixteen<2>(at(in, 0, c), order, count, at(out, 0, c));
        break;
      case 3:
        select_sixteen<3>(at(in, 0, c), order, count, at(out, 0, c));
        break;
      case 4:
        select_sixteen<4>(at(in, 0, c), order, count, at(out, 0, c));
        break;
      default:
        select_sixteen<8>(at(in, 0, c), order, count, at(out, 0, c));
    }
  }
  if (c < columns) scalar::kRepack.select_codes(at(in, 0, c), bits, order, count, columns - c, at(out, 0, c));
}

}  // namespace

const RepackKernels kRepack = {transpose_words, awq_to_rows, rows_to_awq, select_codes};

}  // namespace lowbit::LOWBIT_ISA
