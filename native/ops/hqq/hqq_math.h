#pragma once

// Logarithms and powers of two by series, for |e|^(power − 1): to a few units in the last place of float32.
// Everything has internal linkage, because this header is compiled once per instruction set.

#include <cstdint>

namespace lowbit {
namespace {

// log2 m = Σ kLog2[i] · s^(2i + 1), s = (m − 1) / (m + 1), for m in [√½, √2): kLog2[i] = 2 / ((2i + 1) ln 2).
constexpr float kLog2[] = {0x1.715476p+1F, 0x1.ec709ep-1F, 0x1.2776c6p-1F, 0x1.a61762p-2F, 0x1.484b14p-2F};
// 2^f = Σ kExp2[i] · f^i for f in [−½, ½]: kExp2[i] = (ln 2)^i / i!.
constexpr float kExp2[] = {0x1p0F,         0x1.62e43p-1F,   0x1.ebfbep-3F,   0x1.c6b08ep-5F,
                           0x1.3b2ab6p-7F, 0x1.5d87fep-10F, 0x1.430912p-13F, 0x1.ffcbfcp-17F};
constexpr std::int32_t kSqrtHalfBits = 0x3f3504f3;

}  // namespace
}  // namespace lowbit
