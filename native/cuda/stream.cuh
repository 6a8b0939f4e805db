#pragma once

// What operations are given: a device's stream, and how kernels are started on it.

#include "cuda/abi.h"
#include "cuda/device.cuh"

namespace lowbit {

// What kernels found wrong. Written by note() on the device, read and cleared by synchronize().
struct CudaFinding {
  unsigned long long index_and_status;  // index · 256 + status; the lowest wins
};
constexpr unsigned long long kNoFinding = ~0ULL;

struct CudaStream {
  int device;
  int major, minor, multiprocessors;
  std::size_t shared_bytes;  // that a block may ask for
  bool has_pools;
  bool uses_warp_groups;  // see warpgroups.cuh
  cudaStream_t stream;
  cudaEvent_t begin, end;
  CudaFinding* finding;  // on the device
  unsigned char* scratch;
  std::size_t scratch_bytes;
};

// Returns from the function it stands in with a status that is not kOk.
#define LOWBIT_TRY(call)                                                                             \
  do {                                                                                               \
    if (const ::lowbit::CudaStatus tried = (call); tried != ::lowbit::CudaStatus::kOk) return tried; \
  } while (false)

// The status that stands for a CUDA error, which it remembers for last_error().
CudaStatus cuda_status(cudaError_t error);

// Memory of the device for what operations keep between their kernels, at least 256-byte aligned. It is the stream's,
// so that the next operation has the same; it grows when more is asked for. Its first kScratchZeros bytes, which are
// part of `bytes`, are zeros, and every operation leaves them so.
constexpr std::size_t kScratchZeros = std::size_t{64} << 10;
CudaStatus scratch(CudaStream& stream, std::size_t bytes, unsigned char** memory);

__device__ inline void note(CudaFinding* finding, Status status, std::size_t index) {
  atomicMin(&finding->index_and_status, (static_cast<unsigned long long>(index) << 8) | static_cast<unsigned>(status));
}

// For what an operation reports only if nothing else is wrong.
constexpr std::size_t kLaterIndex = std::size_t{1} << 55;
__device__ inline void note_later(CudaFinding* finding, Status status, std::size_t index) {
  note(finding, status, kLaterIndex | index);
}

// Starts a kernel. A grid of nothing starts nothing.
template <typename... Parameters, typename... Arguments>
CudaStatus launch(const CudaStream& stream, void (*kernel)(Parameters...), dim3 grid, unsigned threads,
                  std::size_t shared_bytes, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return CudaStatus::kOk;
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream.device)));
  constexpr std::size_t kWithoutAsking = 48 << 10;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return cuda_status(error);
  }
  return cuda_status(launch_kernel<Parameters...>(kernel, grid, threads, shared_bytes, stream.stream, arguments...));
}

// Blocks for a loop over `count` items in strides of the grid: as many as the device holds several times over, or
// fewer.
inline unsigned blocks_for(const CudaStream& stream, std::size_t count, unsigned threads) {
  const std::size_t needed = (count + threads - 1) / threads,
                    most = static_cast<std::size_t>(stream.multiprocessors) * 16;
  return static_cast<unsigned>(needed < most ? needed : most);
}

// The same for kernels that start cheaply: so many that little of the device is idle while the last ones run, however
// few it holds at a time.
inline unsigned many_blocks_for(const CudaStream& stream, std::size_t count, unsigned threads) {
  const std::size_t needed = (count + threads - 1) / threads,
                    most = static_cast<std::size_t>(stream.multiprocessors) * 64;
  return static_cast<unsigned>(needed < most ? needed : most);
}

}  // namespace lowbit
