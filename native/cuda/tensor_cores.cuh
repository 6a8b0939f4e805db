#pragma once

// Products of small matrices that a warp makes together, and the copies that feed them. Fragments as PTX lays them out:
// with g = lane / 4 and t = lane % 4,
//
//   A, 16 × 16 of 16 bits   a[0] row g, columns 2t and 2t + 1; a[1] row g + 8; a[2], a[3] the same 8 columns further
//   B, 16 × 8 of 16 bits    b[0] column g, rows 2t and 2t + 1; b[1] 8 rows further
//   A, 16 × 32 of bytes     a[0] row g, columns 4t … 4t + 3; a[1] row g + 8; a[2], a[3] the same 16 columns further
//   B, 32 × 8 of bytes      b[0] column g, rows 4t … 4t + 3; b[1] 16 rows further
//   C, 16 × 8               c[0], c[1] row g, columns 2t and 2t + 1; c[2], c[3] row g + 8
//
// Source: PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions".

#include "core/float_bits.h"
#include "core/small_floats.h"
#include "cuda/device.cuh"

namespace lowbit {

#if defined(LOWBIT_CUDA_EMULATED)
namespace emulator {

// c += A · B, of `Elements` consecutive elements to a register; value_of_a(register, i) is one of them.
template <int Elements, typename Sum, typename Accumulator, typename ValueOfA, typename ValueOfB>
void matrix_product(Accumulator (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], const ValueOfA& value_of_a,
                    const ValueOfB& value_of_b) {
  struct Fragments {
    unsigned a[4], b[2];
  };
  Fragments own;
  std::memcpy(own.a, a, sizeof own.a);
  std::memcpy(own.b, b, sizeof own.b);
  std::memcpy(exchange(current.lane), &own, sizeof own);
  wait_for_warp(kAllLanes);
  const unsigned g = current.lane / 4, t = current.lane % 4;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned upper = i / 2, column = 2 * t + i % 2;
    Sum sum = 0;
    for (unsigned other = 0; other < 4; other++) {
      Fragments of_a, of_b;
      std::memcpy(&of_a, exchange(4 * g + other), sizeof of_a);
      std::memcpy(&of_b, exchange(4 * column + other), sizeof of_b);
      for (unsigned half = 0; half < 2; half++) {
        for (int e = 0; e < Elements; e++) {
          sum +=
              static_cast<Sum>(value_of_a(of_a.a[2 * half + upper], e)) * static_cast<Sum>(value_of_b(of_b.b[half], e));
        }
      }
    }
    c[i] = static_cast<Accumulator>(static_cast<Sum>(c[i]) + sum);
  }
  wait_for_warp(kAllLanes);
}

template <int Elements, typename Sum, typename Accumulator, typename Value>
void matrix_product(Accumulator (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], const Value& value) {
  matrix_product<Elements, Sum>(c, a, b, value, value);
}

}  // namespace emulator
#endif

// c += A · B with float16 elements and float32 sums.
__device__ inline void multiply_float16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::matrix_product<2, double>(
      c, a, b, [](unsigned word, int i) { return float_of_float16(static_cast<std::uint16_t>(word >> (16 * i))); });
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int half = 0; half < 2; half++) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}

// The same with bfloat16, from compute capability 8.0 on; before, it must not be called.
__device__ inline void multiply_bfloat16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::matrix_product<2, double>(
      c, a, b, [](unsigned word, int i) { return float_of_bfloat16(static_cast<std::uint16_t>(word >> (16 * i))); });
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  (void)c, (void)a, (void)b;
  __trap();
#endif
}

// c += A · B with signed bytes and exact int32 sums.
__device__ inline void multiply_int8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::matrix_product<4, std::int64_t>(
      c, a, b, [](unsigned word, int i) { return static_cast<std::int8_t>(word >> (8 * i)); });
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int upper = 0; upper < 2; upper++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                   : "+r"(c[2 * upper]), "+r"(c[2 * upper + 1])
                   : "r"(a[2 * half + upper]), "r"(b[half]));
    }
  }
#endif
}

// The same where the bytes of A are unsigned.
__device__ inline void multiply_uint8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::matrix_product<4, std::int64_t>(
      c, a, b, [](unsigned word, int i) { return static_cast<std::uint8_t>(word >> (8 * i)); },
      [](unsigned word, int i) { return static_cast<std::int8_t>(word >> (8 * i)); });
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int upper = 0; upper < 2; upper++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                   : "+r"(c[2 * upper]), "+r"(c[2 * upper + 1])
                   : "r"(a[2 * half + upper]), "r"(b[half]));
    }
  }
#endif
}

// c + the products of four signed bytes; of unsigned ones in `a`.
__device__ inline int dot_int8(unsigned a, unsigned b, int c) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
}
__device__ inline int dot_uint8(unsigned a, unsigned b, int c) {
#if defined(LOWBIT_CUDA_EMULATED)
  return __dp4a(static_cast<int>(a ^ 0x80808080U), static_cast<int>(b), c) +
         128 * __dp4a(0x01010101, static_cast<int>(b), 0);
#else
  int sum;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
#endif
}

// c += A · B with E4M3FN elements and float32 sums, from compute capability 8.9 on; before, it must not be called. (The
// sums of compute capability 9.0 keep fewer bits than float32: add them up outside every few hundred columns.)
__device__ inline void multiply_float8(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::matrix_product<4, double>(c, a, b, [](unsigned word, int i) {
    return float_of_small<SmallFloatType::kFloat8E4m3fn>(static_cast<std::uint8_t>(word >> (8 * i)));
  });
#elif __CUDA_ARCH__ >= 890
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  (void)c, (void)a, (void)b;
  __trap();
#endif
}

#if !defined(LOWBIT_CUDA_EMULATED)
__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
#endif

// Four 8 × 8 matrices of 16 bits from shared memory: lane 8i + r names the sixteen bytes of row r of matrix i; the lane
// gets columns 2t and 2t + 1 of row g of each.
__device__ inline void load_matrices(unsigned (&out)[4], const void* row) {
#if defined(LOWBIT_CUDA_EMULATED)
  for (unsigned i = 0; i < 4; i++) {
    const auto* of =
        static_cast<const unsigned char*>(emulator::read_lane(kAllLanes, row, 8 * i + emulator::current.lane / 4));
    std::memcpy(&out[i], of + 4 * (emulator::current.lane % 4), 4);
  }
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// Begins to copy sixteen bytes to shared memory; what is not `wanted` becomes zeros and is not read. Both are 16-byte
// aligned.
__device__ inline void copy_async(void* shared, const void* global, bool wanted) {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::copy_async(shared, wanted ? global : nullptr);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)), "r"(wanted ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(shared) = wanted ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
#endif
}

// Ends a group of copies.
__device__ inline void commit_copies() {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::commit_copies();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until no more than the last `Groups` groups of this thread's copies are under way; a barrier makes them visible
// to all.
template <int Groups>
__device__ inline void wait_for_copies() {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::wait_for_copies(Groups);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" : : "n"(Groups) : "memory");
#endif
}

// Sixteen bytes that are read once: they leave the first-level cache alone and go first from the second.
__device__ inline uint4 load_once(const uint4* address) {
#if defined(LOWBIT_CUDA_EMULATED)
  return *address;
#else
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address));
  return value;
#endif
}

}  // namespace lowbit
