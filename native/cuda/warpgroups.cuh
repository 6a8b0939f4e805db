#pragma once

// Products of whole warp groups, of compute capability 9.0 alone: 128 threads multiply 64 rows with matrices in shared
// memory that are read while they go on. Only where LOWBIT_HAS_WARPGROUPS.
//
// Matrices lie in shared memory by rows of 128 bytes, 1024-byte aligned, with chunk c of row r at c ^ (r % 8). With w
// the warp of the group, g = lane / 4 and t = lane % 4, c[4j] and c[4j + 1] are row 16w + g, columns 8j + 2t and 8j +
// 2t + 1 of the result; c[4j + 2] and c[4j + 3] eight rows further.
//
// Between commit_products() and the wait for it, neither sums nor operands may be touched, in registers or in shared
// memory. Registers that were written since the last products are held (hold()) before begin_products(), sums once more
// after the wait; the emulator gives wrong sums where that is forgotten.
//
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions".

#include <type_traits>

#include "cuda/device.cuh"
#include "cuda/tensor_cores.cuh"

#if defined(LOWBIT_CUDA_EMULATED)
#include "test/cuda/emulated_groups.h"
#endif

namespace lowbit {

// Whether streams use them where the environment variable LOWBIT_CUDA_WARPGROUPS says nothing: not until a device has
// shown that they are right and faster.
constexpr bool kUsesWarpGroups = false;
// Layers use them from this many rows on.
constexpr std::size_t kRowsForWarpGroups = 65;

}  // namespace lowbit

#if defined(LOWBIT_CUDA_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LOWBIT_HAS_WARPGROUPS 1

