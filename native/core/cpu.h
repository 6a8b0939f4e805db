#pragma once

namespace lowbit {

// What the processor can run and the operating system saves on a context switch.
struct CpuFeatures {
  bool avx2 = false;           // AVX2, FMA and F16C
  bool avxvnni = false;        // AVX2 and AVX-VNNI
  bool avx512 = false;         // AVX-512 F, BW, VL and DQ
  bool avx512vnni = false;     // those and VNNI
  bool avx512vpopcnt = false;  // those and VPOPCNTDQ
  bool neon = false;           // AArch64 Advanced SIMD
  bool neondot = false;        // and DotProd
  bool neoni8mm = false;       // and both DotProd and I8MM
};

const CpuFeatures& cpu_features();

}  // namespace lowbit
