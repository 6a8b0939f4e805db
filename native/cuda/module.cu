// The CUDA module: devices, memory, streams, and the table of everything.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "cuda/stream.cuh"
#include "cuda/tensor_cores.cuh"
#include "cuda/warpgroups.cuh"
#include "ops/affine/affine_cuda.h"
#include "ops/blocks/blocks_cuda.h"
#include "ops/cast/cast_cuda.h"
#include "ops/codebook/codebook_cuda.h"
#include "ops/fake_quantize/fake_quantize_cuda.h"
#include "ops/linalg/gptq_cuda.h"
#include "ops/matmul/float8_cuda.h"
#include "ops/matmul/gram_cuda.h"
#include "ops/matmul/integer_cuda.h"
#include "ops/matmul/linear_cuda.h"

namespace lowbit {

namespace {

thread_local char error_text[256] = "";

// Freed memory of a pool stays with it up to this, so that small buffers cost nothing; the rest goes back to the
// system.
constexpr std::uint64_t kKeptBytes = std::uint64_t{256} << 20;

}  // namespace

CudaStatus cuda_status(cudaError_t error) {
  if (error == cudaSuccess) return CudaStatus::kOk;
  std::snprintf(error_text, sizeof error_text, "%s", cudaGetErrorString(error));
  cudaGetLastError();  // forgets it, unless the device is lost
  switch (error) {
    case cudaErrorMemoryAllocation:
      return CudaStatus::kOutOfMemory;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInitializationError:
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return CudaStatus::kNoDevice;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      return CudaStatus::kUnsupported;
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchTimeout:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorAssert:
      return CudaStatus::kLost;
    default:
      return CudaStatus::kFailed;
  }
}

namespace {

CudaStatus device_count(std::int32_t* count) {
  int found = 0;
  const CudaStatus status = cuda_status(cudaGetDeviceCount(&found));
  *count = status == CudaStatus::kOk ? found : 0;
  return status;
}

const char* last_error() { return error_text; }

CudaStatus device_info(std::int32_t device, CudaDeviceInfo* info) {
  cudaDeviceProp properties;
  LOWBIT_TRY(cuda_status(cudaGetDeviceProperties(&properties, device)));
  LOWBIT_TRY(cuda_status(cudaSetDevice(device)));
  std::size_t free_bytes = 0, total_bytes = 0;
  LOWBIT_TRY(cuda_status(cudaMemGetInfo(&free_bytes, &total_bytes)));
  std::snprintf(info->name, sizeof info->name, "%s", properties.name);
  info->major = properties.major;
  info->minor = properties.minor;
  info->multiprocessors = properties.multiProcessorCount;
  info->total_bytes = total_bytes;
  info->free_bytes = free_bytes;
  info->l2_bytes = static_cast<std::uint64_t>(properties.l2CacheSize);
  return CudaStatus::kOk;
}

__global__ void find_warp_groups(unsigned* found) {
#if LOWBIT_HAS_WARPGROUPS
  *found = 1;
#else
  *found = 0;
#endif
}

// Whether the stream shall use products of warp groups, and its device and this build's code for it have them.
CudaStatus choose_warp_groups(CudaStream& stream) {
  const char* const said = std::getenv("LOWBIT_CUDA_WARPGROUPS");
  const bool wanted = said == nullptr || *said == '\0' ? kUsesWarpGroups : std::strcmp(said, "0") != 0;
  if (!wanted || stream.major != 9) return CudaStatus::kOk;
  auto* const memory = reinterpret_cast<unsigned*>(stream.finding);
  LOWBIT_TRY(launch(stream, find_warp_groups, dim3(1), 1, 0, memory));
  unsigned found = 0;
  LOWBIT_TRY(cuda_status(cudaMemcpyAsync(&found, memory, sizeof found, cudaMemcpyDeviceToHost, stream.stream)));
  LOWBIT_TRY(cuda_status(cudaStreamSynchronize(stream.stream)));
  stream.uses_warp_groups = found != 0;
  return CudaStatus::kOk;
}

CudaStatus set_up(CudaStream& stream) {
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream.device)));
  int value = 0;
  const auto attribute = [&](cudaDeviceAttr name) {
    return cuda_status(cudaDeviceGetAttribute(&value, name, stream.device));
  };
  LOWBIT_TRY(attribute(cudaDevAttrComputeCapabilityMajor));
  stream.major = value;
  LOWBIT_TRY(attribute(cudaDevAttrComputeCapabilityMinor));
  stream.minor = value;
  LOWBIT_TRY(attribute(cudaDevAttrMultiProcessorCount));
  stream.multiprocessors = value;
  LOWBIT_TRY(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  stream.shared_bytes = static_cast<std::size_t>(value);
  LOWBIT_TRY(attribute(cudaDevAttrMemoryPoolsSupported));
  stream.has_pools = value != 0;
  if (stream.has_pools) {
    cudaMemPool_t pool;
    LOWBIT_TRY(cuda_status(cudaDeviceGetDefaultMemPool(&pool, stream.device)));
    std::uint64_t kept = kKeptBytes;
    LOWBIT_TRY(cuda_status(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept)));
  }
  LOWBIT_TRY(cuda_status(cudaStreamCreateWithFlags(&stream.stream, cudaStreamNonBlocking)));
  LOWBIT_TRY(cuda_status(cudaEventCreate(&stream.begin)));
  LOWBIT_TRY(cuda_status(cudaEventCreate(&stream.end)));
  LOWBIT_TRY(cuda_status(cudaMalloc(reinterpret_cast<void**>(&stream.finding), sizeof *stream.finding)));
  LOWBIT_TRY(choose_warp_groups(stream));
  LOWBIT_TRY(cuda_status(cudaMemsetAsync(stream.finding, 0xff, sizeof *stream.finding, stream.stream)));
  return CudaStatus::kOk;
}

