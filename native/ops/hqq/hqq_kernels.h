#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

constexpr std::size_t kHqqLanes = 16;

// Sixteen groups of weights, one in each lane: element i of them is x[i · 16] and the fifteen floats behind it.
struct HqqArguments {
  std::size_t count;  // elements of a group, at least 1
  const float* x;
  float highest;  // codes are 0 … highest
  bool widen;     // start(): to a range that contains zero
  float* steps;   // [16]: the steps to a unit, the inverse of the scale
  float* zeros;   // [16]
};

struct HqqKernels {
  // Where the search begins: steps = highest · (1 / (max − min)), at most 20000, or 1 where max − min ≤ 1e-4; zero =
  // −min · steps.
  void (*start)(const HqqArguments& arguments);

  // One step of the search: with q = clamp(round(x · steps + zero)), r = (q − zero) / steps, e = x − r and the shrunk
  // error s = sign(e) · max(|e| − |e|^(power − 1) / beta, 0), the zero becomes mean(q − (x − s) · steps), summed in
  // float64. Adds Σ |e| to errors[16], in float64. Powers are to a few units in the last place (hqq_math.h).
  void (*step)(const HqqArguments& arguments, float power, float beta, double* errors);

  // codes[i · 16]: clamp(round(x · steps + zero)).
  void (*codes)(const HqqArguments& arguments, std::uint8_t* codes);
};

namespace scalar {
extern const HqqKernels kHqq;
}
namespace avx2 {
extern const HqqKernels kHqq;
}
namespace avx512 {
extern const HqqKernels kHqq;
}
namespace neon {
extern const HqqKernels kHqq;
}

}  // namespace lowbit
