#pragma once

// From packed weights to the operand A of matrix products (tensor_cores.cuh), in registers.
//
// A packed weight consists of tiles of sixteen rows, these of blocks of 128 columns, these of steps of 32. Lane 4g + t
// of a warp has of each step the columns 8t … 8t + 7 of rows g and g + 8: as pairs p[0] … p[3] of a row, they are its
// parts of two matrices of sixteen columns, whose order is that of sixteen consecutive bytes of x at the same columns.
// Words of a lane come in this order: step, row, columns; four words are a unit, which lanes load together:
//
//   4 bits     a word a row: columns 0, 2, 4, 6, 1, 3, 5, 7 from the low end, so that a mask and an OR make a pair of
//              halves 1024 + code of float16, or 128 + code of bfloat16; indices of tables in the order of columns
//   8 bits     two words a row, in the order of columns
//   float16    four words a row
//
// Scales lie in groups of `kScales` = 1, 2 or 4 for a block (or one for several blocks): for each row g of a tile its
// scales, each followed by that of row g + 8; zero points alike.
//
// Integers are exact in either type: |code − zero point| ≤ 255. Sources: Kim et al., "Who Says Elephants Can't Run"
// (arXiv:2211.10017), for integers in the mantissa; Frantar et al., "MARLIN" (arXiv:2408.11743), for the order.

#include "cuda/half_pairs.cuh"
#include "ops/matmul/linear_cuda.h"

