#pragma once

namespace lowbit {

// What the processor can run and the operating system saves on a context switch.
struct CpuFeatures {
  bool avx2 = false;    // AVX2, FMA and F16C
  bool avx512 = false;  // AVX-512 F, BW, VL and DQ
  bool neon = false;    // AArch64 Advanced SIMD
};

const CpuFeatures& cpu_features();

}  // namespace lowbit
