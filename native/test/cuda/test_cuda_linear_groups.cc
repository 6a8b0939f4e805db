// The same products by whole warp groups, where devices have them.

#include "test/cuda/linear_cases.h"

namespace lowbit::test {
namespace {

TEST("cuda linear: warp groups, every kind of weight and group") {
  const WarpGroups groups;
  const Device device;
  if (!groups.of(device)) return;
  Random random(11);
  int turn = 0;
  for (const Kind& kind : kKinds) {
    for (const int group : {32, 64, 128, 96, 256, 0, -1}) {
      if (kind.kind == CudaWeightKind::kFloats && group != 0) continue;
      // Which kernel it is, groups of 32, 64 and more columns decide: of the others, some.
      turn++;
      const bool apart = group == 32 || group == 64 || group == 0;
      if (!apart && turn % 5 != 0) continue;
      const FloatType x_type = kTypes[turn % 3];
      const FloatType scale_type = turn / 3 % 2 == 0 ? FloatType::kFloat16 : FloatType::kFloat32;
      expect_product(device, kind, {70, 40, 320, group, x_type, scale_type}, random);
      if (failed()) return;
    }
  }
}

TEST("cuda linear: warp groups, ragged sizes") {
  const WarpGroups groups;
  const Device device;
  if (!groups.of(device)) return;
  Random random(12);
  int turn = 0;
  for (const std::size_t m : Sizes{65, 128, 129, 200}) {
    for (const std::size_t n : Sizes{1, 15, 16, 17, 128, 130, 260}) {
      for (const std::size_t k : Sizes{1, 33, 128, 257, 896, 1100}) {
        turn++;
        if (turn % 7 != 0) continue;
        const Kind& kind = kKinds[static_cast<std::size_t>(turn / 7) % (sizeof kKinds / sizeof kKinds[0])];
        expect_product(device, kind, {m, n, k, turn % 2 == 0 ? 0 : 32, kTypes[turn % 3], FloatType::kFloat32}, random);
        if (failed()) return;
      }
    }
  }
}

TEST("cuda linear: warp groups, columns that blocks divide") {
  const WarpGroups groups;
  const Device device;
  if (!groups.of(device)) return;
  Random random(13);
  for (const std::size_t k : Sizes{1100, 2176, 4224}) {
    expect_product(device, kKinds[2], {66, 20, k, 128, FloatType::kFloat16, FloatType::kFloat16}, random);
    expect_product(device, kKinds[10], {66, 20, k, 64, FloatType::kBfloat16, FloatType::kFloat32}, random);
  }
}

TEST("cuda linear: warp groups, more tokens than a band has") {
  const WarpGroups groups;
  const Device device;
  if (!groups.of(device)) return;
  Random random(14);
  expect_product(device, kKinds[1], {2120, 132, 64, 32, FloatType::kBfloat16, FloatType::kFloat16}, random);
}

TEST("cuda linear: warp groups, results, magnitudes and findings") {
  const WarpGroups groups;
  const Device device;
  if (!groups.of(device)) return;
  for (const std::size_t n : Sizes{37, 44}) expect_results(device, {70}, n);
  expect_magnitudes(device, 66);
  expect_findings(device, 65);
}

TEST("cuda linear: warp groups, the same bits every time") {
  const WarpGroups groups;
  const Device device;
  if (!groups.of(device)) return;
  Random random(15);
  const std::size_t m = 70, n = 33, k = 1280;
  const Weight w = random_weight(kKinds[2], n, k, 64, FloatType::kFloat32, random);
  const Packed packed(device, w);
  const Input x = random_input(m, k, FloatType::kBfloat16, random);
  const DeviceBuffer<std::uint8_t> x_device(device, x.bytes);
  const DeviceBuffer<float> y(device, m * n);
  CudaLinearArguments a{};
  a.x = x_device.data();
  a.x_type = FloatType::kBfloat16;
  a.m = m;
  a.layout = &packed.layout;
  a.weight = packed.memory.data();
  a.y = y.data();
  Buffer<float> first(0);
  for (int call = 0; call < 3; call++) {
    device.expect_ok(device.api->linear->linear(device.stream, &a), "linear");
    device.synchronize();
    Buffer<float> got = y.host();
    if (call == 0) {
      first = std::move(got);
    } else {
      CHECK(std::memcmp(got.data(), first.data(), m * n * 4) == 0, "call %d: other bits", call);
    }
  }
}

}  // namespace
}  // namespace lowbit::test
