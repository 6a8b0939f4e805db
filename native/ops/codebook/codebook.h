#pragma once

#include "ops/affine/affine.h"
#include "ops/codebook/codebook_kernels.h"

namespace lowbit {

struct CodebookScheme {
  Codebook book;
  ScaleRule rule;
  FloatType scale_type;  // to which scales are rounded before they are used; kAbsmax and kLargest
};

// As quantize_affine(), without zero points; kMse is not a choice, and means of magnitudes leave none but kMinMax
// (which then says nothing) and kThrow. For kNvfp4, `global_scale` 0 receives 448 · 6 / max|x| (of zeros: 1), and a
// group's scale is e4m3(global_scale · max|x of the group| / 6) / global_scale, with 0.125 in place of an E4M3 zero:
// compressed-tensors' rule. Others write 1.
Outcome quantize_codebook(const void* x, FloatType type, const AffineLayout& layout, const CodebookScheme& scheme,
                          RangeChoice range, NonFinite non_finite, float* scales, float* global_scale,
                          std::uint8_t* codes, const CancelFlag* cancel = nullptr);

// out = scale · value(code).
Outcome dequantize_codebook(const std::uint8_t* codes, Codebook book, const AffineLayout& layout, const float* scales,
                            void* out, FloatType out_type, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
