#pragma once

// What the kernels of linear_cuda.h share: their arguments, what becomes of sums, and how blocks that divide the
// columns add up.

#include "core/packed_codes.h"
#include "cuda/floats.cuh"
#include "cuda/stream.cuh"
#include "cuda/tensor_cores.cuh"
#include "ops/matmul/linear_cuda_decode.cuh"

namespace lowbit {

struct CudaProduct {
  // [m, x_stride] of the compute type, zeros to the end of the last block; rows are 16-byte aligned. For warp groups,
  // the pairs of 32 columns are transposed as a square of 4 × 4: see linear_groups_cuda.cu.
  const std::uint16_t* x;
  std::uint64_t x_stride;
  CudaFinding* finding;  // what of x is not finite is noted, or null
  unsigned m, rows, tiles, blocks;
  const uint4* codes;
  const unsigned char* scales;
  const unsigned char* zeros;  // or null: `zero` for all
  unsigned zero;
  bool half_scales;
  int scale_shift;             // a scale for 2^shift blocks, where blocks have one
  std::uint64_t scale_blocks;  // sets of scales of a tile
  unsigned splits;             // of the columns
  unsigned blocks_of_split;
  float* partials;
  unsigned* counters;  // zeros, which are left behind
  std::uint16_t table[16];
  // What becomes of a sum.
  float factor;
  const float* x_scales;  // of rows of x, or null
  const float* bias;
  Activation activation;
  const float* factors;  // [m, rows] that results are multiplied with, or null
  FloatType y_type;
  void* y;
};

// Products with up to so many rows of x are streamed.
constexpr std::uint64_t kStreamedRows = 16;

enum class CudaProductWay : std::uint8_t { kStreamed, kTiled, kGroups };

// How a product is divided among blocks.
struct CudaProductPlan {
  CudaProductWay way;
  unsigned shape;              // kTiled: of blocks
  unsigned row_tiles, tokens;  // of a block
  unsigned stages;             // kTiled: of the pipeline
  unsigned row_groups, token_groups, splits, blocks_of_split;
  std::size_t partials;  // floats
};

// The kernels, in files of their own as they are many. `scales`: of a block of columns, 1, 2 or 4.
CudaProductPlan plan_streamed(const CudaStream& stream, const CudaPackedLayout& layout, std::uint64_t m);
CudaStatus multiply_streamed(CudaStream& stream, const CudaProductPlan& plan, CudaWeightFormat format, FloatType half,
                             unsigned scales, const CudaProduct& product);
// kUnsupported: the device has too little shared memory.
CudaStatus plan_tiled(const CudaStream& stream, const CudaPackedLayout& layout, std::uint64_t m, CudaProductPlan* plan);
CudaStatus multiply_tiled(CudaStream& stream, const CudaProductPlan& plan, CudaWeightFormat format, FloatType half,
                          unsigned scales, const CudaProduct& product);
// For streams that use warp groups.
CudaProductPlan plan_groups(const CudaStream& stream, const CudaPackedLayout& layout, std::uint64_t m);
CudaStatus multiply_groups(CudaStream& stream, const CudaProductPlan& plan, CudaWeightFormat format, FloatType half,
                           unsigned scales, const CudaProduct& product);

// Two of the functions of LinearCuda.
CudaStatus cuda_weight_layout(const CudaWeightSource* source, CudaPackedLayout* layout);
CudaStatus cuda_prepack(CudaStream* stream, const CudaWeightSource* source, const CudaPackedLayout* layout,
                        void* memory);

// Scales of a block of columns for a row, and how many sets of them there are: one for each block, or for several.
inline unsigned cuda_scales_of_block(const CudaPackedLayout& layout) {
  return layout.group >= 128 ? 1 : static_cast<unsigned>(128 / layout.group);
}
inline std::uint64_t cuda_scale_sets(const CudaPackedLayout& layout) {
  const std::uint64_t blocks = layout.blocks < 1 ? 1 : layout.blocks;
  return layout.group < 128 ? blocks : (blocks * 128 + layout.group - 1) / layout.group;
}

// Counters for blocks that divide the columns, at the head of a stream's scratch memory.
constexpr std::size_t kProductCounters = kScratchZeros / sizeof(unsigned);

namespace {

// A format and a compute type that kernels are compiled for.
template <CudaWeightFormat Format, FloatType Half>
struct ProductCase {
  static constexpr CudaWeightFormat kFormat = Format;
  static constexpr FloatType kHalf = Half;
};
template <CudaWeightFormat Format, typename Call>
CudaStatus with_half(FloatType half, const Call& call) {
  if constexpr (Format != CudaWeightFormat::kFloat16) {
    if (half == FloatType::kBfloat16) return call(ProductCase<Format, FloatType::kBfloat16>{});
  }
  return call(ProductCase<Format, FloatType::kFloat16>{});
}
// call(a ProductCase).
template <typename Call>
CudaStatus with_case(CudaWeightFormat format, FloatType half, const Call& call) {
  switch (format) {
    case CudaWeightFormat::kBits4:
      return with_half<CudaWeightFormat::kBits4>(half, call);
    case CudaWeightFormat::kBits8:
      return with_half<CudaWeightFormat::kBits8>(half, call);
    case CudaWeightFormat::kTable4:
      return with_half<CudaWeightFormat::kTable4>(half, call);
    case CudaWeightFormat::kFloat8E4m3fn:
      return with_half<CudaWeightFormat::kFloat8E4m3fn>(half, call);
    case CudaWeightFormat::kFloat8E5m2:
      return with_half<CudaWeightFormat::kFloat8E5m2>(half, call);
    default:
      return with_half<CudaWeightFormat::kFloat16>(half, call);
  }
}

constexpr unsigned kProductThreads = 256, kProductWarps = kProductThreads / kWarp;

__device__ inline unsigned smaller(unsigned a, unsigned b) { return a < b ? a : b; }

// e^x as the processor's exponential() has it would cost more than it is worth here: this is accurate to some 2e-7.
__device__ inline float sigmoid_times(float x, float u) {
  const float e = expf(-u);
  return (x > -256.0F ? x : -256.0F) / (1.0F + e);
}

// The functions of matmul_math.h to within float32 rounding.
__device__ inline float activated(Activation activation, float x) {
  switch (activation) {
    case Activation::kSilu:
      return sigmoid_times(x, x);
    case Activation::kGelu:
      return x * 0.5F * erfcf(x * -0.70710678F);
    case Activation::kGeluTanh: {
      const float cubic = __fmaf_rn(x * x * x, 0.044715F, x);
      return sigmoid_times(x, cubic * 1.59576912F);
    }
    default:
      return x;
  }
}

__device__ inline float finished(const CudaProduct& p, unsigned token, unsigned row, float sum) {
  float value = sum * (p.x_scales == nullptr ? p.factor : p.factor * p.x_scales[token]);
  if (p.bias != nullptr) value += p.bias[row];
  value = activated(p.activation, value);
  return p.factors == nullptr ? value : value * p.factors[std::size_t{token} * p.rows + row];
}

__device__ inline void finish(const CudaProduct& p, unsigned token, unsigned row, float sum) {
  const float value = finished(p, token, row, sum);
  const std::size_t at = std::size_t{token} * p.rows + row;
  if (p.y_type == FloatType::kFloat32) {
    static_cast<float*>(p.y)[at] = value;
  } else {
    static_cast<std::uint16_t*>(p.y)[at] =
        p.y_type == FloatType::kFloat16 ? float16_of_fast(value) : bfloat16_of(value);
  }
}

// Whether one of eight elements is not finite: its exponent is all ones, and carries if its lowest bit is added again.
template <FloatType Half>
__device__ inline bool has_non_finite(const uint4& eight) {
  constexpr unsigned kExponents = Half == FloatType::kFloat16 ? 0x7c007c00U : 0x7f807f80U;
  constexpr unsigned kLowest = Half == FloatType::kFloat16 ? 0x04000400U : 0x00800080U;
  const unsigned carries = ((eight.x & kExponents) + kLowest) | ((eight.y & kExponents) + kLowest) |
                           ((eight.z & kExponents) + kLowest) | ((eight.w & kExponents) + kLowest);
  return (carries & 0x80008000U) != 0;
}

// Notes the first such element of what lane 4g + t reads of a token: of every `step`th block of columns from `begin`
// on. Apart, as it hardly ever runs and must not cost registers.
template <FloatType Half>
__device__ __noinline__ void note_non_finite(CudaFinding* finding, const std::uint16_t* x, std::size_t token_begin,
                                             unsigned begin, unsigned end, unsigned step, unsigned t) {
  constexpr unsigned kExponent = Half == FloatType::kFloat16 ? 0x7c00U : 0x7f80U;
  for (unsigned block = begin; block < end; block += step) {
    for (unsigned i = 0; i < kColumnsOfBlock / 4; i++) {
      const std::size_t at = token_begin + block * kColumnsOfBlock + i / 8 * kColumnsOfStep + 8 * t + i % 8;
      if ((x[at] & kExponent) != kExponent) continue;
      note(finding, Status::kNonFinite, at);
      return;
    }
  }
}

// Fills a table in shared memory; a barrier must follow.
__device__ inline void fill_table(const CudaProduct& p, unsigned* table) {
  for (unsigned byte = threadIdx.x; byte < 256; byte += blockDim.x) {
    const unsigned pair = p.table[byte & 15U] | static_cast<unsigned>(p.table[byte >> 4]) << 16;
    for (unsigned i = 0; i < kWarp; i++) table[byte * kWarp + (i + byte) % kWarp] = pair;
  }
}

template <FloatType Half>
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (Half == FloatType::kFloat16) {
    multiply_float16(c, a, b);
  } else {
    multiply_bfloat16(c, a, b);
  }
}

// The scales of a lane for `Count` groups side by side, as they lie in memory: for each group that of row g, and of row
// g + 8.
template <int Count>
struct Scales {
  unsigned words[2 * Count];

