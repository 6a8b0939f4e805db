#pragma once

#include <napi.h>

#include <utility>

#include "node/arguments.h"
#include "node/device.h"
#include "node/shared.h"
#include "ops/matmul/linear_cuda.h"
#include "ops/matmul/packed_weight.h"

// Packed weights as JavaScript holds them: those of the processor, and those in memory of a device.

namespace lowbit::node {

// A weight that a device's own kernels packed.
struct DeviceWeight {
  MemorySlot memory;  // none: this is not one
  WeightKind kind{};
  std::size_t rows = 0, columns = 0;
  CudaPackedLayout layout{};  // but for kIntegers
  bool is_signed = false;     // kIntegers
};

// What a handle refers to: nothing until a call has packed or loaded into it.
struct HeldWeight {
  PackedWeight weight{};
  DeviceWeight on_device;
  bool filled = false;

  void fill(PackedWeight&& packed) {
    weight = std::move(packed);
    filled = true;
  }
  void fill(DeviceWeight&& packed) {
    on_device = std::move(packed);
    filled = true;
  }
};
using WeightSlot = Shared<HeldWeight>;

// The slot of a handle that createWeight() made: for what fills it.
WeightSlot slot_at(const Arguments& a, std::size_t i);

// A weight of the processor to compute with, or none. Shares the ownership of its slot.
class Weight {
 public:
  Weight() = default;
  explicit Weight(WeightSlot slot) : slot_(std::move(slot)) {}
  const PackedWeight* get() const { return slot_ ? &slot_->weight : nullptr; }
  const PackedWeight* operator->() const { return get(); }
  explicit operator bool() const { return static_cast<bool>(slot_); }

 private:
  WeightSlot slot_;
};
Weight weight_at(const Arguments& a, std::size_t i);
// The same, or null.
Weight optional_weight_at(const Arguments& a, std::size_t i);
// The slot of a weight on a device.
WeightSlot device_weight_at(const Arguments& a, std::size_t i);
bool is_weight(const Arguments& a, std::size_t i);

// createWeight(): a handle with nothing in it. shareWeight(handle): another handle of the same weight.
// describeWeight(handle): [kind, rows, columns, bytes, signed, bytes of its file, device or -1], and from then on the
// garbage collector knows of its size. disposeWeight(handle): frees it, unless a job still needs it.
void register_weight_calls(Napi::Env env, Napi::Object exports);

}  // namespace lowbit::node
