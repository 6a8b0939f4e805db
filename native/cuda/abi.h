#pragma once

// The surface between the addon and the CUDA module, a library of its own that is opened when a GPU is first asked for:
// C functions in tables, over types of standard layout. Both sides must have been built with the same kCudaAbi.

#include <cstddef>
#include <cstdint>

#include "core/status.h"

namespace lowbit {

struct AffineCuda;
struct BlocksCuda;
struct CastCuda;
struct CodebookCuda;
struct FakeQuantizeCuda;
struct Float8Cuda;
struct GptqCuda;
struct GramCuda;
struct IntegerCuda;
struct LinearCuda;

constexpr char kCudaEntry[] = "lowbit_cuda_entry";

enum class CudaStatus : std::uint8_t {
  kOk,
  kOutOfMemory,  // of the device
  kNoDevice,     // no such device, no driver, or one too old
  kLost,  // the device fell off the bus, or a kernel failed: nothing can be done with it in this process any more
  kUnsupported,  // by this device
  kFailed,       // anything else: last_error() has CUDA's words
};

struct CudaDeviceInfo {
  char name[256];
  std::int32_t major, minor;  // compute capability
  std::int32_t multiprocessors;
  std::uint64_t total_bytes, free_bytes;
  std::uint64_t l2_bytes;
};

// Work in order on one device. Opaque.
struct CudaStream;
// Work that was recorded rather than done. Opaque.
struct CudaRecording;

// What stands for a device pointer is a plain pointer that the host must not follow.
struct CudaApi {
  std::uint32_t abi;

  CudaStatus (*device_count)(std::int32_t* count);
  CudaStatus (*device_info)(std::int32_t device, CudaDeviceInfo* info);
  // CUDA's words for the last failure of the calling thread.
  const char* (*last_error)();

  CudaStatus (*open_stream)(std::int32_t device, CudaStream** stream);
  void (*close_stream)(CudaStream* stream);
  // Whether layers of many rows are multiplied by whole warp groups, which compute capability 9.0 has, there: as the
  // environment variable LOWBIT_CUDA_WARPGROUPS (1 or 0) said when the stream was opened.
  bool (*uses_warp_groups)(const CudaStream* stream);

  // At least 256-byte aligned; zero bytes give null. Memory may be used and given back on any stream of its device,
  // once the stream that last used it has been synchronized.
  CudaStatus (*allocate)(CudaStream* stream, std::size_t bytes, void** memory);
  CudaStatus (*release)(CudaStream* stream, void* memory);
  // Host memory must stay until the stream has been synchronized.
  CudaStatus (*upload)(CudaStream* stream, void* device, const void* host, std::size_t bytes);
  CudaStatus (*download)(CudaStream* stream, void* host, const void* device, std::size_t bytes);
  CudaStatus (*copy)(CudaStream* stream, void* to, const void* from, std::size_t bytes);
  CudaStatus (*fill)(CudaStream* stream, void* device, int byte, std::size_t bytes);

  // Waits for all work of the stream. `outcome` (unless null) receives what operations found since the last call: of
  // several findings the one with the lowest index.
  CudaStatus (*synchronize)(CudaStream* stream, Outcome* outcome);
  // Milliseconds of the device between two calls, for benchmarks: start() … stop(), which waits.
  CudaStatus (*start_timer)(CudaStream* stream);
  CudaStatus (*stop_timer)(CudaStream* stream, float* milliseconds);
  // For benchmarks as well: what is queued between begin and end is done by every replay(), with no time of the host in
  // between. What it allocates, uploads or waits for can't be recorded: end fails then, and nothing is kept.
  CudaStatus (*begin_recording)(CudaStream* stream);
  CudaStatus (*end_recording)(CudaStream* stream, CudaRecording** recording);
  CudaStatus (*replay)(CudaStream* stream, CudaRecording* recording);
  void (*forget)(CudaRecording* recording);
  // Reads memory, 16-byte aligned, and nothing else: what benchmarks compare with.
  CudaStatus (*read)(CudaStream* stream, const void* device, std::size_t bytes);

  // Operations queue work and return. Arguments have been checked by the caller.
  const CastCuda* cast;
  const AffineCuda* affine;
  const CodebookCuda* codebook;
  const BlocksCuda* blocks;
  const FakeQuantizeCuda* fake_quantize;
  const LinearCuda* linear;
  const IntegerCuda* integer;  // products of bytes
  const Float8Cuda* float8;    // products of E4M3FN
  const GramCuda* gram;
  const GptqCuda* gptq;
};

// The version of all these tables; their number shows in the size.
constexpr std::uint32_t kCudaAbi = (1U << 16) | static_cast<std::uint32_t>(sizeof(CudaApi));

using CudaEntry = const CudaApi* (*)(std::uint32_t abi);

}  // namespace lowbit
