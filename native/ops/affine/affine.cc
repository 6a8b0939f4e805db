#include "ops/affine/affine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/float_bits.h"
#include "core/kernels.h"
#include "ops/affine/affine_range.h"
#include "ops/affine/affine_tiles.h"

namespace lowbit {

std::size_t AffineLayout::groups_per_block() const { return ceil_div(block_size, group_size); }

namespace {

const void* element_at(const void* x, FloatType type, std::size_t i) {
  return static_cast<const std::uint8_t*>(x) + i * size_of(type);
}

float float_at(const void* x, FloatType type, std::size_t i) {
  const void* p = element_at(x, type, i);
  switch (type) {
    case FloatType::kFloat16:
      return float_of_float16(*static_cast<const std::uint16_t*>(p));
    case FloatType::kBfloat16:
      return float_of_bfloat16(*static_cast<const std::uint16_t*>(p));
    default:
      return *static_cast<const float*>(p);
  }
}

void keep_lowest(std::atomic<std::int64_t>& lowest, std::int64_t value) {
  std::int64_t seen = lowest.load(std::memory_order_relaxed);
  while (value < seen && !lowest.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

// The largest of several non-negative floats, in any order: their bits order as the values do.
void keep_largest(std::atomic<std::uint32_t>& largest, float value) {
  const std::uint32_t bits = bits_of(value);
  std::uint32_t seen = largest.load(std::memory_order_relaxed);
  while (bits > seen && !largest.compare_exchange_weak(seen, bits, std::memory_order_relaxed)) {
  }
}

// Quantizing one tensor: what all its tiles share.
class Quantizer {
 public:
  Quantizer(const void* x, FloatType type, const AffineLayout& layout, const AffineScheme& scheme, NonFinite non_finite,
            float* scales, std::int32_t* zero_points, std::uint8_t* codes, const CancelFlag* cancel)
      : k_(*kernels().affine),
        tiles_(layout, scheme.code),
        x_(x),
        type_(type),
        layout_(layout),
        scheme_(scheme),
        non_finite_(non_finite),
        scales_(scales),
        zero_points_(zero_points),
        codes_(codes),
        cancel_(cancel),
        stream_(layout.element_count() * scheme.code.bits / 8 >= kStreamBytes &&
                ThreadPool::instance().thread_count() > 1) {}

  Outcome run(RangeChoice range) {
    within_range_ = range.method == RangeChoice::Method::kMinMax && non_finite_ == NonFinite::kThrow;
    if (range.method == RangeChoice::Method::kGiven)
      return finish(for_each_tile([&](const Run& r) { quantize_given(r); }));
    if (scheme_.symmetric && zero_points_ != nullptr) {
      std::fill_n(zero_points_, layout_.parameter_count(), scheme_.symmetric_zero_point());
    }
    const bool own_groups = !layout_.shared || layout_.blocks == 1;
    if (range.method == RangeChoice::Method::kMinMax && own_groups && tiles_.groups_are_whole()) {
      return finish(for_each_tile([&](const Run& r) { quantize_fused(r); }));
    }
    return in_three_passes(range);
  }

 private:
  static constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
  const void* at(std::size_t i) const { return element_at(x_, type_, i); }
  const std::int32_t* zero_points_from(std::size_t parameter) const {
    return zero_points_ != nullptr ? zero_points_ + parameter : nullptr;
  }

  template <typename Body>
  bool for_each_tile(const Body& body) {
    const auto tile = [&](std::size_t t) {
      tiles_.for_each_run(t, body);
      if (stream_) k_.finish_stream();
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
    const bool finite = scheme_.symmetric ? k_.absmax(at(offset), type_, count, group_size, high)
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
      if (!is_finite(float_at(x_, type_, i))) {
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
      const float value = float_at(x_, type_, offset + i);
      if (!is_finite(value)) continue;
      high[g] = std::max(high[g], low != nullptr ? value : std::fabs(value));
      if (low != nullptr) low[g] = std::min(low[g], value);
    }
  }

  // --- parameters ---

  void parameters_of(const float* low, const float* high, std::size_t first, std::size_t count) {
    const bool finite =
        scheme_.symmetric
            ? k_.symmetric_scales(high, count, scheme_.symmetric_steps(), scheme_.scale_type, scales_ + first)
            : k_.asymmetric_parameters(low, high, count, scheme_.lowest, scheme_.highest, scheme_.scale_type,
                                       scales_ + first, zero_points_ + first);
    if (finite) return;
    for (std::size_t g = first; g < first + count; g++) {
      if (!is_finite(scales_[g])) {
        keep_lowest(first_overflow_, static_cast<std::int64_t>(g));
        return;
      }
    }
  }

  // --- codes ---

  void codes_of(const Run& r) {
    k_.quantize(at(r.offset), type_, r.count, r.group_size, scales_ + r.parameter, zero_points_from(r.parameter),
                scheme_.code, scheme_.lowest, scheme_.highest, within_range_, stream_, codes_ + r.code_offset);
  }

  // Range, parameters and codes of one batch of groups after the other. A batch ends where a byte does.
  void quantize_fused(const Run& r) {
    float low[kMostBatchElements], high[kMostBatchElements];
    const std::size_t fewest =
        codes_in_whole_bytes(scheme_.code) / std::gcd(codes_in_whole_bytes(scheme_.code), r.group_size);
    const std::size_t elements = std::clamp(kVectorGroups * r.group_size, kBatchElements, kMostBatchElements);
    const std::size_t groups = ceil_div(std::max<std::size_t>(1, elements / r.group_size), fewest) * fewest;
    const std::size_t batch = groups * r.group_size;
    for (std::size_t begin = 0; begin < r.count; begin += batch) {
      const std::size_t count = std::min(batch, r.count - begin);
      const std::size_t first = r.parameter + begin / r.group_size;
      ranges_of(r.offset + begin, count, r.group_size, scheme_.symmetric ? nullptr : low, high);
      parameters_of(low, high, first, ceil_div(count, r.group_size));
      codes_of({r.offset + begin, count, r.code_offset + begin * scheme_.code.bits / 8, first, r.group_size});
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
    std::vector<std::atomic<std::uint32_t>> largest(parameters), least(scheme_.symmetric ? 0 : parameters);
    const bool ranged = for_each_tile([&](const Run& r) {
      const std::size_t groups = ceil_div(r.count, r.group_size);
      std::vector<float> low(scheme_.symmetric ? 0 : groups), high(groups);
      ranges_of(r.offset, r.count, r.group_size, scheme_.symmetric ? nullptr : low.data(), high.data());
      for (std::size_t g = 0; g < groups; g++) {
        keep_largest(largest[r.parameter + g], high[g]);
        if (!scheme_.symmetric) keep_largest(least[r.parameter + g], std::fabs(low[g]));
      }
    });
    if (Outcome outcome = finish(ranged); outcome.status != Status::kOk) return outcome;

    std::vector<float> low(least.size()), high(parameters);
    for (std::size_t p = 0; p < parameters; p++) high[p] = float_of(largest[p].load(std::memory_order_relaxed));
    for (std::size_t p = 0; p < low.size(); p++) low[p] = -float_of(least[p].load(std::memory_order_relaxed));
    float* const lows = scheme_.symmetric ? nullptr : low.data();
    if (range.method == RangeChoice::Method::kPercentile) {
      const Outcome outcome = percentile_ranges(x_, type_, layout_, range.percentile, lows, high.data(), cancel_);
      if (outcome.status != Status::kOk) return outcome;
    } else if (range.method == RangeChoice::Method::kMse) {
      const Outcome outcome = mse_ranges(x_, type_, layout_, scheme_, lows, high.data(), cancel_);
      if (outcome.status != Status::kOk) return outcome;
    }
    parameters_of(lows, high.data(), 0, parameters);
    if (Outcome outcome = finish(true); outcome.status != Status::kOk) return outcome;
    return finish(for_each_tile([&](const Run& r) { codes_of(r); }));
  }

  const AffineKernels& k_;
  const AffineTiles tiles_;
  const void* const x_;
  const FloatType type_;
  const AffineLayout layout_;
  const AffineScheme scheme_;
  const NonFinite non_finite_;
  float* const scales_;
  std::int32_t* const zero_points_;
  std::uint8_t* const codes_;
  const CancelFlag* const cancel_;
  const bool stream_;  // one thread alone is not limited by memory, and waits longer for stores around the caches
  bool within_range_ = false;  // no element lies outside the range that the scales come from
  std::atomic<std::int64_t> first_non_finite_{kNone}, first_overflow_{kNone};
};

}  // namespace

Outcome quantize_affine(const void* x, FloatType type, const AffineLayout& layout, const AffineScheme& scheme,
                        RangeChoice range, NonFinite non_finite, float* scales, std::int32_t* zero_points,
                        std::uint8_t* codes, const CancelFlag* cancel) {
  return Quantizer(x, type, layout, scheme, non_finite, scales, zero_points, codes, cancel).run(range);
}

Outcome dequantize_affine(const std::uint8_t* codes, CodeType code, const AffineLayout& layout, const float* scales,
                          const std::int32_t* zero_points, void* out, FloatType out_type, const CancelFlag* cancel) {
  const AffineKernels& k = *kernels().affine;
  const AffineTiles tiles(layout, code);
  const bool stream = layout.element_count() * size_of(out_type) >= kStreamBytes;
  auto* out_bytes = static_cast<std::uint8_t*>(out);
  const auto one_run = [&](const Run& r) {
    k.dequantize(codes + r.code_offset, code, r.count, r.group_size, scales + r.parameter,
                 zero_points != nullptr ? zero_points + r.parameter : nullptr, out_type,
                 out_bytes + r.offset * size_of(out_type), stream);
  };
  const bool done = ThreadPool::instance().parallel_for(
      tiles.tile_count(), [&](std::size_t t) { tiles.for_each_run(t, one_run); }, cancel);
  return {done ? Status::kOk : Status::kCancelled, -1};
}

void unpack_codes(const std::uint8_t* codes, CodeType code, std::size_t rows, std::size_t columns, std::uint8_t* out) {
  const std::size_t row_bytes = code.packed_bytes(columns);
  const unsigned sign = code.is_signed ? 1U << (code.bits - 1) : 0U, mask = (1U << code.bits) - 1;
  for (std::size_t r = 0; r < rows; r++) {
    const std::uint8_t* row = codes + r * row_bytes;
    for (std::size_t c = 0; c < columns; c++) {
      const std::size_t bit = c * code.bits;
      unsigned word = row[bit / 8];
      if (bit % 8 + code.bits > 8) word |= static_cast<unsigned>(row[bit / 8 + 1]) << 8;
      *out++ = static_cast<std::uint8_t>((((word >> (bit % 8)) & mask) ^ sign) - sign);
    }
  }
}

}  // namespace lowbit
