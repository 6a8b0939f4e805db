#include "node/device.h"

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/cuda.h"
#include "core/monitor.h"
#include "node/calls.h"

namespace lowbit::node {
namespace {

// Idle streams, for the whole process; never destroyed, like the thread pool.
class StreamPool {
 public:
  static StreamPool& instance() {
    static StreamPool* const pool = new StreamPool;
    return *pool;
  }

  CudaStream* take(std::int32_t device) {
    const std::lock_guard<Monitor> lock(monitor_);
    for (std::size_t i = idle_.size(); i-- > 0;) {
      if (idle_[i].device != device) continue;
      CudaStream* const stream = idle_[i].stream;
      idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(i));
      return stream;
    }
    return nullptr;
  }

  // Whether it was kept.
  bool give_back(std::int32_t device, CudaStream* stream) {
    constexpr std::size_t kMostIdle = 4;  // of a device: calls at the same time are those of worker threads
    const std::lock_guard<Monitor> lock(monitor_);
    std::size_t count = 0;
    for (const Idle& idle : idle_) count += idle.device == device ? 1 : 0;
    if (count >= kMostIdle) return false;
    idle_.push_back({device, stream});
    return true;
  }

 private:
  struct Idle {
    std::int32_t device;
    CudaStream* stream;
  };
  Monitor monitor_;
  std::vector<Idle> idle_;
};

const char* code_of(CudaStatus status) {
  switch (status) {
    case CudaStatus::kOutOfMemory:
      return "DEVICE_OUT_OF_MEMORY";
    case CudaStatus::kNoDevice:
      return "NO_DEVICE";
    case CudaStatus::kLost:
      return "DEVICE_LOST";
    case CudaStatus::kUnsupported:
      return "DEVICE_UNSUPPORTED";
    default:
      return "DEVICE_FAILED";
  }
}

void throw_if(const CudaApi& api, CudaStatus status, std::int32_t device, std::size_t bytes) {
  if (status == CudaStatus::kOk) return;
  throw Failure(code_of(status), api.last_error()).on(device, static_cast<double>(bytes));
}

struct MemoryHandle {
  static constexpr napi_type_tag kTag = {0x5d0f3b6c91e84a27, 0x9c27e1485ab0d36f};
  static constexpr char kName[] = "memory of a device";
};
using MemoryHandles = Handles<DeviceMemory, MemoryHandle>;

}  // namespace

Device::Device(std::int32_t device) : device_(device), api_(cuda_module().api) {
  if (api_ == nullptr) throw Failure("NO_DEVICE", cuda_module().reason).on(device);
  stream_ = StreamPool::instance().take(device);
  if (stream_ == nullptr) throw_if(*api_, api_->open_stream(device, &stream_), device, 0);
}

Device::~Device() {
  if (!StreamPool::instance().give_back(device_, stream_)) api_->close_stream(stream_);
}

void Device::check(CudaStatus status, std::size_t bytes) const { throw_if(*api_, status, device_, bytes); }

DeviceMemory::~DeviceMemory() {
  void* const memory = data_.load();
  if (memory == nullptr) return;
  try {
    const Device on(device);
    on.api().release(on.stream(), memory);
  } catch (const Failure&) {
    return;  // the device is lost, and its memory with it
  }
}

void* DeviceMemory::allocated(const Device& on) {
  void* memory = data_.load();
  if (memory == nullptr && bytes != 0) {
    on.check(on.api().allocate(on.stream(), bytes, &memory), bytes);
    data_.store(memory);
  }
  return memory;
}

MemorySlot MemorySlot::make(std::int32_t device, std::size_t bytes) {
  Shared<DeviceMemory> memory = Shared<DeviceMemory>::make();
  memory->device = device;
  memory->bytes = bytes;
  return MemorySlot(std::move(memory));
}

void DeviceArguments::on(std::int32_t device, const char* name) {
  if (device_ != -1 && device != device_) {
    a_.fail(std::string("Expected ") + name + " on the same device as the other arguments.", name);
  }
  device_ = device;
}

