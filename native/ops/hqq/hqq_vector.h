// The search of HQQ, sixteen groups at a time. Included by one file per instruction set, after its vector vocabulary
// (core/simd/<isa>.h), which names the namespace.

#include "ops/hqq/hqq_kernels.h"
#include "ops/hqq/hqq_math.h"

namespace lowbit::LOWBIT_ISA {
namespace {

LOWBIT_INLINE F32x16 at(const float* x) { return load<FloatType::kFloat32>(x); }
LOWBIT_INLINE void put(float* x, F32x16 v) { store<FloatType::kFloat32, false>(x, v); }

LOWBIT_INLINE F32x16 power_of(F32x16 x, F32x16 exponent) {
  const F32x16 one = broadcast(1.0F);
  const I32x16 bits = as_bits(x), whole = shift_right<23>(sub(bits, broadcast(kSqrtHalfBits)));
  const F32x16 m = as_floats(sub(bits, shift_left<23>(whole)));
  const F32x16 s = div(sub(m, one), add(m, one)), square = mul(s, s);
  F32x16 series = broadcast(kLog2[4]);
  LOWBIT_UNROLL
  for (int i = 3; i >= 0; i--) series = fused(series, square, broadcast(kLog2[i]));
  const F32x16 t = mul(exponent, add(to_float(whole), mul(s, series)));
  const I32x16 nearest = round_to_int(t);
  const F32x16 f = sub(t, to_float(nearest));
  F32x16 power = broadcast(kExp2[7]);
  LOWBIT_UNROLL
  for (int i = 6; i >= 0; i--) power = fused(power, f, broadcast(kExp2[i]));
  return as_floats(add(as_bits(power), shift_left<23>(nearest)));
}

LOWBIT_INLINE F32x16 code_of(F32x16 x, F32x16 steps, F32x16 zero, F32x16 highest) {
  return to_float(round_to_int(min(max(add(mul(x, steps), zero), broadcast(0.0F)), highest)));
}

void start(const HqqArguments& a) {
  F32x16 least = at(a.x), greatest = least;
  for (std::size_t i = 1; i < a.count; i++) {
    const F32x16 x = at(a.x + i * kLanes);
    least = min(x, least);
    greatest = max(x, greatest);
  }
  if (a.widen) {
    least = min(least, broadcast(0.0F));
    greatest = max(greatest, broadcast(0.0F));
  }
  const F32x16 width = sub(greatest, least), one = broadcast(1.0F);
  const F32x16 exact = mul(broadcast(a.highest), div(one, width));
  const F32x16 steps = min(select(less(broadcast(1e-4F), width), exact, one), broadcast(2e4F));
  put(a.steps, steps);
  put(a.zeros, mul(sub(broadcast(0.0F), least), steps));
}

void step(const HqqArguments& a, float power, float beta, double* errors) {
  const F32x16 steps = at(a.steps), zero = at(a.zeros), highest = broadcast(a.highest);
  const F32x16 exponent = broadcast(power - 1.0F), nothing = broadcast(0.0F);
  F64x8 low = load_lanes(errors), high = load_lanes(errors + kLanes / 2);
  F64x8 sum_low = broadcast(0.0), sum_high = sum_low;
  LOWBIT_NO_UNROLL
  for (std::size_t i = 0; i < a.count; i++) {
    const F32x16 x = at(a.x + i * kLanes);
    const F32x16 q = code_of(x, steps, zero, highest);
    const F32x16 error = sub(x, div(sub(q, zero), steps));
    const F32x16 size = as_floats(magnitude_bits(error));
    low = add(low, widen_low(size));
    high = add(high, widen_high(size));
    F32x16 shrunk = max(sub(size, div(power_of(size, exponent), broadcast(beta))), nothing);
    shrunk = select(less(error, nothing), sub(nothing, shrunk), shrunk);
    const F32x16 zeros = sub(q, mul(sub(x, shrunk), steps));
    sum_low = add(sum_low, widen_low(zeros));
    sum_high = add(sum_high, widen_high(zeros));
  }
  double sums[kLanes];
  store_lanes(sums, sum_low);
  store_lanes(sums + kLanes / 2, sum_high);
  for (std::size_t lane = 0; lane < kLanes; lane++) {
    a.zeros[lane] = static_cast<float>(sums[lane] / static_cast<double>(a.count));
  }
  store_lanes(errors, low);
  store_lanes(errors + kLanes / 2, high);
}

void codes(const HqqArguments& a, std::uint8_t* out) {
  const F32x16 steps = at(a.steps), zero = at(a.zeros), highest = broadcast(a.highest);
  for (std::size_t i = 0; i < a.count; i++) {
    store_low_bytes(out + i * kLanes, round_to_int(code_of(at(a.x + i * kLanes), steps, zero, highest)));
  }
}

}  // namespace

const HqqKernels kHqq = {start, step, codes};

}  // namespace lowbit::LOWBIT_ISA
