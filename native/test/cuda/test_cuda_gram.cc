// The Gram matrix on a device against gram() and float64.

#include <cmath>
#include <initializer_list>

#include "core/float_bits.h"
#include "ops/matmul/gram_cuda.h"
#include "ops/matmul/matmul.h"
#include "test/cuda/device.h"

namespace lowbit::test {
namespace {

// x as the type holds it, and its bytes.
struct Inputs {
  Buffer<float> floats;
  Buffer<std::uint8_t> bytes;
};
Inputs inputs_of(Random& random, std::size_t m, std::size_t k, FloatType type) {
  Inputs x{Buffer<float>(m * k), Buffer<std::uint8_t>(m * k * size_of(type))};
  for (std::size_t i = 0; i < m * k; i++) {
    float value = random.normal() * (i % 5 == 2 ? 20.0F : 1.0F);
    if (type != FloatType::kFloat32) {
      const bool is_float16 = type == FloatType::kFloat16;
      const std::uint16_t half = is_float16 ? float16_of(value) : bfloat16_of(value);
      value = is_float16 ? float_of_float16(half) : float_of_bfloat16(half);
      std::memcpy(x.bytes.data() + 2 * i, &half, 2);
    } else {
      std::memcpy(x.bytes.data() + 4 * i, &value, 4);
    }
    x.floats[i] = value;
  }
  return x;
}

TEST("cuda gram: sums have the bits of the processor's, over several batches, and are near those of float64") {
  const Device device;
  if (!device) return;
  Random random(1);
  struct Shape {
    std::size_t m, k;
  };
  // With four multiprocessors, tiles of 128 from 385 columns on.
  for (const Shape& s :
       std::initializer_list<Shape>{{1, 1}, {3, 7}, {17, 16}, {40, 66}, {70, 130}, {0, 9}, {9, 0}, {21, 420}}) {
    for (int t = 0; t < 3; t++) {
      const auto type = static_cast<FloatType>(t);
      Buffer<float> expected(s.k * s.k);
      std::vector<double> exact(s.k * s.k), magnitudes(s.k * s.k);
      const DeviceBuffer<float> out(device, s.k * s.k);
      for (int batch = 0; batch < 2; batch++) {
        const Inputs x = inputs_of(random, s.m, s.k, type);
        gram(x.floats.data(), s.m, s.k, batch == 0, expected.data());
        for (std::size_t m = 0; m < s.m; m++) {
          for (std::size_t i = 0; i < s.k; i++) {
            for (std::size_t j = 0; j < s.k; j++) {
              const double product =
                  static_cast<double>(x.floats[m * s.k + i]) * static_cast<double>(x.floats[m * s.k + j]);
              exact[i * s.k + j] += product;
              magnitudes[i * s.k + j] += std::fabs(product);
            }
          }
        }
        const DeviceBuffer<std::uint8_t> on_x(device, x.bytes);
        device.expect_ok(device.api->gram->gram(device.stream, on_x.data(), type, s.m, s.k, batch == 0, out.data()),
                         "gram");
        CHECK(device.synchronize().status == Status::kOk, "outcome");
        const Buffer<float> got = out.host();
        const std::size_t i = first_difference(got, expected);
        CHECK(i == got.size(), "[%zu, %zu], type %d, batch %d: element %zu is %g, not %g", s.m, s.k, t, batch, i,
              static_cast<double>(got[i]), static_cast<double>(expected[i]));
        // Every sum has one rounding for a row of x.
        const double roundings = static_cast<double>(s.m) * (batch + 1) * 0x1p-24;
        for (std::size_t e = 0; e < got.size(); e++) {
          CHECK(std::fabs(static_cast<double>(got[e]) - exact[e]) <= roundings * magnitudes[e],
                "[%zu, %zu]: element %zu is %g, not %g", s.m, s.k, e, static_cast<double>(got[e]), exact[e]);
        }
      }
    }
  }
}

TEST("cuda gram: the first input that is not finite is named") {
  const Device device;
  if (!device) return;
  for (const std::size_t columns : std::initializer_list<std::size_t>{70, 400}) {
    Buffer<float> x(20 * columns);
    for (std::size_t i = 0; i < x.size(); i++) x[i] = 1.0F;
    x[12 * columns + 1] = NAN;
    x[11 * columns + 69] = INFINITY;
    x[11 * columns + 68] = -INFINITY;
    const DeviceBuffer<float> on_x(device, x), out(device, columns * columns);
    device.expect_ok(
        device.api->gram->gram(device.stream, on_x.data(), FloatType::kFloat32, 20, columns, true, out.data()), "gram");
    const Outcome outcome = device.synchronize();
    CHECK(outcome.status == Status::kNonFinite && outcome.index == static_cast<std::int64_t>(11 * columns + 68),
          "status %d at %ld", static_cast<int>(outcome.status), static_cast<long>(outcome.index));
  }
}

}  // namespace
}  // namespace lowbit::test
