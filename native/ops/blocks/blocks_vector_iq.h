// GGUF blocks: searches over sixteen groups of 32 elements side by side: iq4_nl and iq4_xs, and q4_0 … q5_1 with an
// importance. Part of blocks_vector.h.

#pragma once

#include "ops/blocks/blocks_vector_search.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// --- q4_0, q4_1, q5_0, q5_1 with an importance ---

// `fit` searches sixteen blocks.
template <BlockType Type, typename Fit>
LOWBIT_INLINE void quantize_groups(const float* in, std::size_t blocks, const float* importance, float mean_square,
                                   std::uint8_t* out, const Fit& fit) {
  Groups<kBlock> values, weights;
  FoundCodes<kBlock> codes;
  for (std::size_t b = 0; b < blocks; b += kLanes) {
    const std::size_t n = blocks - b < kLanes ? blocks - b : kLanes;
    values.gather(in + b * kBlock, n);
    weights.gather(importance + b * kBlock, n);
    weigh(values, broadcast(mean_square), weights);
    const FoundLines found = fit(values, weights, codes);
    float scales[kLanes], minimums[kLanes];
    store_lanes(scales, found.scale);
    store_lanes(minimums, found.minimum);
    for (std::size_t g = 0; g < n; g++) {
      constexpr BlockFormat kFormat = format_of(Type);
      constexpr bool kFifth = Type == BlockType::kQ5_0 || Type == BlockType::kQ5_1;
      std::uint8_t* y = out + (b + g) * kFormat.bytes;
      store_scale(y, scales[g]);
      if constexpr (kFormat.scales == 2) store_scale(y + 2, -minimums[g]);
      std::uint8_t* four = y + kFormat.bytes - 16;
      for (std::size_t j = 0; j < 16; j++) {
        four[j] = static_cast<std::uint8_t>((codes.lanes[j][g] & 15) | (codes.lanes[j + 16][g] & 15) << 4);
      }
      if constexpr (kFifth) {
        std::uint32_t fifth = 0;
        for (std::size_t j = 0; j < kBlock; j++) fifth |= static_cast<std::uint32_t>(codes.lanes[j][g] >> 4) << j;
        std::memcpy(four - 4, &fifth, sizeof fifth);
      }
    }
  }
}

template <BlockType Type, int Limit>
void quantize_weighted_symmetric(const float* in, std::size_t blocks, const float* importance, float mean_square,
                                 std::uint8_t* out) {
  quantize_groups<Type>(in, blocks, importance, mean_square, out,
                        [](const Groups<kBlock>& x, const Groups<kBlock>& w, FoundCodes<kBlock>& codes) {
                          return FoundLines{fit_symmetric_groups(Limit, x, w, codes), zeros()};
                        });
}

template <BlockType Type, int Limit>
void quantize_weighted_line(const float* in, std::size_t blocks, const float* importance, float mean_square,
                            std::uint8_t* out) {
  quantize_groups<Type>(in, blocks, importance, mean_square, out,
                        [](const Groups<kBlock>& x, const Groups<kBlock>& w, FoundCodes<kBlock>& codes) {
                          return fit_lines<Error::kSquared>(Limit, x, w, Steps{-0.9F, 0.05F, 36}, codes);
                        });
}

constexpr auto quantize_weighted_q4_0 = quantize_weighted_symmetric<BlockType::kQ4_0, 8>;
constexpr auto quantize_weighted_q5_0 = quantize_weighted_symmetric<BlockType::kQ5_0, 16>;
constexpr auto quantize_weighted_q4_1 = quantize_weighted_line<BlockType::kQ4_1, 15>;
constexpr auto quantize_weighted_q5_1 = quantize_weighted_line<BlockType::kQ5_1, 31>;

// --- iq4_nl, iq4_xs ---

