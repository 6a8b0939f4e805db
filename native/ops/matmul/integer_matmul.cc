// Exact products of bytes: rows of a become strips of signed bytes, zero points are repaid by sums of rows and columns.

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "core/float_bits.h"
#include "core/kernels.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/strips.h"

namespace lowbit {
namespace {

class IntegerMatmul {
 public:
  explicit IntegerMatmul(const IntegerMatmulArguments& a)
      : a_(a),
        n_(static_cast<std::size_t>(a.b->layout.rows)),
        k_(static_cast<std::size_t>(a.b->layout.columns)),
        quads_(a.b->layout.quads()),
        strips_(a.m, kernels().matmul->dot_rows) {}

  Outcome run(const CancelFlag* cancel);

 private:
  void fill_strip(std::size_t strip) const;
  void fill_columns();
  void panel(std::size_t first_tile, std::size_t tiles, std::size_t first_strip, std::size_t last_strip) const;
  void finish_row(const std::int32_t* sums, std::size_t row, std::size_t begin, std::size_t count) const;

  const IntegerMatmulArguments& a_;
  std::size_t n_, k_, quads_;
  Strips strips_;
  std::int32_t* activations_ = nullptr;   // strip after strip: [quad][row]
  std::int32_t* row_zeros_ = nullptr;     // [m]
  std::int32_t* row_sums_ = nullptr;      // [m]
  std::int32_t* column_terms_ = nullptr;  // [tiles · 16]
  std::int32_t* column_zeros_ = nullptr;  // [tiles · 16]
};

void IntegerMatmul::fill_strip(std::size_t strip) const {
  const std::size_t rows = strips_.size(strip);
  const std::uint8_t flip = a_.a_signed ? 0 : 0x80;
  auto* const out = reinterpret_cast<std::uint8_t*>(activations_ + strips_.begin(strip) * quads_);
  for (std::size_t r = 0; r < rows; r++) {
    const std::size_t row = strips_.begin(strip) + r;
    const std::uint8_t* const in = a_.a + row * k_;
    std::int32_t sum = 0;
    for (std::size_t q = 0; q < quads_; q++) {
      std::uint8_t* const quad = out + kQuad * (q * rows + r);
      if (kQuad * (q + 1) <= k_) {
        for (std::size_t i = 0; i < kQuad; i++) quad[i] = in[kQuad * q + i] ^ flip;
      } else {
        for (std::size_t i = 0; i < kQuad; i++) quad[i] = kQuad * q + i < k_ ? in[kQuad * q + i] ^ flip : 0;
      }
    }
    for (std::size_t i = 0; i < k_; i++) sum += static_cast<std::int8_t>(in[i] ^ flip);
    row_sums_[row] = sum;
    row_zeros_[row] = a_.a_zeros[a_.a_zero_per_row ? row : 0] - flip;
  }
}

void IntegerMatmul::fill_columns() {
  const std::int32_t offset = kernels().matmul->byte_offset, shift = a_.b->layout.zero - offset;
  const std::int32_t* const sums = a_.b->column_sums();
  const auto k = static_cast<std::uint32_t>(k_);
  for (std::size_t c = 0; c < a_.b->layout.tiles() * kTileColumns; c++) {
    const std::int32_t zero = (c < n_ ? a_.b_zeros[a_.b_zero_per_column ? c : 0] : 0) + shift;
    column_zeros_[c] = zero;
    column_terms_[c] =
        static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[c]) - k * static_cast<std::uint32_t>(offset + zero));
  }
}

