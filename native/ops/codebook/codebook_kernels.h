#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace lowbit {

// The values that codes stand for, as multiples of a scale: x ≈ scale · value(code). The numbers are the raw surface
// between lib/addon/raw.ts and native/node; codebook_math.h defines the values.
enum class Codebook : std::uint8_t {
  kNf4,      // 4 bits: quantiles of a normal distribution, −1 … 1
  kFp4,      // 4 bits: bitsandbytes' FP4, −1 … 1
  kE4m3fn,   // 8 bits
  kE5m2,     // 8 bits
  kE2m3,     // 6 bits
  kE3m2,     // 6 bits
  kE2m1,     // 4 bits
  kFixed8,   // 8 bits: MXINT8, −127/64 … 127/64
  kTernary,  // 2 bits: −1, 0, 1 in two's complement
  kBinary,   // 1 bit: −1, 1
};
constexpr std::size_t kCodebooks = 10;

struct CodebookFormat {
  std::uint8_t bits;
  bool is_signed;        // codes are numbers in two's complement
  float largest;         // value
  int largest_exponent;  // of the power of two at or below it, as OCP counts it
};

constexpr CodebookFormat kCodebookFormats[kCodebooks] = {
    {4, false, 1.0F, 0}, {4, false, 1.0F, 0},  {8, false, 448.0F, 8}, {8, false, 57344.0F, 15},
    {6, false, 7.5F, 2}, {6, false, 28.0F, 4}, {4, false, 6.0F, 2},   {8, true, 127.0F / 64.0F, 0},
    {2, true, 1.0F, 0},  {1, false, 1.0F, 0},
};

constexpr const CodebookFormat& format_of(Codebook book) { return kCodebookFormats[static_cast<std::size_t>(book)]; }
constexpr CodeType code_type_of(Codebook book) { return {format_of(book).bits, format_of(book).is_signed}; }

// How the scale of a group follows from it. The largest magnitude is the group's, unless a percentile was chosen.
enum class ScaleRule : std::uint8_t {
  kAbsmax,      // the largest magnitude itself, zero included: NF4, FP4
  kLargest,     // the largest magnitude becomes the largest value; a group of zeros has scale 1: FP8
  kPowerOfTwo,  // 2^(floor(log2(largest magnitude)) − largest_exponent), at least 2^-127: OCP MX
  kNvfp4,       // an E4M3 number over the global scale: see codebook.h
  // Means of magnitudes, for ternary and binary: see ops/bits/magnitudes.h.
  kMean,     // XNOR-Net
  kAbsmean,  // BitNet b1.58
  kTernaryWeights,
};
constexpr std::int64_t kScaleRules = 7;

struct CodebookKernels {
  // scales[i] = scale_from(largest[i]): see codebook_math.h. False if one overflows scale_type. `global_scale` is for
  // kNvfp4.
  bool (*scales)(const float* largest, std::size_t count, Codebook book, ScaleRule rule, FloatType scale_type,
                 float global_scale, float* scales);

  // Codes of a run that starts on a byte: those of the values nearest to x / scale, packed. A NaN gets the code that
  // codebook_math.h says. `group_size` as in affine_kernels.h; `stream` as in cast_kernels.h, but the codes are ordered
  // before what follows only by AffineKernels::finish_stream().
  void (*quantize)(const void* x, FloatType type, std::size_t count, std::size_t group_size, const float* scales,
                   Codebook book, bool stream, std::uint8_t* codes);

  // out[i] = scale · value(code) in float32, rounded to out_type, for a run that starts on a byte.
  void (*dequantize)(const std::uint8_t* codes, Codebook book, std::size_t count, std::size_t group_size,
                     const float* scales, FloatType out_type, void* out, bool stream);
};

namespace scalar {
extern const CodebookKernels kCodebook;
}
namespace avx2 {
extern const CodebookKernels kCodebook;
}
namespace avx512 {
extern const CodebookKernels kCodebook;
}
namespace neon {
extern const CodebookKernels kCodebook;
}

}  // namespace lowbit