namespace lowbit {

// Says where a matrix is: rows of 128 swizzled bytes, eight rows 1024 bytes apart.
__device__ inline std::uint64_t matrix_descriptor(const void* shared) {
  constexpr std::uint64_t kSwizzled128 = std::uint64_t{1} << 62, kEightRows = std::uint64_t{1024 >> 4} << 32;
  constexpr std::uint64_t kUnused = std::uint64_t{1} << 16;
  return kSwizzled128 | kEightRows | kUnused | ((shared_address(shared) & 0x3ffffU) >> 4);
}
// The same matrix, 32 bytes further along its rows.
__device__ inline std::uint64_t next_columns(std::uint64_t descriptor) { return descriptor + (32 >> 4); }

// What threads wrote to shared memory becomes visible to the products, once they have met at a barrier after it.
__device__ inline void publish_to_products() {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::publish_copies();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Before the first product, and whenever its registers were written since the last.
__device__ inline void begin_products() {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::begin_products();
#else
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
// Ends a group of products.
__device__ inline void commit_products() {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::commit_products();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Waits until no more than the last `Groups` groups are under way.
template <int Groups>
__device__ inline void wait_for_products() {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::wait_for_products(Groups);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(Groups) : "memory");
#endif
}
// Keeps the compiler from moving what is done with registers of products past this place.
template <typename Register, int Count>
__device__ inline void hold(Register (&c)[Count]) {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::hold(c, sizeof c);
#else
#pragma unroll
  for (int i = 0; i < Count; i++) {
    if constexpr (std::is_same_v<Register, float>) {
      asm volatile("" : "+f"(c[i])::"memory");
    } else {
      asm volatile("" : "+r"(c[i])::"memory");
    }
  }
#endif
}

// c (+)= A · Bᵀ for A[64, 32] and B[256, 32] of signed bytes: added to what is there if it `adds`.
__device__ inline void multiply_group_int8(int (&c)[128], std::uint64_t a, std::uint64_t b, bool adds) {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::multiply_group({emulator::GroupElement::kInt8, 256, adds, nullptr, a, b, c});
#else
  asm volatile(
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "
      "%59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, "
      "%78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, "
      "%97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, "
      "%113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
      "}, %128, %129, adds;\n}\n"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]), "+r"(c[4]), "+r"(c[5]), "+r"(c[6]), "+r"(c[7]), "+r"(c[8]),
        "+r"(c[9]), "+r"(c[10]), "+r"(c[11]), "+r"(c[12]), "+r"(c[13]), "+r"(c[14]), "+r"(c[15]), "+r"(c[16]),
        "+r"(c[17]), "+r"(c[18]), "+r"(c[19]), "+r"(c[20]), "+r"(c[21]), "+r"(c[22]), "+r"(c[23]), "+r"(c[24]),
        "+r"(c[25]), "+r"(c[26]), "+r"(c[27]), "+r"(c[28]), "+r"(c[29]), "+r"(c[30]), "+r"(c[31]), "+r"(c[32]),
        "+r"(c[33]), "+r"(c[34]), "+r"(c[35]), "+r"(c[36]), "+r"(c[37]), "+r"(c[38]), "+r"(c[39]), "+r"(c[40]),
        "+r"(c[41]), "+r"(c[42]), "+r"(c[43]), "+r"(c[44]), "+r"(c[45]), "+r"(c[46]), "+r"(c[47]), "+r"(c[48]),
        "+r"(c[49]), "+r"(c[50]), "+r"(c[51]), "+r"(c[52]), "+r"(c[53]), "+r"(c[54]), "+r"(c[55]), "+r"(c[56]),
        "+r"(c[57]), "+r"(c[58]), "+r"(c[59]), "+r"(c[60]), "+r"(c[61]), "+r"(c[62]), "+r"(c[63]), "+r"(c[64]),
        "+r"(c[65]), "+r"(c[66]), "+r"(c[67]), "+r"(c[68]), "+r"(c[69]), "+r"(c[70]), "+r"(c[71]), "+r"(c[72]),
        "+r"(c[73]), "+r"(c[74]), "+r"(c[75]), "+r"(c[76]), "+r"(c[77]), "+r"(c[78]), "+r"(c[79]), "+r"(c[80]),
        "+r"(c[81]), "+r"(c[82]), "+r"(c[83]), "+r"(c[84]), "+r"(c[85]), "+r"(c[86]), "+r"(c[87]), "+r"(c[88]),
        "+r"(c[89]), "+r"(c[90]), "+r"(c[91]), "+r"(c[92]), "+r"(c[93]), "+r"(c[94]), "+r"(c[95]), "+r"(c[96]),
        "+r"(c[97]), "+r"(c[98]), "+r"(c[99]), "+r"(c[100]), "+r"(c[101]), "+r"(c[102]), "+r"(c[103]), "+r"(c[104]),
        "+r"(c[105]), "+r"(c[106]), "+r"(c[107]), "+r"(c[108]), "+r"(c[109]), "+r"(c[110]), "+r"(c[111]), "+r"(c[112]),
        "+r"(c[113]), "+r"(c[114]), "+r"(c[115]), "+r"(c[116]), "+r"(c[117]), "+r"(c[118]), "+r"(c[119]), "+r"(c[120]),
        "+r"(c[121]), "+r"(c[122]), "+r"(c[123]), "+r"(c[124]), "+r"(c[125]), "+r"(c[126]), "+r"(c[127])
      : "l"(a), "l"(b), "r"(adds ? 1 : 0));
#endif
}

// The same for B[128, 32], with elements of E4M3FN.
__device__ inline void multiply_group_float8(float (&c)[64], std::uint64_t a, std::uint64_t b, bool adds) {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::multiply_group({emulator::GroupElement::kFloat8, 128, adds, nullptr, a, b, c});
#else
  asm volatile(
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "
      "%59, %60, %61, %62, %63"
      "}, %64, %65, adds, 1, 1;\n}\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]),
        "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]),
        "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]),
        "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]), "+f"(c[32]),
        "+f"(c[33]), "+f"(c[34]), "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]),
        "+f"(c[41]), "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]),
        "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]), "+f"(c[56]),
        "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63])
      : "l"(a), "l"(b), "r"(adds ? 1 : 0));
#endif
}

// c (+)= A · Bᵀ for A[64, 16] in registers, whose rows 16w … 16w + 15 are the operand A of tensor_cores.cuh in warp w,
// and B[64, 16] of float16 or bfloat16. The registers of A must stay as they are until the product has been waited for.
template <FloatType Half>
__device__ inline void multiply_group(float (&c)[32], const unsigned (&a)[4], std::uint64_t b, bool adds) {
#if defined(LOWBIT_CUDA_EMULATED)
  emulator::multiply_group(
      {Half == FloatType::kFloat16 ? emulator::GroupElement::kFloat16 : emulator::GroupElement::kBfloat16, 64, adds, a,
       0, b, c});
#else
  if constexpr (Half == FloatType::kFloat16) {
    asm volatile(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
        "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, {%32, %33, %34, %35}, %36, adds, 1, 1, 0;\n}\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]),
          "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]),
          "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]),
          "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds ? 1 : 0));
  } else {
    asm volatile(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
        "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, {%32, %33, %34, %35}, %36, adds, 1, 1, 0;\n}\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]),
          "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]),
          "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]),
          "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds ? 1 : 0));
  }
#endif
}

}  // namespace lowbit

#endif
