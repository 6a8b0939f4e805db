// Exact integer products, dynamic quantization and Gram matrices against plain loops.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/thread_pool.h"
#include "ops/matmul/matmul.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

constexpr IntegerResult kResults[] = {IntegerResult::kInt32, IntegerResult::kFloats, IntegerResult::kInt8,
                                      IntegerResult::kUint8};

// Bytes as the numbers that they are.
struct Bytes {
  bool is_signed;
  Buffer<std::uint8_t> data;

  Bytes(bool with_sign, std::size_t count, bool extreme, Random& random) : is_signed(with_sign), data(count) {
    constexpr std::uint8_t kExtremes[] = {0, 255, 0x80, 0x7f};
    for (std::size_t i = 0; i < count; i++) {
      data[i] = extreme ? kExtremes[random.below(4)] : static_cast<std::uint8_t>(random.bits());
    }
  }
  std::int64_t at(std::size_t i) const {
    return is_signed ? static_cast<std::int64_t>(static_cast<std::int8_t>(data[i])) : std::int64_t{data[i]};
  }
};

Buffer<std::int32_t> zeros_of(const Bytes& bytes, std::size_t count, Random& random) {
  Buffer<std::int32_t> zeros(count);
  for (std::size_t i = 0; i < count; i++)
    zeros[i] = static_cast<std::int32_t>(random.below(256)) - (bytes.is_signed ? 128 : 0);
  return zeros;
}

struct IntegerProblem {
  std::size_t m, n, k;
  Bytes a, b;
  Buffer<std::int32_t> a_zeros, b_zeros;
  Buffer<float> scales, bias;
  PackedWeight packed;

  IntegerProblem(std::size_t rows, std::size_t columns, std::size_t depth, unsigned mode, bool extreme, Random& random)
      : m(rows),
        n(columns),
        k(depth),
        a((mode & 1) != 0, m * k, extreme, random),
        b((mode & 2) != 0, k * n, extreme, random),
        a_zeros(zeros_of(a, (mode & 4) != 0 ? m : 1, random)),
        b_zeros(zeros_of(b, (mode & 8) != 0 ? n : 1, random)),
        scales((mode & 16) != 0 ? n : 1),
        bias(n),
        packed(pack_integers(b.data.data(), b.is_signed, k, n)) {
    // Some are powers of two, for ties in rounding.
    for (std::size_t i = 0; i < scales.size(); i++) {
      scales[i] = i % 2 == 0 ? std::ldexp(1.0F, -1 - static_cast<int>(random.below(14))) : random.between(1e-5F, 1e-2F);
    }
    for (std::size_t i = 0; i < n; i++) bias[i] = random.normal();
  }

  IntegerMatmulArguments arguments(IntegerResult result, bool with_bias, std::int32_t zero_point, void* c) const {
    IntegerMatmulArguments p{};
    p.a = a.data.data();
    p.a_signed = a.is_signed;
    p.m = m;
    p.b = &packed;
    p.a_zeros = a_zeros.data();
    p.a_zero_per_row = m != 1 && a_zeros.size() == m;
    p.b_zeros = b_zeros.data();
    p.b_zero_per_column = n != 1 && b_zeros.size() == n;
    p.result = result;
    p.scales = scales.data();
    p.scale_per_column = n != 1 && scales.size() == n;
    p.bias = with_bias ? bias.data() : nullptr;
    p.zero_point = zero_point;
    p.c = c;
    return p;
  }
  // Modulo 2^32.
  std::int32_t exact(std::size_t i, std::size_t j) const {
    std::int64_t sum = 0;
    const std::int64_t a_zero = a_zeros[a_zeros.size() == m ? i : 0], b_zero = b_zeros[b_zeros.size() == n ? j : 0];
    for (std::size_t x = 0; x < k; x++) sum += (a.at(i * k + x) - a_zero) * (b.at(x * n + j) - b_zero);
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(sum));
  }
};

