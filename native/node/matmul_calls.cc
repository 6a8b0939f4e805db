// Matrix products and what packs weights for them: arguments in, work out. The order of the arguments is that of
// lib/addon/raw.ts.

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/tiles.h"
#include "node/arguments.h"
#include "node/calls.h"
#include "node/codes.h"
#include "node/record.h"
#include "node/weights.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/pack_rows.h"
#include "ops/matmul/packed_file.h"

namespace lowbit::node {
namespace {

bool cancelled(const CancelFlag* cancel) { return cancel != nullptr && cancel->load(); }

// Packing takes no longer than a few reads of the weights: it is cancelled before or after, not in between.
template <typename Pack>
Work packing(WeightSlot slot, const Pack& pack) {
  return [slot = std::move(slot), pack](const CancelFlag* cancel) {
    if (cancelled(cancel)) return Outcome{Status::kCancelled, -1};
    slot->fill(pack());
    return cancelled(cancel) ? Outcome{Status::kCancelled, -1} : Outcome{};
  };
}

// packCodes(record, handle, data, scales, zeroPoints | null), where the record holds what read_codes_source() reads.
Work prepare_pack_codes(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  CodesSource source = read_codes_source(a, 0);
  a.check(can_pack_groups(source.group_size, source.columns), "Expected groups of a multiple of 16 columns.");
  const std::size_t parameters = parameter_count(a, source);
  const Bytes data = a.array(2, "data", napi_uint8_array), scales = a.array(3, "scales", napi_float32_array);
  const Bytes zero_points = a.optional_array(4, "zeroPoints", napi_int32_array, parameters);
  a.check(data.size == source.rows * source.type.packed_bytes(source.columns),
          "Expected data to be as long as the packed codes.");
  a.check(scales.size == 4 * parameters, "Expected as many scales as parameter sets.");
  source.data = data.data;
  source.scales = scales.as<const float>();
  source.zero_points = zero_points.as<const std::int32_t>();
  check_scales(a, "q.scales", source.scales, parameters, false);
  check_zero_points(a, "q.zeroPoints", source.zero_points, parameters, source.type.lowest(), source.type.highest());
  return packing(slot_at(a, 1), [=] { return pack_codes(source); });
}

// packCodebook(record, handle, data, scales), where the record holds what read_codebook_source() reads.
Work prepare_pack_codebook(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  CodebookSource source = read_codebook_source(a, 0);
  a.check(can_pack_groups(source.group_size, source.columns), "Expected groups of a multiple of 16 columns.");
  const std::size_t parameters = parameter_count(a, source);
  const Bytes data = a.array(2, "data", napi_uint8_array), scales = a.array(3, "scales", napi_float32_array);
  a.check(data.size == source.rows * code_type_of(source.book).packed_bytes(source.columns),
          "Expected data to be as long as the packed codes.");
  a.check(scales.size == 4 * parameters, "Expected as many scales as groups.");
  source.data = data.data;
  source.scales = scales.as<const float>();
  check_scales(a, "q.scales", source.scales, parameters, false);
  return packing(slot_at(a, 1), [=] { return pack_codebook(source); });
}

// packBlocks(handle, data, type, rows, columns)
Work prepare_pack_blocks(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes data = a.array(1, "data", napi_uint8_array);
  BlocksSource source{};
  source.type = static_cast<BlockType>(a.integer(2, "type", 0, kBlockTypes - 1));
  source.rows = a.size(3, "rows");
  source.columns = a.size(4, "columns");
  const BlockFormat& format = format_of(source.type);
  a.check(source.columns % format.length == 0, "Expected columns to be a multiple of the block length.");
  const std::size_t blocks = checked_product(a, source.rows, source.columns / format.length);
  a.check(data.size == checked_product(a, blocks, format.bytes), "Expected data to be as long as the blocks.");
  checked_product(a, checked_product(a, source.rows, source.columns), 8);
  source.data = data.data;
  return [source, pack = packing(slot_at(a, 0), [=] { return pack_blocks(source); })](const CancelFlag* cancel) {
    const std::ptrdiff_t bad = first_bad_block(source);
    return bad >= 0 ? Outcome{Status::kNonFinite, bad} : pack(cancel);
  };
}

// packFloats(handle, weights, type, rows, columns)
Work prepare_pack_floats(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const FloatType type = a.float_type(2, "type");
  const Bytes weights = a.floats(1, "weights", type);
  const std::size_t rows = a.size(3, "rows"), columns = a.size(4, "columns");
  a.check(weights.size == checked_product(a, checked_product(a, rows, columns), size_of(type)),
          "Expected as many weights as the shape says.");
  return packing(slot_at(a, 0), [=] { return pack_floats(weights.data, type, rows, columns); });
}

// packIntegers(handle, b, k, n)
Work prepare_pack_integers(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  bool is_signed = false;
  const Bytes b = a.bytes(1, "b", is_signed);
  const std::size_t k = a.size(2, "k"), n = a.size(3, "n");
  a.check(b.size == checked_product(a, k, n), "Expected b to have k · n elements.");
  return packing(slot_at(a, 0), [=] { return pack_integers(b.data, is_signed, k, n); });
}

// linear(record, x, weight, bias | null, gate | null, gateBias | null, out), where the record holds computeType,
// perToken and activation.
Work prepare_linear(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 3);
  LinearArguments linear_arguments{};
  linear_arguments.compute = static_cast<ComputeType>(record.integer(0, 2));
  linear_arguments.per_token = record.flag();
  linear_arguments.activation = static_cast<Activation>(record.integer(0, 3));
  const Bytes x = a.array(1, "x", napi_float32_array), y = a.array(6, "out", napi_float32_array);
  const Weight weight = weight_at(a, 2), gate = optional_weight_at(a, 4);
  const PackedLayout& l = weight->layout;
  const auto rows = static_cast<std::size_t>(l.rows), columns = static_cast<std::size_t>(l.columns);
  const Bytes bias = a.optional_array(3, "bias", napi_float32_array, rows);
  const Bytes gate_bias = a.optional_array(5, "gateBias", napi_float32_array, rows);
  a.check(l.kind != WeightKind::kIntegers, "Expected a weight with scales.");
  a.check(gate || gate_bias.data == nullptr, "Expected no bias for a gate that is not there.");
  if (gate) {
    a.check(gate->layout.kind != WeightKind::kIntegers, "Expected a gate with scales.");
    a.check(gate->layout.rows == l.rows && gate->layout.columns == l.columns,
            "Expected a gate of the same shape as the weight.");
  }
  const std::size_t count = x.size / sizeof(float);
  linear_arguments.m = columns == 0 ? 0 : count / columns;
  a.check(count == linear_arguments.m * columns, "Expected whole rows of x.");
  a.check(y.size == 4 * checked_product(a, linear_arguments.m, rows), "Expected out to have M · N elements.");
  a.check(!y.overlaps(x) && !y.overlaps(bias) && !y.overlaps(gate_bias),
          "Expected out not to overlap x, bias or gateBias.");
  linear_arguments.x = x.as<const float>();
  linear_arguments.weight = weight.get();
  linear_arguments.bias = bias.as<const float>();
  linear_arguments.gate = gate.get();
  linear_arguments.gate_bias = gate_bias.as<const float>();
  linear_arguments.y = y.as<float>();
  return [linear_arguments, weight, gate](const CancelFlag* cancel) { return linear(linear_arguments, cancel); };
}

// The second matrix of an integer product: packed already, or to be packed by the call.
struct IntegerB {
  Weight packed;
  Bytes bytes;
  bool is_signed = false;

