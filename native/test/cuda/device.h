#pragma once

// What tests of the CUDA module need: its functions, a stream, and buffers of a device.

#include <initializer_list>

#include "core/cuda.h"
#include "test/check.h"

namespace lowbit::test {

// To loop over.
using Sizes = std::initializer_list<std::size_t>;

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
