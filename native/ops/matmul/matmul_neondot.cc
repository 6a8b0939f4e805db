#define LOWBIT_ISA neondot
#define LOWBIT_NEON_SDOT
#include "core/simd/neon.h"
#include "ops/matmul/dot_neon.h"
#include "ops/matmul/matmul_vector.h"