  __device__ void load(const unsigned char* scales, bool half) {
    if (half) {
      load_words<Count>(reinterpret_cast<const unsigned*>(scales));
    } else {
      load_words<2 * Count>(reinterpret_cast<const unsigned*>(scales));
    }
  }
  __device__ void get(bool half, int group, float (&pair)[2]) const {
    if (half) {
      const unsigned word = words[group];
      pair[0] = float_of_float16_bits(word & 0xffffU);
      pair[1] = float_of_float16_bits(word >> 16);
    } else {
      pair[0] = __uint_as_float(words[2 * group]);
      pair[1] = __uint_as_float(words[2 * group + 1]);
    }
  }

 private:
  static __device__ float float_of_float16_bits(unsigned bits) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(static_cast<std::uint16_t>(bits)));
#else
    return float_of_float16(static_cast<std::uint16_t>(bits));
#endif
  }
  template <int Words>
  __device__ void load_words(const unsigned* from) {
    if constexpr (Words == 1) {
      words[0] = __ldg(from);
    } else if constexpr (Words == 2) {
      const uint2 two = __ldg(reinterpret_cast<const uint2*>(from));
      words[0] = two.x, words[1] = two.y;
    } else {
#pragma unroll
      for (int i = 0; i < Words / 4; i++) {
        const uint4 four = __ldg(reinterpret_cast<const uint4*>(from) + i);
        words[4 * i] = four.x, words[4 * i + 1] = four.y, words[4 * i + 2] = four.z, words[4 * i + 3] = four.w;
      }
    }
  }
};

