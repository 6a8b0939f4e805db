#pragma once

// CUDA on the processor, as far as the kernels of this project use it: threads of a block are fibers that take turns at
// barriers and in warp-wide functions, blocks run one after the other, device memory is the heap. It proves what
// kernels compute, not how fast, nor that they are free of races. The module's own code runs over it unchanged.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(bytes) alignas(bytes)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace lowbit::emulator {

struct Thread {
  dim3 thread, block, block_dim, grid_dim;
  unsigned lane, warp;
};
extern Thread current;
extern unsigned char* shared;

int current_device();
void wait_for_block();
void wait_for_warp(unsigned mask);
// 64 bytes for every lane of the running warp, to exchange values in.
unsigned char* exchange(unsigned lane);

// Copies of sixteen bytes to shared memory, of zeros from nullptr, in groups of a thread. They are as late as they may
// be: until the running thread waits for them, what was there is spoilt and what shall be is not.
void copy_async(void* to, const void* from);
void commit_copies();
void wait_for_copies(unsigned groups);
// What the running thread has copied may be read by products of warp groups; is_published(): whether all may that lies
// in these sixteen bytes of shared memory.
void publish_copies();
bool is_published(std::size_t offset);

// Of E4M3. With LOWBIT_EMULATED_CUTS=1 as tensor cores may add: every number is cut off thirteen bits below the highest
// bit of the largest.
double cut_sum(double sum, const double* products, unsigned count);

void run(dim3 grid, unsigned threads, std::size_t shared_bytes, void (*body)(const void*), const void* context);

template <typename Value>
Value read_lane(unsigned mask, const Value& own, unsigned lane) {
  static_assert(sizeof(Value) <= 64, "lanes exchange up to 64 bytes");
  std::memcpy(exchange(current.lane), &own, sizeof own);
  wait_for_warp(mask);
  Value value;
  std::memcpy(&value, exchange(lane), sizeof value);
  wait_for_warp(mask);
  return value;
}

}  // namespace lowbit::emulator

#define threadIdx (::lowbit::emulator::current.thread)
#define blockIdx (::lowbit::emulator::current.block)
#define blockDim (::lowbit::emulator::current.block_dim)
#define gridDim (::lowbit::emulator::current.grid_dim)

inline void __syncthreads() { ::lowbit::emulator::wait_for_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffU) { ::lowbit::emulator::wait_for_warp(mask); }
inline void __threadfence() {}
[[noreturn]] inline void __trap() { std::abort(); }
inline void __threadfence_block() {}

template <typename Value>
Value __shfl_sync(unsigned mask, Value value, unsigned lane, unsigned width = 32) {
  const unsigned own = ::lowbit::emulator::current.lane;
  return ::lowbit::emulator::read_lane(mask, value, (own & ~(width - 1)) | (lane & (width - 1)));
}
template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, unsigned lanes, unsigned width = 32) {
  const unsigned own = ::lowbit::emulator::current.lane, other = own ^ lanes;
  return ::lowbit::emulator::read_lane(mask, value, (other & ~(width - 1)) == (own & ~(width - 1)) ? other : own);
}
template <typename Value>
Value __shfl_down_sync(unsigned mask, Value value, unsigned step, unsigned width = 32) {
  const unsigned own = ::lowbit::emulator::current.lane;
  return ::lowbit::emulator::read_lane(mask, value, (own & (width - 1)) + step < width ? own + step : own);
}
template <typename Value>
Value __shfl_up_sync(unsigned mask, Value value, unsigned step, unsigned width = 32) {
  const unsigned own = ::lowbit::emulator::current.lane;
  return ::lowbit::emulator::read_lane(mask, value, (own & (width - 1)) >= step ? own - step : own);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; lane++) {
    if ((mask >> lane & 1U) == 0) continue;
    if (::lowbit::emulator::read_lane(mask, predicate, lane) != 0) result |= 1U << lane;
  }
  return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0 ? 1 : 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask ? 1 : 0; }