CudaStatus allocate(CudaStream* stream, std::size_t bytes, void** memory) {
  *memory = nullptr;
  if (bytes == 0) return CudaStatus::kOk;
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream->device)));
  return cuda_status(stream->has_pools ? cudaMallocAsync(memory, bytes, stream->stream) : cudaMalloc(memory, bytes));
}

CudaStatus release(CudaStream* stream, void* memory) {
  if (memory == nullptr) return CudaStatus::kOk;
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream->device)));
  return cuda_status(stream->has_pools ? cudaFreeAsync(memory, stream->stream) : cudaFree(memory));
}

void close_stream(CudaStream* stream) {
  if (stream == nullptr) return;
  cudaSetDevice(stream->device);
  if (stream->scratch != nullptr) release(stream, stream->scratch);
  if (stream->finding != nullptr) cudaFree(stream->finding);
  if (stream->end != nullptr) cudaEventDestroy(stream->end);
  if (stream->begin != nullptr) cudaEventDestroy(stream->begin);
  if (stream->stream != nullptr) cudaStreamDestroy(stream->stream);
  cudaGetLastError();
  delete stream;
}

CudaStatus open_stream(std::int32_t device, CudaStream** out) {
  *out = nullptr;
  auto* stream = new (std::nothrow) CudaStream();
  if (stream == nullptr) return cuda_status(cudaErrorMemoryAllocation);
  stream->device = device;
  const CudaStatus status = set_up(*stream);
  if (status != CudaStatus::kOk) {
    close_stream(stream);
    return status;
  }
  *out = stream;
  return CudaStatus::kOk;
}

bool uses_warp_groups(const CudaStream* stream) { return stream->uses_warp_groups; }

CudaStatus transfer(CudaStream* stream, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return CudaStatus::kOk;
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream->device)));
  return cuda_status(cudaMemcpyAsync(to, from, bytes, kind, stream->stream));
}

CudaStatus upload(CudaStream* stream, void* device, const void* host, std::size_t bytes) {
  return transfer(stream, device, host, bytes, cudaMemcpyHostToDevice);
}

CudaStatus download(CudaStream* stream, void* host, const void* device, std::size_t bytes) {
  return transfer(stream, host, device, bytes, cudaMemcpyDeviceToHost);
}

CudaStatus copy(CudaStream* stream, void* to, const void* from, std::size_t bytes) {
  return transfer(stream, to, from, bytes, cudaMemcpyDeviceToDevice);
}

CudaStatus fill(CudaStream* stream, void* device, int byte, std::size_t bytes) {
  if (bytes == 0) return CudaStatus::kOk;
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream->device)));
  return cuda_status(cudaMemsetAsync(device, byte, bytes, stream->stream));
}

CudaStatus synchronize(CudaStream* stream, Outcome* outcome) {
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream->device)));
  unsigned long long finding = kNoFinding;
  if (outcome != nullptr) {
    LOWBIT_TRY(cuda_status(
        cudaMemcpyAsync(&finding, stream->finding, sizeof finding, cudaMemcpyDeviceToHost, stream->stream)));
    LOWBIT_TRY(cuda_status(cudaMemsetAsync(stream->finding, 0xff, sizeof finding, stream->stream)));
  }
  LOWBIT_TRY(cuda_status(cudaStreamSynchronize(stream->stream)));
  if (outcome != nullptr) {
    *outcome = {};
    if (finding != kNoFinding) {
      *outcome = {static_cast<Status>(finding & 0xff), static_cast<std::int64_t>((finding >> 8) & (kLaterIndex - 1))};
    }
  }
  return CudaStatus::kOk;
}

