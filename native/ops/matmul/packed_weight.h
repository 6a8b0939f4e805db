#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/dtype.h"
#include "core/pages.h"
#include "ops/matmul/matmul_kernels.h"

namespace lowbit {

enum class WeightKind : std::uint8_t {
  kCodes,    // quantized, with scales: for linear()
  kFloats,   // float32, float16 or bfloat16: for linear()
  kIntegers  // bytes without scales: for matmul_integer()
};

// Bytes that so many quads of a tile take.
std::size_t bytes_of_lines(LineFormat format, std::size_t quads);

// How a weight matrix W[rows, columns] lies in its memory. Plain numbers: they head the file of a packed weight.
struct PackedLayout {
  WeightKind kind;
  LineFormat format;      // kCodes, kIntegers
  FloatType type;         // of the scales; of the weights for kFloats
  bool column_zeros;      // kCodes: zero points differ by column or group
  bool offsets;           // kCodes: groups have a float32 that is added to every weight
  std::int32_t zero;      // what all codes have as their zero point, if not; kIntegers: 128 where the bytes were signed
  std::uint64_t rows;     // N, the columns of the product
  std::uint64_t columns;  // K
  std::uint64_t segment;  // k of a segment; the columns are padded to whole ones
  std::uint64_t segments;
  std::uint64_t segments_per_group;

  std::size_t tiles() const { return (static_cast<std::size_t>(rows) + kTileColumns - 1) / kTileColumns; }
  std::size_t quads() const { return static_cast<std::size_t>(segment * segments) / kQuad; }
  std::size_t groups() const { return static_cast<std::size_t>(segments / segments_per_group); }
  std::size_t parameters() const { return groups() * kTileColumns; }  // of a tile
  std::size_t tile_bytes() const;
  // Where they start in the memory: codes, then scales, then zero points, then offsets; column sums for kIntegers.
  std::size_t scales_at() const;
  std::size_t zeros_at() const;
  std::size_t offsets_at() const;
  std::size_t sums_at() const { return scales_at(); }
  std::size_t bytes() const;
};

struct PackedWeight {
  PackedLayout layout;
  Pages memory;
  std::size_t begin = 0;  // of the layout's memory in `memory`

  const std::uint8_t* codes() const { return memory.data() + begin; }
  const std::uint8_t* scales() const { return codes() + layout.scales_at(); }
  const std::uint8_t* zero_points() const { return layout.column_zeros ? codes() + layout.zeros_at() : nullptr; }
  const float* offsets() const {
    return layout.offsets ? reinterpret_cast<const float*>(codes() + layout.offsets_at()) : nullptr;
  }
  const std::int32_t* column_sums() const { return reinterpret_cast<const std::int32_t*>(codes() + layout.sums_at()); }
};

// Quantized weights as native/ops/affine writes them: rows of packed codes, each row starting on a byte.
struct CodesSource {
  const std::uint8_t* data;
  CodeType type;
  std::size_t rows, columns;
  // Parameter of row r and column k: scales[r · row_stride + k / group_size].
  const float* scales;
  const std::int32_t* zero_points;  // nullptr: the middle of the range, which is 0 for signed codes
  std::size_t row_stride, group_size;
};

// Whether weights with groups of this many columns can be packed as codes: multiples of sixteen, or one group for a
// row.
bool can_pack_groups(std::size_t group_size, std::size_t columns);

// All of these throw std::bad_alloc.
PackedWeight pack_codes(const CodesSource& source);
PackedWeight pack_floats(const void* weights, FloatType type, std::size_t rows, std::size_t columns);
// Rows of bytes, which are columns of the product: the transpose of what pack_integers() takes.
PackedWeight pack_integer_rows(const std::int8_t* rows, std::size_t count, std::size_t columns);
// b[k, n], row-major.
PackedWeight pack_integers(const std::uint8_t* b, bool is_signed, std::size_t k, std::size_t n);

}  // namespace lowbit
