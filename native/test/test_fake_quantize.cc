// Fake quantization: every instruction set against the scalar file, and whole tensors of every shape of channels, for
// every number of threads, against one call of the scalar file per element.

#include <cmath>

#include "ops/fake_quantize/fake_quantize.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

// Values around every step, and some that are none.
float any_value(Random& random) {
  switch (random.below(16)) {
    case 0:
      return 0.0F;
    case 1:
      return -0.0F;
    case 2:
      return random.below(2) == 0 ? INFINITY : -INFINITY;
    case 3:
      return NAN;
    case 4:
      return std::ldexp(random.normal(), static_cast<int>(random.below(250)) - 130);
    case 5:
      return 0.125F * static_cast<float>(static_cast<int>(random.below(4000)) - 2000);  // ties
    default:
      return 4.0F * random.normal();
  }
}

Buffer<float> values(Random& random, std::size_t n, bool finite) {
  Buffer<float> x(n, n % 5);
  for (std::size_t i = 0; i < n; i++) {
    x[i] = any_value(random);
    if (finite && !std::isfinite(x[i])) x[i] = 1.0F;
  }
  return x;
}

struct Parameters {
  Buffer<float> inverse, scale, shift, low, high;

  Parameters(Random& random, std::size_t n)
      : inverse(n, n % 3), scale(n, n % 2), shift(n), low(n, n % 4), high(n, n % 7) {
    for (std::size_t i = 0; i < n; i++) {
      scale[i] = random.below(3) == 0 ? 0.25F : random.between(0.01F, 0.5F);
      inverse[i] = 1.0F / scale[i];
      low[i] = static_cast<float>(-static_cast<int>(random.below(200)));
      high[i] = static_cast<float>(random.below(200));
      shift[i] = static_cast<float>(static_cast<int>(random.below(20)) - 10);
    }
  }
  QuantizerSteps steps(bool each) const {
    return {inverse.data(), scale.data(), shift.data(), low.data(), high.data(), each};
  }
};

// A NaN is a NaN: its sign is the processor's own.
std::size_t first_unlike(const Buffer<float>& a, const Buffer<float>& b) {
  for (std::size_t i = 0; i < a.size(); i++) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0) return i;
  }
  return a.size();
}

TEST("fake_quantize: integers on every instruction set equal the scalar file bit for bit") {
  Random random(1);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t n : ragged_lengths()) {
      for (int mode = 0; mode < 4; mode++) {
        const bool each = mode % 2 != 0;
        const Rounding rounding = mode < 2 ? Rounding::kHalfEven : Rounding::kHalfAway;
        const Buffer<float> x = values(random, n, false);
        const Parameters p(random, each ? n : 1);
        Buffer<float> got(n, n % 4), expected(n);
        Buffer<std::uint8_t> mask(n, n % 7), expected_mask(n);
        k->fake_quantize->integers(x.data(), n, p.steps(each), rounding, n % 2 == 0, got.data(), mask.data());
        scalar::kFakeQuantize.integers(x.data(), n, p.steps(each), rounding, false, expected.data(),
                                       expected_mask.data());
        const std::size_t i = first_difference(got, expected), j = first_difference(mask, expected_mask);
        CHECK(i == n, "%s, mode %d, length %zu, element %zu: %g gives %g, expected %g", k->name, mode, n, i,
              static_cast<double>(x[i]), static_cast<double>(got[i]), static_cast<double>(expected[i]));
        CHECK(j == n, "%s, mode %d, length %zu, mask %zu", k->name, mode, n, j);
      }
    }
  }
}

