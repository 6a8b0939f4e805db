#include "node/weights.h"

#include <utility>

#include "node/calls.h"
#include "ops/matmul/packed_file.h"

namespace lowbit::node {
namespace {

constexpr napi_type_tag kWeightTag = {0x8a3c1f5e6d204b97, 0xb1e90c72d45fa638};

struct Handle {
  WeightSlot slot;
  std::int64_t reported = 0;  // bytes that the garbage collector knows of
};

void report(napi_env env, Handle& handle, std::int64_t bytes) {
  std::int64_t total = 0;
  napi_adjust_external_memory(env, bytes - handle.reported, &total);
  handle.reported = bytes;
}

void finalize(napi_env env, void* data, void*) {
  auto* const handle = static_cast<Handle*>(data);
  report(env, *handle, 0);
  delete handle;
}

Napi::Value handle_of(Napi::Env env, WeightSlot slot) {
  Napi::Object object = Napi::Object::New(env);
  auto* const handle = new Handle{std::move(slot)};
  if (napi_wrap(env, object, handle, &finalize, nullptr, nullptr) != napi_ok) {
    delete handle;
    throw Napi::Error::New(env);
  }
  if (napi_type_tag_object(env, object, &kWeightTag) != napi_ok) throw Napi::Error::New(env);
  return object;
}

Handle& handle_at(const Arguments& a, std::size_t i) {
  bool tagged = false;
  void* data = nullptr;
  const napi_value value = a.info()[i];
  if (!a.info()[i].IsObject() || napi_check_object_type_tag(a.env(), value, &kWeightTag, &tagged) != napi_ok ||
      !tagged || napi_unwrap(a.env(), value, &data) != napi_ok) {
    a.fail("Expected a packed weight.");
  }
  return *static_cast<Handle*>(data);
}

Napi::Value create_weight(const Napi::CallbackInfo& info) {
  return guarded(info, [&] { return handle_of(info.Env(), WeightSlot::make()); });
}

Napi::Value share_weight(const Napi::CallbackInfo& info) {
  return guarded(info, [&] { return handle_of(info.Env(), slot_at(Arguments(info), 0)); });
}

Napi::Value describe_weight(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Weight weight = weight_at(a, 0);
  const PackedLayout& l = weight->layout;
  const std::size_t bytes = l.bytes();
  report(info.Env(), handle_at(a, 0), static_cast<std::int64_t>(bytes));
  Napi::Float64Array numbers = Napi::Float64Array::New(info.Env(), 6);
  numbers[0] = static_cast<double>(l.kind);
  numbers[1] = static_cast<double>(l.rows);
  numbers[2] = static_cast<double>(l.columns);
  numbers[3] = static_cast<double>(bytes);
  numbers[4] = l.kind == WeightKind::kIntegers && l.zero != 0 ? 1.0 : 0.0;
  numbers[5] = static_cast<double>(kPackedHeaderBytes + bytes);
  return numbers;
}

Napi::Value dispose_weight(const Napi::CallbackInfo& info) {
  Handle& handle = handle_at(Arguments(info), 0);
  report(info.Env(), handle, 0);
  handle.slot.reset();
  return info.Env().Undefined();
}

}  // namespace

WeightSlot slot_at(const Arguments& a, std::size_t i) {
  WeightSlot slot = handle_at(a, i).slot;
  a.check(static_cast<bool>(slot), "Expected a packed weight that has not been disposed.");
  return slot;
}

Weight weight_at(const Arguments& a, std::size_t i) {
  WeightSlot slot = slot_at(a, i);
  a.check(slot->filled, "Expected a packed weight that holds something.");
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
