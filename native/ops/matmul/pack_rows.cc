// From codebooks and GGUF blocks to tiles of sixteen rows: a row is taken apart into one code a byte and the scales of
// its groups, and these are put into lines.

#include "ops/matmul/pack_rows.h"

#include <cmath>
#include <vector>

#include "core/thread_pool.h"
#include "ops/affine/affine.h"
#include "ops/blocks/block_parts.h"
#include "ops/matmul/pack_parts.h"

namespace lowbit {
namespace {

// Codes of `quads` quads, one a byte, into the lines of a column.
void put_codes(LineFormat format, const std::uint8_t* codes, std::size_t quads, Column column) {
  switch (lines_of(format)) {
    case LineFormat::kBits2:
      return put_words(
          quads / 4,
          [=](std::size_t i) {
            const std::uint8_t* const four = codes + 16 * i;
            return word_at(four) | word_at(four + 4) << 2 | word_at(four + 8) << 4 | word_at(four + 12) << 6;
          },
          column);
    case LineFormat::kBits4:
      return put_words(
          quads / 2, [=](std::size_t i) { return word_at(codes + 8 * i) | word_at(codes + 8 * i + 4) << 4; }, column);
    default:
      return put_words(quads, [=](std::size_t i) { return word_at(codes + 4 * i); }, column);
  }
}

// Fills in how rows are divided and makes room.
PackedWeight empty_weight(PackedLayout layout, std::size_t group_size) {
  const std::size_t columns = static_cast<std::size_t>(layout.columns);
  const Division division =
      group_size >= columns ? divide_row(columns, 4 * kQuad) : divide_groups(group_size, columns, 4 * kQuad);
  layout.kind = WeightKind::kCodes;
  layout.segment = division.segment;
  layout.segments = division.segments;
  layout.segments_per_group = division.segments_per_group;
  return {layout, Pages(layout.bytes())};
}

// take_row(r, codes, scales, offsets) for every row, in parallel; what it leaves goes to the row's place.
template <typename TakeRow>
void fill_weight(PackedWeight& weight, const TakeRow& take_row) {
  const PackedLayout& layout = weight.layout;
  std::uint8_t* const memory = weight.memory.data();
  std::uint8_t* const all_scales = memory + layout.scales_at();
  auto* const all_offsets = layout.offsets ? reinterpret_cast<float*>(memory + layout.offsets_at()) : nullptr;
  const std::size_t rows = static_cast<std::size_t>(layout.rows);
  const std::size_t quads = layout.quads(), groups = layout.groups(), tile_bytes = layout.tile_bytes();
  ThreadPool::instance().parallel_for(layout.tiles(), [&](std::size_t t) {
    std::uint8_t* const room = scratch(Scratch::kRow, 2 * groups * sizeof(float) + quads * kQuad);
    auto* const scales = reinterpret_cast<float*>(room);
    float* const offsets = scales + groups;
    std::uint8_t* const codes = room + 2 * groups * sizeof(float);
    std::memset(codes, 0, quads * kQuad);
    for (std::size_t r = t * kTileColumns; r < std::min(rows, (t + 1) * kTileColumns); r++) {
      const std::size_t column = r % kTileColumns;
      take_row(r, codes, scales, offsets);
      put_codes(layout.format, codes, quads, Column(memory + t * tile_bytes, column));
      for (std::size_t g = 0; g < groups; g++) {
        const std::size_t to = (t * groups + g) * kTileColumns + column;
        store_scale(layout.type, all_scales, to, scales[g]);
        if (all_offsets != nullptr) all_offsets[to] = offsets[g];
      }
    }
  });
}

// How the codes of a codebook are kept: codes that are xor-ed with `flip` are what the format says, less `zero`, times
// `factor`.
struct CodebookFormatOfLines {
  LineFormat format;
  std::uint8_t flip, zero;
  float factor;
};

CodebookFormatOfLines lines_for(Codebook book) {
  switch (book) {
    case Codebook::kNf4:
      return {LineFormat::kNf4, 0, 0, 1.0F};
    case Codebook::kFp4:
      return {LineFormat::kFp4, 0, 0, 1.0F};
    case Codebook::kE4m3fn:
      return {LineFormat::kE4m3fn, 0, 0, 1.0F};
    case Codebook::kE5m2:
      return {LineFormat::kE5m2, 0, 0, 1.0F};
    case Codebook::kE2m3:
      return {LineFormat::kE2m3, 0, 0, 1.0F};
    case Codebook::kE3m2:
      return {LineFormat::kE3m2, 0, 0, 1.0F};
    case Codebook::kE2m1:
      return {LineFormat::kTwiceE2m1, 0, 12, 0.5F};
    case Codebook::kFixed8:
      return {LineFormat::kBits8, 0x80, 128, 0x1p-6F};
    case Codebook::kTernary:
      return {LineFormat::kBits2, 2, 2, 1.0F};
    default:  // kBinary, whose codes are made 1 and 3
      return {LineFormat::kBits2, 0, 2, 1.0F};
  }
}

}  // namespace

PackedWeight pack_codebook(const CodebookSource& source) {
  const CodebookFormatOfLines lines = lines_for(source.book);
  const std::size_t sets = source.row_stride == 0 ? 1 : ceil_div(source.rows, source.rows_alike) * source.row_stride;
  std::vector<float> kept(source.scales, source.scales + sets);
  for (float& scale : kept) scale *= lines.factor;
  PackedLayout layout{};
  layout.format = lines.format;
  layout.type = scale_type_of(kept.data(), sets);
  layout.zero = lines.zero;
  layout.rows = source.rows;
  layout.columns = source.columns;
  PackedWeight weight = empty_weight(layout, source.group_size);
  const CodeType code{code_type_of(source.book).bits, false};
  const std::size_t row_bytes = code.packed_bytes(source.columns), groups = weight.layout.groups();
  const bool binary = source.book == Codebook::kBinary;
  fill_weight(weight, [&](std::size_t r, std::uint8_t* codes, float* scales, float* /*offsets*/) {
    unpack_codes(source.data + r * row_bytes, code, 1, source.columns, codes);
    for (std::size_t k = 0; k < source.columns; k++) {
      codes[k] = static_cast<std::uint8_t>(binary ? 2 * codes[k] + 1 : codes[k] ^ lines.flip);
    }
    const std::size_t first = r / source.rows_alike * source.row_stride;
    for (std::size_t g = 0; g < groups; g++) {
      scales[g] = kept[first + (source.row_stride > 1 ? g : 0)];
    }
  });
  return weight;
}

PackedWeight pack_blocks(const BlocksSource& source) {
  const BlockFormat& block = format_of(source.type);
  const BlockPartsFormat parts = parts_format_of(source.type);
  PackedLayout layout{};
  layout.format = parts.levels == BlockLevels::kTwiceE2m1   ? LineFormat::kTwiceE2m1
                  : parts.levels == BlockLevels::kNonlinear ? LineFormat::kNonlinear
                  : parts.bits == 2                         ? LineFormat::kBits2
                  : parts.bits == 4                         ? LineFormat::kBits4
                                                            : LineFormat::kBits8;
  layout.type = parts.half_scales ? FloatType::kFloat16 : FloatType::kFloat32;
  layout.zero = parts.zero;
  layout.offsets = parts.has_offsets;
  layout.rows = source.rows;
  layout.columns = source.columns;
  PackedWeight weight = empty_weight(layout, parts.group);
  const std::size_t blocks = source.columns / block.length, groups = block.length / parts.group;
  fill_weight(weight, [&](std::size_t r, std::uint8_t* codes, float* scales, float* offsets) {
    for (std::size_t b = 0; b < blocks; b++) {
      take_apart(source.type, source.data + (r * blocks + b) * block.bytes, codes + b * block.length,
                 scales + b * groups, offsets + b * groups);
    }
  });
  return weight;
}

std::ptrdiff_t first_bad_block(const BlocksSource& source) {
  const BlockFormat& block = format_of(source.type);
  const BlockPartsFormat parts = parts_format_of(source.type);
  const std::size_t blocks = source.rows * (source.columns / block.length), groups = block.length / parts.group;
  for (std::size_t b = 0; b < blocks; b++) {
    std::uint8_t codes[256];
    float scales[16], offsets[16] = {};
    take_apart(source.type, source.data + b * block.bytes, codes, scales, offsets);
    for (std::size_t g = 0; g < groups; g++) {
      if (!is_finite(scales[g]) || !is_finite(offsets[g])) return static_cast<std::ptrdiff_t>(b);
    }
  }
  return -1;
}

}  // namespace lowbit
