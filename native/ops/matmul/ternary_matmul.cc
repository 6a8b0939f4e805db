// Bytes times codes of two bits, exact: the sums of MatmulKernels::dot with all scales 1, which are integers, over so
// many k at a time that float32 holds them.

#include "ops/matmul/ternary_matmul.h"

#include <algorithm>
#include <cstring>

#include "core/kernels.h"
#include "ops/matmul/strips.h"

namespace lowbit {
namespace {

constexpr CodeType kTernary{2, true};
constexpr std::int32_t kZero = 2;  // of codes as they are stored
constexpr std::uint16_t kFloat16One = 0x3c00;

// |code · activation| ≤ 2 · 128, and integers up to 2^24 are exact.
constexpr std::size_t kExactColumns = 65536;
// Codes that are decoded for many rows stay in the first-level cache.
constexpr std::size_t kDecodedColumns = 8192;

class TernaryMatmul {
 public:
  TernaryMatmul(const std::int8_t* a, std::size_t m, const PackedWeight& weight, std::int32_t* c)
      : a_(a),
        c_(c),
        weight_(weight),
        layout_(weight.layout),
        n_(static_cast<std::size_t>(layout_.rows)),
        k_(static_cast<std::size_t>(layout_.columns)),
        segments_(static_cast<std::size_t>(layout_.segments)),
        quads_per_segment_(static_cast<std::size_t>(layout_.segment) / kQuad),
        strips_(m, kernels().matmul->dot_rows) {}

  Outcome run(const CancelFlag* cancel);

 private:
  void fill_strip(std::size_t strip) const;
  void panel(std::size_t first_tile, std::size_t tiles, std::size_t first_strip, std::size_t last_strip) const;

