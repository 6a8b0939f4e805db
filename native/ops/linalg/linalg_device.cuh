#pragma once

// What the linear algebra of a device shares: findings that are read at once, small arrays of the host, and the
// factorization that GPTQ needs.

#include "core/float_bits.h"
#include "cuda/workspace.cuh"

namespace lowbit {

// What kernels of one operation find, apart from those of the stream.
class Findings {
 public:
  explicit Findings(const CudaStream& stream) : stream_(stream), memory_(stream) {}

  CudaFinding* device() const { return memory_.as<CudaFinding>(); }
  CudaStatus clear() {
    if (device() == nullptr) LOWBIT_TRY(memory_.reserve(sizeof(CudaFinding)));
    return cuda_status(cudaMemsetAsync(device(), 0xff, sizeof(CudaFinding), stream_.stream));
  }
  // Waits for the stream.
  CudaStatus read(Outcome* outcome) const {
    CudaFinding found;
    LOWBIT_TRY(cuda_status(cudaMemcpyAsync(&found, device(), sizeof found, cudaMemcpyDeviceToHost, stream_.stream)));
    LOWBIT_TRY(cuda_status(cudaStreamSynchronize(stream_.stream)));
    *outcome = {};
    if (found.index_and_status != kNoFinding) {
      *outcome = {static_cast<Status>(found.index_and_status & 0xff),
                  static_cast<std::int64_t>(found.index_and_status >> 8)};
    }
    return CudaStatus::kOk;
  }

 private:
  const CudaStream& stream_;
  Workspace memory_;
};

// Copies an array of the host; it must stay until the stream has been waited for.
template <typename T>
CudaStatus upload(const CudaStream& stream, const T* host, std::size_t count, Workspace& to) {
  LOWBIT_TRY(to.reserve(count * sizeof(T)));
  if (count == 0) return CudaStatus::kOk;
  return cuda_status(cudaMemcpyAsync(to.as<T>(), host, count * sizeof(T), cudaMemcpyHostToDevice, stream.stream));
}

// Notes the first element that is not finite.
CudaStatus check_finite(const CudaStream& stream, const float* x, std::size_t count, Status status,
                        CudaFinding* finding);

// GptqCuda::factorize() without the check that H is finite, queued; all on the device. Notes kNotPositive.
struct CholeskyRequest {
  const float* h;
  std::size_t size;
  const std::int32_t* order;  // or nullptr
  float damp;
  float* factor;    // [size, size]
  float* diagonal;  // [size]
  CudaFinding* finding;
};
CudaStatus queue_cholesky(const CudaStream& stream, const CholeskyRequest& request);

}  // namespace lowbit
