// GPTQ and its factorization on a device against gptq() and ReversedCholesky, bit for bit, from the inputs to the
// codes.

#include <cmath>
#include <initializer_list>

#include "ops/linalg/cholesky.h"
#include "ops/linalg/gptq.h"
#include "ops/linalg/gptq_cuda.h"
#include "ops/matmul/gram_cuda.h"
#include "ops/matmul/matmul.h"
#include "test/cuda/device.h"

namespace lowbit::test {
namespace {

// Rows whose neighbouring columns depend on each other; `dead` columns are zero.
Buffer<float> inputs_of(Random& random, std::size_t rows, std::size_t columns, bool dead) {
  Buffer<float> x(rows * columns);
  for (std::size_t r = 0; r < rows; r++) {
    float last = 0.0F;
    for (std::size_t i = 0; i < columns; i++) {
      last = 0.8F * last + random.normal();
      x[r * columns + i] = dead && i % 19 == 4 ? 0.0F : last * (i % 7 == 3 ? 5.0F : 1.0F);
    }
  }
  return x;
}

Buffer<float> gram_of(Random& random, std::size_t rows, std::size_t columns, bool dead = false) {
  const Buffer<float> x = inputs_of(random, rows, columns, dead);
  Buffer<float> sums(columns * columns);
  gram(x.data(), rows, columns, true, sums.data());
  return sums;
}

std::vector<std::int32_t> shuffled(std::size_t size) {
  std::vector<std::int32_t> order(size);
  for (std::size_t i = 0; i < size; i++) order[i] = static_cast<std::int32_t>((i * 7 + 3) % size);
  return order;
}

TEST("cuda gptq: the factorization has the bits of the processor's, and its factor gives the matrix back") {
  const Device device;
  if (!device) return;
  Random random(1);
  for (const std::size_t n : std::initializer_list<std::size_t>{0, 1, 2, 63, 64, 65, 150, 260}) {
    const Buffer<float> h = gram_of(random, 2 * n + 3, n, n == 150);
    const bool permuted = n % 7 != 0 && n > 7;
    const std::vector<std::int32_t> order = shuffled(n);
    const double damp = 0.5;
    ReversedCholesky cholesky;
    CHECK(cholesky.factorize(h.data(), n, permuted ? order.data() : nullptr, damp).status == Status::kOk, "size %zu",
          n);
    const DeviceBuffer<float> on_h(device, h), factor(device, n * n), diagonal(device, n);
    Outcome outcome;
    device.expect_ok(device.api->gptq->factorize(device.stream, on_h.data(), n, permuted ? order.data() : nullptr, damp,
                                                 factor.data(), diagonal.data(), &outcome),
                     "factorize");
    CHECK(outcome.status == Status::kOk, "size %zu: status %d", n, static_cast<int>(outcome.status));
    const Buffer<float> f = factor.host(), d = diagonal.host();
    for (std::size_t i = 0; i < n; i++) {
      CHECK(d[i] == cholesky.diagonal(i), "size %zu: diagonal %zu", n, i);
      for (std::size_t j = 0; j < n; j++) {
        const float expected = i < j ? cholesky.at(i, j) / cholesky.diagonal(j) : i == j ? 1.0F : 0.0F;
        CHECK(std::memcmp(&f[i * n + j], &expected, 4) == 0, "size %zu, %zu, %zu: %g, not %g", n, i, j,
              static_cast<double>(f[i * n + j]), static_cast<double>(expected));
      }
    }
    double worst = 0.0;
    for (std::size_t i = 0; i < n && n < 200; i++) {
      for (std::size_t j = 0; j < n; j++) {
        double sum = 0.0;
        for (std::size_t k = std::max(i, j); k < n; k++) {
          const double root = static_cast<double>(d[k]);
          sum += static_cast<double>(f[i * n + k]) * static_cast<double>(f[j * n + k]) * root * root;
        }
        const auto source = [&](std::size_t of) { return permuted ? static_cast<std::size_t>(order[of]) : of; };
        const std::size_t r = source(i), c = source(j);
        const auto at = [&](std::size_t row, std::size_t column) {
          const double value = static_cast<double>(h[row * n + column]);
          return row != column ? value : value == 0.0 ? 1.0 : value + damp;
        };
        worst = std::max(worst, std::fabs(sum - at(r, c)) / std::sqrt(at(r, r) * at(c, c)));
      }
    }
    CHECK(worst <= 6e-7 * std::sqrt(static_cast<double>(n)), "size %zu: %g", n, worst);
  }
}

TEST("cuda gptq: matrices that cannot be factorized are refused as by the processor") {
  const Device device;
  if (!device) return;
  Buffer<float> h(std::size_t{100} * 100);
  for (std::size_t i = 0; i < h.size(); i++) h[i] = 1.0F;
  const auto expect_same = [&](double damp, const char* what) {
    ReversedCholesky cholesky;
    const Outcome expected = cholesky.factorize(h.data(), 100, nullptr, damp);
    const DeviceBuffer<float> on_h(device, h), factor(device, h.size()), diagonal(device, 100);
    Outcome outcome;
    device.expect_ok(device.api->gptq->factorize(device.stream, on_h.data(), 100, nullptr, damp, factor.data(),
                                                 diagonal.data(), &outcome),
                     "factorize");
    CHECK(outcome.status == expected.status && outcome.index == expected.index, "%s: status %d at %ld, not %d at %ld",
          what, static_cast<int>(outcome.status), static_cast<long>(outcome.index), static_cast<int>(expected.status),
          static_cast<long>(expected.index));
    return expected.status;
  };
  CHECK(expect_same(0.0, "rank 1") == Status::kNotPositive, "rank 1");
  CHECK(expect_same(0.01, "damped") == Status::kOk, "damped");
  h[50 * 100 + 50] = -1.0F;
  CHECK(expect_same(0.01, "negative") == Status::kNotPositive, "negative");
  h[50] = NAN;
  CHECK(expect_same(0.01, "NaN") == Status::kNonFinite, "NaN");
}

struct Case {
  std::size_t rows, columns, group_size, block;
  CodeType code;
  unsigned choice;
};

// Everything that gptq() writes, or the same on the device.
struct Result {
  Buffer<float> scales;
  Buffer<std::int32_t> zeros;
  Buffer<std::uint8_t> codes;
  double loss, damp;
  Outcome outcome;
};

void expect_same(const Device& device, Random& random, const Case& c) {
  const bool has_gram = (c.choice & 1) == 0, ordered = (c.choice & 2) != 0, is_static = (c.choice & 4) != 0;
  const bool symmetric = (c.choice & 8) != 0, search = (c.choice & 16) != 0, dead = (c.choice & 32) != 0;
  const std::size_t groups = c.columns == 0 ? 1 : (c.columns + c.group_size - 1) / c.group_size;
  const Buffer<float> h = gram_of(random, c.columns + 9, c.columns, dead);
  Buffer<float> weight(c.rows * c.columns), given(c.columns);
  for (std::size_t i = 0; i < weight.size(); i++) weight[i] = random.normal();
  for (std::size_t i = 0; i < given.size(); i++) given[i] = random.uniform();
  const std::vector<std::int32_t> order = shuffled(c.columns);
  const bool permuted = ordered && c.columns % 7 != 0;
  std::vector<std::int32_t> group(c.columns);
  for (std::size_t j = 0; j < c.columns; j++) {
    const std::size_t from = permuted && is_static ? static_cast<std::size_t>(order[j]) : j;
    group[j] = static_cast<std::int32_t>(from / c.group_size);
  }
  std::vector<float> factors(search ? 40 : 1);
  for (std::size_t i = 0; i < factors.size(); i++) factors[i] = 1.0F - static_cast<float>(i) / 60.0F;
  GptqArguments a{};
  a.rows = c.rows;
  a.columns = c.columns;
  a.order = permuted ? order.data() : nullptr;
  a.groups = group.data();
  a.group_count = groups;
  a.static_ranges = is_static;
  a.passes = (c.choice & 64) != 0 ? 2 : 1;
  a.zero_dead = (c.choice & 128) == 0;
  a.ranges_with_dead = (c.choice & 1) == (c.choice >> 1 & 1);
  a.block = c.block;
  a.damp = 0.01;
  a.damp_step = 0.01;
  a.code = c.code;
  a.lowest = c.code.lowest();
  a.highest = c.code.highest();
  a.rule = (c.choice & 256) != 0 ? RangeRule::kGptq : RangeRule::kAffine;
  a.symmetric = symmetric;
  const int middle = (c.code.lowest() + c.code.highest() + 1) / 2;
  a.zero = static_cast<float>(middle);
  a.steps = static_cast<float>(c.code.highest() - c.code.lowest()) / 2.0F;
  a.scale_type = static_cast<FloatType>(c.choice % 3);
  a.factors = factors.data();
  a.factor_count = factors.size();
  a.importance = static_cast<Importance>(c.choice / 3 % 3);
  a.given_importance = given.data();
  a.power_2_4 = (c.choice & 512) != 0;
  a.codes_in_order = permuted && !is_static;

  const std::size_t parameters = c.rows * groups, bytes = c.rows * c.code.packed_bytes(c.columns);
  const auto room = [&] {
    return Result{
        Buffer<float>(parameters), Buffer<std::int32_t>(parameters), Buffer<std::uint8_t>(bytes), -1.0, -1.0, {}};
  };
  Result expected = room();
  a.weight = weight.data();
  a.gram = has_gram ? h.data() : nullptr;
  a.scales = expected.scales.data();
  a.zeros = expected.zeros.data();
  a.codes = expected.codes.data();
  a.loss = &expected.loss;
  a.damp_used = &expected.damp;
  expected.outcome = gptq(a);
  CHECK(expected.outcome.status == Status::kOk, "choice %u: status %d", c.choice,
        static_cast<int>(expected.outcome.status));

  Result got = room();
  const DeviceBuffer<float> on_weight(device, weight), on_h(device, h), scales(device, parameters);
  const DeviceBuffer<std::int32_t> zeros(device, parameters);
  const DeviceBuffer<std::uint8_t> codes(device, bytes);
  a.weight = on_weight.data();
  a.gram = has_gram ? on_h.data() : nullptr;
  a.scales = scales.data();
  a.zeros = (c.choice & 1024) != 0 ? nullptr : zeros.data();
  a.codes = codes.data();
  a.loss = &got.loss;
  a.damp_used = &got.damp;
  device.expect_ok(device.api->gptq->gptq(device.stream, a, &got.outcome), "gptq");
  CHECK(got.outcome.status == Status::kOk, "choice %u: status %d", c.choice, static_cast<int>(got.outcome.status));
  CHECK(got.damp == expected.damp || c.columns == 0, "choice %u: damp", c.choice);
  CHECK(got.loss == expected.loss, "[%zu, %zu], choice %u: loss %.17g, not %.17g", c.rows, c.columns, c.choice,
        got.loss, expected.loss);
  if (bytes == 0) return;
  CHECK(first_difference(scales.host(), expected.scales) == parameters, "[%zu, %zu], choice %u: scales", c.rows,
        c.columns, c.choice);
  if (a.zeros != nullptr) {
    CHECK(first_difference(zeros.host(), expected.zeros) == parameters, "[%zu, %zu], choice %u: zeros", c.rows,
          c.columns, c.choice);
  }
  const std::size_t i = first_difference(codes.host(), expected.codes);
  CHECK(i == bytes, "[%zu, %zu], choice %u: codes differ at byte %zu", c.rows, c.columns, c.choice, i);
}

TEST("cuda gptq: scales, zero points, codes, loss and damping have the bits of the processor's") {
  const Device device;
  if (!device) return;
  Random random(2);
  const CodeType codes[] = {{4, false}, {3, false}, {8, true}, {2, true}, {4, true}};
  unsigned choice = 0;
  const auto try_one = [&](std::size_t rows, std::size_t columns, std::size_t group_size, std::size_t block) {
    expect_same(device, random, {rows, columns, group_size, block, codes[choice % 5], choice});
    choice += 89;
  };
  try_one(1, 1, 1, 128);
  try_one(0, 5, 2, 128);
  try_one(3, 0, 1, 128);
  for (int round = 0; round < 8; round++) {
    try_one(5, 33, 16, 128);
    try_one(17, 70, 70, 32);
  }
  for (int round = 0; round < 2; round++) {
    try_one(35, 150, 32, 64);   // panels narrower than the device's
    try_one(18, 300, 48, 256);  // and wider; groups across blocks
  }
  try_one(129, 513, 171, 128);  // large tiles, of the factorization too
}

TEST("cuda gptq: damping grows until the matrix is positive definite; what is not finite is named") {
  const Device device;
  if (!device) return;
  Buffer<float> h(std::size_t{70} * 70), weight(std::size_t{4} * 70);
  for (std::size_t i = 0; i < h.size(); i++) h[i] = 1.0F;
  for (std::size_t i = 0; i < weight.size(); i++) weight[i] = static_cast<float>(i % 13) - 6.0F;
  h[30 * 70 + 30] = 0.9F;  // not enough for the correlation of the others
  std::vector<std::int32_t> groups(70, 0);
  const float factors[] = {1.0F};
  const auto run = [&](double step, bool on_device, Outcome* outcome, double* damp) {
    double loss = 0.0;
    Buffer<float> scales(4);
    Buffer<std::uint8_t> codes(std::size_t{4} * 70);
    const DeviceBuffer<float> on_h(device, h), on_weight(device, weight), on_scales(device, 4);
    const DeviceBuffer<std::uint8_t> on_codes(device, codes.size());
    GptqArguments a{};
    a.rows = 4;
    a.columns = 70;
    a.groups = groups.data();
    a.group_count = 1;
    a.block = 128;
    a.passes = 1;
    a.damp = 0.0;
    a.damp_step = step;
    a.code = {8, true};
    a.lowest = -127;
    a.highest = 127;
    a.symmetric = true;
    a.steps = 127.0F;
    a.factors = factors;
    a.factor_count = 1;
    a.loss = &loss;
    a.damp_used = damp;
    a.weight = on_device ? on_weight.data() : weight.data();
    a.gram = on_device ? on_h.data() : h.data();
    a.scales = on_device ? on_scales.data() : scales.data();
    a.codes = on_device ? on_codes.data() : codes.data();
    if (on_device) {
      device.expect_ok(device.api->gptq->gptq(device.stream, a, outcome), "gptq");
    } else {
      *outcome = gptq(a);
    }
  };
  const auto expect = [&](double step, Status status) {
    Outcome got, expected;
    double damp = -1.0, expected_damp = -1.0;
    run(step, false, &expected, &expected_damp);
    run(step, true, &got, &damp);
    CHECK(expected.status == status, "status %d", static_cast<int>(expected.status));
    CHECK(got.status == expected.status && got.index == expected.index &&
              (damp == expected_damp || status == Status::kNonFinite),
          "status %d at %ld, damp %g, not %d at %ld, %g", static_cast<int>(got.status), static_cast<long>(got.index),
          damp, static_cast<int>(expected.status), static_cast<long>(expected.index), expected_damp);
    if (status == Status::kOk) CHECK(damp > 0.0, "it had to grow");
  };
  expect(0.03, Status::kOk);
  expect(0.0, Status::kNotPositive);
  h[71] = INFINITY;
  expect(0.03, Status::kNonFinite);
  weight[200] = NAN;
  expect(0.03, Status::kNonFinite);
}

TEST("cuda gptq: from activations to codes without leaving the device") {
  const Device device;
  if (!device) return;
  Random random(4);
  const std::size_t rows = 20, columns = 96, tokens = 150;
  const Buffer<float> x = inputs_of(random, tokens, columns, false);
  Buffer<float> weight(rows * columns), h(columns * columns), expected_scales(rows * 3), pinned(1);
  Buffer<std::uint8_t> expected(rows * columns / 2);
  for (std::size_t i = 0; i < weight.size(); i++) weight[i] = random.normal();
  pinned[0] = 1.0F;
  std::vector<std::int32_t> groups(columns);
  for (std::size_t j = 0; j < columns; j++) groups[j] = static_cast<std::int32_t>(j / 32);
  gram(x.data(), tokens, columns, true, h.data());
  const DeviceBuffer<float> on_x(device, x), on_h(device, h.size()), on_weight(device, weight);
  const DeviceBuffer<float> scales(device, expected_scales.size());
  const DeviceBuffer<std::uint8_t> codes(device, expected.size());
  device.expect_ok(
      device.api->gram->gram(device.stream, on_x.data(), FloatType::kFloat32, tokens, columns, true, on_h.data()),
      "gram");
  double loss = 0.0, damp = 0.0, expected_loss = 0.0;
  GptqArguments a{};
  a.rows = rows;
  a.columns = columns;
  a.groups = groups.data();
  a.group_count = 3;
  a.block = 128;
  a.passes = 1;
  a.damp = 0.01;
  a.code = {4, true};
  a.lowest = -8;
  a.highest = 7;
  a.symmetric = true;
  a.steps = 7.5F;
  a.factors = pinned.data();
  a.factor_count = 1;
  a.damp_used = &damp;
  a.weight = weight.data();
  a.gram = h.data();
  a.scales = expected_scales.data();
  a.codes = expected.data();
  a.loss = &expected_loss;
  CHECK(gptq(a).status == Status::kOk, "gptq");
  a.weight = on_weight.data();
  a.gram = on_h.data();
  a.scales = scales.data();
  a.codes = codes.data();
  a.loss = &loss;
  Outcome outcome;
  device.expect_ok(device.api->gptq->gptq(device.stream, a, &outcome), "gptq");
  CHECK(outcome.status == Status::kOk && loss == expected_loss, "loss %g, not %g", loss, expected_loss);
  CHECK(first_difference(codes.host(), expected) == expected.size(), "codes");
  CHECK(first_difference(scales.host(), expected_scales) == expected_scales.size(), "scales");
}

}  // namespace
}  // namespace lowbit::test