TEST("fake_quantize: gradients on every instruction set equal the scalar file bit for bit") {
  Random random(2);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t n : ragged_lengths()) {
      for (const bool each : {false, true}) {
        const Buffer<float> x = values(random, n, true), dy = values(random, n, true);
        const Parameters p(random, each ? n : 1);
        const std::size_t sums = each ? n : 1;
        Buffer<float> got(n, n % 4), expected(n);
        Buffer<double> scale(sums), zero_point(sums), expected_scale(sums), expected_zero_point(sums);
        for (std::size_t i = 0; i < sums; i++) scale[i] = zero_point[i] = static_cast<double>(random.normal());
        std::memcpy(expected_scale.data(), scale.data(), scale.bytes());
        std::memcpy(expected_zero_point.data(), zero_point.data(), zero_point.bytes());
        k->fake_quantize->gradients(dy.data(), x.data(), n, p.steps(each), n % 2 == 0, got.data(), scale.data(),
                                    zero_point.data());
        scalar::kFakeQuantize.gradients(dy.data(), x.data(), n, p.steps(each), false, expected.data(),
                                        expected_scale.data(), expected_zero_point.data());
        CHECK(first_difference(got, expected) == n, "%s, length %zu: dx", k->name, n);
        CHECK(first_difference(scale, expected_scale) == sums, "%s, length %zu: scales", k->name, n);
        CHECK(first_difference(zero_point, expected_zero_point) == sums, "%s, length %zu: zero points", k->name, n);
        Buffer<std::uint8_t> mask(n, n % 3);
        for (std::size_t i = 0; i < n; i++) mask[i] = static_cast<std::uint8_t>(random.below(4) * 85);
        k->fake_quantize->straight_through(x.data(), mask.data(), n, n % 2 == 0, got.data());
        scalar::kFakeQuantize.straight_through(x.data(), mask.data(), n, false, expected.data());
        CHECK(first_difference(got, expected) == n, "%s, length %zu: straight through", k->name, n);
      }
    }
  }
}

TEST("fake_quantize: element formats on every instruction set equal the scalar file bit for bit") {
  Random random(3);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t n : ragged_lengths()) {
      for (int t = 0; t < kElementTypes; t++) {
        const auto type = static_cast<ElementType>(t);
        const Buffer<float> x = values(random, n, false);
        Buffer<float> got(n, n % 4), expected(n);
        Buffer<std::uint8_t> mask(n, n % 7), expected_mask(n);
        for (const bool each : {false, true}) {
          const Parameters p(random, each ? n : 1);
          k->fake_quantize->scaled(x.data(), n, type, p.scale.data(), each, n % 2 == 0, got.data(), mask.data());
          scalar::kFakeQuantize.scaled(x.data(), n, type, p.scale.data(), each, false, expected.data(),
                                       expected_mask.data());
          const std::size_t i = first_unlike(got, expected);
          CHECK(i == n, "%s, type %d, length %zu, element %zu: %g gives %g, expected %g", k->name, t, n, i,
                static_cast<double>(x[i]), static_cast<double>(got[i]), static_cast<double>(expected[i]));
          CHECK(first_difference(mask, expected_mask) == n, "%s, type %d, length %zu: mask", k->name, t, n);
        }
        for (int mode = 0; mode < 6; mode++) {
          const Buffer<float> y = values(random, n, mode % 3 != 0);
          const BlockScale scale{mode < 3, mode == 5 ? 1e-3F : 3.25F};
          const std::size_t length = mode % 2 == 0 ? 32 : 16;
          k->fake_quantize->blocks(y.data(), n, length, type, scale, n % 2 == 0, got.data(), mask.data());
          scalar::kFakeQuantize.blocks(y.data(), n, length, type, scale, false, expected.data(), expected_mask.data());
          const std::size_t i = first_unlike(got, expected);
          CHECK(i == n, "%s, type %d, blocks %d, length %zu, element %zu: %g gives %g, expected %g", k->name, t, mode,
                n, i, static_cast<double>(y[i]), static_cast<double>(got[i]), static_cast<double>(expected[i]));
          CHECK(first_difference(mask, expected_mask) == n, "%s, type %d, blocks %d: mask", k->name, t, mode);
        }
      }
    }
  }
}

