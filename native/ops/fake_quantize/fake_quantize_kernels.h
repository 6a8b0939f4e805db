#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/fake_quantize/element_formats.h"

namespace lowbit {

// How a step is chosen: to nearest, ties to even, or ties away from zero.
enum class Rounding : std::uint8_t { kHalfEven = 0, kHalfAway = 1 };

// The parameters of a quantizer to integers: for all elements of a run (`each` false), or for each its own.
struct QuantizerSteps {
  const float* inverse;  // 1 / scale
  const float* scale;
  const float* shift;  // added before rounding, taken away afterwards: an integer, at most 2^20 in magnitude
  const float* low;    // the outermost steps, with the shift: the same
  const float* high;
  bool each;
};

// Fake quantization, element by element: quantize, dequantize, and the gradients of that. A mask holds one byte per
// element, 1 where the gradient passes and 0 where the value was clipped. `stream` as in cast_kernels.h, for the float
// outputs. Outputs must not overlap inputs.
struct FakeQuantizeKernels {
  // r = round(x · inverse + shift); out = (clamp(r, low, high) − shift) · scale; mask = low ≤ r ≤ high. Every operation
  // rounds to float32. Infinities are clipped; NaN becomes `low`, with mask 0.
  void (*integers)(const float* x, std::size_t count, const QuantizerSteps& steps, Rounding rounding, bool stream,
                   float* out, std::uint8_t* mask);

  // dx = dy · mask, where every mask but 0 is 1. (The product, so that a NaN stays one and zeros keep their sign.)
  void (*straight_through)(const float* dy, const std::uint8_t* mask, std::size_t count, bool stream, float* dx);

  // The gradients of integers(). r = round(fma(x, inverse, shift)) here, ties to even, as PyTorch's compiled code has
  // it: near a tie that decides. With s = clamp(r, low, high) − shift,
  //
  //                                inside                              clipped
  //   dx                           dy                                  dy · 0
  //   summed in scale_sums         dy · (fma(s, scale, −x) · inverse)  dy · s
  //   summed in zero_point_sums    0                                   dy
  //
  // in float64, where both products are exact. With `each`, the sums of element i are added to element i of both
  // arrays, else to the first: element i in lane i mod 8, the lanes pairwise (i and i + 4, i and i + 2, the last two),
  // the result to what is there.
  void (*gradients)(const float* dy, const float* x, std::size_t count, const QuantizerSteps& steps, bool stream,
                    float* dx, double* scale_sums, double* zero_point_sums);

  // out = round(x / scale) · scale in an element format, saturating; mask = whether round(x / scale), as if exponents
  // had no upper end, is at most the largest. NaN stays NaN, with mask 0. One scale for all, or with `each` its own.
  void (*scaled)(const float* x, std::size_t count, ElementType type, const float* scales, bool each, bool stream,
                 float* out, std::uint8_t* mask);

  // The same with a scale that block_scale() gives for every block of `length` (the last may be shorter) elements;
  // length is 32 or 16. In a block that holds NaN or infinity all becomes NaN, with mask 0.
  void (*blocks)(const float* x, std::size_t count, std::size_t length, ElementType type, const BlockScale& scale,
                 bool stream, float* out, std::uint8_t* mask);
};

namespace scalar {
extern const FakeQuantizeKernels kFakeQuantize;
}
namespace avx2 {
extern const FakeQuantizeKernels kFakeQuantize;
}
namespace avx512 {
extern const FakeQuantizeKernels kFakeQuantize;
}
namespace neon {
extern const FakeQuantizeKernels kFakeQuantize;
}

}  // namespace lowbit