// The same of zero points, a byte each.
template <int Count>
struct ZeroBytes {
  unsigned words[(2 * Count + 3) / 4];

  __device__ void load(const unsigned char* zeros) {
    if constexpr (Count == 1) {
      words[0] = __ldg(reinterpret_cast<const std::uint16_t*>(zeros));
    } else {
#pragma unroll
      for (int i = 0; i < Count / 2; i++) words[i] = __ldg(reinterpret_cast<const unsigned*>(zeros) + i);
    }
  }
  __device__ unsigned get(int group, int upper) const {
    const int byte = 2 * group + upper;
    return words[byte / 4] >> (8 * (byte % 4)) & 0xffU;
  }
};

// Keeps an address in registers: the compiler would rather compute it again in every turn of a loop.
template <typename T>
__device__ inline T* kept(T* address) {
#if !defined(LOWBIT_CUDA_EMULATED)
  asm volatile("" : "+l"(address));
#endif
  return address;
}

// Whether this block is the last of `splits` to come here, which must all have written their partial sums before; what
// they wrote is then visible to it. Every thread must call it.
__device__ inline bool is_last_of(unsigned splits, unsigned* counter) {
  __threadfence();
  __syncthreads();
  int last = 0;
  if (threadIdx.x == 0) {
    last = atomicAdd(counter, 1U) == splits - 1 ? 1 : 0;
    if (last != 0) *counter = 0;
  }
  last = __syncthreads_or(last);
  __threadfence();
  return last != 0;
}

// What another block wrote, past the cache of this multiprocessor.
__device__ inline float load_written(const float* address) {
#if defined(__CUDA_ARCH__)
  return __ldcg(address);
#else
  return *address;
#endif
}

// The power of two that rows of floats are divided by: their largest magnitude, at most 2^128, then lies below 2^15.
__device__ inline float power_below(float largest) {
  int exponent = static_cast<int>(__float_as_uint(largest) >> 23 & 0xffU) - 14;
  exponent = exponent < 1 ? 1 : exponent;
  return __uint_as_float(static_cast<unsigned>(exponent) << 23);
}

}  // namespace
}  // namespace lowbit
