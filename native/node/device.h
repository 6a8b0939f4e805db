#pragma once

#include <napi.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/thread_pool.h"
#include "cuda/abi.h"
#include "node/arguments.h"
#include "node/failure.h"
#include "node/handles.h"

// Work on a device: its memory as JavaScript holds it, and the streams on which operations run. Every call waits for
// its stream before it ends, so that memory can be used from any call, on any thread, afterwards.

namespace lowbit::node {

// A stream of a device, from a small pool of idle ones.
class Device {
 public:
  // Throws a Failure with the code NO_DEVICE where there is none.
  explicit Device(std::int32_t device);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const CudaApi& api() const { return *api_; }
  CudaStream* stream() const { return stream_; }
  std::int32_t index() const { return device_; }

  // Throws the Failure that stands for a status other than kOk; `bytes` is how much memory was asked for.
  void check(CudaStatus status, std::size_t bytes = 0) const;

 private:
  std::int32_t device_;
  const CudaApi* api_;
  CudaStream* stream_ = nullptr;
};

// Memory of a device, which is there from the first call on that writes it.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory();

  std::int32_t device = 0;
  std::size_t bytes = 0;

  void* allocated(const Device& on);
  const void* data() const { return data_.load(); }
  bool is_written() const { return data() != nullptr || bytes == 0; }

 private:
  std::atomic<void*> data_{nullptr};  // written by a worker, looked at by the thread that makes calls
};

// A share of some memory; or of none, which stands for a null pointer.
class MemorySlot {
 public:
  MemorySlot() = default;
  explicit MemorySlot(Shared<DeviceMemory> memory) : memory_(std::move(memory)) {}
  static MemorySlot make(std::int32_t device, std::size_t bytes);

  explicit operator bool() const { return static_cast<bool>(memory_); }
  std::int32_t device() const { return memory_->device; }
  std::size_t bytes() const { return memory_ ? memory_->bytes : 0; }
  template <typename T>
  const T* read() const {
    return memory_ ? static_cast<const T*>(memory_->data()) : nullptr;
  }
  template <typename T>
  T* write(const Device& on) const {
    return memory_ ? static_cast<T*>(memory_->allocated(on)) : nullptr;
  }
  bool is_written() const { return memory_->is_written(); }
  bool is(const MemorySlot& other) const { return memory_ && other.memory_ && &*memory_ == &*other.memory_; }

 private:
  Shared<DeviceMemory> memory_;
};

// The memories among the arguments of one call: all of them on one device, and what is written not read as well.
class DeviceArguments {
 public:
  explicit DeviceArguments(const Arguments& a) : a_(a) {}

  MemorySlot input(std::size_t i, const char* name, std::size_t bytes);
  // The same, or null.
  MemorySlot optional_input(std::size_t i, const char* name, std::size_t bytes);
  // Of whatever size.
  MemorySlot input(std::size_t i, const char* name);
  MemorySlot output(std::size_t i, const char* name, std::size_t bytes);
  // Written, and read if it has been written before.
  MemorySlot updated(std::size_t i, const char* name, std::size_t bytes) { return output(i, name, bytes); }
  MemorySlot optional_output(std::size_t i, const char* name, std::size_t bytes);
  bool is_memory(std::size_t i) const;
  // Something else of the call that is on a device.
  void on(std::int32_t device, const char* name);
  std::int32_t device() const { return device_; }

 private:
  MemorySlot at(std::size_t i, const char* name, bool written);

  const Arguments& a_;
  std::int32_t device_ = -1;
  std::size_t count_ = 0;
  static constexpr std::size_t kMost = 8;
  MemorySlot memories_[kMost];
  bool written_[kMost] = {};
};

// Queues work with queue(device) on a stream and waits for it. What is queued when that throws is waited for as well.
template <typename Queue>
Outcome on_device(std::int32_t index, const CancelFlag* cancel, const Queue& queue) {
  const auto cancelled = [&] { return cancel != nullptr && cancel->load(); };
  if (cancelled()) return {Status::kCancelled, -1};
  const Device device(index);
  Outcome outcome;
  try {
    queue(device);
  } catch (...) {
    device.api().synchronize(device.stream(), &outcome);
    throw;
  }
  device.check(device.api().synchronize(device.stream(), &outcome));
  return cancelled() ? Outcome{Status::kCancelled, -1} : outcome;
}

}  // namespace lowbit::node
