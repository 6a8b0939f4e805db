// From rows of codes, floats or bytes to tiles of sixteen rows: see matmul_kernels.h for the lines that they consist
// of.

#include "ops/matmul/packed_weight.h"

#include <algorithm>
#include <cstring>

#include "core/float_bits.h"
#include "core/thread_pool.h"
#include "core/tiles.h"
#include "ops/matmul/pack_parts.h"

namespace lowbit {
namespace {

// --- codes
// ------------------------------------------------------------------------------------------------------------

// The nibbles of sixteen bits, one to a byte.
std::uint32_t spread_nibbles(std::uint32_t x) {
  x = (x | (x << 8)) & 0x00ff00ffU;
  return (x | (x << 4)) & 0x0f0f0f0fU;
}
// The pairs of bits of a byte, one to a byte.
std::uint32_t spread_pairs(std::uint32_t x) {
  x = (x | (x << 12)) & 0x000f000fU;
  return (x | (x << 6)) & 0x03030303U;
}

// What signed codes need to become unsigned, for every code of a word (24 bits of it for three bits).
std::uint32_t sign_flip(CodeType type) {
  if (!type.is_signed) return 0;
  std::uint32_t flip = 0;
  for (unsigned bit = type.bits - 1U; bit < (type.bits == 3 ? 24U : 32U); bit += type.bits) flip |= 1U << bit;
  return flip;
}

// Eight codes of three bits.
std::uint32_t eight_threes(const std::uint8_t* p) {
  return p[0] | (std::uint32_t{p[1]} << 8) | (std::uint32_t{p[2]} << 16);
}

// Three bits in the place of four: twelve bits to sixteen, six to eight, three to four.
std::uint32_t threes_as_nibbles(std::uint32_t x) {
  x = (x & 0xfffU) | ((x & 0xfff000U) << 4);
  x = (x & 0x003f003fU) | ((x & 0x0fc00fc0U) << 2);
  x = (x & 0x07070707U) | ((x & 0x38383838U) << 1);
  return spread_nibbles(x & 0xffffU) | (spread_nibbles(x >> 16) << 4);
}

// Thirty-two codes of three bits: two lines of their low bits, one of their third bits.
void put_threes(const std::uint8_t* p, std::uint32_t flip, Column& column) {
  std::uint32_t low[2] = {0, 0}, high = 0;
  for (unsigned part = 0; part < 4; part++) {  // two quads each
    const std::uint32_t nibbles = threes_as_nibbles(eight_threes(p + std::size_t{3} * part) ^ flip);
    for (unsigned half = 0; half < 2; half++) {
      const std::uint32_t codes = (nibbles >> (4 * half)) & 0x07070707U;
      const unsigned quad = 2 * part + half;
      low[quad / 4] |= (codes & 0x03030303U) << (2 * (quad % 4));
      high |= ((codes >> 2) & 0x01010101U) << quad;
    }
  }
  column.put(low[0]);
  column.put(low[1]);
  column.put(high);
}

// `row` holds `quads` quads of packed codes.
void pack_row(CodeType type, LineFormat format, const std::uint8_t* row, std::size_t quads, Column column) {
  const std::uint32_t flip = sign_flip(type);
  switch (format) {
    case LineFormat::kBits8:
      return put_words(quads, [=](std::size_t i) { return word_at(row + 4 * i) ^ flip; }, column);
    case LineFormat::kBits4:
      if (type.bits == 3) {
        const auto word = [=](std::size_t i) { return threes_as_nibbles(eight_threes(row + 3 * i) ^ flip); };
        return put_words(quads / 2, word, column);
      }
      return put_words(
          quads / 2,
          [=](std::size_t i) {
            const std::uint32_t eight = word_at(row + 4 * i) ^ flip;
            return spread_nibbles(eight & 0xffffU) | (spread_nibbles(eight >> 16) << 4);
          },
          column);
    case LineFormat::kBits2:
      return put_words(
          quads / 4,
          [=](std::size_t i) {
            const std::uint32_t sixteen = word_at(row + 4 * i) ^ flip;
            return spread_pairs(sixteen & 0xffU) | (spread_pairs((sixteen >> 8) & 0xffU) << 2) |
                   (spread_pairs((sixteen >> 16) & 0xffU) << 4) | (spread_pairs(sixteen >> 24) << 6);
          },
          column);
    case LineFormat::kBits3:
      for (std::size_t q = 0; q < quads; q += 8) put_threes(row + 3 * (q / 2), flip, column);
      return;
    default:
      return;
  }
}

// The zero point of all codes as stored, or -1 if they differ.
std::int32_t common_zero(const CodesSource& source, std::size_t parameter_sets) {
  const std::int32_t shift = source.type.is_signed ? 1 << (source.type.bits - 1) : 0;
  if (source.zero_points == nullptr) return 1 << (source.type.bits - 1);
  for (std::size_t i = 1; i < parameter_sets; i++) {
    if (source.zero_points[i] != source.zero_points[0]) return -1;
  }
  return parameter_sets == 0 ? shift : source.zero_points[0] + shift;
}

PackedLayout integer_layout(bool is_signed, std::size_t k, std::size_t n) {
  PackedLayout layout{};
  layout.kind = WeightKind::kIntegers;
  layout.format = LineFormat::kBits8;
  layout.zero = is_signed ? 128 : 0;
  layout.rows = n;
  layout.columns = k;
  layout.segment = ceil_div(std::max<std::size_t>(k, 1), 4 * kQuad) * (4 * kQuad);
  layout.segments = 1;
  layout.segments_per_group = 1;
  return layout;
}

// Four rows of sixteen bytes to a line, and their sums by column. The loops are what compilers make vectors of.
void interleave_quad(const std::uint8_t* rows, std::size_t stride, std::uint8_t flip, std::uint8_t* line,
                     std::int32_t* sums) {
  const std::uint8_t *const a = rows, *const b = a + stride, *const c = b + stride, *const d = c + stride;
  const std::uint32_t flips = 0x01010101U * flip;
  std::uint32_t words[kTileColumns];
  for (std::size_t i = 0; i < kTileColumns; i++) {
    words[i] = (a[i] | (std::uint32_t{b[i]} << 8) | (std::uint32_t{c[i]} << 16) | (std::uint32_t{d[i]} << 24)) ^ flips;
  }
  for (std::size_t i = 0; i < kTileColumns; i++) {
    const std::uint32_t pairs = (words[i] & 0x00ff00ffU) + ((words[i] >> 8) & 0x00ff00ffU);
    sums[i] += static_cast<std::int32_t>((pairs & 0xffffU) + (pairs >> 16));
  }
  std::memcpy(line, words, sizeof words);
}

LineFormat format_of(CodeType type, std::size_t group_size, bool whole_rows) {
  if (type.bits == 8) return LineFormat::kBits8;
  if (type.bits == 2) return LineFormat::kBits2;
  // Three bits come in runs of 32; groups that are not take the place of four.
  if (type.bits == 3 && (whole_rows || group_size % 32 == 0)) return LineFormat::kBits3;
  return LineFormat::kBits4;
}

}  // namespace

std::size_t bytes_of_lines(LineFormat format, std::size_t quads) {
  switch (lines_of(format)) {
    case LineFormat::kBits2:
      return quads / 4 * kLineBytes;
    case LineFormat::kBits3:
      return quads / 8 * (3 * kLineBytes);
    case LineFormat::kBits4:
      return quads / 2 * kLineBytes;
    default:
      return quads * kLineBytes;
  }
}

std::size_t PackedLayout::tile_bytes() const {
  if (kind == WeightKind::kFloats) return static_cast<std::size_t>(columns) * kTileColumns * size_of(type);
  return bytes_of_lines(format, quads());
}

std::size_t PackedLayout::scales_at() const { return line_aligned(tiles() * tile_bytes()); }

std::size_t PackedLayout::zeros_at() const {
  return line_aligned(scales_at() + tiles() * parameters() * size_of(type));
}

std::size_t PackedLayout::offsets_at() const {
  return line_aligned(zeros_at() + (column_zeros ? tiles() * parameters() : 0));
}

std::size_t PackedLayout::bytes() const {
  if (kind == WeightKind::kFloats) return scales_at();
  if (kind == WeightKind::kIntegers) return sums_at() + tiles() * kTileColumns * sizeof(std::int32_t);
  return line_aligned(offsets_at() + (offsets ? tiles() * parameters() * sizeof(float) : 0));
}

bool can_pack_groups(std::size_t group_size, std::size_t columns) {
  return group_size % kTileColumns == 0 || group_size >= columns;
}

PackedWeight pack_codes(const CodesSource& source) {
  const std::size_t rows = source.rows, columns = source.columns;
  const bool whole_rows = source.group_size >= columns;
  const std::size_t sets = source.row_stride == 0 ? 1 : rows * source.row_stride;
  PackedLayout layout{};
  layout.kind = WeightKind::kCodes;
  layout.format = format_of(source.type, source.group_size, whole_rows);
  layout.type = scale_type_of(source.scales, sets);
  const std::int32_t zero = common_zero(source, sets);
  layout.column_zeros = zero < 0;
  layout.zero = layout.column_zeros ? 0 : zero;
  layout.rows = rows;
  layout.columns = columns;
  const std::size_t unit = layout.format == LineFormat::kBits3 ? 32 : 16;
  const Division division = whole_rows ? divide_row(columns, unit) : divide_groups(source.group_size, columns, unit);
  layout.segment = division.segment;
  layout.segments = division.segments;
  layout.segments_per_group = division.segments_per_group;

  PackedWeight weight{layout, Pages(layout.bytes())};
  std::uint8_t* const memory = weight.memory.data();
  std::uint8_t* const scales = memory + layout.scales_at();
  std::uint8_t* const zeros = layout.column_zeros ? memory + layout.zeros_at() : nullptr;
  const std::size_t quads = layout.quads(), groups = layout.groups(), tile_bytes = layout.tile_bytes();
  const std::size_t row_bytes = source.type.packed_bytes(columns), padded_bytes = quads * kQuad * source.type.bits / 8;
  const bool ragged = row_bytes != padded_bytes;
  const std::size_t group_stride = source.row_stride > 1 ? 1 : 0;
  const std::int32_t shift = source.type.is_signed ? 1 << (source.type.bits - 1) : 0;
  ThreadPool::instance().parallel_for(layout.tiles(), [&](std::size_t t) {
    std::uint8_t* const padded = scratch(Scratch::kRow, padded_bytes);
    std::memset(padded, 0, padded_bytes);
    const std::size_t begin = t * kTileColumns, end = std::min(rows, begin + kTileColumns);
    for (std::size_t r = begin; r < end; r++) {
      const std::uint8_t* row = source.data + r * row_bytes;
      if (ragged) {
        std::memcpy(padded, row, row_bytes);
        row = padded;
      }
      pack_row(source.type, layout.format, row, quads, Column(memory + t * tile_bytes, r - begin));
      for (std::size_t g = 0; g < groups; g++) {
        const std::size_t from = r * source.row_stride + g * group_stride;
        const std::size_t to = (t * groups + g) * kTileColumns + (r - begin);
        store_scale(layout.type, scales, to, source.scales[from]);
        if (zeros != nullptr) zeros[to] = static_cast<std::uint8_t>(source.zero_points[from] + shift);
      }
    }
  });
  return weight;
}

PackedWeight pack_floats(const void* weights, FloatType type, std::size_t rows, std::size_t columns) {
  PackedLayout layout{};
  layout.kind = WeightKind::kFloats;
  layout.type = type;
  layout.rows = rows;
  layout.columns = columns;
  layout.segments_per_group = 1;
  PackedWeight weight{layout, Pages(layout.bytes())};
  const auto pack = [&](auto* in, auto* out) {
    // Rows without columns can be more than there is time to count.
    ThreadPool::instance().parallel_for(columns == 0 ? 0 : layout.tiles(), [&](std::size_t t) {
      const std::size_t begin = t * kTileColumns, count = std::min(rows - begin, kTileColumns);
      auto* const tile = out + t * columns * kTileColumns;
      for (std::size_t k = 0; k < columns; k++) {
        for (std::size_t c = 0; c < count; c++) tile[k * kTileColumns + c] = in[(begin + c) * columns + k];
      }
    });
  };
  if (type == FloatType::kFloat32) {
    pack(static_cast<const float*>(weights), weight.memory.as<float>());
  } else {
    pack(static_cast<const std::uint16_t*>(weights), weight.memory.as<std::uint16_t>());
  }
  return weight;
}

PackedWeight pack_integer_rows(const std::int8_t* rows, std::size_t count, std::size_t columns) {
  const PackedLayout layout = integer_layout(true, columns, count);
  PackedWeight weight{layout, Pages(layout.bytes())};
  std::uint8_t* const memory = weight.memory.data();
  auto* const sums = reinterpret_cast<std::int32_t*>(memory + layout.sums_at());
  ThreadPool::instance().parallel_for(layout.tiles(), [&](std::size_t t) {
    const std::size_t begin = t * kTileColumns, end = std::min(count, begin + kTileColumns);
    for (std::size_t r = begin; r < end; r++) {
      const std::int8_t* const row = rows + r * columns;
      std::uint8_t* line = memory + t * layout.tile_bytes() + kQuad * (r - begin);
      std::int32_t sum = 0;
      for (std::size_t k = 0; k < columns; k++) {
        const auto byte = static_cast<std::uint8_t>(row[k] + 128);
        line[k % kQuad] = byte;
        sum += byte;
        if (k % kQuad == kQuad - 1) line += kLineBytes;
      }
      sums[r] = sum;
    }
  });
  return weight;
}

PackedWeight pack_integers(const std::uint8_t* b, bool is_signed, std::size_t k, std::size_t n) {
  const PackedLayout layout = integer_layout(is_signed, k, n);
  PackedWeight weight{layout, Pages(layout.bytes())};
  std::uint8_t* const memory = weight.memory.data();
  auto* const sums = reinterpret_cast<std::int32_t*>(memory + layout.sums_at());
  const std::uint8_t flip = is_signed ? 0x80 : 0;
  // Some tiles side by side read whole cache lines of b.
  constexpr std::size_t kSide = 16;
  ThreadPool::instance().parallel_for(ceil_div(layout.tiles(), kSide), [&](std::size_t task) {
    const std::size_t first = task * kSide, last = std::min(layout.tiles(), first + kSide);
    for (std::size_t q = 0; q * kQuad < k; q++) {
      for (std::size_t t = first; t < last; t++) {
        const std::size_t begin = t * kTileColumns, count = std::min(n - begin, kTileColumns);
        const std::size_t rows_of_quad = std::min(kQuad, k - q * kQuad);
        const std::uint8_t* const corner = b + q * kQuad * n + begin;
        std::uint8_t* const line = memory + t * layout.tile_bytes() + q * kLineBytes;
        if (rows_of_quad == kQuad && count == kTileColumns) {
          interleave_quad(corner, n, flip, line, sums + begin);
          continue;
        }
        for (std::size_t i = 0; i < rows_of_quad; i++) {
          for (std::size_t c = 0; c < count; c++) {
            line[kQuad * c + i] = corner[i * n + c] ^ flip;
            sums[begin + c] += line[kQuad * c + i];
          }
        }
      }
    }
  });
  return weight;
}

}  // namespace lowbit
