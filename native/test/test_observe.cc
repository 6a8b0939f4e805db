// Ranges and histograms: every instruction set against the scalar file, whole tensors against counting element by
// element in float64, and histograms of parts against those of the whole.

#include <cmath>
#include <limits>

#include "ops/observe/observe.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST("observe: every instruction set equals the scalar file bit for bit") {
  Random random(1);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t n : ragged_lengths()) {
      Buffer<float> x(n, n % 5), units(n, n % 3);
      const bool finite = n % 3 != 0;
      for (std::size_t i = 0; i < n; i++) {
        x[i] = std::ldexp(random.normal(), static_cast<int>(random.below(60)) - 30);
        if (random.below(10) == 0) x[i] = random.below(2) == 0 ? 0.0F : -0.0F;
        if (!finite && random.below(20) == 0) x[i] = random.below(2) == 0 ? NAN : -INFINITY;
        units[i] = std::ldexp(1.0F, static_cast<int>(random.below(40)) - 20);
      }
      for (const bool one_sided : {false, true}) {
        if (one_sided) {
          for (std::size_t i = 0; i < n; i++) x[i] = -std::fabs(x[i]) - 1.0F;  // padding must not widen to zero
        }
        float min = kInfinity, max = -kInfinity, expected_min = min, expected_max = max;
        const bool good = k->observe->range(x.data(), n, &min, &max);
        const bool expected_good = scalar::kObserve.range(x.data(), n, &expected_min, &expected_max);
        CHECK(good == expected_good, "%s, length %zu: finite", k->name, n);
        CHECK(!good || (std::memcmp(&min, &expected_min, 4) == 0 && std::memcmp(&max, &expected_max, 4) == 0),
              "%s, length %zu: [%g, %g]", k->name, n, static_cast<double>(min), static_cast<double>(max));
        Buffer<float> low(n), high(n), expected_low(n), expected_high(n);
        for (std::size_t i = 0; i < n; i++) {
          low[i] = expected_low[i] = random.below(2) == 0 ? kInfinity : random.normal();
          high[i] = expected_high[i] = random.below(2) == 0 ? -kInfinity : random.normal();
        }
        CHECK(k->observe->ranges(x.data(), n, low.data(), high.data()) == expected_good, "%s: finite", k->name);
        scalar::kObserve.ranges(x.data(), n, expected_low.data(), expected_high.data());
        CHECK(!good || first_difference(low, expected_low) == n, "%s, length %zu: low", k->name, n);
        CHECK(!good || first_difference(high, expected_high) == n, "%s, length %zu: high", k->name, n);
      }
      for (std::size_t i = 0; i < n; i++) x[i] = std::isnan(x[i]) ? -INFINITY : x[i];
      for (const bool each : {false, true}) {
        Buffer<std::int32_t> bins(n), expected(n);
        const float one = 64.0F;
        k->observe->bins(x.data(), n, each ? units.data() : &one, each, 1024, bins.data());
        scalar::kObserve.bins(x.data(), n, each ? units.data() : &one, each, 1024, expected.data());
        const std::size_t i = first_difference(bins, expected);
        CHECK(i == n, "%s, length %zu: %g in bin %d, expected %d", k->name, n, static_cast<double>(x[i]), bins[i],
              expected[i]);
      }
    }
  }
}

TEST("observe: bins hold what they say") {
  const float unit = 4.0F;  // bins of a quarter
  const float x[] = {0.0F, -0.0F, 0.2499F, 0.25F, -0.2499F, -0.25F, 1e9F, -1e9F, -1e-45F};
  const std::int32_t expected[] = {512, 512, 512, 513, 511, 510, 1023, 0, 511};
  std::int32_t bins[9];
  scalar::kObserve.bins(x, 9, &unit, false, 512, bins);
  for (int i = 0; i < 9; i++) CHECK(bins[i] == expected[i], "%g in bin %d", static_cast<double>(x[i]), bins[i]);
  CHECK(grid_exponent(1.0F) == 1 && grid_exponent(0.999F) == 0 && grid_exponent(0.0F) == kLowestGridExponent &&
            grid_exponent(std::numeric_limits<float>::max()) == kHighestGridExponent,
        "exponents");
}

// The bin of x by the definition in observe.h.
std::size_t bin_of(float x, std::size_t half, int exponent) {
  const double m = std::floor(std::fabs(static_cast<double>(x)) * std::ldexp(static_cast<double>(half), -exponent));
  return x < 0.0F ? half - 1 - static_cast<std::size_t>(m) : half + static_cast<std::size_t>(m);
}

