// Products of E4M3FN on a device against float64, and their activations against core/small_floats.h.

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "core/float_bits.h"
#include "core/small_floats.h"
#include "ops/matmul/float8_cuda.h"
#include "test/cuda/device.h"

namespace lowbit::test {
namespace {

constexpr SmallFloatType kE4m3 = SmallFloatType::kFloat8E4m3fn;

struct Shape {
  std::size_t m, n, k;
};

// Emulated devices have the instructions only if told so.
constexpr const char kCapability[] = "LOWBIT_EMULATED_CAPABILITY";
// Their sums are as bad as any device's if told so.
constexpr const char kCuts[] = "LOWBIT_EMULATED_CUTS";

float value_of(std::uint8_t code) { return float_of_small<kE4m3>(code); }

Buffer<std::uint8_t> random_codes(Random& random, std::size_t count) {
  Buffer<std::uint8_t> codes(count);
  for (std::size_t i = 0; i < count; i++) codes[i] = small_float_of<kE4m3>(random.normal() * 60.0F, true);
  return codes;
}

void expect_layer(const Device& device, Random& random, Shape s, FloatType type, unsigned choice) {
  const bool per_token = (choice & 1) != 0, per_channel = (choice & 2) != 0, has_bias = (choice & 4) != 0;
  const Buffer<std::uint8_t> x = random_codes(random, s.m * s.k), w = random_codes(random, s.n * s.k);
  Buffer<float> x_scales(per_token ? s.m : 1), w_scales(per_channel ? s.n : 1), bias(s.n);
  for (std::size_t i = 0; i < x_scales.size(); i++) x_scales[i] = random.between(0.01F, 0.1F);
  for (std::size_t i = 0; i < w_scales.size(); i++) w_scales[i] = random.between(0.0001F, 0.001F);
  for (std::size_t i = 0; i < s.n; i++) bias[i] = random.normal();
  const std::size_t bytes = s.m * s.n * size_of(type);
  const DeviceBuffer<std::uint8_t> on_x(device, x), on_w(device, w), y(device, bytes);
  const DeviceBuffer<float> on_x_scales(device, x_scales), on_w_scales(device, w_scales), on_bias(device, bias);
  const CudaStatus status = device.api->float8->linear(
      device.stream, {on_x.data(), on_x_scales.data(), per_token, on_w.data(), on_w_scales.data(), per_channel, s.m,
                      s.n, s.k, has_bias ? on_bias.data() : nullptr, type, y.data()});
  device.expect_ok(status, "linear");
  const Buffer<std::uint8_t> got = y.host();
  // Tensor cores may add 32 products to a sum at a time, each of the 33 cut off thirteen bits below the highest bit of
  // the largest, over the four steps of 128 columns. These sums are added up in float32.
  constexpr std::size_t kStep = 32, kColumnsOfSum = 128;
  constexpr double kCut = 33 * 0x1p-13, kSlack = 1.0 + 0x1p-4;  // what is in the sum already has an error
  const double rounding = type == FloatType::kFloat32 ? 0x1p-22 : type == FloatType::kFloat16 ? 0x1p-11 : 0x1p-8;
  for (std::size_t m = 0; m < s.m; m++) {
    for (std::size_t n = 0; n < s.n; n++) {
      double sum = 0.0, magnitude = 0.0, loss = 0.0, part = 0.0, largest = 0.0;
      for (std::size_t k = 0; k < s.k; k++) {
        if (k % kColumnsOfSum == 0) part = 0.0;
        if (k % kStep == 0) largest = std::fabs(part);
        const double product =
            static_cast<double>(value_of(x[m * s.k + k])) * static_cast<double>(value_of(w[n * s.k + k]));
        sum += product;
        part += product;
        magnitude += std::fabs(product);
        largest = std::max(largest, std::fabs(product));
        if ((k + 1) % kStep == 0 || k + 1 == s.k) loss += kCut * kSlack * largest;
      }
      loss += 0x1p-22 * magnitude;
      const double scale =
          static_cast<double>(x_scales[per_token ? m : 0]) * static_cast<double>(w_scales[per_channel ? n : 0]);
      const double expected = sum * scale + (has_bias ? static_cast<double>(bias[n]) : 0.0);
      const std::size_t at = m * s.n + n;
      float value;
      if (type == FloatType::kFloat32) {
        std::memcpy(&value, got.data() + 4 * at, 4);
      } else {
        std::uint16_t half;
        std::memcpy(&half, got.data() + 2 * at, 2);
        value = type == FloatType::kFloat16 ? float_of_float16(half) : float_of_bfloat16(half);
      }
      const double bound = loss * scale + rounding * (std::fabs(expected) + magnitude * scale * 0x1p-10) +
                           (has_bias ? 0x1p-23 * std::fabs(static_cast<double>(bias[n])) : 0.0);
      CHECK(std::fabs(static_cast<double>(value) - expected) <= bound,
            "[%zu, %zu, %zu], type %d, choice %u, row %zu, column %zu: %g, not %g ± %g", s.m, s.n, s.k,
            static_cast<int>(type), choice, m, n, static_cast<double>(value), expected, bound);
    }
  }
}

TEST("cuda float8: products are those of float64 within the bound of their sums, whatever the shape") {
  const Setting emulated(kCapability, "89"), cuts(kCuts, "1"), tiles("LOWBIT_CUDA_WARPGROUPS", "0");
  const Device device;
  if (!device) return;
  CudaDeviceInfo info{};
  device.api->device_info(0, &info);
  if (info.major * 10 + info.minor < 89) {
    const CudaStatus status = device.api->float8->linear(device.stream, {});
    CHECK(status == CudaStatus::kUnsupported, "status %d", static_cast<int>(status));
    skip("the device has no products of float8");
    return;
  }
  Random random(1);
  unsigned choice = 0;
  for (const Shape& s : std::initializer_list<Shape>{{1, 18, 64},
                                                     {2, 7, 100},
                                                     {16, 70, 528},
                                                     {17, 40, 1000},
                                                     {40, 37, 200},
                                                     {260, 250, 192},
                                                     {0, 3, 8},
                                                     {5, 0, 8},
                                                     {3, 6, 0}}) {
    for (int type = 0; type < 3; type++) expect_layer(device, random, s, static_cast<FloatType>(type), choice++);
  }
}

TEST("cuda float8: warp groups keep the same bound") {
  const Setting cuts(kCuts, "1");
  const WarpGroups groups;
  const Device device;
  if (!groups.of(device)) return;
  Random random(4);
  unsigned choice = 0;
  for (const Shape& s : std::initializer_list<Shape>{
           {65, 5, 16}, {65, 128, 128}, {130, 200, 256}, {200, 130, 400}, {70, 40, 2064}, {65, 6, 0}}) {
    for (int type = 0; type < 3; type++) {
      expect_layer(device, random, s, static_cast<FloatType>(type), choice++);
    }
  }
}

// Sums of 1.125² = 1.265625 are numbers of fourteen bits up to 256: 128 columns of a tensor core lose nothing. If all
// columns were its, each product would lose a fifth of itself in the end.
void expect_long_sums(const Device& device, std::size_t m) {
  const std::size_t n = 9, k = 4096;
  const Buffer<std::uint8_t> x = [&] {
    Buffer<std::uint8_t> codes(std::max(m, n) * k);
    for (std::size_t i = 0; i < codes.size(); i++) codes[i] = small_float_of<kE4m3>(1.125F, true);
    return codes;
  }();
  Buffer<float> scale(1);
  scale[0] = 1.0F;
  const DeviceBuffer<std::uint8_t> on_x(device, x);
  const DeviceBuffer<float> one(device, scale), y(device, m * n);
  device.expect_ok(device.api->float8->linear(device.stream, {on_x.data(), one.data(), false, on_x.data(), one.data(),
                                                              false, m, n, k, nullptr, FloatType::kFloat32, y.data()}),
                   "linear");
  const Buffer<float> got = y.host();
  const float expected = 1.265625F * static_cast<float>(k);
  for (std::size_t i = 0; i < got.size(); i++) {
    CHECK(std::fabs(got[i] - expected) <= 0x1p-9F * expected, "M %zu: y[%zu] is %g, not %g", m, i,
          static_cast<double>(got[i]), static_cast<double>(expected));
  }
}

TEST("cuda float8: sums of many columns keep their bits") {
  const Setting emulated(kCapability, "89"), cuts(kCuts, "1"), tiles("LOWBIT_CUDA_WARPGROUPS", "0");
  const Device device;
  if (!device) return;
  if (device.api->float8->linear(device.stream, {}) == CudaStatus::kUnsupported) {
    return skip("the device has no products of float8");
  }
  for (const std::size_t m : std::initializer_list<std::size_t>{5, 40, 130}) expect_long_sums(device, m);
}

TEST("cuda float8: sums of many columns keep their bits, by warp groups") {
  const Setting cuts(kCuts, "1");
  const WarpGroups groups;
  const Device device;
  if (groups.of(device)) expect_long_sums(device, 70);
}

TEST("cuda float8: a NaN among the codes reaches the results that it takes part in, and no others") {
  const Setting emulated(kCapability, "89");
  const Device device;
  if (!device) return;
  CudaDeviceInfo info{};
  device.api->device_info(0, &info);
  if (info.major * 10 + info.minor < 89) return skip("the device has no products of float8");
  Random random(2);
  const Shape s{18, 20, 144};
  Buffer<std::uint8_t> x = random_codes(random, s.m * s.k);
  const Buffer<std::uint8_t> w = random_codes(random, s.n * s.k);
  x[5 * s.k + 99] = 0x7f;
  Buffer<float> scale(1);
  scale[0] = 1.0F;
  const DeviceBuffer<std::uint8_t> on_x(device, x), on_w(device, w);
  const DeviceBuffer<float> one(device, scale), y(device, s.m * s.n);
  device.expect_ok(
      device.api->float8->linear(device.stream, {on_x.data(), one.data(), false, on_w.data(), one.data(), false, s.m,
                                                 s.n, s.k, nullptr, FloatType::kFloat32, y.data()}),
      "linear");
  const Buffer<float> got = y.host();
  for (std::size_t i = 0; i < got.size(); i++) {
    CHECK(std::isnan(got[i]) == (i / s.n == 5), "row %zu: %g", i / s.n, static_cast<double>(got[i]));
  }
}

TEST("cuda float8: activations are quantized per token with the bits of the definition") {
  const Device device;
  if (!device) return;
  Random random(3);
  for (const std::size_t k : std::initializer_list<std::size_t>{0, 1, 7, 64, 1003, 2056}) {
    for (int t = 0; t < 3; t++) {
      const auto type = static_cast<FloatType>(t);
      const std::size_t m = 5, columns = k, count = m * columns;
      Buffer<float> x(count), expected_scales(m);
      Buffer<std::uint16_t> halves(count);
      Buffer<std::uint8_t> expected(count);
      for (std::size_t i = 0; i < count; i++) {
        const std::size_t row = i / columns;
        x[i] = row == 1 ? 0.0F : row == 2 ? random.normal() * 0x1p-118F : random.normal() * 3.0F;
        halves[i] = t == 1 ? float16_of(x[i]) : bfloat16_of(x[i]);
        if (t != 0) x[i] = t == 1 ? float_of_float16(halves[i]) : float_of_bfloat16(halves[i]);
      }
      for (std::size_t row = 0; row < m; row++) {
        float largest = 0.0F;
        for (std::size_t i = row * columns; i < (row + 1) * columns; i++) largest = std::max(largest, std::fabs(x[i]));
        const float scale = expected_scales[row] = largest < 0x1p-110F ? 0.0F : largest / 448.0F;
        for (std::size_t i = row * columns; i < (row + 1) * columns; i++) {
          expected[i] = scale == 0.0F ? std::uint8_t{0} : small_float_of<kE4m3>(x[i] / scale, true);
        }
      }
      const DeviceBuffer<float> floats(device, x), scales(device, m);
      const DeviceBuffer<std::uint16_t> on_halves(device, halves);
      const DeviceBuffer<std::uint8_t> codes(device, count);
      const void* in = t == 0 ? static_cast<const void*>(floats.data()) : on_halves.data();
      device.expect_ok(
          device.api->float8->quantize_tokens(device.stream, in, type, m, columns, codes.data(), scales.data()),
          "quantize_tokens");
      CHECK(device.synchronize().status == Status::kOk, "outcome");
      CHECK(first_difference(codes.host(), expected) == count, "codes, type %d, k %zu", t, columns);
      CHECK(first_difference(scales.host(), expected_scales) == m, "scales, type %d, k %zu", t, columns);
    }
  }
}

}  // namespace
}  // namespace lowbit::test