// nearest_level() in lanes. The line is cut into sixteen equal bins, chosen so that none holds two of the midpoints
// between levels and that no midpoint is near the end of its bin: it does not matter on which side of a bin's end
// rounding puts a number. What is below the bin's midpoint belongs to its lower level, what is not to the one above.
class Levels {
 public:
  LOWBIT_INLINE Levels() {
    float middles[kLanes], lower[kLanes], upper[kLanes], below[kLanes];
    int level = 0;
    for (int bin = -8; bin < 8; bin++) {
      const float middle = level < 15 ? middle_above(level) : kMost;
      const bool inside = level < 15 && middle * kBinsPerUnit + kOffset < static_cast<float>(bin + 1);
      const auto lane = static_cast<std::size_t>(bin & 15);
      const int next = level + (inside ? 1 : 0);
      middles[lane] = middle;
      below[lane] = float_of(static_cast<std::uint32_t>(level));
      lower[lane] = static_cast<float>(kNonlinear[level]);
      upper[lane] = static_cast<float>(kNonlinear[next]);
      level = next;
    }
    middles_ = load16(middles);
    lower_ = load16(lower);
    upper_ = load16(upper);
    below_ = load16(below);
  }

  LOWBIT_INLINE F32x16 nearest_value(F32x16 x) const {
    const F32x16 bounded = min(max(x, broadcast(kLeast)), broadcast(kMost));
    const I32x16 bin = bin_of(bounded);
    return select(less(bounded, look_up(middles_, bin)), look_up(lower_, bin), look_up(upper_, bin));
  }
  LOWBIT_INLINE I32x16 nearest_index(F32x16 x) const {
    const F32x16 bounded = min(max(x, broadcast(kLeast)), broadcast(kMost));
    const I32x16 bin = bin_of(bounded), below = as_bits(look_up(below_, bin));
    return select(less(bounded, look_up(middles_, bin)), below, add(below, broadcast(1)));
  }

 private:
  static constexpr float kBinsPerUnit = 1.0F / 14.29F, kOffset = 0.875F;
  // Within the first and the last bin, and on the right sides of their midpoints.
  static constexpr float kLeast = -120.0F, kMost = 101.4F;

  static constexpr float middle_above(int level) {
    return static_cast<float>(kNonlinear[level] + kNonlinear[level + 1]) * 0.5F;
  }
  // The sum's last five bits are a fraction.
  LOWBIT_INLINE static I32x16 bin_of(F32x16 x) {
    return shift_right<5>(as_bits(fused(x, broadcast(kBinsPerUnit), broadcast(0x1.8p18F + kOffset))));
  }

  F32x16 middles_, lower_, upper_, below_;
};

LOWBIT_NOINLINE F32x16 search_levels(const Groups<kBlock>& x, const Groups<kBlock>& weights) {
  const Levels levels;
  const Extremes extremes = extremes_of(x);
  const Mask16 nothing = less(extremes.largest, broadcast(kNothing));
  const auto project = [&](F32x16 inverse) {
    Projections p = {zeros(), zeros()};
    for (std::size_t i = 0; i < kBlock; i++) {
      const F32x16 value = in_register(x[i]), q = levels.nearest_value(mul(inverse, value)), wq = mul(weights[i], q);
      p.xl = add(p.xl, mul(wq, value));
      p.ll = add(p.ll, mul(wq, q));
    }
    return p;
  };
  const F32x16 first = div(negated(extremes.value), broadcast(static_cast<float>(kNonlinear[0])));
  Projections p = project(div(broadcast(1.0F), first));
  F32x16 scale = select(less(zeros(), p.ll), div(p.xl, p.ll), first), best = mul(scale, p.xl);
  for (int t = -7; t <= 7; t++) {
    p = project(div(broadcast(static_cast<float>(t + kNonlinear[0])), extremes.value));
    const Mask16 better = both(less(zeros(), p.ll), less(mul(best, p.ll), mul(p.xl, p.xl)));
    scale = select(better, div(p.xl, p.ll), scale);
    best = select(better, mul(scale, p.xl), best);
  }
  return select(nothing, zeros(), scale);
}

LOWBIT_INLINE void code_levels(const Levels& levels, const float* x, float inverse, std::uint8_t* out) {
  const F32x16 inverses = broadcast(inverse);
  const I32x16 low = levels.nearest_index(mul(inverses, load16(x)));
  const I32x16 high = levels.nearest_index(mul(inverses, load16(x + 16)));
  store_low_bytes(out, bit_xor(low, shift_left<4>(high)));
}

