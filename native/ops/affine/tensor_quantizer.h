#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/float_bits.h"
#include "core/kernels.h"
#include "ops/affine/affine_tiles.h"

namespace lowbit {

// Quantizing one tensor, tile by tile: range → parameters → codes. What the codes are is up to the codec:
//
//   CodeType code()                             how they are packed
//   bool symmetric()                            a range is max|x| alone, and `low` below is null
//   bool needs_largest()                        max|x| of the tensor, before the parameters of any group can be known
//   void set_largest(largest)                   tells it, if so
//   Outcome choose(range, low, high)            replaces the ranges of all parameter sets, as `range` says
//   bool parameters(low, high, first, count)    writes those of so many sets; false if a scale is infinite
//   float scale(i)
//   void quantize(x, run, within_range, stream, codes)    codes of a run, at their first byte
//   void finish_stream()                        after runs with `stream`
template <typename Codec>
class TensorQuantizer {
 public:
  TensorQuantizer(const void* x, FloatType type, const AffineLayout& layout, NonFinite non_finite, Codec& codec,
                  std::uint8_t* codes, const CancelFlag* cancel)
      : k_(*kernels().affine),
        codec_(codec),
        tiles_(layout, codec.code()),
        x_(x),
        type_(type),
        layout_(layout),
        non_finite_(non_finite),
        codes_(codes),
        cancel_(cancel),
        stream_(layout.element_count() * codec.code().bits / 8 >= kStreamBytes &&
                ThreadPool::instance().thread_count() > 1) {}

  Outcome run(RangeChoice range) {
    within_range_ = range.method == RangeChoice::Method::kMinMax && non_finite_ == NonFinite::kThrow;
    if (range.method == RangeChoice::Method::kGiven)
      return finish(for_each_tile([&](const Run& r) { quantize_given(r); }));
    const bool own_groups = layout_.blocks_alike == 1 || layout_.blocks == 1;
    if (range.method == RangeChoice::Method::kMinMax && own_groups && tiles_.groups_are_whole()) {
      if (codec_.needs_largest()) {
        if (const Outcome outcome = find_largest(); outcome.status != Status::kOk) return outcome;
      }
      return finish(for_each_tile([&](const Run& r) { quantize_fused(r); }));
    }
    return in_three_passes(range);
  }

 private:
  static constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
  const void* at(std::size_t i) const { return static_cast<const std::uint8_t*>(x_) + i * size_of(type_); }

  float value_at(std::size_t i) const {
    switch (type_) {
      case FloatType::kFloat16:
        return float_of_float16(*static_cast<const std::uint16_t*>(at(i)));
      case FloatType::kBfloat16:
        return float_of_bfloat16(*static_cast<const std::uint16_t*>(at(i)));
      default:
        return *static_cast<const float*>(at(i));
    }
  }

  static void keep_lowest(std::atomic<std::int64_t>& lowest, std::int64_t value) {
    std::int64_t seen = lowest.load(std::memory_order_relaxed);
    while (value < seen && !lowest.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
    }
  }

  // The largest of several non-negative floats, in any order: their bits order as the values do.
  static void keep_largest(std::atomic<std::uint32_t>& largest, float value) {
    const std::uint32_t bits = bits_of(value);
    std::uint32_t seen = largest.load(std::memory_order_relaxed);
    while (bits > seen && !largest.compare_exchange_weak(seen, bits, std::memory_order_relaxed)) {
    }
  }

  template <typename Body>
  bool for_each_tile(const Body& body) {
    const auto tile = [&](std::size_t t) {
      tiles_.for_each_run(t, body);
      if (stream_) codec_.finish_stream();
    };
    return ThreadPool::instance().parallel_for(tiles_.tile_count(), tile, cancel_);
  }

  Outcome finish(bool completed) const {
    if (!completed) return {Status::kCancelled, -1};
    if (const std::int64_t i = first_non_finite_.load(); i != kNone) return {Status::kNonFinite, i};
    if (const std::int64_t i = first_overflow_.load(); i != kNone) return {Status::kScaleOverflow, i};
    return {};
  }

  // --- range ---

  // The ranges of the groups of a run: low/high for asymmetric schemes, high only (max|x|) for symmetric ones.
  void ranges_of(std::size_t offset, std::size_t count, std::size_t group_size, float* low, float* high) {
    const bool finite = codec_.symmetric() ? k_.absmax(at(offset), type_, count, group_size, high)
                                           : k_.minmax(at(offset), type_, count, group_size, low, high);
    if (finite) return;
    if (non_finite_ == NonFinite::kThrow) {
      report_non_finite(offset, count);
    } else {
      finite_ranges_of(offset, count, group_size, low, high);
    }
  }

  void report_non_finite(std::size_t offset, std::size_t count) {
    for (std::size_t i = offset; i < offset + count; i++) {
      if (!is_finite(value_at(i))) {
        keep_lowest(first_non_finite_, static_cast<std::int64_t>(i));
        return;
      }
    }
  }

