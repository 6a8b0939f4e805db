// LLM.int8(): codes against plain loops of its definition, products against float64.

#include <cmath>

#include "core/float_bits.h"
#include "ops/matmul/llm_int8.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

struct Quantized {
  Buffer<std::int8_t> codes;
  Buffer<float> absmax;
  std::vector<std::uint8_t> outlier;
};

Quantized quantized(const Buffer<float>& x, std::size_t rows, std::size_t columns, float threshold,
                    std::vector<std::uint8_t> outlier) {
  outlier.resize(columns);
  Quantized q{Buffer<std::int8_t>(rows * columns), Buffer<float>(rows), outlier};
  const Outcome outcome = quantize_llm_int8(
      {x.data(), FloatType::kFloat32, rows, columns, threshold, q.outlier.data(), q.codes.data(), q.absmax.data()});
  CHECK(outcome.status == Status::kOk, "status");
  return q;
}

Buffer<float> random_matrix(Random& random, std::size_t rows, std::size_t columns, bool outliers) {
  Buffer<float> x(rows * columns);
  for (std::size_t i = 0; i < x.size(); i++) x[i] = random.normal();
  if (columns == 0) return x;
  for (std::size_t r = 0; outliers && r < rows; r++) x[r * columns + random.below(2) * (columns - 1)] *= 40.0F;
  for (std::size_t c = 0; rows > 2 && c < columns; c++) x[columns + c] = 0.0F;  // a row of zeros
  return x;
}

// The definition, one element after the other.
void check_codes(std::size_t rows, std::size_t columns, float threshold, const std::vector<std::uint8_t>& given,
                 Random& random) {
  const Buffer<float> x = random_matrix(random, rows, columns, threshold > 0.0F);
  const Quantized q = quantized(x, rows, columns, threshold, given);
  const auto is_given = [&](std::size_t c) { return c < given.size() && given[c] != 0; };
  std::vector<std::uint8_t> outlier(columns);
  for (std::size_t i = 0; i < x.size(); i++) {
    const std::size_t c = i % columns;
    if (is_given(c) || (threshold > 0.0F && std::fabs(x[i]) >= threshold)) outlier[c] = 1;
  }
  CHECK(q.outlier == outlier, "[%zu, %zu]: outlier columns", rows, columns);
  for (std::size_t r = 0; r < rows; r++) {
    float absmax = 0.0F;
    for (std::size_t c = 0; c < columns; c++) {
      const float magnitude = std::fabs(x[r * columns + c]);
      if (!is_given(c) && (threshold == 0.0F || magnitude < threshold)) absmax = std::max(absmax, magnitude);
    }
    CHECK(q.absmax[r] == absmax, "[%zu, %zu], row %zu: absmax %g, expected %g", rows, columns, r,
          static_cast<double>(q.absmax[r]), static_cast<double>(absmax));
    for (std::size_t c = 0; c < columns; c++) {
      const float factor = absmax == 0.0F ? 0.0F : 127.0F / absmax;
      const int expected = outlier[c] != 0 ? 0 : static_cast<int>(std::nearbyint(x[r * columns + c] * factor));
      CHECK(q.codes[r * columns + c] == expected, "[%zu, %zu], row %zu, column %zu: %d, expected %d", rows, columns, r,
            c, q.codes[r * columns + c], expected);
    }
    if (failed()) return;
  }
}

