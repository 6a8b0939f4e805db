#pragma once

#include "ops/affine/affine.h"

namespace lowbit {

// Replaces the range of every parameter set by one that is found with more effort; both skip NaN and infinities.
// `low` and `high` hold min and max, widened to contain zero; for a symmetric scheme `low` is null and `high` holds
// max|x|.

// The range between the (100 − p)-th and p-th percentile, widened to contain zero; symmetric: the p-th percentile of
// |x|. Between two elements the percentile is interpolated linearly (numpy's default), in float64.
Outcome percentile_ranges(const void* x, FloatType type, const AffineLayout& layout, double percentile, float* low,
                          float* high, const CancelFlag* cancel);

// The range, shrunk by a factor of 1.00, 0.99, … 0.21, with which quantizing costs the least squared error; of equal
// ones the widest. This is the grid of GPTQ's `mse` option (IST-DASLab/gptq, quant.py) with the exponent 2.
Outcome mse_ranges(const void* x, FloatType type, const AffineLayout& layout, const AffineScheme& scheme, float* low,
                   float* high, const CancelFlag* cancel);

}  // namespace lowbit
