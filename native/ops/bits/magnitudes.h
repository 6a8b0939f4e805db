#pragma once

#include "ops/affine/affine.h"

namespace lowbit {

// What binary and ternary weights are scaled with: means of |w| over each parameter set of a tensor. Sums are in
// float64, over tiles of the tensor and then in their order: the same bits for any number of threads and every
// instruction set.
//
// All of these report kNonFinite with the first NaN or infinity.

// Σ|x| of every parameter set, and optionally Σ and the number of those elements that are above its threshold.
Outcome abs_sums(const void* x, FloatType type, const AffineLayout& layout, double* sums,
                 const CancelFlag* cancel = nullptr);
Outcome sums_above(const void* x, FloatType type, const AffineLayout& layout, const float* thresholds, double* sums,
                   std::uint64_t* counts, const CancelFlag* cancel = nullptr);

// How many elements every parameter set has.
void element_counts(const AffineLayout& layout, std::uint64_t* counts);

// The scale of every parameter set, rounded to `scale_type`; kScaleOverflow names the first that does not fit. One that
// is not zero but would round to it is the smallest positive number of the type.

// XNOR-Net: α = mean|w|; w ≈ α · sign(w) with sign(0) = 1, so that zeros alone have scale 0. Rastegari et al.
// (arXiv:1603.05279), equation 6.
Outcome binary_scales(const void* x, FloatType type, const AffineLayout& layout, FloatType scale_type, float* scales,
                      const CancelFlag* cancel = nullptr);

// Ternary weight networks: thresholds Δ = 0.7 · mean|w|, rounded to float32, and α = the mean of those |w| that are
// above; w ≈ α · code, where the code is the sign of w if |w| > Δ, else 0. Where none is above, α is 1. Li and Liu
// (arXiv:1605.04711), section 2.2.
Outcome ternary_scales(const void* x, FloatType type, const AffineLayout& layout, FloatType scale_type,
                       float* thresholds, float* scales, const CancelFlag* cancel = nullptr);

// BitNet b1.58: γ = mean|w|; w ≈ γ · code with code = clamp(round(w / (γ + ε)), −1, 1). Ma et al. (arXiv:2402.17764)
// leave ε open; their own conversion (microsoft/BitNet) has max(γ, 1e-5) instead, for codes and scale alike, and so
// does this.
constexpr float kSmallestAbsmean = 1e-5F;
Outcome absmean_scales(const void* x, FloatType type, const AffineLayout& layout, FloatType scale_type, float* scales,
                       const CancelFlag* cancel = nullptr);

}  // namespace lowbit
