#pragma once

#include "core/status.h"
#include "core/thread_pool.h"
#include "ops/bits/bits_kernels.h"

namespace lowbit {

constexpr std::size_t packed_bit_bytes(std::size_t columns) { return columns / 8 + (columns % 8 != 0 ? 1 : 0); }
constexpr std::size_t packed_base3_bytes(std::size_t columns) {
  return columns / kDigitsPerByte + (columns % kDigitsPerByte != 0 ? 1 : 0);
}

// out[m, n] = start + step · popcount(row of a xor row of b), for rows of `columns` bits; what follows them in the last
// byte of a row is ignored. columns < 2^31.
struct BitProduct {
  const std::uint8_t *a, *b;
  std::size_t m, n, columns;
  std::int32_t start, step;
  std::int32_t* out;
};
Outcome xor_counts(const BitProduct& product, const CancelFlag* cancel = nullptr);
// out[m] = the same of row i of a and row i of b; n is ignored.
Outcome xor_counts_of_rows(const BitProduct& product, const CancelFlag* cancel = nullptr);

// Rows of signs to rows of bits: see bits_kernels.h. kNonFinite names the first NaN.
Outcome pack_signs(const void* x, FloatType type, std::size_t rows, std::size_t columns, std::uint8_t* bits,
                   const CancelFlag* cancel = nullptr);
Outcome pack_byte_signs(const std::int8_t* x, std::size_t rows, std::size_t columns, std::uint8_t* bits,
                        const CancelFlag* cancel = nullptr);
Outcome unpack_signs(const std::uint8_t* bits, std::size_t rows, std::size_t columns, std::int8_t* out,
                     const CancelFlag* cancel = nullptr);
Outcome unpack_float_signs(const std::uint8_t* bits, std::size_t rows, std::size_t columns, float* out,
                           const CancelFlag* cancel = nullptr);

// Rows of ternary digits, −1, 0 or 1 in bytes, to either of their packed forms and back. kInvalidCode names the first
// element that is none of them.
enum class TernaryPacking : std::uint8_t { kTwoBits, kBase3 };
constexpr std::size_t packed_ternary_bytes(TernaryPacking packing, std::size_t columns) {
  return packing == TernaryPacking::kTwoBits ? CodeType{2, true}.packed_bytes(columns) : packed_base3_bytes(columns);
}
Outcome pack_ternary(const std::int8_t* digits, TernaryPacking packing, std::size_t rows, std::size_t columns,
                     std::uint8_t* packed, const CancelFlag* cancel = nullptr);
Outcome unpack_ternary(const std::uint8_t* packed, TernaryPacking packing, std::size_t rows, std::size_t columns,
                       std::int8_t* digits, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
