#pragma once

#include <cstddef>
#include <cstdint>

#include "core/status.h"
#include "cuda/abi.h"
#include "ops/linalg/gptq.h"

namespace lowbit {

// GPTQ on memory of a device, the same bits as gptq.h and cholesky.h. What follows depends on what was found before:
// these wait for the stream and say themselves how they ended.
struct GptqCuda {
  // Of the R of H = R·Rᵀ that ReversedCholesky::factorize() finds for H[order[i]][order[j]]: factor[i][j] =
  // R[i][j] / R[j][j] for i < j, 1 on the diagonal and 0 below it, and diagonal[j] = R[j][j]. H and both results are
  // on the device, the order (or nullptr) is the host's. The same outcomes.
  CudaStatus (*factorize)(CudaStream* stream, const float* h, std::size_t size, const std::int32_t* order, double damp,
                          float* factor, float* diagonal, Outcome* outcome);

  // gptq(). On the device: weight, gram, scales, zeros, codes. The host's: order, groups, factors, given_importance,
  // loss, damp_used.
  CudaStatus (*gptq)(CudaStream* stream, const GptqArguments& arguments, Outcome* outcome);
};

extern const GptqCuda kGptqCuda;

}  // namespace lowbit
