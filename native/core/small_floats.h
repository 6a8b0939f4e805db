#pragma once

// Floats of eight bits and fewer as bit patterns: the definition that every instruction set must equal.
// Everything has internal linkage, because this header is compiled once per instruction set.
//
// Sources: OCP 8-bit Floating Point Specification (OFP8) 1.0 for E4M3 and E5M2; OCP Microscaling Formats (MX) 1.0 for
// E3M2, E2M3, E2M1 and E8M0; ONNX, "Float stored in 8 bits" (its tables of what Cast does with and without saturation),
// "… in 6 bits", "… in 4 bits", and the Cast operator, which adds FNUZ and E8M0.
//
// To a small float: round to nearest, ties to even, subnormals included, as if exponents had no upper end; then
//
//   input             E4M3FN      E5M2         FNUZ            E2M3, E3M2, E2M1  E8M0
//   ±0                ±0          ±0           0               ±0                2^-127 (NaN)
//   past the largest  ±448 (NaN)  ±57344 (±∞)  ±largest (NaN)  ±largest          2^127 (NaN)
//   ±∞                ±448 (NaN)  ±57344 (±∞)  NaN             ±largest          ∞: 2^127 (NaN); −∞: 2^-127 (NaN)
//   NaN               NaN         NaN          NaN             largest           NaN
//
// with saturation, and in parentheses without. A NaN becomes the one pattern 0x7f (FNUZ: 0x80, E8M0: 0xff), whatever
// its sign and payload; one that stands for an overflow of E4M3FN keeps the sign. E8M0 has no sign and no zero:
// whatever is less than its smallest value, negative numbers included, saturates to that. From a small float every
// value is exact; a NaN is quiet, with no payload, and keeps its sign.

#include <cstdint>

#include "core/dtype.h"
#include "core/float_bits.h"

namespace lowbit {
namespace {

// The layout of a small float: sign, exponent, mantissa, from the highest bit down. (E8M0 has functions of its own.)
struct SmallFloat {
  // Which codes are not finite numbers.
  enum class Specials : std::uint8_t {
    kNone,
    kNan,             // ±: all bits set
    kInfinityAndNan,  // as IEEE 754: all bits of the exponent set
    kMinusZeroIsNan,  // FNUZ, "finite, NaN, unsigned zero"
  };

  int exponent_bits, mantissa_bits, bias;
  Specials specials;

