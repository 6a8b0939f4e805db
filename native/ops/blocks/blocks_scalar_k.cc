// GGUF blocks, the specification: superblocks of 256 elements in groups of 16 or 32 whose scales are codes themselves.
//
//   q2_k  16 groups of 16   x = scale · s · code − minimum · m     2-bit codes, 4-bit s and m
//   q3_k  16 groups of 16   x = scale · (s − 32) · (code − 4)      3-bit codes, 6-bit s
//   q4_k   8 groups of 32   x = scale · s · code − minimum · m     4-bit codes, 6-bit s and m
//   q5_k   8 groups of 32   x = scale · s · code − minimum · m     5-bit codes, 6-bit s and m
//   q6_k  16 groups of 16   x = scale · s · (code − 32)            6-bit codes, int8 s
//   q8_k   1 group          x = scale · code                       int8 codes, float32 scale
//
// Each group is searched for its own scale and minimum (blocks_search.h); these become codes of the superblock's
// float16 scale and minimum; and then all codes are computed once more with what the file will hold. A group whose
// decoded scale is zero keeps the codes of the search.

#include "ops/blocks/blocks_each.h"
#include "ops/blocks/blocks_k.h"
#include "ops/blocks/blocks_scalar.h"

namespace lowbit::scalar {
namespace {

// Codes with what the file will hold of scales and minimums.
void code_with_stored(const LineScheme& scheme, const float* x, Lines& lines) {
  const float scale = float_of_float16(lines.scale), minimum = float_of_float16(lines.minimum);
  for (std::size_t g = 0; g < scheme.groups; g++) {
    const float step = scale * static_cast<float>(lines.scales[g]);
    if (step == 0.0F) continue;
    const float offset = minimum * static_cast<float>(lines.minimums[g]);
    for (std::size_t i = g * scheme.group; i < (g + 1) * scheme.group; i++) {
      lines.codes[i] = static_cast<std::uint8_t>(clamp(nearest_int((x[i] + offset) / step), 0, scheme.limit));
    }
  }
}

void search(const LineScheme& scheme, const float* x, Lines& lines) {
  float scales[kMostGroups], minimums[kMostGroups], weights[kMostInGroup];
  for (std::size_t g = 0; g < scheme.groups; g++) {
    const float* group = x + g * scheme.group;
    std::uint8_t* codes = lines.codes + g * scheme.group;
    Line line;
    if (scheme.limit == 3) {
      for (std::size_t i = 0; i < scheme.group; i++) weights[i] = std::fabs(group[i]);
      line = fit_line<Error::kAbsolute>(scheme.group, scheme.limit, group, weights, scheme.steps, codes);
    } else {
      const float average = std::sqrt(sum_of_squares(group, scheme.group) / static_cast<float>(scheme.group));
      for (std::size_t i = 0; i < scheme.group; i++) weights[i] = average + std::fabs(group[i]);
      line = fit_line(scheme.group, scheme.limit, group, weights, scheme.steps, codes);
    }
    scales[g] = line.scale;
    minimums[g] = line.minimum;
  }
  code_line_scales(scheme, scales, minimums, lines);
  code_with_stored(scheme, x, lines);
}

void search_weighted(const LineScheme& scheme, const float* x, const float* importance, Lines& lines) {
  float scales[kMostGroups], minimums[kMostGroups], weights[kMostInGroup], group_weights[kMostGroups];
  const float mean_square = mean_square_of(scheme, x);
  for (std::size_t g = 0; g < scheme.groups; g++) {
    const float* group = x + g * scheme.group;
    group_weights[g] = 0.0F;
    for (std::size_t i = 0; i < scheme.group; i++) {
      weights[i] = weight_of(importance[g * scheme.group + i], mean_square, group[i]);
      group_weights[g] += weights[i];
    }
    const Line line =
        fit_line(scheme.group, scheme.limit, group, weights, kWeightedSteps, lines.codes + g * scheme.group);
    scales[g] = line.scale;
    minimums[g] = line.minimum;
  }
  fit_line_scales(scheme, scales, minimums, group_weights, lines);
  code_with_stored(scheme, x, lines);
}

// Codes −limit … limit − 1, stored + limit, with what the file will hold of scales.
void code_with_stored(int limit, const float* x, Scales& s) {
  const float scale = float_of_float16(s.scale);
  for (std::size_t g = 0; g < kGroups; g++) {
    const float step = scale * static_cast<float>(s.scales[g]);
    if (step == 0.0F) continue;
    for (std::size_t i = g * kGroup; i < (g + 1) * kGroup; i++) {
      s.codes[i] = static_cast<std::uint8_t>(clamp(nearest_int(x[i] / step), -limit, limit - 1) + limit);
    }
  }
}

void quantize_one_q3_k(const float* x, std::uint8_t* y) {
  Scales s;
  float found[kGroups];
  for (std::size_t g = 0; g < kGroups; g++) {
    found[g] = fit_by_moves(kGroup, 4, x + g * kGroup, s.codes + g * kGroup);
  }
  code_q3_k_scales(found, s);
  code_with_stored(4, x, s);
  store_q3_k(y, s);
}

void quantize_one_weighted_q3_k(const float* x, const float* importance, std::uint8_t* y) {
  Scales s;
  float found[kGroups], group_weights[kGroups], weights[kGroup];
  const float mean_square = 2.0F * sum_of_squares(x, kSuperblock) / static_cast<float>(kSuperblock);
  for (std::size_t g = 0; g < kGroups; g++) {
    group_weights[g] = 0.0F;
    for (std::size_t i = 0; i < kGroup; i++) {
      weights[i] = weight_of(importance[g * kGroup + i], mean_square, x[g * kGroup + i]);
      group_weights[g] += weights[i];
    }
    found[g] = fit_symmetric(kGroup, 4, x + g * kGroup, weights, s.codes + g * kGroup);
  }
  fit_q3_k_scales(found, group_weights, s);
  code_with_stored(4, x, s);
  store_q3_k(y, s);
}

// `importance` may be null.
void quantize_one_q6_k(const float* x, const float* importance, std::uint8_t* y) {
  Scales s;
  float found[kGroups];
  for (std::size_t g = 0; g < kGroups; g++) {
    const float* weights = importance != nullptr ? importance + g * kGroup : nullptr;
    found[g] = fit_symmetric(kGroup, 32, x + g * kGroup, weights, s.codes + g * kGroup);
  }
  if (!code_q6_k_scales(found, s)) {
    std::memset(y, 0, format_of(BlockType::kQ6_K).bytes);
    return;
  }
  code_with_stored(32, x, s);
  store_q6_k(y, s);
}

}  // namespace

// --- q2_k ---

void quantize_q2_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ2_K>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    Lines lines;
    search(kQ2, x, lines);
    store_q2_k(y, lines);
  });
}