inline int __syncthreads_or(int predicate) {
  static int any = 0;
  __syncthreads();
  if (predicate != 0) any = 1;
  __syncthreads();
  const int result = any;
  __syncthreads();
  any = 0;
  __syncthreads();
  return result;
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0F / x; }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t both = static_cast<std::uint64_t>(high) << 32 | low;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned which = selector >> (4 * i) & 15U;
    unsigned byte = static_cast<unsigned>(both >> (8 * (which & 7U))) & 0xffU;
    if ((which & 8U) != 0) byte = (byte & 0x80U) != 0 ? 0xffU : 0U;
    result |= byte << (8 * i);
  }
  return result;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) {
    c += static_cast<int>(static_cast<std::int8_t>(a >> (8 * i))) * static_cast<std::int8_t>(b >> (8 * i));
  }
  return c;
}
template <typename Value>
Value __ldg(const Value* address) {
  return *address;
}

// One thread runs at a time: what is atomic on a device is so here.
template <typename Value, typename Other>
Value atomicAdd(Value* address, Other value) {
  const Value old = *address;
  *address = static_cast<Value>(old + static_cast<Value>(value));
  return old;
}
template <typename Value>
Value atomicMin(Value* address, Value value) {
  const Value old = *address;
  if (value < old) *address = value;
  return old;
}
template <typename Value>
Value atomicMax(Value* address, Value value) {
  const Value old = *address;
  if (value > old) *address = value;
  return old;
}
template <typename Value>
Value atomicOr(Value* address, Value value) {
  const Value old = *address;
  *address = old | value;
  return old;
}
template <typename Value>
Value atomicExch(Value* address, Value value) {
  const Value old = *address;
  *address = value;
  return old;
}
template <typename Value>
Value atomicCAS(Value* address, Value compare, Value value) {
  const Value old = *address;
  if (old == compare) *address = value;
  return old;
}

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorMemoryAllocation,
  cudaErrorNoDevice,
  cudaErrorInvalidDevice,
  cudaErrorInsufficientDriver,
  cudaErrorInitializationError,
  cudaErrorSystemNotReady,
  cudaErrorSystemDriverMismatch,
  cudaErrorCompatNotSupportedOnDevice,
  cudaErrorNoKernelImageForDevice,
  cudaErrorUnsupportedPtxVersion,
  cudaErrorIllegalAddress,
  cudaErrorIllegalInstruction,
  cudaErrorMisalignedAddress,
  cudaErrorHardwareStackError,
  cudaErrorLaunchTimeout,
  cudaErrorLaunchFailure,
  cudaErrorECCUncorrectable,
  cudaErrorDevicesUnavailable,
  cudaErrorAssert,
  cudaErrorNotSupported,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMemoryPoolsSupported,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold };
using cudaStream_t = int*;
using cudaEvent_t = int*;
using cudaMemPool_t = int*;
using cudaGraph_t = int*;
using cudaGraphExec_t = int*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount, l2CacheSize;
};
constexpr unsigned cudaStreamNonBlocking = 1;

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes);
cudaError_t cudaMalloc(void** memory, std::size_t bytes);
cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaFree(void* memory);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* memory, int byte, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
// Kernels run when they are launched, so none can be recorded: the first of these fails.
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value);

namespace lowbit {

template <typename... Parameters>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes,
                          cudaStream_t stream, Parameters... parameters) {
  // As CUDA does: a stream belongs to the device that was current when it was made, and y and z end early.
  if (*stream != emulator::current_device() || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidValue;
  const auto body = [&] { kernel(parameters...); };
  emulator::run(
      grid, threads, shared_bytes, [](const void* context) { (*static_cast<const decltype(body)*>(context))(); },
      &body);
  return cudaSuccess;
}

inline unsigned char* shared_memory() { return emulator::shared; }

}  // namespace lowbit
