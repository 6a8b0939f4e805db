// Fake quantization and its gradients on a device against the driver of the processor, bit for bit.

#include "ops/fake_quantize/fake_quantize.h"
#include "ops/fake_quantize/fake_quantize_cuda.h"
#include "test/cuda/layouts.h"

namespace lowbit::test {
namespace {

constexpr Channels kChannels[] = {{0, 4, 3},  {1, 1, 1},   {1, 1, 37}, {1, 1, 4000},  {1, 5, 64},
                                  {3, 5, 65}, {2, 3, 128}, {7, 40, 1}, {70, 1030, 1}, {9, 33, 1},
                                  {3, 4, 9},  {5, 7, 4},   {2, 9, 60}, {1, 2, 32771}, {1, 1, 65600}};

std::string name_of(const Channels& c) { return format("%zu × %zu × %zu", c.blocks, c.count, c.inner); }

Buffer<float> samples(std::size_t count, Data data, Random& random) {
  Buffer<float> x(count);
  for (std::size_t i = 0; i < count; i++) x[i] = sample(data, random);
  return x;
}

// The bits of a NaN that arithmetic makes are the processor's own.
Buffer<float> same_nan(Buffer<float> x) {
  for (std::size_t i = 0; i < x.size(); i++) {
    if (x[i] != x[i]) x[i] = float_of(0x7fc00000U);
  }
  return x;
}

struct Parameters {
  Buffer<float> scales;
  Buffer<std::int32_t> zero_points;