CudaStatus start_timer(CudaStream* stream) {
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream->device)));
  return cuda_status(cudaEventRecord(stream->begin, stream->stream));
}

CudaStatus stop_timer(CudaStream* stream, float* milliseconds) {
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream->device)));
  LOWBIT_TRY(cuda_status(cudaEventRecord(stream->end, stream->stream)));
  LOWBIT_TRY(cuda_status(cudaEventSynchronize(stream->end)));
  return cuda_status(cudaEventElapsedTime(milliseconds, stream->begin, stream->end));
}

CudaStatus begin_recording(CudaStream* stream) {
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream->device)));
  return cuda_status(cudaStreamBeginCapture(stream->stream, cudaStreamCaptureModeThreadLocal));
}

CudaStatus end_recording(CudaStream* stream, CudaRecording** recording) {
  *recording = nullptr;
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream->device)));
  cudaGraph_t graph = nullptr;
  LOWBIT_TRY(cuda_status(cudaStreamEndCapture(stream->stream, &graph)));
  cudaGraphExec_t executable = nullptr;
  const CudaStatus status = cuda_status(cudaGraphInstantiateWithFlags(&executable, graph, 0));
  cudaGraphDestroy(graph);
  *recording = reinterpret_cast<CudaRecording*>(executable);
  return status;
}

CudaStatus replay(CudaStream* stream, CudaRecording* recording) {
  LOWBIT_TRY(cuda_status(cudaSetDevice(stream->device)));
  return cuda_status(cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(recording), stream->stream));
}

void forget(CudaRecording* recording) { cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(recording)); }

}  // namespace

CudaStatus scratch(CudaStream& stream, std::size_t bytes, unsigned char** memory) {
  if (bytes > stream.scratch_bytes) {
    unsigned char* const old = stream.scratch;
    stream.scratch = nullptr;
    stream.scratch_bytes = 0;
    LOWBIT_TRY(release(&stream, old));
    void* grown = nullptr;
    LOWBIT_TRY(allocate(&stream, bytes, &grown));
    stream.scratch = static_cast<unsigned char*>(grown);
    LOWBIT_TRY(fill(&stream, grown, 0, kScratchZeros));
    stream.scratch_bytes = bytes;
  }
  *memory = stream.scratch;
  return CudaStatus::kOk;
}

namespace {

constexpr unsigned kReadThreads = 256;

// Four loads of each thread under way. The sum is zero or one in 2^32: nothing is written that anybody reads.
__global__ void __launch_bounds__(kReadThreads) read_units(const uint4* units, std::size_t count, unsigned* sink) {
  unsigned sum = 0;
  for (std::size_t i = std::size_t{blockIdx.x} * (4 * kReadThreads) + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * (4 * kReadThreads)) {
    uint4 four[4] = {};
#pragma unroll
    for (std::size_t j = 0; j < 4; j++) {
      if (i + j * kReadThreads < count) four[j] = load_once(units + i + j * kReadThreads);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) sum ^= four[j].x ^ four[j].y ^ four[j].z ^ four[j].w;
  }
  if (sum == 0x6b43a9b5U) *sink = 0;
}

CudaStatus read_memory(CudaStream* stream, const void* device, std::size_t bytes) {
  unsigned char* zeros = nullptr;
  LOWBIT_TRY(scratch(*stream, kScratchZeros, &zeros));
  const std::size_t count = bytes / sizeof(uint4);
  return launch(*stream, read_units, dim3(blocks_for(*stream, count, 4 * kReadThreads)), kReadThreads, 0,
                static_cast<const uint4*>(device), count, reinterpret_cast<unsigned*>(zeros));
}

const CudaApi kApi = {
    kCudaAbi,
    device_count,
    device_info,
    last_error,
    open_stream,
    close_stream,
    uses_warp_groups,
    allocate,
    release,
    upload,
    download,
    copy,
    fill,
    synchronize,
    start_timer,
    stop_timer,
    begin_recording,
    end_recording,
    replay,
    forget,
    read_memory,
    &kCastCuda,
    &kAffineCuda,
    &kCodebookCuda,
    &kBlocksCuda,
    &kFakeQuantizeCuda,
    &kLinearCuda,
    &kIntegerCuda,
    &kFloat8Cuda,
    &kGramCuda,
    &kGptqCuda,
};

}  // namespace
}  // namespace lowbit

#if defined(_WIN32)
#define LOWBIT_EXPORT __declspec(dllexport)
#else
#define LOWBIT_EXPORT __attribute__((visibility("default")))
#endif

// Null if the addon speaks another version of the surface.
extern "C" LOWBIT_EXPORT const lowbit::CudaApi* lowbit_cuda_entry(std::uint32_t abi) {
  return abi == lowbit::kCudaAbi ? &lowbit::kApi : nullptr;
}
