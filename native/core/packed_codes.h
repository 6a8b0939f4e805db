#pragma once

// One element at a time of tensors as they lie in memory, for the scalar files and for tests. Everything has internal
// linkage, because this header is compiled once per instruction set.

#include "core/dtype.h"
#include "core/float_bits.h"

namespace lowbit {
namespace {

LOWBIT_HOST_DEVICE inline float element(const void* x, FloatType type, std::size_t i) {
  switch (type) {
    case FloatType::kFloat16:
      return float_of_float16(static_cast<const std::uint16_t*>(x)[i]);
    case FloatType::kBfloat16:
      return float_of_bfloat16(static_cast<const std::uint16_t*>(x)[i]);
    default:
      return static_cast<const float*>(x)[i];
  }
}

LOWBIT_HOST_DEVICE inline void set_element(void* out, FloatType type, std::size_t i, float value) {
  switch (type) {
    case FloatType::kFloat16:
      static_cast<std::uint16_t*>(out)[i] = float16_of(value);
      return;
    case FloatType::kBfloat16:
      static_cast<std::uint16_t*>(out)[i] = bfloat16_of(value);
      return;
    default:
      static_cast<float*>(out)[i] = value;
  }
}

// A code may straddle two bytes (3 bits); its bits come from the low end up.
LOWBIT_HOST_DEVICE inline int code_at(const std::uint8_t* codes, CodeType code, std::size_t i) {
  unsigned value = 0;
  for (unsigned b = 0; b < code.bits; b++) {
    const std::size_t bit = i * code.bits + b;
    value |= ((codes[bit / 8] >> (bit % 8)) & 1U) << b;
  }
  const int sign = code.is_signed ? 1 << (code.bits - 1) : 0;
  return (static_cast<int>(value) ^ sign) - sign;  // two's complement
}

LOWBIT_HOST_DEVICE inline void set_code(std::uint8_t* codes, CodeType code, std::size_t i, int value) {
  for (unsigned b = 0; b < code.bits; b++) {
    const std::size_t bit = i * code.bits + b;
    const std::uint8_t mask = static_cast<std::uint8_t>(1U << (bit % 8));
    codes[bit / 8] =
        static_cast<std::uint8_t>(((value >> b) & 1) != 0 ? codes[bit / 8] | mask : codes[bit / 8] & ~mask);
  }
}

}  // namespace
}  // namespace lowbit
