// Triangular solves, ranges of groups and the sweep of GPTQ, sixteen vectors at a time. Included by one file per
// instruction set, after its vector vocabulary (core/simd/<isa>.h), which names the namespace.

#include "core/float_bits.h"
#include "ops/affine/affine_math.h"
#include "ops/linalg/linalg_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::int32_t kOneBits = 0x3f800000;

LOWBIT_INLINE F32x16 at(const float* x) { return load<FloatType::kFloat32>(x); }
LOWBIT_INLINE void put(float* x, F32x16 v) { store<FloatType::kFloat32, false>(x, v); }

void solve(const SolveArguments& a) {
  for (std::size_t i = 0; i < a.count; i++) {
    const float* factor = a.factor + i * a.count;
    const F32x16 y = div(at(a.x + i * a.stride), broadcast(factor[i]));
    put(a.x + i * a.stride, y);
    float* x = a.x + (i + 1) * a.stride;
    LOWBIT_NO_UNROLL
    for (std::size_t j = i + 1; j < a.count; j++) {
      put(x, fused_negative(y, broadcast(factor[j]), at(x)));
      x += a.stride;
    }
  }
}

struct Parameters {
  F32x16 scale, zero;
};

LOWBIT_INLINE F32x16 kept(F32x16 scale, FloatType type) {
  if (type == FloatType::kFloat16) {
    std::uint16_t halves[kLanes];
    store<FloatType::kFloat16, false>(halves, scale);
    scale = load<FloatType::kFloat16>(halves);
  } else if (type == FloatType::kBfloat16) {
    std::uint16_t halves[kLanes];
    store<FloatType::kBfloat16, false>(halves, scale);
    scale = load<FloatType::kBfloat16>(halves);
  }
  return max(scale, broadcast(smallest_of(type)));
}

LOWBIT_INLINE F32x16 round_even(F32x16 x) { return to_float(round_to_int(x)); }

LOWBIT_INLINE Parameters parameters_of(const RangeArguments& a, F32x16 least, F32x16 greatest) {
  const F32x16 nothing = broadcast(0.0F), one = broadcast(1.0F);
  const F32x16 lowest = broadcast(static_cast<float>(a.lowest)), highest = broadcast(static_cast<float>(a.highest));
  if (a.rule == RangeRule::kGptq) {
    if (a.symmetric) {
      const F32x16 largest = max(sub(nothing, least), greatest);
      least = select(less(least, nothing), sub(nothing, largest), nothing);
      greatest = largest;
    }
    const F32x16 width = sub(greatest, least);  // of a range that contains zero: it is zero where both ends are
    least = select_zero(width, broadcast(-1.0F), least);
    greatest = select_zero(width, one, greatest);
  } else if (a.symmetric) {
    const F32x16 largest = max(sub(nothing, least), greatest);
    const F32x16 scale = kept(div(largest, broadcast(a.steps)), a.scale_type);
    return {select_zero(largest, one, scale), broadcast(a.zero)};
  }
  const F32x16 width = sub(greatest, least);
  const F32x16 scale = select_zero(width, one, kept(div(width, sub(highest, lowest)), a.scale_type));
  if (a.symmetric) return {scale, broadcast(a.zero)};
  const F32x16 zero = min(max(sub(lowest, div(least, scale)), lowest), highest);
  return {scale, round_even(zero)};
}

LOWBIT_INLINE F32x16 steps_of(F32x16 x, F32x16 scale, F32x16 low, F32x16 high) {
  return round_even(min(max(div(x, scale), low), high));
}

LOWBIT_INLINE F32x16 power_2_4(F32x16 e) {
  const I32x16 bits = magnitude_bits(e), one = broadcast(kOneBits);
  const F32x16 x = as_floats(bits), fifth = mul(to_float(sub(bits, one)), broadcast(0.2F));
  F32x16 y = as_floats(add(round_to_int(fifth), one));
  for (int i = 0; i < 3; i++) {
    const F32x16 square = mul(y, y);
    y = add(mul(broadcast(0.8F), y), div(mul(broadcast(0.2F), x), mul(square, square)));
  }
  return mul(mul(x, x), mul(y, y));
}

