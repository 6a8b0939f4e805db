#pragma once

// What kernels are written in: CUDA, and a few words for what CUDA says in assembly. Tests define LOWBIT_CUDA_EMULATED
// and compile the same kernels for the processor, over test/cuda/emulator.h.

#include <cstddef>
#include <cstdint>

#if defined(LOWBIT_CUDA_EMULATED)
#include "test/cuda/emulator.h"
#else
#include <cuda_runtime.h>

namespace lowbit {

template <typename... Parameters>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes,
                          cudaStream_t stream, Parameters... parameters) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&parameters))..., nullptr};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(threads), pointers, shared_bytes, stream);
}

// The block's shared memory, as large as the launch said.
__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(1024) unsigned char lowbit_shared[];
  return lowbit_shared;
}

}  // namespace lowbit
#endif

namespace lowbit {

constexpr unsigned kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffU;

// The first item of this thread in a loop over the grid, and how far the next is.
__device__ inline std::size_t grid_thread() { return std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline std::size_t grid_threads() { return std::size_t{gridDim.x} * blockDim.x; }

template <typename Value, typename Combine>
__device__ inline Value warp_reduce(Value value, Combine combine) {
  for (unsigned step = kWarp / 2; step != 0; step /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

}  // namespace lowbit
