// What a decoder computes besides products with weights: arguments in, work out. The order of the arguments is that of
// lib/addon/raw.ts.

#include "node/arguments.h"
#include "node/calls.h"
#include "node/record.h"
#include "ops/decoder/decoder.h"
#include "ops/decoder/decoder_kernels.h"

namespace lowbit::node {
namespace {

// rmsNorm(x, weight, epsilon, out); out may be x.
Work prepare_rms_norm(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes x = a.array(0, "x", napi_float32_array), weight = a.array(1, "weight", napi_float32_array);
  const Bytes out = a.array(3, "out", napi_float32_array);
  RmsNormArguments norm{};
  norm.columns = weight.size / sizeof(float);
  norm.epsilon = static_cast<float>(a.number(2, "epsilon"));
  a.check(norm.columns != 0 && x.size % weight.size == 0, "Expected whole rows of x.");
  a.check(out.size == x.size, "Expected out to be as long as x.");
  a.check((out.data == x.data || !out.overlaps(x)) && !out.overlaps(weight),
          "Expected out to be x, or not to overlap what is read.");
  norm.rows = x.size / weight.size;
  norm.x = x.as<const float>();
  norm.weight = weight.as<const float>();
  norm.out = out.as<float>();
  return [=](const CancelFlag* cancel) { return rms_norm(norm, cancel); };
}

// attention(record, queries, keys, values, queryNorm | null, keyNorm | null, angles, cachedKeys, cachedValues, out),
// where the record holds past, heads, kvHeads, headDim, window (0: none) and epsilon. Queries and keys are changed.
Work prepare_attention(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 6);
  AttentionArguments t{};
  t.past = record.size();
  t.heads = record.size(1);
  t.kv_heads = record.size(1);
  t.head_dim = record.size(2);
  t.window = record.size();
  t.epsilon = static_cast<float>(record.number());
  a.check(t.heads % t.kv_heads == 0 && t.head_dim % 2 == 0, "Expected whole groups of heads of an even size.");
  const std::size_t row = 4 * checked_product(a, t.heads, t.head_dim), kv_row = row / t.heads * t.kv_heads;
  const Bytes queries = a.array(1, "queries", napi_float32_array), keys = a.array(2, "keys", napi_float32_array);
  const Bytes values = a.array(3, "values", napi_float32_array);
  const Bytes query_norm = a.optional_array(4, "queryNorm", napi_float32_array, t.head_dim);
  const Bytes key_norm = a.optional_array(5, "keyNorm", napi_float32_array, t.head_dim);
  const Bytes angles = a.array(6, "angles", napi_float32_array);
  const Bytes cached_keys = a.array(7, "cachedKeys", napi_float32_array);
  const Bytes cached_values = a.array(8, "cachedValues", napi_float32_array);
  const Bytes out = a.array(9, "out", napi_float32_array);
  t.rows = queries.size / row;
  a.check(queries.size == t.rows * row && out.size == queries.size, "Expected whole rows of queries, and of out.");
  a.check(keys.size == checked_product(a, t.rows, kv_row) && values.size == keys.size,
          "Expected as many keys and values as queries.");
  a.check(angles.size == 4 * checked_product(a, t.rows, t.head_dim), "Expected angles for each row.");
  t.capacity = cached_keys.size / kv_row;
  a.check(
      t.capacity % kKeyBlock == 0 && cached_keys.size == t.capacity * kv_row && cached_values.size == cached_keys.size,
      "Expected a cache of whole blocks.");
  a.check(t.past <= t.capacity && t.rows <= t.capacity - t.past, "Expected room in the cache.");
  const Bytes written[] = {queries, keys, cached_keys, cached_values, out};
  const Bytes read[] = {values, query_norm, key_norm, angles};
  for (std::size_t i = 0; i < 5; i++) {
    for (std::size_t j = 0; j < i; j++) a.check(!written[i].overlaps(written[j]), "Expected arrays not to overlap.");
    for (const Bytes& other : read) a.check(!written[i].overlaps(other), "Expected arrays not to overlap.");
  }
  t.queries = queries.as<float>();
  t.new_keys = keys.as<float>();
  t.new_values = values.as<const float>();
  t.query_norm = query_norm.as<const float>();
  t.key_norm = key_norm.as<const float>();
  t.angles = angles.as<const float>();
  t.keys = cached_keys.as<float>();
  t.values = cached_values.as<float>();
  t.out = out.as<float>();
  return [=](const CancelFlag* cancel) { return attention(t, cancel); };
}

}  // namespace

void register_decoder_calls(Napi::Env env, Napi::Object exports) {
  register_call<prepare_rms_norm>(env, exports, "rmsNorm");
  register_call<prepare_attention>(env, exports, "attention");
}

}  // namespace lowbit::node