// The scales of up to sixteen groups. `importance` is null or has a weight for each of their elements; `mean_squares`
// has twice the mean square that goes with each group.
void scales_of_groups(const float* x, std::size_t count, const float* importance, const float* mean_squares,
                      float* scales) {
  Groups<kBlock> values, weights;
  values.gather(x, count);
  if (importance != nullptr) {
    weights.gather(importance, count);
    weigh(values, load16(mean_squares), weights);
  } else {
    for (std::size_t i = 0; i < kBlock; i++) weights.put(i, mul(values[i], values[i]));
  }
  store_lanes(scales, search_levels(values, weights));
}

LOWBIT_INLINE float twice_mean_square(const float* x, std::size_t count) {
  return sum_of_squares(x, count) * (2.0F / static_cast<float>(count));
}

void quantize_nl(const float* in, std::size_t blocks, const float* importance, std::uint8_t* out) {
  const Levels levels;
  float scales[kLanes], mean_squares[kLanes] = {};
  for (std::size_t b = 0; b < blocks; b += kLanes) {
    const std::size_t n = blocks - b < kLanes ? blocks - b : kLanes;
    const float* x = in + b * kBlock;
    if (importance != nullptr) {
      for (std::size_t g = 0; g < n; g++) mean_squares[g] = twice_mean_square(x + g * kBlock, kBlock);
    }
    scales_of_groups(x, n, importance != nullptr ? importance + b * kBlock : nullptr, mean_squares, scales);
    for (std::size_t g = 0; g < n; g++) {
      std::uint8_t* y = out + (b + g) * format_of(BlockType::kIQ4_NL).bytes;
      store_scale(y, scales[g]);
      code_levels(levels, x + g * kBlock, inverse_of(scales[g]), y + 2);
    }
  }
}

void quantize_xs(const float* in, std::size_t blocks, const float* importance, std::uint8_t* out) {
  constexpr std::size_t kInOne = kSuperblock / kBlock;
  const Levels levels;
  float scales[kLanes], mean_squares[kLanes] = {};
  for (std::size_t b = 0; b < blocks; b += 2) {
    const std::size_t n = blocks - b < 2 ? blocks - b : 2;
    for (std::size_t g = 0; importance != nullptr && g < n * kInOne; g++) {
      const bool first = g % kInOne == 0;
      mean_squares[g] =
          first ? twice_mean_square(in + (b + g / kInOne) * kSuperblock, kSuperblock) : mean_squares[g - 1];
    }
    scales_of_groups(in + b * kSuperblock, n * kInOne, importance != nullptr ? importance + b * kSuperblock : nullptr,
                     mean_squares, scales);
    for (std::size_t s = 0; s < n; s++) {
      const float* x = in + (b + s) * kSuperblock;
      std::uint8_t* y = out + (b + s) * format_of(BlockType::kIQ4_XS).bytes;
      const float* own = scales + s * kInOne;
      const float scale = -extreme_of(own, kInOne) / 32.0F, inverse = inverse_of(scale);
      std::memset(y, 0, 8);
      store_scale(y, scale);
      std::uint16_t high = 0;
      for (std::size_t g = 0; g < kInOne; g++) {
        const int code = lowbit::clamp(lowbit::nearest_int(inverse * own[g]), -32, 31), stored = code + 32;
        code_levels(levels, x + g * kBlock, inverse_of(scale * static_cast<float>(code)), y + 8 + 16 * g);
        y[4 + g / 2] = static_cast<std::uint8_t>(y[4 + g / 2] | (stored & 15) << (4 * (g % 2)));
        high = static_cast<std::uint16_t>(high | (stored >> 4) << (2 * g));
      }
      store_u16(y + 2, high);
    }
  }
}

void quantize_iq4_nl(const float* in, std::size_t blocks, std::uint8_t* out) { quantize_nl(in, blocks, nullptr, out); }
void quantize_weighted_iq4_nl(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                              std::uint8_t* out) {
  quantize_nl(in, blocks, importance, out);
}
void quantize_iq4_xs(const float* in, std::size_t blocks, std::uint8_t* out) { quantize_xs(in, blocks, nullptr, out); }
void quantize_weighted_iq4_xs(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                              std::uint8_t* out) {
  quantize_xs(in, blocks, importance, out);
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
