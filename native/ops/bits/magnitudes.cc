#include "ops/bits/magnitudes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/float_bits.h"
#include "core/kernels.h"
#include "ops/affine/affine_math.h"
#include "ops/affine/affine_tiles.h"
#include "ops/bits/bits_kernels.h"

namespace lowbit {
namespace {

struct Sums {
  double sum = 0.0;
  std::uint64_t count = 0;
};

// A tensor divided into tiles, which depend on its layout alone.
class Magnitudes {
 public:
  Magnitudes(const void* x, FloatType type, const AffineLayout& layout)
      : x_(x), type_(type), layout_(layout), tiles_(layout, CodeType{8, true}) {}

  // Sums over every parameter set: of all magnitudes, or of those above its threshold.
  Outcome run(const float* thresholds, std::vector<Sums>& sums, const CancelFlag* cancel) const;

 private:
  struct Tile {
    std::size_t first = 0;  // parameter set
    std::vector<Sums> sums;
    bool finite = true;
  };
  void fill(std::size_t index, const float* thresholds, Tile& tile) const;
  Outcome first_non_finite(std::size_t tile) const;
  const void* at(std::size_t i) const { return static_cast<const std::uint8_t*>(x_) + i * size_of(type_); }
  bool is_finite_at(std::size_t i) const {
    if (type_ == FloatType::kFloat32) return is_finite(*static_cast<const float*>(at(i)));
    const std::uint16_t bits = *static_cast<const std::uint16_t*>(at(i));
    return is_finite(type_ == FloatType::kFloat16 ? float_of_float16(bits) : float_of_bfloat16(bits));
  }