void quantize_weighted_q2_k(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                            std::uint8_t* out) {
  quantize_each<BlockType::kQ2_K>(in, blocks, importance, out, [](const float* x, const float* i, std::uint8_t* y) {
    Lines lines;
    search_weighted(kQ2, x, i, lines);
    store_q2_k(y, lines);
  });
}

void dequantize_q2_k(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ2_K>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y + 80), minimum = load_half(y + 82);
    for (std::size_t i = 0; i < kSuperblock; i++) {
      const std::uint8_t s = y[i / 16];
      x[i] = scale * static_cast<float>(s & 15) * static_cast<float>(load_two_bits(y + 16, i)) -
             minimum * static_cast<float>(s >> 4);
    }
  });
}

// --- q3_k ---

void quantize_q3_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ3_K>(in, blocks, out, quantize_one_q3_k);
}

void quantize_weighted_q3_k(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                            std::uint8_t* out) {
  quantize_each<BlockType::kQ3_K>(in, blocks, importance, out, quantize_one_weighted_q3_k);
}

void dequantize_q3_k(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ3_K>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y + 108);
    for (std::size_t i = 0; i < kSuperblock; i++) {
      const float step = scale * static_cast<float>(load_q3_k_scale(y + 96, i / 16));
      x[i] = step * static_cast<float>(load_two_bits(y + 32, i) + 4 * load_one_bit(y, i) - 4);
    }
  });
}

