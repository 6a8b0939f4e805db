#include "ops/affine/affine_range.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <vector>

#include "core/kernels.h"
#include "core/tiles.h"
#include "ops/affine/affine_math.h"

namespace lowbit {
namespace {

// The elements of one parameter set: `repeats` stretches of `count` elements, `stride` apart.
struct Group {
  std::size_t first, count, stride, repeats;

  std::size_t size() const { return count * repeats; }
};

Group group_of(const AffineLayout& layout, std::size_t parameter) {
  const std::size_t groups = layout.groups_per_block();
  const std::size_t block = parameter / groups * layout.blocks_alike;
  const std::size_t in_block = parameter % groups * layout.group_size;
  const std::size_t count = std::min(layout.group_size, layout.block_size - in_block);
  return {block * layout.block_size + in_block, count, layout.block_size,
          std::min(layout.blocks_alike, layout.blocks - block)};
}

void widen(const void* x, FloatType type, std::size_t first, std::size_t count, float* out) {
  const CastKernels& k = *kernels().cast;
  switch (type) {
    case FloatType::kFloat16:
      return k.float16_to_float32(static_cast<const std::uint16_t*>(x) + first, out, count, false);
    case FloatType::kBfloat16:
      return k.bfloat16_to_float32(static_cast<const std::uint16_t*>(x) + first, out, count, false);
    default:
      std::copy_n(static_cast<const float*>(x) + first, count, out);
  }
}

// Elements begin … begin + count of a group as float32; what is not finite becomes `replacement`.
void read(const void* x, FloatType type, const Group& group, std::size_t begin, std::size_t count, float replacement,
          float* out) {
  for (std::size_t done = 0; done < count;) {
    const std::size_t stretch = (begin + done) / group.count, in_stretch = (begin + done) % group.count;
    const std::size_t n = std::min(count - done, group.count - in_stretch);
    widen(x, type, group.first + stretch * group.stride + in_stretch, n, out + done);
    done += n;
  }
  for (std::size_t i = 0; i < count; i++) out[i] = is_finite(out[i]) ? out[i] : replacement;
}

// Calls body(parameter) for every parameter set: side by side where there are many, else one after the other, so that
// the body can use the threads itself.
template <typename Body>
bool for_each_group(const AffineLayout& layout, const CancelFlag* cancel, const Body& body) {
  const std::size_t parameters = layout.parameter_count();
  ThreadPool& pool = ThreadPool::instance();
  if (parameters >= 4 * pool.thread_count()) return pool.parallel_for(parameters, body, cancel);
  const auto cancelled = [&] { return cancel != nullptr && cancel->load(std::memory_order_relaxed); };
  for (std::size_t p = 0; p < parameters && !cancelled(); p++) body(p);
  return !cancelled();
}

// --- percentile ----------------------------------------------------------------------------------------------------

// The finite elements of a small group, or their magnitudes, by rank.
class SmallRanks {
 public:
  SmallRanks(const void* x, FloatType type, const Group& group, bool magnitudes) : values_(group.size()) {
    read(x, type, group, 0, values_.size(), NAN, values_.data());
    values_.erase(std::remove_if(values_.begin(), values_.end(), [](float v) { return std::isnan(v); }), values_.end());
    if (magnitudes)
      std::transform(values_.begin(), values_.end(), values_.begin(), [](float v) { return std::fabs(v); });
  }

  std::size_t count() const { return values_.size(); }

  // The element that `rank` others precede, counting from the least.
  float at(std::size_t rank) {
    const auto place = values_.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(values_.begin(), place, values_.end());
    return *place;
  }

 private:
  std::vector<float> values_;
};

// The same for a large group by radix selection: counting passes over the elements, and no copy of them.
class LargeRanks {
 public:
  LargeRanks(const void* x, FloatType type, const Group& group, bool magnitudes)
      : x_(x), type_(type), group_(group), magnitudes_(magnitudes), count_(0) {
    for (const std::size_t n : histogram(0, 0, 11)) count_ += n;
  }

  std::size_t count() const { return count_; }

  float at(std::size_t rank) const {
    std::uint32_t prefix = 0;
    unsigned known_bits = 0;
    for (const unsigned digit_bits : {11U, 11U, 10U}) {
      std::uint32_t digit = 0;
      for (const std::size_t n : histogram(prefix, known_bits, digit_bits)) {
        if (rank < n) break;
        rank -= n;
        digit++;
      }
      prefix = (prefix << digit_bits) | digit;
      known_bits += digit_bits;
    }
    return value_of(prefix);
  }

 private:
  using Counts = std::array<std::size_t, 2048>;

  // Floats as integers of the same order, and back.
  static std::uint32_t key_of(float value) {
    const std::uint32_t bits = bits_of(value);
    return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  }
  static float value_of(std::uint32_t key) { return float_of((key & 0x80000000U) != 0 ? key & 0x7fffffffU : ~key); }

  // How many elements have each value of the next `digit_bits` bits, among those whose key starts with `prefix`.
  Counts histogram(std::uint32_t prefix, unsigned known_bits, unsigned digit_bits) const {
    Counts total = {};
    std::mutex mutex;
    const auto tile = [&](std::size_t t) {
      constexpr std::size_t kChunk = 1024;
      float values[kChunk];
      Counts counts = {};
      const std::size_t tile_end = std::min(group_.size(), (t + 1) * kTileElements);
      for (std::size_t begin = t * kTileElements; begin < tile_end; begin += kChunk) {
        const std::size_t n = std::min(kChunk, tile_end - begin);
        read(x_, type_, group_, begin, n, NAN, values);
        for (std::size_t i = 0; i < n; i++) {
          if (std::isnan(values[i])) continue;
          const std::uint32_t key = key_of(magnitudes_ ? std::fabs(values[i]) : values[i]);
          if (known_bits != 0 && key >> (32 - known_bits) != prefix) continue;
          counts[(key << known_bits) >> (32 - digit_bits)]++;
        }
      }
      const std::lock_guard<std::mutex> lock(mutex);
      for (std::size_t d = 0; d < counts.size(); d++) total[d] += counts[d];
    };
    ThreadPool::instance().parallel_for(ceil_div(group_.size(), kTileElements), tile);
    return total;
  }