MemorySlot DeviceArguments::at(std::size_t i, const char* name, bool written) {
  MemorySlot slot(MemoryHandles::at(a_, i));
  on(slot.device(), name);
  for (std::size_t other = 0; other < count_; other++) {
    if ((written || written_[other]) && slot.is(memories_[other])) {
      a_.fail("Expected what is written not to be read, or written twice, by the same call.", name);
    }
  }
  a_.check(count_ < kMost, "Expected fewer arguments.");
  written_[count_] = written;
  memories_[count_++] = slot;
  if (!written && !slot.is_written()) a_.fail("Expected memory that has been written.", name);
  return slot;
}

MemorySlot DeviceArguments::input(std::size_t i, const char* name) { return at(i, name, false); }

MemorySlot DeviceArguments::input(std::size_t i, const char* name, std::size_t bytes) {
  MemorySlot slot = at(i, name, false);
  if (slot.bytes() != bytes) a_.fail(std::string("Expected ") + name + " to be of another size.", name);
  return slot;
}

MemorySlot DeviceArguments::optional_input(std::size_t i, const char* name, std::size_t bytes) {
  return a_.is_null(i) ? MemorySlot() : input(i, name, bytes);
}

MemorySlot DeviceArguments::output(std::size_t i, const char* name, std::size_t bytes) {
  MemorySlot slot = at(i, name, true);
  if (slot.bytes() != bytes) a_.fail(std::string("Expected ") + name + " to be of another size.", name);
  return slot;
}

MemorySlot DeviceArguments::optional_output(std::size_t i, const char* name, std::size_t bytes) {
  return a_.is_null(i) ? MemorySlot() : output(i, name, bytes);
}

bool DeviceArguments::is_memory(std::size_t i) const { return MemoryHandles::is_at(a_, i); }

// --- calls ---

namespace {

// cudaDevices(): { reason?, devices }, of which a reason says why there are none. Opens the module.
Napi::Value cuda_devices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  Napi::Array devices = Napi::Array::New(env);
  const CudaModule& module = cuda_module();
  std::string reason = module.reason;
  for (std::int32_t i = 0; module.api != nullptr && i < module.devices; i++) {
    CudaDeviceInfo d{};
    if (module.api->device_info(i, &d) != CudaStatus::kOk) {
      reason = std::string("CUDA says of device ") + std::to_string(i) + ": " + module.api->last_error() + ".";
      continue;
    }
    Napi::Object device = Napi::Object::New(env);
    device.Set("index", Napi::Number::New(env, i));
    device.Set("name", Napi::String::New(env, d.name));
    device.Set("computeCapability", Napi::String::New(env, std::to_string(d.major) + "." + std::to_string(d.minor)));
    device.Set("memoryBytes", Napi::Number::New(env, static_cast<double>(d.total_bytes)));
    device.Set("freeBytes", Napi::Number::New(env, static_cast<double>(d.free_bytes)));
    device.Set("multiprocessors", Napi::Number::New(env, d.multiprocessors));
    devices.Set(devices.Length(), device);
  }
  result.Set("devices", devices);
  if (!reason.empty()) result.Set("reason", Napi::String::New(env, reason));
  return result;
}

// createMemory(device, bytes): a handle, with nothing behind it until it is written.
Napi::Value create_memory(const Napi::CallbackInfo& info) {
  return guarded(info, [&] {
    const Arguments a(info);
    Shared<DeviceMemory> memory = Shared<DeviceMemory>::make();
    memory->device = static_cast<std::int32_t>(a.integer(0, "device", 0, INT32_MAX));
    memory->bytes = a.size(1, "bytes");
    return MemoryHandles::make(info.Env(), std::move(memory));
  });
}

// shareMemory(handle): another handle of the same memory.
Napi::Value share_memory(const Napi::CallbackInfo& info) {
  return guarded(info, [&] { return MemoryHandles::make(info.Env(), MemoryHandles::at(Arguments(info), 0)); });
}

