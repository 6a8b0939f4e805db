// GPTQ and the Cholesky factorization that it needs.

#include <cmath>
#include <initializer_list>

#include "core/kernels.h"
#include "core/thread_pool.h"
#include "ops/linalg/cholesky.h"
#include "ops/linalg/gptq.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

// XᵀX of `rows` rows whose neighbouring columns depend on each other.
std::vector<float> gram_of(Random& random, std::size_t size, std::size_t rows) {
  std::vector<double> sums(size * size, 0.0);
  std::vector<double> x(size);
  for (std::size_t r = 0; r < rows; r++) {
    double last = 0.0;
    for (std::size_t i = 0; i < size; i++) {
      last = 0.8 * last + static_cast<double>(random.normal());
      x[i] = last * (i % 7 == 3 ? 5.0 : 1.0);
    }
    for (std::size_t i = 0; i < size; i++) {
      for (std::size_t j = 0; j < size; j++) sums[i * size + j] += x[i] * x[j];
    }
  }
  std::vector<float> h(size * size);
  for (std::size_t i = 0; i < h.size(); i++) h[i] = static_cast<float>(sums[i]);
  return h;
}

TEST("linalg: solve equals the scalar file bit for bit") {
  Random random(1);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t count : std::initializer_list<std::size_t>{1, 2, 5, 64}) {
      for (const std::size_t stride : std::initializer_list<std::size_t>{16, 48}) {
        Buffer<float> factor(count * count), a(count * stride), b(count * stride);
        for (std::size_t i = 0; i < factor.size(); i++) factor[i] = random.normal() / 8.0F;
        for (std::size_t i = 0; i < count; i++) factor[i * count + i] = 1.0F + random.uniform();
        for (std::size_t i = 0; i < a.size(); i++) a[i] = b[i] = random.normal();
        k->linalg->solve({count, factor.data(), a.data(), stride});
        scalar::kLinalg.solve({count, factor.data(), b.data(), stride});
        CHECK(first_difference(a, b) == a.size(), "%s, %zu rows", k->name, count);
      }
    }
  }
}

TEST("linalg: ranges equal the scalar file bit for bit") {
  Random random(2);
  std::vector<float> shrinking(16);
  for (std::size_t i = 0; i < 16; i++) shrinking[i] = 1.0F - static_cast<float>(i) / 20.0F;
  const float whole[] = {1.0F};
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t count : std::initializer_list<std::size_t>{1, 3, 33}) {
      for (int choice = 0; choice < 96; choice++) {
        const std::size_t stride = (choice & 1) != 0 ? 64 : 16;
        Buffer<float> x(count * stride), importance(count);
        for (std::size_t i = 0; i < x.size(); i++) {
          const std::size_t lane = i % 16;  // some of zeros, of positive numbers, of tiny ones
          x[i] = lane == 3 ? 0.0F : random.normal() * (lane == 7 ? 1e-6F : 1.0F);
          if (lane == 5) x[i] = std::fabs(x[i]);
        }
        for (std::size_t i = 0; i < count; i++) importance[i] = random.uniform();
        Buffer<float> scales(16), zeros(16), expected_scales(16), expected_zeros(16);
        RangeArguments a{};
        a.count = count;
        a.x = x.data();
        a.stride = stride;
        a.rule = (choice & 2) != 0 ? RangeRule::kGptq : RangeRule::kAffine;
        a.symmetric = (choice & 4) != 0;
        a.lowest = (choice & 8) != 0 ? -8 : 0;
        a.highest = a.lowest + 15;
        a.zero = static_cast<float>(a.lowest + 8);
        a.steps = 7.0F;
        a.scale_type = static_cast<FloatType>(choice / 16 % 3);
        a.factors = choice >= 48 ? shrinking.data() : whole;
        a.factor_count = choice >= 48 ? 16 : 1;
        a.importance = (choice & 8) != 0 ? importance.data() : nullptr;
        a.power_2_4 = (choice & 2) != 0;
        a.scales = scales.data();
        a.zeros = zeros.data();
        k->linalg->range(a);
        a.scales = expected_scales.data();
        a.zeros = expected_zeros.data();
        scalar::kLinalg.range(a);
        CHECK(first_difference(scales, expected_scales) == 16, "%s, %zu, choice %d: scales", k->name, count, choice);
        CHECK(first_difference(zeros, expected_zeros) == 16, "%s, %zu, choice %d: zeros", k->name, count, choice);
        for (std::size_t lane = 0; lane < 16; lane++) {
          CHECK(scales[lane] > 0.0F && zeros[lane] >= static_cast<float>(a.lowest) &&
                    zeros[lane] <= static_cast<float>(a.highest),
                "%s, choice %d: scale %g, zero %g", k->name, choice, static_cast<double>(scales[lane]),
                static_cast<double>(zeros[lane]));
        }
      }
    }
  }
}

