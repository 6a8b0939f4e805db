#pragma once

// GGUF blocks: the scales of mxfp4 and nvfp4.

#include "ops/blocks/blocks_math.h"

namespace lowbit {
namespace {

// The E8M0 scale of a block whose largest magnitude is this one: ⌊log₂ largest⌋ − 2, where the logarithm is rounded to
// float32 first, as in the reference. That makes a difference just below a power of two 2^k: the logarithm of
// 2^k · (1 − m · 2^−24) is k − m · 2^−24 / ln 2, which rounds to k if it is nearer to k than to the float below, that
// is if m < 2^j · ln 2 where 2^(j − 23) is the distance of the floats on that side of k.
LOWBIT_HOST_DEVICE LOWBIT_INLINE std::uint8_t e8m0_for(float largest) {
  const std::uint32_t bits = bits_of(largest);
  int exponent = static_cast<int>(bits >> 23) - 127;  // subnormals count as 2^−127: the scale is 0 below 2^−125
  const int k = exponent + 1;
  const int below = static_cast<int>(0x800000U - (bits & 0x7fffffU));  // m
  // Floats just below k lie in the binade of k − 1 if k > 0, in that of |k| if k < 0.
  int j = -1;
  for (int magnitude = k > 0 ? k - 1 : -k; magnitude > 0; magnitude >>= 1) j++;
  if (j > 0 && static_cast<double>(below) < static_cast<double>(1 << j) * 0.6931471805599453) exponent = k;
  return static_cast<std::uint8_t>(exponent < -125 || largest == 0.0F ? 0 : exponent + 125);
}

// The first of the codes that is nearest. (Far past the largest value, where float32 can't tell the distances apart,
// that is 0.)
inline int nearest_e2m1(float x, float half_scale) {
  int nearest = 0;
  float least = std::fabs(static_cast<float>(kTwiceE2M1[0]) * half_scale - x);
  for (int code = 1; code < 16; code++) {
    const float error = std::fabs(static_cast<float>(kTwiceE2M1[code]) * half_scale - x);
    if (error < least) {
      least = error;
      nearest = code;
    }
  }
  return nearest;
}

// float32 → unsigned E4M3, to nearest, ties up. At most 0x7e (448).
LOWBIT_HOST_DEVICE LOWBIT_INLINE std::uint8_t ue4m3_of(float x) {
  if (!(x > 0.0F)) return 0;
  if (x > 448.0F) x = 448.0F;
  const std::uint32_t bits = bits_of(x);
  int exponent = static_cast<int>(bits >> 23) - 127 + 7;
  // NOLINTNEXTLINE(bugprone-incorrect-roundings): as ggml rounds
  if (exponent <= 0) return static_cast<std::uint8_t>(clamp(static_cast<int>(x * 512.0F + 0.5F), 0, 7));
  if (exponent >= 15) return 0x7e;
  int mantissa = static_cast<int>((bits >> 20) & 7) + static_cast<int>((bits >> 19) & 1);
  if (mantissa == 8) {
    mantissa = 0;
    if (++exponent >= 15) return 0x7e;
  }
  return static_cast<std::uint8_t>(exponent << 3 | mantissa);
}

}  // namespace
}  // namespace lowbit
