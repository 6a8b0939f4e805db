#include "ops/blocks/block_parts.h"

#include <cstring>

#include "ops/blocks/blocks_k.h"

namespace lowbit {
namespace {

constexpr BlockPartsFormat kParts[kBlockTypes] = {
    {4, 8, BlockLevels::kIntegers, 32, false, true},      // q4_0
    {4, 0, BlockLevels::kIntegers, 32, true, true},       // q4_1
    {8, 16, BlockLevels::kIntegers, 32, false, true},     // q5_0
    {8, 0, BlockLevels::kIntegers, 32, true, true},       // q5_1
    {8, 128, BlockLevels::kIntegers, 32, false, true},    // q8_0
    {2, 0, BlockLevels::kIntegers, 16, true, false},      // q2_k
    {4, 4, BlockLevels::kIntegers, 16, false, false},     // q3_k
    {4, 0, BlockLevels::kIntegers, 32, true, false},      // q4_k
    {8, 0, BlockLevels::kIntegers, 32, true, false},      // q5_k
    {8, 32, BlockLevels::kIntegers, 16, false, false},    // q6_k
    {8, 128, BlockLevels::kIntegers, 256, false, false},  // q8_k
    {4, 127, BlockLevels::kNonlinear, 32, false, true},   // iq4_nl
    {4, 127, BlockLevels::kNonlinear, 32, false, false},  // iq4_xs
    {2, 1, BlockLevels::kIntegers, 256, false, true},     // tq1_0
    {2, 1, BlockLevels::kIntegers, 256, false, true},     // tq2_0
    {4, 12, BlockLevels::kTwiceE2m1, 32, false, false},   // mxfp4
    {4, 12, BlockLevels::kTwiceE2m1, 16, false, false},   // nvfp4
};

// Two codes a byte: element j and element j + count / 2.
void take_nibbles(const std::uint8_t* in, std::size_t count, std::uint8_t* codes) {
  for (std::size_t j = 0; j < count / 2; j++) {
    codes[j] = in[j] & 15;
    codes[j + count / 2] = in[j] >> 4;
  }
}

void add_fifth_bits(const std::uint8_t* in, std::uint8_t* codes) {
  for (std::size_t j = 0; j < kBlock; j++) {
    codes[j] = static_cast<std::uint8_t>(codes[j] | ((in[j / 8] >> (j % 8)) & 1) << 4);
  }
}

template <typename CodeOf>
void take_each(std::uint8_t* codes, const CodeOf& code_of) {
  for (std::size_t i = 0; i < kSuperblock; i++) codes[i] = static_cast<std::uint8_t>(code_of(i));
}

void take_signed(const std::uint8_t* in, std::size_t count, std::uint8_t* codes) {
  for (std::size_t i = 0; i < count; i++) codes[i] = in[i] ^ 0x80U;
}

void take_six_bit_lines(const std::uint8_t* y, float* scales, float* offsets) {
  const float scale = load_half(y), minimum = load_half(y + 2);
  for (std::size_t g = 0; g < 8; g++) {
    const ScaleAndMinimum line = load_six_bits(y + 4, g);
    scales[g] = scale * static_cast<float>(line.scale);
    offsets[g] = -(minimum * static_cast<float>(line.minimum));
  }
}

// Multiplying by 3 brings one ternary digit after the other to the top of a byte: blocks_scalar_ternary.cc.
void take_base_3(const std::uint8_t* in, std::size_t bytes, std::size_t digits, std::uint8_t* codes) {
  for (std::size_t m = 0; m < bytes; m++) {
    std::uint8_t turned = in[m];
    for (std::size_t n = 0; n < digits; n++) {
      codes[m + bytes * n] = static_cast<std::uint8_t>((turned * 3) >> 8);
      turned = static_cast<std::uint8_t>(turned * 3);
    }
  }
}

}  // namespace

BlockPartsFormat parts_format_of(BlockType type) { return kParts[static_cast<std::size_t>(type)]; }

void take_apart(BlockType type, const std::uint8_t* y, std::uint8_t* codes, float* scales, float* offsets) {
  switch (type) {
    case BlockType::kQ4_0:
    case BlockType::kIQ4_NL:
      scales[0] = load_half(y);
      return take_nibbles(y + 2, kBlock, codes);
    case BlockType::kQ4_1:
      scales[0] = load_half(y);
      offsets[0] = load_half(y + 2);
      return take_nibbles(y + 4, kBlock, codes);
    case BlockType::kQ5_0:
      scales[0] = load_half(y);
      take_nibbles(y + 6, kBlock, codes);
      return add_fifth_bits(y + 2, codes);
    case BlockType::kQ5_1:
      scales[0] = load_half(y);
      offsets[0] = load_half(y + 2);
      take_nibbles(y + 8, kBlock, codes);
      return add_fifth_bits(y + 4, codes);
    case BlockType::kQ8_0:
      scales[0] = load_half(y);
      return take_signed(y + 2, kBlock, codes);
    case BlockType::kQ2_K: {
      const float scale = load_half(y + 80), minimum = load_half(y + 82);
      for (std::size_t g = 0; g < 16; g++) {
        scales[g] = scale * static_cast<float>(y[g] & 15);
        offsets[g] = -(minimum * static_cast<float>(y[g] >> 4));
      }
      return take_each(codes, [=](std::size_t i) { return load_two_bits(y + 16, i); });
    }
    case BlockType::kQ3_K: {
      const float scale = load_half(y + 108);
      for (std::size_t g = 0; g < 16; g++) scales[g] = scale * static_cast<float>(load_q3_k_scale(y + 96, g));
      return take_each(codes, [=](std::size_t i) { return load_two_bits(y + 32, i) + 4 * load_one_bit(y, i); });
    }
    case BlockType::kQ4_K:
      take_six_bit_lines(y, scales, offsets);
      return take_each(codes, [=](std::size_t i) { return load_four_bits(y + 16, i); });
    case BlockType::kQ5_K:
      take_six_bit_lines(y, scales, offsets);
      return take_each(codes, [=](std::size_t i) { return load_four_bits(y + 48, i) | load_one_bit(y + 16, i) << 4; });
    case BlockType::kQ6_K: {
      const float scale = load_half(y + 208);
      for (std::size_t g = 0; g < 16; g++) {
        scales[g] = scale * static_cast<float>(static_cast<std::int8_t>(y[192 + g]));
      }
      return take_each(codes, [=](std::size_t i) { return load_q6_k(y, i); });
    }
    case BlockType::kQ8_K:
      std::memcpy(scales, y, sizeof *scales);
      return take_signed(y + 4, kSuperblock, codes);
    case BlockType::kIQ4_XS: {
      const float scale = load_half(y);
      const std::uint16_t high = load_u16(y + 2);
      for (std::size_t g = 0; g < 8; g++) {
        const int s = ((y[4 + g / 2] >> (4 * (g % 2))) & 15) | ((high >> (2 * g)) & 3) << 4;
        scales[g] = scale * static_cast<float>(s - 32);
        take_nibbles(y + 8 + 16 * g, kBlock, codes + g * kBlock);
      }
      return;
    }
    case BlockType::kTQ1_0:
      scales[0] = load_half(y + 52);
      take_base_3(y, 32, 5, codes);
      take_base_3(y + 32, 16, 5, codes + 160);
      return take_base_3(y + 48, 4, 4, codes + 240);
    case BlockType::kTQ2_0:
      scales[0] = load_half(y + 64);
      return take_each(codes, [=](std::size_t i) { return load_two_bits(y, i); });
    case BlockType::kMXFP4:
      scales[0] = half_e8m0(y[0]);
      return take_nibbles(y + 1, kBlock, codes);
    case BlockType::kNVFP4:
      for (std::size_t g = 0; g < 4; g++) {
        scales[g] = half_ue4m3(y[g]);
        take_nibbles(y + 4 + 8 * g, 16, codes + 16 * g);
      }
      return;
  }
}

}  // namespace lowbit
