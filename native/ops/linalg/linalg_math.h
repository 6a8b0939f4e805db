#pragma once

// The range of one group and the code of one weight: the definition that every instruction set and device must equal.
// Everything has internal linkage, because this header is compiled more than once.

#include <cmath>

#include "ops/affine/affine_math.h"
#include "ops/linalg/linalg_kernels.h"

namespace lowbit {
namespace {

constexpr std::int32_t kOneBits = 0x3f800000;

struct Parameters {
  float scale, zero;
};

LOWBIT_HOST_DEVICE inline float kept(float scale, FloatType type) {
  const float stored = round_to(type, scale), smallest = smallest_of(type);
  return stored > smallest ? stored : smallest;
}

LOWBIT_HOST_DEVICE inline Parameters parameters_of(const RangeArguments& a, float min, float max) {
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
LOWBIT_HOST_DEVICE inline float steps_of(float x, float scale, float low, float high) {
  float steps = x / scale;
  steps = steps > low ? steps : low;
  steps = steps < high ? steps : high;
  return round_half_even(steps);
}

// |e|^2.4 = e² · y², y the fifth root of |e|: three steps of Newton from a guess, which divides the exponent by five.
LOWBIT_HOST_DEVICE inline float power_2_4(float e) {
  const float x = float_of(bits_of(e) & 0x7fffffffU);
  const float fifth = static_cast<float>(static_cast<std::int32_t>(bits_of(x)) - kOneBits) * 0.2F;
  float y = float_of(static_cast<std::uint32_t>(static_cast<std::int32_t>(std::nearbyintf(fifth)) + kOneBits));
  for (int i = 0; i < 3; i++) {
    const float square = y * y;
    y = 0.8F * y + (0.2F * x) / (square * square);
  }
  return (x * x) * (y * y);
}

}  // namespace
}  // namespace lowbit
