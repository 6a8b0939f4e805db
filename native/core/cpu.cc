#include "core/cpu.h"

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

#if defined(__aarch64__) || defined(_M_ARM64)
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <windows.h>
#endif
#endif

namespace lowbit {
namespace {

#if defined(__x86_64__) || defined(_M_X64)

struct Registers {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
  Registers r;
#if defined(_MSC_VER)
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<std::uint32_t>(out[0]), static_cast<std::uint32_t>(out[1]), static_cast<std::uint32_t>(out[2]),
       static_cast<std::uint32_t>(out[3])};
#else
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

std::uint64_t enabled_state() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
#endif
}

CpuFeatures detect() {
  const auto bit = [](std::uint32_t word, int index) { return ((word >> index) & 1U) != 0; };
  constexpr std::uint64_t kYmmState = 0x06, kZmmState = 0xe6;
  CpuFeatures features;
  const Registers leaf1 = cpuid(1, 0);
  if (!bit(leaf1.ecx, 27)) return features;  // OSXSAVE: the system saves no vector registers
  const std::uint64_t state = enabled_state();
  const Registers leaf7 = cpuid(7, 0);
  features.avx2 = (state & kYmmState) == kYmmState && bit(leaf7.ebx, 5) && bit(leaf1.ecx, 12) && bit(leaf1.ecx, 29);
  features.avx512 = features.avx2 && (state & kZmmState) == kZmmState && bit(leaf7.ebx, 16) && bit(leaf7.ebx, 17) &&
                    bit(leaf7.ebx, 30) && bit(leaf7.ebx, 31);
  features.avx512vnni = features.avx512 && bit(leaf7.ecx, 11);
  features.avx512vpopcnt = features.avx512vnni && bit(leaf7.ecx, 14);
  features.avxvnni = features.avx2 && leaf7.eax >= 1 && bit(cpuid(7, 1).eax, 4);
  return features;
}

#else

CpuFeatures detect() {
  CpuFeatures features;
#if defined(__aarch64__) || defined(_M_ARM64)
  features.neon = true;  // part of the base architecture
#if defined(__linux__)
  constexpr unsigned long kDotProd = 1UL << 20, kI8mm = 1UL << 13;  // HWCAP_ASIMDDP, HWCAP2_I8MM
  features.neondot = (getauxval(AT_HWCAP) & kDotProd) != 0;
  features.neoni8mm = features.neondot && (getauxval(AT_HWCAP2) & kI8mm) != 0;
#elif defined(__APPLE__)
  const auto has = [](const char* name) {
    int value = 0;
    std::size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  features.neondot = has("hw.optional.arm.FEAT_DotProd");
  features.neoni8mm = features.neondot && has("hw.optional.arm.FEAT_I8MM");
#elif defined(_WIN32)
  constexpr DWORD kDotProd = 43;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
  features.neondot = IsProcessorFeaturePresent(kDotProd) != 0;
#endif
#endif
  return features;
}

#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace lowbit
