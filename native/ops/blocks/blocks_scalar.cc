// GGUF blocks, the specification: blocks of 32 elements with 4-, 5- and 8-bit codes, and the table of all types.
//
//   q4_0  x = (code − 8) · scale          q5_0  x = (code − 16) · scale       q8_0  x = code · scale
//   q4_1  x = code · scale + minimum      q5_1  x = code · scale + minimum
//
// Scale and minimum are stored as float16, but the codes belong to the float32 they were rounded from. Byte j of the
// sixteen that hold 4-bit codes has element j in its low half and element j + 16 in its high half; the fifth bits are a
// 32-bit word with element j's at bit j. With an importance, scales are searched for (blocks_search.h).

#include "ops/blocks/blocks_scalar.h"

#include "ops/blocks/blocks_each.h"
#include "ops/blocks/blocks_search.h"

namespace lowbit::scalar {
namespace {

void store_four_bits(std::uint8_t* out, const std::uint8_t* codes) {
  for (std::size_t j = 0; j < 16; j++) {
    out[j] = static_cast<std::uint8_t>((codes[j] & 15) | ((codes[j + 16] & 15) << 4));
  }
}

void store_fifth_bits(std::uint8_t* out, const std::uint8_t* codes) {
  std::memset(out, 0, 4);
  for (std::size_t j = 0; j < kBlock; j++) {
    out[j / 8] = static_cast<std::uint8_t>(out[j / 8] | (codes[j] >> 4) << (j % 8));
  }
}

int load_four_bits(const std::uint8_t* in, std::size_t j) { return j < 16 ? in[j] & 15 : in[j - 16] >> 4; }
int load_fifth_bit(const std::uint8_t* in, std::size_t j) { return ((in[j / 8] >> (j % 8)) & 1) << 4; }

// Codes 0 … 2·zero − 1 whose extreme is code 0.
float code_symmetric(const float* x, int zero, std::uint8_t* codes) {
  const float scale = extreme_of(x, kBlock) / static_cast<float>(-zero), inverse = inverse_of(scale);
  for (std::size_t j = 0; j < kBlock; j++) {
    codes[j] = cut_off(x[j] * inverse + (static_cast<float>(zero) + 0.5F), 2 * zero - 1);
  }
  return scale;
}

// Codes 0 … highest from the minimum to the maximum.
Line code_between(const float* x, int highest, std::uint8_t* codes) {
  float minimum = x[0], maximum = x[0];
  for (std::size_t j = 1; j < kBlock; j++) {
    if (x[j] < minimum) minimum = x[j];
    if (x[j] > maximum) maximum = x[j];
  }
  const float scale = (maximum - minimum) / static_cast<float>(highest), inverse = inverse_of(scale);
  for (std::size_t j = 0; j < kBlock; j++) codes[j] = cut_off((x[j] - minimum) * inverse + 0.5F, highest);
  return {scale, -minimum};
}

constexpr Steps kSteps = {-0.9F, 0.05F, 36};

struct Weights {
  float values[kBlock];

  Weights(const float* x, const float* importance, float mean_square) {
    for (std::size_t j = 0; j < kBlock; j++) values[j] = weight_of(importance[j], mean_square, x[j]);
  }
};

void store_q4_0(std::uint8_t* out, float scale, const std::uint8_t* codes) {
  store_half(out, scale);
  store_four_bits(out + 2, codes);
}
void store_q4_1(std::uint8_t* out, Line line, const std::uint8_t* codes) {
  store_half(out, line.scale);
  store_half(out + 2, -line.minimum);
  store_four_bits(out + 4, codes);
}
void store_q5_0(std::uint8_t* out, float scale, const std::uint8_t* codes) {
  store_half(out, scale);
  store_fifth_bits(out + 2, codes);
  store_four_bits(out + 6, codes);
}
void store_q5_1(std::uint8_t* out, Line line, const std::uint8_t* codes) {
  store_half(out, line.scale);
  store_half(out + 2, -line.minimum);
  store_fifth_bits(out + 4, codes);
  store_four_bits(out + 8, codes);
}

}  // namespace

// --- q4_0 ---

void quantize_q4_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ4_0>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    std::uint8_t codes[kBlock];
    const float scale = code_symmetric(x, 8, codes);
    store_q4_0(y, scale, codes);
  });
}

void quantize_weighted_q4_0(const float* in, std::size_t blocks, const float* importance, float mean_square,
                            std::uint8_t* out) {
  quantize_each<BlockType::kQ4_0>(in, blocks, importance, out, [=](const float* x, const float* i, std::uint8_t* y) {
    std::uint8_t codes[kBlock];
    const float scale = fit_symmetric(kBlock, 8, x, Weights(x, i, mean_square).values, codes);
    store_q4_0(y, scale, codes);
  });
}

