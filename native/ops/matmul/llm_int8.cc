#include "ops/matmul/llm_int8.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/float_bits.h"
#include "core/kernels.h"
#include "core/pages.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/strips.h"

namespace lowbit {
namespace {

// Elements that take about as long to finish as a thread to wake up.
constexpr std::size_t kWorthWakingElements = std::size_t{1} << 18;
constexpr std::size_t kCodeUnit = 16;  // the codes of a row are written in whole vectors

std::size_t rows_per_task(std::size_t columns) {
  return std::max<std::size_t>(1, kTileElements / std::max<std::size_t>(columns, 1));
}

class RowQuantizer {
 public:
  explicit RowQuantizer(const LlmInt8Rows& r) : r_(r), padded_(ceil_div(r.columns, kCodeUnit) * kCodeUnit) {}

  Outcome run(const CancelFlag* cancel) {
    const std::size_t tasks = ceil_div(r_.rows, rows_per_task(r_.columns));
    ThreadPool& pool = ThreadPool::instance();
    if (r_.columns == 0) {
      std::fill_n(r_.absmax, r_.rows, 0.0F);
      return {};
    }
    const std::vector<std::uint8_t> given(r_.outlier, r_.outlier + r_.columns);
    if (r_.threshold > 0.0F && !pool.parallel_for(tasks, [&](std::size_t i) { find_outliers(i); }, cancel)) {
      return {Status::kCancelled, -1};
    }
    any_outlier_ = std::any_of(r_.outlier, r_.outlier + r_.columns, [](std::uint8_t flag) { return flag != 0; });
    const auto quantize = [&](std::size_t i) {
      for_each_row(i, [&](std::size_t row) { quantize_row(row, given.data()); });
    };
    if (!pool.parallel_for(tasks, quantize, cancel)) return {Status::kCancelled, -1};
    const std::int64_t first = first_.load();
    return first == INT64_MAX ? Outcome{} : Outcome{Status::kNonFinite, first};
  }

 private:
  template <typename Body>
  void for_each_row(std::size_t task, const Body& body) const {
    const std::size_t together = rows_per_task(r_.columns), end = std::min(r_.rows, (task + 1) * together);
    for (std::size_t row = task * together; row < end; row++) body(row);
  }

  // A row as float32: its own memory, or a copy in `room`.
  const float* floats(std::size_t row, float* room) const {
    const CastKernels& k = *kernels().cast;
    const std::size_t at = row * r_.columns;
    if (r_.type == FloatType::kFloat32) return static_cast<const float*>(r_.x) + at;
    const auto* const halves = static_cast<const std::uint16_t*>(r_.x) + at;
    (r_.type == FloatType::kFloat16 ? k.float16_to_float32 : k.bfloat16_to_float32)(halves, room, r_.columns, false);
    return room;
  }

  float largest(const float* x) const {
    float absmax = 0.0F;
    kernels().affine->absmax(x, FloatType::kFloat32, r_.columns, r_.columns, &absmax);
    return absmax;
  }

  void find_outliers(std::size_t task) {
    auto* const room = reinterpret_cast<float*>(scratch(Scratch::kRow, r_.columns * sizeof(float)));
    std::vector<std::uint8_t> found;
    for_each_row(task, [&](std::size_t row) {
      const float* const x = floats(row, room);
      if (largest(x) < r_.threshold) return;
      found.resize(r_.columns);
      for (std::size_t k = 0; k < r_.columns; k++)
        found[k] |= static_cast<std::uint8_t>(std::fabs(x[k]) >= r_.threshold);
    });
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::size_t k = 0; k < found.size(); k++) r_.outlier[k] |= found[k];
  }

  void quantize_row(std::size_t row, const std::uint8_t* given) {
    std::uint8_t* const room = scratch(Scratch::kRow, 2 * padded_ * sizeof(float) + padded_);
    auto* const own = reinterpret_cast<float*>(room);
    const float* x = floats(row, own + padded_);
    if (any_outlier_) {
      const std::ptrdiff_t bad = first_not_finite(x, r_.columns);
      if (bad >= 0) return report(static_cast<std::int64_t>(row * r_.columns) + bad);
      for (std::size_t k = 0; k < r_.columns; k++) {
        const bool left_out = given[k] != 0 || (r_.threshold > 0.0F && std::fabs(x[k]) >= r_.threshold);
        own[k] = left_out ? 0.0F : x[k];
      }
      x = own;
    }
    r_.absmax[row] = largest(x);
    std::int8_t* const out = r_.codes + row * r_.columns;
    auto* const codes =
        padded_ == r_.columns ? out : reinterpret_cast<std::int8_t*>(room + 2 * padded_ * sizeof(float));
    float scale = 0.0F;
    std::int32_t sum = 0;
    const std::ptrdiff_t bad =
        kernels().matmul->quantize_row({x, r_.columns, padded_, 1, false, true, codes, nullptr, &scale, &sum});
    if (bad >= 0) return report(static_cast<std::int64_t>(row * r_.columns) + bad);
    if (codes != out) std::memcpy(out, codes, r_.columns);
    for (std::size_t k = 0; any_outlier_ && k < r_.columns; k++) {
      if (r_.outlier[k] != 0) out[k] = 0;
    }
  }