  const void* x_;
  FloatType type_;
  const AffineLayout& layout_;
  AffineTiles tiles_;
};

void Magnitudes::fill(std::size_t index, const float* thresholds, Tile& tile) const {
  const BitsKernels& k = *kernels().bits;
  std::size_t first = SIZE_MAX, end = 0;
  tiles_.for_each_run(index, [&](const Run& run) {
    first = std::min(first, run.parameter);
    end = std::max(end, run.parameter + ceil_div(run.count, run.group_size));
  });
  if (first >= end) return;
  tile.first = first;
  tile.sums.resize(end - first);
  std::vector<double> sums(end - first);
  std::vector<std::uint32_t> counts(thresholds != nullptr ? end - first : 0);
  tiles_.for_each_run(index, [&](const Run& run) {
    if (thresholds == nullptr) {
      tile.finite = k.abs_sums(at(run.offset), type_, run.count, run.group_size, sums.data()) && tile.finite;
    } else {
      k.sums_above(at(run.offset), type_, run.count, run.group_size, thresholds + run.parameter, sums.data(),
                   counts.data());
    }
    for (std::size_t g = 0; g < ceil_div(run.count, run.group_size); g++) {
      Sums& total = tile.sums[run.parameter - first + g];
      total.sum += sums[g];
      total.count += thresholds != nullptr ? counts[g] : std::min(run.group_size, run.count - g * run.group_size);
    }
  });
}

Outcome Magnitudes::run(const float* thresholds, std::vector<Sums>& sums, const CancelFlag* cancel) const {
  std::vector<Tile> tiles(tiles_.tile_count());
  const auto fill_tile = [&](std::size_t t) { fill(t, thresholds, tiles[t]); };
  if (!ThreadPool::instance().parallel_for(tiles.size(), fill_tile, cancel)) return {Status::kCancelled, -1};
  sums.assign(layout_.parameter_count(), Sums{});
  for (std::size_t t = 0; t < tiles.size(); t++) {
    if (!tiles[t].finite) return first_non_finite(t);
    for (std::size_t g = 0; g < tiles[t].sums.size(); g++) {
      Sums& total = sums[tiles[t].first + g];
      total.sum += tiles[t].sums[g].sum;
      total.count += tiles[t].sums[g].count;
    }
  }
  return {};
}

// Tiles are in the order of the tensor.
Outcome Magnitudes::first_non_finite(std::size_t tile) const {
  std::int64_t first = std::numeric_limits<std::int64_t>::max();
  tiles_.for_each_run(tile, [&](const Run& run) {
    for (std::size_t i = run.offset; i < run.offset + run.count; i++) {
      if (is_finite_at(i)) continue;
      first = std::min(first, static_cast<std::int64_t>(i));
      return;
    }
  });
  return {Status::kNonFinite, first};
}

// A mean as a scale.
float scale_from(double mean, FloatType scale_type) {
  if (mean == 0.0) return 0.0F;
  return std::max(round_to(scale_type, static_cast<float>(mean)), smallest_of(scale_type));
}

double mean_of(const Sums& sums) { return sums.count == 0 ? 0.0 : sums.sum / static_cast<double>(sums.count); }

// scales[i] = scale_of(means of set i), and whether it fits its type.
template <typename ScaleOf>
Outcome fill_scales(const std::vector<Sums>& sums, const ScaleOf& scale_of, float* scales) {
  for (std::size_t i = 0; i < sums.size(); i++) {
    scales[i] = scale_of(sums[i]);
    if (!is_finite(scales[i])) return {Status::kScaleOverflow, static_cast<std::int64_t>(i)};
  }
  return {};
}

}  // namespace

Outcome abs_sums(const void* x, FloatType type, const AffineLayout& layout, double* sums, const CancelFlag* cancel) {
  std::vector<Sums> all;
  const Outcome outcome = Magnitudes(x, type, layout).run(nullptr, all, cancel);
  for (std::size_t i = 0; i < all.size(); i++) sums[i] = all[i].sum;
  return outcome;
}

Outcome sums_above(const void* x, FloatType type, const AffineLayout& layout, const float* thresholds, double* sums,
                   std::uint64_t* counts, const CancelFlag* cancel) {
  const Magnitudes magnitudes(x, type, layout);
  std::vector<Sums> all;
  const Outcome checked = magnitudes.run(nullptr, all, cancel);
  if (checked.status != Status::kOk) return checked;
  const Outcome outcome = magnitudes.run(thresholds, all, cancel);
  for (std::size_t i = 0; i < all.size(); i++) {
    sums[i] = all[i].sum;
    counts[i] = all[i].count;
  }
  return outcome;
}

void element_counts(const AffineLayout& layout, std::uint64_t* counts) {
  const std::size_t groups = layout.groups_per_block();
  for (std::size_t i = 0; i < layout.parameter_count(); i++) {
    const std::size_t begin = i % groups * layout.group_size;
    const std::size_t size = std::min(layout.group_size, layout.block_size - begin);
    counts[i] = size * std::min(layout.blocks_alike, layout.blocks - i / groups * layout.blocks_alike);
  }
}

Outcome binary_scales(const void* x, FloatType type, const AffineLayout& layout, FloatType scale_type, float* scales,
                      const CancelFlag* cancel) {
  std::vector<Sums> sums;
  const Outcome outcome = Magnitudes(x, type, layout).run(nullptr, sums, cancel);
  if (outcome.status != Status::kOk) return outcome;
  return fill_scales(sums, [&](const Sums& s) { return scale_from(mean_of(s), scale_type); }, scales);
}

Outcome ternary_scales(const void* x, FloatType type, const AffineLayout& layout, FloatType scale_type,
                       float* thresholds, float* scales, const CancelFlag* cancel) {
  const Magnitudes magnitudes(x, type, layout);
  std::vector<Sums> sums;
  Outcome outcome = magnitudes.run(nullptr, sums, cancel);
  if (outcome.status != Status::kOk) return outcome;
  for (std::size_t i = 0; i < sums.size(); i++) thresholds[i] = static_cast<float>(0.7 * mean_of(sums[i]));
  outcome = magnitudes.run(thresholds, sums, cancel);
  if (outcome.status != Status::kOk) return outcome;
  const auto scale = [&](const Sums& s) { return s.count == 0 ? 1.0F : scale_from(mean_of(s), scale_type); };
  return fill_scales(sums, scale, scales);
}

Outcome absmean_scales(const void* x, FloatType type, const AffineLayout& layout, FloatType scale_type, float* scales,
                       const CancelFlag* cancel) {
  std::vector<Sums> sums;
  const Outcome outcome = Magnitudes(x, type, layout).run(nullptr, sums, cancel);
  if (outcome.status != Status::kOk) return outcome;
  const auto scale = [&](const Sums& s) {
    return scale_from(std::max(mean_of(s), static_cast<double>(kSmallestAbsmean)), scale_type);
  };
  return fill_scales(sums, scale, scales);
}

}  // namespace lowbit
