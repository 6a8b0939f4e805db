// GGUF blocks, sixteen lanes at a time: the table of all types. Included by one file per instruction set, after its
// vector vocabulary (core/simd/<isa>.h), which names the namespace.

#include "ops/blocks/blocks_vector_dequantize.h"
#include "ops/blocks/blocks_vector_fp4.h"
#include "ops/blocks/blocks_vector_iq.h"
#include "ops/blocks/blocks_vector_k.h"
#include "ops/blocks/blocks_vector_quantize.h"

namespace lowbit::LOWBIT_ISA {

#define LOWBIT_BLOCK_TYPE(type, Type) {quantize_##type, nullptr, dequantize<BlockType::k##Type, Type>}
#define LOWBIT_WEIGHTED_BLOCK_TYPE(type, Type) \
  {quantize_##type, quantize_weighted_##type, dequantize<BlockType::k##Type, Type>}

const BlocksKernels kBlocks = {{
    LOWBIT_WEIGHTED_BLOCK_TYPE(q4_0, Q4_0),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q4_1, Q4_1),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q5_0, Q5_0),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q5_1, Q5_1),
    LOWBIT_BLOCK_TYPE(q8_0, Q8_0),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q2_k, Q2_K),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q3_k, Q3_K),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q4_k, Q4_K),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q5_k, Q5_K),
    LOWBIT_WEIGHTED_BLOCK_TYPE(q6_k, Q6_K),
    LOWBIT_BLOCK_TYPE(q8_k, Q8_K),
    LOWBIT_WEIGHTED_BLOCK_TYPE(iq4_nl, IQ4_NL),
    LOWBIT_WEIGHTED_BLOCK_TYPE(iq4_xs, IQ4_XS),
    LOWBIT_BLOCK_TYPE(tq1_0, TQ1_0),
    LOWBIT_BLOCK_TYPE(tq2_0, TQ2_0),
    LOWBIT_BLOCK_TYPE(mxfp4, MXFP4),
    LOWBIT_BLOCK_TYPE(nvfp4, NVFP4),
}};

#undef LOWBIT_BLOCK_TYPE
#undef LOWBIT_WEIGHTED_BLOCK_TYPE

}  // namespace lowbit::LOWBIT_ISA
