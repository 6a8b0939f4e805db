// Comparison of tensors: every instruction set against the scalar file, and the whole operation for every number of
// threads.

#include <cmath>

#include "ops/compare/compare.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

bool same_bits(const CompareSums& a, const CompareSums& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

TEST("compare: every instruction set equals the scalar file bit for bit") {
  Random random(3);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t n : ragged_lengths()) {
      Buffer<float> a(n, n % 5), b(n, n % 3);
      for (std::size_t i = 0; i < n; i++) {
        a[i] = random.normal() * std::ldexp(1.0F, static_cast<int>(random.below(60)) - 30);
        b[i] = a[i] + random.normal();
      }
      CHECK(same_bits(k->compare->compare(a.data(), b.data(), n), scalar::kCompare.compare(a.data(), b.data(), n)),
            "%s, length %zu", k->name, n);
    }
  }
}

TEST("compare: sums over a large tensor are those of float64, for any number of threads") {
  const std::size_t n = 1000003;
  Buffer<float> a(n), b(n);
  Random random(4);
  double reference_power = 0.0, error_power = 0.0, lost_reference = 0.0, lost_error = 0.0;
  const auto add = [](double& sum, double& lost, double value) {  // Kahan's compensated sum
    const double corrected = value - lost, next = sum + corrected;
    lost = (next - sum) - corrected;
    sum = next;
  };
  for (std::size_t i = 0; i < n; i++) {
    a[i] = random.normal();
    b[i] = a[i] + 0.01F * random.normal();
    const double r = static_cast<double>(a[i]), e = r - static_cast<double>(b[i]);
    add(reference_power, lost_reference, r * r);
    add(error_power, lost_error, e * e);
  }
  CompareSums first;
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    CompareSums sums;
    CHECK(compare(a.data(), b.data(), n, sums).status == Status::kOk, "status");
    if (threads == 1) first = sums;
    CHECK(same_bits(sums, first), "%zu threads", threads);
    CHECK(std::fabs(sums.reference_power / reference_power - 1.0) < 1e-12, "reference power");
    CHECK(std::fabs(sums.error_power / error_power - 1.0) < 1e-12, "error power %.17g, expected %.17g",
          sums.error_power, error_power);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("compare: names the first element that is not finite") {
  Buffer<float> a(100000), b(100000);
  for (std::size_t i = 0; i < a.size(); i++) a[i] = b[i] = 1.0F;
  b[70001] = NAN;
  a[99999] = INFINITY;
  CompareSums sums;
  const Outcome outcome = compare(a.data(), b.data(), a.size(), sums);
  CHECK(outcome.status == Status::kNonFinite && outcome.index == 70001, "index %lld", (long long)outcome.index);
}

}  // namespace
}  // namespace lowbit::test
