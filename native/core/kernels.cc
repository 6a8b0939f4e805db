#include "core/kernels.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "core/cpu.h"

namespace lowbit {
namespace {

[[maybe_unused]] bool always() { return true; }
[[maybe_unused]] bool has_avx2() { return cpu_features().avx2; }
[[maybe_unused]] bool has_avx512() { return cpu_features().avx512; }
[[maybe_unused]] bool has_avxvnni() { return cpu_features().avxvnni; }
[[maybe_unused]] bool has_avx512vnni() { return cpu_features().avx512vnni; }
[[maybe_unused]] bool has_avx512vpopcnt() { return cpu_features().avx512vpopcnt; }
[[maybe_unused]] bool has_neon() { return cpu_features().neon; }
[[maybe_unused]] bool has_neondot() { return cpu_features().neondot; }
[[maybe_unused]] bool has_neoni8mm() { return cpu_features().neoni8mm; }

// An instruction set that adds dot products of bytes to another one has its own matrix products, one that counts bits
// has its own products of bits, and nothing else.
#define LOWBIT_TABLE(isa, description, base, products, counts)                                                      \
  constexpr Kernels isa##_table {                                                                                   \
    #isa, description, has_##isa, &base::kCast, &base::kAffine, &base::kCodebook, &base::kCompare, &base::kDecoder, \
        &base::kBlocks, &base::kFakeQuantize, &base::kObserve, &counts::kBits, &base::kRepack, &base::kLinalg,      \
        &base::kHqq, &products::kMatmul, &base::kLogits                                                             \
  }

constexpr auto has_scalar = always;
LOWBIT_TABLE(scalar, "portable C++", scalar, scalar, scalar);
#if LOWBIT_HAVE_AVX2
LOWBIT_TABLE(avx2, "AVX2, FMA, F16C", avx2, avx2, avx2);
#endif
#if LOWBIT_HAVE_AVX512
LOWBIT_TABLE(avx512, "AVX-512 F, BW, VL, DQ", avx512, avx2, avx512);
#endif
#if LOWBIT_HAVE_AVXVNNI
LOWBIT_TABLE(avxvnni, "AVX2, FMA, F16C, AVX-VNNI", avx2, avxvnni, avx2);
#endif
#if LOWBIT_HAVE_AVX512VNNI
LOWBIT_TABLE(avx512vnni, "AVX-512 F, BW, VL, DQ, VNNI", avx512, avx512vnni, avx512);
#endif
#if LOWBIT_HAVE_AVX512VPOPCNT
LOWBIT_TABLE(avx512vpopcnt, "AVX-512 F, BW, VL, DQ, VNNI, VPOPCNTDQ", avx512, avx512vnni, avx512vpopcnt);
#endif
#if LOWBIT_HAVE_NEON
LOWBIT_TABLE(neon, "AArch64 Advanced SIMD", neon, neon, neon);
#endif
#if LOWBIT_HAVE_NEONDOT
LOWBIT_TABLE(neondot, "AArch64 Advanced SIMD, DotProd", neon, neondot, neon);
#endif
#if LOWBIT_HAVE_NEONI8MM
LOWBIT_TABLE(neoni8mm, "AArch64 Advanced SIMD, DotProd, I8MM", neon, neoni8mm, neon);
#endif

struct Choice {
  const Kernels* table;
  std::string error;
};

Choice choose() {
  const char* wanted = std::getenv("LOWBIT_ISA");
  if (wanted != nullptr && *wanted != '\0') {
    const Kernels* table = find_kernels(wanted);
    if (table != nullptr && table->supported()) return {table, ""};
    std::string available;
    for (std::size_t i = 0; i < kAllKernelsCount; i++) {
      if (!kAllKernels[i]->supported()) continue;
      if (!available.empty()) available += ", ";
      available += kAllKernels[i]->name;
    }
    const std::string why = table == nullptr ? "this build has no such instruction set"
                                             : "this processor does not support " + std::string(table->description);
    return {&scalar_table,
            "Expected LOWBIT_ISA to be one of " + available + " but received \"" + wanted + "\": " + why + "."};
  }
  for (std::size_t i = 0; i < kAllKernelsCount; i++) {
    if (kAllKernels[i]->supported()) return {kAllKernels[i], ""};
  }
  return {&scalar_table, ""};
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

}  // namespace

const Kernels* const kAllKernels[] = {
#if LOWBIT_HAVE_AVX512VPOPCNT
    &avx512vpopcnt_table,
#endif
#if LOWBIT_HAVE_AVX512VNNI
    &avx512vnni_table,
#endif
#if LOWBIT_HAVE_AVX512
    &avx512_table,
#endif
#if LOWBIT_HAVE_AVXVNNI
    &avxvnni_table,
#endif
#if LOWBIT_HAVE_AVX2
    &avx2_table,
#endif
#if LOWBIT_HAVE_NEONI8MM
    &neoni8mm_table,
#endif
#if LOWBIT_HAVE_NEONDOT
    &neondot_table,
#endif
#if LOWBIT_HAVE_NEON
    &neon_table,
#endif
    &scalar_table,
};
const std::size_t kAllKernelsCount = sizeof(kAllKernels) / sizeof(kAllKernels[0]);

const Kernels* find_kernels(const char* name) {
  for (std::size_t i = 0; i < kAllKernelsCount; i++) {
    if (std::strcmp(kAllKernels[i]->name, name) == 0) return kAllKernels[i];
  }
  return nullptr;
}

const Kernels& kernels() { return *choice().table; }

const char* kernels_error() { return choice().error.empty() ? nullptr : choice().error.c_str(); }

}  // namespace lowbit