TEST("fake_quantize: the scalar file rounds every value of every format to itself, and middles to even") {
  for (int t = 0; t < kElementTypes; t++) {
    const auto type = static_cast<ElementType>(t);
    const ElementFormat f = element_format(type);
    const double unit = std::ldexp(1.0, f.lowest_exponent - f.mantissa_bits);
    const float one = 1.0F;
    // Counting up the codes: the step doubles after every 2^mantissa of them, but for the subnormal ones.
    double value = 0.0;
    for (int code = 0; value <= static_cast<double>(f.largest); code++) {
      const int binade = std::max(0, (code >> f.mantissa_bits) - 1);
      const double step = std::ldexp(unit, binade), middle = value + step / 2;
      float out = 0.0F;
      std::uint8_t mask = 0;
      const auto x = static_cast<float>(value), half = static_cast<float>(middle);
      scalar::kFakeQuantize.scaled(&x, 1, type, &one, false, false, &out, &mask);
      CHECK(out == x && mask == 1, "type %d, code %d: %g gives %g", t, code, value, static_cast<double>(out));
      scalar::kFakeQuantize.scaled(&half, 1, type, &one, false, false, &out, &mask);
      const bool up = code % 2 == 1, past = value + step > static_cast<double>(f.largest);
      const double expected = up && !past ? value + step : value;
      CHECK(static_cast<double>(out) == expected && mask == (up && past ? 0 : 1), "type %d: %g gives %g, mask %d", t,
            middle, static_cast<double>(out), mask);
      value += step;
    }
  }
}

struct Tensor {
  Channels channels;
  Buffer<float> x, dy, scales;
  Buffer<std::int32_t> zero_points;
  IntegerQuantizer quantizer;

  Tensor(Channels c, std::uint64_t seed)
      : channels(c),
        x(c.element_count()),
        dy(c.element_count()),
        scales(c.count),
        zero_points(c.count),
        quantizer{scales.data(), zero_points.data(), -8, 7} {
    Random random(seed);
    for (std::size_t i = 0; i < x.size(); i++) {
      x[i] = 2.0F * random.normal();
      dy[i] = random.normal();
    }
    for (std::size_t i = 0; i < c.count; i++) {
      scales[i] = random.between(0.1F, 0.6F);
      zero_points[i] = static_cast<std::int32_t>(random.below(16)) - 8;
    }
  }
  std::size_t channel(std::size_t i) const { return i / channels.inner % channels.count; }
};

std::vector<Channels> shapes() {
  return {{1, 1, 0},    {0, 3, 5},    {1, 1, 1},     {1, 1, 100003}, {1, 5, 70001}, {3, 4, 64},    {7, 300, 63},
          {2, 5000, 1}, {700, 96, 1}, {150, 17, 31}, {1, 20000, 9},  {40, 3, 1000}, {90000, 2, 1}, {1, 1, 2200000}};
}