// One row of exact integers, columns [begin, begin + count), to the result.
void IntegerMatmul::finish_row(const std::int32_t* sums, std::size_t row, std::size_t begin, std::size_t count) const {
  const std::size_t at = row * n_ + begin;
  const auto scale = [&](std::size_t c) { return a_.scales[a_.scale_per_column ? begin + c : 0]; };
  switch (a_.result) {
    case IntegerResult::kInt32:
      std::memcpy(static_cast<std::int32_t*>(a_.c) + at, sums, count * sizeof(std::int32_t));
      return;
    case IntegerResult::kFloats: {
      float* const out = static_cast<float*>(a_.c) + at;
      for (std::size_t c = 0; c < count; c++) out[c] = static_cast<float>(sums[c]) * scale(c);
      for (std::size_t c = 0; a_.bias != nullptr && c < count; c++) out[c] += a_.bias[begin + c];
      return;
    }
    case IntegerResult::kInt8:
    case IntegerResult::kUint8:
      break;
  }
  const std::int32_t lowest = a_.result == IntegerResult::kInt8 ? -128 : 0, highest = lowest + 255;
  auto* const out = static_cast<std::uint8_t*>(a_.c) + at;
  for (std::size_t c = 0; c < count; c++) {
    // Within ±1000 everything saturates the same way, and adding 1.5 · 2^23 rounds half to even.
    const float exact = static_cast<float>(sums[c]) * scale(c);
    const float bounded = exact < -1000.0F ? -1000.0F : exact > 1000.0F ? 1000.0F : exact;
    const auto code = static_cast<std::int32_t>((bounded + 12582912.0F) - 12582912.0F) + a_.zero_point;
    out[c] = static_cast<std::uint8_t>(std::clamp(code, lowest, highest));
  }
}

void IntegerMatmul::panel(std::size_t first_tile, std::size_t tiles, std::size_t first_strip,
                          std::size_t last_strip) const {
  const std::size_t begin = first_tile * kTileColumns, width = tiles * kTileColumns;
  const std::size_t columns = std::min(width, n_ - begin);
  const bool direct = a_.result == IntegerResult::kInt32 && columns == width;
  IntegerArguments d{};
  d.tiles = tiles;
  d.tile_bytes = a_.b->layout.tile_bytes();
  d.codes = a_.b->codes() + first_tile * d.tile_bytes;
  d.quad_count = quads_;
  d.column_terms = column_terms_ + begin;
  d.column_zeros = column_zeros_ + begin;
  for (std::size_t s = first_strip; s < last_strip; s++) {
    const std::size_t row = strips_.begin(s);
    d.rows = strips_.size(s);
    d.quads = activations_ + row * quads_;
    d.row_zeros = row_zeros_ + row;
    d.row_sums = row_sums_ + row;
    d.out_stride = direct ? n_ : width;
    d.out = direct ? static_cast<std::int32_t*>(a_.c) + row * n_ + begin
                   : reinterpret_cast<std::int32_t*>(scratch(Scratch::kResult, d.rows * width * sizeof(std::int32_t)));
    kernels().matmul->integer_dot(d);
    for (std::size_t r = 0; !direct && r < d.rows; r++) finish_row(d.out + r * width, row + r, begin, columns);
  }
}

Outcome IntegerMatmul::run(const CancelFlag* cancel) {
  if (a_.m == 0 || n_ == 0) return {};
  const std::size_t padded = a_.b->layout.tiles() * kTileColumns;
  const std::size_t integers = a_.m * quads_ + 2 * a_.m + 2 * padded;
  activations_ = reinterpret_cast<std::int32_t*>(scratch(Scratch::kActivations, integers * sizeof(std::int32_t)));
  row_zeros_ = activations_ + a_.m * quads_;
  row_sums_ = row_zeros_ + a_.m;
  column_terms_ = row_sums_ + a_.m;
  column_zeros_ = column_terms_ + padded;
  fill_columns();
  ThreadPool& pool = ThreadPool::instance();
  if (!pool.parallel_for(strips_.count, [&](std::size_t i) { fill_strip(i); }, cancel)) {
    return {Status::kCancelled, -1};
  }
  const std::size_t unit = kernels().matmul->dot_tiles(strips_.longest());
  const double products = static_cast<double>(a_.m) * static_cast<double>(n_) * static_cast<double>(k_);
  const Grid grid =
      divide(a_.b->layout.tiles(), unit, strips_.count, static_cast<double>(a_.b->layout.bytes()), products);
  const bool finished = pool.parallel_for(
      grid.count(),
      [&](std::size_t task) {
        const GridTask t = grid.task(task);
        for (std::size_t tile = t.first_tile; tile < t.last_tile; tile += unit) {
          panel(tile, std::min(unit, t.last_tile - tile), t.first_strip, t.last_strip);
        }
      },
      cancel, grid.helpers);
  return finished ? Outcome{} : Outcome{Status::kCancelled, -1};
}

}  // namespace

