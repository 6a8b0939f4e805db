// Fake quantization, the specification: one element after the other. Values of element formats go through the codes of
// core/small_floats.h.

#include <cmath>

#include "ops/fake_quantize/fake_quantize_kernels.h"

namespace lowbit::scalar {
namespace {

constexpr std::size_t kSumLanes = 8;

// Rounds |x| ≤ 2^22 to an integer: in x + 1.5·2^23 the last bit of a float32 is worth one.
float round_half_even(float x) { return (x + 0x1.8p23F) - 0x1.8p23F; }

float round_half_away(float x) {
  const float whole = static_cast<float>(static_cast<std::int32_t>(x)), rest = x - whole;
  return rest >= 0.5F ? whole + 1.0F : rest <= -0.5F ? whole - 1.0F : whole;
}

struct Step {
  float steps;  // clamped, without the shift
  bool inside;
};

Step step_of(float position, const QuantizerSteps& q, std::size_t p, Rounding rounding) {
  const float low = q.low[p], high = q.high[p];
  position = position > low - 1.0F ? position : low - 1.0F;
  position = position < high + 1.0F ? position : high + 1.0F;
  const float rounded = rounding == Rounding::kHalfEven ? round_half_even(position) : round_half_away(position);
  const float clamped = rounded < low ? low : rounded > high ? high : rounded;
  return {clamped - q.shift[p], rounded >= low && rounded <= high};
}

void integers(const float* x, std::size_t count, const QuantizerSteps& steps, Rounding rounding, bool /*stream*/,
              float* out, std::uint8_t* mask) {
  for (std::size_t i = 0; i < count; i++) {
    const std::size_t p = steps.each ? i : 0;
    const Step step = step_of(x[i] * steps.inverse[p] + steps.shift[p], steps, p, rounding);
    out[i] = step.steps * steps.scale[p];
    mask[i] = step.inside ? 1 : 0;
  }
}

void straight_through(const float* dy, const std::uint8_t* mask, std::size_t count, bool /*stream*/, float* dx) {
  for (std::size_t i = 0; i < count; i++) dx[i] = dy[i] * (mask[i] != 0 ? 1.0F : 0.0F);
}

double pairwise_sum(double* lanes) {
  for (std::size_t half = kSumLanes / 2; half >= 1; half /= 2) {
    for (std::size_t i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

void gradients(const float* dy, const float* x, std::size_t count, const QuantizerSteps& steps, bool /*stream*/,
               float* dx, double* scale_sums, double* zero_point_sums) {
  double scale_lanes[kSumLanes] = {}, zero_point_lanes[kSumLanes] = {};
  for (std::size_t i = 0; i < count; i++) {
    const std::size_t p = steps.each ? i : 0;
    const Step step = step_of(std::fma(x[i], steps.inverse[p], steps.shift[p]), steps, p, Rounding::kHalfEven);
    dx[i] = dy[i] * (step.inside ? 1.0F : 0.0F);
    const float slope = step.inside ? std::fma(step.steps, steps.scale[p], -x[i]) * steps.inverse[p] : step.steps;
    (steps.each ? scale_sums[i] : scale_lanes[i % kSumLanes]) +=
        static_cast<double>(dy[i]) * static_cast<double>(slope);
    (steps.each ? zero_point_sums[i] : zero_point_lanes[i % kSumLanes]) +=
        step.inside ? 0.0 : static_cast<double>(dy[i]);
  }
  if (steps.each) return;
  *scale_sums += pairwise_sum(scale_lanes);
  *zero_point_sums += pairwise_sum(zero_point_lanes);
}

struct Rounded {
  float value;
  bool inside;
};

template <SmallFloatType Type>
Rounded round_float(float x) {
  constexpr SmallFloat kFormat = small_float(Type);
  const std::uint32_t magnitude = bits_of(x) & 0x7fffffffU;
  const std::uint32_t code = magnitude >= kInfinity32 ? kFormat.largest() + 1 : rounded_magnitude(kFormat, magnitude);
  const bool inside = code <= kFormat.largest();
  const float value = float_of_small<Type>(static_cast<std::uint8_t>(inside ? code : kFormat.largest()));
  return {float_of(bits_of(value) | (bits_of(x) & 0x80000000U)), inside};
}

Rounded round_int8(float x) {
  const std::uint32_t sign = bits_of(x) & 0x80000000U;
  const float magnitude = float_of(bits_of(x) ^ sign);
  const float code = magnitude < 2.0F ? round_half_even(magnitude * 64.0F) : 128.0F;
  const bool inside = code <= 127.0F;
  return {float_of(bits_of((inside ? code : 127.0F) / 64.0F) | sign), inside};
}

Rounded round_element(float x, ElementType type) {
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

void scaled(const float* x, std::size_t count, ElementType type, const float* scales, bool each, bool /*stream*/,
            float* out, std::uint8_t* mask) {
  for (std::size_t i = 0; i < count; i++) {
    const float scale = scales[each ? i : 0];
    const Rounded rounded = round_element(x[i] / scale, type);
    const bool is_nan = (bits_of(x[i]) & 0x7fffffffU) > kInfinity32;
    out[i] = is_nan ? x[i] : rounded.value * scale;
    mask[i] = rounded.inside ? 1 : 0;
  }
}

void blocks(const float* x, std::size_t count, std::size_t length, ElementType type, const BlockScale& scale,
            bool /*stream*/, float* out, std::uint8_t* mask) {
  const ElementFormat format = element_format(type);
  for (std::size_t begin = 0; begin < count; begin += length) {
    const std::size_t end = length < count - begin ? begin + length : count;
    std::uint32_t largest = 0;
    for (std::size_t i = begin; i < end; i++) {
      const std::uint32_t magnitude = bits_of(x[i]) & 0x7fffffffU;
      largest = magnitude > largest ? magnitude : largest;
    }
    const bool finite = largest < kInfinity32;
    const float block = finite ? block_scale(scale, format, float_of(largest)) : 1.0F;
    for (std::size_t i = begin; i < end; i++) {
      const Rounded rounded = round_element(x[i] / block, type);
      out[i] = finite ? rounded.value * block : float_of(kNan32);
      mask[i] = finite && rounded.inside ? 1 : 0;
    }
  }
}

}  // namespace

const FakeQuantizeKernels kFakeQuantize = {integers, straight_through, gradients, scaled, blocks};

}  // namespace lowbit::scalar