// describeMemory(handle): [device, bytes], and from then on the garbage collector knows of its size.
Napi::Value describe_memory(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Shared<DeviceMemory> memory = MemoryHandles::at(a, 0);
  MemoryHandles::report(a, 0, memory->bytes);
  Napi::Float64Array numbers = Napi::Float64Array::New(info.Env(), 2);
  numbers[0] = static_cast<double>(memory->device);
  numbers[1] = static_cast<double>(memory->bytes);
  return numbers;
}

// disposeMemory(handle): frees it, unless a job still needs it.
Napi::Value dispose_memory(const Napi::CallbackInfo& info) {
  MemoryHandles::dispose(Arguments(info), 0);
  return info.Env().Undefined();
}

// upload(handle, array)
Work prepare_upload(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes array = a.any_array(1, "array");
  DeviceArguments d(a);
  const MemorySlot memory = d.output(0, "memory", array.size);
  return [=](const CancelFlag* cancel) {
    return on_device(memory.device(), cancel, [&](const Device& on) {
      void* const data = memory.write<void>(on);
      on.check(on.api().upload(on.stream(), data, array.data, array.size));
    });
  };
}

// download(handle, offset, array): its bytes from an offset on, as many as the array has.
Work prepare_download(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  DeviceArguments d(a);
  const MemorySlot memory = d.input(0, "memory");
  const std::size_t offset = a.size(1, "offset");
  const Bytes array = a.any_array(2, "array");
  a.check(offset <= memory.bytes() && array.size <= memory.bytes() - offset, "Expected a part of the memory.");
  return [=](const CancelFlag* cancel) {
    return on_device(memory.device(), cancel, [&](const Device& on) {
      if (array.size == 0) return;
      on.check(on.api().download(on.stream(), array.data, memory.read<std::uint8_t>() + offset, array.size));
    });
  };
}

// copyMemory(from, to)
Work prepare_copy(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  DeviceArguments d(a);
  const MemorySlot from = d.input(0, "from"), to = d.output(1, "to", from.bytes());
  return [=](const CancelFlag* cancel) {
    return on_device(from.device(), cancel, [&](const Device& on) {
      void* const out = to.write<void>(on);
      on.check(on.api().copy(on.stream(), out, from.read<void>(), from.bytes()));
    });
  };
}

// checkParameters(scales, zeroPoints | null, positive, lowest, highest, prefix): what other calls check of the host's
// parameters, for those that go to a device.
Napi::Value check_parameters(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes scales = a.array(0, "scales", napi_float32_array);
  const Bytes zero_points = a.is_null(1) ? Bytes{} : a.array(1, "zeroPoints", napi_int32_array);
  const std::string prefix = a.string(5, "prefix");
  check_scales(a, (prefix + "scales").c_str(), scales.as<const float>(), scales.size / sizeof(float),
               a.flag(2, "positive"));
  check_zero_points(a, (prefix + "zeroPoints").c_str(), zero_points.as<const std::int32_t>(),
                    zero_points.size / sizeof(std::int32_t),
                    static_cast<int>(a.integer(3, "lowest", INT32_MIN, INT32_MAX)),
                    static_cast<int>(a.integer(4, "highest", INT32_MIN, INT32_MAX)));
  return info.Env().Undefined();
}

}  // namespace

void register_device_calls(Napi::Env env, Napi::Object exports) {
  exports.Set("cudaDevices", Napi::Function::New<cuda_devices>(env, "cudaDevices"));
  exports.Set("createMemory", Napi::Function::New<create_memory>(env, "createMemory"));
  exports.Set("shareMemory", Napi::Function::New<share_memory>(env, "shareMemory"));
  exports.Set("describeMemory", Napi::Function::New<describe_memory>(env, "describeMemory"));
  exports.Set("disposeMemory", Napi::Function::New<dispose_memory>(env, "disposeMemory"));
  exports.Set("checkParameters", Napi::Function::New<check_parameters>(env, "checkParameters"));
  register_call<prepare_upload>(env, exports, "upload");
  register_call<prepare_copy>(env, exports, "copyMemory");
  register_call<prepare_download>(env, exports, "download");
  register_device_tensor_calls(env, exports);
  register_device_matmul_calls(env, exports);
}

}  // namespace lowbit::node
