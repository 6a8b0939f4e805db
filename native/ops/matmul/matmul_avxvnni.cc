#define LOWBIT_ISA avxvnni
#include "core/simd/avx2.h"
#include "ops/matmul/dot_avx2.h"
#include "ops/matmul/matmul_vector.h"
