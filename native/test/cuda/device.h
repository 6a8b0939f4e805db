#pragma once

// What tests of the CUDA module need: its functions, a stream, and buffers of a device.

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>

#include "core/cuda.h"
#include "test/check.h"

namespace lowbit::test {

// To loop over.
using Sizes = std::initializer_list<std::size_t>;

// An environment variable that is set while this exists. (Not on Windows, where there is no emulator to tell.)
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) {
    const char* const before = std::getenv(name);
    was_set_ = before != nullptr;
    if (was_set_) before_ = before;
    set(value);
  }
  ~Setting() { set(was_set_ ? before_.c_str() : nullptr); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  void set(const char* value) const {
#if !defined(_WIN32)
    static_cast<void>(value != nullptr ? setenv(name_, value, 1) : unsetenv(name_));
#else
    static_cast<void>(value);
#endif
  }

  const char* name_;
  std::string before_;
  bool was_set_ = false;
};

// The module and a stream of its first device; the running test is skipped where there is none.
struct Device {
  const CudaApi* api = cuda_module().api;
  CudaStream* stream = nullptr;

  Device() {
    if (api == nullptr) {
      skip(cuda_module().reason);
      return;
    }
    const CudaStatus status = api->open_stream(0, &stream);
    CHECK(status == CudaStatus::kOk, "open_stream: %s", api->last_error());
  }
  ~Device() {
    if (api != nullptr) api->close_stream(stream);
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  explicit operator bool() const { return stream != nullptr; }

  void expect_ok(CudaStatus status, const char* what) const {
    CHECK(status == CudaStatus::kOk, "%s: status %d, %s", what, static_cast<int>(status), api->last_error());
  }
  Outcome synchronize() const {
    Outcome outcome;
    expect_ok(api->synchronize(stream, &outcome), "synchronize");
    return outcome;
  }
};

inline bool is_emulated(const Device& device) {
  CudaDeviceInfo info{};
  device.api->device_info(0, &info);
  return std::strcmp(info.name, "Emulated device") == 0;
}

// Before a Device: its layers are multiplied by whole warp groups, where that is not forbidden
// (LOWBIT_CUDA_WARPGROUPS=0).
class WarpGroups {
 public:
  // Skips the running test where there are none.
  bool of(const Device& device) const {
    if (!device) return false;
    const bool used = device.api->uses_warp_groups(device.stream);
    if (!used) {
      skip(forbidden_ ? "LOWBIT_CUDA_WARPGROUPS is 0" : "the device has no products of warp groups");
      CHECK(forbidden_ || !is_emulated(device), "the emulator has products of warp groups");
    }
    return used;
  }

 private:
  static bool is_forbidden() {
    const char* const said = std::getenv("LOWBIT_CUDA_WARPGROUPS");
    return said != nullptr && std::strcmp(said, "0") == 0;
  }

  bool forbidden_ = is_forbidden();
  Setting capability_{"LOWBIT_EMULATED_CAPABILITY", "90"};
  Setting groups_{"LOWBIT_CUDA_WARPGROUPS", forbidden_ ? "0" : "1"};
};

// Memory of a device, as large as the elements need and no larger.
template <typename T>
class DeviceBuffer {
 public:
  DeviceBuffer(const Device& device, std::size_t count) : device_(device), count_(count) {
    device.expect_ok(device.api->allocate(device.stream, count * sizeof(T), &memory_), "allocate");
  }
  DeviceBuffer(const Device& device, const T* host, std::size_t count) : DeviceBuffer(device, count) {
    device.expect_ok(device.api->upload(device.stream, memory_, host, count * sizeof(T)), "upload");
    device.expect_ok(device.api->synchronize(device.stream, nullptr), "synchronize");
  }
  DeviceBuffer(const Device& device, const Buffer<T>& host) : DeviceBuffer(device, host.data(), host.size()) {}
  DeviceBuffer(const Device& device, const std::vector<T>& host) : DeviceBuffer(device, host.data(), host.size()) {}
  ~DeviceBuffer() { device_.api->release(device_.stream, memory_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  T* data() const { return static_cast<T*>(memory_); }
  std::size_t size() const { return count_; }

  Buffer<T> host() const {
    Buffer<T> copy(count_);
    device_.expect_ok(device_.api->download(device_.stream, copy.data(), memory_, count_ * sizeof(T)), "download");
    device_.expect_ok(device_.api->synchronize(device_.stream, nullptr), "synchronize");
    return copy;
  }

 private:
  const Device& device_;
  std::size_t count_;
  void* memory_ = nullptr;
};

}  // namespace lowbit::test