  const void* x_;
  FloatType type_;
  Group group_;
  bool magnitudes_;
  std::size_t count_;
};

template <typename Ranks>
float percentile_of(Ranks& ranks, double percentile) {
  if (ranks.count() == 0) return 0.0F;
  const double position = static_cast<double>(ranks.count() - 1) * (percentile / 100.0);
  const auto below = static_cast<std::size_t>(position);
  const double fraction = position - static_cast<double>(below);
  const double low = static_cast<double>(ranks.at(below));
  if (fraction == 0.0) return static_cast<float>(low);
  return static_cast<float>(low + (static_cast<double>(ranks.at(below + 1)) - low) * fraction);
}

template <typename Ranks>
void clip_to_percentile(Ranks ranks, double percentile, float* low, float* high) {
  *high = std::max(0.0F, percentile_of(ranks, percentile));
  if (low != nullptr) *low = std::min(0.0F, percentile_of(ranks, 100.0 - percentile));
}

// --- least squared error -------------------------------------------------------------------------------------------

constexpr int kShrinkSteps = 80;

// Σ error² over one group. The sum is taken tile by tile, whoever computes them.
class GroupError {
 public:
  GroupError(const void* x, FloatType type, const Group& group, const AffineScheme& scheme, const CancelFlag* cancel)
      : k_(*kernels().affine),
        x_(x),
        type_(type),
        group_(group),
        scheme_(scheme),
        cancel_(cancel),
        tiles_(ceil_div(group.size(), kTileElements)) {
    if (group.size() <= kTileElements) {
      values_.resize(group.size());
      read(x, type, group, 0, group.size(), 0.0F, values_.data());
    }
  }

  double operator()(float scale, std::int32_t zero_point) {
    const auto error = [&](const float* values, std::size_t n) {
      return k_.squared_error(values, n, scale, zero_point, scheme_.lowest, scheme_.highest);
    };
    if (group_.size() <= kTileElements) return error(values_.data(), values_.size());
    const auto tile = [&](std::size_t t) {
      float values[kErrorBlock];
      const std::size_t end = std::min(group_.size(), (t + 1) * kTileElements);
      tiles_[t] = 0.0;
      for (std::size_t b = t * kTileElements; b < end; b += kErrorBlock) {
        const std::size_t n = std::min(kErrorBlock, end - b);
        read(x_, type_, group_, b, n, 0.0F, values);  // zero is represented exactly: what is not finite costs nothing
        tiles_[t] += error(values, n);
      }
    };
    ThreadPool::instance().parallel_for(tiles_.size(), tile, cancel_);
    double total = 0.0;
    for (const double t : tiles_) total += t;
    return total;
  }

 private:
  const AffineKernels& k_;
  const void* x_;
  FloatType type_;
  Group group_;
  const AffineScheme& scheme_;
  const CancelFlag* cancel_;
  std::vector<float> values_;
  std::vector<double> tiles_;
};

}  // namespace

Outcome percentile_ranges(const void* x, FloatType type, const AffineLayout& layout, double percentile, float* low,
                          float* high, const CancelFlag* cancel) {
  const bool done = for_each_group(layout, cancel, [&](std::size_t p) {
    const Group group = group_of(layout, p);
    float* const low_p = low != nullptr ? low + p : nullptr;
    if (group.size() <= kTileElements) {
      clip_to_percentile(SmallRanks(x, type, group, low == nullptr), percentile, low_p, high + p);
    } else {
      clip_to_percentile(LargeRanks(x, type, group, low == nullptr), percentile, low_p, high + p);
    }
  });
  return {done ? Status::kOk : Status::kCancelled, -1};
}

Outcome mse_ranges(const void* x, FloatType type, const AffineLayout& layout, const AffineScheme& scheme, float* low,
                   float* high, const CancelFlag* cancel) {
  const bool done = for_each_group(layout, cancel, [&](std::size_t p) {
    GroupError error(x, type, group_of(layout, p), scheme, cancel);
    const float full_low = low != nullptr ? low[p] : 0.0F, full_high = high[p];
    double least = INFINITY;
    for (int step = 0; step < kShrinkSteps; step++) {
      const float factor = 1.0F - static_cast<float>(step) / 100.0F;
      const float shrunk_low = full_low * factor, shrunk_high = full_high * factor;
      float scale;
      std::int32_t zero_point;
      if (scheme.symmetric) {
        scale = symmetric_scale(shrunk_high, scheme.symmetric_steps(), scheme.scale_type);
        zero_point = scheme.symmetric_zero_point();
      } else {
        scale = asymmetric_scale(shrunk_low, shrunk_high, scheme.lowest, scheme.highest, scheme.scale_type);
        zero_point = zero_point_of(shrunk_low, scale, scheme.lowest, scheme.highest);
      }
      const double cost = error(scale, zero_point);
      if (cost < least) {
        least = cost;
        high[p] = shrunk_high;
        if (low != nullptr) low[p] = shrunk_low;
      }
    }
  });
  return {done ? Status::kOk : Status::kCancelled, -1};
}

}  // namespace lowbit
