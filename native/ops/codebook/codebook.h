#pragma once

#include "ops/affine/affine.h"
#include "ops/codebook/codebook_kernels.h"

namespace lowbit {

// How the scale of a group follows from it. The largest magnitude is the group's, unless a percentile was chosen.
enum class ScaleRule : std::uint8_t {
  kAbsmax,      // the largest magnitude itself, zero included: NF4, FP4
  kLargest,     // the largest magnitude becomes the largest value; a group of zeros has scale 1: FP8
  kPowerOfTwo,  // 2^(floor(log2(largest magnitude)) − largest_exponent), at least 2^-127: OCP MX
  kNvfp4,       // an E4M3 number over the global scale, see below
};
constexpr std::int64_t kScaleRules = 4;

struct CodebookScheme {
  Codebook book;
  ScaleRule rule;
  FloatType scale_type;  // to which scales are rounded before they are used; kAbsmax and kLargest
};

// As quantize_affine(), without zero points; kMse is not a choice. For kNvfp4, `global_scale` receives
// 448 · 6 / max|x| (of zeros: 1), and a group's scale is e4m3(global_scale · max|x of the group| / 6) / global_scale,
// with 0.125 in place of an E4M3 zero: compressed-tensors' rule. Others write 1.
Outcome quantize_codebook(const void* x, FloatType type, const AffineLayout& layout, const CodebookScheme& scheme,
                          RangeChoice range, NonFinite non_finite, float* scales, float* global_scale,
                          std::uint8_t* codes, const CancelFlag* cancel = nullptr);

// out = scale · value(code).
Outcome dequantize_codebook(const std::uint8_t* codes, Codebook book, const AffineLayout& layout, const float* scales,
                            void* out, FloatType out_type, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
