#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "cuda/abi.h"

namespace lowbit {

// y[m, n] = (Σ codes · weights) · w_scale[column] · x_scale[row] + bias[column] with codes of E4M3FN. Tensor cores sum
// products over 128 columns; these sums are added in float32, in the order of the columns. A NaN among the codes makes
// the results that it takes part in NaN.
struct Float8LinearCuda {
  const std::uint8_t* x;  // [m, k]
  const float* x_scales;  // [m], or one
  bool x_scale_per_row;
  const std::uint8_t* w;  // [n, k]
  const float* w_scales;  // [n], or one
  bool w_scale_per_row;
  std::size_t m, n, k;
  const float* bias;  // [n] or nullptr
  FloatType type;     // of y
  void* y;
};

struct Float8Cuda {
  // Rows of x[m, k] to E4M3FN with a scale each: scale = max|x| / 448, code = x / scale, rounded half to even. A row
  // whose largest magnitude is below 2^-110 has scale 0 and codes 0. Notes kNonFinite with the index in x of the first
  // such element. On every device.
  CudaStatus (*quantize_tokens)(CudaStream* stream, const void* x, FloatType type, std::size_t m, std::size_t k,
                                std::uint8_t* codes, float* scales);
  // kUnsupported before compute capability 8.9. Fastest where k is a multiple of 16: other operands are
  // copied, at every call.
  CudaStatus (*linear)(CudaStream* stream, const Float8LinearCuda& layer);
};

extern const Float8Cuda kFloat8Cuda;

// linear() by products of whole warp groups, for streams that use them.
CudaStatus float8_linear_by_groups(CudaStream* stream, const Float8LinearCuda& layer);

}  // namespace lowbit