void dequantize_q4_0(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ4_0>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y);
    for (std::size_t j = 0; j < kBlock; j++) x[j] = static_cast<float>(load_four_bits(y + 2, j) - 8) * scale;
  });
}

// --- q4_1 ---

void quantize_q4_1(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ4_1>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    std::uint8_t codes[kBlock];
    const Line line = code_between(x, 15, codes);
    store_q4_1(y, line, codes);
  });
}

void quantize_weighted_q4_1(const float* in, std::size_t blocks, const float* importance, float mean_square,
                            std::uint8_t* out) {
  quantize_each<BlockType::kQ4_1>(in, blocks, importance, out, [=](const float* x, const float* i, std::uint8_t* y) {
    std::uint8_t codes[kBlock];
    const Line line = fit_line(kBlock, 15, x, Weights(x, i, mean_square).values, kSteps, codes);
    store_q4_1(y, line, codes);
  });
}

void dequantize_q4_1(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ4_1>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y), minimum = load_half(y + 2);
    for (std::size_t j = 0; j < kBlock; j++) x[j] = static_cast<float>(load_four_bits(y + 4, j)) * scale + minimum;
  });
}

// --- q5_0 ---

void quantize_q5_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ5_0>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    std::uint8_t codes[kBlock];
    const float scale = code_symmetric(x, 16, codes);
    store_q5_0(y, scale, codes);
  });
}

void quantize_weighted_q5_0(const float* in, std::size_t blocks, const float* importance, float mean_square,
                            std::uint8_t* out) {
  quantize_each<BlockType::kQ5_0>(in, blocks, importance, out, [=](const float* x, const float* i, std::uint8_t* y) {
    std::uint8_t codes[kBlock];
    const float scale = fit_symmetric(kBlock, 16, x, Weights(x, i, mean_square).values, codes);
    store_q5_0(y, scale, codes);
  });
}

void dequantize_q5_0(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ5_0>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y);
    for (std::size_t j = 0; j < kBlock; j++) {
      x[j] = static_cast<float>((load_four_bits(y + 6, j) | load_fifth_bit(y + 2, j)) - 16) * scale;
    }
  });
}

// --- q5_1 ---

void quantize_q5_1(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ5_1>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    std::uint8_t codes[kBlock];
    const Line line = code_between(x, 31, codes);
    store_q5_1(y, line, codes);
  });
}

void quantize_weighted_q5_1(const float* in, std::size_t blocks, const float* importance, float mean_square,
                            std::uint8_t* out) {
  quantize_each<BlockType::kQ5_1>(in, blocks, importance, out, [=](const float* x, const float* i, std::uint8_t* y) {
    std::uint8_t codes[kBlock];
    const Line line = fit_line(kBlock, 31, x, Weights(x, i, mean_square).values, kSteps, codes);
    store_q5_1(y, line, codes);
  });
}

void dequantize_q5_1(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ5_1>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y), minimum = load_half(y + 2);
    for (std::size_t j = 0; j < kBlock; j++) {
      x[j] = static_cast<float>(load_four_bits(y + 8, j) | load_fifth_bit(y + 4, j)) * scale + minimum;
    }
  });
}

// --- q8_0 ---

void quantize_q8_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kQ8_0>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    const float scale = std::fabs(extreme_of(x, kBlock)) / 127.0F, inverse = inverse_of(scale);
    store_half(y, scale);
    for (std::size_t j = 0; j < kBlock; j++) y[2 + j] = static_cast<std::uint8_t>(round_half_away(x[j] * inverse));
  });
}

void dequantize_q8_0(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kQ8_0>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y);
    for (std::size_t j = 0; j < kBlock; j++) x[j] = static_cast<float>(static_cast<std::int8_t>(y[2 + j])) * scale;
  });
}

// --- all types ---

#define LOWBIT_BLOCK_TYPE(type) {quantize_##type, nullptr, dequantize_##type}
#define LOWBIT_WEIGHTED_BLOCK_TYPE(type) {quantize_##type, quantize_weighted_##type, dequantize_##type}

const BlocksKernels kBlocks = {{
    LOWBIT_WEIGHTED_BLOCK_TYPE(q4_0),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q4_1),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q5_0),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q5_1),
    LOWBIT_BLOCK_TYPE(q8_0),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q2_k),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q3_k),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q4_k),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q5_k),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q6_k),
    LOWBIT_BLOCK_TYPE(q8_k),
    LOWBIT_WEIGHTED_BLOCK_TYPE(iq4_nl),
    LOWBIT_WEIGHTED_BLOCK_TYPE(iq4_xs),
    LOWBIT_BLOCK_TYPE(tq1_0),
    LOWBIT_BLOCK_TYPE(tq2_0),
    LOWBIT_BLOCK_TYPE(mxfp4),
    LOWBIT_BLOCK_TYPE(nvfp4),
}};

}  // namespace lowbit::scalar