  template <typename Run>
  Outcome with_packed(std::size_t k, std::size_t n, const Run& run) const {
    if (packed.get() != nullptr) return run(*packed.get());
    return run(pack_integers(bytes.data, is_signed, k, n));
  }
};

IntegerB integer_b_at(const Arguments& a, std::size_t i, std::size_t k, std::size_t n) {
  IntegerB b;
  if (a.info()[i].IsTypedArray()) {
    b.bytes = a.bytes(i, "b", b.is_signed);
    a.check(b.bytes.size == checked_product(a, k, n), "Expected b to have k · n elements.");
    return b;
  }
  b.packed = weight_at(a, i);
  const PackedLayout& l = b.packed->layout;
  a.check(l.kind == WeightKind::kIntegers && l.rows == n && l.columns == k, "Expected b to be k × n packed integers.");
  b.is_signed = l.zero != 0;
  return b;
}

struct ByteRange {
  int lowest, highest;
};
constexpr ByteRange range_of_bytes(bool is_signed) { return is_signed ? ByteRange{-128, 127} : ByteRange{0, 255}; }

// matmulInteger(record, a, b, aZeroPoints | null, bZeroPoints | null, scales | null, out), where b is a handle or an
// array of bytes, and the record holds m, n, k, and the zero points of a and b (where there is no array of them) and of
// out. With scales, one or n, out holds bytes.
Work prepare_matmul_integer(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 6);
  IntegerMatmulArguments product{};
  product.m = record.size();
  const std::size_t n = record.size(), k = record.size();
  const std::int32_t a_zero = record.int32(), b_zero = record.int32();
  product.zero_point = record.int32();
  const Bytes bytes = a.bytes(1, "a", product.a_signed);
  const IntegerB b = integer_b_at(a, 2, k, n);
  const Bytes a_zeros = a.optional_array(3, "aZeroPoint", napi_int32_array, product.m);
  const Bytes b_zeros = a.optional_array(4, "bZeroPoint", napi_int32_array, n);
  const bool quantizes = !a.is_null(5);
  const Bytes scales = quantizes ? a.array(5, "scales", napi_float32_array) : Bytes{};
  bool out_signed = false;
  const Bytes out = quantizes ? a.bytes(6, "out", out_signed) : a.array(6, "out", napi_int32_array);
  a.check(bytes.size == checked_product(a, product.m, k), "Expected a to have m · k elements.");
  a.check(out.size == (quantizes ? 1 : 4) * checked_product(a, product.m, n), "Expected out to have m · n elements.");
  a.check(!out.overlaps(bytes) && !out.overlaps(b.bytes) && !out.overlaps(a_zeros) && !out.overlaps(b_zeros) &&
              !out.overlaps(scales),
          "Expected out not to overlap what is read.");
  const ByteRange range_a = range_of_bytes(product.a_signed), range_b = range_of_bytes(b.is_signed);
  check_zero_points(a, "aZeroPoint", a_zeros.as<const std::int32_t>(), a_zeros.size / 4, range_a.lowest,
                    range_a.highest);
  check_zero_points(a, "bZeroPoint", b_zeros.as<const std::int32_t>(), b_zeros.size / 4, range_b.lowest,
                    range_b.highest);
  check_zero_points(a, "aZeroPoint", &a_zero, 1, range_a.lowest, range_a.highest);
  check_zero_points(a, "bZeroPoint", &b_zero, 1, range_b.lowest, range_b.highest);
  if (quantizes) {
    const std::size_t count = scales.size / 4;
    a.check(count == 1 || count == n, "Expected one scale, or one for each column.");
    check_scales(a, "bScale", scales.as<const float>(), count, false);
    const ByteRange range = range_of_bytes(out_signed);
    check_zero_points(a, "outZeroPoint", &product.zero_point, 1, range.lowest, range.highest);
    product.result = out_signed ? IntegerResult::kInt8 : IntegerResult::kUint8;
    product.scales = scales.as<const float>();
    product.scale_per_column = count != 1;
  }
  product.a = bytes.data;
  product.c = out.data;
  product.a_zero_per_row = a_zeros.data != nullptr;
  product.b_zero_per_column = b_zeros.data != nullptr;
  return [=](const CancelFlag* cancel) {
    IntegerMatmulArguments p = product;
    p.a_zeros = p.a_zero_per_row ? a_zeros.as<const std::int32_t>() : &a_zero;
    p.b_zeros = p.b_zero_per_column ? b_zeros.as<const std::int32_t>() : &b_zero;
    return b.with_packed(k, n, [&](const PackedWeight& packed) {
      IntegerMatmulArguments complete = p;
      complete.b = &packed;
      return matmul_integer(complete, cancel);
    });
  };
}