TEST("observe: the histogram of a tensor, for any number of threads") {
  const std::size_t large = quick() ? 140001 : 700001;
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{1000}, large}) {
    for (const std::size_t half : {std::size_t{256}, std::size_t{1024}, std::size_t{32768}}) {
      Buffer<float> x(n);
      Random random(n);
      for (std::size_t i = 0; i < n; i++) {
        x[i] = random.normal() * (i > n / 2 ? 50.0F : 0.01F);  // the grid grows on the way
        if (random.below(3) == 0) x[i] = 0.0F;
      }
      float low = kInfinity, high = -kInfinity;
      for (std::size_t i = 0; i < n; i++) {
        low = std::min(low, x[i]);
        high = std::max(high, x[i]);
      }
      for (const std::size_t threads : kThreadCounts) {
        ThreadPool::instance().set_thread_count(threads);
        Buffer<double> counts(2 * half);
        float min = 0.0F, max = 0.0F;
        std::int32_t exponent = 0;
        CHECK(observe_histogram(x.data(), n, half, &min, &max, &exponent, counts.data()).status == Status::kOk,
              "status");
        CHECK(min == low && max == high, "range");
        CHECK(exponent == grid_exponent(n == 0 ? 0.0F : std::max(-low, high)), "exponent %d", exponent);
        std::vector<double> expected(2 * half);
        for (std::size_t i = 0; i < n; i++) expected[bin_of(x[i], half, exponent)] += 1.0;
        for (std::size_t b = 0; b < 2 * half; b++) {
          CHECK(counts[b] == expected[b], "%zu elements, bin %zu: %g, expected %g", n, b, counts[b], expected[b]);
        }
      }
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("observe: ranges and counts of channels, for any number of threads") {
  const std::vector<Channels> shapes = {{1, 1, 0},     {0, 3, 5},     {1, 1, 5000},  {3, 4, 64},
                                        {5, 30, 63},   {2, 500, 1},   {700, 96, 1},  {150, 17, 31},
                                        {1, 300, 900}, {40, 3, 2000}, {50000, 2, 1}, {1, 2, 90000}};
  const std::size_t half = 256;
  for (const Channels& c : shapes) {
    if (quick() && c.element_count() > 100000) continue;
    const std::size_t n = c.element_count();
    Buffer<float> x(n);
    Random random(n);
    for (std::size_t i = 0; i < n; i++) x[i] = random.normal() * std::ldexp(1.0F, static_cast<int>(i / c.inner % 7));
    std::vector<float> low(c.count, kInfinity), high(c.count, -kInfinity);
    for (std::size_t i = 0; i < n; i++) {
      const std::size_t p = i / c.inner % c.count;
      low[p] = std::min(low[p], x[i]);
      high[p] = std::max(high[p], x[i]);
    }
    Buffer<std::int32_t> exponents(c.count);
    for (std::size_t p = 0; p < c.count; p++) exponents[p] = n == 0 ? 0 : grid_exponent(std::max(-low[p], high[p]));
    std::vector<double> expected(c.count * 2 * half);
    for (std::size_t i = 0; i < n; i++) {
      const std::size_t p = i / c.inner % c.count;
      expected[p * 2 * half + bin_of(x[i], half, exponents[p])] += 1.0;
    }
    for (const std::size_t threads : kThreadCounts) {
      ThreadPool::instance().set_thread_count(threads);
      Buffer<float> min(c.count), max(c.count);
      CHECK(observe_ranges(x.data(), c, min.data(), max.data()).status == Status::kOk, "status");
      for (std::size_t p = 0; p < c.count; p++) CHECK(min[p] == low[p] && max[p] == high[p], "range of %zu", p);
      Buffer<double> counts(c.count * 2 * half);
      std::fill_n(counts.data(), counts.size(), 1.0);
      CHECK(observe_counts(x.data(), c, half, exponents.data(), counts.data()).status == Status::kOk, "status");
      for (std::size_t b = 0; b < counts.size(); b++) {
        CHECK(counts[b] == 1.0 + expected[b], "%zu × %zu × %zu, %zu threads: bin %zu", c.blocks, c.count, c.inner,
              threads, b);
      }
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("observe: names the first element that is not finite") {
  Buffer<float> x(300000);
  for (std::size_t i = 0; i < x.size(); i++) x[i] = 1.0F;
  x[270000] = NAN;
  x[299999] = INFINITY;
  float min[10], max[10];
  std::int32_t exponent = 0;
  Buffer<double> counts(512);
  const Outcome a = observe_histogram(x.data(), x.size(), 256, min, max, &exponent, counts.data());
  CHECK(a.status == Status::kNonFinite && a.index == 270000, "index %lld", (long long)a.index);
  for (const Channels& c : {Channels{1, 10, 30000}, Channels{30000, 10, 1}}) {
    const Outcome b = observe_ranges(x.data(), c, min, max);
    CHECK(b.status == Status::kNonFinite && b.index == 270000, "index %lld", (long long)b.index);
  }
}

}  // namespace
}  // namespace lowbit::test
