#pragma once

// Kernel helpers must be inlined: they live in headers that are compiled once per instruction set, and an out-of-line
// copy would cost more than the work it does. What is rarely called must not be: it would take registers from the rest.
#if defined(_MSC_VER) && !defined(__clang__)
#define LOWBIT_INLINE __forceinline
#define LOWBIT_NOINLINE __declspec(noinline)
#else
#define LOWBIT_INLINE inline __attribute__((always_inline))
#define LOWBIT_NOINLINE __attribute__((noinline))
#endif

// Before a loop over memory that must stay a loop: processors recognize a stream by the address of the load
// instruction, and unrolling gives it a dozen of them.
#if defined(__clang__)
#define LOWBIT_NO_UNROLL _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define LOWBIT_NO_UNROLL _Pragma("GCC unroll 1")
#else
#define LOWBIT_NO_UNROLL
#endif

// Before a loop of constant length whose variables must live in registers.
#if defined(__clang__)
#define LOWBIT_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define LOWBIT_UNROLL _Pragma("GCC unroll 32")
#else
#define LOWBIT_UNROLL
#endif
