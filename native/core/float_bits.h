#pragma once

// float16 and bfloat16 as bit patterns: the definition that every instruction set must equal.
// Everything has internal linkage, because this header is compiled once per instruction set.

#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace lowbit {
namespace {

LOWBIT_HOST_DEVICE inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

LOWBIT_HOST_DEVICE inline float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

LOWBIT_HOST_DEVICE inline bool is_finite(float value) { return (bits_of(value) & 0x7fffffffU) < 0x7f800000U; }

// IEEE binary32 → binary16, round to nearest even. Overflow gives infinity. A NaN keeps its sign and the top ten bits
// of its payload and becomes quiet, as the conversion instructions of x86 and Arm do.
LOWBIT_HOST_DEVICE inline std::uint16_t float16_of(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U | ((magnitude >> 13) & 0x3ffU));
  if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // ≥ 65520 rounds past 65504
  if (magnitude < 0x38800000U) {  // below 2^-14: subnormal, in units of 2^-24
    // Adding 0.5 puts the unit 2^-24 into the last bit of the sum, so the addition rounds to nearest even.
    const std::uint32_t rounded = bits_of(float_of(magnitude) + 0.5F) - bits_of(0.5F);
    return static_cast<std::uint16_t>(sign | rounded);
  }
  const std::uint32_t odd = (magnitude >> 13) & 1U;
  const std::uint32_t rounded = (magnitude + 0xfffU + odd) >> 13;
  return static_cast<std::uint16_t>(sign | (rounded - ((127U - 15U) << 10)));
}

// binary16 → binary32 is exact. A signalling NaN becomes quiet.
LOWBIT_HOST_DEVICE inline float float_of_float16(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t magnitude = half & 0x7fffU;
  if (magnitude > 0x7c00U) return float_of(sign | 0x7fc00000U | (magnitude << 13));
  if (magnitude == 0x7c00U) return float_of(sign | 0x7f800000U);
  if (magnitude < 0x0400U) {  // units of 2^-24
    const float value = static_cast<float>(magnitude) * 0x1p-24F;
    return float_of(sign | bits_of(value));
  }
  return float_of(sign | ((magnitude << 13) + ((127U - 15U) << 23)));
}

// binary32 → bfloat16, round to nearest even. A NaN is truncated and made quiet.
LOWBIT_HOST_DEVICE inline std::uint16_t bfloat16_of(float value) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// bfloat16 → binary32 is exact, NaN payloads included.
LOWBIT_HOST_DEVICE inline float float_of_bfloat16(std::uint16_t value) {
  return float_of(static_cast<std::uint32_t>(value) << 16);
}

}  // namespace
}  // namespace lowbit
