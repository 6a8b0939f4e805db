// Part of every vector vocabulary: floats of eight bits and fewer, as core/small_floats.h defines them. Included after
// core/simd/<isa>.h by the operations that need it.

#pragma once

#include "core/small_floats.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// The float32 bits of a code without its sign that stands for a normal number, or would if the code were no special
// one.
constexpr std::int32_t bits_of_magnitude(const SmallFloat& f, std::uint32_t code) {
  const std::uint32_t exponent = (code >> f.mantissa_bits) - static_cast<std::uint32_t>(f.bias - 127);
  const std::uint32_t mantissa = code & ((1U << f.mantissa_bits) - 1);
  return static_cast<std::int32_t>((exponent << 23) | (mantissa << (23 - f.mantissa_bits)));
}

LOWBIT_INLINE F32x16 broadcast_bits(std::int32_t bits) { return as_floats(broadcast(bits)); }

constexpr std::int32_t kSignBit32 = INT32_MIN, kExponentBits32 = 0x7f800000;

// float32 → codes: [−128, 127] for types of 8 bits, as narrow() wants them, else [0, 2^bits).
//
// Let 2^e be the power of two at or below |x|, or the smallest normal number if that is greater, and C = 2^(e + 23 − M)
// for a mantissa of M bits. The last bit of |x| + C is worth 2^(e − M), which is the last bit of the result: so the
// addition rounds as it should, subnormals included, and the low bits of the sum count in that unit. For the code, the
// leading bit that a normal number has there counts the exponent 1, and e − the lowest exponent comes on top: in the
// place of the exponent, where e itself is shifted, less a constant that the low bits of C bring along.
template <SmallFloatType Type>
class ToSmall {
 public:
  LOWBIT_INLINE explicit ToSmall(bool saturate)
      // Past the largest the code counts on, and the next one is what overflow gives; but for FNUZ, whose NaN is
      // special.
      : limit_(broadcast_bits(bits_of_magnitude(
            kFormat, saturate || !kFormat.has_minus_zero() ? kFormat.largest() : kFormat.overflow()))),
        finite_(broadcast(kFormat.has_minus_zero() ? kExponentBits32
                          : saturate               ? kExponentBits32 - 1
                                                   : kBelowOverflow)) {}

  LOWBIT_INLINE I32x16 operator()(F32x16 x) const {
    constexpr int kMantissa = kFormat.mantissa_bits, kLowest = kFormat.lowest_exponent() + 127;
    constexpr std::int32_t kMask = static_cast<std::int32_t>(kFormat.sign()) - 1;
    constexpr std::int32_t kLess = -(kLowest << kMantissa) & kMask;
    const I32x16 magnitude = magnitude_bits(x);
    const F32x16 clamped = min(as_floats(magnitude), limit_);  // a NaN becomes the limit
    const I32x16 exponent = bit_and(max(as_bits(clamped), broadcast(kLowest << 23)), broadcast(kExponentBits32));
    const I32x16 scale = add(exponent, broadcast(((23 - kMantissa) << 23) | kLess));
    const I32x16 sum = as_bits(add(clamped, as_floats(scale)));
    const I32x16 code = add(sum, shift_right<23 - kMantissa>(exponent));
    constexpr bool kByte = kFormat.bits() == 8;
    const I32x16 sign = kByte ? shift_right<24>(as_bits(x)) : shift_right_unsigned<32 - kFormat.bits()>(as_bits(x));
    I32x16 signed_code = bit_select(broadcast(kMask), code, sign);
    constexpr std::int32_t kNan = kFormat.has_minus_zero() ? static_cast<std::int32_t>(kFormat.nan()) : -128;
    if constexpr (!kFormat.has_minus_zero()) {
      signed_code = select(less(broadcast(-128), signed_code), signed_code, broadcast(0));
    }
    return select(less(finite_, magnitude), broadcast(kNan), signed_code);
  }

 private:
  static constexpr SmallFloat kFormat = small_float(Type);
  // The greatest float32 that does not round past the largest: the middle to the next one up does, as that is even.
  static constexpr std::int32_t kBelowOverflow =
      bits_of_magnitude(kFormat, kFormat.largest()) + (1 << (22 - kFormat.mantissa_bits)) - 1;

