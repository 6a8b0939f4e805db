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

  // Columns are marked by any thread that finds them, always with the same value.
  void find_outliers(std::size_t task) {
    auto* const room = reinterpret_cast<float*>(scratch(Scratch::kRow, r_.columns * sizeof(float)));
    for_each_row(task, [&](std::size_t row) {
      const float* const x = floats(row, room);
      if (largest(x) < r_.threshold) return;
      for (std::size_t k = 0; k < r_.columns; k++) {
        if (std::fabs(x[k]) >= r_.threshold) mark(k);
      }
    });
  }
  void mark(std::size_t column) {
    const std::lock_guard<std::mutex> lock(mutex_);
    r_.outlier[column] = 1;
  }

  void quantize_row(std::size_t row, const std::uint8_t* given) {
    std::uint8_t* const room = scratch(Scratch::kRow, 2 * padded_ * sizeof(float) + padded_);
    auto* const own = reinterpret_cast<float*>(room);
    auto* const codes = reinterpret_cast<std::int8_t*>(room + 2 * padded_ * sizeof(float));
    const float* const x = floats(row, own + padded_);
    const std::ptrdiff_t bad = first_not_finite(x, r_.columns);
    if (bad >= 0) return report(static_cast<std::int64_t>(row * r_.columns) + bad);
    for (std::size_t k = 0; k < r_.columns; k++) {
      const bool left_out = given[k] != 0 || (r_.threshold > 0.0F && std::fabs(x[k]) >= r_.threshold);
      own[k] = left_out ? 0.0F : x[k];
    }
    r_.absmax[row] = largest(own);
    float scale = 0.0F;
    std::int32_t sum = 0;
    kernels().matmul->quantize_row({own, r_.columns, padded_, 1, false, true, codes, nullptr, &scale, &sum});
    for (std::size_t k = 0; k < r_.columns; k++) {
      if (r_.outlier[k] != 0) codes[k] = 0;
    }
    std::memcpy(r_.codes + row * r_.columns, codes, r_.columns);
  }

  void report(std::int64_t index) {
    std::int64_t seen = first_.load();
    while (index < seen && !first_.compare_exchange_weak(seen, index)) {
    }
  }

  const LlmInt8Rows& r_;
  std::size_t padded_;
  std::mutex mutex_;
  std::atomic<std::int64_t> first_{INT64_MAX};
};

// Some columns of x[m, k], side by side.
std::vector<float> gathered(const float* x, std::size_t m, std::size_t k, const std::vector<std::size_t>& columns) {
  std::vector<float> out(m * columns.size());
  for (std::size_t r = 0; r < m; r++) {
    for (std::size_t c = 0; c < columns.size(); c++) out[r * columns.size() + c] = x[r * k + columns[c]];
  }
  return out;
}

class Product {
 public:
  explicit Product(const LlmInt8Product& p)
      : p_(p),
        n_(static_cast<std::size_t>(p.weight->layout.rows)),
        k_(static_cast<std::size_t>(p.weight->layout.columns)) {}

  Outcome run(const CancelFlag* cancel) const;

 private:
  PackedWeight dequantized(const std::vector<std::size_t>& columns) const;
  // sum (+)= x[:, columns] · Wᵀ
  Outcome add_floats(const std::vector<std::size_t>& columns, const PackedWeight& weight, std::vector<float>& sum,
                     const CancelFlag* cancel) const;

  const LlmInt8Product& p_;
  std::size_t n_, k_;
};

// Columns of the weight as floats, code · (absmax / 127).
PackedWeight Product::dequantized(const std::vector<std::size_t>& columns) const {
  std::vector<float> weights(n_ * columns.size());
  const PackedLayout& l = p_.weight->layout;
  for (std::size_t r = 0; r < n_; r++) {
    const std::uint8_t* const tile = p_.weight->codes() + r / kTileColumns * l.tile_bytes();
    for (std::size_t c = 0; c < columns.size(); c++) {
      const std::size_t at = columns[c] / kQuad * kLineBytes + kQuad * (r % kTileColumns) + columns[c] % kQuad;
      weights[r * columns.size() + c] = static_cast<float>(tile[at] - l.zero) * (p_.absmax[r] / 127.0F);
    }
  }
  return pack_floats(weights.data(), FloatType::kFloat32, n_, columns.size());
}

