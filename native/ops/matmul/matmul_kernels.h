#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "ops/codebook/codebook_kernels.h"

// Matrix products on packed weights. A weight matrix W[N, K] is stored in tiles of sixteen rows of W, which are columns
// of the product x·Wᵀ: lane c of a vector belongs to column c of its tile.
//
// Codes are unsigned (signed ones are stored with 2^(b−1) added) and lie in lines of 64 bytes. Byte 4c + i of a line
// belongs to column c and to the k with k mod 4 = i, so that four consecutive k, a quad, are the 32-bit lane of a dot
// product instruction:
//
//   kBits8   one quad a line
//   kBits4   two: the first in the low nibbles, the second in the high ones
//   kBits2   four, the first in the lowest two bits
//   kBits3   eight quads in three lines: the low two bits of the first four, of the last four, then the third bits,
//   quad
//            j in bit j
//
// The same bytes serve every instruction set.

namespace lowbit {

constexpr std::size_t kTileColumns = 16;
constexpr std::size_t kLineBytes = 64;
constexpr std::size_t kQuad = 4;

enum class LineFormat : std::uint8_t {
  kBits2,
  kBits3,
  kBits4,
  kBits8,
  kSmallBytes,  // one quad a line, every code below 16: what decode() leaves of codes of fewer bits

