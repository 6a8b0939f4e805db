// Ranges and bins, sixteen lanes at a time. Included by one file per instruction set, after its vector vocabulary
// (core/simd/<isa>.h), which names the namespace.

#include "ops/observe/observe_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr FloatType kFloat = FloatType::kFloat32;
constexpr std::int32_t kInfinityBits = 0x7f800000;

bool range(const float* x, std::size_t count, float* min_out, float* max_out) {
  const F32x16 zero = broadcast(0.0F);
  F32x16 least = broadcast(*min_out), greatest = broadcast(*max_out);
  I32x16 seen = broadcast(0);
  const auto take = [&](F32x16 v) {
    least = min(v, least);
    greatest = max(v, greatest);
    seen = max(seen, magnitude_bits(v));
  };
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) take(load<kFloat>(x + i));
  if (i < count) {
    float padded[kLanes];  // with an element, which changes no range
    for (float& p : padded) p = x[i];
    std::memcpy(padded, x + i, (count - i) * sizeof(float));
    take(load<kFloat>(padded));
  }
  *min_out = horizontal_min(add(least, zero));  // −0 + 0 is +0
  *max_out = horizontal_max(add(greatest, zero));
  return horizontal_max(seen) < kInfinityBits;
}

bool ranges(const float* x, std::size_t count, float* min_out, float* max_out) {
  const F32x16 zero = broadcast(0.0F);
  I32x16 seen = broadcast(0);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const std::size_t n = count - i < kLanes ? count - i : kLanes;
    const F32x16 v = load_up_to<kFloat>(x + i, n);
    seen = max(seen, magnitude_bits(v));
    store_up_to<kFloat>(min_out + i, add(min(v, load_up_to<kFloat>(min_out + i, n)), zero), n);
    store_up_to<kFloat>(max_out + i, add(max(v, load_up_to<kFloat>(max_out + i, n)), zero), n);
  }
  return horizontal_max(seen) < kInfinityBits;
}

void bins(const float* x, std::size_t count, const float* per_unit, bool each, std::int32_t half,
          std::int32_t* bins_out) {
  if (count == 0) return;
  const F32x16 last = broadcast(static_cast<float>(half - 1)), all = broadcast(*per_unit);
  const I32x16 middle = broadcast(half);
  // With −0 made +0, all bits of the sign turn m into −1 − m.
  const auto bin = [&](F32x16 v, F32x16 unit) {
    const I32x16 m = truncate_to_int(min(mul(as_floats(magnitude_bits(v)), unit), last));
    return add(bit_xor(m, shift_right<31>(as_bits(add(v, broadcast(0.0F))))), middle);
  };
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) {
    store_lanes(bins_out + i, bin(load<kFloat>(x + i), each ? load<kFloat>(per_unit + i) : all));
  }
  if (i < count) {
    const std::size_t n = count - i;
    const F32x16 unit = each ? load_first<kFloat>(per_unit + i, n) : all;
    store_up_to_lanes(bins_out + i, bin(load_first<kFloat>(x + i, n), unit), n);
  }
}

}  // namespace

const ObserveKernels kObserve = {range, ranges, bins};

}  // namespace lowbit::LOWBIT_ISA
