#include "ops/linalg/cholesky.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/kernels.h"
#include "ops/matmul/strips.h"

namespace lowbit {
namespace {

// Rows that are added at a time: a tile of them stays in the second-level cache.
constexpr std::size_t kRows = 512;
// What rounding leaves of a pivot that should be zero, relative to the diagonal.
constexpr double kLeastPivot = 0x1p-23;

}  // namespace

// Element (r, c) of the block: H in the opposite order.
void ReversedCholesky::gather(std::size_t b, std::size_t column_block, float* out) const {
  const auto source = [&](std::size_t i) {
    const std::size_t j = size_ - 1 - i;
    return order_ == nullptr ? j : static_cast<std::size_t>(order_[j]);
  };
  for (std::size_t r = 0; r < kBlock; r++) {
    const std::size_t row = b * kBlock + r;
    for (std::size_t c = 0; c < kBlock; c++) {
      const std::size_t column = column_block * kBlock + c;
      float value = row == column ? 1.0F : 0.0F;
      if (row < size_ && column < size_) {
        value = h_[source(row) * size_ + source(column)];
        if (row == column) value = value == 0.0F ? 1.0F : value + damp_;
      }
      out[r * kBlock + c] = value;
    }
  }
}

// The rows of T above the block, negated, as the activations of a product: strips of the block's columns.
bool ReversedCholesky::pack_strips(std::size_t b, const CancelFlag* cancel) {
  const Strips strips(kBlock, kernels().matmul->float_rows);
  const std::size_t rows = b * kBlock;
  auto* const packed = strips_.as<float>();
  return ThreadPool::instance().parallel_for(
      strips.count,
      [&](std::size_t s) {
        const std::size_t begin = strips.begin(s), width = strips.size(s);
        float* to = packed + begin * rows;
        for (std::size_t k = 0; k < rows; k++) {
          for (std::size_t r = 0; r < width; r++) {
            const std::size_t c = begin + r;
            *to++ = -block(b)[tile_floats(b) * (c / 16) + k * 16 + c % 16];
          }
        }
      },
      cancel);
}

// out[64, 64] −= Σ over the rows k above the block of T[k][its columns] · T[k][columns of the other].
void ReversedCholesky::update(std::size_t b, std::size_t column_block, float* out) const {
  const MatmulKernels& kernel = *kernels().matmul;
  const Strips strips(kBlock, kernel.float_rows);
  const std::size_t rows = b * kBlock;
  for (std::size_t k = 0; k < rows; k += kRows) {
    for (std::size_t s = 0; s < strips.count; s++) {
      FloatArguments a{};
      a.type = FloatType::kFloat32;
      a.tiles = kBlock / kTileColumns;
      a.weights = block(column_block) + k * kTileColumns;
      a.tile_stride = tile_floats(column_block);
      a.count = std::min(kRows, rows - k);
      a.rows = strips.size(s);
      a.activations = strips_.as<float>() + strips.begin(s) * rows + k * a.rows;
      a.out = out + strips.begin(s) * kBlock;
      a.out_stride = kBlock;
      kernel.float_dot(a);
    }
  }
}

// The index within the block of a pivot that is not positive, or −1.
std::ptrdiff_t ReversedCholesky::factorize_diagonal(std::size_t b, const float* updated) {
  double t[kBlock][kBlock];
  for (std::size_t r = 0; r < kBlock; r++) {
    for (std::size_t c = 0; c < kBlock; c++) t[r][c] = static_cast<double>(updated[r * kBlock + c]);
  }
  for (std::size_t r = 0; r < kBlock; r++) {
    const std::size_t row = b * kBlock + r;
    double least = kLeastPivot;
    if (row < size_) {
      const std::size_t j = size_ - 1 - row, from = order_ == nullptr ? j : static_cast<std::size_t>(order_[j]);
      const float own = h_[from * size_ + from];
      least *= own == 0.0F ? 1.0 : static_cast<double>(own + damp_);  // as gather() has it
    }
    const double pivot = t[r][r];
    if (!(pivot > least) || !std::isfinite(pivot)) return static_cast<std::ptrdiff_t>(r);
    const double root = std::sqrt(pivot);
    for (std::size_t c = r; c < kBlock; c++) t[r][c] /= root;
    for (std::size_t i = r + 1; i < kBlock; i++) {
      const double factor = t[r][i];
      for (std::size_t c = i; c < kBlock; c++) t[i][c] -= factor * t[r][c];
    }
  }
  for (std::size_t r = 0; r < kBlock; r++) {
    for (std::size_t c = 0; c < kBlock; c++) {
      const float value = r <= c ? static_cast<float>(t[r][c]) : 0.0F;
      diagonal_.as<float>()[r * kBlock + c] = value;
      block(b)[tile_floats(b) * (c / 16) + (b * kBlock + r) * 16 + c % 16] = value;
    }
  }
  return -1;
}

Outcome ReversedCholesky::factorize(const float* h, std::size_t size, const std::int32_t* order, double damp,
                                    const CancelFlag* cancel) {
  const std::ptrdiff_t bad = first_not_finite(h, size * size);
  if (bad >= 0) return {Status::kNonFinite, bad};
  h_ = h;
  size_ = size;
  order_ = order;
  damp_ = static_cast<float>(damp);
  const std::size_t blocks = ceil_div(size, kBlock);
  if (blocks == 0) return {};
  storage_.reserve(kBlock * kBlock * (blocks * (blocks + 1) / 2) * sizeof(float));
  strips_.reserve(kBlock * blocks * kBlock * sizeof(float));
  diagonal_.reserve(kBlock * kBlock * sizeof(float));
  for (std::size_t b = 0; b < blocks; b++) {
    if (!pack_strips(b, cancel)) return {Status::kCancelled, -1};
    float own[kBlock * kBlock];
    gather(b, b, own);
    update(b, b, own);
    const std::ptrdiff_t stopped = factorize_diagonal(b, own);
    if (stopped >= 0) return {Status::kNotPositive, static_cast<std::int64_t>(b * kBlock) + stopped};
    const bool done = ThreadPool::instance().parallel_for(
        blocks - b - 1,
        [&](std::size_t i) {
          const std::size_t other = b + 1 + i;
          alignas(64) float part[kBlock * kBlock];
          gather(b, other, part);
          update(b, other, part);
          for (std::size_t t = 0; t < kBlock / 16; t++) {
            kernels().linalg->solve({kBlock, diagonal_.as<float>(), part + t * 16, kBlock});
            float* to = block(other) + tile_floats(other) * t + b * kBlock * 16;
            for (std::size_t r = 0; r < kBlock; r++) std::memcpy(to + r * 16, part + r * kBlock + t * 16, 64);
          }
        },
        cancel);
    if (!done) return {Status::kCancelled, -1};
  }
  return {};
}

}  // namespace lowbit
