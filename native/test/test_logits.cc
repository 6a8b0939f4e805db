// Statistics of logits: every instruction set against the scalar file, and the whole operation against long double.

#include <cmath>

#include "ops/logits/logits.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

template <typename T>
bool same_bits(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

TEST("logits: every instruction set equals the scalar file bit for bit") {
  Random random(5);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t n : ragged_lengths()) {
      if (n == 0) continue;
      Buffer<float> a(n, n % 5), b(n, n % 3);
      const float spread = n % 7 == 0 ? 900.0F : 5.0F;  // some exponentials vanish
      for (std::size_t i = 0; i < n; i++) {
        a[i] = std::round(random.normal() * 8.0F) / 8.0F * spread;  // with ties
        b[i] = a[i] + random.normal();
      }
      const LogitTop top = k->logits->top(a.data(), n), expected = scalar::kLogits.top(a.data(), n);
      CHECK(top.largest == expected.largest && top.index == expected.index && top.non_finite == -1,
            "%s, length %zu: largest at %lld, expected %lld", k->name, n, (long long)top.index,
            (long long)expected.index);
      const float other = scalar::kLogits.top(b.data(), n).largest;
      CHECK(same_bits(k->logits->sum_exponentials(a.data(), top.largest, n),
                      scalar::kLogits.sum_exponentials(a.data(), top.largest, n)),
            "%s, length %zu: sum", k->name, n);
      CHECK(same_bits(k->logits->compare(a.data(), top.largest, b.data(), other, n),
                      scalar::kLogits.compare(a.data(), top.largest, b.data(), other, n)),
            "%s, length %zu: comparison", k->name, n);
    }
  }
}

TEST("logits: every instruction set finds the first element that is not finite") {
  for (const Kernels* k : supported_kernels()) {
    for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
      constexpr std::size_t kPlaces[] = {0, 1, 15, 16, 1023, 1024, 2047, 2998, 2999};
      for (const std::size_t at : kPlaces) {
        Buffer<float> row(3000);
        for (std::size_t i = 0; i < row.size(); i++) row[i] = static_cast<float>(i % 100);
        row[at] = bad;
        if (at < 2990) row[2995] = NAN;
        const LogitTop top = k->logits->top(row.data(), row.size());
        CHECK(top.non_finite == static_cast<std::int64_t>(at), "%s: %lld, expected %zu", k->name,
              (long long)top.non_finite, at);
      }
    }
  }
}

TEST("logits: statistics are those of long double, for any number of threads") {
  Random random(6);
  constexpr std::size_t kVocabularies[] = {1, 2, 259, 40000};
  for (const std::size_t vocabulary : kVocabularies) {
    const std::size_t rows = vocabulary > 1000 ? 3 : 257;
    Buffer<float> a(rows * vocabulary), b(rows * vocabulary);
    Buffer<std::int32_t> targets(rows);
    for (std::size_t i = 0; i < a.size(); i++) {
      b[i] = 4.0F * random.normal() + 7.0F;
      a[i] = b[i] + 0.01F * random.normal();
    }
    for (std::size_t i = 0; i < rows; i++) targets[i] = static_cast<std::int32_t>(random.below(vocabulary));
    std::vector<LogitStatistics> first;
    for (const std::size_t threads : kThreadCounts) {
      ThreadPool::instance().set_thread_count(threads);
      std::vector<LogitStatistics> found(rows), alone(rows);
      std::vector<std::int32_t> largest(2 * rows), alone_largest(2 * rows);
      CHECK(
          logit_statistics(a.data(), b.data(), targets.data(), rows, vocabulary, found.data(), largest.data()).status ==
              Status::kOk,
          "status");
      CHECK(logit_statistics(a.data(), nullptr, targets.data(), rows, vocabulary, alone.data(), alone_largest.data())
                    .status == Status::kOk,
            "status");
      if (threads == 1) first = found;
      CHECK(std::memcmp(found.data(), first.data(), rows * sizeof(LogitStatistics)) == 0, "%zu threads", threads);
      for (std::size_t i = 0; i < rows; i++) {
        const float *x = a.data() + i * vocabulary, *r = b.data() + i * vocabulary;
        const auto log_sum = [&](const float* row) {
          long double sum = 0.0L;
          for (std::size_t j = 0; j < vocabulary; j++) sum += std::exp(static_cast<long double>(row[j]));
          return std::log(sum);
        };
        const long double of_x = log_sum(x), of_r = log_sum(r);
        long double divergence = 0.0L, difference = 0.0L;
        std::size_t best = 0, reference_best = 0;
        for (std::size_t j = 0; j < vocabulary; j++) {
          const long double p = static_cast<long double>(r[j]) - of_r, q = static_cast<long double>(x[j]) - of_x;
          divergence += std::exp(p) * (p - q);
          difference =
              std::fmax(difference, std::fabs(static_cast<long double>(r[j]) - static_cast<long double>(x[j])));
          if (x[j] > x[best]) best = j;
          if (r[j] > r[reference_best]) reference_best = j;
        }
        const auto target = static_cast<std::size_t>(targets[i]);
        const auto near = [](double value, long double expected) {
          return std::fabs(static_cast<long double>(value) - expected) < 1e-12L;
        };
        CHECK(near(found[i].nats, of_x - static_cast<long double>(x[target])), "nats %.17g", found[i].nats);
        CHECK(near(found[i].reference_nats, of_r - static_cast<long double>(r[target])), "nats of the reference");
        CHECK(near(found[i].kl_divergence, divergence) && found[i].kl_divergence >= 0.0,
              "divergence %.17g, expected %.17Lg", found[i].kl_divergence, divergence);
        CHECK(near(found[i].max_difference, difference), "difference");
        CHECK(largest[2 * i] == static_cast<std::int32_t>(best), "largest");
        CHECK(largest[2 * i + 1] == static_cast<std::int32_t>(reference_best), "largest of the reference");
        CHECK(same_bits(alone[i].nats, found[i].nats) && alone[i].kl_divergence == 0.0, "without a reference");
        CHECK(alone_largest[2 * i] == largest[2 * i] && alone_largest[2 * i + 1] == -1, "largest without a reference");
      }
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("logits: names the first element that is not finite, in either tensor") {
  const std::size_t rows = 1000, vocabulary = 259;
  Buffer<float> a(rows * vocabulary), b(rows * vocabulary);
  for (std::size_t i = 0; i < a.size(); i++) a[i] = b[i] = 1.0F;
  Buffer<std::int32_t> targets(rows);
  for (std::size_t i = 0; i < rows; i++) targets[i] = 0;
  std::vector<LogitStatistics> statistics(rows);
  std::vector<std::int32_t> largest(2 * rows);
  const auto index = [&](const float* reference) {
    const Outcome outcome =
        logit_statistics(a.data(), reference, targets.data(), rows, vocabulary, statistics.data(), largest.data());
    return outcome.status == Status::kNonFinite ? outcome.index : -1;
  };
  a[200001] = NAN;
  a[250000] = -INFINITY;
  b[200000] = INFINITY;
  CHECK(index(b.data()) == 200000, "index %lld", (long long)index(b.data()));
  CHECK(index(nullptr) == 200001, "index %lld", (long long)index(nullptr));
}

}  // namespace
}  // namespace lowbit::test
