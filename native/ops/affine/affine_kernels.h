#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace lowbit {

// Affine quantization, x ≈ scale · (code − zeroPoint), on one run of consecutive elements that is divided into groups
// of `group_size` (the last may be shorter). A run with one scale has group_size ≥ count; group_size 1 gives every
// element a scale of its own (per-channel along the last axis).
//
// A tensor is quantized in three steps, so that each of them is simple and the second is vectorized over groups:
// range → parameters → codes. ops/affine/affine.cc drives them over a whole tensor.
struct AffineKernels {
  // max|x| of each group. False if any element is NaN or infinite; the results are then unspecified.
  bool (*absmax)(const void* x, FloatType type, std::size_t count, std::size_t group_size, float* absmax);

  // The range of each group, widened to contain zero. False as above.
  bool (*minmax)(const void* x, FloatType type, std::size_t count, std::size_t group_size, float* min, float* max);

  // scales[i] = absmax[i] / steps, rounded to scale_type; see symmetric_scale() in affine_math.h.
  // False if a scale overflows scale_type.
  bool (*symmetric_scales)(const float* absmax, std::size_t count, int steps, FloatType scale_type, float* scales);

  // scales[i] = (max[i] − min[i]) / (highest − lowest), rounded to scale_type, and the zero points that go with them;
  // see asymmetric_scale() and zero_point_of() in affine_math.h. False if a scale overflows scale_type.
  bool (*asymmetric_parameters)(const float* min, const float* max, std::size_t count, int lowest, int highest,
                                FloatType scale_type, float* scales, std::int32_t* zero_points);

  // Codes of a run that starts on a byte: clamp(round(x / scale) + zero point, lowest, highest), packed at code.bits
  // each. Division and rounding (half to even) are exact. NaN becomes `lowest`. `zero_points` may be null (all zero).
  // `within_range` promises that |x / scale| ≤ 2^20 everywhere, as it is when the scales come from the range of x.
  // `stream` as in cast_kernels.h, but the codes are ordered before what follows only by finish_stream().
  void (*quantize)(const void* x, FloatType type, std::size_t count, std::size_t group_size, const float* scales,
                   const std::int32_t* zero_points, CodeType code, int lowest, int highest, bool within_range,
                   bool stream, std::uint8_t* codes);

  // To be called on the same thread after calls of quantize() with `stream`: once for many, because it waits for
  // memory.
  void (*finish_stream)();

  // out[i] = scale · (code − zero point) in float32, rounded to out_type, for a run that starts on a byte.
  // `stream` as in cast_kernels.h.
  void (*dequantize)(const std::uint8_t* codes, CodeType code, std::size_t count, std::size_t group_size,
                     const float* scales, const std::int32_t* zero_points, FloatType out_type, void* out, bool stream);

  // Σ (x − scale · (code(x) − zero point))² of a run with one scale: what quantizing it would cost. The order of the
  // sum is part of the definition (kErrorBlock below).
  double (*squared_error)(const float* x, std::size_t count, float scale, std::int32_t zero_point, int lowest,
                          int highest);
};

// squared_error adds in float32 in sixteen lanes (element i in lane i mod 16) over blocks of this many elements. The
// lanes of a block are added in float64, pairwise: i and i + 8, then i and i + 4, and so on; then the blocks, in order.
constexpr std::size_t kErrorBlock = 4096;

namespace scalar {
extern const AffineKernels kAffine;
}
namespace avx2 {
extern const AffineKernels kAffine;
}
namespace avx512 {
extern const AffineKernels kAffine;
}
namespace neon {
extern const AffineKernels kAffine;
}

}  // namespace lowbit
