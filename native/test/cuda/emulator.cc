#include "test/cuda/emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define LOWBIT_FIBER_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/common_interface_defs.h>
#define LOWBIT_FIBER_SANITIZER 1
#endif
#endif

namespace {

// LOWBIT_EMULATED_DEVICES, LOWBIT_EMULATED_CAPABILITY (80 stands for 8.0), LOWBIT_EMULATED_BYTES, LOWBIT_EMULATED_LOST
// (1: kernels fail), LOWBIT_EMULATED_BACKWARD, LOWBIT_EMULATED_LATE: what the tests pretend.
long setting(const char* name, long usual) {
  const char* text = std::getenv(name);
  return text == nullptr ? usual : std::strtol(text, nullptr, 10);
}

}  // namespace

namespace lowbit::emulator {

Thread current;
unsigned char* shared = nullptr;

namespace {

constexpr std::size_t kStackBytes = 256 << 10;
constexpr unsigned kLanes = 32;
constexpr std::size_t kSlotBytes = 64;
constexpr std::size_t kCopyBytes = 16;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack;
  Thread state;
  enum class Waits : std::uint8_t { kNo, kForBlock, kForWarp, kEnded } waits;
  unsigned mask;  // of the warp barrier that it waits at
  struct Copy {
    void* to;
    const void* from;  // or nullptr: zeros
    unsigned group;
  };
  std::vector<Copy> copies;  // under way
  unsigned group;            // of the next copy
};

// What a device may do in either order, to be tried in both: threads and blocks run from the last to the first, and
// copies arrive when they are waited for.
bool backward = false, late = false;

// One launch at a time: kernels share `current` and their static shared variables.
std::mutex launching;
std::vector<std::unique_ptr<Fiber>> fibers;
ucontext_t scheduler;
Fiber* running = nullptr;
void (*body)(const void*) = nullptr;
const void* context = nullptr;
std::vector<unsigned char> exchanges;  // kSlotBytes for each thread of a block

#if LOWBIT_FIBER_SANITIZER
const void* scheduler_stack = nullptr;
std::size_t scheduler_stack_bytes = 0;
#endif

void back_to_scheduler(bool ended) {
#if LOWBIT_FIBER_SANITIZER
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(ended ? nullptr : &fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
  static_cast<void>(ended);
  swapcontext(&running->context, &scheduler);
#if LOWBIT_FIBER_SANITIZER
  __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void fiber_main() {
#if LOWBIT_FIBER_SANITIZER
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  body(context);
  running->waits = Fiber::Waits::kEnded;
  back_to_scheduler(true);
}

void resume(Fiber& fiber) {
  running = &fiber;
  current = fiber.state;
#if LOWBIT_FIBER_SANITIZER
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fiber.stack.get(), kStackBytes);
#endif
  swapcontext(&scheduler, &fiber.context);
#if LOWBIT_FIBER_SANITIZER
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void wait(Fiber::Waits what, unsigned mask) {
  Fiber* own = running;
  own->waits = what;
  own->mask = mask;
  back_to_scheduler(false);
}

// Lets those go on that wait at a barrier where all others have come. Threads that have ended are waited for by nobody.
bool release_warps(unsigned threads) {
  bool released = false;
  for (unsigned begin = 0; begin < threads; begin += kLanes) {
    const unsigned lanes = std::min(kLanes, threads - begin);
    for (unsigned first = 0; first < lanes; first++) {
      const Fiber& fiber = *fibers[begin + first];
      if (fiber.waits != Fiber::Waits::kForWarp) continue;
      const unsigned mask = fiber.mask;
      bool all = true;
      for (unsigned lane = 0; lane < lanes; lane++) {
        if ((mask >> lane & 1U) == 0) continue;
        const Fiber& other = *fibers[begin + lane];
        all = all &&
              (other.waits == Fiber::Waits::kEnded || (other.waits == Fiber::Waits::kForWarp && other.mask == mask));
      }
      if (!all) continue;
      for (unsigned lane = 0; lane < lanes; lane++) {
        Fiber& other = *fibers[begin + lane];
        if ((mask >> lane & 1U) != 0 && other.waits == Fiber::Waits::kForWarp) other.waits = Fiber::Waits::kNo;
      }
      released = true;
    }
  }
  return released;
}

bool release_block(unsigned threads) {
  bool any = false;
  for (unsigned i = 0; i < threads; i++) {
    if (fibers[i]->waits == Fiber::Waits::kForBlock) {
      any = true;
    } else if (fibers[i]->waits != Fiber::Waits::kEnded) {
      return false;
    }
  }
  for (unsigned i = 0; any && i < threads; i++) {
    if (fibers[i]->waits == Fiber::Waits::kForBlock) fibers[i]->waits = Fiber::Waits::kNo;
  }
  return any;
}

void begin(Fiber& fiber, unsigned thread, dim3 block, dim3 grid, unsigned threads) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
  fiber.state = {dim3(thread, 0, 0), block, dim3(threads), grid, thread % kLanes, thread / kLanes};
  fiber.waits = Fiber::Waits::kNo;
  fiber.copies.clear();
  fiber.group = 0;
}

void run_block(dim3 block, dim3 grid, unsigned threads) {
  for (unsigned i = 0; i < threads; i++) begin(*fibers[i], i, block, grid, threads);
  for (bool more = true; more;) {
    more = false;
    for (unsigned i = 0; i < threads; i++) {
      Fiber& fiber = *fibers[backward ? threads - 1 - i : i];
      if (fiber.waits != Fiber::Waits::kNo) continue;
      resume(fiber);
      more = true;
    }
    if (release_warps(threads) || release_block(threads)) more = true;
  }
  for (unsigned i = 0; i < threads; i++) {
    if (fibers[i]->waits == Fiber::Waits::kEnded) continue;
    std::fprintf(stderr,
                 "A kernel hangs: thread %u of block (%u, %u, %u) waits at a barrier that others never reach.\n", i,
                 block.x, block.y, block.z);
    std::abort();
  }
}

}  // namespace

void wait_for_block() { wait(Fiber::Waits::kForBlock, 0); }

void wait_for_warp(unsigned mask) { wait(Fiber::Waits::kForWarp, mask); }

void arrive(const Fiber::Copy& copy) {
  if (copy.from != nullptr) {
    std::memcpy(copy.to, copy.from, kCopyBytes);
  } else {
    std::memset(copy.to, 0, kCopyBytes);
  }
}

void copy_async(void* to, const void* from) {
  const Fiber::Copy copy = {to, from, running->group};
  if (!late) return arrive(copy);
  running->copies.push_back(copy);
}

void commit_copies() { running->group++; }

void wait_for_copies(unsigned groups) {
  std::vector<Fiber::Copy>& copies = running->copies;
  const auto first_left = std::find_if(copies.begin(), copies.end(),
                                       [&](const Fiber::Copy& copy) { return copy.group + groups >= running->group; });
  std::for_each(copies.begin(), first_left, arrive);
  copies.erase(copies.begin(), first_left);
}

unsigned char* exchange(unsigned lane) { return exchanges.data() + kSlotBytes * (current.warp * kLanes + lane); }

void run(dim3 grid, unsigned threads, std::size_t shared_bytes, void (*kernel)(const void*), const void* arguments) {
  const std::lock_guard<std::mutex> lock(launching);
  body = kernel;
  context = arguments;
  while (fibers.size() < threads) {
    fibers.push_back(std::make_unique<Fiber>());
    fibers.back()->stack = std::make_unique<unsigned char[]>(kStackBytes);
  }
  exchanges.resize(kSlotBytes * ((threads + kLanes - 1) / kLanes) * kLanes);
  // Of exactly this size, and 1024-byte aligned as on a device.
  const std::size_t bytes = (std::max<std::size_t>(shared_bytes, 1) + 1023) / 1024 * 1024;
  shared = static_cast<unsigned char*>(std::aligned_alloc(1024, bytes));
  backward = setting("LOWBIT_EMULATED_BACKWARD", 0) != 0;
  late = setting("LOWBIT_EMULATED_LATE", 0) != 0;
  const std::size_t blocks = std::size_t{grid.x} * grid.y * grid.z;
  for (std::size_t i = 0; i < blocks; i++) {
    const std::size_t block = backward ? blocks - 1 - i : i;
    std::memset(shared, 0xa5, bytes);
    run_block(dim3(static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
                   static_cast<unsigned>(block / grid.x / grid.y)),
              grid, threads);
  }
  std::free(shared);
  shared = nullptr;
}

}  // namespace lowbit::emulator

