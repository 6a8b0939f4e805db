#pragma once

#include "ops/blocks/blocks_kernels.h"
#include "ops/codebook/codebook_kernels.h"
#include "ops/matmul/packed_weight.h"

namespace lowbit {

// Weights in codes of a codebook, as native/ops/codebook writes them: rows of packed codes, each starting on a byte.
struct CodebookSource {
  const std::uint8_t* data;
  Codebook book;
  std::size_t rows, columns;
  // The scale of row r and column k: scales[r / rows_alike · row_stride + k / group_size].
  const float* scales;
  std::size_t rows_alike, row_stride, group_size;
};

// GGUF blocks, row after row. `columns` is a multiple of the block length.
struct BlocksSource {
  const std::uint8_t* data;
  BlockType type;
  std::size_t rows, columns;
};

// Both throw std::bad_alloc.
PackedWeight pack_codebook(const CodebookSource& source);
PackedWeight pack_blocks(const BlocksSource& source);

// The index of the first block with a scale or offset that is not finite, or -1.
std::ptrdiff_t first_bad_block(const BlocksSource& source);

}  // namespace lowbit