  Parameters(std::size_t count, Random& random) : scales(count), zero_points(count) {
    for (std::size_t i = 0; i < count; i++) {
      scales[i] = i % 3 == 0 ? 0.5F : random.between(0.01F, 0.3F);
      zero_points[i] = static_cast<std::int32_t>(random.below(9)) - 4;
    }
  }
};

TEST("cuda fake quantize: integers per channel, ties either way") {
  const Device device;
  if (!device) return;
  Random random(1);
  std::size_t turn = 0;
  for (const Channels& channels : kChannels) {
    for (const Data data : {Data::kNormal, Data::kTies, Data::kNonFinite}) {
      const std::size_t count = channels.element_count();
      if (count > 30000 && data != Data::kTies) continue;
      const Buffer<float> x = samples(count, data, random);
      const Parameters p(channels.count, random);
      const Rounding rounding = turn % 2 == 0 ? Rounding::kHalfEven : Rounding::kHalfAway;
      const bool has_zero_points = turn++ % 3 != 0;
      Buffer<float> expected(count);
      Buffer<std::uint8_t> expected_mask(count);
      const DeviceBuffer<float> device_x(device, x), scales(device, p.scales), out(device, count);
      const DeviceBuffer<std::int32_t> zero_points(device, p.zero_points);
      const DeviceBuffer<std::uint8_t> mask(device, count);
      device.expect_ok(
          device.api->fake_quantize->integers(device.stream, device_x.data(), channels,
                                              {scales.data(), has_zero_points ? zero_points.data() : nullptr, -8, 7},
                                              rounding, out.data(), mask.data()),
          "integers");
      fake_quantize_integers(x.data(), channels,
                             {p.scales.data(), has_zero_points ? p.zero_points.data() : nullptr, -8, 7}, rounding,
                             expected.data(), expected_mask.data());
      expect_equal(out.host(), expected, "element", name_of(channels));
      expect_equal(mask.host(), expected_mask, "mask", name_of(channels));
      if (failed()) return;
    }
  }
}

TEST("cuda fake quantize: element formats per channel") {
  const Device device;
  if (!device) return;
  Random random(2);
  std::size_t turn = 0;
  for (const Channels& channels : kChannels) {
    if (channels.element_count() > 30000) continue;
    for (const Data data : kAllData) {
      const std::size_t count = channels.element_count();
      const Buffer<float> x = samples(count, data, random);
      const Parameters p(channels.count, random);
      const auto type = static_cast<ElementType>(turn++ % kElementTypes);
      Buffer<float> expected(count);
      Buffer<std::uint8_t> expected_mask(count);
      const DeviceBuffer<float> device_x(device, x), scales(device, p.scales), out(device, count);
      const DeviceBuffer<std::uint8_t> mask(device, count);
      device.expect_ok(device.api->fake_quantize->scaled(device.stream, device_x.data(), channels, type, scales.data(),
                                                         out.data(), mask.data()),
                       "scaled");
      fake_quantize_scaled(x.data(), channels, type, p.scales.data(), expected.data(), expected_mask.data());
      const std::string name = format("%s, type %d", name_of(channels).c_str(), static_cast<int>(type));
      expect_equal(out.host(), expected, "element", name);
      expect_equal(mask.host(), expected_mask, "mask", name);
      if (failed()) return;
    }
  }
}

TEST("cuda fake quantize: blocks of MX and of NVFP4, ragged, with a global scale and without") {
  const Device device;
  if (!device) return;
  Random random(3);
  struct Shape {
    std::size_t rows, columns;
  };
  for (const Shape shape :
       {Shape{0, 32}, {1, 1}, {3, 32}, {2, 100}, {5, 37}, {2, 1056}, {3, 16}, {1, 50}, {8, 32900}}) {
    for (const Data data : kAllData) {
      for (int t = 0; t < kElementTypes + 2; t++) {
        if (shape.rows == 8 && (data != Data::kMixed || t < kElementTypes)) continue;  // more than a grid holds at once
        const bool is_mx = t < kElementTypes;
        const auto type = is_mx ? static_cast<ElementType>(t) : ElementType::kFloat4E2m1fn;
        const BlockScale scale{is_mx, t == kElementTypes ? 0.0F : 700.0F};
        const std::size_t count = shape.rows * shape.columns, length = is_mx ? 32 : 16;
        const Buffer<float> x = samples(count, data, random);
        Buffer<float> expected(count);
        Buffer<std::uint8_t> expected_mask(count);
        const DeviceBuffer<float> device_x(device, x), out(device, count);
        const DeviceBuffer<std::uint8_t> mask(device, count);
        device.expect_ok(device.api->fake_quantize->blocks(device.stream, device_x.data(), shape.rows, shape.columns,
                                                           length, type, scale, out.data(), mask.data()),
                         "blocks");
        const Outcome outcome = device.synchronize();
        const Outcome wanted = fake_quantize_blocks(x.data(), shape.rows, shape.columns, length, type, scale,
                                                    expected.data(), expected_mask.data());
        const std::string name =
            format("%zu × %zu, type %d, data %d", shape.rows, shape.columns, t, static_cast<int>(data));
        CHECK(outcome.status == wanted.status && outcome.index == wanted.index,
              "%s: outcome %d at %lld, not %d at %lld", name.c_str(), static_cast<int>(outcome.status),
              static_cast<long long>(outcome.index), static_cast<int>(wanted.status),
              static_cast<long long>(wanted.index));
        if (wanted.status != Status::kOk) continue;
        expect_equal(out.host(), expected, "element", name);
        expect_equal(mask.host(), expected_mask, "mask", name);
        if (failed()) return;
      }
    }
  }
}

TEST("cuda fake quantize: gradients pass where the mask says") {
  const Device device;
  if (!device) return;
  Random random(4);
  for (const std::size_t count : Sizes{0, 1, 3, 4, 7, 1000, 5001}) {
    const Buffer<float> dy = samples(count, Data::kNonFinite, random);
    Buffer<std::uint8_t> mask(count);
    for (std::size_t i = 0; i < count; i++) mask[i] = static_cast<std::uint8_t>(random.below(3));
    Buffer<float> expected(count);
    const DeviceBuffer<float> device_dy(device, dy), dx(device, count);
    const DeviceBuffer<std::uint8_t> device_mask(device, mask);
    device.expect_ok(device.api->fake_quantize->straight_through(device.stream, device_dy.data(), device_mask.data(),
                                                                 count, dx.data()),
                     "straight_through");
    straight_through(dy.data(), mask.data(), count, expected.data());
    expect_equal(same_nan(dx.host()), same_nan(std::move(expected)), "element", format("%zu", count));
  }
}

TEST("cuda fake quantize: gradients of quantizers, summed in the same order") {
  const Device device;
  if (!device) return;
  Random random(5);
  std::size_t turn = 0;
  for (const Channels& channels : kChannels) {
    for (const Data data : {Data::kNormal, Data::kTies}) {
      const std::size_t count = channels.element_count();
      if (count > 30000 && data == Data::kTies) continue;
      const Buffer<float> x = samples(count, data, random), dy = samples(count, Data::kNormal, random);
      const Parameters p(channels.count, random);
      const bool has_zero_points = turn++ % 3 != 0;
      Buffer<float> expected(count), expected_scales(channels.count), expected_zero_points(channels.count);
      const DeviceBuffer<float> device_x(device, x), device_dy(device, dy), scales(device, p.scales), dx(device, count);
      const DeviceBuffer<float> scale_gradients(device, channels.count), zero_point_gradients(device, channels.count);
      const DeviceBuffer<std::int32_t> zero_points(device, p.zero_points);
      device.expect_ok(
          device.api->fake_quantize->gradients(device.stream, device_dy.data(), device_x.data(), channels,
                                               {scales.data(), has_zero_points ? zero_points.data() : nullptr, -8, 7},
                                               0.37, {dx.data(), scale_gradients.data(), zero_point_gradients.data()}),
          "gradients");
      fake_quantize_gradients(dy.data(), x.data(), channels,
                              {p.scales.data(), has_zero_points ? p.zero_points.data() : nullptr, -8, 7}, 0.37,
                              {expected.data(), expected_scales.data(), expected_zero_points.data()});
      expect_equal(dx.host(), expected, "gradient", name_of(channels));
      expect_equal(scale_gradients.host(), expected_scales, "gradient of scale", name_of(channels));
      expect_equal(zero_point_gradients.host(), expected_zero_points, "gradient of zero point", name_of(channels));
      if (failed()) return;
    }
  }
}

}  // namespace
}  // namespace lowbit::test
