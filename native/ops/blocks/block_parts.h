#pragma once

#include <cstdint>

#include "ops/blocks/blocks_kernels.h"

namespace lowbit {

// A block taken apart: x[i] = scales[i / group] · (level(codes[i]) − zero) + offsets[i / group], each operation rounded
// to float32, is what dequantize() makes of it.
enum class BlockLevels : std::uint8_t {
  kIntegers,   // the code itself
  kTwiceE2m1,  // kTwiceE2M1[code] + 12
  kNonlinear   // kNonlinear[code] + 127
};
struct BlockPartsFormat {
  std::uint8_t bits;  // of a code: 2, 4 or 8 (5 and 6 take the place of 8, 3 that of 4)
  std::uint8_t zero;
  BlockLevels levels;
  std::uint16_t group;
  bool has_offsets;
  bool half_scales;  // scales are float16 numbers
};
BlockPartsFormat parts_format_of(BlockType type);

// Any block is accepted; scales and offsets may come out as NaN or infinities. `offsets` is left alone where there are
// none.
void take_apart(BlockType type, const std::uint8_t* block, std::uint8_t* codes, float* scales, float* offsets);

}  // namespace lowbit