void check_integers(const IntegerProblem& p, IntegerResult result, bool with_bias, std::int32_t zero_point,
                    const std::string& what) {
  const std::size_t count = p.m * p.n;
  const bool wide = result == IntegerResult::kInt32 || result == IntegerResult::kFloats;
  Buffer<std::uint8_t> c(wide ? 4 * count : count);
  CHECK(matmul_integer(p.arguments(result, with_bias, zero_point, c.data())).status == Status::kOk, "%s", what.c_str());
  for (std::size_t i = 0; i < count; i++) {
    const std::size_t column = i % p.n;
    const std::int32_t sum = p.exact(i / p.n, column);
    const float scaled = static_cast<float>(sum) * p.scales[p.scales.size() == p.n ? column : 0];
    if (result == IntegerResult::kInt32) {
      CHECK(std::memcmp(&c[4 * i], &sum, 4) == 0, "%s: [%zu, %zu] is not %d", what.c_str(), i / p.n, column, sum);
    } else if (result == IntegerResult::kFloats) {
      const float expected = with_bias ? scaled + p.bias[column] : scaled;
      CHECK(std::memcmp(&c[4 * i], &expected, 4) == 0, "%s: [%zu, %zu] is not %g", what.c_str(), i / p.n, column,
            static_cast<double>(expected));
    } else {
      const bool is_signed = result == IntegerResult::kInt8;
      const double expected = std::clamp(std::nearbyint(static_cast<double>(scaled)) + zero_point,
                                         is_signed ? -128.0 : 0.0, is_signed ? 127.0 : 255.0);
      const int found = is_signed ? static_cast<std::int8_t>(c[i]) : c[i];
      CHECK(found == static_cast<int>(expected), "%s: [%zu, %zu] is %d, expected %g", what.c_str(), i / p.n, column,
            found, expected);
    }
  }
}

TEST("matmul integer tensor: every sign, zero point, result and ragged shape is exact") {
  Random random(60);
  for (unsigned mode = 0; mode < 32; mode++) {
    for (std::size_t i = 0; i < (quick() ? 2 : 12); i++) {
      const std::size_t m = 1 + random.below(40), n = 1 + random.below(70), k = 1 + random.below(i % 4 == 3 ? 700 : 70);
      const IntegerProblem problem(m, n, k, mode, i % 2 == 1, random);
      for (const IntegerResult result : kResults) {
        const std::int32_t zero_point =
            static_cast<std::int32_t>(random.below(256)) - (result == IntegerResult::kInt8 ? 128 : 0);
        const bool with_bias = result == IntegerResult::kFloats && random.below(2) == 0;
        check_integers(
            problem, result, with_bias, zero_point,
            format("mode %u, [%zu, %zu] · [%zu, %zu], result %d", mode, m, k, k, n, static_cast<int>(result)));
      }
      if (failed()) return;
    }
  }
}

TEST("matmul integer tensor: sums past 2^31 wrap, and there may be nothing to add up") {
  Random random(61);
  for (unsigned mode = 0; mode < 16; mode++) {
    IntegerProblem problem(2, 3, 70000, mode, true, random);
    std::fill_n(problem.a.data.data(), problem.a.data.size(),
                problem.a.is_signed ? std::uint8_t{0x80} : std::uint8_t{255});
    std::fill_n(problem.b.data.data(), problem.b.data.size(),
                problem.b.is_signed ? std::uint8_t{0x80} : std::uint8_t{255});
    for (Buffer<std::int32_t>* zeros : {&problem.a_zeros, &problem.b_zeros}) {
      const bool is_signed = zeros == &problem.a_zeros ? problem.a.is_signed : problem.b.is_signed;
      for (std::size_t i = 0; i < zeros->size(); i++) (*zeros)[i] = is_signed ? 127 : 0;
    }
    problem.packed = pack_integers(problem.b.data.data(), problem.b.is_signed, problem.k, problem.n);
    check_integers(problem, IntegerResult::kInt32, false, 0, format("wraps, mode %u", mode));
    for (const IntegerResult result : kResults) {
      check_integers(IntegerProblem(3, 20, 0, mode, false, random), result, true, 5, "nothing to add up");
      check_integers(IntegerProblem(0, 20, 30, mode, false, random), result, true, 5, "no rows");
      check_integers(IntegerProblem(3, 0, 30, mode, false, random), result, true, 5, "no columns");
    }
  }
}

