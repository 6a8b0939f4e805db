// Fake quantization, the specification: one element after the other. Values of element formats go through the codes of
// core/small_floats.h.

#include <cmath>

#include "ops/fake_quantize/fake_quantize_math.h"

namespace lowbit::scalar {
namespace {

constexpr std::size_t kSumLanes = 8;

Step step_of(float position, const QuantizerSteps& q, std::size_t p, Rounding rounding) {
  return lowbit::step_of(position, q.low[p], q.high[p], q.shift[p], rounding);
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
