// Affine quantization on a device against the driver of the processor, bit for bit.

#include "ops/affine/affine.h"
#include "ops/affine/affine_cuda.h"
#include "test/cuda/layouts.h"

namespace lowbit::test {
namespace {

struct Case {
  AffineLayout layout;
  FloatType type = FloatType::kFloat32;
  AffineScheme scheme{};
  NonFinite non_finite = NonFinite::kThrow;
  bool keep_zero_points = true;  // of a symmetric scheme

  std::string name() const {
    return format("%s, %s, %s%d %s %d…%d, scales %s", test::name_of(layout).c_str(), test::name_of(type),
                  scheme.code.is_signed ? "int" : "uint", scheme.code.bits,
                  scheme.symmetric ? "symmetric" : "asymmetric", scheme.lowest, scheme.highest,
                  test::name_of(scheme.scale_type));
  }
};

AffineScheme scheme_of(CodeType code, bool symmetric, bool narrow, FloatType scale_type) {
  return {code, symmetric, code.lowest() + (narrow ? 1 : 0), code.highest(), scale_type};
}

constexpr CodeType kCodes[] = {{2, true}, {2, false}, {3, true}, {3, false},
                               {4, true}, {4, false}, {8, true}, {8, false}};

// Quantizes on both, compares everything, then dequantizes on both into every type.
void expect_same(const Device& device, const Case& c, const Buffer<std::uint8_t>& x, const Buffer<float>* given_scales,
                 const Buffer<std::int32_t>* given_zero_points) {
  const std::size_t parameters = c.layout.parameter_count();
  const bool has_zero_points = !c.scheme.symmetric || c.keep_zero_points;
  Buffer<float> scales(parameters);
  Buffer<std::int32_t> zero_points(has_zero_points ? parameters : 0);
  Buffer<std::uint8_t> codes(code_bytes(c.layout, c.scheme.code));
  const RangeChoice range{given_scales != nullptr ? RangeChoice::Method::kGiven : RangeChoice::Method::kMinMax, 0.0};
  if (given_scales != nullptr) {
    for (std::size_t i = 0; i < parameters; i++) scales[i] = (*given_scales)[i];
    for (std::size_t i = 0; i < zero_points.size(); i++) zero_points[i] = (*given_zero_points)[i];
  }
  const DeviceBuffer<std::uint8_t> on_device(device, x);
  const DeviceBuffer<float> device_scales(device, scales);
  const DeviceBuffer<std::int32_t> device_zero_points(device, zero_points);
  const DeviceBuffer<std::uint8_t> device_codes(device, codes);
  const AffineCuda& cuda = *device.api->affine;
  device.expect_ok(
      cuda.quantize(device.stream, on_device.data(), c.type, c.layout, c.scheme, range, c.non_finite,
                    device_scales.data(), has_zero_points ? device_zero_points.data() : nullptr, device_codes.data()),
      "quantize");
  const Outcome outcome = device.synchronize();
  const Outcome expected = quantize_affine(x.data(), c.type, c.layout, c.scheme, range, c.non_finite, scales.data(),
                                           has_zero_points ? zero_points.data() : nullptr, codes.data());
  const std::string name = c.name();
  CHECK(outcome.status == expected.status && outcome.index == expected.index, "%s: outcome %d at %lld, not %d at %lld",
        name.c_str(), static_cast<int>(outcome.status), static_cast<long long>(outcome.index),
        static_cast<int>(expected.status), static_cast<long long>(expected.index));
  if (expected.status != Status::kOk) return;
  if (!expect_equal(device_scales.host(), scales, "scale", name)) return;
  if (!expect_equal(device_zero_points.host(), zero_points, "zero point", name)) return;
  if (!expect_equal(device_codes.host(), codes, "byte of codes", name)) return;

  for (const FloatType type : kFloatTypes) {
    Buffer<std::uint8_t> back(c.layout.element_count() * size_of(type));
    const DeviceBuffer<std::uint8_t> device_back(device, back);
    device.expect_ok(cuda.dequantize(device.stream, device_codes.data(), c.scheme.code, c.layout, device_scales.data(),
                                     has_zero_points ? device_zero_points.data() : nullptr, device_back.data(), type),
                     "dequantize");
    dequantize_affine(codes.data(), c.scheme.code, c.layout, scales.data(),
                      has_zero_points ? zero_points.data() : nullptr, back.data(), type);
    expect_equal(device_back.host(), back, "byte of dequantized elements", name + " → " + test::name_of(type));
  }
}

TEST("cuda affine: every layout, with code types, schemes and element types in turn") {
  const Device device;
  if (!device) return;
  Random random(1);
  std::size_t turn = 0;
  for (const AffineLayout& layout : layouts()) {
    for (int round = 0; round < 6; round++, turn++) {
      Case c;
      c.layout = layout;
      c.type = kFloatTypes[turn % 3];
      const Data data = turn % 5 == 0 ? Data::kMixed : turn % 5 == 1 ? Data::kTies : Data::kNormal;
      c.scheme = scheme_of(kCodes[turn % 8], turn % 2 == 1, turn % 7 < 2, kFloatTypes[turn / 3 % 3]);
      if (turn % 11 < 6) c.scheme.symmetric = !c.scheme.symmetric;
      c.keep_zero_points = turn % 4 != 0;
      expect_same(device, c, elements(layout, c.type, data, random), nullptr, nullptr);
      if (failed()) return;
    }
  }
}

TEST("cuda affine: every code type and scheme in groups, on every kind of data") {
  const Device device;
  if (!device) return;
  Random random(2);
  const AffineLayout few[] = {per_group(3, 128, 32), per_row(2, 96), per_row(3, 44)};
  std::size_t turn = 0;
  for (const AffineLayout& layout : few) {
    for (const CodeType code : kCodes) {
      for (const Data data : kAllData) {
        for (const bool symmetric : {true, false}) {
          for (const bool narrow : {false, true}) {
            Case c;
            c.layout = layout;
            c.type = kFloatTypes[turn++ % 3];
            c.scheme = scheme_of(code, symmetric, narrow, kFloatTypes[turn / 3 % 3]);
            const Buffer<std::uint8_t> x = elements(layout, c.type, data, random);
            expect_same(device, c, x, nullptr, nullptr);
            c.non_finite = NonFinite::kSaturate;
            expect_same(device, c, x, nullptr, nullptr);
            if (failed()) return;
          }
        }
      }
    }
  }
}

TEST("cuda affine: given parameters, ordinary and not") {
  const Device device;
  if (!device) return;
  Random random(3);
  std::size_t turn = 0;
  for (const AffineLayout& layout : layouts()) {
    for (const Data data : {Data::kNormal, Data::kHuge, Data::kNonFinite}) {
      Case c;
      c.layout = layout;
      c.type = kFloatTypes[turn % 3];
      c.scheme = scheme_of(kCodes[turn % 8], false, false, FloatType::kFloat32);
      c.non_finite = turn % 4 != 0 ? NonFinite::kSaturate : NonFinite::kThrow;
      Buffer<float> scales(layout.parameter_count());
      Buffer<std::int32_t> zero_points(layout.parameter_count());
      constexpr float kScales[] = {0.1F, 1.0F, 0x1p-149F, 0x1.8p-130F, 0x1p-61F, 0x1.fffffep127F, 0x1.234568p70F};
      for (std::size_t i = 0; i < scales.size(); i++) {
        scales[i] = random.below(2) == 0 ? kScales[random.below(7)] : random.between(0.001F, 1.0F);
        zero_points[i] = static_cast<std::int32_t>(random.below(8)) - 4;
      }
      expect_same(device, c, elements(layout, c.type, data, random), &scales, &zero_points);
      if (failed()) return;
      turn++;
    }
  }
}

TEST("cuda affine: the first element that is not finite is named, and a scale that overflows only if all are") {
  const Device device;
  if (!device) return;
  Random random(4);
  for (const AffineLayout& layout : {per_tensor(3, 700), per_group(4, 256, 64), per_group(4, 320, 32), per_row(3, 1000),
                                     per_row(3, 57), per_channel(3, 40, 1), per_channel(2, 3, 9)}) {
    for (int round = 0; round < 6; round++) {
      Case c;
      c.layout = layout;
      c.type = round % 2 == 0 ? FloatType::kFloat32 : FloatType::kBfloat16;
      c.scheme = scheme_of({4, true}, round < 3, false, FloatType::kFloat16);
      Buffer<std::uint8_t> x = elements(layout, c.type, Data::kNormal, random);
      set_element(x.data(), c.type, random.below(layout.element_count()), 0x1p100F);  // its scale overflows
      for (int i = 0; round % 3 != 0 && i < 3; i++) {
        const float values[] = {float_of(0x7fc00000U), float_of(0x7f800000U), float_of(0xff800000U)};
        set_element(x.data(), c.type, random.below(layout.element_count()), values[i]);
      }
      expect_same(device, c, x, nullptr, nullptr);
    }
  }
}

TEST("cuda affine: quotients next to ties are those of division") {
  const Device device;
  if (!device) return;
  Random random(5);
  const AffineLayout layout = per_group(16, 256, 256);
  for (int round = 0; round < 8; round++) {
    Case c;
    c.layout = layout;
    c.scheme = scheme_of({8, true}, false, false, FloatType::kFloat32);
    Buffer<float> scales(16);
    Buffer<std::int32_t> zero_points(16);
    Buffer<std::uint8_t> x(layout.element_count() * 4);
    for (std::size_t i = 0; i < 16; i++) {
      scales[i] = float_of((127U + static_cast<unsigned>(random.below(4))) << 23 | (random.bits32() & 0x7fffffU));
      if (i < 4) scales[i] = float_of(0x3fffffffU - static_cast<unsigned>(i));  // where a reciprocal errs most
      zero_points[i] = static_cast<std::int32_t>(random.below(3));
    }
    for (std::size_t i = 0; i < layout.element_count(); i++) {
      const float tie = static_cast<float>(static_cast<int>(random.below(254)) - 127) + 0.5F;
      const float near = tie * scales[i / 256];
      set_element(x.data(), FloatType::kFloat32, i,
                  float_of(bits_of(near) + static_cast<unsigned>(random.below(5)) - 2));
    }
    expect_same(device, c, x, &scales, &zero_points);
  }
}

TEST("cuda affine: more than a grid holds at once") {
  const Device device;
  if (!device) return;
  Random random(8);
  // Channels that warps go through in several steps; groups of sixteen; rows of a block; elements on their own.
  for (const AffineLayout& layout :
       {per_channel(1, 7, 149800), per_group(1, 1048608, 16), per_row(300, 96), per_row(66000, 1)}) {
    Case c;
    c.layout = layout;
    c.type = FloatType::kBfloat16;
    c.scheme = scheme_of({4, false}, false, false, FloatType::kFloat32);
    Buffer<std::uint8_t> x(layout.element_count() * 2);
    for (std::size_t i = 0; i < x.size() / 2; i++) {
      const std::size_t size = 1 + i / 149800;
      set_element(x.data(), c.type, i, random.between(-1.0F, 1.0F) * static_cast<float>(size));
    }
    expect_same(device, c, x, nullptr, nullptr);
  }
}

TEST("cuda affine: memory that starts anywhere") {
  const Device device;
  if (!device) return;
  Random random(6);
  const AffineLayout layout = per_group(3, 64, 32);
  const AffineScheme scheme = scheme_of({4, false}, false, false, FloatType::kFloat32);
  for (const std::size_t shift : Sizes{0, 1, 3}) {
    Buffer<float> x(layout.element_count() + shift), scales(6), expected_scales(6);
    Buffer<std::int32_t> zero_points(6), expected_zero_points(6);
    Buffer<std::uint8_t> codes(96 + shift), expected_codes(96 + shift);
    for (std::size_t i = 0; i < x.size(); i++) x[i] = random.normal();
    const RangeChoice range{RangeChoice::Method::kMinMax, 0.0};
    const DeviceBuffer<float> device_x(device, x), device_scales(device, scales);
    const DeviceBuffer<std::int32_t> device_zero_points(device, zero_points);
    const DeviceBuffer<std::uint8_t> device_codes(device, codes);
    device.expect_ok(device.api->affine->quantize(device.stream, device_x.data() + shift, FloatType::kFloat32, layout,
                                                  scheme, range, NonFinite::kThrow, device_scales.data(),
                                                  device_zero_points.data(), device_codes.data() + shift),
                     "quantize");
    quantize_affine(x.data() + shift, FloatType::kFloat32, layout, scheme, range, NonFinite::kThrow,
                    expected_scales.data(), expected_zero_points.data(), expected_codes.data() + shift);
    expect_equal(device_codes.host(), expected_codes, "byte of codes", format("shifted by %zu", shift));
    expect_equal(device_scales.host(), expected_scales, "scale", format("shifted by %zu", shift));
  }
}

TEST("cuda affine: codes unpacked to bytes") {
  const Device device;
  if (!device) return;
  Random random(7);
  for (const CodeType code : kCodes) {
    for (const std::size_t columns : Sizes{0, 1, 5, 8, 13, 64, 100}) {
      for (const std::size_t rows : Sizes{1, 3}) {
        Buffer<std::uint8_t> codes(rows * code.packed_bytes(columns)), expected(rows * columns);
        for (std::size_t i = 0; i < codes.size(); i++) codes[i] = static_cast<std::uint8_t>(random.bits());
        const DeviceBuffer<std::uint8_t> device_codes(device, codes), out(device, expected.size());
        device.expect_ok(
            device.api->affine->unpack_codes(device.stream, device_codes.data(), code, rows, columns, out.data()),
            "unpack_codes");
        unpack_codes(codes.data(), code, rows, columns, expected.data());
        expect_equal(out.host(), expected, "code", format("%d bits, %zu × %zu", code.bits, rows, columns));
      }
    }
  }
}

TEST("cuda affine: searched ranges are refused") {
  const Device device;
  if (!device) return;
  const DeviceBuffer<float> x(device, 32), scales(device, 1);
  const DeviceBuffer<std::uint8_t> codes(device, 32);
  for (const RangeChoice::Method method : {RangeChoice::Method::kMse, RangeChoice::Method::kPercentile}) {
    const CudaStatus status =
        device.api->affine->quantize(device.stream, x.data(), FloatType::kFloat32, per_tensor(1, 32),
                                     scheme_of({8, true}, true, false, FloatType::kFloat32), {method, 99.0},
                                     NonFinite::kThrow, scales.data(), nullptr, codes.data());
    CHECK(status == CudaStatus::kUnsupported, "status %d", static_cast<int>(status));
  }
}

}  // namespace
}  // namespace lowbit::test
