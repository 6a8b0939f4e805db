// Triangular solves, ranges of groups and the sweep of GPTQ: the specification, lane by lane.

#include <cmath>

#include "ops/affine/affine_math.h"
#include "ops/linalg/linalg_kernels.h"

namespace lowbit::scalar {
namespace {

void solve(const SolveArguments& a) {
  for (std::size_t lane = 0; lane < kLinalgLanes; lane++) {
    for (std::size_t i = 0; i < a.count; i++) {
      const float y = a.x[i * a.stride + lane] / a.factor[i * a.count + i];
      a.x[i * a.stride + lane] = y;
      for (std::size_t j = i + 1; j < a.count; j++) {
        float& x = a.x[j * a.stride + lane];
        x = std::fmaf(-y, a.factor[i * a.count + j], x);
      }
    }
  }
}

constexpr std::int32_t kOneBits = 0x3f800000;

struct Parameters {
  float scale, zero;
};

float kept(float scale, FloatType type) {
  const float stored = round_to(type, scale), smallest = smallest_of(type);
  return stored > smallest ? stored : smallest;
}

Parameters parameters_of(const RangeArguments& a, float min, float max) {
  const float lowest = static_cast<float>(a.lowest), highest = static_cast<float>(a.highest);
  if (a.rule == RangeRule::kGptq) {
    if (a.symmetric) {
      const float largest = 0.0F - min > max ? 0.0F - min : max;
      min = min < 0.0F ? 0.0F - largest : 0.0F;
      max = largest;
    }
    if (min == 0.0F && max == 0.0F) {
      min = -1.0F;
      max = 1.0F;
    }
  } else if (a.symmetric) {
    const float largest = 0.0F - min > max ? 0.0F - min : max;
    return {largest == 0.0F ? 1.0F : kept(largest / a.steps, a.scale_type), a.zero};
  }
  const float range = max - min;
  const float scale = range == 0.0F ? 1.0F : kept(range / (highest - lowest), a.scale_type);
  if (a.symmetric) return {scale, a.zero};
  float zero = lowest - min / scale;
  zero = zero > lowest ? zero : lowest;
  zero = zero < highest ? zero : highest;
  return {scale, round_half_even(zero)};
}

// The whole number of steps from zero, clamped.
float steps_of(float x, float scale, float low, float high) {
  float steps = x / scale;
  steps = steps > low ? steps : low;
  steps = steps < high ? steps : high;
  return round_half_even(steps);
}

// |e|^2.4 = e² · y², y the fifth root of |e|: three steps of Newton from a guess, which divides the exponent by five.
float power_2_4(float e) {
  const float x = float_of(bits_of(e) & 0x7fffffffU);
  const float fifth = static_cast<float>(static_cast<std::int32_t>(bits_of(x)) - kOneBits) * 0.2F;
  float y = float_of(static_cast<std::uint32_t>(static_cast<std::int32_t>(std::nearbyintf(fifth)) + kOneBits));
  for (int i = 0; i < 3; i++) {
    const float square = y * y;
    y = 0.8F * y + (0.2F * x) / (square * square);
  }
  return (x * x) * (y * y);
}

void range(const RangeArguments& a) {
  const float lowest = static_cast<float>(a.lowest), highest = static_cast<float>(a.highest);
  for (std::size_t lane = 0; lane < kLinalgLanes; lane++) {
    float min = 0.0F, max = 0.0F;
    for (std::size_t i = 0; i < a.count; i++) {
      const float x = a.x[i * a.stride + lane];
      min = x < min ? x : min;
      max = x > max ? x : max;
    }
    Parameters best = parameters_of(a, min * a.factors[0], max * a.factors[0]);
    float least = INFINITY;
    for (std::size_t f = 0; f < a.factor_count && a.factor_count > 1; f++) {
      const Parameters p = parameters_of(a, min * a.factors[f], max * a.factors[f]);
      float cost = 0.0F;
      for (std::size_t i = 0; i < a.count; i++) {
        const float x = a.x[i * a.stride + lane];
        const float error = p.scale * steps_of(x, p.scale, lowest - p.zero, highest - p.zero) - x;
        const float power = a.power_2_4 ? power_2_4(error) : error * error;
        cost = a.importance != nullptr ? std::fmaf(power, a.importance[i], cost) : cost + power;
      }
      if (cost < least) {
        least = cost;
        best = p;
      }
    }
    a.scales[lane] = best.scale;
    a.zeros[lane] = best.zero;
  }
}

void sweep(const SweepArguments& a) {
  const float lowest = static_cast<float>(a.lowest), highest = static_cast<float>(a.highest);
  for (std::size_t lane = 0; lane < kLinalgLanes; lane++) {
    for (std::size_t i = 0; i < a.count; i++) {
      const std::size_t group = static_cast<std::size_t>(a.groups[i]) * kLinalgLanes + lane;
      const float scale = a.scales[group], zero = a.zeros[group];
      const float w = a.w[i * a.stride + lane];
      const float steps = steps_of(w, scale, lowest - zero, highest - zero);
      const float value = steps * scale;
      const float error = a.original[i * a.stride + lane] - value;
      const float left = w - value;
      a.loss[lane] += static_cast<double>(a.importance[i]) * static_cast<double>(left * left);
      a.errors[i * kLinalgLanes + lane] = error;
      a.codes[i * kLinalgLanes + lane] = static_cast<std::uint8_t>(steps + zero - lowest);
      if (a.factor == nullptr) continue;
      for (std::size_t j = i + 1; j < a.count; j++) {
        float& later = a.w[j * a.stride + lane];
        later = std::fmaf(error, a.factor[i * a.factor_stride + j], later);
      }
    }
  }
}

}  // namespace

const LinalgKernels kLinalg = {solve, range, sweep};

}  // namespace lowbit::scalar