TEST("linalg: sweeps equal the scalar file bit for bit") {
  Random random(3);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t count : std::initializer_list<std::size_t>{1, 2, 31, 128}) {
      for (const std::size_t stride : std::initializer_list<std::size_t>{16, 64}) {
        for (const bool moves : {false, true}) {
          Buffer<float> w(count * stride), w2(count * stride), original(count * stride), factor(count * count);
          Buffer<float> importance(count), scales(std::size_t{3} * 16), zeros(std::size_t{3} * 16), errors(count * 16),
              errors2(count * 16);
          Buffer<std::int32_t> groups(count);
          Buffer<std::uint8_t> codes(count * 16), codes2(count * 16);
          Buffer<double> loss(16), loss2(16);
          for (std::size_t i = 0; i < w.size(); i++) w[i] = w2[i] = original[i] = random.normal();
          for (std::size_t i = 0; i < factor.size(); i++) factor[i] = random.normal() / 4.0F;
          for (std::size_t i = 0; i < count; i++) {
            importance[i] = random.uniform();
            groups[i] = static_cast<std::int32_t>(random.below(3));
          }
          for (std::size_t i = 0; i < 48; i++) {
            scales[i] = 0.1F + random.uniform();
            zeros[i] = static_cast<float>(random.below(16));
          }
          for (std::size_t i = 0; i < 16; i++) loss[i] = loss2[i] = 1.0;
          SweepArguments a{count,
                           w.data(),
                           original.data(),
                           stride,
                           moves ? factor.data() : nullptr,
                           count,
                           importance.data(),
                           groups.data(),
                           scales.data(),
                           zeros.data(),
                           0,
                           15,
                           errors.data(),
                           codes.data(),
                           loss.data()};
          k->linalg->sweep(a);
          a.w = w2.data();
          a.errors = errors2.data();
          a.codes = codes2.data();
          a.loss = loss2.data();
          scalar::kLinalg.sweep(a);
          CHECK(first_difference(errors, errors2) == errors.size(), "%s, %zu columns: errors", k->name, count);
          CHECK(first_difference(codes, codes2) == codes.size(), "%s, %zu columns: codes", k->name, count);
          CHECK(first_difference(loss, loss2) == 16, "%s, %zu columns: loss", k->name, count);
        }
      }
    }
  }
}

TEST("linalg: the factor times its transpose is the matrix") {
  Random random(4);
  for (const std::size_t size : std::initializer_list<std::size_t>{1, 2, 15, 64, 65, 150, 200}) {
    const std::vector<float> h = gram_of(random, size, 2 * size + 3);
    std::vector<std::int32_t> order(size);
    for (std::size_t i = 0; i < size; i++) order[i] = static_cast<std::int32_t>((i * 7 + 3) % size);
    const bool permuted = size % 7 != 0 && size > 7;
    double mean = 0.0;
    for (std::size_t i = 0; i < size; i++) mean += static_cast<double>(h[i * size + i]) / static_cast<double>(size);
    ReversedCholesky cholesky;
    CHECK(cholesky.factorize(h.data(), size, permuted ? order.data() : nullptr, 0.01 * mean).status == Status::kOk,
          "size %zu", size);
    double worst = 0.0;
    for (std::size_t i = 0; i < size; i++) {
      for (std::size_t j = 0; j < size; j++) {
        double sum = 0.0;
        for (std::size_t k = std::max(i, j); k < size; k++) {
          sum += static_cast<double>(cholesky.at(i, k)) * static_cast<double>(cholesky.at(j, k));
        }
        const std::size_t r = permuted ? static_cast<std::size_t>(order[i]) : i;
        const std::size_t c = permuted ? static_cast<std::size_t>(order[j]) : j;
        const double expected = static_cast<double>(h[r * size + c]) + (i == j ? 0.01 * mean : 0.0);
        const double root = std::sqrt(static_cast<double>(h[r * size + r]) * static_cast<double>(h[c * size + c]));
        worst = std::max(worst, std::fabs(sum - expected) / root);
      }
    }
    CHECK(worst < 4e-7 * std::sqrt(static_cast<double>(size)), "size %zu: %g", size, worst);
  }
}