TEST("LLM.int8(), tensor: codes, scales and outlier columns are those of the definition, for any number of threads") {
  Random random(1);
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    for (std::size_t columns = 1 + threads % 2; columns <= 70; columns += quick() ? 9 : 2) {
      check_codes(1 + random.below(7), columns, 0.0F, {}, random);
      check_codes(1 + random.below(7), columns, 6.0F, {}, random);
      check_codes(1 + random.below(7), columns, 6.0F, {1, 0, 1}, random);
    }
    check_codes(77, 1031, 4.0F, {0, 0, 0, 1}, random);
    check_codes(3, 0, 6.0F, {}, random);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

void check_product(std::size_t m, std::size_t n, std::size_t k, const std::vector<std::int32_t>& kept_columns,
                   Random& random) {
  const Buffer<float> x = random_matrix(random, m, k, true), w = random_matrix(random, n, k, false);
  std::vector<std::uint8_t> given(k);
  for (const std::int32_t column : kept_columns) given[static_cast<std::size_t>(column)] = 1;
  const Quantized q = quantized(w, n, k, 0.0F, given);
  const PackedWeight packed = pack_integer_rows(q.codes.data(), n, k);
  Buffer<std::uint16_t> halves(n * kept_columns.size());
  for (std::size_t i = 0; i < halves.size(); i++) {
    const auto column = static_cast<std::size_t>(kept_columns[i % kept_columns.size()]);
    halves[i] = float16_of(w[i / kept_columns.size() * k + column]);
  }
  const PackedWeight kept = pack_floats(halves.data(), FloatType::kFloat16, n, kept_columns.size());
  Buffer<float> bias(n), y(m * n);
  for (std::size_t c = 0; c < n; c++) bias[c] = random.normal();
  LlmInt8Product product{};
  product.x = x.data();
  product.m = m;
  product.weight = &packed;
  product.absmax = q.absmax.data();
  product.kept = kept_columns.empty() ? nullptr : &kept;
  product.kept_columns = kept_columns.data();
  product.threshold = 6.0F;
  product.bias = bias.data();
  product.y = y.data();
  CHECK(llm_int8_product(product).status == Status::kOk, "status");

  const Quantized a = quantized(x, m, k, 6.0F, given);
  for (std::size_t r = 0; r < m; r++) {
    for (std::size_t c = 0; c < n; c++) {
      std::int32_t sum = 0;
      double floats = 0.0, magnitudes = 0.0;
      std::size_t outliers = 0;
      for (std::size_t i = 0; i < k; i++) {
        sum += a.codes[r * k + i] * q.codes[c * k + i];
        if (a.outlier[i] == 0) continue;
        const double weight = given[i] != 0 ? static_cast<double>(float_of_float16(float16_of(w[c * k + i])))
                                            : q.codes[c * k + i] * (static_cast<double>(q.absmax[c]) / 127.0);
        floats += static_cast<double>(x[r * k + i]) * weight;
        magnitudes += std::fabs(static_cast<double>(x[r * k + i]) * weight);
        outliers++;
      }
      const double integer =
          sum * static_cast<double>(a.absmax[r]) * static_cast<double>(q.absmax[c]) / (127.0 * 127.0);
      const double exact = integer + floats + static_cast<double>(bias[c]);
      // Roundings of the product of bytes: the integer, both scales, two products; of the floats: both of a weight;
      // then the bias and every product of floats are added to what there is, with one rounding each.
      const double all = std::fabs(integer) + magnitudes + std::fabs(static_cast<double>(bias[c]));
      const double bound =
          0x1.0001p-24 * (5.0 * std::fabs(integer) + 2.0 * magnitudes + static_cast<double>(outliers + 1) * all);
      // The same in float32, in the order that every instruction set keeps: found columns, then kept ones.
      float same = static_cast<float>(sum) * (q.absmax[c] / 127.0F) * (a.absmax[r] / 127.0F) + bias[c];
      for (std::size_t i = 0; i < k; i++) {
        if (a.outlier[i] == 0 || given[i] != 0) continue;
        same = std::fmaf(static_cast<float>(q.codes[c * k + i]) * (q.absmax[c] / 127.0F), x[r * k + i], same);
      }
      for (const std::int32_t column : kept_columns) {
        const auto i = static_cast<std::size_t>(column);
        same = std::fmaf(float_of_float16(float16_of(w[c * k + i])), x[r * k + i], same);
      }
      CHECK(bits_of(y[r * n + c]) == bits_of(same), "[%zu, %zu] · [%zu], row %zu, column %zu: %.9g, not %.9g", m, n, k,
            r, c, static_cast<double>(y[r * n + c]), static_cast<double>(same));
      CHECK(std::fabs(static_cast<double>(y[r * n + c]) - exact) <= bound,
            "[%zu, %zu] · [%zu], row %zu, column %zu: %.9g, expected %.9g", m, n, k, r, c,
            static_cast<double>(y[r * n + c]), exact);
      if (failed()) return;
    }
  }
}

TEST("LLM.int8(), tensor: products are those of float64 within their roundings, the same bits everywhere") {
  Random random(2);
  for (std::size_t k = 1; k <= 70; k += quick() ? 11 : 3)
    check_product(1 + random.below(9), 1 + random.below(40), k, {}, random);
  check_product(5, 33, 70, {3, 69, 0}, random);
  check_product(1, 17, 300, {299}, random);
  check_product(40, 50, 1030, {}, random);
}

TEST("LLM.int8(), tensor: names the first element that is not finite, though it is an outlier") {
  Buffer<float> x(300), absmax(3);
  Buffer<std::int8_t> codes(300);
  for (std::size_t i = 0; i < 300; i++) x[i] = 1.0F;
  x[123] = -INFINITY;
  x[250] = NAN;
  std::vector<std::uint8_t> outlier(100);
  const Outcome outcome =
      quantize_llm_int8({x.data(), FloatType::kFloat32, 3, 100, 6.0F, outlier.data(), codes.data(), absmax.data()});
  CHECK(outcome.status == Status::kNonFinite && outcome.index == 123, "index %lld", (long long)outcome.index);
}

}  // namespace
}  // namespace lowbit::test
