#pragma once

// Arithmetic on pairs of float16 or bfloat16 in a register, rounded to nearest even.

#include "core/dtype.h"
#include "core/float_bits.h"
#include "cuda/device.cuh"

namespace lowbit {

#if defined(LOWBIT_CUDA_EMULATED)
namespace emulator {

template <FloatType Type>
float half_of_pair(unsigned pair, int i) {
  const auto bits = static_cast<std::uint16_t>(pair >> (16 * i));
  return Type == FloatType::kFloat16 ? float_of_float16(bits) : float_of_bfloat16(bits);
}
template <FloatType Type, typename Operation>
unsigned pair_by_pair(const Operation& operation) {
  unsigned result = 0;
  for (int i = 0; i < 2; i++) {
    const float value = operation(i);
    result |= static_cast<unsigned>(Type == FloatType::kFloat16 ? float16_of(value) : bfloat16_of(value)) << (16 * i);
  }
  return result;
}

}  // namespace emulator
#endif

// a − b of float16. (Bfloat16 has no such instruction before compute capability 9.0: fused_pairs() with 1 takes its
// place.)
__device__ inline unsigned subtract_float16_pairs(unsigned a, unsigned b) {
#if defined(LOWBIT_CUDA_EMULATED)
  using emulator::half_of_pair;
  constexpr FloatType kType = FloatType::kFloat16;
  return emulator::pair_by_pair<kType>([&](int i) { return half_of_pair<kType>(a, i) - half_of_pair<kType>(b, i); });
#else
  unsigned result;
  asm("sub.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
#endif
}

// a · b + c, rounded once. Bfloat16 from compute capability 8.0 on; before, it must not be called.
template <FloatType Type>
__device__ inline unsigned fused_pairs(unsigned a, unsigned b, unsigned c) {
#if defined(LOWBIT_CUDA_EMULATED)
  using emulator::half_of_pair;
  return emulator::pair_by_pair<Type>(
      [&](int i) { return std::fmaf(half_of_pair<Type>(a, i), half_of_pair<Type>(b, i), half_of_pair<Type>(c, i)); });
#else
  unsigned result;
  if constexpr (Type == FloatType::kFloat16) {
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  } else {
#if __CUDA_ARCH__ >= 800
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
#else
    result = a | b | c;
    __trap();
#endif
  }
  return result;
#endif
}

}  // namespace lowbit
