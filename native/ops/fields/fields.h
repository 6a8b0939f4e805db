#pragma once

#include <cstddef>
#include <cstdint>

#include "core/status.h"
#include "core/thread_pool.h"

namespace lowbit {

// Rows of bit fields, as files of quantized weights pack their codes: fields of 1 to 8 bits, the first in the low bits
// of a row's bytes, which are those of little-endian words. Loops over bytes that compilers vectorize; there is one
// file for all instruction sets, and the specification of each operation is the plain loop in
// native/test/test_fields.cc.

// Bytes that a row of `columns` fields without gaps takes.
constexpr std::size_t field_bytes(std::size_t columns, unsigned bits) {
  return columns / 8 * bits + (columns % 8 * bits + 7) / 8;
}

// Fields without gaps, from rows `in_stride` bytes apart to rows `out_stride` bytes apart; both are at least
// field_bytes(). What follows the last field of a row is zero. `flip` inverts the top bit of every field: two's
// complement to offset binary, and back. The arrays must not overlap.
struct MoveFields {
  const std::uint8_t* in;
  std::size_t in_stride;
  std::uint8_t* out;
  std::size_t out_stride;
  std::size_t rows, columns;
  unsigned bits;
  bool flip;
};
Outcome move_fields(const MoveFields& work, const CancelFlag* cancel = nullptr);

// Fields to bytes: out[r, i] = field − offset. With `per_word` 0 there are no gaps between fields; otherwise every
// 32-bit word holds so many, and its other bits are ignored. Rows of the input are `in_stride` bytes apart.
struct UnpackFields {
  const std::uint8_t* in;
  std::size_t in_stride;
  std::uint8_t* out;
  std::size_t rows, columns;
  unsigned bits, per_word;
  std::uint8_t offset;
};
Outcome unpack_fields(const UnpackFields& work, const CancelFlag* cancel = nullptr);

// Columns in another order: out[r, i] = in[r, order[i]]. Both hold fields without gaps in rows of field_bytes(), and
// what follows the last field of a row is zero. Every element of `order` is less than `columns`.
struct GatherFields {
  const std::uint8_t* in;
  const std::int32_t* order;
  std::uint8_t* out;
  std::size_t rows, columns;
  unsigned bits;
};
Outcome gather_fields(const GatherFields& work, const CancelFlag* cancel = nullptr);

// The two halves of every byte change places. `out` may be `in`.
Outcome swap_nibbles(const std::uint8_t* in, std::uint8_t* out, std::size_t count, const CancelFlag* cancel = nullptr);

// LLM.int8() weights as bitsandbytes dequantizes them: (code · absmax[row]) · 1/127, each product rounded to float32.
// Source: bitsandbytes 95f9af30, backends/default/ops.py, int8_vectorwise_dequant.
Outcome dequantize_llm_int8(const std::int8_t* codes, const float* absmax, std::size_t rows, std::size_t columns,
                            float* out, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