  const std::int8_t* a_;
  std::int32_t* c_;
  const PackedWeight& weight_;
  const PackedLayout& layout_;
  std::size_t n_, k_, segments_, quads_per_segment_;
  Strips strips_;
  std::int32_t* activations_ = nullptr;  // strip after strip: [quad][row]
  std::int32_t* starts_ = nullptr;       // strip after strip: [segment][row]
  float* ones_ = nullptr;                // the scales of a strip
};

void TernaryMatmul::fill_strip(std::size_t strip) const {
  const std::size_t rows = strips_.size(strip), segment = static_cast<std::size_t>(layout_.segment);
  auto* const quads = reinterpret_cast<std::int8_t*>(activations_ + strips_.begin(strip) * layout_.quads());
  std::int32_t* const starts = starts_ + strips_.begin(strip) * segments_;
  for (std::size_t r = 0; r < rows; r++) {
    const std::int8_t* const row = a_ + (strips_.begin(strip) + r) * k_;
    std::int8_t* out = quads + kQuad * r;
    for (std::size_t q = 0; q < layout_.quads(); q++) {
      const std::size_t begin = q * kQuad, count = std::min(kQuad, k_ - std::min(k_, begin));
      std::memset(out, 0, kQuad);
      if (count != 0) std::memcpy(out, row + begin, count);
      out += kQuad * rows;
    }
    for (std::size_t s = 0; s < segments_; s++) {
      std::int32_t sum = 0;
      for (std::size_t k = s * segment; k < std::min(k_, (s + 1) * segment); k++) sum += row[k];
      starts[s * rows + r] = -kZero * sum;
    }
  }
}

void TernaryMatmul::panel(std::size_t first_tile, std::size_t tiles, std::size_t first_strip,
                          std::size_t last_strip) const {
  const MatmulKernels& k = *kernels().matmul;
  const std::size_t begin = first_tile * kTileColumns, width = tiles * kTileColumns;
  const std::size_t columns = std::min(width, n_ - begin);
  const bool decodes = strips_.rows >= k.decode_rows;
  const std::size_t longest = (decodes ? kDecodedColumns : kExactColumns) / kQuad / quads_per_segment_;
  const std::size_t part = std::min(segments_, longest);
  float* const sums = reinterpret_cast<float*>(scratch(Scratch::kResult, k.dot_rows * width * sizeof(float)));
  DotArguments d{};
  d.format = decodes ? LineFormat::kSmallBytes : layout_.format;
  d.tiles = tiles;
  d.tile_bytes = decodes ? part * quads_per_segment_ * kLineBytes : layout_.tile_bytes();
  d.quads_per_segment = quads_per_segment_;
  d.segments_per_group = d.left_of_group = segments_;
  d.first = d.last = true;
  d.scale_type = layout_.type;
  d.scales = weight_.scales() + first_tile * layout_.parameters() * size_of(layout_.type);
  d.parameters = layout_.parameters();
  d.out = sums;
  d.out_stride = width;
  for (std::size_t first = 0; first < segments_; first += part) {
    d.segments = std::min(part, segments_ - first);
    const std::size_t first_quad = first * quads_per_segment_;
    d.codes = weight_.codes() + first_tile * layout_.tile_bytes() + bytes_of_lines(layout_.format, first_quad);
    if (decodes) {
      std::uint8_t* const decoded = scratch(Scratch::kPanel, tiles * d.tile_bytes);
      for (std::size_t t = 0; t < tiles; t++) {
        k.decode(layout_.format, d.codes + t * layout_.tile_bytes(), d.segments * quads_per_segment_,
                 decoded + t * d.tile_bytes);
      }
      d.codes = decoded;
    }
    for (std::size_t s = first_strip; s < last_strip; s++) {
      const std::size_t row = strips_.begin(s), rows = strips_.size(s);
      d.strip = {rows,
                 false,
                 true,
                 activations_ + row * layout_.quads() + first_quad * rows,
                 starts_ + row * segments_ + first * rows,
                 ones_};
      k.dot(d);
      for (std::size_t r = 0; r < rows; r++) {
        std::int32_t* const out = c_ + (row + r) * n_ + begin;
        const float* const in = sums + r * width;
        for (std::size_t c = 0; c < columns; c++) {
          const auto before = first == 0 ? 0U : static_cast<std::uint32_t>(out[c]);
          out[c] = static_cast<std::int32_t>(before + static_cast<std::uint32_t>(static_cast<std::int32_t>(in[c])));
        }
      }
    }
  }
}

Outcome TernaryMatmul::run(const CancelFlag* cancel) {
  if (strips_.rows == 0 || n_ == 0) return {};
  const std::size_t m = strips_.rows, longest = strips_.longest();
  const std::size_t numbers = m * layout_.quads() + m * segments_ + longest;
  activations_ = reinterpret_cast<std::int32_t*>(scratch(Scratch::kActivations, numbers * sizeof(std::int32_t)));
  starts_ = activations_ + m * layout_.quads();
  ones_ = reinterpret_cast<float*>(starts_ + m * segments_);
  std::fill_n(ones_, longest, 1.0F);
  ThreadPool& pool = ThreadPool::instance();
  const std::size_t unit = kernels().matmul->dot_tiles(longest);
  const double products = static_cast<double>(m) * static_cast<double>(n_) * static_cast<double>(k_);
  const Grid grid = divide(layout_.tiles(), unit, strips_.count, static_cast<double>(layout_.bytes()), products);
  const auto fill = [&](std::size_t i) { fill_strip(i); };
  const auto multiply = [&](std::size_t i) {
    const GridTask t = grid.task(i);
    for (std::size_t tile = t.first_tile; tile < t.last_tile; tile += unit) {
      panel(tile, std::min(unit, t.last_tile - tile), t.first_strip, t.last_strip);
    }
  };
  const bool finished = pool.parallel_for(strips_.count, fill, cancel, grid.helpers) &&
                        pool.parallel_for(grid.count(), multiply, cancel, grid.helpers);
  return finished ? Outcome{} : Outcome{Status::kCancelled, -1};
}

// Whether a byte holds a code of −2: its high bit without its low one.
bool has_minus_two(std::uint8_t byte) { return ((byte >> 1) & ~byte & 0x55) != 0; }

}  // namespace

Outcome pack_ternary_weight(const std::uint8_t* digits, std::size_t rows, std::size_t columns, PackedWeight& weight) {
  const std::size_t row_bytes = kTernary.packed_bytes(columns);
  for (std::size_t i = 0; i < rows * row_bytes; i++) {
    if (!has_minus_two(digits[i])) continue;
    for (std::size_t j = 0; j < 4; j++) {
      const std::size_t column = i % row_bytes * 4 + j;
      if (((digits[i] >> (2 * j)) & 3) == 2 && column < columns) {
        return {Status::kInvalidCode, static_cast<std::int64_t>(i / row_bytes * columns + column)};
      }
    }
  }
  const float one = 1.0F;
  weight = pack_codes({digits, kTernary, rows, columns, &one, nullptr, 0, std::max<std::size_t>(columns, 1)});
  return {};
}

bool is_ternary_weight(const PackedWeight& weight) {
  const PackedLayout& l = weight.layout;
  if (l.kind != WeightKind::kCodes || l.format != LineFormat::kBits2 || l.column_zeros || l.zero != kZero ||
      l.type != FloatType::kFloat16 || l.groups() != 1) {
    return false;
  }
  const auto* const scales = reinterpret_cast<const std::uint16_t*>(weight.scales());
  return std::all_of(scales, scales + l.rows, [](std::uint16_t scale) { return scale == kFloat16One; });
}

Outcome ternary_matmul(const std::int8_t* a, std::size_t m, const PackedWeight& weight, std::int32_t* c,
                       const CancelFlag* cancel) {
  return TernaryMatmul(a, m, weight, c).run(cancel);
}

}  // namespace lowbit
