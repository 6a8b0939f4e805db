// GGUF blocks, the specification: 4-bit indices into sixteen fixed levels (kNonlinear) that lie closer near zero.
//
//   iq4_nl  32 elements                  x = scale · level          byte j holds elements j and j + 16
//   iq4_xs  8 groups of 32 elements      x = scale · (s − 32) · level with 6-bit s: low four bits in bytes 4–7, two to
//           a byte, the high two in the 16-bit word of bytes 2–3; sixteen bytes of indices a group as in iq4_nl
//
// The scale of a group is searched: the extreme value takes level −127 + t for t = 0, −7 … 7, and of each set of
// indices the weighted least squares; weights are x², or come from an importance.

#include "ops/blocks/blocks_each.h"
#include "ops/blocks/blocks_scalar.h"

namespace lowbit::scalar {
namespace {

constexpr int kTries = 7;

// The nearest level; of two equally near the upper one.
int nearest_level(float x) {
  if (x <= static_cast<float>(kNonlinear[0])) return 0;
  if (x >= static_cast<float>(kNonlinear[15])) return 15;
  int below = 0, above = 15;
  while (above - below > 1) {
    const int middle = (below + above) / 2;
    (x < static_cast<float>(kNonlinear[middle]) ? above : below) = middle;
  }
  return x - static_cast<float>(kNonlinear[below]) < static_cast<float>(kNonlinear[above]) - x ? below : above;
}

struct Sums {
  float qx = 0.0F, qq = 0.0F;
};

Sums project(const float* x, const float* weights, float inverse) {
  Sums sums;
  for (std::size_t j = 0; j < kBlock; j++) {
    const float q = static_cast<float>(kNonlinear[nearest_level(inverse * x[j])]);
    sums.qx += weights[j] * q * x[j];
    sums.qq += weights[j] * q * q;
  }
  return sums;
}

float search(const float* x, const float* weights) {
  const float extreme = extreme_of(x, kBlock);
  if (std::fabs(extreme) < kNothing) return 0.0F;
  const float first = -extreme / static_cast<float>(kNonlinear[0]);
  Sums sums = project(x, weights, 1.0F / first);
  // With no weight at all the reference divides zero by zero.
  float scale = sums.qq > 0.0F ? sums.qx / sums.qq : first, best = scale * sums.qx;
  for (int t = -kTries; t <= kTries; t++) {
    sums = project(x, weights, static_cast<float>(t + kNonlinear[0]) / extreme);
    if (sums.qq > 0.0F && sums.qx * sums.qx > best * sums.qq) {
      scale = sums.qx / sums.qq;
      best = scale * sums.qx;
    }
  }
  return scale;
}

// `importance` may be null.
void weigh(const float* x, const float* importance, float mean_square, float* weights) {
  for (std::size_t j = 0; j < kBlock; j++) {
    weights[j] = importance != nullptr ? weight_of(importance[j], mean_square, x[j]) : x[j] * x[j];
  }
}

void code(const float* x, float inverse, std::uint8_t* out) {
  for (std::size_t j = 0; j < 16; j++) {
    out[j] = static_cast<std::uint8_t>(nearest_level(inverse * x[j]) | nearest_level(inverse * x[j + 16]) << 4);
  }
}

void decode(const std::uint8_t* in, float scale, float* x) {
  for (std::size_t j = 0; j < 16; j++) {
    x[j] = scale * static_cast<float>(kNonlinear[in[j] & 15]);
    x[j + 16] = scale * static_cast<float>(kNonlinear[in[j] >> 4]);
  }
}

float twice_mean_square(const float* x, std::size_t count) {
  return sum_of_squares(x, count) * (2.0F / static_cast<float>(count));
}

void quantize_one_nl(const float* x, const float* importance, std::uint8_t* y) {
  float weights[kBlock];
  weigh(x, importance, twice_mean_square(x, kBlock), weights);
  const float scale = search(x, weights);
  store_half(y, scale);
  code(x, inverse_of(scale), y + 2);
}

void quantize_one_xs(const float* x, const float* importance, std::uint8_t* y) {
  constexpr std::size_t kGroups = kSuperblock / kBlock;
  const float mean_square = twice_mean_square(x, kSuperblock);
  float scales[kGroups];
  for (std::size_t g = 0; g < kGroups; g++) {
    float weights[kBlock];
    weigh(x + g * kBlock, importance != nullptr ? importance + g * kBlock : nullptr, mean_square, weights);
    scales[g] = search(x + g * kBlock, weights);
  }
  const float scale = -extreme_of(scales, kGroups) / 32.0F, inverse = inverse_of(scale);
  std::memset(y, 0, 8);
  store_half(y, scale);
  std::uint16_t high = 0;
  for (std::size_t g = 0; g < kGroups; g++) {
    const int s = clamp(nearest_int(inverse * scales[g]), -32, 31), stored = s + 32;
    code(x + g * kBlock, inverse_of(scale * static_cast<float>(s)), y + 8 + 16 * g);
    y[4 + g / 2] = static_cast<std::uint8_t>(y[4 + g / 2] | (stored & 15) << (4 * (g % 2)));
    high = static_cast<std::uint16_t>(high | (stored >> 4) << (2 * g));
  }
  store_u16(y + 2, high);
}

}  // namespace

void quantize_iq4_nl(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kIQ4_NL>(in, blocks, out,
                                    [](const float* x, std::uint8_t* y) { quantize_one_nl(x, nullptr, y); });
}

void quantize_weighted_iq4_nl(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                              std::uint8_t* out) {
  quantize_each<BlockType::kIQ4_NL>(in, blocks, importance, out, quantize_one_nl);
}

void dequantize_iq4_nl(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kIQ4_NL>(in, blocks, out,
                                      [](const std::uint8_t* y, float* x) { decode(y + 2, load_half(y), x); });
}

void quantize_iq4_xs(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kIQ4_XS>(in, blocks, out,
                                    [](const float* x, std::uint8_t* y) { quantize_one_xs(x, nullptr, y); });
}

void quantize_weighted_iq4_xs(const float* in, std::size_t blocks, const float* importance, float /*mean_square*/,
                              std::uint8_t* out) {
  quantize_each<BlockType::kIQ4_XS>(in, blocks, importance, out, quantize_one_xs);
}

void dequantize_iq4_xs(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kIQ4_XS>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y);
    const std::uint16_t high = load_u16(y + 2);
    for (std::size_t g = 0; g < kSuperblock / kBlock; g++) {
      const int s = ((y[4 + g / 2] >> (4 * (g % 2))) & 15) | ((high >> (2 * g)) & 3) << 4;
      decode(y + 8 + 16 * g, scale * static_cast<float>(s - 32), x + g * kBlock);
    }
  });
}

}  // namespace lowbit::scalar