  void report(std::int64_t index) {
    std::int64_t seen = first_.load();
    while (index < seen && !first_.compare_exchange_weak(seen, index)) {
    }
  }

  const LlmInt8Rows& r_;
  std::size_t padded_;
  bool any_outlier_ = false;
  std::mutex mutex_;
  std::atomic<std::int64_t> first_{INT64_MAX};
};

// Some columns of x and of the weight, as MatmulKernels::float_dot reads them.
struct FloatColumns {
  std::size_t count = 0;
  FloatType type = FloatType::kFloat32;
  const std::uint8_t* weights = nullptr;  // per tile: [column][row of the weight]
  std::vector<float> x;                   // strip after strip: [column][row]

  std::size_t tile_bytes() const { return count * kTileColumns * size_of(type); }
};

class Product {
 public:
  explicit Product(const LlmInt8Product& p)
      : p_(p),
        n_(static_cast<std::size_t>(p.weight->layout.rows)),
        k_(static_cast<std::size_t>(p.weight->layout.columns)),
        tiles_(p.weight->layout.tiles()),
        strips_(p.m, kernels().matmul->float_rows) {}

  Outcome run(const CancelFlag* cancel);

 private:
  Outcome multiply_codes(const std::int8_t* codes, const CancelFlag* cancel) const;
  std::vector<float> gathered(const std::vector<std::size_t>& columns) const;
  void dequantize(const std::vector<std::size_t>& columns, std::size_t tile, float* out) const;
  void finish(std::size_t tile) const;
  void add(const FloatColumns& floats, const std::uint8_t* tile, std::size_t strip, float* y, std::size_t stride) const;