Outcome matmul_integer(const IntegerMatmulArguments& arguments, const CancelFlag* cancel) {
  return IntegerMatmul(arguments).run(cancel);
}

Outcome dynamic_quantize(const float* x, std::size_t count, std::uint8_t* codes, float& scale, std::uint8_t& zero_point,
                         const CancelFlag* cancel) {
  const std::size_t tiles = ceil_div(count, kTileElements);
  struct Range {
    float least, greatest;
    std::ptrdiff_t bad;
  };
  std::vector<Range> ranges(tiles, {0.0F, 0.0F, -1});
  ThreadPool& pool = ThreadPool::instance();
  const bool ranged = pool.parallel_for(
      tiles,
      [&](std::size_t t) {
        Range& range = ranges[t];
        const std::size_t end = std::min(count, (t + 1) * kTileElements);
        for (std::size_t i = t * kTileElements; i < end; i++) {
          if (!is_finite(x[i])) {
            range.bad = static_cast<std::ptrdiff_t>(i);
            return;
          }
          range.least = std::min(range.least, x[i]);
          range.greatest = std::max(range.greatest, x[i]);
        }
      },
      cancel);
  if (!ranged) return {Status::kCancelled, -1};
  float least = 0.0F, greatest = 0.0F;
  for (const Range& range : ranges) {
    if (range.bad >= 0) return {Status::kNonFinite, range.bad};
    least = std::min(least, range.least);
    greatest = std::max(greatest, range.greatest);
  }
  // Half of each, so that the difference of the largest floats is one as well.
  const float step = (greatest / 255.0F) - (least / 255.0F);
  const float exact = (greatest - least) / 255.0F;
  scale = is_finite(exact) ? exact : step;
  if (scale == 0.0F) scale = 1.0F;
  const float bound = 255.0F;
  const float shifted = -least / scale;
  zero_point = static_cast<std::uint8_t>(std::nearbyintf(std::min(shifted, bound)));
  const float zero = static_cast<float>(zero_point);
  const float divisor = scale;
  const bool quantized = pool.parallel_for(
      tiles,
      [&](std::size_t t) {
        const std::size_t end = std::min(count, (t + 1) * kTileElements);
        for (std::size_t i = t * kTileElements; i < end; i++) {
          const float rounded = ((x[i] / divisor) + 12582912.0F) - 12582912.0F;
          codes[i] = static_cast<std::uint8_t>(std::clamp(rounded + zero, 0.0F, bound));
        }
      },
      cancel);
  return quantized ? Outcome{} : Outcome{Status::kCancelled, -1};
}

Outcome dynamic_quantize_matmul(const float* x, IntegerMatmulArguments product, const CancelFlag* cancel) {
  const PackedLayout& b = product.b->layout;
  const std::unique_ptr<std::uint8_t[]> codes(new std::uint8_t[product.m * b.columns]);
  float scale = 0.0F;
  std::uint8_t zero_point = 0;
  const Outcome quantized = dynamic_quantize(x, product.m * b.columns, codes.get(), scale, zero_point, cancel);
  if (quantized.status != Status::kOk) return quantized;
  std::vector<float> scales(product.scales, product.scales + (product.scale_per_column ? b.rows : 1));
  for (float& one : scales) one *= scale;
  const std::int32_t a_zero = zero_point;
  product.a = codes.get();
  product.a_signed = false;
  product.a_zeros = &a_zero;
  product.a_zero_per_row = false;
  product.result = IntegerResult::kFloats;
  product.scales = scales.data();
  return matmul_integer(product, cancel);
}

}  // namespace lowbit