TEST("linalg: a matrix that is not positive definite is refused") {
  std::vector<float> h(std::size_t{100} * 100, 1.0F);
  ReversedCholesky cholesky;
  CHECK(cholesky.factorize(h.data(), 100, nullptr, 0.0).status == Status::kNotPositive, "rank 1");
  CHECK(cholesky.factorize(h.data(), 100, nullptr, 0.01).status == Status::kOk, "with damping");
  h[50 * 100 + 50] = -1.0F;
  CHECK(cholesky.factorize(h.data(), 100, nullptr, 0.01).status == Status::kNotPositive, "negative");
  h[50] = NAN;
  const Outcome outcome = cholesky.factorize(h.data(), 100, nullptr, 0.01);
  CHECK(outcome.status == Status::kNonFinite && outcome.index == 50, "NaN");
}

struct Result {
  std::vector<float> scales;
  std::vector<std::int32_t> zeros;
  std::vector<std::uint8_t> codes;
  double loss = 0.0, damp = 0.0;
};

// The plain loop of the GPTQ code, with the inverse of H and in float64: codes of weights that are not close to a tie.
struct Plain {
  std::vector<int> codes;
  std::vector<bool> sure;  // until the first tie of a row
};

std::vector<double> inverse_factor(std::vector<double> h, std::size_t n) {
  // inv(H) by Gauss and Jordan, then its upper Cholesky factor.
  std::vector<double> inverse(n * n, 0.0), u(n * n, 0.0);
  for (std::size_t i = 0; i < n; i++) inverse[i * n + i] = 1.0;
  for (std::size_t p = 0; p < n; p++) {
    const double pivot = h[p * n + p];
    for (std::size_t j = 0; j < n; j++) {
      h[p * n + j] /= pivot;
      inverse[p * n + j] /= pivot;
    }
    for (std::size_t i = 0; i < n; i++) {
      const double factor = h[i * n + p];
      if (i == p || factor == 0.0) continue;
      for (std::size_t j = 0; j < n; j++) {
        h[i * n + j] -= factor * h[p * n + j];
        inverse[i * n + j] -= factor * inverse[p * n + j];
      }
    }
  }
  for (std::size_t i = 0; i < n; i++) {
    for (std::size_t j = i; j < n; j++) {
      double sum = inverse[i * n + j];
      for (std::size_t k = 0; k < i; k++) sum -= u[k * n + i] * u[k * n + j];
      u[i * n + j] = i == j ? std::sqrt(sum) : sum / u[i * n + i];
    }
  }
  return u;
}

