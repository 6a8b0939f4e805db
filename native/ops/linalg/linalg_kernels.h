#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

// What GPTQ and the Cholesky factorization need besides products: sixteen vectors side by side, one in each lane, so
// that every lane sees the operations of a plain loop in its order. The products are those of MatmulKernels::float_dot.

namespace lowbit {

constexpr std::size_t kLinalgLanes = 16;

// Sixteen vectors: element i of them is x[i · stride] and the fifteen floats behind it.
//
// Solves y·T = x for an upper triangular T[count, count] (row-major), in place: y[i] = x[i] / T[i][i], then x[j] −=
// y[i] · T[i][j] (fused) for every later j.
struct SolveArguments {
  std::size_t count;
  const float* factor;
  float* x;
  std::size_t stride;
};

// How a group's scale and zero point follow from its weights.
enum class RangeRule : std::uint8_t {
  // As quantizeTensor: symmetric scale = max|x| / steps; asymmetric scale = (max − min) / (highest − lowest), zero
  // point
  // = clamp(round(lowest − min / scale)), both over a range that contains zero. A group of zeros has scale 1.
  kAffine,
  // As find_params of the GPTQ code: symmetric, max = max|x|, min = −max where something is negative and else 0; a
  // group of zeros has the range [−1, 1]; scale = (max − min) / (highest − lowest).
  kGptq,
};

struct RangeArguments {
  std::size_t count;  // of a group, at least 1
  const float* x;     // sixteen groups, one in each lane
  std::size_t stride;
  RangeRule rule;
  bool symmetric;
  int lowest, highest;
  float zero;   // symmetric: the zero point
  float steps;  // symmetric, kAffine: what max|x| is divided by
  FloatType scale_type;
  // Tried on the range, one after the other; that with the least Σ importance · error² wins, the first of equals.
  // {1} to take the whole range.
  const float* factors;
  std::size_t factor_count;
  const float* importance;  // [count], or nullptr: 1
  bool power_2_4;           // |error|^2.4 instead of error²
  float* scales;            // [16]
  float* zeros;             // [16], integers
};

// Quantizes columns one after the other: sixteen rows of a weight, one in each lane.
//
//   code = clamp(round(w[i] / scale) + zero), value = scale · (code − zero)
//   errors[i] = original[i] − value; w[j] += errors[i] · factor[i][j] (fused) for the later j of the block
//   loss += importance[i] · (w[i] − value)², in float64
//
// The factor is the R of H = R·Rᵀ with every column divided by its diagonal. That is GPTQ: w[j] is the weight that
// would take away, with all later columns free, what the errors of the earlier ones do to the output.
struct SweepArguments {
  std::size_t count;
  float* w;  // [count] at stride: with the errors of earlier blocks; overwritten
  const float* original;
  std::size_t stride;
  const float* factor;  // [count][factor_stride], or nullptr: errors are left where they are
  std::size_t factor_stride;
  const float* importance;     // [count]
  const std::int32_t* groups;  // [count]
  const float* scales;         // [groups][16]
  const float* zeros;
  int lowest, highest;
  float* errors;        // [count][16]
  std::uint8_t* codes;  // [count][16]: code − lowest
  double* loss;         // [16], added to
};

struct LinalgKernels {
  void (*solve)(const SolveArguments& arguments);
  void (*range)(const RangeArguments& arguments);
  void (*sweep)(const SweepArguments& arguments);
};

namespace scalar {
extern const LinalgKernels kLinalg;
}
namespace avx2 {
extern const LinalgKernels kLinalg;
}
namespace avx512 {
extern const LinalgKernels kLinalg;
}
namespace neon {
extern const LinalgKernels kLinalg;
}

}  // namespace lowbit
