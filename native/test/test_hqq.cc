// HQQ: every instruction set against the scalar file.

#include <cmath>
#include <initializer_list>

#include "core/thread_pool.h"
#include "ops/hqq/hqq.h"
#include "ops/hqq/hqq_kernels.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

TEST("hqq: every instruction set equals the scalar file bit for bit") {
  Random random(1);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t count : std::initializer_list<std::size_t>{1, 2, 31, 64}) {
      for (const float highest : {3.0F, 7.0F, 15.0F, 255.0F}) {
        Buffer<float> x(count * 16), steps(16), zeros(16), steps2(16), zeros2(16);
        Buffer<double> errors(16), errors2(16);
        Buffer<std::uint8_t> codes(count * 16), codes2(count * 16);
        for (std::size_t i = 0; i < x.size(); i++) {
          const std::size_t lane = i % 16;  // some all alike, some all zero, some nearly so
          x[i] = lane == 2 ? 0.5F : lane == 4 ? 0.0F : random.normal() * (lane == 6 ? 1e-6F : 1.0F);
        }
        for (std::size_t i = 0; i < 16; i++) errors[i] = errors2[i] = 0.0;
        const HqqArguments a{count, x.data(), highest, count % 2 == 0, steps.data(), zeros.data()};
        const HqqArguments b{count, x.data(), highest, count % 2 == 0, steps2.data(), zeros2.data()};
        k->hqq->start(a);
        scalar::kHqq.start(b);
        CHECK(first_difference(steps, steps2) == 16 && first_difference(zeros, zeros2) == 16, "%s: start", k->name);
        for (const float power : {0.7F, 0.5F, 1.0F}) {
          k->hqq->step(a, power, 10.0F, errors.data());
          scalar::kHqq.step(b, power, 10.0F, errors2.data());
          CHECK(first_difference(zeros, zeros2) == 16, "%s, %zu, power %g: zeros", k->name, count,
                static_cast<double>(power));
          CHECK(first_difference(errors, errors2) == 16, "%s, %zu: errors", k->name, count);
        }
        k->hqq->codes(a, codes.data());
        scalar::kHqq.codes(b, codes2.data());
        CHECK(first_difference(codes, codes2) == codes.size(), "%s, %zu: codes", k->name, count);
      }
    }
  }
}

// One lane and one element: the zero is q − (x − s) · steps, so s can be read off, and the power from it.
TEST("hqq: powers are those of the library") {
  for (const float size : {1e-6F, 1e-3F, 0.01F, 0.3F, 0.7071F, 0.70711F, 0.999F, 1.5F, 30.0F}) {
    float x[16], steps[16], zeros[16];
    double errors[16] = {};
    for (std::size_t i = 0; i < 16; i++) {
      x[i] = 15.0F + size;  // clipped to 15
      steps[i] = 1.0F;
      zeros[i] = 0.0F;
    }
    const float error = x[0] - 15.0F;
    scalar::kHqq.step({1, x, 15.0F, false, steps, zeros}, 0.7F, 1e3F, errors);
    const double shrunk = std::max(static_cast<double>(error) - std::pow(static_cast<double>(error), -0.3) / 1e3, 0.0);
    const double expected = 15.0 - (static_cast<double>(x[0]) - shrunk);
    CHECK(std::fabs(static_cast<double>(zeros[0]) - expected) < 4e-6, "%g: %g, expected %g", static_cast<double>(size),
          static_cast<double>(zeros[0]), expected);
  }
}

TEST("hqq: the same bits for any number of threads") {
  Random random(3);
  const std::size_t rows = 53, columns = 150, groups = 3;
  std::vector<float> weight(rows * columns);
  for (float& w : weight) w = random.normal();
  std::vector<float> first_scales, first_zeros;
  std::vector<std::uint8_t> first_codes;
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    std::vector<float> scales(rows * groups), zeros(rows * groups);
    std::vector<std::uint8_t> codes(rows * columns / 2);
    const HqqRequest r{weight.data(), rows,         columns,     64,    {4, false},
                       0.7F,          10.0F,        20,          false, FloatType::kFloat32,
                       scales.data(), zeros.data(), codes.data()};
    CHECK(hqq(r).status == Status::kOk, "status");
    if (threads == 1) {
      first_scales = scales;
      first_zeros = zeros;
      first_codes = codes;
    }
    CHECK(scales == first_scales && zeros == first_zeros && codes == first_codes, "%zu threads", threads);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

}  // namespace
}  // namespace lowbit::test
