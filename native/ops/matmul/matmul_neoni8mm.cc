#define LOWBIT_ISA neoni8mm
#define LOWBIT_NEON_SDOT
#define LOWBIT_NEON_SMMLA
#include "core/simd/neon.h"
#include "ops/matmul/dot_neon.h"
#include "ops/matmul/matmul_vector.h"