Plain plain_gptq(const std::vector<float>& weight, std::size_t rows, std::size_t columns,
                 const std::vector<float>& gram, double damp, const Result& result, std::size_t group_size) {
  std::vector<double> h(gram.begin(), gram.end());
  double mean = 0.0;
  for (std::size_t i = 0; i < columns; i++) mean += h[i * columns + i] / static_cast<double>(columns);
  for (std::size_t i = 0; i < columns; i++) h[i * columns + i] += damp * mean;
  const std::vector<double> u = inverse_factor(h, columns);
  const std::size_t groups = (columns + group_size - 1) / group_size;
  Plain plain{std::vector<int>(rows * columns), std::vector<bool>(rows * columns)};
  for (std::size_t r = 0; r < rows; r++) {
    std::vector<double> w(weight.begin() + static_cast<std::ptrdiff_t>(r * columns),
                          weight.begin() + static_cast<std::ptrdiff_t>((r + 1) * columns));
    bool sure = true;
    for (std::size_t i = 0; i < columns; i++) {
      const double scale = static_cast<double>(result.scales[r * groups + i / group_size]);
      const double zero = static_cast<double>(result.zeros[r * groups + i / group_size]);
      const double steps = std::min(std::max(w[i] / scale, -zero), 15.0 - zero), nearest = std::nearbyint(steps);
      sure = sure && std::fabs(std::fabs(steps - nearest) - 0.5) > 1e-3;
      plain.codes[r * columns + i] = static_cast<int>(nearest + zero);
      plain.sure[r * columns + i] = sure;
      const double error = (w[i] - nearest * scale) / u[i * columns + i];
      for (std::size_t j = i; j < columns; j++) w[j] -= error * u[i * columns + j];
    }
  }
  return plain;
}

Result run(const std::vector<float>& weight, std::size_t rows, std::size_t columns, const std::vector<float>* gram,
           const std::vector<std::int32_t>* order, std::size_t group_size, bool static_ranges, std::size_t block,
           bool search) {
  const std::size_t groups = (columns + group_size - 1) / group_size;
  Result result;
  result.scales.resize(rows * groups);
  result.zeros.resize(rows * groups);
  result.codes.resize(rows * ((columns + 1) / 2));
  std::vector<std::int32_t> group(columns);
  for (std::size_t j = 0; j < columns; j++) {
    const std::size_t from = order != nullptr && static_ranges ? static_cast<std::size_t>((*order)[j]) : j;
    group[j] = static_cast<std::int32_t>(from / group_size);
  }
  std::vector<float> factors(search ? 80 : 1);
  for (std::size_t i = 0; i < factors.size(); i++) factors[i] = 1.0F - static_cast<float>(i) / 100.0F;
  GptqArguments a{};
  a.weight = weight.data();
  a.rows = rows;
  a.columns = columns;
  a.gram = gram == nullptr ? nullptr : gram->data();
  a.order = order == nullptr ? nullptr : order->data();
  a.groups = group.data();
  a.group_count = groups;
  a.static_ranges = static_ranges;
  a.passes = 2;
  a.zero_dead = true;
  a.block = block;
  a.damp = 0.01;
  a.damp_step = 0.01;
  a.code = {4, false};
  a.lowest = 0;
  a.highest = 15;
  a.rule = RangeRule::kAffine;
  a.zero = 8.0F;
  a.steps = 7.0F;
  a.scale_type = FloatType::kFloat32;
  a.factors = factors.data();
  a.factor_count = factors.size();
  a.importance = search && gram != nullptr ? Importance::kFactor : Importance::kNone;
  a.codes_in_order = order != nullptr && !static_ranges;
  a.scales = result.scales.data();
  a.zeros = result.zeros.data();
  a.codes = result.codes.data();
  a.loss = &result.loss;
  a.damp_used = &result.damp;
  const Outcome outcome = gptq(a);
  CHECK(outcome.status == Status::kOk, "status %d", static_cast<int>(outcome.status));
  return result;
}

TEST("gptq: codes are those of the plain loop in float64") {
  Random random(5);
  for (const std::size_t columns : std::initializer_list<std::size_t>{1, 40, 100, 150}) {
    for (const std::size_t group_size : std::initializer_list<std::size_t>{32, 150}) {
      const std::size_t rows = 21;
      const std::vector<float> gram = gram_of(random, columns, 3 * columns);
      std::vector<float> weight(rows * columns);
      for (float& w : weight) w = random.normal();
      const Result result = run(weight, rows, columns, &gram, nullptr, group_size, false, 64, false);
      const Plain plain = plain_gptq(weight, rows, columns, gram, 0.01, result, group_size);
      std::size_t sure = 0;
      for (std::size_t r = 0; r < rows; r++) {
        for (std::size_t i = 0; i < columns; i++) {
          if (!plain.sure[r * columns + i]) continue;
          sure++;
          const int byte = result.codes[r * ((columns + 1) / 2) + i / 2];
          CHECK((i % 2 == 0 ? byte & 15 : byte >> 4) == plain.codes[r * columns + i], "%zu columns, row %zu, %zu",
                columns, r, i);
        }
      }
      CHECK(10 * sure > 7 * rows * columns, "%zu of %zu are sure", sure, rows * columns);
    }
  }
}