// --- the runtime
// ------------------------------------------------------------------------------------------------------

namespace {

std::mutex allocating;
std::unordered_map<void*, std::size_t> allocations;
std::size_t allocated = 0;
thread_local cudaError_t last = cudaSuccess;
thread_local int device_in_use = 0;

std::size_t total_memory() { return static_cast<std::size_t>(setting("LOWBIT_EMULATED_BYTES", 4L << 30)); }

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

bool is_device(int device) { return device >= 0 && device < setting("LOWBIT_EMULATED_DEVICES", 1); }

}  // namespace

int lowbit::emulator::current_device() { return device_in_use; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    default:
      return "an error";
  }
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = cudaSuccess;
  return error;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(setting("LOWBIT_EMULATED_DEVICES", 1));
  return remember(*count == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int device) {
  if (!is_device(device)) return remember(cudaErrorInvalidDevice);
  device_in_use = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!is_device(device)) return remember(cudaErrorInvalidDevice);
  const long capability = setting("LOWBIT_EMULATED_CAPABILITY", 80);
  std::strncpy(properties->name, "Emulated device", sizeof properties->name);
  properties->major = static_cast<int>(capability / 10);
  properties->minor = static_cast<int>(capability % 10);
  properties->multiProcessorCount = 4;
  properties->l2CacheSize = 1 << 20;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = properties.major < 8 ? 64 << 10 : 227 << 10;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  const std::lock_guard<std::mutex> lock(allocating);
  *total_bytes = total_memory();
  *free_bytes = total_memory() - allocated;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const std::lock_guard<std::mutex> lock(allocating);
  *memory = nullptr;
  if (bytes > total_memory() - allocated) return remember(cudaErrorMemoryAllocation);
  // Of exactly this size, so that the address sanitizer sees what is beyond.
  if (posix_memalign(memory, 256, bytes) != 0) return remember(cudaErrorMemoryAllocation);
  std::memset(*memory, 0xa5, bytes);
  allocations[*memory] = bytes;
  allocated += bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  const std::lock_guard<std::mutex> lock(allocating);
  const auto found = allocations.find(memory);
  if (found == allocations.end()) return remember(cudaErrorInvalidValue);
  allocated -= found->second;
  allocations.erase(found);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) { return cudaFree(memory); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int byte, std::size_t bytes, cudaStream_t) {
  std::memset(memory, byte, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new int(device_in_use);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return remember(setting("LOWBIT_EMULATED_LOST", 0) != 0 ? cudaErrorLaunchFailure : cudaSuccess);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new int(0);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1.0F;  // nothing is timed here
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