// --- q4_k ---

void quantize_q4_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ4_K>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    Lines lines;
    search(kQ4, x, lines);
    store_q4_k(y, lines);
  });
}

void quantize_weighted_q4_k(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                            std::uint8_t* out) {
  quantize_each<BlockType::kQ4_K>(in, blocks, importance, out, [](const float* x, const float* i, std::uint8_t* y) {
    Lines lines;
    search_weighted(kQ4, x, i, lines);
    store_q4_k(y, lines);
  });
}

void dequantize_q4_k(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ4_K>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y), minimum = load_half(y + 2);
    for (std::size_t i = 0; i < kSuperblock; i++) {
      const ScaleAndMinimum g = load_six_bits(y + 4, i / 32);
      x[i] = scale * static_cast<float>(g.scale) * static_cast<float>(load_four_bits(y + 16, i)) -
             minimum * static_cast<float>(g.minimum);
    }
  });
}

// --- q5_k ---

void quantize_q5_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ5_K>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    Lines lines;
    search(kQ5, x, lines);
    store_q5_k(y, lines);
  });
}

void quantize_weighted_q5_k(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                            std::uint8_t* out) {
  quantize_each<BlockType::kQ5_K>(in, blocks, importance, out, [](const float* x, const float* i, std::uint8_t* y) {
    Lines lines;
    search_weighted(kQ5, x, i, lines);
    store_q5_k(y, lines);
  });
}

void dequantize_q5_k(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ5_K>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y), minimum = load_half(y + 2);
    for (std::size_t i = 0; i < kSuperblock; i++) {
      const ScaleAndMinimum g = load_six_bits(y + 4, i / 32);
      const int code = load_four_bits(y + 48, i) | load_one_bit(y + 16, i) << 4;
      x[i] = scale * static_cast<float>(g.scale) * static_cast<float>(code) - minimum * static_cast<float>(g.minimum);
    }
  });
}

// --- q6_k ---

void quantize_q6_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ6_K>(in, blocks, out,
                                  [](const float* x, std::uint8_t* y) { quantize_one_q6_k(x, nullptr, y); });
}

void quantize_weighted_q6_k(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                            std::uint8_t* out) {
  quantize_each<BlockType::kQ6_K>(in, blocks, importance, out, quantize_one_q6_k);
}

void dequantize_q6_k(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ6_K>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y + 208);
    for (std::size_t i = 0; i < kSuperblock; i++) {
      const float step = scale * static_cast<float>(static_cast<std::int8_t>(y[192 + i / 16]));
      x[i] = step * static_cast<float>(load_q6_k(y, i) - 32);
    }
  });
}

// --- q8_k ---

void quantize_q8_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ8_K>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    const float extreme = extreme_of(x, kSuperblock), inverse = -127.0F / extreme;
    std::memset(y, 0, format_of(BlockType::kQ8_K).bytes);
    if (!is_finite(inverse)) return;
    const float scale = 1.0F / inverse;
    std::memcpy(y, &scale, sizeof scale);
    for (std::size_t g = 0; g < kGroups; g++) {
      int sum = 0;
      for (std::size_t i = g * kGroup; i < (g + 1) * kGroup; i++) {
        const int code = clamp(nearest_int(inverse * x[i]), -127, 127);
        y[4 + i] = static_cast<std::uint8_t>(code);
        sum += code;
      }
      store_u16(y + 260 + 2 * g, static_cast<std::uint16_t>(sum));
    }
  });
}

void dequantize_q8_k(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ8_K>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    float scale;
    std::memcpy(&scale, y, sizeof scale);
    for (std::size_t i = 0; i < kSuperblock; i++) {
      x[i] = scale * static_cast<float>(static_cast<std::int8_t>(y[4 + i]));
    }
  });
}

}  // namespace lowbit::scalar
