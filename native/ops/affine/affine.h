#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/status.h"
#include "core/thread_pool.h"
#include "core/tiles.h"

namespace lowbit {

// Where the parameters of a tensor change. Its elements, in row-major order, are `blocks` blocks of `block_size`
// elements; every block is divided into groups of `group_size` (the last may be shorter), one parameter set each.
//
//   per-tensor   1 block, 1 group
//   per-channel  a block is all channels once, group_size the elements after the axis; all blocks have the same
//   parameters per-group    a block is a row of the last axis, with parameters of its own per-block    the same, but so
//   many rows have the same parameters as a block of the tensor is high
//
// Codes are packed in rows of `columns` elements, each starting on a byte.
struct AffineLayout {
  std::size_t blocks, block_size, group_size;
  std::size_t blocks_alike;  // so many consecutive blocks use the same parameters: at least 1
  std::size_t columns;

  std::size_t element_count() const { return blocks * block_size; }
  std::size_t groups_per_block() const { return ceil_div(block_size, group_size); }
  std::size_t parameter_count() const { return ceil_div(blocks, blocks_alike) * groups_per_block(); }
};

struct AffineScheme {
  CodeType code;
  bool symmetric;
  int lowest, highest;  // codes are clamped to these: narrower than the code type's with a narrow range
  FloatType scale_type;

  // A symmetric scheme: the code that stands for zero, and how many steps above it max|x| lies.
  std::int32_t symmetric_zero_point() const { return code.is_signed ? 0 : 1 << (code.bits - 1); }
  int symmetric_steps() const { return (1 << (code.bits - 1)) - 1; }
};

struct RangeChoice {
  enum class Method : std::uint8_t { kMinMax, kMse, kPercentile, kGiven } method;
  double percentile;  // kPercentile: 50 < percentile ≤ 100
};

enum class NonFinite : std::uint8_t { kThrow, kSaturate };

// Chooses scales (and zero points, unless null) by `range` — or reads them, if kGiven — and writes the packed codes.
// With kSaturate, NaN and infinities take no part in the choice; infinities become the outermost codes, NaN the lowest.
Outcome quantize_affine(const void* x, FloatType type, const AffineLayout& layout, const AffineScheme& scheme,
                        RangeChoice range, NonFinite non_finite, float* scales, std::int32_t* zero_points,
                        std::uint8_t* codes, const CancelFlag* cancel = nullptr);

// out = scale · (code − zero point). `zero_points` may be null (all zero).
Outcome dequantize_affine(const std::uint8_t* codes, CodeType code, const AffineLayout& layout, const float* scales,
                          const std::int32_t* zero_points, void* out, FloatType out_type,
                          const CancelFlag* cancel = nullptr);

// One byte per code, sign-extended for signed types.
void unpack_codes(const std::uint8_t* codes, CodeType code, std::size_t rows, std::size_t columns, std::uint8_t* out);

}  // namespace lowbit
