#pragma once

// Affine quantization of one element and one group: the definition that every instruction set must equal.
// Everything has internal linkage, because this header is compiled once per instruction set.

#include "core/dtype.h"
#include "core/float_bits.h"

namespace lowbit {
namespace {

// Rounds |x| ≤ 2^22 to an integer, half to even: in x + 1.5·2^23 the last bit of a float32 is worth one.
LOWBIT_HOST_DEVICE inline float round_half_even(float x) { return (x + 0x1.8p23F) - 0x1.8p23F; }

LOWBIT_HOST_DEVICE inline float round_to(FloatType type, float x) {
  switch (type) {
    case FloatType::kFloat16:
      return float_of_float16(float16_of(x));
    case FloatType::kBfloat16:
      return float_of_bfloat16(bfloat16_of(x));
    default:
      return x;
  }
}

// The smallest positive value: a scale that would underflow to zero becomes this.
LOWBIT_HOST_DEVICE inline float smallest_of(FloatType type) {
  switch (type) {
    case FloatType::kFloat16:
      return 0x1p-24F;
    case FloatType::kBfloat16:
      return 0x1p-133F;
    default:
      return 0x1p-149F;
  }
}

// `range` over `levels` steps, in the type in which scales are kept. A group of zeros has scale 1.
// Infinite if the scale overflows the type.
LOWBIT_HOST_DEVICE inline float scale_of(float range, float levels, FloatType scale_type) {
  if (range == 0.0F) return 1.0F;
  const float scale = round_to(scale_type, range / levels);
  const float smallest = smallest_of(scale_type);
  return scale > smallest ? scale : smallest;
}

LOWBIT_HOST_DEVICE inline float symmetric_scale(float absmax, int steps, FloatType scale_type) {
  return scale_of(absmax, static_cast<float>(steps), scale_type);
}

LOWBIT_HOST_DEVICE inline float asymmetric_scale(float min, float max, int lowest, int highest, FloatType scale_type) {
  const float levels = static_cast<float>(highest - lowest);
  const float range = max - min;
  if (is_finite(range)) return scale_of(range, levels, scale_type);
  // max − min is past the largest float32, but the scale is not.
  const double exact = (static_cast<double>(max) - static_cast<double>(min)) / static_cast<double>(levels);
  return round_to(scale_type, static_cast<float>(exact));
}

// The code that stands for zero: round(lowest − min / scale), clamped.
LOWBIT_HOST_DEVICE inline int zero_point_of(float min, float scale, int lowest, int highest) {
  const float low = static_cast<float>(lowest), high = static_cast<float>(highest);
  float position = low - min / scale;
  position = position > low ? position : low;
  position = position < high ? position : high;
  return static_cast<int>(round_half_even(position));
}

// round(x / scale) + zero point, clamped to [lowest, highest]; NaN becomes lowest.
LOWBIT_HOST_DEVICE inline int quantize_one(float x, float scale, int zero_point, int lowest, int highest) {
  const float low = static_cast<float>(lowest - zero_point), high = static_cast<float>(highest - zero_point);
  float steps = x / scale;
  steps = steps > low ? steps : low;
  steps = steps < high ? steps : high;
  return static_cast<int>(round_half_even(steps)) + zero_point;
}

LOWBIT_HOST_DEVICE inline float dequantize_one(int code, float scale, int zero_point) {
  return static_cast<float>(code - zero_point) * scale;
}

}  // namespace
}  // namespace lowbit
