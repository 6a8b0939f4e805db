#pragma once

// Codebooks, one element at a time: the definition that every instruction set must equal.
// Everything has internal linkage, because this header is compiled once per instruction set.
//
//   codebook         quotient                code                                              of a NaN
//   NF4, FP4         x · (1 / scale)         the nearest value's, by bitsandbytes' thresholds  0
//                                            (on one: the lower; FP4: the smaller magnitude)
//   E4M3, E5M2       x / scale               round to nearest even, saturating                 NaN
//   E2M3, E3M2,      x / scale               round to nearest even, saturating                 largest
//   E2M1
//   fixed point      x / scale · 64          round to nearest even, −127 … 127                 −127
//   ternary          x / scale               round to nearest even, −1 … 1                     −1
//   binary           x                       0 if negative, else 1                             0
//
// Sources: Dettmers et al., "QLoRA" (arXiv:2305.14314), with the numbers of bitsandbytes; core/small_floats.h for small
// floats; OCP Microscaling Formats (MX) 1.0 for fixed point.

#include "core/small_floats.h"
#include "ops/affine/affine_math.h"
#include "ops/codebook/codebook_kernels.h"

namespace lowbit {
namespace {

constexpr float kNf4Values[16] = {-1.0F,
                                  -0.6961928009986877F,
                                  -0.5250730514526367F,
                                  -0.39491748809814453F,
                                  -0.28444138169288635F,
                                  -0.18477343022823334F,
                                  -0.09105003625154495F,
                                  0.0F,
                                  0.07958029955625534F,
                                  0.16093020141124725F,
                                  0.24611230194568634F,
                                  0.33791524171829224F,
                                  0.44070982933044434F,
                                  0.5626170039176941F,
                                  0.7229568362236023F,
                                  1.0F};
// A quotient above the i-th has at least code i + 1.
constexpr float kNf4Thresholds[15] = {
    -0.8480964004993439F,  -0.6106329262256622F,   -0.4599952697753906F, -0.33967943489551544F, -0.23460740596055984F,
    -0.13791173323988914F, -0.045525018125772476F, 0.03979014977812767F, 0.1202552504837513F,   0.2035212516784668F,
    0.2920137718319893F,   0.3893125355243683F,    0.5016634166240692F,  0.6427869200706482F,   0.8614784181118011F};

// Bit 3 is the sign.
constexpr float kFp4Values[16] = {0.0F,
                                  0.0052083334885537624F,
                                  0.6666666865348816F,
                                  1.0F,
                                  0.3333333432674408F,
                                  0.5F,
                                  0.1666666716337204F,
                                  0.25F,
                                  0.0F,
                                  -0.0052083334885537624F,
                                  -0.6666666865348816F,
                                  -1.0F,
                                  -0.3333333432674408F,
                                  -0.5F,
                                  -0.1666666716337204F,
                                  -0.25F};
// Of magnitudes, by rank; the code of a rank is fp4_code_of_rank().
constexpr float kFp4Thresholds[7] = {0.00260417F, 0.0859375F, 0.20833333F, 0.29166667F,
                                     0.4166667F,  0.583333F,  0.8333333F};
// 0 1 2 … 7 → 0 1 6 7 4 5 2 3
constexpr unsigned fp4_code_of_rank(unsigned rank) { return rank ^ ((rank & 2U) << 1); }

// What x is multiplied with instead of being divided by the scale. bitsandbytes keeps blocks of tiny numbers from
// infinity like this.
LOWBIT_HOST_DEVICE inline float inverse_of_absmax(float scale) { return 1.0F / (scale > 1e-38F ? scale : 1e-38F); }

constexpr float kLargestE4m3 = 448.0F, kLargestE2m1 = 6.0F;

LOWBIT_HOST_DEVICE inline float power_of_two_scale(float largest, int largest_exponent) {
  // Zeros have the exponent of the smallest normal number, and no scale is less than 2^-127.
  const int exponent = largest == 0.0F ? 1 : static_cast<int>(bits_of(largest) >> 23);
  const int scale = exponent - largest_exponent;
  return scale > 0 ? float_of(static_cast<std::uint32_t>(scale) << 23) : 0x1p-127F;
}

LOWBIT_HOST_DEVICE inline float nvfp4_scale(float largest, float global_scale) {
  const float wanted = global_scale * largest / kLargestE2m1;
  const float scale =
      float_of_small<SmallFloatType::kFloat8E4m3fn>(small_float_of<SmallFloatType::kFloat8E4m3fn>(wanted, true));
  return (scale == 0.0F ? 0.125F : scale) / global_scale;
}

// What a group's largest magnitude makes its scale.
inline float scale_from(float largest, Codebook book, ScaleRule rule, FloatType scale_type, float global_scale) {
  switch (rule) {
    case ScaleRule::kAbsmax:
      return round_to(scale_type, largest);
    case ScaleRule::kLargest:
      return scale_of(largest, format_of(book).largest, scale_type);
    case ScaleRule::kPowerOfTwo:
      return power_of_two_scale(largest, format_of(book).largest_exponent);
    default:  // kNvfp4
      return nvfp4_scale(largest, global_scale);
  }
}

inline std::uint8_t nf4_of(float quotient) {
  std::uint8_t code = 0;
  for (int i = 0; i < 15; i++) code = static_cast<std::uint8_t>(code + (quotient > kNf4Thresholds[i] ? 1 : 0));
  return code;
}

inline std::uint8_t fp4_of(float quotient) {
  const float magnitude = quotient < 0.0F ? -quotient : quotient;
  unsigned rank = 0;
  for (int i = 0; i < 7; i++) rank += magnitude > kFp4Thresholds[i] ? 1 : 0;
  return static_cast<std::uint8_t>(fp4_code_of_rank(rank) | (quotient < 0.0F ? 8U : 0U));
}

// Rounds |x| ≤ 2^22 to an integer, half to even: in x + 1.5·2^23 the last bit of a float32 is worth one.
LOWBIT_HOST_DEVICE inline int rounded_between(float x, float lowest, float highest) {
  x = x > lowest ? x : lowest;  // a NaN becomes the lowest
  x = x < highest ? x : highest;
  return static_cast<int>((x + 0x1.8p23F) - 0x1.8p23F);
}

// Of codebooks that are rounded to, rather than looked up.
LOWBIT_HOST_DEVICE inline std::uint8_t rounded_code_of(Codebook book, float x, float scale) {
  switch (book) {
    case Codebook::kE4m3fn:
      return small_float_of<SmallFloatType::kFloat8E4m3fn>(x / scale, true);
    case Codebook::kE5m2:
      return small_float_of<SmallFloatType::kFloat8E5m2>(x / scale, true);
    case Codebook::kE2m3:
      return small_float_of<SmallFloatType::kFloat6E2m3fn>(x / scale, true);
    case Codebook::kE3m2:
      return small_float_of<SmallFloatType::kFloat6E3m2fn>(x / scale, true);
    case Codebook::kE2m1:
      return small_float_of<SmallFloatType::kFloat4E2m1fn>(x / scale, true);
    case Codebook::kFixed8:
      return static_cast<std::uint8_t>(rounded_between(x / scale * 64.0F, -127.0F, 127.0F));
    case Codebook::kTernary:
      return static_cast<std::uint8_t>(rounded_between(x / scale, -1.0F, 1.0F) & 3);
    default:  // kBinary
      return x >= 0.0F ? 1 : 0;
  }
}

inline std::uint8_t code_of(Codebook book, float x, float scale) {
  if (book == Codebook::kNf4) return nf4_of(x * inverse_of_absmax(scale));
  if (book == Codebook::kFp4) return fp4_of(x * inverse_of_absmax(scale));
  return rounded_code_of(book, x, scale);
}

inline float value_of(Codebook book, std::uint8_t code) {
  switch (book) {
    case Codebook::kNf4:
      return kNf4Values[code];
    case Codebook::kFp4:
      return kFp4Values[code];
    case Codebook::kE4m3fn:
      return float_of_small<SmallFloatType::kFloat8E4m3fn>(code);
    case Codebook::kE5m2:
      return float_of_small<SmallFloatType::kFloat8E5m2>(code);
    case Codebook::kE2m3:
      return float_of_small<SmallFloatType::kFloat6E2m3fn>(code);
    case Codebook::kE3m2:
      return float_of_small<SmallFloatType::kFloat6E3m2fn>(code);
    case Codebook::kE2m1:
      return float_of_small<SmallFloatType::kFloat4E2m1fn>(code);
    case Codebook::kFixed8:
      return static_cast<float>(static_cast<std::int8_t>(code)) * 0x1p-6F;
    case Codebook::kTernary:
      return static_cast<float>(static_cast<int>(code ^ 2U) - 2);
    default:  // kBinary
      return code != 0 ? 1.0F : -1.0F;
  }
}

}  // namespace
}  // namespace lowbit
