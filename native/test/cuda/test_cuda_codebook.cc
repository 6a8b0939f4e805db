// Codebooks on a device against the driver of the processor, bit for bit.

#include "ops/codebook/codebook.h"
#include "ops/codebook/codebook_cuda.h"
#include "ops/codebook/nested_scales.h"
#include "test/cuda/layouts.h"

namespace lowbit::test {
namespace {

struct Kind {
  const char* name;
  Codebook book;
  ScaleRule rule;
};
constexpr Kind kKinds[] = {
    {"nf4", Codebook::kNf4, ScaleRule::kAbsmax},
    {"fp4", Codebook::kFp4, ScaleRule::kAbsmax},
    {"e4m3", Codebook::kE4m3fn, ScaleRule::kLargest},
    {"e5m2", Codebook::kE5m2, ScaleRule::kLargest},
    {"mxfp8 e4m3", Codebook::kE4m3fn, ScaleRule::kPowerOfTwo},
    {"mxfp8 e5m2", Codebook::kE5m2, ScaleRule::kPowerOfTwo},
    {"mxfp6 e2m3", Codebook::kE2m3, ScaleRule::kPowerOfTwo},
    {"mxfp6 e3m2", Codebook::kE3m2, ScaleRule::kPowerOfTwo},
    {"mxfp4", Codebook::kE2m1, ScaleRule::kPowerOfTwo},
    {"mxint8", Codebook::kFixed8, ScaleRule::kPowerOfTwo},
    {"nvfp4", Codebook::kE2m1, ScaleRule::kNvfp4},
    {"e2m3 of any scale", Codebook::kE2m3, ScaleRule::kLargest},
    {"fixed point of any scale", Codebook::kFixed8, ScaleRule::kLargest},
    {"ternary", Codebook::kTernary, ScaleRule::kLargest},
    {"binary", Codebook::kBinary, ScaleRule::kLargest},
};

struct Case {
  AffineLayout layout{};
  FloatType type = FloatType::kFloat32;
  Kind kind{};
  FloatType scale_type = FloatType::kFloat32;
  NonFinite non_finite = NonFinite::kThrow;
  float global_scale = 0.0F;