TEST("matmul integer tensor: the same for any number of threads, and cancelled") {
  Random random(62);
  for (const auto& [m, n, k] :
       std::vector<std::array<std::size_t, 3>>{{70, 300, 300}, {1, 3000, 1000}, {600, 20, 500}}) {
    const IntegerProblem problem(m, n, k, 31, false, random);
    Buffer<std::int32_t> c(m * n), alone(m * n);
    for (const std::size_t threads : kThreadCounts) {
      ThreadPool::instance().set_thread_count(threads);
      const PackedWeight packed = pack_integers(problem.b.data.data(), problem.b.is_signed, k, n);
      CHECK(std::memcmp(packed.codes(), problem.packed.codes(), packed.layout.bytes()) == 0, "packed by %zu threads",
            threads);
      auto arguments = problem.arguments(IntegerResult::kInt32, false, 0, threads == 1 ? alone.data() : c.data());
      CHECK(matmul_integer(arguments).status == Status::kOk, "status");
      if (threads > 1) CHECK(first_difference(c, alone) == c.size(), "%zu threads", threads);
      const CancelFlag cancel{true};
      CHECK(matmul_integer(arguments, &cancel).status == Status::kCancelled, "cancelled");
      if (threads == 1) CHECK(matmul_integer(arguments).status == Status::kOk, "again");
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

// --- dynamic quantization --------------------------------------------------------------------------------------------

TEST("dynamic quantize tensor: the formula of ONNX, for any number of threads") {
  Random random(63);
  constexpr float kMost = std::numeric_limits<float>::max();
  for (std::size_t i = 0; i < (quick() ? 30 : 200); i++) {
    const std::size_t count = i < 3 ? i : i % 10 == 9 ? 100000 + random.below(50000) : 1 + random.below(500);
    const float low = i % 4 == 0 ? 0.0F : -random.uniform(), high = i % 4 == 1 ? -0.0F : random.uniform();
    const float magnitude = i % 7 == 6 ? kMost : std::ldexp(1.0F, static_cast<int>(random.below(200)) - 100);
    Buffer<float> x(count);
    for (std::size_t j = 0; j < count; j++) x[j] = random.between(low, high) * magnitude;
    if (i % 11 == 10) std::fill_n(x.data(), count, 0.0F);
    float least = 0.0F, greatest = 0.0F;
    for (std::size_t j = 0; j < count; j++) {
      least = std::min(least, x[j]);
      greatest = std::max(greatest, x[j]);
    }
    const bool zero = least == 0.0F && greatest == 0.0F;
    const double range = static_cast<double>(greatest) - static_cast<double>(least);
    for (const std::size_t threads : kThreadCounts) {
      ThreadPool::instance().set_thread_count(threads);
      Buffer<std::uint8_t> codes(count);
      float scale = NAN;
      std::uint8_t zero_point = 99;
      CHECK(dynamic_quantize(x.data(), count, codes.data(), scale, zero_point).status == Status::kOk, "status");
      CHECK(zero ? scale == 1.0F : std::fabs(static_cast<double>(scale) * 255.0 / range - 1.0) < 3e-7,
            "%zu elements: scale %g, range %g", count, static_cast<double>(scale), range);
      const auto expected_zero = static_cast<int>(std::clamp(std::nearbyint(-least / scale), 0.0F, 255.0F));
      CHECK(zero_point == expected_zero, "zero point %d, expected %d", zero_point, expected_zero);
      for (std::size_t j = 0; j < count; j++) {
        const float expected = std::clamp(std::nearbyint(x[j] / scale) + static_cast<float>(zero_point), 0.0F, 255.0F);
        CHECK(codes[j] == static_cast<int>(expected), "element %zu is %d, expected %g", j, codes[j],
              static_cast<double>(expected));
      }
    }
    if (failed()) break;
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("dynamic quantize tensor: the first NaN or infinity is named") {
  Random random(64);
  for (std::size_t i = 0; i < (quick() ? 12 : 60); i++) {
    Buffer<float> x(i % 2 == 0 ? 100 : 90000);
    Buffer<std::uint8_t> codes(x.size());
    for (std::size_t j = 0; j < x.size(); j++) x[j] = random.normal();
    const std::size_t bad = random.below(x.size());
    x[bad] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    x[bad + random.below(x.size() - bad)] = NAN;
    float scale;
    std::uint8_t zero_point;
    const Outcome outcome = dynamic_quantize(x.data(), x.size(), codes.data(), scale, zero_point);
    CHECK(outcome.status == Status::kNonFinite && outcome.index == static_cast<std::int64_t>(bad), "index %lld",
          static_cast<long long>(outcome.index));
  }
}

// --- Gram matrices ---------------------------------------------------------------------------------------------------

void check_gram(const Buffer<float>& x, std::size_t m, std::size_t k, const Buffer<float>& before,
                const Buffer<float>& out) {
  for (std::size_t i = 0; i < k; i++) {
    for (std::size_t j = 0; j <= i; j++) {
      double sum = static_cast<double>(before[j * k + i]), magnitude = std::fabs(sum);
      for (std::size_t r = 0; r < m; r++) {
        const double term = static_cast<double>(x[r * k + i]) * static_cast<double>(x[r * k + j]);
        sum += term;
        magnitude += std::fabs(term);
      }
      const double found = static_cast<double>(out[i * k + j]);
      CHECK(std::fabs(found - sum) <= static_cast<double>(m + 2) * 0x1p-24 * magnitude,
            "[%zu, %zu]: element [%zu, %zu] is %g, expected %g", m, k, i, j, found, sum);
      CHECK(std::memcmp(&out[i * k + j], &out[j * k + i], sizeof(float)) == 0, "[%zu, %zu]: not symmetric", m, k);
    }
  }
}

TEST("gram tensor: every ragged shape equals plain loops, in one call or in several") {
  Random random(65);
  for (std::size_t i = 0; i < (quick() ? 12 : 80); i++) {
    const std::size_t m = 1 + random.below(i % 4 == 3 ? 1200 : 40), k = 1 + random.below(i % 4 == 3 ? 40 : 130);
    Buffer<float> x(m * k), zeros(k * k), all(k * k), parts(k * k);
    for (std::size_t j = 0; j < x.size(); j++) x[j] = random.normal();
    for (std::size_t j = 0; j < zeros.size(); j++) {
      zeros[j] = 0.0F;
      all[j] = parts[j] = NAN;  // must be ignored
    }
    CHECK(gram(x.data(), m, k, true, all.data()).status == Status::kOk, "status");
    check_gram(x, m, k, zeros, all);
    const std::size_t split = random.below(m + 1);
    Buffer<float> top(split * k), bottom((m - split) * k);
    std::memcpy(top.data(), x.data(), top.bytes());
    std::memcpy(bottom.data(), x.data() + top.size(), bottom.bytes());
    gram(top.data(), split, k, true, parts.data());
    gram(bottom.data(), m - split, k, false, parts.data());
    CHECK(first_difference(parts, all) == all.size(), "[%zu, %zu], divided after %zu", m, k, split);
    Buffer<float> twice(k * k);
    std::memcpy(twice.data(), all.data(), all.bytes());
    gram(x.data(), m, k, false, twice.data());
    check_gram(x, m, k, all, twice);
    if (failed()) return;
  }
}

TEST("gram tensor: the same bits for any number of threads; errors, nothing and cancelled work") {
  Random random(66);
  const std::size_t m = 600, k = 150;
  Buffer<float> x(m * k), alone(k * k), out(k * k);
  for (std::size_t i = 0; i < x.size(); i++) x[i] = random.normal();
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    CHECK(gram(x.data(), m, k, true, threads == 1 ? alone.data() : out.data()).status == Status::kOk, "status");
    if (threads > 1) CHECK(first_difference(out, alone) == out.size(), "%zu threads", threads);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
  const CancelFlag cancel{true};
  CHECK(gram(x.data(), m, k, true, out.data(), &cancel).status == Status::kCancelled, "cancelled");
  CHECK(gram(x.data(), 0, k, true, out.data()).status == Status::kOk && out[k * k - 1] == 0.0F, "no rows");
  CHECK(gram(x.data(), m, 0, true, nullptr).status == Status::kOk, "no columns");
  x[70000] = INFINITY;
  x[80000] = NAN;
  const Outcome outcome = gram(x.data(), m, k, true, out.data());
  CHECK(outcome.status == Status::kNonFinite && outcome.index == 70000, "index %lld",
        static_cast<long long>(outcome.index));
}

}  // namespace
}  // namespace lowbit::test
