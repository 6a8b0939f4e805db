#pragma once

#include "cuda/units.cuh"

namespace lowbit {

// max|x| of every parameter set, as the bits of a float, and unless `least` is null max x and −min x, the range widened
// to contain zero. Reports what is not finite, or with kSaturate skips it.
CudaStatus find_ranges(const CudaStream& stream, const void* x, FloatType type, const UnitGrid& grid,
                       NonFinite non_finite, unsigned* least, unsigned* largest);

// The same for one parameter set, max|x|, unless `*wanted` is not 0.
CudaStatus find_largest(const CudaStream& stream, const void* x, FloatType type, const UnitGrid& grid,
                        NonFinite non_finite, const float* wanted, unsigned* largest);

}  // namespace lowbit