  // Codes of other values than 0, 1, 2 …, in lines like those of kBits4 or kSmallBytes. Integers, for dot() once
  // decode() has left kBits8 lines of them:
  kTwiceE2m1,  // 4 bits: twice the value of E2M1, plus 12
  kNonlinear,  // 4 bits: the level of IQ4, plus 127
  // Floats, for dequantize_tile() only:
  kNf4,
  kFp4,     // 4 bits
  kE4m3fn,  // 8 bits, and so are the following
  kE5m2,
  kE2m3,
  kE3m2,
};

// The lines of a format.
constexpr LineFormat lines_of(LineFormat format) {
  switch (format) {
    case LineFormat::kTwiceE2m1:
    case LineFormat::kNonlinear:
    case LineFormat::kNf4:
    case LineFormat::kFp4:
      return LineFormat::kBits4;
    case LineFormat::kE4m3fn:
    case LineFormat::kE5m2:
    case LineFormat::kE2m3:
    case LineFormat::kE3m2:
      return LineFormat::kSmallBytes;
    default:
      return format;
  }
}
constexpr bool has_levels(LineFormat format) {
  return format == LineFormat::kTwiceE2m1 || format == LineFormat::kNonlinear;
}
constexpr bool has_float_values(LineFormat format) { return format >= LineFormat::kNf4; }

// What decode() makes of the sixteen codes of a format with levels.
constexpr std::uint8_t kTwiceE2m1Levels[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
constexpr std::uint8_t kNonlinearLevels[16] = {0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240};
constexpr const std::uint8_t* levels_of(LineFormat format) {
  return format == LineFormat::kTwiceE2m1 ? kTwiceE2m1Levels : kNonlinearLevels;
}

// The values of a format that has_float_values().
constexpr Codebook codebook_of(LineFormat format) {
  switch (format) {
    case LineFormat::kNf4:
      return Codebook::kNf4;
    case LineFormat::kFp4:
      return Codebook::kFp4;
    case LineFormat::kE4m3fn:
      return Codebook::kE4m3fn;
    case LineFormat::kE5m2:
      return Codebook::kE5m2;
    case LineFormat::kE2m3:
      return Codebook::kE2m3;
    default:
      return Codebook::kE3m2;
  }
}

// Activations as rows of signed bytes, interleaved so that a kernel reads one after the other: quad q of row r is
// quads[q · rows + r]. With two planes, rows 2i and 2i + 1 are the parts of one row of activations, 128 · a[2i] + a[2i
// + 1].
//
// k is divided into segments, over which sums are exact integers. Each begins with a correction that repays the zero
// points of the weights.
struct ActivationStrip {
  std::size_t rows;
  bool two_planes;
  bool per_token;  // one scale for a row of activations, not one for each of its segments
  const std::int32_t* quads;
  // Per segment and row. Where all weights have the zero point z, the sum starts from this, −z · Σ a; where zero points
  // differ, from column_zero · −Σ a, and this is −Σ a as the two int16 that pair_of() makes. For two planes the second
  // of the rows carries it for both.
  const std::int32_t* starts;
  const float* scales;  // per segment and row of activations; per token: per row of activations
};

// What one call of dot() computes: out[r][c] = Σ over segments of scale(segment, c) · scale(segment, r) · Σ codes ·
// quads, for the rows of a strip and the columns of some neighbouring tiles, one segment after the other. The segments
// can be given in parts, in calls that follow each other: all but the first continue with what is in `out`; the last
// multiplies by the scales per token. All pointers are to the first segment of the part.
struct DotArguments {
  LineFormat format;
  std::size_t tiles;
  const std::uint8_t* codes;
  std::size_t tile_bytes;  // from the codes of a tile to those of the next
  std::size_t segments;
  std::size_t quads_per_segment;  // a multiple of 4, of 8 for kBits3
  std::size_t segments_per_group;
  std::size_t left_of_group;  // segments of the first one's group, itself included
  bool first, last;
  // Per tile, group and column; `parameters` from a tile's to those of the next.
  FloatType scale_type;
  const void* scales;
  const std::uint8_t* zero_points;  // nullptr: all alike
  std::size_t parameters;
  ActivationStrip strip;
  float* out;
  std::size_t out_stride;
};

// Exact: out[r][c] = Σ codes · quads − row_zero[r] · column_terms[c] − column_zero[c] · row_sums[r], modulo 2^32.
struct IntegerArguments {
  std::size_t tiles;
  const std::uint8_t* codes;  // kBits8
  std::size_t tile_bytes;
  std::size_t quad_count;
  std::size_t rows;
  const std::int32_t* quads;
  const std::int32_t* row_zeros;     // per row
  const std::int32_t* row_sums;      // per row
  const std::int32_t* column_terms;  // per column
  const std::int32_t* column_zeros;  // per column
  std::int32_t* out;
  std::size_t out_stride;
};

// out[r][c] += Σ over k of weights[c][k] · rows[k][r], added in the order of k with one rounding each; from zero if
// `first`.
struct FloatArguments {
  std::size_t tiles;
  FloatType type;
  const void* weights;      // per tile: [k][column]
  std::size_t tile_stride;  // elements from a tile to the next
  std::size_t count;        // of k
  std::size_t rows;
  const float* activations;  // [k][rows]
  bool first;
  float* out;
  std::size_t out_stride;
};

// Codes of one tile to floats: out[k][column] = scale · (code − zero point) + offset, each operation rounded. With
// float values these take the place of code − zero point.
struct DequantizeTileArguments {
  LineFormat format;
  const std::uint8_t* codes;
  std::size_t first_quad, quads;  // a multiple of 4, of 8 for kBits3
  std::size_t quads_per_group;
  FloatType scale_type;
  const void* scales;               // of the tile: [group][column]
  const std::uint8_t* zero_points;  // of the tile, or nullptr: zero_point for all
  std::int32_t zero_point;
  const float* offsets;  // of the tile: [group][column], or nullptr
  float* out;
};

// One row of activations to signed bytes, symmetric: the scale of a segment is its largest magnitude divided by `steps`
// (127 for one plane, 127 · 128 for two), and q = round(x · (steps / largest)), half to even. Where the largest is
// below 2^-110 all is zero. Writes zeros from `count` to the end of the last segment.
struct QuantizeRowArguments {
  const float* x;
  std::size_t count;
  std::size_t segment, segments;
  bool two_planes;
  bool per_token;
  std::int8_t* high;   // segment · segments bytes: the codes; with two planes (q + 64) >> 7
  std::int8_t* low;    // with two planes: q − 128 · high, in [−64, 63]
  float* scales;       // per segment; per token: one
  std::int32_t* sums;  // per segment: Σ q
};

enum class Activation : std::uint8_t { kNone, kSilu, kGelu, kGeluTanh };

struct MatmulKernels {
  // The most rows of a strip, planes counted, and how many tiles side by side make the best use of registers for a
  // number of rows. (Calls take any number of tiles.)
  std::size_t dot_rows, float_rows;
  std::size_t (*dot_tiles)(std::size_t rows);
  std::size_t (*float_tiles)(std::size_t rows);
  // What this instruction set subtracts from the codes of kBits8 lines as it reads them: 0 where the dot product takes
  // unsigned bytes, 128 where it takes signed ones. The corrections have to know.
  std::int32_t byte_offset;
  // From this many rows (planes counted) it is faster to decode codes to bytes first.
  std::size_t decode_rows;

  void (*dot)(const DotArguments& arguments);
  void (*integer_dot)(const IntegerArguments& arguments);
  void (*float_dot)(const FloatArguments& arguments);
  // Lines of fewer than 8 bits to kSmallBytes lines; those with levels to kBits8 lines.
  void (*decode)(LineFormat format, const std::uint8_t* codes, std::size_t quads, std::uint8_t* out);
  void (*dequantize_tile)(const DequantizeTileArguments& arguments);
  // The index of the first element that is not finite, or -1. Scales and codes are then unspecified.
  std::ptrdiff_t (*quantize_row)(const QuantizeRowArguments& arguments);
  // y[i] = activation(y[i] + bias[i]); a null bias adds nothing. Then, unless null, times factor[i].
  void (*finish)(float* y, const float* bias, Activation activation, const float* factor, std::size_t count);
};

// −Σ a for weights whose zero points differ by column: zero · sum = [128·zero, zero] · [sum >> 7, sum & 127].
constexpr std::int32_t pair_of(std::int32_t sum) {
  return static_cast<std::int32_t>((static_cast<std::uint32_t>(sum & 127) << 16) |
                                   (static_cast<std::uint32_t>(sum >> 7) & 0xffffU));
}

// Sums over this many k are exact in int32 and in float32 whatever the codes.
constexpr std::size_t kLongestSegment = 256;

#define LOWBIT_DECLARE_MATMUL(isa)    \
  namespace isa {                     \
  extern const MatmulKernels kMatmul; \
  }
LOWBIT_DECLARE_MATMUL(scalar)
LOWBIT_DECLARE_MATMUL(avx2)
LOWBIT_DECLARE_MATMUL(avxvnni)
LOWBIT_DECLARE_MATMUL(avx512)
LOWBIT_DECLARE_MATMUL(avx512vnni)
LOWBIT_DECLARE_MATMUL(neon)
LOWBIT_DECLARE_MATMUL(neondot)
LOWBIT_DECLARE_MATMUL(neoni8mm)
#undef LOWBIT_DECLARE_MATMUL

}  // namespace lowbit