namespace lowbit {
namespace {

constexpr unsigned kRowsOfTile = 16, kColumnsOfBlock = 128, kColumnsOfStep = 32, kStepsOfBlock = 4;

// Words of a row in a step.
constexpr int words_of(CudaWeightFormat format) {
  switch (format) {
    case CudaWeightFormat::kBits4:
    case CudaWeightFormat::kTable4:
      return 1;
    case CudaWeightFormat::kFloat16:
      return 4;
    default:
      return 2;
  }
}
// Units of a lane in a block.
constexpr int units_of(CudaWeightFormat format) { return 2 * words_of(format); }
constexpr bool is_integer(CudaWeightFormat format) {
  return format == CudaWeightFormat::kBits4 || format == CudaWeightFormat::kBits8;
}

// Tables are multiplied by a number that makes their entries nearly numbers of the half type, and products divided by
// it: FP4 then is integers; of NF4, for equally frequent codes, the error relative to the values is 6e-4 for bfloat16
// and 6e-5 for float16 instead of 1.1e-3 and 1.6e-4.
constexpr float table_factor(Codebook book, FloatType half) {
  if (book == Codebook::kFp4) return 192.0F;
  if (book == Codebook::kNf4) return half == FloatType::kFloat16 ? 1.67768F : 1.437005F;
  return 1.0F;
}

// Entries of a table: for each byte its two values, in a copy for each lane, so that no two read the same bank.
constexpr unsigned kTableBytes = 256 * kWarp * 4;

// What zero points become, for one row.
template <CudaWeightFormat Format, FloatType Half>
struct Zero;

template <>
struct Zero<CudaWeightFormat::kBits4, FloatType::kFloat16> {
  unsigned low, high;  // 1024 + z; −(64 + z)
  __device__ void set(unsigned z) {
    low = 0x64006400U | z * 0x00010001U;
    high = subtract_float16_pairs(0xd400d400U, subtract_float16_pairs(low, 0x64006400U));
  }
};
template <>
struct Zero<CudaWeightFormat::kBits4, FloatType::kBfloat16> {
  unsigned low;  // −(128 + z)
  __device__ void set(unsigned z) { low = 0xc300c300U | z * 0x00010001U; }
};
template <>
struct Zero<CudaWeightFormat::kBits8, FloatType::kFloat16> {
  unsigned low;  // 1024 + z
  __device__ void set(unsigned z) { low = 0x64006400U | z * 0x00010001U; }
};
// Codes 128 · h + l: (128 + l) − (128 + z) + 128 · h, or where 128 + z is no bfloat16, (128 + l) − z − 128 · (1 − h).
template <>
struct Zero<CudaWeightFormat::kBits8, FloatType::kBfloat16> {
  unsigned low, flip, high;
  __device__ void set(unsigned z) {
    low = 0xc300c300U | (z & 127U) * 0x00010001U;  // −(128 + z), or −z
    flip = z < 128 ? 0 : 0x00800080U;
    high = z < 128 ? 0x42804280U : 0xc280c280U;  // ±64
  }
};
template <CudaWeightFormat Format, FloatType Half>
struct Zero {
  __device__ void set(unsigned) {}
};

// (word & mask) | bits. Of constants, the compiler would make two instructions, each with one of them.
__device__ inline unsigned masked_or(unsigned word, unsigned mask, unsigned bits) {
#if defined(LOWBIT_CUDA_EMULATED)
  return (word & mask) | bits;
#else
  unsigned result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
  return result;
#endif
}

// The pairs of one row in a step. `table`: of kTable4, in shared memory; `lane` · 4 is the place of the lane's copy.
template <CudaWeightFormat Format, FloatType Half>
__device__ inline void decode(const unsigned* words, const Zero<Format, Half>& zero, const unsigned char* table,
                              unsigned lane, unsigned (&pairs)[4]) {
  (void)zero, (void)table, (void)lane;
  constexpr bool kFloat16 = Half == FloatType::kFloat16;
  constexpr unsigned kOne = 0x3f803f80U;  // of bfloat16
  constexpr unsigned kMagic = kFloat16 ? 0x64006400U : 0x43004300U;
  if constexpr (Format == CudaWeightFormat::kBits4) {
    if constexpr (kFloat16) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const unsigned word = words[0] >> (8 * i);
        pairs[2 * i] = subtract_float16_pairs(masked_or(word, 0x000f000fU, kMagic), zero.low);
        pairs[2 * i + 1] = fused_pairs<Half>(masked_or(word, 0x00f000f0U, kMagic), 0x2c002c00U, zero.high);  // 1/16
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        pairs[i] = fused_pairs<Half>(masked_or(words[0] >> (4 * i), 0x000f000fU, kMagic), kOne, zero.low);
      }
    }
  } else if constexpr (Format == CudaWeightFormat::kTable4) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const unsigned at = i == 0 ? words[0] << 7 : words[0] >> (8 * i - 7);  // bytes times kWarp · 4
      pairs[i] = *reinterpret_cast<const unsigned*>(table + masked_or(at, 0xffU << 7, lane * 4));
    }
  } else if constexpr (Format == CudaWeightFormat::kFloat16) {
#pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] = words[i];
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const unsigned word = words[i / 2];
      if constexpr (Format == CudaWeightFormat::kBits8 && kFloat16) {
        pairs[i] = subtract_float16_pairs(__byte_perm(word, 0x64646464U, i % 2 == 0 ? 0x4140 : 0x4342), zero.low);
      } else if constexpr (Format == CudaWeightFormat::kBits8) {
        const unsigned spread = __byte_perm(word, 0, i % 2 == 0 ? 0x4140 : 0x4342);
        const unsigned low = fused_pairs<Half>(masked_or(spread, 0x007f007fU, kMagic), kOne, zero.low);
        const unsigned high = ((spread ^ zero.flip) & 0x00800080U) << 7;  // 2 or 0
        pairs[i] = fused_pairs<Half>(high, zero.high, low);
      } else {
        const unsigned spread = __byte_perm(word, 0, i % 2 == 0 ? 0x1404 : 0x3424);  // in the high bytes
        if constexpr (Format == CudaWeightFormat::kFloat8E5m2 && kFloat16) {
          pairs[i] = spread;
        } else {
          // The exponent goes to its place, its bias does not: float16 lacks 2^8 (see missing_factor()), to bfloat16 it
          // is given here, as sums of products would leave the range of float32.
          constexpr bool kE4m3 = Format == CudaWeightFormat::kFloat8E4m3fn;
          constexpr int kShift = kFloat16 ? 1 : kE4m3 ? 4 : 3;
          const unsigned shifted = (spread & 0x80008000U) | (spread & 0x7f007f00U) >> kShift;
          if constexpr (kFloat16) {
            pairs[i] = shifted;
          } else {
            pairs[i] = fused_pairs<Half>(shifted, kE4m3 ? 0x7b807b80U : 0x77807780U, 0x80008000U);  // 2^120, 2^112
          }
        }
      }
    }
  }
}

constexpr float missing_factor(CudaWeightFormat format, FloatType half) {
  return format == CudaWeightFormat::kFloat8E4m3fn && half == FloatType::kFloat16 ? 256.0F : 1.0F;
}

}  // namespace
}  // namespace lowbit