TEST("fake_quantize: tensors of every shape, for any number of threads") {
  for (const Channels& c : shapes()) {
    if (quick() && c.element_count() > 50000) continue;
    const Tensor t(c, 5);
    const std::size_t n = c.element_count();
    Buffer<float> out(n), scaled(n), dx(n), dscales(c.count), dzero_points(c.count), first_scales(c.count);
    Buffer<std::uint8_t> mask(n), scaled_mask(n);
    std::vector<long double> scale_sums(c.count), zero_point_sums(c.count), weight(c.count);
    for (const std::size_t threads : kThreadCounts) {
      ThreadPool::instance().set_thread_count(threads);
      CHECK(fake_quantize_integers(t.x.data(), c, t.quantizer, Rounding::kHalfEven, out.data(), mask.data()).status ==
                Status::kOk,
            "status");
      fake_quantize_scaled(t.x.data(), c, ElementType::kFloat4E2m1fn, t.scales.data(), scaled.data(),
                           scaled_mask.data());
      fake_quantize_gradients(t.dy.data(), t.x.data(), c, t.quantizer, 0.5,
                              {dx.data(), dscales.data(), dzero_points.data()});
      for (std::size_t i = 0; i < n && !failed(); i++) {
        const std::size_t p = t.channel(i);
        const float inverse = 1.0F / t.scales[p], zero = 0.0F, zero_point = static_cast<float>(t.zero_points[p]);
        const float low = -8.0F - zero_point, high = 7.0F - zero_point;
        float one = 0.0F;
        std::uint8_t inside = 0;
        scalar::kFakeQuantize.integers(&t.x[i], 1, {&inverse, &t.scales[p], &zero, &low, &high, false},
                                       Rounding::kHalfEven, false, &one, &inside);
        CHECK(out[i] == one && mask[i] == inside, "%zu × %zu × %zu, %zu threads, element %zu", c.blocks, c.count,
              c.inner, threads, i);
        scalar::kFakeQuantize.scaled(&t.x[i], 1, ElementType::kFloat4E2m1fn, &t.scales[p], false, false, &one, &inside);
        CHECK(scaled[i] == one && scaled_mask[i] == inside, "scaled, element %zu", i);
      }
      if (threads == 1) {
        std::memcpy(first_scales.data(), dscales.data(), dscales.bytes());
        for (std::size_t i = 0; i < n; i++) {
          const std::size_t p = t.channel(i);
          const float inverse = 1.0F / t.scales[p], zero_point = static_cast<float>(t.zero_points[p]);
          const float rounded = std::nearbyint(std::fma(t.x[i], inverse, zero_point));
          const bool inside = rounded >= -8.0F && rounded <= 7.0F;
          const float steps = std::min(std::max(rounded, -8.0F), 7.0F) - zero_point;
          const float slope = inside ? std::fma(steps, t.scales[p], -t.x[i]) * inverse : steps;
          const long double dy = t.dy[i], part = dy * slope;
          CHECK(dx[i] == (inside ? t.dy[i] : 0.0F), "dx %zu", i);
          scale_sums[p] += part;
          zero_point_sums[p] += inside ? 0.0L : dy * t.scales[p];
          weight[p] += std::fabs(part) + std::fabs(dy);
        }
        for (std::size_t p = 0; p < c.count; p++) {
          const long double off = std::fabs(dscales[p] - 0.5L * scale_sums[p]);
          const long double off_zero = std::fabs(dzero_points[p] + 0.5L * zero_point_sums[p]);
          CHECK(off <= 1e-7L * std::fabs(scale_sums[p]) + 1e-14L * weight[p], "scale %zu is off by %Lg", p, off);
          CHECK(off_zero <= 1e-7L * std::fabs(zero_point_sums[p]) + 1e-14L * weight[p], "zero point %zu", p);
        }
      }
      CHECK(first_difference(dscales, first_scales) == c.count, "scales, %zu threads", threads);
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("fake_quantize: blocks begin anew in every row") {
  Random random(6);
  for (const std::size_t columns : {1U, 16U, 31U, 32U, 48U, 100U, 40000U}) {
    const std::size_t rows = 5, n = rows * columns;
    const Buffer<float> x = values(random, n, true);
    Buffer<float> out(n), expected(n);
    Buffer<std::uint8_t> mask(n), expected_mask(n);
    for (const std::size_t length : {std::size_t{16}, std::size_t{32}}) {
      const BlockScale scale{length == 32, 2.5F};
      for (const std::size_t threads : kThreadCounts) {
        ThreadPool::instance().set_thread_count(threads);
        fake_quantize_blocks(x.data(), rows, columns, length, ElementType::kFloat4E2m1fn, scale, out.data(),
                             mask.data());
        for (std::size_t r = 0; r < rows; r++) {
          scalar::kFakeQuantize.blocks(x.data() + r * columns, columns, length, ElementType::kFloat4E2m1fn, scale,
                                       false, expected.data() + r * columns, expected_mask.data() + r * columns);
        }
        CHECK(first_difference(out, expected) == n, "%zu columns, blocks of %zu", columns, length);
        CHECK(first_difference(mask, expected_mask) == n, "%zu columns: mask", columns);
      }
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("fake_quantize: the scale of a tensor comes from its largest magnitude, which must be finite") {
  Buffer<float> x(100000), out(x.size()), expected(x.size());
  Buffer<std::uint8_t> mask(x.size());
  Random random(7);
  for (std::size_t i = 0; i < x.size(); i++) x[i] = random.normal();
  x[77777] = -21.0F;
  const auto run = [&](float global, Buffer<float>& y) {
    return fake_quantize_blocks(x.data(), 1, x.size(), 16, ElementType::kFloat4E2m1fn, {false, global}, y.data(),
                                mask.data());
  };
  CHECK(run(0.0F, out).status == Status::kOk && run(2688.0F / 21.0F, expected).status == Status::kOk, "status");
  CHECK(first_difference(out, expected) == x.size(), "values");
  x[88888] = NAN;
  x[99999] = INFINITY;
  const Outcome outcome = run(0.0F, out);
  CHECK(outcome.status == Status::kNonFinite && outcome.index == 88888, "index %lld", (long long)outcome.index);
}

}  // namespace
}  // namespace lowbit::test
