#include "ops/blocks/blocks.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "core/kernels.h"
#include "core/tiles.h"
#include "ops/blocks/blocks_math.h"

namespace lowbit {
namespace {

// What no type comes near whose scales are float16 (q6_k and iq4_xs reach 2^28) or E4M3. Below it, no sum of a search
// loses its meaning by overflow, and nvfp4 saturates.
constexpr float kMost = 0x1p30F;

// Whether scales follow wherever float32 goes.
bool is_unbounded(BlockType type) { return type == BlockType::kQ8_K || type == BlockType::kMXFP4; }

class Quantizer {
 public:
  Quantizer(const float* in, BlockType type, std::size_t rows, std::size_t columns, const float* importance,
            std::uint8_t* out)
      : kernels_(kernels().blocks->of(type)),
        affine_(*kernels().affine),
        format_(format_of(type)),
        unbounded_(is_unbounded(type)),
        in_(in),
        out_(out),
        importance_(format_.takes_importance ? importance : nullptr),
        rows_(rows),
        columns_(columns),
        blocks_per_row_(columns / format_.length),
        blocks_(rows * blocks_per_row_) {}

  Outcome run(const CancelFlag* cancel) {
    ThreadPool& pool = ThreadPool::instance();
    bool done = true;
    if (importance_ != nullptr && format_.length == kBlock) {
      mean_squares_.resize(rows_);
      const auto row = [&](std::size_t r) {
        mean_squares_[r] = sum_of_squares(in_ + r * columns_, columns_) / static_cast<float>(columns_);
      };
      done = pool.parallel_for(rows_, row, cancel);
    }
    const std::size_t tile_blocks = kTileElements / format_.length;
    const auto tile = [&](std::size_t t) { quantize_tile(t * tile_blocks, std::min(blocks_, (t + 1) * tile_blocks)); };
    done = done && pool.parallel_for(ceil_div(blocks_, tile_blocks), tile, cancel);
    if (!done) return {Status::kCancelled, -1};
    if (const std::int64_t i = first_non_finite_.load(); i != kNone) return {Status::kNonFinite, i};
    if (const std::int64_t i = first_overflow_.load(); i != kNone) return {Status::kScaleOverflow, i};
    return {};
  }

 private:
  static constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();

  static void report(std::atomic<std::int64_t>& first, std::size_t index) {
    const auto value = static_cast<std::int64_t>(index);
    std::int64_t seen = first.load(std::memory_order_relaxed);
    while (value < seen && !first.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
    }
  }

  // Blocks that are looked at twice lie in the first-level cache the second time. With an importance, they lie in one
  // row.
  void quantize_tile(std::size_t begin, std::size_t end) {
    const std::size_t most = kBatchElements / format_.length;
    while (begin < end) {
      std::size_t next = std::min(end, begin + most);
      if (importance_ != nullptr) next = std::min(next, (begin / blocks_per_row_ + 1) * blocks_per_row_);
      if (inputs_are_in_range(begin, next)) {
        quantize_batch(begin, next - begin);
        check_scales(begin, next);
      }
      begin = next;
    }
  }

  bool inputs_are_in_range(std::size_t begin, std::size_t end) {
    const std::size_t offset = begin * format_.length, count = (end - begin) * format_.length;
    const float* x = in_ + offset;
    float largest = 0.0F;
    const bool finite = affine_.absmax(x, FloatType::kFloat32, count, count, &largest);
    if (finite && (largest < kMost || unbounded_)) return true;
    const float limit = finite ? kMost : std::numeric_limits<float>::infinity();
    const auto bad = std::find_if(x, x + count, [=](float value) { return !(std::fabs(value) < limit); });
    const std::size_t index = offset + static_cast<std::size_t>(bad - x);
    if (finite) {
      report(first_overflow_, index / format_.length);
    } else {
      report(first_non_finite_, index);
    }
    return false;
  }

  void quantize_batch(std::size_t begin, std::size_t count) {
    const float* x = in_ + begin * format_.length;
    std::uint8_t* y = out_ + begin * format_.bytes;
    if (importance_ == nullptr) return kernels_.quantize(x, count, y);
    const float mean_square = mean_squares_.empty() ? 0.0F : mean_squares_[begin / blocks_per_row_];
    const float* weights = importance_ + begin % blocks_per_row_ * format_.length;
    kernels_.quantize_weighted(x, count, weights, mean_square, y);
  }

  void check_scales(std::size_t begin, std::size_t end) {
    constexpr int kExponent = 0x7c00;
    for (std::size_t b = begin; b < end; b++) {
      const std::uint8_t* scales = out_ + b * format_.bytes + format_.scales_at;
      for (std::size_t s = 0; s < format_.scales; s++) {
        if ((load_u16(scales + 2 * s) & kExponent) == kExponent) return report(first_overflow_, b);
      }
    }
  }

  const BlockKernels& kernels_;
  const AffineKernels& affine_;
  const BlockFormat& format_;
  bool unbounded_;
  const float* in_;
  std::uint8_t* out_;
  const float* importance_;
  std::size_t rows_, columns_, blocks_per_row_, blocks_;
  std::vector<float> mean_squares_;
  std::atomic<std::int64_t> first_non_finite_{kNone}, first_overflow_{kNone};
};

}  // namespace

Outcome quantize_blocks(const float* in, BlockType type, std::size_t rows, std::size_t columns, const float* importance,
                        std::uint8_t* out, const CancelFlag* cancel) {
  return Quantizer(in, type, rows, columns, importance, out).run(cancel);
}

Outcome dequantize_blocks(const std::uint8_t* in, BlockType type, std::size_t blocks, float* out,
                          const CancelFlag* cancel) {
  const BlockKernels& k = kernels().blocks->of(type);
  const BlockFormat& format = format_of(type);
  const bool stream = blocks * format.length * sizeof(float) >= kStreamBytes;
  const std::size_t tile_blocks = kTileElements / format.length;
  const auto tile = [&](std::size_t t) {
    const std::size_t begin = t * tile_blocks, end = std::min(blocks, begin + tile_blocks);
    k.dequantize(in + begin * format.bytes, end - begin, out + begin * format.length, stream);
  };
  const bool done = ThreadPool::instance().parallel_for(ceil_div(blocks, tile_blocks), tile, cancel);
  return {done ? Status::kOk : Status::kCancelled, -1};
}

}  // namespace lowbit
