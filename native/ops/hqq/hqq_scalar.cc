// The search of HQQ, lane by lane: the specification.

#include <cmath>

#include "core/float_bits.h"
#include "ops/affine/affine_math.h"
#include "ops/hqq/hqq_kernels.h"
#include "ops/hqq/hqq_math.h"

namespace lowbit::scalar {
namespace {

// x^exponent, x ≥ 0; zero counts as about 2^−127.
float power_of(float x, float exponent) {
  const std::int32_t bits = static_cast<std::int32_t>(bits_of(x));
  const std::int32_t whole = (bits - kSqrtHalfBits) >> 23;
  const float m = float_of(static_cast<std::uint32_t>(bits) - (static_cast<std::uint32_t>(whole) << 23));
  const float s = (m - 1.0F) / (m + 1.0F), square = s * s;
  float series = kLog2[4];
  for (int i = 3; i >= 0; i--) series = std::fmaf(series, square, kLog2[i]);
  const float t = exponent * (static_cast<float>(whole) + s * series);
  const float nearest = std::nearbyintf(t), f = t - nearest;
  float power = kExp2[7];
  for (int i = 6; i >= 0; i--) power = std::fmaf(power, f, kExp2[i]);
  return float_of(bits_of(power) + (static_cast<std::uint32_t>(static_cast<std::int32_t>(nearest)) << 23));
}

float code_of(float x, float steps, float zero, float highest) {
  float q = x * steps + zero;
  q = q > 0.0F ? q : 0.0F;
  q = q < highest ? q : highest;
  return round_half_even(q);
}

void start(const HqqArguments& a) {
  for (std::size_t lane = 0; lane < kHqqLanes; lane++) {
    float min = a.x[lane], max = min;
    for (std::size_t i = 1; i < a.count; i++) {
      const float x = a.x[i * kHqqLanes + lane];
      min = x < min ? x : min;
      max = x > max ? x : max;
    }
    if (a.widen) {
      min = min < 0.0F ? min : 0.0F;
      max = max > 0.0F ? max : 0.0F;
    }
    const float width = max - min;
    float steps = a.highest * (1.0F / width);
    steps = 1e-4F < width ? steps : 1.0F;
    steps = steps < 2e4F ? steps : 2e4F;
    a.steps[lane] = steps;
    a.zeros[lane] = (0.0F - min) * steps;
  }
}

void step(const HqqArguments& a, float power, float beta, double* errors) {
  for (std::size_t lane = 0; lane < kHqqLanes; lane++) {
    const float steps = a.steps[lane], zero = a.zeros[lane];
    double sum = 0.0;
    for (std::size_t i = 0; i < a.count; i++) {
      const float x = a.x[i * kHqqLanes + lane];
      const float q = code_of(x, steps, zero, a.highest);
      const float error = x - (q - zero) / steps;
      const float size = float_of(bits_of(error) & 0x7fffffffU);
      errors[lane] += static_cast<double>(size);
      float shrunk = size - power_of(size, power - 1.0F) / beta;
      shrunk = shrunk > 0.0F ? shrunk : 0.0F;
      shrunk = error < 0.0F ? 0.0F - shrunk : shrunk;
      sum += static_cast<double>(q - (x - shrunk) * steps);
    }
    a.zeros[lane] = static_cast<float>(sum / static_cast<double>(a.count));
  }
}

void codes(const HqqArguments& a, std::uint8_t* out) {
  for (std::size_t i = 0; i < a.count; i++) {
    for (std::size_t lane = 0; lane < kHqqLanes; lane++) {
      const float q = code_of(a.x[i * kHqqLanes + lane], a.steps[lane], a.zeros[lane], a.highest);
      out[i * kHqqLanes + lane] = static_cast<std::uint8_t>(q);
    }
  }
}

}  // namespace

const HqqKernels kHqq = {start, step, codes};

}  // namespace lowbit::scalar
