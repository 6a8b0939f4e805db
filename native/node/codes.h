#pragma once

#include "node/arguments.h"
#include "node/record.h"
#include "ops/affine/affine.h"
#include "ops/blocks/blocks.h"
#include "ops/codebook/codebook.h"
#include "ops/matmul/pack_rows.h"
#include "ops/matmul/packed_weight.h"

// What records say about quantized tensors: the same for the processor and for devices.

namespace lowbit::node {

struct Codes {
  CodeType type;
  AffineLayout layout;
  std::size_t count, rows;

  std::size_t bytes() const { return rows * type.packed_bytes(layout.columns); }
};

// blocks, blockSize, groupSize, blocksAlike, columns, bits, signed
constexpr std::size_t kCodesNumbers = 7;

// What dequantization takes as zero points: far past any dtype's range, and small enough that code − zero point is
// exact in float32.
constexpr int kZeroPointLimit = 1 << 20;

struct AffineQuantization {
  Codes codes;
  FloatType type;  // of the input
  AffineScheme scheme;
  RangeChoice range;
  NonFinite non_finite;

  bool given() const { return range.method == RangeChoice::Method::kGiven; }
};
// The numbers of Codes, then inputType, symmetric, lowest, highest, scaleType, rangeMethod, percentile, saturate.
AffineQuantization read_affine_quantization(const Arguments& a, std::size_t i);

struct Dequantization {
  Codes codes;
  Codebook book;   // of codes of a codebook
  FloatType type;  // of the result
};
// The numbers of Codes, then outputType.
Dequantization read_affine_dequantization(const Arguments& a, std::size_t i);

struct CodebookQuantization {
  Codes codes;
  CodebookScheme scheme;
  FloatType type;  // of the input
  RangeChoice range;
  NonFinite non_finite;
};
// The numbers of Codes, then book, rule, inputType, scaleType, rangeMethod, percentile, saturate.
CodebookQuantization read_codebook_quantization(const Arguments& a, std::size_t i);

// The numbers of Codes, then book and outputType.
Dequantization read_codebook_dequantization(const Arguments& a, std::size_t i);

// bits, signed, rows, columns, groupSize and how many parameter sets a row has (0: one for the whole matrix). What the
// source points to is left to the caller; so are the limits of what can be packed.
CodesSource read_codes_source(const Arguments& a, std::size_t i);
std::size_t parameter_count(const Arguments& a, const CodesSource& source);

// bits, signed, book, rows, columns, groupSize, how many rows share scales, and how many scales these have (0: one for
// the whole matrix).
CodebookSource read_codebook_source(const Arguments& a, std::size_t i);
std::size_t parameter_count(const Arguments& a, const CodebookSource& source);

}  // namespace lowbit::node
