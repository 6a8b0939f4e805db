#include "core/simd/neon.h"
#include "ops/matmul/dot_neon.h"
#include "ops/matmul/matmul_vector.h"
