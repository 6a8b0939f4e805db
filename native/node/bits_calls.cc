// Binary and ternary weights and LLM.int8(): arguments in, work out. The order of the arguments is that of
// lib/addon/raw.ts.

#include <algorithm>
#include <limits>
#include <vector>

#include "node/arguments.h"
#include "node/calls.h"
#include "node/record.h"
#include "node/weights.h"
#include "ops/bits/bits.h"
#include "ops/matmul/llm_int8.h"
#include "ops/matmul/ternary_matmul.h"

namespace lowbit::node {
namespace {

// xorCounts(a, b, m, n, columns, kind, out): kind 0 is the product of signs, in an Int32Array; 1 the Hamming distance,
// in a Uint32Array; 2 that of row i of a and row i of b, where n is m.
Work prepare_xor_counts(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  BitProduct product{};
  product.m = a.size(2, "m");
  product.n = a.size(3, "n");
  product.columns = static_cast<std::size_t>(a.integer(4, "columns", 0, std::numeric_limits<std::int32_t>::max()));
  const std::int64_t kind = a.integer(5, "kind", 0, 2);
  const bool rows = kind == 2;
  const Bytes left = a.array(0, "a", napi_uint8_array), right = a.array(1, "b", napi_uint8_array);
  const Bytes out = a.array(6, "out", kind == 0 ? napi_int32_array : napi_uint32_array);
  const std::size_t row_bytes = packed_bit_bytes(product.columns);
  a.check(left.size == checked_product(a, product.m, row_bytes), "Expected a to have m rows of bits.");
  a.check(right.size == checked_product(a, product.n, row_bytes), "Expected b to have n rows of bits.");
  a.check(!rows || product.n == product.m, "Expected as many rows of b as of a.");
  a.check(out.size == 4 * (rows ? product.m : checked_product(a, product.m, product.n)),
          "Expected out to have an element for each pair of rows.");
  a.check(!out.overlaps(left) && !out.overlaps(right), "Expected out not to overlap a or b.");
  product.a = left.data;
  product.b = right.data;
  product.start = kind == 0 ? static_cast<std::int32_t>(product.columns) : 0;
  product.step = kind == 0 ? -2 : 1;
  product.out = out.as<std::int32_t>();
  return [=](const CancelFlag* cancel) {
    return rows ? xor_counts_of_rows(product, cancel) : xor_counts(product, cancel);
  };
}

struct Matrix {
  std::size_t rows, columns, count;
};

Matrix matrix_at(const Arguments& a, std::size_t i) {
  const std::size_t rows = a.size(i, "rows"), columns = a.size(i + 1, "columns");
  return {rows, columns, checked_product(a, checked_product(a, rows, columns), 8) / 8};
}

// packBits(input, type, rows, columns, out): type is a float type, or 3 for an Int8Array.
Work prepare_pack_bits(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const std::int64_t number = a.integer(1, "type", 0, 3);
  const bool bytes = number == 3;
  const FloatType type = bytes ? FloatType::kFloat32 : static_cast<FloatType>(number);
  const Bytes input = bytes ? a.array(0, "input", napi_int8_array) : a.floats(0, "input", type);
  const Matrix m = matrix_at(a, 2);
  const Bytes out = a.array(4, "out", napi_uint8_array);
  a.check(input.size == m.count * (bytes ? 1 : size_of(type)), "Expected as many elements as the shape says.");
  a.check(out.size == m.rows * packed_bit_bytes(m.columns), "Expected out to be as long as the packed bits.");
  a.check(!out.overlaps(input), "Expected out not to overlap the input.");
  return [=](const CancelFlag* cancel) {
    return bytes ? pack_byte_signs(input.as<const std::int8_t>(), m.rows, m.columns, out.data, cancel)
                 : pack_signs(input.data, type, m.rows, m.columns, out.data, cancel);
  };
}

// unpackBits(data, rows, columns, out): out is an Int8Array or a Float32Array, as the flag `floats` says.
Work prepare_unpack_bits(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes data = a.array(0, "data", napi_uint8_array);
  const Matrix m = matrix_at(a, 1);
  const bool floats = a.flag(3, "floats");
  const Bytes out = a.array(4, "out", floats ? napi_float32_array : napi_int8_array);
  a.check(data.size == m.rows * packed_bit_bytes(m.columns), "Expected data to be as long as the packed bits.");
  a.check(out.size == m.count * (floats ? 4 : 1), "Expected out to have as many elements as the shape says.");
  a.check(!out.overlaps(data), "Expected out not to overlap data.");
  return [=](const CancelFlag* cancel) {
    return floats ? unpack_float_signs(data.data, m.rows, m.columns, out.as<float>(), cancel)
                  : unpack_signs(data.data, m.rows, m.columns, out.as<std::int8_t>(), cancel);
  };
}

// packTernary(digits, rows, columns, packing, out) and unpackTernary(packed, rows, columns, packing, out)
template <bool Packs>
Work prepare_ternary(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Matrix m = matrix_at(a, 1);
  const auto packing = static_cast<TernaryPacking>(a.integer(3, "packing", 0, 1));
  const Bytes digits = a.array(Packs ? 0 : 4, Packs ? "input" : "out", napi_int8_array);
  const Bytes packed = a.array(Packs ? 4 : 0, Packs ? "out" : "data", napi_uint8_array);
  a.check(digits.size == m.count, "Expected as many digits as the shape says.");
  a.check(packed.size == m.rows * packed_ternary_bytes(packing, m.columns), "Expected as many bytes as digits take.");
  a.check(!digits.overlaps(packed), "Expected out not to overlap the input.");
  return [=](const CancelFlag* cancel) {
    return Packs ? pack_ternary(digits.as<const std::int8_t>(), packing, m.rows, m.columns, packed.data, cancel)
                 : unpack_ternary(packed.data, packing, m.rows, m.columns, digits.as<std::int8_t>(), cancel);
  };
}

// packTernaryWeight(handle, data, rows, columns)
Work prepare_pack_ternary_weight(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  WeightSlot slot = slot_at(a, 0);
  const Bytes data = a.array(1, "data", napi_uint8_array);
  const Matrix m = matrix_at(a, 2);
  a.check(data.size == m.rows * packed_ternary_bytes(TernaryPacking::kTwoBits, m.columns),
          "Expected as many bytes as digits take.");
  return [=, slot = std::move(slot)](const CancelFlag* cancel) {
    if (cancel != nullptr && cancel->load()) return Outcome{Status::kCancelled, -1};
    PackedWeight weight;
    const Outcome outcome = pack_ternary_weight(data.data, m.rows, m.columns, weight);
    if (outcome.status == Status::kOk) slot->fill(std::move(weight));
    return outcome;
  };
}

// ternaryMatmul(a, handle, m, out)
Work prepare_ternary_matmul(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes left = a.array(0, "a", napi_int8_array), out = a.array(3, "out", napi_int32_array);
  const Weight weight = weight_at(a, 1);
  const std::size_t m = a.size(2, "m");
  const auto n = static_cast<std::size_t>(weight->layout.rows), k = static_cast<std::size_t>(weight->layout.columns);
  if (!is_ternary_weight(*weight.get())) {
    a.fail("Expected w to be packed by prepackTernary, or from codes of int2 with the scale 1.", "w");
  }
  a.check(left.size == checked_product(a, m, k), "Expected a to have m · k elements.");
  a.check(out.size == 4 * checked_product(a, m, n), "Expected out to have m · n elements.");
  a.check(!out.overlaps(left), "Expected out not to overlap a.");
  return [=](const CancelFlag* cancel) {
    return ternary_matmul(left.as<const std::int8_t>(), m, *weight.get(), out.as<std::int32_t>(), cancel);
  };
}

// packIntegerRows(handle, codes, rows, columns)
Work prepare_pack_integer_rows(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  WeightSlot slot = slot_at(a, 0);
  const Bytes codes = a.array(1, "codes", napi_int8_array);
  const Matrix m = matrix_at(a, 2);
  a.check(codes.size == m.count, "Expected as many codes as the shape says.");
  return [=, slot = std::move(slot)](const CancelFlag* cancel) {
    if (cancel != nullptr && cancel->load()) return Outcome{Status::kCancelled, -1};
    slot->fill(pack_integer_rows(codes.as<const std::int8_t>(), m.rows, m.columns));
    return Outcome{};
  };
}

// quantizeLlmInt8(input, type, rows, columns, threshold, outlier, codes, absmax): outlier is a Uint8Array that says,
// and afterwards knows, which columns are left out.
Work prepare_quantize_llm_int8(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  LlmInt8Rows rows{};
  rows.type = a.float_type(1, "type");
  const Bytes input = a.floats(0, "input", rows.type);
  const Matrix m = matrix_at(a, 2);
  rows.threshold = static_cast<float>(a.number(4, "threshold"));
  const Bytes outlier = a.array(5, "outlier", napi_uint8_array), codes = a.array(6, "codes", napi_int8_array);
  const Bytes absmax = a.array(7, "absmax", napi_float32_array);
  a.check(rows.threshold >= 0.0F, "Expected a threshold of at least 0.");
  a.check(input.size == m.count * size_of(rows.type), "Expected as many elements as the shape says.");
  a.check(outlier.size == m.columns, "Expected outlier to have an element for each column.");
  a.check(codes.size == m.count, "Expected codes to have as many elements as the input.");
  a.check(absmax.size == 4 * m.rows, "Expected absmax to have an element for each row.");
  a.check(!codes.overlaps(input) && !absmax.overlaps(input) && !outlier.overlaps(input) && !codes.overlaps(absmax) &&
              !codes.overlaps(outlier) && !absmax.overlaps(outlier),
          "Expected the results not to overlap.");
  rows.x = input.data;
  rows.rows = m.rows;
  rows.columns = m.columns;
  rows.outlier = outlier.data;
  rows.codes = codes.as<std::int8_t>();
  rows.absmax = absmax.as<float>();
  return [=](const CancelFlag* cancel) { return quantize_llm_int8(rows, cancel); };
}

// llmInt8Linear(x, handle, absmax, keptHandle | null, keptColumns, threshold, bias | null, out)
Work prepare_llm_int8_linear(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  LlmInt8Product product{};
  const Bytes x = a.array(0, "x", napi_float32_array);
  const Weight weight = weight_at(a, 1), kept = optional_weight_at(a, 3);
  const PackedLayout& l = weight->layout;
  const auto n = static_cast<std::size_t>(l.rows), k = static_cast<std::size_t>(l.columns);
  a.check(l.kind == WeightKind::kIntegers && l.zero == 128, "Expected a weight of signed integers.");
  const Bytes absmax = a.array(2, "absmax", napi_float32_array);
  const Bytes columns = a.array(4, "outlierColumns", napi_int32_array);
  product.threshold = static_cast<float>(a.number(5, "threshold"));
  const Bytes bias = a.optional_array(6, "bias", napi_float32_array, n);
  const Bytes out = a.array(7, "out", napi_float32_array);
  product.m = k == 0 ? 0 : x.size / sizeof(float) / k;
  a.check(x.size == 4 * checked_product(a, product.m, k), "Expected whole rows of x.");
  a.check(absmax.size == 4 * n, "Expected absmax to have an element for each row of the weight.");
  a.check(product.threshold >= 0.0F, "Expected a threshold of at least 0.");
  a.check(out.size == 4 * checked_product(a, product.m, n), "Expected out to have M · N elements.");
  a.check(!out.overlaps(x) && !out.overlaps(bias) && !out.overlaps(absmax) && !out.overlaps(columns),
          "Expected out not to overlap what is read.");
  const std::size_t count = columns.size / sizeof(std::int32_t);
  if (kept) {
    a.check(kept->layout.kind == WeightKind::kFloats && kept->layout.rows == l.rows && kept->layout.columns == count,
            "Expected floats for every outlier column.");
  } else {
    a.check(count == 0, "Expected floats for outlier columns.");
  }
  const auto* const indices = columns.as<const std::int32_t>();
  for (std::size_t i = 0; i < count; i++) {
    a.check(indices[i] >= 0 && static_cast<std::size_t>(indices[i]) < k, "Expected columns of the weight.");
  }
  // The columns are copied: an array in shared memory may change.
  const std::vector<std::int32_t> kept_columns(indices, indices + count);
  product.x = x.as<const float>();
  product.weight = weight.get();
  product.absmax = absmax.as<const float>();
  product.kept = kept.get();
  product.bias = bias.as<const float>();
  product.y = out.as<float>();
  return [product, kept_columns, weight, kept](const CancelFlag* cancel) {  // the weights live until the work ends
    LlmInt8Product p = product;
    p.kept_columns = kept_columns.data();
    return llm_int8_product(p, cancel);
  };
}

}  // namespace

void register_bits_calls(Napi::Env env, Napi::Object exports) {
  register_call<prepare_xor_counts>(env, exports, "xorCounts");
  register_call<prepare_pack_bits>(env, exports, "packBits");
  register_call<prepare_unpack_bits>(env, exports, "unpackBits");
  register_call<prepare_ternary<true>>(env, exports, "packTernary");
  register_call<prepare_ternary<false>>(env, exports, "unpackTernary");
  register_call<prepare_pack_ternary_weight>(env, exports, "packTernaryWeight");
  register_call<prepare_ternary_matmul>(env, exports, "ternaryMatmul");
  register_call<prepare_pack_integer_rows>(env, exports, "packIntegerRows");
  register_call<prepare_quantize_llm_int8>(env, exports, "quantizeLlmInt8");
  register_call<prepare_llm_int8_linear>(env, exports, "llmInt8Linear");
}

}  // namespace lowbit::node
