// Methods that choose codes with more effort than rounding.

#include <vector>

#include "node/calls.h"
#include "node/device.h"
#include "node/record.h"
#include "ops/hqq/hqq.h"
#include "ops/linalg/gptq.h"
#include "ops/linalg/gptq_cuda.h"

namespace lowbit::node {
namespace {

// A permutation of [0, count).
void check_order(const Arguments& a, const Bytes& order, std::size_t count) {
  if (order.data == nullptr) return;
  std::vector<bool> seen(count);
  for (std::size_t i = 0; i < count; i++) {
    const std::int32_t j = order.as<const std::int32_t>()[i];
    a.check(j >= 0 && static_cast<std::size_t>(j) < count && !seen[static_cast<std::size_t>(j)],
            "Expected order to be a permutation.");
    seen[static_cast<std::size_t>(j)] = true;
  }
}

// Every group has columns; those of one are neighbours unless they may be apart.
void check_groups(const Arguments& a, const Bytes& groups, std::size_t columns, std::size_t count, bool apart) {
  std::vector<bool> seen(count);
  std::size_t found = 0;
  for (std::size_t j = 0; j < columns; j++) {
    const std::int32_t group = groups.as<const std::int32_t>()[j];
    a.check(group >= 0 && static_cast<std::size_t>(group) < count, "Expected groups to be less than their count.");
    if (j != 0 && group == groups.as<const std::int32_t>()[j - 1]) continue;
    const bool again = seen[static_cast<std::size_t>(group)];
    a.check(apart || !again, "Expected the columns of a group to be neighbours.");
    found += again ? 0 : 1;
    seen[static_cast<std::size_t>(group)] = true;
  }
  a.check(columns == 0 || found == count, "Expected every group to have columns.");
}

// What is the host's wherever GPTQ is computed: record = [rows, columns, groups, static ranges, zero dead columns,
// ranges with dead columns, block, damp, step of damp, bits, signed, lowest, highest, rule, symmetric, zero, steps,
// scale type, kind of importance, power 2.4, codes in order, passes], order, groups, factors, importance, result.
GptqArguments read_gptq(const Arguments& a) {
  Record record(a, 0, 22);
  GptqArguments g{};
  g.rows = record.size();
  g.columns = record.size();
  g.group_count = record.size();
  g.static_ranges = record.flag();
  g.zero_dead = record.flag();
  g.ranges_with_dead = record.flag();
  g.block = record.size(1);
  g.damp = record.number();
  g.damp_step = record.number();
  g.code = record.code_type();
  a.check(g.code.bits != 1 && g.code.bits != 6, "Expected codes of 2, 3, 4 or 8 bits.");
  g.lowest = static_cast<int>(record.integer(g.code.lowest(), g.code.highest()));
  g.highest = static_cast<int>(record.integer(g.lowest + 1, g.code.highest()));
  g.rule = record.flag() ? RangeRule::kGptq : RangeRule::kAffine;
  g.symmetric = record.flag();
  g.zero = static_cast<float>(record.integer(g.lowest, g.highest));
  g.steps = static_cast<float>(record.integer(1, 255));
  g.scale_type = record.float_type();
  g.importance = static_cast<Importance>(record.integer(0, 2));
  g.power_2_4 = record.flag();
  g.codes_in_order = record.flag();
  g.passes = record.size(1);
  a.check(g.damp >= 0.0 && g.damp_step >= 0.0, "Expected a damp of at least 0.");

  const Bytes order = a.optional_array(3, "order", napi_int32_array, g.columns);
  const Bytes groups = a.array(4, "groups", napi_int32_array);
  const Bytes factors = a.array(5, "factors", napi_float32_array);
  const Bytes importance = a.optional_array(6, "importance", napi_float32_array, g.columns);
  const Bytes result = a.array(10, "result", napi_float64_array);
  a.check(groups.size == 4 * g.columns, "Expected a group for every column.");
  a.check(factors.size >= 4, "Expected factors.");
  a.check(result.size == 16, "Expected room for the loss and the damp.");
  a.check((g.importance == Importance::kGiven) == (importance.data != nullptr), "Expected importance as announced.");
  a.check(g.importance != Importance::kFactor || !a.is_null(2), "Expected a Gram matrix.");
  check_order(a, order, g.columns);
  check_groups(a, groups, g.columns, g.group_count, g.static_ranges);
  g.order = order.as<const std::int32_t>();
  g.groups = groups.as<const std::int32_t>();
  g.factors = factors.as<const float>();
  g.factor_count = factors.size / sizeof(float);
  g.given_importance = importance.as<const float>();
  g.loss = result.as<double>();
  g.damp_used = result.as<double>() + 1;
  return g;
}

// gptq(record, weight, gram | null, order | null, groups, factors, importance | null, scales, zeroPoints | null, codes,
// result); result receives the loss and the damp used.
Work prepare_gptq(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  GptqArguments g = read_gptq(a);
  const std::size_t parameters = checked_product(a, g.rows, g.group_count);
  const Bytes weight = a.array(1, "weight", napi_float32_array);
  a.check(weight.size == 4 * checked_product(a, g.rows, g.columns), "Expected a weight of rows · columns elements.");
  const Bytes gram = a.optional_array(2, "gram", napi_float32_array, checked_product(a, g.columns, g.columns));
  const Bytes scales = a.array(7, "scales", napi_float32_array);
  const Bytes zeros = a.optional_array(8, "zeroPoints", napi_int32_array, parameters);
  const Bytes codes = a.array(9, "codes", napi_uint8_array);
  a.check(scales.size == 4 * parameters, "Expected a scale for every row and group.");
  a.check(codes.size == checked_product(a, g.rows, g.code.packed_bytes(g.columns)), "Expected room for the codes.");
  g.weight = weight.as<const float>();
  g.gram = gram.as<const float>();
  g.scales = scales.as<float>();
  g.zeros = zeros.as<std::int32_t>();
  g.codes = codes.data;
  return [=](const CancelFlag* cancel) { return gptq(g, cancel); };
}

// deviceGptq(…): the same, where weight, gram, scales, zeroPoints and codes are memory of a device. It can be cancelled
// before it begins.
Work prepare_device_gptq(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const GptqArguments g = read_gptq(a);
  const std::size_t parameters = checked_product(a, g.rows, g.group_count);
  DeviceArguments d(a);
  const MemorySlot weight = d.input(1, "weight", sizeof(float) * checked_product(a, g.rows, g.columns));
  const MemorySlot gram = d.optional_input(2, "gram", sizeof(float) * checked_product(a, g.columns, g.columns));
  const MemorySlot scales = d.output(7, "scales", sizeof(float) * parameters);
  const MemorySlot zeros = d.optional_output(8, "zeroPoints", sizeof(std::int32_t) * parameters);
  const MemorySlot codes = d.output(9, "codes", checked_product(a, g.rows, g.code.packed_bytes(g.columns)));
  return [=](const CancelFlag* cancel) {
    Outcome found;
    const Outcome outcome = on_device(weight.device(), cancel, [&](const Device& on) {
      GptqArguments call = g;
      call.weight = weight.read<float>();
      call.gram = gram.read<float>();
      call.scales = scales.write<float>(on);
      call.zeros = zeros.write<std::int32_t>(on);
      call.codes = codes.write<std::uint8_t>(on);
      on.check(on.api().gptq->gptq(on.stream(), call, &found));
    });
    return outcome.status == Status::kOk ? found : outcome;
  };
}

// hqq(record, weight, scales, zeros, codes): record = [rows, columns, group size, bits, signed, power, beta, steps,
// round zero, scale type].
Work prepare_hqq(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 10);
  HqqRequest r{};
  r.rows = record.size();
  r.columns = record.size();
  r.group_size = record.size(1);
  r.code = record.code_type();
  a.check(r.code.bits != 1 && r.code.bits != 6, "Expected codes of 2, 3, 4 or 8 bits.");
  r.power = static_cast<float>(record.number());
  r.beta = static_cast<float>(record.number());
  a.check(r.power > 0.0F && r.power <= 1.0F && r.beta > 0.0F, "Expected a power of 0 to 1 and a positive beta.");
  r.steps = record.size();
  r.round_zero = record.flag();
  r.scale_type = record.float_type();
  const std::size_t groups = r.columns / r.group_size + (r.columns % r.group_size != 0 ? 1 : 0);
  const std::size_t parameters = checked_product(a, r.rows, groups);
  const Bytes weight = a.array(1, "weight", napi_float32_array), scales = a.array(2, "scales", napi_float32_array);
  const Bytes zeros = a.array(3, "zeros", napi_float32_array), codes = a.array(4, "codes", napi_uint8_array);
  a.check(weight.size == 4 * checked_product(a, r.rows, r.columns), "Expected a weight of rows · columns elements.");
  a.check(scales.size == 4 * parameters && zeros.size == 4 * parameters, "Expected parameters for every group.");
  a.check(codes.size == checked_product(a, r.rows, r.code.packed_bytes(r.columns)), "Expected room for the codes.");
  r.weight = weight.as<const float>();
  r.scales = scales.as<float>();
  r.zeros = zeros.as<float>();
  r.codes = codes.data;
  return [=](const CancelFlag* cancel) { return hqq(r, cancel); };
}

}  // namespace

void register_method_calls(Napi::Env env, Napi::Object exports) {
  register_call<prepare_gptq>(env, exports, "gptq");
  register_call<prepare_device_gptq>(env, exports, "deviceGptq");
  register_call<prepare_hqq>(env, exports, "hqq");
}

}  // namespace lowbit::node
