#include "core/simd/avx2.h"
#include "ops/blocks/blocks_vector.h"
