#pragma once

#include <cstddef>
#include <cstdint>

#include "core/status.h"
#include "core/thread_pool.h"
#include "ops/blocks/blocks_kernels.h"

namespace lowbit {

// Rows of `columns` floats, a multiple of the block length, into GGUF blocks, row after row. `importance` is null or
// has one weight ≥ 0 for each column, which types that take none ignore.
//
// kNonFinite: `index` is the first such element. kScaleOverflow: a scale of the block `index` is too large for float16.
Outcome quantize_blocks(const float* in, BlockType type, std::size_t rows, std::size_t columns, const float* importance,
                        std::uint8_t* out, const CancelFlag* cancel = nullptr);

// The floats that blocks stand for. Any bytes are accepted.
Outcome dequantize_blocks(const std::uint8_t* in, BlockType type, std::size_t blocks, float* out,
                          const CancelFlag* cancel = nullptr);

}  // namespace lowbit
