#pragma once

// Fake quantization of one element: the definition that every instruction set must equal.
// Everything has internal linkage, because this header is compiled once per instruction set.

#include "ops/fake_quantize/fake_quantize_kernels.h"

namespace lowbit {
namespace {

// Rounds |x| ≤ 2^22 to an integer: in x + 1.5·2^23 the last bit of a float32 is worth one.
LOWBIT_HOST_DEVICE inline float round_half_even(float x) { return (x + 0x1.8p23F) - 0x1.8p23F; }

LOWBIT_HOST_DEVICE inline float round_half_away(float x) {
  const float whole = static_cast<float>(static_cast<std::int32_t>(x)), rest = x - whole;
  return rest >= 0.5F ? whole + 1.0F : rest <= -0.5F ? whole - 1.0F : whole;
}

struct Step {
  float steps;  // clamped, without the shift
  bool inside;
};

LOWBIT_HOST_DEVICE inline Step step_of(float position, float low, float high, float shift, Rounding rounding) {
  position = position > low - 1.0F ? position : low - 1.0F;
  position = position < high + 1.0F ? position : high + 1.0F;
  const float rounded = rounding == Rounding::kHalfEven ? round_half_even(position) : round_half_away(position);
  const float clamped = rounded < low ? low : rounded > high ? high : rounded;
  return {clamped - shift, rounded >= low && rounded <= high};
}

struct Rounded {
  float value;
  bool inside;
};

template <SmallFloatType Type>
LOWBIT_HOST_DEVICE inline Rounded round_float(float x) {
  constexpr SmallFloat kFormat = small_float(Type);
  const std::uint32_t magnitude = bits_of(x) & 0x7fffffffU;
  const std::uint32_t code = magnitude >= kInfinity32 ? kFormat.largest() + 1 : rounded_magnitude(kFormat, magnitude);
  const bool inside = code <= kFormat.largest();
  const float value = float_of_small<Type>(static_cast<std::uint8_t>(inside ? code : kFormat.largest()));
  return {float_of(bits_of(value) | (bits_of(x) & 0x80000000U)), inside};
}

LOWBIT_HOST_DEVICE inline Rounded round_int8(float x) {
  const std::uint32_t sign = bits_of(x) & 0x80000000U;
  const float magnitude = float_of(bits_of(x) ^ sign);
  const float code = magnitude < 2.0F ? round_half_even(magnitude * 64.0F) : 128.0F;
  const bool inside = code <= 127.0F;
  return {float_of(bits_of((inside ? code : 127.0F) / 64.0F) | sign), inside};
}

LOWBIT_HOST_DEVICE inline Rounded round_element(float x, ElementType type) {
  switch (type) {
    case ElementType::kFloat8E4m3fn:
      return round_float<SmallFloatType::kFloat8E4m3fn>(x);
    case ElementType::kFloat8E5m2:
      return round_float<SmallFloatType::kFloat8E5m2>(x);
    case ElementType::kFloat6E2m3fn:
      return round_float<SmallFloatType::kFloat6E2m3fn>(x);
    case ElementType::kFloat6E3m2fn:
      return round_float<SmallFloatType::kFloat6E3m2fn>(x);
    case ElementType::kFloat4E2m1fn:
      return round_float<SmallFloatType::kFloat4E2m1fn>(x);
    default:
      return round_int8(x);
  }
}

}  // namespace
}  // namespace lowbit
