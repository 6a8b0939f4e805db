#pragma once

// Kernel helpers must be inlined: they live in headers that are compiled once per instruction set, and an out-of-line
// copy would cost more than the work it does.
#if defined(_MSC_VER) && !defined(__clang__)
#define LOWBIT_INLINE __forceinline
#else
#define LOWBIT_INLINE inline __attribute__((always_inline))
#endif
