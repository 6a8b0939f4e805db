#pragma once

#include "cuda/stream.cuh"

namespace lowbit {

// Memory of the device that an operation needs while it runs; it is given back in the order of the stream.
class Workspace {
 public:
  explicit Workspace(const CudaStream& stream) : stream_(stream) {}
  ~Workspace() { free(); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // What was there before is lost.
  CudaStatus reserve(std::size_t bytes) {
    free();
    if (bytes == 0) return CudaStatus::kOk;
    LOWBIT_TRY(cuda_status(cudaSetDevice(stream_.device)));
    return cuda_status(stream_.has_pools ? cudaMallocAsync(&memory_, bytes, stream_.stream)
                                         : cudaMalloc(&memory_, bytes));
  }
  void free() {
    if (memory_ != nullptr)
      static_cast<void>(stream_.has_pools ? cudaFreeAsync(memory_, stream_.stream) : cudaFree(memory_));
    memory_ = nullptr;
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(memory_);
  }

 private:
  const CudaStream& stream_;
  void* memory_ = nullptr;
};

}  // namespace lowbit
