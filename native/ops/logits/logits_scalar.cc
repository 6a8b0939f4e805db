// Sums over rows of logits, the specification.

#include <cmath>
#include <cstring>

#include "ops/logits/logits_kernels.h"

namespace lowbit::scalar {
namespace {

constexpr std::size_t kSumLanes = 8;

double exponential_of(double value) {
  using namespace exponential;
  const double x = kLowest > value ? kLowest : value;
  const double shifted = std::fma(x, kLog2E, kShift);
  const double n = shifted - kShift;
  const double r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, x));
  double sum = kCoefficients[0];
  for (std::size_t i = 1; i < sizeof kCoefficients / sizeof *kCoefficients; i++)
    sum = std::fma(sum, r, kCoefficients[i]);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023) << 52;  // 2ⁿ
  double power = 0.0;
  std::memcpy(&power, &bits, sizeof power);
  return sum * power;
}

LogitTop top(const float* row, std::size_t count) {
  LogitTop result{row[0], 0, -1};
  for (std::size_t i = 0; i < count; i++) {
    if (!std::isfinite(row[i])) return {0.0F, -1, static_cast<std::int64_t>(i)};
    if (row[i] > result.largest) result = {row[i], static_cast<std::int64_t>(i), -1};
  }
  return result;
}

double total(double (&lanes)[kSumLanes]) {
  for (std::size_t half = kSumLanes / 2; half >= 1; half /= 2) {
    for (std::size_t i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

double sum_exponentials(const float* row, float largest, std::size_t count) {
  double sums[kSumLanes] = {};
  for (std::size_t i = 0; i < count; i++) {
    sums[i % kSumLanes] += exponential_of(static_cast<double>(row[i]) - static_cast<double>(largest));
  }
  return total(sums);
}

LogitSums compare(const float* reference, float reference_largest, const float* other, float other_largest,
                  std::size_t count) {
  double references[kSumLanes] = {}, others[kSumLanes] = {}, weighted[kSumLanes] = {};
  double largest = 0.0;
  for (std::size_t i = 0; i < count; i++) {
    const double r = static_cast<double>(reference[i]), o = static_cast<double>(other[i]), difference = r - o;
    const double magnitude = difference < 0.0 ? -difference : difference;
    const double e = exponential_of(r - static_cast<double>(reference_largest));
    const std::size_t lane = i % kSumLanes;
    references[lane] += e;
    others[lane] += exponential_of(o - static_cast<double>(other_largest));
    weighted[lane] = std::fma(e, difference, weighted[lane]);
    largest = magnitude > largest ? magnitude : largest;
  }
  return {total(references), total(others), total(weighted), largest};
}

}  // namespace

const LogitsKernels kLogits = {top, sum_exponentials, compare};

}  // namespace lowbit::scalar
