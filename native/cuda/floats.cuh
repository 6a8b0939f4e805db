#pragma once

// Float conversion in registers: the bits of core/float_bits.h and core/small_floats.h, by the device's own
// instructions where they give the same.

#include "core/small_floats.h"
#include "cuda/device.cuh"

#if !defined(LOWBIT_CUDA_EMULATED)
#include <cuda_fp16.h>
#endif

namespace lowbit {

__device__ inline float float_of_float16_fast(std::uint16_t half) {
#if defined(__CUDA_ARCH__)
  if ((half & 0x7fffU) > 0x7c00U) return float_of_float16(half);  // what the instruction makes of payloads is not said
  return __half2float(__ushort_as_half(half));
#else
  return float_of_float16(half);
#endif
}

__device__ inline std::uint16_t float16_of_fast(float value) {
#if defined(__CUDA_ARCH__)
  if (value != value) return float16_of(value);  // the instruction drops payloads
  return __half_as_ushort(__float2half_rn(value));
#else
  return float16_of(value);
#endif
}

// E4M3FN and E5M2, saturating, which have instructions from compute capability 8.9 on.
template <SmallFloatType Type>
__device__ inline std::uint8_t small_float_of_fast(float value, bool saturate) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  if constexpr (Type == SmallFloatType::kFloat8E4m3fn || Type == SmallFloatType::kFloat8E5m2) {
    if (saturate) {
      std::uint16_t pair;
      if constexpr (Type == SmallFloatType::kFloat8E4m3fn) {
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0F), "f"(value));
      } else {
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0F), "f"(value));
      }
      return static_cast<std::uint8_t>(pair);
    }
  }
#endif
  return small_float_of<Type>(value, saturate);
}

}  // namespace lowbit
