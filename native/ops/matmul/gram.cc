// XᵀX, the Hessian of a linear layer's squared error (GPTQ): X is both the weights, in tiles of sixteen columns, and
// the activations, in strips of columns. Only what is on or above the diagonal is computed.

#include <cstring>

#include "core/kernels.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/strips.h"

namespace lowbit {
namespace {

// Rows of X that are added at a time: a tile of them stays in the second-level cache.
constexpr std::size_t kGramRows = 512;

class Gram {
 public:
  Gram(const float* x, std::size_t k, float* out)
      : x_(x), k_(k), out_(out), tiles_(ceil_div(k, kTileColumns)), strips_(k, kernels().matmul->float_rows) {}

  // Adds rows [begin, begin + count) of x; false if cancelled.
  bool add(std::size_t begin, std::size_t count, bool first, const CancelFlag* cancel);
  void mirror() const;

 private:
  const float* x_;
  std::size_t k_;
  float* out_;
  std::size_t tiles_;
  Strips strips_;
};

bool Gram::add(std::size_t begin, std::size_t count, bool first, const CancelFlag* cancel) {
  const MatmulKernels& kernel = *kernels().matmul;
  const std::size_t tile_floats = count * kTileColumns;
  auto* const tiles = reinterpret_cast<float*>(scratch(Scratch::kPacked, tiles_ * tile_floats * sizeof(float)));
  auto* const strips = reinterpret_cast<float*>(scratch(Scratch::kActivations, k_ * count * sizeof(float)));
  ThreadPool& pool = ThreadPool::instance();
  const bool packed = pool.parallel_for(
      tiles_ + strips_.count,
      [&](std::size_t i) {
        const bool is_tile = i < tiles_;
        const std::size_t s = is_tile ? 0 : i - tiles_;
        const std::size_t width = is_tile ? kTileColumns : strips_.size(s);
        const std::size_t from = is_tile ? i * kTileColumns : strips_.begin(s);
        float* to = is_tile ? tiles + i * tile_floats : strips + from * count;
        const std::size_t columns = std::min(width, k_ - from);
        for (std::size_t r = 0; r < count; r++) {
          std::memcpy(to, x_ + (begin + r) * k_ + from, columns * sizeof(float));
          std::memset(to + columns, 0, (width - columns) * sizeof(float));
          to += width;
        }
      },
      cancel);
  if (!packed) return false;
  // Tasks are strips: their rows end at the diagonal.
  return pool.parallel_for(
      strips_.count,
      [&](std::size_t s) {
        const std::size_t row = strips_.begin(s), rows = strips_.size(s);
        const std::size_t whole = k_ / kTileColumns;
        FloatArguments a{};
        a.type = FloatType::kFloat32;
        a.tile_stride = tile_floats;
        a.count = count;
        a.rows = rows;
        a.activations = strips + row * count;
        a.first = first;
        const std::size_t unit = kernel.float_tiles(rows);
        for (std::size_t t = row / kTileColumns; t < whole; t += unit) {
          a.tiles = std::min(unit, whole - t);
          a.weights = tiles + t * tile_floats;
          a.out = out_ + row * k_ + t * kTileColumns;
          a.out_stride = k_;
          kernel.float_dot(a);
        }
        if (whole == tiles_) return;
        // The last tile is wider than what is left of a row.
        const std::size_t columns = k_ - whole * kTileColumns;
        auto* const result = reinterpret_cast<float*>(scratch(Scratch::kResult, rows * kTileColumns * sizeof(float)));
        for (std::size_t r = 0; r < rows; r++) {
          std::memcpy(result + r * kTileColumns, out_ + (row + r) * k_ + whole * kTileColumns, columns * sizeof(float));
        }
        a.tiles = 1;
        a.weights = tiles + whole * tile_floats;
        a.out = result;
        a.out_stride = kTileColumns;
        kernel.float_dot(a);
        for (std::size_t r = 0; r < rows; r++) {
          std::memcpy(out_ + (row + r) * k_ + whole * kTileColumns, result + r * kTileColumns, columns * sizeof(float));
        }
      },
      cancel);
}

void Gram::mirror() const {
  constexpr std::size_t kBlock = 64;
  const std::size_t blocks = ceil_div(k_, kBlock);
  ThreadPool::instance().parallel_for(blocks, [&](std::size_t b) {
    for (std::size_t other = 0; other <= b; other++) {
      for (std::size_t r = b * kBlock; r < std::min(k_, (b + 1) * kBlock); r++) {
        for (std::size_t c = other * kBlock; c < std::min(r, (other + 1) * kBlock); c++)
          out_[r * k_ + c] = out_[c * k_ + r];
      }
    }
  });
}

}  // namespace

Outcome gram(const float* x, std::size_t m, std::size_t k, bool first, float* out, const CancelFlag* cancel) {
  const std::ptrdiff_t bad = first_not_finite(x, m * k);
  if (bad >= 0) return {Status::kNonFinite, bad};
  if (first && k != 0) std::memset(out, 0, k * k * sizeof(float));
  if (m == 0 || k == 0) return {};
  Gram product(x, k, out);
  for (std::size_t begin = 0; begin < m; begin += kGramRows) {
    if (!product.add(begin, std::min(kGramRows, m - begin), false, cancel)) return {Status::kCancelled, -1};
  }
  product.mirror();
  return {};
}

}  // namespace lowbit
