// The operations on tensors: arguments in, work out. The order of the arguments is that of lib/addon.ts.

#include "node/arguments.h"
#include "node/calls.h"
#include "node/record.h"
#include "ops/affine/affine.h"
#include "ops/cast/cast.h"
#include "ops/compare/compare.h"

namespace lowbit::node {
namespace {

// cast(input, from, output, to)
Work prepare_cast(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const FloatType from = a.float_type(1, "from"), to = a.float_type(3, "to");
  const Bytes input = a.floats(0, "input", from), output = a.floats(2, "out", to);
  const std::size_t count = input.size / size_of(from);
  a.check(output.size / size_of(to) == count, "Expected out to have as many elements as the input.");
  a.check(!input.overlaps(output), "Expected out not to overlap the input.");
  return [=](const CancelFlag* cancel) { return cast(input.data, from, output.data, to, count, cancel); };
}

struct Codes {
  CodeType type;
  AffineLayout layout;
  std::size_t count, rows;
};

// blocks, blockSize, groupSize, shared, columns, bits, signed
constexpr std::size_t kCodesNumbers = 7;

Codes read_codes(const Arguments& a, Record& record) {
  Codes codes{};
  codes.layout.blocks = record.size();
  codes.layout.block_size = record.size();
  codes.layout.group_size = record.size(1);
  codes.layout.shared = record.flag();
  codes.layout.columns = record.size();
  codes.type = record.code_type();
  codes.count = checked_product(a, codes.layout.blocks, codes.layout.block_size);
  if (codes.count == 0) return codes;
  a.check(codes.layout.columns != 0 && codes.count % codes.layout.columns == 0, "Expected whole rows.");
  codes.rows = codes.count / codes.layout.columns;
  checked_product(a, codes.count, 8);
  return codes;
}

std::size_t code_bytes(const Codes& codes) { return codes.rows * codes.type.packed_bytes(codes.layout.columns); }

Bytes zero_points_at(const Arguments& a, std::size_t i, std::size_t count) {
  return a.optional_array(i, "zeroPoints", napi_int32_array, count);
}

// quantizeAffine(record, input, scales, zeroPoints | null, codes), where the record holds the numbers of Codes, then
// inputType, symmetric, lowest, highest, scaleType, rangeMethod, percentile, saturate.
Work prepare_quantize(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, kCodesNumbers + 8);
  const Codes codes = read_codes(a, record);
  const FloatType type = record.float_type();
  AffineScheme scheme{};
  scheme.code = codes.type;
  scheme.symmetric = record.flag();
  scheme.lowest = static_cast<int>(record.integer(codes.type.lowest(), codes.type.highest()));
  scheme.highest = static_cast<int>(record.integer(scheme.lowest, codes.type.highest()));
  scheme.scale_type = record.float_type();
  const auto method = static_cast<RangeChoice::Method>(record.integer(0, 3));
  const RangeChoice range{method, record.number()};
  a.check(range.percentile > 50.0 && range.percentile <= 100.0, "Expected a percentile in (50, 100].");
  const NonFinite non_finite = record.flag() ? NonFinite::kSaturate : NonFinite::kThrow;
  const std::size_t parameters = codes.layout.parameter_count();
  const Bytes input = a.floats(1, "input", type);
  const Bytes scales = a.array(2, "scales", napi_float32_array);
  const Bytes zero_points = zero_points_at(a, 3, parameters);
  const Bytes out = a.array(4, "out", napi_uint8_array);
  const bool given = range.method == RangeChoice::Method::kGiven;
  a.check(input.size == codes.count * size_of(type), "Expected the input to have as many elements as the shape says.");
  a.check(scales.size == 4 * parameters, "Expected as many scales as parameter sets.");
  a.check(given || scheme.symmetric || zero_points.data != nullptr, "Expected zeroPoints for an asymmetric scheme.");
  a.check(out.size == code_bytes(codes), "Expected data to be as long as the packed codes.");
  a.check(!out.overlaps(input) && !out.overlaps(scales) && !out.overlaps(zero_points) && !scales.overlaps(input) &&
              !zero_points.overlaps(input) && !scales.overlaps(zero_points),
          "Expected input, data, scales and zeroPoints not to overlap.");
  if (given) {
    check_scales(a, "scales", scales.as<const float>(), parameters, true);
    check_zero_points(a, "zeroPoints", zero_points.as<const std::int32_t>(), parameters, codes.type.lowest(),
                      codes.type.highest());
  }
  return [=](const CancelFlag* cancel) {
    return quantize_affine(input.data, type, codes.layout, scheme, range, non_finite, scales.as<float>(),
                           zero_points.as<std::int32_t>(), out.data, cancel);
  };
}

// dequantizeAffine(record, codes, scales, zeroPoints | null, output), where the record holds the numbers of Codes, then
// outputType.
Work prepare_dequantize(const Napi::CallbackInfo& info) {
  // Far past any dtype's range, and small enough that code − zero point is exact in float32.
  constexpr int kZeroPointLimit = 1 << 20;
  const Arguments a(info);
  Record record(a, 0, kCodesNumbers + 1);
  const Codes codes = read_codes(a, record);
  const FloatType type = record.float_type();
  const std::size_t parameters = codes.layout.parameter_count();
  const Bytes data = a.array(1, "data", napi_uint8_array);
  const Bytes scales = a.array(2, "scales", napi_float32_array);
  const Bytes zero_points = zero_points_at(a, 3, parameters);
  const Bytes output = a.floats(4, "out", type);
  a.check(data.size == code_bytes(codes), "Expected data to be as long as the packed codes.");
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

// unpackCodes(data, bits, signed, rows, columns, output)
Work prepare_unpack(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes data = a.array(0, "data", napi_uint8_array);
  const CodeType type{static_cast<std::uint8_t>(a.integer(1, "bits", 2, 8)), a.flag(2, "signed")};
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

}  // namespace

void register_tensor_calls(Napi::Env env, Napi::Object exports) {
  register_call<prepare_cast>(env, exports, "cast");
  register_call<prepare_quantize>(env, exports, "quantizeAffine");
  register_call<prepare_dequantize>(env, exports, "dequantizeAffine");
  register_call<prepare_unpack>(env, exports, "unpackCodes");
  register_call<prepare_compare>(env, exports, "compare");
}

}  // namespace lowbit::node
