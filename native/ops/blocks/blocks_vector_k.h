// GGUF blocks: superblocks, searched sixteen groups at a time: one superblock of 16 groups of 16 elements, or two of 8
// groups of 32. Part of blocks_vector.h.

#pragma once

#include "ops/blocks/blocks_k.h"
#include "ops/blocks/blocks_vector_search.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// --- q2_k, q4_k, q5_k ---

// Codes with what the file will hold. A group whose step is zero keeps those that were found, in lane `lane` + its
// number.
template <std::size_t Count>
void code_with_stored(const LineScheme& scheme, const float* x, const FoundCodes<Count>& found, std::size_t lane,
                      Lines& lines) {
  const float scale = widen_half(lines.scale), minimum = widen_half(lines.minimum);
  for (std::size_t g = 0; g < scheme.groups; g++) {
    std::uint8_t* codes = lines.codes + g * Count;
    const float step = scale * static_cast<float>(lines.scales[g]);
    if (step == 0.0F) {
      for (std::size_t i = 0; i < Count; i++) codes[i] = found.lanes[i][lane + g];
      continue;
    }
    const float offset = minimum * static_cast<float>(lines.minimums[g]);
    for (std::size_t i = 0; i < Count; i += kLanes) {
      const F32x16 steps = div(add(load16(x + g * Count + i), broadcast(offset)), broadcast(step));
      store_low_bytes(codes + i, clamp(nearest_int(steps), 0, scheme.limit));
    }
  }
}

// One or two superblocks, as many as have sixteen groups together; `importance` is null or has as many elements.
template <std::size_t Count, Error Kind>
void search_lines(const LineScheme& scheme, const float* x, const float* importance, std::size_t superblocks,
                  Lines* lines) {
  const std::size_t count = superblocks * scheme.groups;
  Groups<Count> values, weights;
  FoundCodes<Count> codes;
  float scales[kLanes], minimums[kLanes], group_weights[kLanes] = {};
  values.gather(x, count);
  FoundLines found;
  if (importance != nullptr) {
    float mean_squares[kLanes] = {};
    for (std::size_t g = 0; g < count; g += scheme.groups) {
      const float mean_square = mean_square_of(scheme, x + g * Count);
      for (std::size_t i = g; i < g + scheme.groups; i++) mean_squares[i] = mean_square;
    }
    weights.gather(importance, count);
    weigh(values, load16(mean_squares), weights);
    store_lanes(group_weights, sums_of(weights));
    found = fit_lines<Error::kSquared>(scheme.limit, values, weights, kWeightedSteps, codes);
  } else {
    if constexpr (Kind == Error::kAbsolute) {
      for (std::size_t i = 0; i < Count; i++) weights.put(i, magnitude(values[i]));
    } else {
      const F32x16 average = square_root(div(sums_of_squares(values), broadcast(static_cast<float>(Count))));
      for (std::size_t i = 0; i < Count; i++) weights.put(i, add(average, magnitude(values[i])));
    }
    found = fit_lines<Kind>(scheme.limit, values, weights, scheme.steps, codes);
  }
  store_lanes(scales, found.scale);
  store_lanes(minimums, found.minimum);
  for (std::size_t s = 0; s < superblocks; s++) {
    const std::size_t lane = s * scheme.groups;
    if (importance != nullptr) {
      fit_line_scales(scheme, scales + lane, minimums + lane, group_weights + lane, lines[s]);
    } else {
      code_line_scales(scheme, scales + lane, minimums + lane, lines[s]);
    }
    code_with_stored(scheme, x + s * kSuperblock, codes, lane, lines[s]);
  }
}

template <BlockType Type, std::size_t Count, Error Kind, void Store(std::uint8_t*, const Lines&)>
void quantize_lines(const LineScheme& scheme, const float* in, std::size_t blocks, const float* importance,
                    std::uint8_t* out) {
  const std::size_t most = kLanes / scheme.groups;
  Lines lines[2];
  for (std::size_t b = 0; b < blocks; b += most) {
    const std::size_t n = blocks - b < most ? blocks - b : most;
    const float* weights = importance != nullptr ? importance + b * kSuperblock : nullptr;
    search_lines<Count, Kind>(scheme, in + b * kSuperblock, weights, n, lines);
    for (std::size_t s = 0; s < n; s++) Store(out + (b + s) * format_of(Type).bytes, lines[s]);
  }
}

