#pragma once

#include <napi.h>

#include <memory>
#include <optional>

#include "node/arguments.h"
#include "ops/matmul/packed_weight.h"

// Packed weights as JavaScript holds them: an object that only native code can make, with a type tag that tells it from
// every other. Jobs share the weight, so that it lives until they end, whatever JavaScript does meanwhile.

namespace lowbit::node {

// Empty until a call has packed or loaded into it.
using WeightSlot = std::shared_ptr<std::optional<PackedWeight>>;

// The slot of a handle that createWeight() made: for what fills it.
WeightSlot slot_at(const Arguments& a, std::size_t i);

// A weight to compute with. Shares the ownership of its slot.
using Weight = std::shared_ptr<const PackedWeight>;
Weight weight_at(const Arguments& a, std::size_t i);
// The same, or null.
Weight optional_weight_at(const Arguments& a, std::size_t i);

// createWeight(): a handle with nothing in it. shareWeight(handle): another handle of the same weight.
// describeWeight(handle): [kind, rows, columns, bytes, signed], and from then on the garbage collector knows of its
// size. disposeWeight(handle): frees it, unless a job still needs it.
void register_weight_calls(Napi::Env env, Napi::Object exports);

}  // namespace lowbit::node