Outcome Product::add_floats(const std::vector<std::size_t>& columns, const PackedWeight& weight,
                            std::vector<float>& sum, const CancelFlag* cancel) const {
  const std::vector<float> x = gathered(p_.x, p_.m, k_, columns);
  std::vector<float> part(p_.m * n_);
  LinearArguments a{};
  a.x = x.data();
  a.m = p_.m;
  a.weight = &weight;
  a.y = part.data();
  const Outcome outcome = linear(a, cancel);
  if (sum.empty()) {
    sum.swap(part);
  } else {
    for (std::size_t i = 0; i < sum.size(); i++) sum[i] += part[i];
  }
  return outcome;
}

Outcome Product::run(const CancelFlag* cancel) const {
  if (p_.m == 0 || n_ == 0) return {};
  std::vector<std::uint8_t> outlier(k_);
  std::vector<std::size_t> kept, found;
  const std::size_t kept_count = p_.kept == nullptr ? 0 : static_cast<std::size_t>(p_.kept->layout.columns);
  for (std::size_t i = 0; i < kept_count; i++) {
    kept.push_back(static_cast<std::size_t>(p_.kept_columns[i]));
    outlier[kept.back()] = 1;
  }
  const std::vector<std::uint8_t> is_kept = outlier;
  std::vector<std::int8_t> codes(p_.m * k_);
  std::vector<float> absmax(p_.m), scales(n_);
  Outcome outcome = quantize_llm_int8(
      {p_.x, FloatType::kFloat32, p_.m, k_, p_.threshold, outlier.data(), codes.data(), absmax.data()}, cancel);
  if (outcome.status != Status::kOk) return outcome;
  for (std::size_t k = 0; k < k_; k++) {
    if (outlier[k] != 0 && is_kept[k] == 0) found.push_back(k);
  }

  for (std::size_t c = 0; c < n_; c++) scales[c] = p_.absmax[c] / 127.0F;
  const std::int32_t no_zero = 0;
  IntegerMatmulArguments product{};
  product.a = reinterpret_cast<const std::uint8_t*>(codes.data());
  product.a_signed = true;
  product.m = p_.m;
  product.b = p_.weight;
  product.a_zeros = product.b_zeros = &no_zero;
  product.result = IntegerResult::kFloats;
  product.scales = scales.data();
  product.scale_per_column = true;
  product.c = p_.y;
  outcome = matmul_integer(product, cancel);
  if (outcome.status != Status::kOk) return outcome;

  std::vector<float> floats;
  if (!found.empty()) outcome = add_floats(found, dequantized(found), floats, cancel);
  if (outcome.status == Status::kOk && kept_count != 0) outcome = add_floats(kept, *p_.kept, floats, cancel);
  if (outcome.status != Status::kOk) return outcome;

  const std::size_t together = rows_per_task(n_);
  const auto finish = [&](std::size_t task) {
    const std::size_t end = std::min(p_.m, (task + 1) * together);
    for (std::size_t r = task * together; r < end; r++) {
      float* const y = p_.y + r * n_;
      const float scale = absmax[r] / 127.0F;
      for (std::size_t c = 0; c < n_; c++) y[c] *= scale;
      for (std::size_t c = 0; !floats.empty() && c < n_; c++) y[c] += floats[r * n_ + c];
      for (std::size_t c = 0; p_.bias != nullptr && c < n_; c++) y[c] += p_.bias[c];
    }
  };
  return ThreadPool::instance().parallel_for(ceil_div(p_.m, together), finish, cancel)
             ? Outcome{}
             : Outcome{Status::kCancelled, -1};
}

}  // namespace

Outcome quantize_llm_int8(const LlmInt8Rows& rows, const CancelFlag* cancel) { return RowQuantizer(rows).run(cancel); }

Outcome llm_int8_product(const LlmInt8Product& product, const CancelFlag* cancel) {
  return Product(product).run(cancel);
}

}  // namespace lowbit
