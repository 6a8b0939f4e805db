#pragma once

#include "core/dtype.h"
#include "core/status.h"
#include "core/thread_pool.h"
#include "ops/matmul/packed_weight.h"

namespace lowbit {

// LLM.int8(): Dettmers et al. (arXiv:2208.07339), with the rounding of bitsandbytes.

// Rows of floats to signed bytes, code = round(x · (127 / absmax)), half to even, where absmax is the largest |x| of a
// row; a row of zeros has codes 0. Columns whose `outlier` is set are left out: their codes are 0.
//
// With a threshold above 0, so are elements of at least that magnitude, and the columns that hold one have codes 0 in
// every row; their `outlier` is set. (As in bitsandbytes, the other elements of such a column still count in the absmax
// of their rows.)
struct LlmInt8Rows {
  const void* x;  // [rows, columns]
  FloatType type;
  std::size_t rows, columns;
  float threshold;
  std::uint8_t* outlier;  // [columns], 0 or 1: read and written
  std::int8_t* codes;
  float* absmax;  // [rows]
};
Outcome quantize_llm_int8(const LlmInt8Rows& rows, const CancelFlag* cancel = nullptr);

// y[m, N] = x·Wᵀ + bias, where columns of x that hold an outlier are multiplied in float32 and the others as bytes,
// with exact integer sums.
struct LlmInt8Product {
  const float* x;  // [m, K]
  std::size_t m;
  const PackedWeight* weight;  // signed bytes, kIntegers
  const float* absmax;         // [N]: of the rows of the weight
  // Columns that the weight keeps as floats, and those; the codes of such columns are 0. nullptr: none.
  const PackedWeight* kept;
  const std::int32_t* kept_columns;
  float threshold;
  const float* bias;  // [N] or nullptr
  float* y;
};
Outcome llm_int8_product(const LlmInt8Product& product, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
