#pragma once

#include "cuda/abi.h"
#include "ops/blocks/blocks.h"

namespace lowbit {

// The operations of blocks.h on memory of a device, with the same bits (but which of several blocks kScaleOverflow
// names, and what a NaN looks like, are the processor's own). kUnsupported: floats that do not start at a multiple of
// 16 bytes, or blocks that do not at one of 4; allocations do.
struct BlocksCuda {
  // kUnsupported as well: types whose scales are searched for, and weights (`importance`) for a type that takes them.
  CudaStatus (*quantize)(CudaStream* stream, const float* in, BlockType type, std::size_t rows, std::size_t columns,
                         const float* importance, std::uint8_t* out);

  CudaStatus (*dequantize)(CudaStream* stream, const std::uint8_t* in, BlockType type, std::size_t blocks, float* out);
};

extern const BlocksCuda kBlocksCuda;

}  // namespace lowbit
