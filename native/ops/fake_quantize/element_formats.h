#pragma once

// The element formats of fake quantization by value, and the scales of their blocks: what every instruction set shares.
// Everything has internal linkage, because this header is compiled once per instruction set.
//
// Sources: OCP Microscaling Formats (MX) 1.0, with the conversion of microsoft/microxcaling ("even"); NVFP4 as
// vllm-project/compressed-tensors computes it.

#include "core/float_bits.h"
#include "core/small_floats.h"

namespace lowbit {

// The numbers are the raw surface between lib/addon/raw.ts and native/node.
enum class ElementType : std::uint8_t {
  kFloat8E4m3fn = 0,
  kFloat8E5m2 = 1,
  kFloat6E2m3fn = 2,
  kFloat6E3m2fn = 3,
  kFloat4E2m1fn = 4,
  kInt8 = 5,  // of MX: k / 64, |k| ≤ 127
};
constexpr int kElementTypes = 6;

// Multiples of 2^(e − mantissa_bits) for magnitudes from 2^e on, where e ≥ lowest_exponent.
struct ElementFormat {
  int mantissa_bits, lowest_exponent;
  int highest_exponent;  // of `largest`
  float largest;
};

// How blocks are scaled: by the power of two that E8M0 holds (MX), or by a float8_e4m3fn over one number for the tensor
// (NVFP4).
struct BlockScale {
  bool power_of_two;
  float global;  // NVFP4: 448 · 6 / max|x| of the tensor
};

namespace {

constexpr ElementFormat format_of(SmallFloatType type) {
  const SmallFloat f = small_float(type);
  const int exponent = static_cast<int>(f.largest() >> f.mantissa_bits) - f.bias;
  float largest = static_cast<float>((1U << f.mantissa_bits) | (f.largest() & ((1U << f.mantissa_bits) - 1)));
  for (int i = f.mantissa_bits; i < exponent; i++) largest *= 2.0F;
  for (int i = exponent; i < f.mantissa_bits; i++) largest *= 0.5F;
  return {f.mantissa_bits, f.lowest_exponent(), exponent, largest};
}

constexpr ElementFormat element_format(ElementType type) {
  switch (type) {
    case ElementType::kFloat8E4m3fn:
      return format_of(SmallFloatType::kFloat8E4m3fn);
    case ElementType::kFloat8E5m2:
      return format_of(SmallFloatType::kFloat8E5m2);
    case ElementType::kFloat6E2m3fn:
      return format_of(SmallFloatType::kFloat6E2m3fn);
    case ElementType::kFloat6E3m2fn:
      return format_of(SmallFloatType::kFloat6E3m2fn);
    case ElementType::kFloat4E2m1fn:
      return format_of(SmallFloatType::kFloat4E2m1fn);
    default:
      return {6, 0, 0, 127.0F / 64.0F};
  }
}

// 2^k for −127 ≤ k ≤ 127.
LOWBIT_HOST_DEVICE inline float power_of_two(int k) {
  return float_of(k < -126 ? 0x400000U : static_cast<std::uint32_t>(k + 127) << 23);
}

// The scale of a block by its max|x|, which is finite. MX: 2^(⌊log2 max⌋ − the highest exponent), at least 2^-127.
LOWBIT_HOST_DEVICE inline float block_scale(const BlockScale& scale, const ElementFormat& format, float absmax) {
  if (scale.power_of_two) {
    const int shared = static_cast<int>(bits_of(absmax) >> 23) - 127 - format.highest_exponent;
    return power_of_two(shared > -127 ? shared : -127);
  }
  const float wanted = scale.global * (absmax / format.largest);
  const std::uint8_t code = small_float_of<SmallFloatType::kFloat8E4m3fn>(wanted, true);
  const float local = code == 0 ? 0.125F : float_of_small<SmallFloatType::kFloat8E4m3fn>(code);
  return local / scale.global;
}

}  // namespace
}  // namespace lowbit