template <bool Power24>
LOWBIT_INLINE F32x16 cost_of(const RangeArguments& a, const Parameters& p) {
  const F32x16 low = sub(broadcast(static_cast<float>(a.lowest)), p.zero);
  const F32x16 high = sub(broadcast(static_cast<float>(a.highest)), p.zero);
  F32x16 cost = broadcast(0.0F);
  LOWBIT_NO_UNROLL
  for (std::size_t i = 0; i < a.count; i++) {
    const F32x16 x = at(a.x + i * a.stride);
    const F32x16 error = sub(mul(p.scale, steps_of(x, p.scale, low, high)), x);
    const F32x16 power = Power24 ? power_2_4(error) : mul(error, error);
    cost = a.importance != nullptr ? fused(power, broadcast(a.importance[i]), cost) : add(cost, power);
  }
  return cost;
}

void range(const RangeArguments& a) {
  F32x16 least = broadcast(0.0F), greatest = broadcast(0.0F);
  for (std::size_t i = 0; i < a.count; i++) {
    const F32x16 x = at(a.x + i * a.stride);
    least = min(x, least);
    greatest = max(x, greatest);
  }
  const F32x16 first = broadcast(a.factors[0]);
  Parameters best = parameters_of(a, mul(least, first), mul(greatest, first));
  F32x16 lowest_cost = as_floats(broadcast(0x7f800000));
  for (std::size_t f = 0; f < a.factor_count && a.factor_count > 1; f++) {
    const F32x16 factor = broadcast(a.factors[f]);
    const Parameters p = parameters_of(a, mul(least, factor), mul(greatest, factor));
    const F32x16 cost = a.power_2_4 ? cost_of<true>(a, p) : cost_of<false>(a, p);
    const Mask16 better = less(cost, lowest_cost);
    lowest_cost = select(better, cost, lowest_cost);
    best = {select(better, p.scale, best.scale), select(better, p.zero, best.zero)};
  }
  put(a.scales, best.scale);
  put(a.zeros, best.zero);
}

void sweep(const SweepArguments& a) {
  const F32x16 lowest = broadcast(static_cast<float>(a.lowest)), highest = broadcast(static_cast<float>(a.highest));
  F64x8 loss_low = load_lanes(a.loss), loss_high = load_lanes(a.loss + kLanes / 2);
  for (std::size_t i = 0; i < a.count; i++) {
    const std::size_t group = static_cast<std::size_t>(a.groups[i]) * kLanes;
    const F32x16 scale = at(a.scales + group), zero = at(a.zeros + group);
    const F32x16 w = at(a.w + i * a.stride);
    const F32x16 steps = steps_of(w, scale, sub(lowest, zero), sub(highest, zero));
    const F32x16 value = mul(steps, scale);
    const F32x16 error = sub(at(a.original + i * a.stride), value);
    const F32x16 left = sub(w, value), square = mul(left, left);
    const F64x8 importance = broadcast(static_cast<double>(a.importance[i]));
    loss_low = add(loss_low, mul(importance, widen_low(square)));
    loss_high = add(loss_high, mul(importance, widen_high(square)));
    put(a.errors + i * kLanes, error);
    store_low_bytes(a.codes + i * kLanes, round_to_int(sub(add(steps, zero), lowest)));
    if (a.factor == nullptr) continue;
    const float* factor = a.factor + i * a.factor_stride;
    float* later = a.w + (i + 1) * a.stride;
    LOWBIT_NO_UNROLL
    for (std::size_t j = i + 1; j < a.count; j++) {
      put(later, fused(error, broadcast(factor[j]), at(later)));
      later += a.stride;
    }
  }
  store_lanes(a.loss, loss_low);
  store_lanes(a.loss + kLanes / 2, loss_high);
}

}  // namespace

const LinalgKernels kLinalg = {solve, range, sweep};

}  // namespace lowbit::LOWBIT_ISA
