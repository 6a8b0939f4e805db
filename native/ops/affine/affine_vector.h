// Affine quantization, sixteen lanes at a time. Included by one file per instruction set, after its vector vocabulary
// (core/simd/<isa>.h), which names the namespace. Its steps have files of their own; this one adds what a choice of
// range would cost, and the table.

#include "ops/affine/affine_vector_dequantize.h"
#include "ops/affine/affine_vector_quantize.h"
#include "ops/affine/affine_vector_range.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// The steps of x / scale, rounded and clamped to [low, high], as floats.
template <typename Quotient>
double squared_error_of(const float* x, std::size_t count, float scale, float low_steps, float high_steps,
                        const Quotient& quotient) {
  const F32x16 scales = broadcast(scale), low = broadcast(low_steps), high = broadcast(high_steps);
  double total = 0.0;
  for (std::size_t begin = 0; begin < count;) {
    const std::size_t end = group_end(begin, kErrorBlock, count);
    F32x16 sum = broadcast(0.0F);
    const auto take = [&](F32x16 v) {
      const I32x16 steps = round_to_int(min(max(quotient(v), low), high));
      const F32x16 error = sub(v, mul(to_float(steps), scales));
      sum = add(sum, mul(error, error));
    };
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) take(load<FloatType::kFloat32>(x + i));
    if (i < end) take(load_first<FloatType::kFloat32>(x + i, end - i));  // the padding is zero and costs no error
    total += pairwise_sum(add(widen_low(sum), widen_high(sum)));
    begin = end;
  }
  return total;
}

double squared_error(const float* x, std::size_t count, float scale, std::int32_t zero_point, int lowest, int highest) {
  const float low = static_cast<float>(lowest - zero_point), high = static_cast<float>(highest - zero_point);
  const F32x16 scales = broadcast(scale);
  if (has_reciprocal(scale)) {
    // Elements past 2^20 steps are far out of range: clamped there, no step overflows.
    const F32x16 reciprocal = broadcast(1.0F / scale), far = broadcast(0x1p20F * scale),
                 minus_far = broadcast(-0x1p20F * scale);
    return squared_error_of(x, count, scale, low, high,
                            [&](F32x16 v) { return divide(min(max(v, minus_far), far), scales, reciprocal); });
  }
  return squared_error_of(x, count, scale, low, high, [&](F32x16 v) { return div(v, scales); });
}

}  // namespace

const AffineKernels kAffine = {absmax,   minmax,       symmetric_scales, asymmetric_parameters,
                               quantize, stream_fence, dequantize,       squared_error};

}  // namespace lowbit::LOWBIT_ISA
