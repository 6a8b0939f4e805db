#pragma once

#include <cstddef>

namespace lowbit {

// What a comparison of two tensors needs, in float64. NaN or infinite inputs leave some member not finite.
struct CompareSums {
  double reference_power = 0.0;  // Σ r²
  double other_power = 0.0;      // Σ o²
  double product = 0.0;          // Σ r·o
  double error_power = 0.0;      // Σ (r − o)²
  double largest_error = 0.0;    // max |r − o|
};

struct CompareKernels {
  // The sums of one block. Element i is added in lane i mod 8; the lanes are then added pairwise (i and i + 4, i and
  // i + 2, the last two), so that every instruction set gives the same bits. (A product of two float32 is exact in
  // float64.)
  CompareSums (*compare)(const float* reference, const float* other, std::size_t count);
};

namespace scalar {
extern const CompareKernels kCompare;
}
namespace avx2 {
extern const CompareKernels kCompare;
}
namespace avx512 {
extern const CompareKernels kCompare;
}
namespace neon {
extern const CompareKernels kCompare;
}

}  // namespace lowbit