  constexpr int bits() const { return 1 + exponent_bits + mantissa_bits; }
  constexpr int lowest_exponent() const { return 1 - bias; }  // of normal numbers, and of the subnormal ones
  constexpr std::uint32_t sign() const { return 1U << (bits() - 1); }
  constexpr std::uint32_t largest() const {
    if (specials == Specials::kInfinityAndNan) return (((1U << exponent_bits) - 1) << mantissa_bits) - 1;
    return sign() - (specials == Specials::kNan ? 2 : 1);
  }
  constexpr std::uint32_t nan() const {
    return specials == Specials::kNone ? largest() : specials == Specials::kMinusZeroIsNan ? sign() : sign() - 1;
  }
  // What a magnitude past the largest becomes without saturation.
  constexpr std::uint32_t overflow() const { return specials == Specials::kInfinityAndNan ? largest() + 1 : nan(); }
  constexpr bool has_minus_zero() const { return specials != Specials::kMinusZeroIsNan; }
};

constexpr SmallFloat small_float(SmallFloatType type) {
  switch (type) {
    case SmallFloatType::kFloat8E4m3fn:
      return {4, 3, 7, SmallFloat::Specials::kNan};
    case SmallFloatType::kFloat8E5m2:
      return {5, 2, 15, SmallFloat::Specials::kInfinityAndNan};
    case SmallFloatType::kFloat8E4m3fnuz:
      return {4, 3, 8, SmallFloat::Specials::kMinusZeroIsNan};
    case SmallFloatType::kFloat8E5m2fnuz:
      return {5, 2, 16, SmallFloat::Specials::kMinusZeroIsNan};
    case SmallFloatType::kFloat6E2m3fn:
      return {2, 3, 1, SmallFloat::Specials::kNone};
    case SmallFloatType::kFloat6E3m2fn:
      return {3, 2, 3, SmallFloat::Specials::kNone};
    default:  // kFloat4E2m1fn
      return {2, 1, 1, SmallFloat::Specials::kNone};
  }
}

// Calls body(std::integral_constant<SmallFloatType, …>) for a small type.
template <typename Body>
LOWBIT_HOST_DEVICE inline void with_small_type(SmallFloatType type, const Body& body) {
  switch (type) {
    case SmallFloatType::kFloat8E4m3fn:
      return body(std::integral_constant<SmallFloatType, SmallFloatType::kFloat8E4m3fn>{});
    case SmallFloatType::kFloat8E5m2:
      return body(std::integral_constant<SmallFloatType, SmallFloatType::kFloat8E5m2>{});
    case SmallFloatType::kFloat8E4m3fnuz:
      return body(std::integral_constant<SmallFloatType, SmallFloatType::kFloat8E4m3fnuz>{});
    case SmallFloatType::kFloat8E5m2fnuz:
      return body(std::integral_constant<SmallFloatType, SmallFloatType::kFloat8E5m2fnuz>{});
    case SmallFloatType::kFloat8E8m0fnu:
      return body(std::integral_constant<SmallFloatType, SmallFloatType::kFloat8E8m0fnu>{});
    case SmallFloatType::kFloat6E2m3fn:
      return body(std::integral_constant<SmallFloatType, SmallFloatType::kFloat6E2m3fn>{});
    case SmallFloatType::kFloat6E3m2fn:
      return body(std::integral_constant<SmallFloatType, SmallFloatType::kFloat6E3m2fn>{});
    default:
      return body(std::integral_constant<SmallFloatType, SmallFloatType::kFloat4E2m1fn>{});
  }
}

constexpr std::uint32_t kInfinity32 = 0x7f800000, kNan32 = 0x7fc00000;

// --- to small floats
// --------------------------------------------------------------------------------------------------

// The code of a finite magnitude, given by its float32 bits, if exponents had no upper end.
LOWBIT_HOST_DEVICE inline std::uint32_t rounded_magnitude(const SmallFloat& f, std::uint32_t bits) {
  // The value is significand · 2^(exponent − 23).
  const bool normal = bits >= 0x800000U;
  const std::uint32_t significand = (bits & 0x7fffffU) | (normal ? 0x800000U : 0U);
  const int exponent = (normal ? static_cast<int>(bits >> 23) : 1) - 127;
  // The result is a multiple of 2^(leading − mantissa_bits): so many low bits of the significand go.
  const int leading = exponent > f.lowest_exponent() ? exponent : f.lowest_exponent();
  const int dropped = 23 - f.mantissa_bits + (leading - exponent);
  if (dropped > 24) return 0;  // less than half of the smallest number
  const std::uint32_t kept = significand >> dropped, rest = significand & ((1U << dropped) - 1);
  const std::uint32_t half = 1U << (dropped - 1);
  const bool up = rest > half || (rest == half && kept % 2 == 1);
  // The leading bit of a normal number, and a carry out of the mantissa, count the exponent up by one.
  return (static_cast<std::uint32_t>(leading - f.lowest_exponent()) << f.mantissa_bits) + kept + (up ? 1 : 0);
}

LOWBIT_HOST_DEVICE inline std::uint8_t e8m0_of(float value, bool saturate) {
  constexpr std::uint8_t kLargest = 0xfe, kNan = 0xff;
  // In units of 2^-149 the least float32 values that round to 2^-127 and to 2^-126: the middle to the power below. A
  // tie goes up: of the significands 1 and 2, the even one.
  constexpr std::uint32_t kLeast = 0x300000, kNext = 0x600000;
  const std::uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffU;
  if (magnitude > kInfinity32) return kNan;
  if (bits != magnitude || bits < kLeast) return saturate ? 0 : kNan;
  if (bits < kNext) return 0;
  const std::uint32_t code = (bits + 0x400000U) >> 23;
  return code <= kLargest ? static_cast<std::uint8_t>(code) : saturate ? kLargest : kNan;
}

template <SmallFloatType Type>
LOWBIT_HOST_DEVICE inline std::uint8_t small_float_of(float value, bool saturate) {
  if constexpr (Type == SmallFloatType::kFloat8E8m0fnu) {
    return e8m0_of(value, saturate);
  } else {
    constexpr SmallFloat kFormat = small_float(Type);
    const std::uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffU;
    if (magnitude > kInfinity32) return static_cast<std::uint8_t>(kFormat.nan());
    std::uint32_t code;
    if (magnitude == kInfinity32) {
      code = saturate && kFormat.has_minus_zero() ? kFormat.largest() : kFormat.overflow();
    } else {
      code = rounded_magnitude(kFormat, magnitude);
      if (code > kFormat.largest()) code = saturate ? kFormat.largest() : kFormat.overflow();
    }
    if (bits != magnitude && (code != 0 || kFormat.has_minus_zero())) code |= kFormat.sign();
    return static_cast<std::uint8_t>(code);
  }
}

// --- from small floats
// ------------------------------------------------------------------------------------------------

LOWBIT_HOST_DEVICE inline float float_of_e8m0(std::uint8_t code) {
  if (code == 0xff) return float_of(kNan32);
  return code == 0 ? 0x1p-127F : float_of(static_cast<std::uint32_t>(code) << 23);
}

// Bits of the code above the format's are ignored.
template <SmallFloatType Type>
LOWBIT_HOST_DEVICE inline float float_of_small(std::uint8_t code) {
  if constexpr (Type == SmallFloatType::kFloat8E8m0fnu) {
    return float_of_e8m0(code);
  } else {
    constexpr SmallFloat kFormat = small_float(Type);
    const std::uint32_t sign = (code & kFormat.sign()) != 0 ? 0x80000000U : 0U;
    const std::uint32_t magnitude = code & (kFormat.sign() - 1);
    if (!kFormat.has_minus_zero() && sign != 0 && magnitude == 0) return float_of(sign | kNan32);
    if (magnitude > kFormat.largest()) {
      const bool infinite =
          kFormat.specials == SmallFloat::Specials::kInfinityAndNan && magnitude == kFormat.overflow();
      return float_of(sign | (infinite ? kInfinity32 : kNan32));
    }
    const std::uint32_t mantissa = magnitude & ((1U << kFormat.mantissa_bits) - 1);
    const int exponent = static_cast<int>(magnitude >> kFormat.mantissa_bits);
    if (exponent == 0) {
      constexpr int kUnit = kFormat.lowest_exponent() - kFormat.mantissa_bits;  // 2^kUnit is the smallest number
      const float value = static_cast<float>(mantissa) * float_of(static_cast<std::uint32_t>(kUnit + 127) << 23);
      return float_of(sign | bits_of(value));
    }
    return float_of(sign | (static_cast<std::uint32_t>(exponent - kFormat.bias + 127) << 23) |
                    (mantissa << (23 - kFormat.mantissa_bits)));
  }
}

}  // namespace
}  // namespace lowbit
