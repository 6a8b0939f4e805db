#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

// What observers of ranges and distributions read from a run of elements.
struct ObserveKernels {
  // Widens [*min, *max] to contain every element. False if one is NaN or infinite; the results are then unspecified.
  // A zero is stored as +0.
  bool (*range)(const float* x, std::size_t count, float* min, float* max);

  // The same with a range for every element: element i widens [min[i], max[i]].
  bool (*ranges)(const float* x, std::size_t count, float* min, float* max);

  // The bin of every element in a histogram of 2 · half bins around zero: with m = ⌊|x| · per_unit⌋, at most half − 1,
  // it is half + m for x ≥ 0 and half − 1 − m for x < 0; no element is a NaN. One per_unit for all, or with `each` its
  // own. half ≤ 2^15.
  void (*bins)(const float* x, std::size_t count, const float* per_unit, bool each, std::int32_t half,
               std::int32_t* bins);
};

namespace scalar {
extern const ObserveKernels kObserve;
}
namespace avx2 {
extern const ObserveKernels kObserve;
}
namespace avx512 {
extern const ObserveKernels kObserve;
}
namespace neon {
extern const ObserveKernels kObserve;
}

}  // namespace lowbit
