// Packed weights and products on a device: every kind of weight, ragged sizes, all ways to divide a product among
// blocks.

#include "test/cuda/linear_cases.h"

namespace lowbit::test {
namespace {

TEST("cuda linear: every kind of weight and group") {
  const Device device;
  if (!device) return;
  Random random(1);
  int turn = 0;
  for (const Kind& kind : kKinds) {
    for (const int group : {32, 64, 128, 96, 256, 0, -1}) {
      if (kind.kind == CudaWeightKind::kFloats && group != 0) continue;
      for (const bool tiled : {false, true}) {
        const FloatType x_type = kTypes[turn % 3];
        const FloatType scale_type = turn / 3 % 2 == 0 ? FloatType::kFloat16 : FloatType::kFloat32;
        const std::size_t m = tiled ? 19 : turn % 4 == 0 ? 3 : 11;
        turn++;
        expect_product(device, kind, {m, 40, 320, group, x_type, scale_type}, random);
        if (failed()) return;
      }
    }
  }
}

TEST("cuda linear: ragged sizes") {
  const Setting tiles("LOWBIT_CUDA_WARPGROUPS", "0");
  const Device device;
  if (!device) return;
  Random random(2);
  int turn = 0;
  for (const std::size_t m : Sizes{1, 2, 7, 8, 9, 16, 17, 64, 65, 130}) {
    for (const std::size_t n : Sizes{1, 15, 16, 17, 130}) {
      for (const std::size_t k : Sizes{1, 31, 33, 128, 257}) {
        turn++;
        if (m > 17 && turn % 5 != 0) continue;
        const Kind& kind = kKinds[static_cast<std::size_t>(turn) % (sizeof kKinds / sizeof kKinds[0])];
        expect_product(device, kind, {m, n, k, turn % 2 == 0 ? 0 : 32, kTypes[turn / 2 % 3], FloatType::kFloat32},
                       random);
        if (failed()) return;
      }
    }
  }
}

TEST("cuda linear: columns that blocks divide") {
  const Setting tiles("LOWBIT_CUDA_WARPGROUPS", "0");
  const Device device;
  if (!device) return;
  Random random(3);
  const std::size_t sizes[][2] = {{1, 4096}, {12, 4224}, {33, 1100}, {100, 1024}};
  for (const auto& size : sizes) {
    const std::size_t m = size[0], k = size[1];
    expect_product(device, kKinds[2], {m, 20, k, 128, FloatType::kFloat16, FloatType::kFloat16}, random);
    expect_product(device, kKinds[10], {m, 20, k, 64, FloatType::kBfloat16, FloatType::kFloat32}, random);
  }
}

TEST("cuda linear: largest tiles") {
  const Setting tiles("LOWBIT_CUDA_WARPGROUPS", "0");
  const Device device;
  if (!device) return;
  Random random(4);
  expect_product(device, kKinds[2], {300, 260, 256, 128, FloatType::kFloat16, FloatType::kFloat16}, random);
  expect_product(device, kKinds[1], {300, 260, 256, 32, FloatType::kBfloat16, FloatType::kFloat16}, random);
}

TEST("cuda linear: rows that share scales") {
  const Device device;
  if (!device) return;
  Random random(5);
  expect_product(device, kKinds[13], {5, 70, 300, 128, FloatType::kBfloat16, FloatType::kFloat32}, random, 16);
}

TEST("cuda linear: bias, activations, gates and types of the result") {
  const Device device;
  if (device) expect_results(device, {3, 19}, 37);
}

TEST("cuda linear: any magnitude of float32") {
  const Device device;
  if (device) expect_magnitudes(device, 3);
}

TEST("cuda linear: the same bits every time, and close to them in other company") {
  const Device device;
  if (!device) return;
  Random random(8);
  const std::size_t n = 33, k = 640, most = 40;
  const Weight w = random_weight(kKinds[2], n, k, 64, FloatType::kFloat32, random);
  const Packed packed(device, w);
  const Input x = random_input(most, k, FloatType::kBfloat16, random);
  const DeviceBuffer<std::uint8_t> x_device(device, x.bytes);
  const DeviceBuffer<float> y(device, most * n);
  CudaLinearArguments a{};
  a.x = x_device.data();
  a.x_type = FloatType::kBfloat16;
  a.layout = &packed.layout;
  a.weight = packed.memory.data();
  a.y = y.data();
  const Sums expected = reference(w, x, most);
  Buffer<float> first(0);
  for (const std::size_t m : Sizes{1, 1, 8, 12, 40, 40}) {
    a.m = m;
    device.expect_ok(device.api->linear->linear(device.stream, &a), "linear");
    device.synchronize();
    Buffer<float> got = y.host();
    if (first.size() != 0 && (m == 1 || m == 40)) {
      device.expect_ok(device.api->linear->linear(device.stream, &a), "linear");
      device.synchronize();
      const Buffer<float> again = y.host();
      CHECK(std::memcmp(got.data(), again.data(), m * n * 4) == 0, "M %zu: other bits", m);
    }
    for (std::size_t i = 0; first.size() != 0 && i < n; i++) {
      CHECK(std::fabs(static_cast<double>(got[i]) - static_cast<double>(first[i])) <=
                0x1p-23 * 32.0 * expected.magnitude[i],
            "M %zu: y[%zu] is %g, not %g", m, i, static_cast<double>(got[i]), static_cast<double>(first[i]));
    }
    if (first.size() == 0) first = std::move(got);
  }
}

TEST("cuda linear: what is not finite is found") {
  const Device device;
  if (!device) return;
  for (const std::size_t m : Sizes{3, 16, 20, 130}) expect_findings(device, m);
  Random random(9);
  const std::size_t n = 5, k = 128;
  // Of weights.
  for (const std::size_t which : Sizes{13, 14, 20, 21}) {
    Weight bad = random_weight(kKinds[which], n, k, 0, FloatType::kFloat32, random);
    if (bad.source.kind == CudaWeightKind::kFloats) {
      set_element(bad.data.data(), bad.source.float_type, 200, -INFINITY);
    } else {
      bad.data[200] = 0xff;
    }
    const DeviceBuffer<std::uint8_t> data(device, bad.data);
    const DeviceBuffer<float> scales(device, bad.scales);
    CudaWeightSource source = bad.source;
    source.data = data.data();
    source.scales = scales.data();
    CudaPackedLayout layout{};
    device.expect_ok(device.api->linear->layout(&source, &layout), "layout");
    const DeviceBuffer<std::uint8_t> memory(device, layout.bytes);
    device.expect_ok(device.api->linear->prepack(device.stream, &source, &layout, memory.data()), "prepack");
    const Outcome outcome = device.synchronize();
    CHECK(outcome.status == Status::kNonFinite && outcome.index == 200, "%s: outcome %d at %lld", kKinds[which].name,
          static_cast<int>(outcome.status), static_cast<long long>(outcome.index));
  }
}

TEST("cuda linear: nothing to multiply, and what is not supported") {
  const Device device;
  if (!device) return;
  Random random(10);
  // Without columns, a product is its bias.
  const Weight none = random_weight(kKinds[0], 5, 0, 0, FloatType::kFloat32, random);
  const Packed packed(device, none);
  const std::vector<float> bias = {1.0F, 2.0F, 3.0F, 4.0F, 5.0F};
  const DeviceBuffer<float> bias_device(device, bias);
  for (const std::size_t m : Sizes{2, 20}) {
    const DeviceBuffer<float> y(device, m * 5);
    CudaLinearArguments a{};
    a.x_type = FloatType::kFloat16;
    a.m = m;
    a.layout = &packed.layout;
    a.weight = packed.memory.data();
    a.bias = bias_device.data();
    a.y = y.data();
    device.expect_ok(device.api->linear->linear(device.stream, &a), "linear");
    device.synchronize();
    const Buffer<float> got = y.host();
    for (std::size_t i = 0; i < m * 5; i++)
      CHECK(got[i] == bias[i % 5], "y[%zu] is %g", i, static_cast<double>(got[i]));
    a.m = 0;
    device.expect_ok(device.api->linear->linear(device.stream, &a), "linear of no rows");
  }
  CudaWeightSource source = none.source;
  source.columns = 200;
  source.row_stride = 5;
  source.group_size = 48;
  CudaPackedLayout layout{};
  CHECK(device.api->linear->layout(&source, &layout) == CudaStatus::kUnsupported, "groups of 48 columns");
  source.group_size = 200;
  source.row_stride = 1;
  CHECK(device.api->linear->layout(&source, &layout) == CudaStatus::kOk, "a group for a row");
}

}  // namespace
}  // namespace lowbit::test