  void finite_ranges_of(std::size_t offset, std::size_t count, std::size_t group_size, float* low, float* high) const {
    for (std::size_t i = 0; i < count; i++) {
      const std::size_t g = i / group_size;
      if (i % group_size == 0) {
        high[g] = 0.0F;
        if (low != nullptr) low[g] = 0.0F;
      }
      const float value = value_at(offset + i);
      if (!is_finite(value)) continue;
      high[g] = std::max(high[g], low != nullptr ? value : std::fabs(value));
      if (low != nullptr) low[g] = std::min(low[g], value);
    }
  }

  Outcome find_largest() {
    std::atomic<std::uint32_t> largest{0};
    const bool completed = for_each_tile([&](const Run& r) {
      float high;
      ranges_of(r.offset, r.count, r.count, nullptr, &high);
      keep_largest(largest, high);
    });
    codec_.set_largest(float_of(largest.load()));
    return finish(completed);
  }

  // --- parameters ---

  void parameters_of(const float* low, const float* high, std::size_t first, std::size_t count) {
    if (codec_.parameters(low, high, first, count)) return;
    for (std::size_t g = first; g < first + count; g++) {
      if (!is_finite(codec_.scale(g))) {
        keep_lowest(first_overflow_, static_cast<std::int64_t>(g));
        return;
      }
    }
  }

  // --- codes ---

  void codes_of(const Run& r) { codec_.quantize(at(r.offset), r, within_range_, stream_, codes_ + r.code_offset); }

  // Range, parameters and codes of one batch of groups after the other. A batch ends where a byte does.
  void quantize_fused(const Run& r) {
    float low[kMostBatchElements], high[kMostBatchElements];
    const std::size_t in_bytes = codes_in_whole_bytes(codec_.code());
    const std::size_t fewest = in_bytes / std::gcd(in_bytes, r.group_size);
    const std::size_t elements = std::clamp(kVectorGroups * r.group_size, kBatchElements, kMostBatchElements);
    const std::size_t groups = ceil_div(std::max<std::size_t>(1, elements / r.group_size), fewest) * fewest;
    const std::size_t batch = groups * r.group_size;
    for (std::size_t begin = 0; begin < r.count; begin += batch) {
      const std::size_t count = std::min(batch, r.count - begin);
      const std::size_t first = r.parameter + begin / r.group_size;
      ranges_of(r.offset + begin, count, r.group_size, codec_.symmetric() ? nullptr : low, high);
      parameters_of(low, high, first, ceil_div(count, r.group_size));
      codes_of({r.offset + begin, count, r.code_offset + begin * codec_.code().bits / 8, first, r.group_size});
    }
  }

  void quantize_given(const Run& r) {
    if (non_finite_ == NonFinite::kThrow) {
      float unused;
      if (!k_.absmax(at(r.offset), type_, r.count, r.count, &unused)) report_non_finite(r.offset, r.count);
    }
    codes_of(r);
  }

  // Groups that are longer than a tile, that several blocks share, or whose range is searched for.
  Outcome in_three_passes(RangeChoice range) {
    const std::size_t parameters = layout_.parameter_count();
    std::vector<std::atomic<std::uint32_t>> largest(parameters), least(codec_.symmetric() ? 0 : parameters);
    const bool ranged = for_each_tile([&](const Run& r) {
      const std::size_t groups = ceil_div(r.count, r.group_size);
      std::vector<float> low(codec_.symmetric() ? 0 : groups), high(groups);
      ranges_of(r.offset, r.count, r.group_size, codec_.symmetric() ? nullptr : low.data(), high.data());
      for (std::size_t g = 0; g < groups; g++) {
        keep_largest(largest[r.parameter + g], high[g]);
        if (!codec_.symmetric()) keep_largest(least[r.parameter + g], std::fabs(low[g]));
      }
    });
    if (Outcome outcome = finish(ranged); outcome.status != Status::kOk) return outcome;

    std::vector<float> low(least.size()), high(parameters);
    for (std::size_t p = 0; p < parameters; p++) high[p] = float_of(largest[p].load(std::memory_order_relaxed));
    for (std::size_t p = 0; p < low.size(); p++) low[p] = -float_of(least[p].load(std::memory_order_relaxed));
    float* const lows = codec_.symmetric() ? nullptr : low.data();
    const Outcome chosen = codec_.choose(range, lows, high.data());
    if (chosen.status != Status::kOk) return chosen;
    if (codec_.needs_largest() && parameters > 0) codec_.set_largest(*std::max_element(high.begin(), high.end()));
    parameters_of(lows, high.data(), 0, parameters);
    if (Outcome outcome = finish(true); outcome.status != Status::kOk) return outcome;
    return finish(for_each_tile([&](const Run& r) { codes_of(r); }));
  }

  const AffineKernels& k_;  // for ranges
  Codec& codec_;
  const AffineTiles tiles_;
  const void* const x_;
  const FloatType type_;
  const AffineLayout layout_;
  const NonFinite non_finite_;
  std::uint8_t* const codes_;
  const CancelFlag* const cancel_;
  const bool stream_;  // one thread alone is not limited by memory, and waits longer for stores around the caches
  bool within_range_ = false;  // no element lies outside the range that the scales come from
  std::atomic<std::int64_t> first_non_finite_{kNone}, first_overflow_{kNone};
};

}  // namespace lowbit
