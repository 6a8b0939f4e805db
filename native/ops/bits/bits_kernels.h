#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace lowbit {

// Signs as bits: 1 stands for +1, 0 for −1. They are packed along a row, the first in the low bit, and every row starts
// on a byte; unused high bits of its last byte are zero where this library writes them.
//
// Ternary digits −1, 0, 1 are packed at two bits each, in two's complement, as codes of int2 are (CodeType in
// core/dtype.h), or five to a byte, as Σ (digit i + 1) · 3^i, where digits past the end of a row count as −1: bytes lie
// in [0, 242].

constexpr std::size_t kBitLine = 64;
constexpr std::size_t kDigitsPerByte = 5;

// Rows of bits. Whole lines of 64 bytes are read where they are; what is left of every row lies in a line of its own,
// padded with zeros.
struct BitRows {
  const std::uint8_t* data;
  std::size_t stride;         // bytes from a row to the next
  const std::uint8_t* tails;  // [row][kBitLine], or nullptr: rows are whole lines
};

// out[r][c] = start + step · popcount(a[r] xor b[c]), modulo 2^32.
struct XorCountArguments {
  BitRows a, b;  // both with tails, or none
  std::size_t rows, columns;
  std::size_t line_bytes;  // of a row's whole lines
  std::int32_t start, step;
  std::int32_t* out;
  std::size_t out_stride;
};

struct BitsKernels {
  void (*xor_counts)(const XorCountArguments& arguments);

  // Bit i is 1 where x[i] ≥ 0, −0 included. False if any element is a NaN; its bit is then unspecified.
  bool (*pack_signs)(const void* x, FloatType type, std::size_t count, std::uint8_t* bits);
  // The same of bytes.
  void (*pack_byte_signs)(const std::int8_t* x, std::size_t count, std::uint8_t* bits);
  // out[i] = bit i ? 1 : −1
  void (*unpack_signs)(const std::uint8_t* bits, std::size_t count, std::int8_t* out);
  // out[i] = bit i ? value : −value
  void (*unpack_float_signs)(const std::uint8_t* bits, std::size_t count, float value, float* out);
  // Ternary digits packed four to a byte, in two's complement: −2, which is none, comes out as it is.
  void (*unpack_two_bits)(const std::uint8_t* bytes, std::size_t count, std::int8_t* out);
  // Ternary digits packed five to a byte. Bytes must lie in [0, 242].
  void (*unpack_base3)(const std::uint8_t* bytes, std::size_t count, std::int8_t* out);

  // Σ|x| of each group of `group_size` consecutive elements (the last may be shorter), in float64: element i of a group
  // is added in lane i mod 16; lanes i and i + 8 are then added, i and i + 4, i and i + 2, the last two. False if any
  // element is NaN or infinite; the results are then unspecified.
  bool (*abs_sums)(const void* x, FloatType type, std::size_t count, std::size_t group_size, double* sums);
  // The same over the elements of |x| > threshold, one threshold ≥ 0 for each group, and how many there are. Elements
  // must be finite.
  void (*sums_above)(const void* x, FloatType type, std::size_t count, std::size_t group_size, const float* thresholds,
                     double* sums, std::uint32_t* counts);
};

#define LOWBIT_DECLARE_BITS(isa)  \
  namespace isa {                 \
  extern const BitsKernels kBits; \
  }
LOWBIT_DECLARE_BITS(scalar)
LOWBIT_DECLARE_BITS(avx2)
LOWBIT_DECLARE_BITS(avx512)
LOWBIT_DECLARE_BITS(avx512vpopcnt)
LOWBIT_DECLARE_BITS(neon)
#undef LOWBIT_DECLARE_BITS

}  // namespace lowbit