// dynamicQuantizeMatmul(record, x, b, bZeroPoints | null, bScales, bias | null, out), where the record holds m, n, k
// and the zero point of b.
Work prepare_dynamic_quantize_matmul(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 4);
  const std::size_t m = record.size(), n = record.size(), k = record.size();
  const std::int32_t b_zero = record.int32();
  const Bytes x = a.array(1, "x", napi_float32_array);
  const IntegerB b = integer_b_at(a, 2, k, n);
  const Bytes b_zeros = a.optional_array(3, "bZeroPoint", napi_int32_array, n);
  const Bytes b_scales = a.array(4, "bScale", napi_float32_array);
  const Bytes bias = a.optional_array(5, "bias", napi_float32_array, n);
  const Bytes out = a.array(6, "out", napi_float32_array);
  const std::size_t scale_count = b_scales.size / 4;
  a.check(x.size == 4 * checked_product(a, m, k), "Expected x to have m · k elements.");
  a.check(out.size == 4 * checked_product(a, m, n), "Expected out to have m · n elements.");
  a.check(scale_count == 1 || scale_count == n, "Expected one scale, or one for each column.");
  a.check(!out.overlaps(x) && !out.overlaps(b.bytes) && !out.overlaps(b_zeros) && !out.overlaps(b_scales) &&
              !out.overlaps(bias),
          "Expected out not to overlap what is read.");
  const ByteRange range = range_of_bytes(b.is_signed);
  check_zero_points(a, "bZeroPoint", b_zeros.as<const std::int32_t>(), b_zeros.size / 4, range.lowest, range.highest);
  check_zero_points(a, "bZeroPoint", &b_zero, 1, range.lowest, range.highest);
  check_scales(a, "bScale", b_scales.as<const float>(), scale_count, false);
  return [=](const CancelFlag* cancel) {
    IntegerMatmulArguments p{};
    p.m = m;
    p.b_zeros = b_zeros.data != nullptr ? b_zeros.as<const std::int32_t>() : &b_zero;
    p.b_zero_per_column = b_zeros.data != nullptr;
    p.scales = b_scales.as<const float>();
    p.scale_per_column = scale_count != 1;
    p.bias = bias.as<const float>();
    p.c = out.data;
    return b.with_packed(k, n, [&](const PackedWeight& packed) {
      IntegerMatmulArguments complete = p;
      complete.b = &packed;
      return dynamic_quantize_matmul(x.as<const float>(), complete, cancel);
    });
  };
}

