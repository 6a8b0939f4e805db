// Ranges and bins, the specification: one element after the other.

#include "core/float_bits.h"
#include "ops/observe/observe_kernels.h"

namespace lowbit::scalar {
namespace {

bool widen(float x, float& min, float& max) {
  min = (x < min ? x : min) + 0.0F;  // −0 + 0 is +0
  max = (x > max ? x : max) + 0.0F;
  return is_finite(x);
}

bool range(const float* x, std::size_t count, float* min, float* max) {
  bool finite = true;
  for (std::size_t i = 0; i < count; i++) finite = widen(x[i], *min, *max) && finite;
  return finite;
}

bool ranges(const float* x, std::size_t count, float* min, float* max) {
  bool finite = true;
  for (std::size_t i = 0; i < count; i++) finite = widen(x[i], min[i], max[i]) && finite;
  return finite;
}

void bins(const float* x, std::size_t count, const float* per_unit, bool each, std::int32_t half, std::int32_t* bins) {
  const float last = static_cast<float>(half - 1);
  for (std::size_t i = 0; i < count; i++) {
    const float magnitude = (x[i] < 0.0F ? -x[i] : x[i]) * per_unit[each ? i : 0];
    const auto m = static_cast<std::int32_t>(magnitude < last ? magnitude : last);
    bins[i] = x[i] < 0.0F ? half - 1 - m : half + m;
  }
}

}  // namespace

const ObserveKernels kObserve = {range, ranges, bins};

}  // namespace lowbit::scalar
