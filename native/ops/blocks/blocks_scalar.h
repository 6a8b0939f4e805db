#pragma once

// The functions of the specification, by name: its table is put together in blocks_scalar.cc.

#include "ops/blocks/blocks_kernels.h"

namespace lowbit::scalar {

#define LOWBIT_BLOCK_TYPE(type)                                                 \
  void quantize_##type(const float* in, std::size_t blocks, std::uint8_t* out); \
  void dequantize_##type(const std::uint8_t* in, std::size_t blocks, float* out, bool stream)
#define LOWBIT_WEIGHTED_BLOCK_TYPE(type)                                                                         \
  LOWBIT_BLOCK_TYPE(type);                                                                                       \
  void quantize_weighted_##type(const float* in, std::size_t blocks, const float* importance, float mean_square, \
                                std::uint8_t* out)

// blocks_scalar.cc
LOWBIT_WEIGHTED_BLOCK_TYPE(q4_0);
LOWBIT_WEIGHTED_BLOCK_TYPE(q4_1);
LOWBIT_WEIGHTED_BLOCK_TYPE(q5_0);
LOWBIT_WEIGHTED_BLOCK_TYPE(q5_1);
LOWBIT_BLOCK_TYPE(q8_0);
// blocks_scalar_k.cc
LOWBIT_WEIGHTED_BLOCK_TYPE(q2_k);
LOWBIT_WEIGHTED_BLOCK_TYPE(q3_k);
LOWBIT_WEIGHTED_BLOCK_TYPE(q4_k);
LOWBIT_WEIGHTED_BLOCK_TYPE(q5_k);
LOWBIT_WEIGHTED_BLOCK_TYPE(q6_k);
LOWBIT_BLOCK_TYPE(q8_k);
// blocks_scalar_iq.cc
LOWBIT_WEIGHTED_BLOCK_TYPE(iq4_nl);
LOWBIT_WEIGHTED_BLOCK_TYPE(iq4_xs);
// blocks_scalar_fp4.cc
LOWBIT_BLOCK_TYPE(mxfp4);
LOWBIT_BLOCK_TYPE(nvfp4);
// blocks_scalar_ternary.cc
LOWBIT_BLOCK_TYPE(tq1_0);
LOWBIT_BLOCK_TYPE(tq2_0);

#undef LOWBIT_BLOCK_TYPE
#undef LOWBIT_WEIGHTED_BLOCK_TYPE

}  // namespace lowbit::scalar