  F32x16 limit_;
  I32x16 finite_;  // greater magnitudes are NaN, or become it
};

template <>
class ToSmall<SmallFloatType::kFloat8E8m0fnu> {
 public:
  LOWBIT_INLINE explicit ToSmall(bool saturate)
      : below_(broadcast(saturate ? 0 : -1)), above_(broadcast(saturate ? -2 : -1)) {}

  LOWBIT_INLINE I32x16 operator()(F32x16 x) const {
    const I32x16 bits = as_bits(x), magnitude = magnitude_bits(x);
    const I32x16 exponent =
        shift_right<23>(add(as_bits(min(as_floats(magnitude), broadcast_bits(kExponentBits32))), broadcast(0x400000)));
    // As signed bytes, exponents from 128 on are negative.
    I32x16 code = select(less(broadcast(127), exponent), sub(exponent, broadcast(256)), exponent);
    code = select(less(broadcast(254), exponent), above_, code);
    code = select(less(bits, broadcast(0x600000)), broadcast(0), code);
    code = select(less(bits, broadcast(0x300000)), below_, code);
    return select(less(broadcast(kExponentBits32), magnitude), broadcast(-1), code);
  }

 private:
  I32x16 below_, above_;
};

constexpr float kE2m1Values[16] = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                   -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};

// Codes, with zeros above their bits, → float32.
//
// With the exponent's bias changed, a code's bits are a float32: for a subnormal number 2^(lowest − 1) · (1 + m/2^M),
// where lowest is the smallest normal exponent and m/2^M · 2^lowest was meant. That is twice as much less 2^lowest: the
// lesser of both, while for normal numbers it is the greater. All of it is exact, and no operand is a subnormal
// float32, which would cost some processors a hundred cycles.
template <SmallFloatType Type>
LOWBIT_INLINE F32x16 from_small(I32x16 codes) {
  if constexpr (Type == SmallFloatType::kFloat8E8m0fnu) {
    const I32x16 bits = max(shift_left<23>(codes), broadcast(0x400000));  // code 0 is 2^-127
    return as_floats(select(less(broadcast(254), codes), broadcast(static_cast<std::int32_t>(kNan32)), bits));
  } else if constexpr (Type == SmallFloatType::kFloat4E2m1fn) {
    return look_up(load<FloatType::kFloat32>(kE2m1Values), codes);
  } else {
    constexpr SmallFloat kFormat = small_float(Type);
    constexpr std::int32_t kLargest = static_cast<std::int32_t>(kFormat.largest());
    constexpr std::int32_t kInfinity = kExponentBits32, kNan = static_cast<std::int32_t>(kNan32);
    const I32x16 magnitude = bit_and(codes, broadcast(static_cast<std::int32_t>(kFormat.sign()) - 1));
    const F32x16 normal =
        as_floats(add(shift_left<23 - kFormat.mantissa_bits>(magnitude), broadcast((127 - kFormat.bias) << 23)));
    const F32x16 lowest = broadcast_bits(
        static_cast<std::int32_t>((static_cast<std::uint32_t>(kFormat.lowest_exponent() + 127) << 23) | 0x80000000U));
    I32x16 bits = as_bits(min(normal, fused(normal, broadcast(2.0F), lowest)));
    if constexpr (kFormat.specials == SmallFloat::Specials::kNan) {
      bits = select(less(broadcast(kLargest), magnitude), broadcast(kNan), bits);
    } else if constexpr (kFormat.specials == SmallFloat::Specials::kInfinityAndNan) {
      bits = select(less(broadcast(kLargest), magnitude), broadcast(kInfinity), bits);
      bits = select(less(broadcast(kLargest + 1), magnitude), broadcast(kNan), bits);
    }
    bits = bit_or(bits, bit_and(shift_left<32 - kFormat.bits()>(codes), broadcast(kSignBit32)));
    if constexpr (!kFormat.has_minus_zero()) {
      bits = select(less(broadcast(kSignBit32), bits), bits, broadcast(kSignBit32 | kNan));
    }
    return as_floats(bits);
  }
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