  const LlmInt8Product& p_;
  std::size_t n_, k_, tiles_;
  Strips strips_;
  std::vector<float> absmax_;       // of the rows of x
  std::vector<std::size_t> found_;  // columns of x with an outlier, but for those that the weight keeps
  FloatColumns dequantized_, kept_;
};

// y = sum · (absmax of the weight's row / 127), the sum exact.
Outcome Product::multiply_codes(const std::int8_t* codes, const CancelFlag* cancel) const {
  std::vector<float> scales(n_);
  for (std::size_t c = 0; c < n_; c++) scales[c] = p_.absmax[c] / 127.0F;
  const std::int32_t no_zero = 0;
  IntegerMatmulArguments product{};
  product.a = reinterpret_cast<const std::uint8_t*>(codes);
  product.a_signed = true;
  product.m = p_.m;
  product.b = p_.weight;
  product.a_zeros = product.b_zeros = &no_zero;
  product.result = IntegerResult::kFloats;
  product.scales = scales.data();
  product.scale_per_column = true;
  product.c = p_.y;
  return matmul_integer(product, cancel);
}

std::vector<float> Product::gathered(const std::vector<std::size_t>& columns) const {
  std::vector<float> out(p_.m * columns.size());
  float* next = out.data();
  for (std::size_t s = 0; s < strips_.count; s++) {
    const float* const rows = p_.x + strips_.begin(s) * k_;
    for (const std::size_t column : columns) {
      for (std::size_t r = 0; r < strips_.size(s); r++) *next++ = rows[r * k_ + column];
    }
  }
  return out;
}

// Columns of a tile of the weight as floats, code · (absmax / 127).
void Product::dequantize(const std::vector<std::size_t>& columns, std::size_t tile, float* out) const {
  const PackedLayout& l = p_.weight->layout;
  const std::uint8_t* const codes = p_.weight->codes() + tile * l.tile_bytes();
  float scales[kTileColumns] = {};
  for (std::size_t c = 0; c < std::min(kTileColumns, n_ - tile * kTileColumns); c++) {
    scales[c] = p_.absmax[tile * kTileColumns + c] / 127.0F;
  }
  for (const std::size_t column : columns) {
    const std::uint8_t* const line = codes + column / kQuad * kLineBytes + column % kQuad;
    for (std::size_t c = 0; c < kTileColumns; c++) *out++ = static_cast<float>(line[kQuad * c] - l.zero) * scales[c];
  }
}

void Product::add(const FloatColumns& floats, const std::uint8_t* tile, std::size_t strip, float* y,
                  std::size_t stride) const {
  if (floats.count == 0) return;
  FloatArguments a{};
  a.tiles = 1;
  a.type = floats.type;
  a.weights = tile;
  a.count = floats.count;
  a.rows = strips_.size(strip);
  a.activations = floats.x.data() + strips_.begin(strip) * floats.count;
  a.out = y;
  a.out_stride = stride;
  kernels().matmul->float_dot(a);
}

// What is left to do for the columns of a tile: the scales of x, the bias, and the products of floats.
void Product::finish(std::size_t tile) const {
  const std::size_t begin = tile * kTileColumns, columns = std::min(kTileColumns, n_ - begin);
  std::uint8_t* const room = scratch(Scratch::kPanel, dequantized_.tile_bytes());
  dequantize(found_, tile, reinterpret_cast<float*>(room));
  for (std::size_t s = 0; s < strips_.count; s++) {
    float* const y = p_.y + strips_.begin(s) * n_ + begin;
    for (std::size_t r = 0; r < strips_.size(s); r++) {
      const float scale = absmax_[strips_.begin(s) + r] / 127.0F;
      for (std::size_t c = 0; c < columns; c++) y[r * n_ + c] *= scale;
      for (std::size_t c = 0; p_.bias != nullptr && c < columns; c++) y[r * n_ + c] += p_.bias[begin + c];
    }
    if (dequantized_.count + kept_.count == 0) continue;
    const std::uint8_t* const kept = kept_.weights + tile * kept_.tile_bytes();
    if (columns == kTileColumns) {
      add(dequantized_, room, s, y, n_);
      add(kept_, kept, s, y, n_);
      continue;
    }
    // The last tile is wider than y.
    std::vector<float> wide(strips_.size(s) * kTileColumns);
    for (std::size_t r = 0; r < strips_.size(s); r++) std::copy_n(y + r * n_, columns, wide.data() + r * kTileColumns);
    add(dequantized_, room, s, wide.data(), kTileColumns);
    add(kept_, kept, s, wide.data(), kTileColumns);
    for (std::size_t r = 0; r < strips_.size(s); r++) std::copy_n(wide.data() + r * kTileColumns, columns, y + r * n_);
  }
}

Outcome Product::run(const CancelFlag* cancel) {
  if (p_.m == 0 || n_ == 0) return {};
  std::vector<std::uint8_t> outlier(k_);
  std::vector<std::size_t> kept_columns;
  if (p_.kept != nullptr) {
    kept_columns.assign(p_.kept_columns, p_.kept_columns + p_.kept->layout.columns);
    for (const std::size_t column : kept_columns) outlier[column] = 1;
  }
  const std::vector<std::uint8_t> is_kept = outlier;
  std::vector<std::int8_t> codes(p_.m * k_);
  absmax_.resize(p_.m);
  const LlmInt8Rows rows{p_.x,         FloatType::kFloat32, p_.m,         k_,
                         p_.threshold, outlier.data(),      codes.data(), absmax_.data()};
  Outcome outcome = quantize_llm_int8(rows, cancel);
  if (outcome.status == Status::kOk) outcome = multiply_codes(codes.data(), cancel);
  if (outcome.status != Status::kOk) return outcome;

  for (std::size_t k = 0; k < k_; k++) {
    if (outlier[k] != 0 && is_kept[k] == 0) found_.push_back(k);
  }
  dequantized_ = {found_.size(), FloatType::kFloat32, nullptr, gathered(found_)};
  if (p_.kept != nullptr) {
    kept_ = {kept_columns.size(), p_.kept->layout.type, p_.kept->codes(), gathered(kept_columns)};
  }
  const std::size_t together = std::max<std::size_t>(1, kTileElements / (kTileColumns * p_.m));
  const auto finish_tiles = [&](std::size_t task) {
    const std::size_t end = std::min(tiles_, (task + 1) * together);
    for (std::size_t tile = task * together; tile < end; tile++) finish(tile);
  };
  const std::size_t columns = 1 + dequantized_.count + kept_.count;
  const Helpers helpers = p_.m * n_ * columns < kWorthWakingElements ? Helpers::kAwake : Helpers::kAll;
  const bool finished = ThreadPool::instance().parallel_for(ceil_div(tiles_, together), finish_tiles, cancel, helpers);
  return finished ? Outcome{} : Outcome{Status::kCancelled, -1};
}

}  // namespace

Outcome quantize_llm_int8(const LlmInt8Rows& rows, const CancelFlag* cancel) { return RowQuantizer(rows).run(cancel); }

Outcome llm_int8_product(const LlmInt8Product& product, const CancelFlag* cancel) {
  return Product(product).run(cancel);
}

}  // namespace lowbit