  std::string name() const {
    return format("%s, %s of %s, scales %s", test::name_of(layout).c_str(), kind.name, test::name_of(type),
                  test::name_of(scale_type));
  }
};

void expect_same_values(const Device& device, const Case& c, const Buffer<std::uint8_t>& codes,
                        const Buffer<float>& scales) {
  const DeviceBuffer<std::uint8_t> device_codes(device, codes);
  const DeviceBuffer<float> device_scales(device, scales);
  for (const FloatType type : kFloatTypes) {
    Buffer<std::uint8_t> back(c.layout.element_count() * size_of(type));
    const DeviceBuffer<std::uint8_t> device_back(device, back);
    device.expect_ok(device.api->codebook->dequantize(device.stream, device_codes.data(), c.kind.book, c.layout,
                                                      device_scales.data(), device_back.data(), type),
                     "dequantize");
    dequantize_codebook(codes.data(), c.kind.book, c.layout, scales.data(), back.data(), type);
    if (!expect_equal(device_back.host(), back, "byte of dequantized elements", c.name() + " → " + test::name_of(type)))
      return;
  }
}

void expect_same(const Device& device, const Case& c, const Buffer<std::uint8_t>& x, const Buffer<float>* given) {
  const std::size_t parameters = c.layout.parameter_count();
  Buffer<float> scales(parameters), global(1);
  Buffer<std::uint8_t> codes(code_bytes(c.layout, code_type_of(c.kind.book)));
  global[0] = c.global_scale;
  for (std::size_t i = 0; given != nullptr && i < parameters; i++) scales[i] = (*given)[i];
  const RangeChoice range{given != nullptr ? RangeChoice::Method::kGiven : RangeChoice::Method::kMinMax, 0.0};
  const CodebookScheme scheme{c.kind.book, c.kind.rule, c.scale_type};
  const DeviceBuffer<std::uint8_t> on_device(device, x), device_codes(device, codes);
  const DeviceBuffer<float> device_scales(device, scales), device_global(device, global);
  device.expect_ok(
      device.api->codebook->quantize(device.stream, on_device.data(), c.type, c.layout, scheme, range, c.non_finite,
                                     device_scales.data(), device_global.data(), device_codes.data()),
      "quantize");
  const Outcome outcome = device.synchronize();
  const Outcome expected = quantize_codebook(x.data(), c.type, c.layout, scheme, range, c.non_finite, scales.data(),
                                             global.data(), codes.data());
  const std::string name = c.name();
  CHECK(outcome.status == expected.status && outcome.index == expected.index, "%s: outcome %d at %lld, not %d at %lld",
        name.c_str(), static_cast<int>(outcome.status), static_cast<long long>(outcome.index),
        static_cast<int>(expected.status), static_cast<long long>(expected.index));
  if (expected.status != Status::kOk) return;
  if (!expect_equal(device_global.host(), global, "global scale", name)) return;
  if (!expect_equal(device_scales.host(), scales, "scale", name)) return;
  if (!expect_equal(device_codes.host(), codes, "byte of codes", name)) return;
  expect_same_values(device, c, codes, scales);
}

TEST("cuda codebook: every layout, with formats and element types in turn") {
  const Device device;
  if (!device) return;
  Random random(1);
  std::size_t turn = 0;
  for (const AffineLayout& layout : layouts()) {
    for (int round = 0; round < 5; round++, turn++) {
      Case c;
      c.layout = layout;
      c.type = kFloatTypes[turn % 3];
      c.kind = kKinds[turn % 15];
      c.scale_type = kFloatTypes[turn / 15 % 3];
      expect_same(device, c, elements(layout, c.type, turn % 4 == 0 ? Data::kMixed : Data::kNormal, random), nullptr);
      if (failed()) return;
    }
  }
}

TEST("cuda codebook: every format in groups, on every kind of data") {
  const Device device;
  if (!device) return;
  Random random(2);
  std::size_t turn = 0;
  for (const AffineLayout& layout : {per_group(4, 64, 16), per_group(3, 128, 32), per_row(2, 96), per_row(3, 44)}) {
    for (const Kind& kind : kKinds) {
      for (const Data data : kAllData) {
        Case c;
        c.layout = layout;
        c.kind = kind;
        c.type = kFloatTypes[turn++ % 3];
        c.scale_type = kFloatTypes[turn / 3 % 3];
        const Buffer<std::uint8_t> x = elements(layout, c.type, data, random);
        expect_same(device, c, x, nullptr);
        c.non_finite = NonFinite::kSaturate;
        expect_same(device, c, x, nullptr);
        if (failed()) return;
      }
    }
  }
}

TEST("cuda codebook: given scales, and a given global one") {
  const Device device;
  if (!device) return;
  Random random(3);
  std::size_t turn = 0;
  for (const AffineLayout& layout :
       {per_group(4, 64, 16), per_group(3, 64, 8), per_row(3, 44), per_channel(3, 24, 1)}) {
    for (const Kind& kind : kKinds) {
      for (const Data data : {Data::kNormal, Data::kHuge, Data::kTiny, Data::kNonFinite}) {
        Case c;
        c.layout = layout;
        c.kind = kind;
        c.type = kFloatTypes[turn++ % 3];
        c.non_finite = NonFinite::kSaturate;
        c.global_scale = 37.5F;
        Buffer<float> scales(layout.parameter_count());
        constexpr float kScales[] = {0.1F, 1.0F, 0x1p-149F, 0x1.8p-130F, 0x1p-61F, 0x1.fffffep127F, 0x1.234568p70F};
        const bool powers = kind.rule == ScaleRule::kPowerOfTwo;
        for (std::size_t i = 0; i < scales.size(); i++) {
          scales[i] = random.below(2) == 0 ? kScales[random.below(7)] : random.between(0.001F, 1.0F);
          if (powers) scales[i] = float_of_e8m0(static_cast<std::uint8_t>(random.below(255)));
        }
        const Buffer<std::uint8_t> x = elements(layout, c.type, data, random);
        expect_same(device, c, x, &scales);
        if (kind.rule == ScaleRule::kNvfp4) expect_same(device, c, x, nullptr);
        if (failed()) return;
      }
    }
  }
}

TEST("cuda codebook: quotients next to thresholds and ties are those of division") {
  const Device device;
  if (!device) return;
  Random random(4);
  const AffineLayout layout = per_group(8, 256, 256);
  for (const Kind& kind : kKinds) {
    for (int round = 0; round < 3; round++) {
      Case c;
      c.layout = layout;
      c.kind = kind;
      c.global_scale = 1.0F;
      Buffer<float> scales(8);
      Buffer<std::uint8_t> x(layout.element_count() * 4);
      const unsigned values = 1U << format_of(kind.book).bits;
      Buffer<std::uint8_t> all(values);
      Buffer<float> value(values), one(1);
      one[0] = 1.0F;
      for (unsigned i = 0; i < values; i++) all[i] = static_cast<std::uint8_t>(i);
      const CodeType code = code_type_of(kind.book);
      Buffer<std::uint8_t> packed(code.packed_bytes(values));
      std::memset(packed.data(), 0, packed.size());
      for (unsigned i = 0; i < values; i++) set_code(packed.data(), code, i, static_cast<int>(i));
      dequantize_codebook(packed.data(), kind.book, per_row(1, values), one.data(), value.data(), FloatType::kFloat32);
      for (std::size_t i = 0; i < 8; i++) {
        scales[i] = float_of((127U + static_cast<unsigned>(random.below(4))) << 23 | (random.bits32() & 0x7fffffU));
        if (i < 4) scales[i] = float_of(0x3fffffffU - static_cast<unsigned>(i));
        if (kind.rule == ScaleRule::kPowerOfTwo) scales[i] = float_of(bits_of(scales[i]) & 0x7f800000U);
      }
      for (std::size_t i = 0; i < layout.element_count(); i++) {
        const float a = value[random.below(values)];
        float b = value[random.below(values)];  // the next value is as likely as any
        const std::size_t at = random.below(values - 1);
        if (random.below(2) == 0) b = value[at + 1];
        const float middle = random.below(2) == 0 ? (value[at] + b) / 2.0F : (a + b) / 2.0F;
        const float near = middle * scales[i / 256];
        float v = float_of(bits_of(near) + static_cast<unsigned>(random.below(5)) - 2);
        if (!is_finite(v)) v = 0.0F;
        set_element(x.data(), FloatType::kFloat32, i, v);
      }
      expect_same(device, c, x, &scales);
      if (failed()) return;
    }
  }
}

TEST("cuda codebook: all codes, NaN and infinities among them, into every type") {
  const Device device;
  if (!device) return;
  Random random(5);
  for (const Kind& kind : kKinds) {
    for (const AffineLayout& layout : {per_group(4, 256, 32), per_row(4, 65)}) {
      Case c;
      c.layout = layout;
      c.kind = kind;
      Buffer<std::uint8_t> codes(code_bytes(layout, code_type_of(kind.book)));
      for (std::size_t i = 0; i < codes.size(); i++)
        codes[i] = static_cast<std::uint8_t>(i % 3 == 0 ? i / 3 : random.bits());
      Buffer<float> scales(layout.parameter_count());
      for (std::size_t i = 0; i < scales.size(); i++) scales[i] = i % 4 == 0 ? 0x1p-140F : random.between(0.001F, 2.0F);
      expect_same_values(device, c, codes, scales);
      if (failed()) return;
    }
  }
}

TEST("cuda codebook: NVFP4 of a tensor of nothing, of zeros, of tiny numbers") {
  const Device device;
  if (!device) return;
  Random random(6);
  for (const AffineLayout& layout : {per_group(0, 16, 16), per_group(3, 32, 16), per_group(3, 37, 16)}) {
    for (const Data data : {Data::kZeros, Data::kTiny, Data::kNonFinite}) {
      Case c;
      c.layout = layout;
      c.kind = kKinds[10];
      expect_same(device, c, elements(layout, c.type, data, random), nullptr);
      c.non_finite = NonFinite::kSaturate;
      expect_same(device, c, elements(layout, c.type, data, random), nullptr);
    }
  }
}

TEST("cuda codebook: rules of means and searched ranges are refused") {
  const Device device;
  if (!device) return;
  const DeviceBuffer<float> x(device, 32), scales(device, 1), global(device, 1);
  const DeviceBuffer<std::uint8_t> codes(device, 32);
  const auto quantize = [&](CodebookScheme scheme, RangeChoice range) {
    return device.api->codebook->quantize(device.stream, x.data(), FloatType::kFloat32, per_tensor(1, 32), scheme,
                                          range, NonFinite::kThrow, scales.data(), global.data(), codes.data());
  };
  const RangeChoice min_max{RangeChoice::Method::kMinMax, 0.0}, percentile{RangeChoice::Method::kPercentile, 99.0};
  for (const ScaleRule rule : {ScaleRule::kMean, ScaleRule::kAbsmean, ScaleRule::kTernaryWeights}) {
    CHECK(quantize({Codebook::kTernary, rule, FloatType::kFloat32}, min_max) == CudaStatus::kUnsupported, "rule");
  }
  CHECK(quantize({Codebook::kE4m3fn, ScaleRule::kLargest, FloatType::kFloat32}, percentile) == CudaStatus::kUnsupported,
        "percentile");
}

TEST("cuda codebook: nested scales, whether any order of the sum will do or not") {
  const Device device;
  if (!device) return;
  Random random(7);
  for (const std::size_t count : Sizes{0, 1, 5, 255, 256, 257, 1000}) {
    for (int round = 0; round < 4; round++) {
      Buffer<float> scales(count), absmax((count + kNestedBlock - 1) / kNestedBlock), offset(1);
      Buffer<std::uint8_t> codes(count);
      for (std::size_t i = 0; i < count; i++) {
        scales[i] = round == 3 ? 0.0F : std::fabs(random.normal());
        if (round == 1) scales[i] *= float_of(static_cast<std::uint32_t>(60 + random.below(140)) << 23);
        if (round == 2) scales[i] = 0.25F;
      }
      const DeviceBuffer<float> device_scales(device, scales), device_absmax(device, absmax), device_offset(device, 1);
      const DeviceBuffer<std::uint8_t> device_codes(device, codes);
      device.expect_ok(
          device.api->codebook->nest_scales(device.stream, device_scales.data(), count, device_codes.data(),
                                            device_absmax.data(), device_offset.data()),
          "nest_scales");
      offset[0] = nest_scales(scales.data(), count, codes.data(), absmax.data());
      const std::string where = format("%zu scales, round %d", count, round);
      expect_equal(device_offset.host(), offset, "offset", where);
      expect_equal(device_absmax.host(), absmax, "absmax", where);
      expect_equal(device_codes.host(), codes, "code", where);
      expect_equal(device_scales.host(), scales, "scale", where);
    }
  }
}

}  // namespace
}  // namespace lowbit::test
