#pragma once

#include <napi.h>

#include <utility>

#include "node/arguments.h"
#include "node/shared.h"
#include "ops/matmul/packed_weight.h"

// Packed weights as JavaScript holds them: an object that only native code can make, with a type tag that tells it from
// every other. Jobs share the weight, so that it lives until they end, whatever JavaScript does meanwhile.

namespace lowbit::node {

// What a handle refers to: nothing until a call has packed or loaded into it.
struct HeldWeight {
  PackedWeight weight{};
  bool filled = false;

  void fill(PackedWeight&& packed) {
    weight = std::move(packed);
    filled = true;
  }
};
using WeightSlot = Shared<HeldWeight>;

// The slot of a handle that createWeight() made: for what fills it.
WeightSlot slot_at(const Arguments& a, std::size_t i);

// A weight to compute with, or none. Shares the ownership of its slot.
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

// createWeight(): a handle with nothing in it. shareWeight(handle): another handle of the same weight.
// describeWeight(handle): [kind, rows, columns, bytes, signed], and from then on the garbage collector knows of its
// size. disposeWeight(handle): frees it, unless a job still needs it.
void register_weight_calls(Napi::Env env, Napi::Object exports);

}  // namespace lowbit::node