// gram(x, k, adds, out)
Work prepare_gram(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes x = a.array(0, "x", napi_float32_array), out = a.array(3, "out", napi_float32_array);
  const std::size_t k = a.size(1, "k"), count = x.size / sizeof(float);
  const bool adds = a.flag(2, "adds");
  const std::size_t m = k == 0 ? 0 : count / k;
  a.check(count == m * k, "Expected whole rows of x.");
  a.check(out.size == 4 * checked_product(a, k, k), "Expected out to have k · k elements.");
  a.check(!out.overlaps(x), "Expected out not to overlap x.");
  return [=](const CancelFlag* cancel) { return gram(x.as<const float>(), m, k, !adds, out.as<float>(), cancel); };
}

// packedBytes(handle, offset, out): the bytes of the file of a packed weight from an offset on; out must not go past
// its end. The first of them need a checksum of all.
Work prepare_packed_bytes(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Weight weight = weight_at(a, 0);
  const std::size_t offset = a.size(1, "offset"), total = kPackedHeaderBytes + weight->layout.bytes();
  const Bytes out = a.array(2, "out", napi_uint8_array);
  a.check(offset <= total && out.size <= total - offset, "Expected a part of the file.");
  return [=](const CancelFlag*) {
    std::size_t done = 0;
    if (offset < kPackedHeaderBytes) {
      std::uint8_t header[kPackedHeaderBytes];
      write_packed_header(*weight.get(), header);
      done = std::min(out.size, kPackedHeaderBytes - offset);
      std::memcpy(out.data, header + offset, done);
    }
    // What is left lies behind the header.
    const std::size_t left = out.size - done;
    if (left != 0) std::memcpy(out.data + done, weight->codes() + (offset + done - kPackedHeaderBytes), left);
    return Outcome{};
  };
}

// loadPacked(handle, path, verify, problem): problem is a Uint8Array whose first byte receives the PackedFault; the
// rest, in UTF-8, the detail, ended by a zero.
Work prepare_load_packed(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  WeightSlot slot = slot_at(a, 0);
  const std::string path = a.string(1, "path");
  const bool verify = a.flag(2, "verify");
  const Bytes problem = a.array(3, "problem", napi_uint8_array);
  a.check(problem.size >= 2, "Expected room for the problem.");
  return [=](const CancelFlag* cancel) {
    if (cancelled(cancel)) return Outcome{Status::kCancelled, -1};
    PackedWeight weight;
    const PackedProblem found = map_packed(path, verify, weight);
    const std::size_t length = std::min(found.detail.size(), problem.size - 2);
    problem.data[0] = static_cast<std::uint8_t>(found.fault);
    std::memcpy(problem.data + 1, found.detail.data(), length);
    problem.data[1 + length] = 0;
    if (found.fault == PackedFault::kNone) slot->fill(std::move(weight));
    return cancelled(cancel) ? Outcome{Status::kCancelled, -1} : Outcome{};
  };
}

}  // namespace

void register_matmul_calls(Napi::Env env, Napi::Object exports) {
  register_weight_calls(env, exports);
  register_call<prepare_pack_codes>(env, exports, "packCodes");
  register_call<prepare_pack_codebook>(env, exports, "packCodebook");
  register_call<prepare_pack_blocks>(env, exports, "packBlocks");
  register_call<prepare_pack_floats>(env, exports, "packFloats");
  register_call<prepare_pack_integers>(env, exports, "packIntegers");
  register_call<prepare_linear>(env, exports, "linear");
  register_call<prepare_matmul_integer>(env, exports, "matmulInteger");
  register_call<prepare_dynamic_quantize_matmul>(env, exports, "dynamicQuantizeMatmul");
  register_call<prepare_gram>(env, exports, "gram");
  register_call<prepare_packed_bytes>(env, exports, "packedBytes");
  register_call<prepare_load_packed>(env, exports, "loadPacked");
}

}  // namespace lowbit::node