TEST("gptq: the same bits for any number of threads; its loss is that of its errors") {
  Random random(6);
  const std::size_t rows = 83, columns = 300;
  const std::vector<float> gram = gram_of(random, columns, 700);
  std::vector<float> weight(rows * columns);
  for (float& w : weight) w = random.normal();
  std::vector<std::int32_t> order(columns);
  for (std::size_t i = 0; i < columns; i++) order[i] = static_cast<std::int32_t>((i * 7) % columns);
  for (int choice = 0; choice < 4; choice++) {
    Result first;
    for (const std::size_t threads : kThreadCounts) {
      ThreadPool::instance().set_thread_count(threads);
      const Result result =
          run(weight, rows, columns, &gram, (choice & 1) != 0 ? &order : nullptr, 48, (choice & 2) != 0, 64, true);
      if (threads == 1) first = result;
      CHECK(result.codes == first.codes && result.scales == first.scales && result.zeros == first.zeros, "%zu threads",
            threads);
      CHECK(result.loss == first.loss, "%zu threads: loss", threads);
    }
    if (choice != 0) continue;
    double mean = 0.0, loss = 0.0;
    for (std::size_t i = 0; i < columns; i++) mean += static_cast<double>(gram[i * columns + i]) / columns;
    for (std::size_t r = 0; r < rows; r++) {
      std::vector<double> error(columns);
      for (std::size_t i = 0; i < columns; i++) {
        const int byte = first.codes[r * columns / 2 + i / 2], code = i % 2 == 0 ? byte & 15 : byte >> 4;
        const std::size_t parameter = r * 7 + i / 48;
        error[i] = static_cast<double>(weight[r * columns + i]) -
                   static_cast<double>(first.scales[parameter]) * (code - first.zeros[parameter]);
      }
      for (std::size_t i = 0; i < columns; i++) {
        loss += 0.01 * mean * error[i] * error[i];
        for (std::size_t j = 0; j < columns; j++)
          loss += error[i] * static_cast<double>(gram[i * columns + j]) * error[j];
      }
    }
    CHECK(std::fabs(first.loss / loss - 1.0) < 1e-5, "loss %.9g, expected %.9g", first.loss, loss);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("gptq: cancelled, and what is not finite") {
  const CancelFlag cancel{true};
  std::vector<float> weight(std::size_t{64} * 64, 1.0F), gram(std::size_t{64} * 64, 0.5F), scales(64), factors(1, 1.0F);
  std::vector<std::int32_t> groups(64, 0);
  std::vector<std::uint8_t> codes(std::size_t{64} * 64);
  double loss = 0.0, damp = 0.0;
  GptqArguments a{};
  a.weight = weight.data();
  a.rows = a.columns = 64;
  a.gram = gram.data();
  a.groups = groups.data();
  a.group_count = 1;
  a.block = 128;
  a.passes = 1;
  a.damp = 0.1;
  a.code = {8, true};
  a.lowest = -127;
  a.highest = 127;
  a.symmetric = true;
  a.steps = 127.0F;
  a.factors = factors.data();
  a.factor_count = 1;
  a.scales = scales.data();
  a.codes = codes.data();
  a.loss = &loss;
  a.damp_used = &damp;
  CHECK(gptq(a, &cancel).status == Status::kCancelled, "cancelled");
  gram[70] = INFINITY;
  Outcome outcome = gptq(a);
  CHECK(outcome.status == Status::kNonFinite && outcome.index == 64 * 64 + 70, "gram: %lld", (long long)outcome.index);
  weight[5] = NAN;
  outcome = gptq(a);
  CHECK(outcome.status == Status::kNonFinite && outcome.index == 5, "weight: %lld", (long long)outcome.index);
}

}  // namespace
}  // namespace lowbit::test
