#pragma once

#include "core/channels.h"
#include "core/status.h"
#include "core/thread_pool.h"
#include "ops/fake_quantize/fake_quantize_kernels.h"

namespace lowbit {

// Integers [lowest, highest], both within ±2^20, with a scale and a zero point for each channel. Zero points lie in
// [lowest, highest]; null means 0. Scales have finite reciprocals.
struct IntegerQuantizer {
  const float* scales;
  const std::int32_t* zero_points;
  int lowest, highest;
};

// Fake quantization of whole tensors on all threads: the same bits for any number of them. See the kernels for what
// becomes of each element.

// kHalfEven: step = round(x · (1 / scale)) + zero point; kHalfAway: round(x · (1 / scale) + zero point).
Outcome fake_quantize_integers(const float* x, const Channels& channels, const IntegerQuantizer& quantizer,
                               Rounding rounding, float* out, std::uint8_t* mask, const CancelFlag* cancel = nullptr);

Outcome fake_quantize_scaled(const float* x, const Channels& channels, ElementType type, const float* scales,
                             float* out, std::uint8_t* mask, const CancelFlag* cancel = nullptr);

// Blocks of `length` elements along rows of `columns`; the last of a row may be shorter. With a scale of the tensor
// that is 0, that is 448 · 6 / max|x|; kNonFinite names the first element that is NaN or infinite then.
Outcome fake_quantize_blocks(const float* x, std::size_t rows, std::size_t columns, std::size_t length,
                             ElementType type, BlockScale scale, float* out, std::uint8_t* mask,
                             const CancelFlag* cancel = nullptr);

Outcome straight_through(const float* dy, const std::uint8_t* mask, std::size_t count, float* dx,
                         const CancelFlag* cancel = nullptr);

// The gradients for x and, summed over each channel, for the scales and the zero points, the latter two times `factor`:
// step = round(zero point + x · (1 / scale)), with one rounding before that to an integer.
struct QuantizerGradients {
  float *x, *scales, *zero_points;
};
Outcome fake_quantize_gradients(const float* dy, const float* x, const Channels& channels,
                                const IntegerQuantizer& quantizer, double factor, const QuantizerGradients& out,
                                const CancelFlag* cancel = nullptr);

}  // namespace lowbit