void quantize_q2_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_lines<BlockType::kQ2_K, 16, Error::kAbsolute, store_q2_k>(kQ2, in, blocks, nullptr, out);
}
void quantize_weighted_q2_k(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                            std::uint8_t* out) {
  quantize_lines<BlockType::kQ2_K, 16, Error::kAbsolute, store_q2_k>(kQ2, in, blocks, importance, out);
}
void quantize_q4_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_lines<BlockType::kQ4_K, 32, Error::kSquared, store_q4_k>(kQ4, in, blocks, nullptr, out);
}
void quantize_weighted_q4_k(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                            std::uint8_t* out) {
  quantize_lines<BlockType::kQ4_K, 32, Error::kSquared, store_q4_k>(kQ4, in, blocks, importance, out);
}
void quantize_q5_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_lines<BlockType::kQ5_K, 32, Error::kSquared, store_q5_k>(kQ5, in, blocks, nullptr, out);
}
void quantize_weighted_q5_k(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                            std::uint8_t* out) {
  quantize_lines<BlockType::kQ5_K, 32, Error::kSquared, store_q5_k>(kQ5, in, blocks, importance, out);
}

// --- q3_k, q6_k ---

void code_with_stored(int limit, const float* x, const FoundCodes<kGroup>& found, Scales& s) {
  const float scale = widen_half(s.scale);
  for (std::size_t g = 0; g < kGroups; g++) {
    std::uint8_t* codes = s.codes + g * kGroup;
    const float step = scale * static_cast<float>(s.scales[g]);
    if (step == 0.0F) {
      for (std::size_t i = 0; i < kGroup; i++) codes[i] = found.lanes[i][g];
      continue;
    }
    const I32x16 code = clamp(nearest_int(div(load16(x + g * kGroup), broadcast(step))), -limit, limit - 1);
    store_low_bytes(codes, add(code, broadcast(limit)));
  }
}

void quantize_q3_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  const float* x[kBatches];
  FoundCodes<kGroup> codes[kBatches];
  F32x16 scales[kBatches];
  for (std::size_t b = 0; b < blocks; b += kBatches) {
    const std::size_t n = blocks - b < kBatches ? blocks - b : kBatches;
    for (std::size_t k = 0; k < kBatches; k++) x[k] = in + (b + (k < n ? k : n - 1)) * kSuperblock;
    fit_groups_by_moves(4, x, codes, scales);
    for (std::size_t k = 0; k < n; k++) {
      float found[kGroups];
      Scales s;
      store_lanes(found, scales[k]);
      code_q3_k_scales(found, s);
      code_with_stored(4, x[k], codes[k], s);
      store_q3_k(out + (b + k) * format_of(BlockType::kQ3_K).bytes, s);
    }
  }
}

void quantize_one_weighted_q3_k(const float* x, const float* importance, std::uint8_t* y) {
  Groups<kGroup> values, weights;
  FoundCodes<kGroup> codes;
  float found[kGroups], group_weights[kGroups];
  Scales s;
  values.gather(x, kGroups);
  weights.gather(importance, kGroups);
  const float mean_square = 2.0F * sum_of_squares(x, kSuperblock) / static_cast<float>(kSuperblock);
  weigh(values, broadcast(mean_square), weights);
  store_lanes(group_weights, sums_of(weights));
  store_lanes(found, fit_symmetric_groups(4, values, weights, codes));
  fit_q3_k_scales(found, group_weights, s);
  code_with_stored(4, x, codes, s);
  store_q3_k(y, s);
}

// `importance` may be null.
void quantize_one_q6_k(const float* x, const float* importance, std::uint8_t* y) {
  Groups<kGroup> values, weights;
  FoundCodes<kGroup> codes;
  float found[kGroups];
  Scales s;
  values.gather(x, kGroups);
  if (importance != nullptr) {
    weights.gather(importance, kGroups);
  } else {
    for (std::size_t i = 0; i < kGroup; i++) weights.put(i, mul(values[i], values[i]));
  }
  store_lanes(found, fit_symmetric_groups(32, values, weights, codes));
  if (!code_q6_k_scales(found, s)) {
    std::memset(y, 0, format_of(BlockType::kQ6_K).bytes);
    return;
  }
  code_with_stored(32, x, codes, s);
  store_q6_k(y, s);
}

template <BlockType Type, void One(const float*, const float*, std::uint8_t*)>
void quantize_superblocks(const float* in, std::size_t blocks, std::uint8_t* out) {
  for (std::size_t b = 0; b < blocks; b++) One(in + b * kSuperblock, nullptr, out + b * format_of(Type).bytes);
}
template <BlockType Type, void One(const float*, const float*, std::uint8_t*)>
void quantize_weighted_superblocks(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                                   std::uint8_t* out) {
  for (std::size_t b = 0; b < blocks; b++) {
    One(in + b * kSuperblock, importance + b * kSuperblock, out + b * format_of(Type).bytes);
  }
}

constexpr auto quantize_weighted_q3_k = quantize_weighted_superblocks<BlockType::kQ3_K, quantize_one_weighted_q3_k>;
constexpr auto quantize_q6_k = quantize_superblocks<BlockType::kQ6_K, quantize_one_q6_k>;
constexpr auto quantize_weighted_q6_k = quantize_weighted_superblocks<BlockType::kQ6_K, quantize_one_q6_k>;

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
