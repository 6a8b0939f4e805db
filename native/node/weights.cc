#include "node/weights.h"

#include <utility>

#include "node/calls.h"
#include "ops/matmul/packed_file.h"

namespace lowbit::node {
namespace {

struct WeightHandle {
  static constexpr napi_type_tag kTag = {0x8a3c1f5e6d204b97, 0xb1e90c72d45fa638};
  static constexpr char kName[] = "a packed weight";
};
using WeightHandles = Handles<HeldWeight, WeightHandle>;

Napi::Value create_weight(const Napi::CallbackInfo& info) {
  return guarded(info, [&] { return WeightHandles::make(info.Env(), WeightSlot::make()); });
}

Napi::Value share_weight(const Napi::CallbackInfo& info) {
  return guarded(info, [&] { return WeightHandles::make(info.Env(), slot_at(Arguments(info), 0)); });
}

Napi::Value describe_weight(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const WeightSlot slot = slot_at(a, 0);
  a.check(slot->filled, "Expected a packed weight that holds something.");
  Napi::Float64Array numbers = Napi::Float64Array::New(info.Env(), 7);
  if (const DeviceWeight& w = slot->on_device; w.memory) {
    WeightHandles::report(a, 0, w.memory.bytes());
    numbers[0] = static_cast<double>(w.kind);
    numbers[1] = static_cast<double>(w.rows);
    numbers[2] = static_cast<double>(w.columns);
    numbers[3] = static_cast<double>(w.memory.bytes());
    numbers[4] = w.is_signed ? 1.0 : 0.0;
    numbers[5] = 0.0;
    numbers[6] = static_cast<double>(w.memory.device());
    return numbers;
  }
  const PackedLayout& l = slot->weight.layout;
  const std::size_t bytes = l.bytes();
  WeightHandles::report(a, 0, bytes);
  numbers[0] = static_cast<double>(l.kind);
  numbers[1] = static_cast<double>(l.rows);
  numbers[2] = static_cast<double>(l.columns);
  numbers[3] = static_cast<double>(bytes);
  numbers[4] = l.kind == WeightKind::kIntegers && l.zero != 0 ? 1.0 : 0.0;
  numbers[5] = static_cast<double>(kPackedHeaderBytes + bytes);
  numbers[6] = -1.0;
  return numbers;
}

Napi::Value dispose_weight(const Napi::CallbackInfo& info) {
  WeightHandles::dispose(Arguments(info), 0);
  return info.Env().Undefined();
}

}  // namespace

WeightSlot slot_at(const Arguments& a, std::size_t i) { return WeightHandles::at(a, i); }

bool is_weight(const Arguments& a, std::size_t i) { return WeightHandles::is_at(a, i); }

WeightSlot device_weight_at(const Arguments& a, std::size_t i) {
  WeightSlot slot = slot_at(a, i);
  a.check(slot->filled && slot->on_device.memory, "Expected a packed weight on a device.");
  return slot;
}

Weight weight_at(const Arguments& a, std::size_t i) {
  WeightSlot slot = slot_at(a, i);
  a.check(slot->filled && !slot->on_device.memory, "Expected a packed weight of the processor that holds something.");
  return Weight(std::move(slot));
}

Weight optional_weight_at(const Arguments& a, std::size_t i) { return a.is_null(i) ? Weight() : weight_at(a, i); }

void register_weight_calls(Napi::Env env, Napi::Object exports) {
  exports.Set("createWeight", Napi::Function::New<create_weight>(env, "createWeight"));
  exports.Set("shareWeight", Napi::Function::New<share_weight>(env, "shareWeight"));
  exports.Set("describeWeight", Napi::Function::New<describe_weight>(env, "describeWeight"));
  exports.Set("disposeWeight", Napi::Function::New<dispose_weight>(env, "disposeWeight"));
}

}  // namespace lowbit::node
