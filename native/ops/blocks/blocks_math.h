#pragma once

// GGUF blocks: the arithmetic that the specification and the vector kernels share. Everything is float32, evaluated in
// the order written, so that the bytes are those of ggml's reference quantizers.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/float_bits.h"
#include "core/macros.h"
#include "ops/blocks/blocks_kernels.h"

namespace lowbit {
namespace {

constexpr std::size_t kBlock = 32, kSuperblock = 256;

// Below this magnitude, a group that is searched counts as zero.
constexpr float kNothing = 1e-15F;

// To the nearest integer, ties to even, by adding 1.5·2^23: the sum's last mantissa bits are the integer. Past ±2^22
// the result is whatever these bits are, which the reference relies on.
LOWBIT_HOST_DEVICE LOWBIT_INLINE int nearest_int(float x) {
  return static_cast<int>(bits_of(x + 0x1.8p23F) & 0x7fffffU) - 0x400000;
}

// To the nearest integer, ties away from zero, for |x| < 2^22. The addend is the float below one half, so that what
// lies just below a tie does not reach the next integer.
LOWBIT_HOST_DEVICE LOWBIT_INLINE int round_half_away(float x) {
  return static_cast<int>(x + std::copysign(0x1.fffffep-2F, x));
}

LOWBIT_HOST_DEVICE LOWBIT_INLINE int clamp(int value, int lowest, int highest) {
  return value < lowest ? lowest : value > highest ? highest : value;
}

// A code from a float in [0, highest + 1), its fraction cut off; `highest` from any other.
LOWBIT_HOST_DEVICE LOWBIT_INLINE std::uint8_t cut_off(float x, int highest) {
  return static_cast<std::uint8_t>(x < static_cast<float>(highest) ? static_cast<int>(x) : highest);
}

// 1 / d, or 0 where that is not finite: then all codes stand for zero, which is what the block's float16 scale makes of
// such small numbers anyway.
LOWBIT_HOST_DEVICE LOWBIT_INLINE float inverse_of(float d) {
  const float inverse = 1.0F / d;
  return is_finite(inverse) ? inverse : 0.0F;
}

LOWBIT_HOST_DEVICE LOWBIT_INLINE std::uint16_t load_u16(const std::uint8_t* in) {
  return static_cast<std::uint16_t>(in[0] | (in[1] << 8));
}
LOWBIT_HOST_DEVICE LOWBIT_INLINE void store_u16(std::uint8_t* out, std::uint16_t value) {
  out[0] = static_cast<std::uint8_t>(value);
  out[1] = static_cast<std::uint8_t>(value >> 8);
}
LOWBIT_HOST_DEVICE LOWBIT_INLINE float load_half(const std::uint8_t* in) { return float_of_float16(load_u16(in)); }
LOWBIT_HOST_DEVICE LOWBIT_INLINE void store_half(std::uint8_t* out, float value) { store_u16(out, float16_of(value)); }

// The value of the largest magnitude, the first of equals; +0 if all are zero.
LOWBIT_HOST_DEVICE LOWBIT_INLINE float extreme_of(const float* x, std::size_t count) {
  float largest = 0.0F, extreme = 0.0F;
  for (std::size_t i = 0; i < count; i++) {
    const float magnitude = std::fabs(x[i]);
    if (magnitude > largest) {
      largest = magnitude;
      extreme = x[i];
    }
  }
  return extreme;
}

// Σx², in order.
LOWBIT_HOST_DEVICE LOWBIT_INLINE float sum_of_squares(const float* x, std::size_t count) {
  float sum = 0.0F;
  for (std::size_t i = 0; i < count; i++) sum += x[i] * x[i];
  return sum;
}

// What an element weighs whose column has this importance: large values of a row weigh more.
LOWBIT_HOST_DEVICE LOWBIT_INLINE float weight_of(float importance, float mean_square, float x) {
  return importance * std::sqrt(mean_square + x * x);
}

// --- q4_k and q5_k: eight 6-bit scales and eight 6-bit minimums in twelve bytes ---
//
// Bytes 0–3: scales 0–3, and above them the high two bits of scales 4–7. Bytes 4–7: the same of the minimums.
// Bytes 8–11: the low four bits of scale 4–7, above them those of minimum 4–7.

struct ScaleAndMinimum {
  int scale, minimum;
};
LOWBIT_HOST_DEVICE LOWBIT_INLINE ScaleAndMinimum load_six_bits(const std::uint8_t* packed, std::size_t i) {
  if (i < 4) return {packed[i] & 63, packed[i + 4] & 63};
  return {(packed[i + 4] & 15) | ((packed[i - 4] >> 6) << 4), (packed[i + 4] >> 4) | ((packed[i] >> 6) << 4)};
}

// --- q3_k: sixteen 6-bit scales in twelve bytes ---
//
// Bytes 0–7: the low four bits of scale i, above them those of scale i + 8. Byte 8 + i % 4: high two bits, at bit
// 2·(i / 4).

LOWBIT_HOST_DEVICE LOWBIT_INLINE int load_q3_k_scale(const std::uint8_t* packed, std::size_t i) {
  const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
  return (low | (((packed[8 + i % 4] >> (2 * (i / 4))) & 3) << 4)) - 32;
}

// --- iq4_nl and iq4_xs: sixteen levels that lie closer together near zero ---

constexpr std::int8_t kNonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// --- mxfp4 and nvfp4: twice the values of E2M1, so that they are integers ---

constexpr std::int8_t kTwiceE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 2^(e − 128), half of what the E8M0 scale e stands for.
LOWBIT_HOST_DEVICE LOWBIT_INLINE float half_e8m0(std::uint8_t e) {
  return float_of(e < 2 ? 0x00200000U << e : static_cast<std::uint32_t>(e - 1) << 23);
}

// Half of what an unsigned E4M3 scale stands for. The sign bit counts for nothing, and 0x7f, its NaN, is 0.
LOWBIT_HOST_DEVICE LOWBIT_INLINE float half_ue4m3(std::uint8_t code) {
  if (code == 0 || code == 0x7f) return 0.0F;
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const float value = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9F
                                    : float_of(static_cast<std::uint32_t>(exponent + 120) << 23) *
                                          (1.0F + static_cast<float>(mantissa) * 0.125F);
  return value * 0.5F;
}

}  // namespace
}  // namespace lowbit
