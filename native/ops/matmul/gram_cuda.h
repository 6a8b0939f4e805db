#pragma once

#include <cstddef>

#include "core/dtype.h"
#include "cuda/abi.h"

namespace lowbit {

// gram() of matmul.h on memory of a device, the same bits: x[M, K] of any float type, out[K, K] float32, symmetric;
// added to what is there unless `first`. Notes kNonFinite with the index in x of the first such element; `out` is then
// unspecified.
struct GramCuda {
  CudaStatus (*gram)(CudaStream* stream, const void* x, FloatType type, std::size_t m, std::size_t k, bool first,
                     float* out);
};

extern const GramCuda kGramCuda;

}  // namespace lowbit
