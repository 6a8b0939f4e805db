#pragma once

#include "cuda/abi.h"
#include "ops/codebook/codebook.h"

namespace lowbit {

// The operations of codebook.h and nested_scales.h on memory of a device, with the same bits.
struct CodebookCuda {
  // `global_scale` is one number on the device, as `scales` is. `scales` doubles as working memory: its contents before
  // the call count only if the range is given. kUnsupported: a range by percentile or least squared error, and scale
  // rules of means of magnitudes.
  CudaStatus (*quantize)(CudaStream* stream, const void* x, FloatType type, const AffineLayout& layout,
                         const CodebookScheme& scheme, RangeChoice range, NonFinite non_finite, float* scales,
                         float* global_scale, std::uint8_t* codes);

  CudaStatus (*dequantize)(CudaStream* stream, const std::uint8_t* codes, Codebook book, const AffineLayout& layout,
                           const float* scales, void* out, FloatType out_type);

  // nest_scales(); what that returns is written to `offset`, one number on the device.
  CudaStatus (*nest_scales)(CudaStream* stream, float* scales, std::size_t count, std::uint8_t* codes, float* absmax,
                            float* offset);
};

extern const CodebookCuda kCodebookCuda;

}  // namespace lowbit
