#include "core/simd/avx512.h"
#include "ops/blocks/blocks_vector.h"
