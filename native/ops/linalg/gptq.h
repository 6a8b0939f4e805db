#pragma once

#include "core/dtype.h"
#include "core/status.h"
#include "core/thread_pool.h"
#include "ops/linalg/linalg_kernels.h"

namespace lowbit {

// Weighs the squared errors with which a range is searched for.
enum class Importance : std::uint8_t { kNone, kGiven, kFactor };

struct GptqArguments {
  const float* weight;  // [rows, columns]
  std::size_t rows, columns;
  // [columns, columns], XᵀX: symmetric. nullptr: no error is made up for, columns are rounded.
  const float* gram;
  // Columns are quantized in this order, a permutation; nullptr: as they come.
  const std::int32_t* order;
  // [columns]: the group of the i-th column in that order. Unless ranges are static, the columns of one are neighbours.
  const std::int32_t* groups;
  std::size_t group_count;
  // Ranges follow from the weight as it is; else from a group's columns when the block begins in which the first of
  // them lies, errors of earlier blocks included.
  bool static_ranges;
  // Static ranges only: how often all columns are quantized. Each time but the first, ranges follow from what the
  // columns were when they were quantized the time before.
  std::size_t passes;
  bool zero_dead;         // columns whose diagonal is zero become zero
  bool ranges_with_dead;  // static ranges see them as they are
  std::size_t block;      // columns
  // Added to the diagonal, in multiples of its mean over the columns where it is not zero: the first of damp, damp +
  // damp_step, … below 1 with which the matrix is positive definite. kNotPositive if there is none.
  double damp, damp_step;

  CodeType code;
  int lowest, highest;  // narrower than the code type's with a narrow range
  RangeRule rule;
  bool symmetric;
  float zero;  // symmetric: the zero point
  float steps;
  FloatType scale_type;
  const float* factors;
  std::size_t factor_count;
  Importance importance;
  const float* given_importance;  // [columns], as the weight has them
  bool power_2_4;
  bool codes_in_order;  // codes[·][i] is the i-th column in order; else the column's own place

  float* scales;        // [rows, group_count]
  std::int32_t* zeros;  // the same, or nullptr
  std::uint8_t* codes;  // packed
  double* loss;         // [1]: Σ over rows of (w − ŵ)·H·(w − ŵ)ᵀ, damp included
  double* damp_used;    // [1]
};

// The same bits for any number of threads and every instruction set. kNonFinite: `index` counts through the weight,
// then the Gram matrix. kScaleOverflow names the scale.
Outcome gptq(const GptqArguments& arguments, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
