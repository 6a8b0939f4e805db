#pragma once

// The names of the vector vocabulary (core/simd/README.md) for one lane, which formulas written once over them need in
// the scalar files.

#include <cmath>
#include <cstdint>

#include "core/float_bits.h"
#include "core/macros.h"

#define LOWBIT_ISA scalar

namespace lowbit::scalar {
namespace {

LOWBIT_INLINE float like(float, float value) { return value; }
LOWBIT_INLINE float add(float a, float b) { return a + b; }
LOWBIT_INLINE float sub(float a, float b) { return a - b; }
LOWBIT_INLINE float mul(float a, float b) { return a * b; }
LOWBIT_INLINE float div(float a, float b) { return a / b; }
LOWBIT_INLINE float min(float a, float b) { return a < b ? a : b; }
LOWBIT_INLINE float max(float a, float b) { return a > b ? a : b; }
LOWBIT_INLINE float fused(float a, float b, float c) { return std::fmaf(a, b, c); }
LOWBIT_INLINE float fused_negative(float a, float b, float c) { return std::fmaf(-a, b, c); }
LOWBIT_INLINE std::int32_t round_to_int(float x) { return static_cast<std::int32_t>(std::lrintf(x)); }
LOWBIT_INLINE float to_float(std::int32_t x) { return static_cast<float>(x); }
LOWBIT_INLINE std::int32_t as_bits(float x) { return static_cast<std::int32_t>(bits_of(x)); }
LOWBIT_INLINE float as_floats(std::int32_t x) { return float_of(static_cast<std::uint32_t>(x)); }
LOWBIT_INLINE std::int32_t add(std::int32_t a, std::int32_t b) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
}
template <int N>
LOWBIT_INLINE std::int32_t shift_left(std::int32_t x) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(x) << N);
}

}  // namespace
}  // namespace lowbit::scalar
