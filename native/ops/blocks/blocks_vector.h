// GGUF blocks, sixteen lanes at a time. Included by one file per instruction set, after its vector vocabulary
// (core/simd/<isa>.h), which names the namespace.

#include "ops/blocks/blocks_scalar.h"

namespace lowbit::LOWBIT_ISA {

#define LOWBIT_BLOCK_TYPE(type) {scalar::quantize_##type, nullptr, scalar::dequantize_##type}
#define LOWBIT_WEIGHTED_BLOCK_TYPE(type) \
  {scalar::quantize_##type, scalar::quantize_weighted_##type, scalar::dequantize_##type}

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

}  // namespace lowbit::LOWBIT_ISA
