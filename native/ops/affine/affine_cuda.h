#pragma once

#include "cuda/abi.h"
#include "ops/affine/affine.h"

namespace lowbit {

// The operations of affine.h on memory of a device, with the same bits.
struct AffineCuda {
  // `scales` and `zero_points` (which an asymmetric scheme needs) double as working memory: their contents before the
  // call count only if the range is given. kUnsupported: a range by percentile or least squared error.
  CudaStatus (*quantize)(CudaStream* stream, const void* x, FloatType type, const AffineLayout& layout,
                         const AffineScheme& scheme, RangeChoice range, NonFinite non_finite, float* scales,
                         std::int32_t* zero_points, std::uint8_t* codes);

  CudaStatus (*dequantize)(CudaStream* stream, const std::uint8_t* codes, CodeType code, const AffineLayout& layout,
                           const float* scales, const std::int32_t* zero_points, void* out, FloatType out_type);

  CudaStatus (*unpack_codes)(CudaStream* stream, const std::uint8_t* codes, CodeType code, std::size_t rows,
                             std::size_t columns, std::uint8_t* out);
};

extern const AffineCuda kAffineCuda;

}  // namespace lowbit
