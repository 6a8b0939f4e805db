// Triangular solves, ranges of groups and the sweep of GPTQ: the specification, lane by lane.

#include <cmath>

#include "ops/linalg/linalg_kernels.h"
#include "ops/linalg/linalg_math.h"

namespace lowbit::scalar {
namespace {

void solve(const SolveArguments& a) {
  for (std::size_t lane = 0; lane < kLinalgLanes; lane++) {
    for (std::size_t i = 0; i < a.count; i++) {
      const float y = a.x[i * a.stride + lane] / a.factor[i * a.count + i];
      a.x[i * a.stride + lane] = y;
      for (std::size_t j = i + 1; j < a.count; j++) {
        float& x = a.x[j * a.stride + lane];
        x = std::fmaf(-y, a.factor[i * a.count + j], x);
      }
    }
  }
}

void range(const RangeArguments& a) {
  const float lowest = static_cast<float>(a.lowest), highest = static_cast<float>(a.highest);
  for (std::size_t lane = 0; lane < kLinalgLanes; lane++) {
    float min = 0.0F, max = 0.0F;
    for (std::size_t i = 0; i < a.count; i++) {
      const float x = a.x[i * a.stride + lane];
      min = x < min ? x : min;
      max = x > max ? x : max;
    }
    Parameters best = parameters_of(a, min * a.factors[0], max * a.factors[0]);
    float least = INFINITY;
    for (std::size_t f = 0; f < a.factor_count && a.factor_count > 1; f++) {
      const Parameters p = parameters_of(a, min * a.factors[f], max * a.factors[f]);
      float cost = 0.0F;
      for (std::size_t i = 0; i < a.count; i++) {
        const float x = a.x[i * a.stride + lane];
        const float error = p.scale * steps_of(x, p.scale, lowest - p.zero, highest - p.zero) - x;
        const float power = a.power_2_4 ? power_2_4(error) : error * error;
        cost = a.importance != nullptr ? std::fmaf(power, a.importance[i], cost) : cost + power;
      }
      if (cost < least) {
        least = cost;
        best = p;
      }
    }
    a.scales[lane] = best.scale;
    a.zeros[lane] = best.zero;
  }
}

void sweep(const SweepArguments& a) {
  const float lowest = static_cast<float>(a.lowest), highest = static_cast<float>(a.highest);
  for (std::size_t lane = 0; lane < kLinalgLanes; lane++) {
    for (std::size_t i = 0; i < a.count; i++) {
      const std::size_t group = static_cast<std::size_t>(a.groups[i]) * kLinalgLanes + lane;
      const float scale = a.scales[group], zero = a.zeros[group];
      const float w = a.w[i * a.stride + lane];
      const float steps = steps_of(w, scale, lowest - zero, highest - zero);
      const float value = steps * scale;
      const float error = a.original[i * a.stride + lane] - value;
      const float left = w - value;
      a.loss[lane] += static_cast<double>(a.importance[i]) * static_cast<double>(left * left);
      a.errors[i * kLinalgLanes + lane] = error;
      a.codes[i * kLinalgLanes + lane] = static_cast<std::uint8_t>(steps + zero - lowest);
      if (a.factor == nullptr) continue;
      for (std::size_t j = i + 1; j < a.count; j++) {
        float& later = a.w[j * a.stride + lane];
        later = std::fmaf(error, a.factor[i * a.factor_stride + j], later);
      }
    }
  }
}

}  // namespace

const LinalgKernels kLinalg = {solve, range, sweep};

}  // namespace lowbit::scalar
