// The operations on tensors: arguments in, work out. The order of the arguments is that of lib/addon/raw.ts.

#include <limits>

#include "core/float_bits.h"
#include "node/arguments.h"
#include "node/calls.h"
#include "node/codes.h"
#include "ops/affine/affine.h"
#include "ops/blocks/blocks.h"
#include "ops/cast/cast.h"
#include "ops/codebook/codebook.h"
#include "ops/codebook/nested_scales.h"
#include "ops/compare/compare.h"
#include "ops/logits/logits.h"

namespace lowbit::node {
namespace {

// cast(input, from, output, to, count, saturate)
Work prepare_cast(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const AnyFloatType from = a.any_float_type(1, "from"), to = a.any_float_type(3, "to");
  const std::size_t count = a.size(4, "count");
  const Bytes input = a.any_floats(0, "input", from, count), output = a.any_floats(2, "out", to, count);
  const bool saturate = a.flag(5, "saturate");
  a.check(!input.overlaps(output), "Expected out not to overlap the input.");
  return [=](const CancelFlag* cancel) { return cast(input.data, from, output.data, to, saturate, count, cancel); };
}

Bytes zero_points_at(const Arguments& a, std::size_t i, std::size_t count) {
  return a.optional_array(i, "zeroPoints", napi_int32_array, count);
}

// quantizeAffine(record, input, scales, zeroPoints | null, codes), where the record holds what
// read_affine_quantization() reads.
Work prepare_quantize(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const AffineQuantization q = read_affine_quantization(a, 0);
  const Codes& codes = q.codes;
  const FloatType type = q.type;
  const std::size_t parameters = codes.layout.parameter_count();
  const Bytes input = a.floats(1, "input", type);
  const Bytes scales = a.array(2, "scales", napi_float32_array);
  const Bytes zero_points = zero_points_at(a, 3, parameters);
  const Bytes out = a.array(4, "out", napi_uint8_array);
  a.check(input.size == codes.count * size_of(type), "Expected the input to have as many elements as the shape says.");
  a.check(scales.size == 4 * parameters, "Expected as many scales as parameter sets.");
  a.check(q.given() || q.scheme.symmetric || zero_points.data != nullptr,
          "Expected zeroPoints for an asymmetric scheme.");
  a.check(out.size == codes.bytes(), "Expected data to be as long as the packed codes.");
  a.check(!out.overlaps(input) && !out.overlaps(scales) && !out.overlaps(zero_points) && !scales.overlaps(input) &&
              !zero_points.overlaps(input) && !scales.overlaps(zero_points),
          "Expected input, data, scales and zeroPoints not to overlap.");
  if (q.given()) {
    check_scales(a, "scales", scales.as<const float>(), parameters, true);
    check_zero_points(a, "zeroPoints", zero_points.as<const std::int32_t>(), parameters, codes.type.lowest(),
                      codes.type.highest());
  }
  return [=](const CancelFlag* cancel) {
    return quantize_affine(input.data, type, codes.layout, q.scheme, q.range, q.non_finite, scales.as<float>(),
                           zero_points.as<std::int32_t>(), out.data, cancel);
  };
}

// dequantizeAffine(record, codes, scales, zeroPoints | null, output), where the record holds what
// read_affine_dequantization() reads.
Work prepare_dequantize(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Dequantization d = read_affine_dequantization(a, 0);
  const Codes& codes = d.codes;
  const FloatType type = d.type;
  const std::size_t parameters = codes.layout.parameter_count();
  const Bytes data = a.array(1, "data", napi_uint8_array);
  const Bytes scales = a.array(2, "scales", napi_float32_array);
  const Bytes zero_points = zero_points_at(a, 3, parameters);
  const Bytes output = a.floats(4, "out", type);
  a.check(data.size == codes.bytes(), "Expected data to be as long as the packed codes.");
  a.check(scales.size == 4 * parameters, "Expected as many scales as parameter sets.");
  a.check(output.size == codes.count * size_of(type), "Expected out to have as many elements as the tensor.");
  a.check(!output.overlaps(data) && !output.overlaps(scales) && !output.overlaps(zero_points),
          "Expected out not to overlap data, scales or zeroPoints.");
  check_scales(a, "q.scales", scales.as<const float>(), parameters, false);
  check_zero_points(a, "q.zeroPoints", zero_points.as<const std::int32_t>(), parameters, -kZeroPointLimit,
                    kZeroPointLimit);
  return [=](const CancelFlag* cancel) {
    return dequantize_affine(data.data, codes.type, codes.layout, scales.as<const float>(),
                             zero_points.as<const std::int32_t>(), output.data, type, cancel);
  };
}

// quantizeCodebook(record, input, scales, globalScale, codes), where the record holds what read_codebook_quantization()
// reads; globalScale is a Float32Array of one: NVFP4's, or 0 to receive it.
Work prepare_quantize_codebook(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const CodebookQuantization q = read_codebook_quantization(a, 0);
  const Codes& codes = q.codes;
  const FloatType type = q.type;
  const std::size_t parameters = codes.layout.parameter_count();
  const Bytes input = a.floats(1, "input", type);
  const Bytes scales = a.array(2, "scales", napi_float32_array);
  const Bytes global_scale = a.array(3, "globalScale", napi_float32_array);
  const Bytes out = a.array(4, "out", napi_uint8_array);
  a.check(input.size == codes.count * size_of(type), "Expected the input to have as many elements as the shape says.");
  a.check(scales.size == 4 * parameters, "Expected as many scales as parameter sets.");
  a.check(global_scale.size == 4, "Expected room for one global scale.");
  const float given_scale = *global_scale.as<const float>();
  a.check(given_scale >= 0.0F && is_finite(given_scale), "Expected a global scale that is positive, or 0.");
  a.check(out.size == codes.bytes(), "Expected data to be as long as the packed codes.");
  a.check(!out.overlaps(input) && !out.overlaps(scales) && !scales.overlaps(input) && !global_scale.overlaps(input) &&
              !global_scale.overlaps(out) && !global_scale.overlaps(scales),
          "Expected input, data and scales not to overlap.");
  if (q.range.method == RangeChoice::Method::kGiven) {
    check_scales(a, "scales", scales.as<const float>(), parameters, true);
  }
  return [=](const CancelFlag* cancel) {
    return quantize_codebook(input.data, type, codes.layout, q.scheme, q.range, q.non_finite, scales.as<float>(),
                             global_scale.as<float>(), out.data, cancel);
  };
}

// dequantizeCodebook(record, codes, scales, output), where the record holds what read_codebook_dequantization() reads.
Work prepare_dequantize_codebook(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Dequantization d = read_codebook_dequantization(a, 0);
  const Codes& codes = d.codes;
  const FloatType type = d.type;
  const std::size_t parameters = codes.layout.parameter_count();
  const Bytes data = a.array(1, "data", napi_uint8_array), scales = a.array(2, "scales", napi_float32_array);
  const Bytes output = a.floats(3, "out", type);
  a.check(data.size == codes.bytes(), "Expected data to be as long as the packed codes.");
  a.check(scales.size == 4 * parameters, "Expected as many scales as parameter sets.");
  a.check(output.size == codes.count * size_of(type), "Expected out to have as many elements as the tensor.");
  a.check(!output.overlaps(data) && !output.overlaps(scales), "Expected out not to overlap data or scales.");
  check_scales(a, "q.scales", scales.as<const float>(), parameters, false);
  return [=](const CancelFlag* cancel) {
    return dequantize_codebook(data.data, d.book, codes.layout, scales.as<const float>(), output.data, type, cancel);
  };
}

// nestScales(scales, codes, absmax, offset): replaces the scales; offset is a Float32Array of one.
Work prepare_nest_scales(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes scales = a.array(0, "scales", napi_float32_array), codes = a.array(1, "codes", napi_uint8_array);
  const Bytes absmax = a.array(2, "absmax", napi_float32_array), offset = a.array(3, "offset", napi_float32_array);
  const std::size_t count = scales.size / sizeof(float);
  a.check(codes.size == count, "Expected one code for each scale.");
  a.check(absmax.size == 4 * ceil_div(count, kNestedBlock), "Expected one absmax for every 256 scales.");
  a.check(offset.size == 4, "Expected room for one offset.");
  a.check(!scales.overlaps(codes) && !scales.overlaps(absmax) && !codes.overlaps(absmax) && !offset.overlaps(scales) &&
              !offset.overlaps(codes) && !offset.overlaps(absmax),
          "Expected arrays that do not overlap.");
  check_scales(a, "scales", scales.as<const float>(), count, false);
  return [=](const CancelFlag*) {
    *offset.as<float>() = nest_scales(scales.as<float>(), count, codes.data, absmax.as<float>());
    return Outcome{};
  };
}

// unpackCodes(data, bits, signed, rows, columns, output)
Work prepare_unpack(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes data = a.array(0, "data", napi_uint8_array);
  const CodeType type{static_cast<std::uint8_t>(a.integer(1, "bits", 1, 8)), a.flag(2, "signed")};
  const std::size_t rows = a.size(3, "rows"), columns = a.size(4, "columns");
  const Bytes output = a.array(5, "out", type.is_signed ? napi_int8_array : napi_uint8_array);
  checked_product(a, checked_product(a, rows, columns), 8);
  a.check(data.size == rows * type.packed_bytes(columns), "Expected data to be as long as the packed codes.");
  a.check(output.size == rows * columns, "Expected out to have as many elements as the tensor.");
  a.check(!output.overlaps(data), "Expected out not to overlap data.");
  return [=](const CancelFlag*) {
    unpack_codes(data.data, type, rows, columns, output.data);
    return Outcome{};
  };
}

// compare(reference, other, sums): sums is a Float64Array of five that receives Σr², Σo², Σr·o, Σ(r−o)², max|r−o|.
Work prepare_compare(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes reference = a.array(0, "reference", napi_float32_array), other = a.array(1, "other", napi_float32_array);
  const Bytes sums = a.array(2, "sums", napi_float64_array);
  a.check(reference.size == other.size, "Expected both tensors to have as many elements.");
  a.check(sums.size == 5 * sizeof(double), "Expected room for five sums.");
  return [=](const CancelFlag* cancel) {
    CompareSums result;
    const Outcome outcome =
        compare(reference.as<const float>(), other.as<const float>(), reference.size / 4, result, cancel);
    const double values[] = {result.reference_power, result.other_power, result.product, result.error_power,
                             result.largest_error};
    for (std::size_t i = 0; i < 5; i++) sums.as<double>()[i] = values[i];
    return outcome;
  };
}

// logitStatistics(logits, reference | null, targets, vocabulary, statistics, largest): statistics is a Float64Array
// that receives the four members of LogitStatistics for each row, largest an Int32Array of two for each row.
Work prepare_logit_statistics(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes logits = a.array(0, "logits", napi_float32_array);
  const Bytes targets = a.array(2, "targets", napi_int32_array);
  const std::size_t vocabulary = a.size(3, "vocabulary"), rows = targets.size / sizeof(std::int32_t);
  a.check(vocabulary > 0 && vocabulary <= std::numeric_limits<std::int32_t>::max(),
          "Expected a vocabulary of 1 to 2^31 - 1 tokens.");
  const std::size_t count = checked_product(a, rows, vocabulary);
  a.check(logits.size / sizeof(float) == count, "Expected a row of logits for each target.");
  const Bytes reference = a.optional_array(1, "reference", napi_float32_array, count);
  const Bytes statistics = a.array(4, "statistics", napi_float64_array);
  const Bytes largest = a.array(5, "largest", napi_int32_array);
  a.check(statistics.size / sizeof(LogitStatistics) == rows && statistics.size % sizeof(LogitStatistics) == 0,
          "Expected room for four statistics of each row.");
  a.check(largest.size == 2 * targets.size, "Expected room for two indices of each row.");
  for (std::size_t i = 0; i < rows; i++) {
    const std::int32_t target = targets.as<const std::int32_t>()[i];
    a.check(target >= 0 && static_cast<std::size_t>(target) < vocabulary, "Expected targets in the vocabulary.");
  }
  return [=](const CancelFlag* cancel) {
    return logit_statistics(logits.as<const float>(), reference.as<const float>(), targets.as<const std::int32_t>(),
                            rows, vocabulary, statistics.as<LogitStatistics>(), largest.as<std::int32_t>(), cancel);
  };
}

void check_importance(const Arguments& a, const Bytes& importance) {
  const auto* values = importance.as<const float>();
  for (std::size_t i = 0; i < importance.size / sizeof(float); i++) {
    if (!(values[i] >= 0.0F && values[i] <= std::numeric_limits<float>::max())) {
      a.fail("Expected importance to be finite and not negative but received " + std::to_string(values[i]) +
                 " at index " + std::to_string(i) + ".",
             "importance");
    }
  }
}

// quantizeBlocks(input, type, rowLength, importance | null, out)
Work prepare_quantize_blocks(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes input = a.array(0, "input", napi_float32_array);
  const auto type = static_cast<BlockType>(a.integer(1, "type", 0, kBlockTypes - 1));
  const BlockFormat& format = format_of(type);
  const std::size_t columns = a.size(2, "rowLength"), count = input.size / sizeof(float);
  const Bytes importance = a.optional_array(3, "importance", napi_float32_array, columns);
  const Bytes out = a.array(4, "out", napi_uint8_array);
  a.check(columns != 0 && columns % format.length == 0, "Expected rowLength to be a multiple of the block length.");
  a.check(count % columns == 0, "Expected the input to have whole rows.");
  a.check(out.size == count / format.length * format.bytes, "Expected out to be as long as the blocks.");
  a.check(!out.overlaps(input) && !out.overlaps(importance), "Expected out not to overlap input or importance.");
  check_importance(a, importance);
  return [=](const CancelFlag* cancel) {
    return quantize_blocks(input.as<const float>(), type, count / columns, columns, importance.as<const float>(),
                           out.data, cancel);
  };
}

// dequantizeBlocks(data, type, out)
Work prepare_dequantize_blocks(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes data = a.array(0, "data", napi_uint8_array);
  const auto type = static_cast<BlockType>(a.integer(1, "type", 0, kBlockTypes - 1));
  const BlockFormat& format = format_of(type);
  const Bytes out = a.array(2, "out", napi_float32_array);
  const std::size_t blocks = data.size / format.bytes;
  a.check(data.size % format.bytes == 0, "Expected data to be whole blocks.");
  a.check(out.size == checked_product(a, blocks, format.length * sizeof(float)),
          "Expected out to have as many elements as the blocks.");
  a.check(!out.overlaps(data), "Expected out not to overlap data.");
  return [=](const CancelFlag* cancel) { return dequantize_blocks(data.data, type, blocks, out.as<float>(), cancel); };
}

}  // namespace

void register_tensor_calls(Napi::Env env, Napi::Object exports) {
  register_call<prepare_cast>(env, exports, "cast");
  register_call<prepare_quantize>(env, exports, "quantizeAffine");
  register_call<prepare_dequantize>(env, exports, "dequantizeAffine");
  register_call<prepare_quantize_codebook>(env, exports, "quantizeCodebook");
  register_call<prepare_dequantize_codebook>(env, exports, "dequantizeCodebook");
  register_call<prepare_nest_scales>(env, exports, "nestScales");
  register_call<prepare_unpack>(env, exports, "unpackCodes");
  register_call<prepare_compare>(env, exports, "compare");
  register_call<prepare_logit_statistics>(env, exports, "logitStatistics");
  register_call<prepare_quantize_blocks>(env, exports, "quantizeBlocks");
  register_call<prepare_dequantize_blocks>(env, exports, "dequantizeBlocks");
}

}  // namespace lowbit::node
