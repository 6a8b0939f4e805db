#include "core/simd/avx512.h"
#include "ops/codebook/codebook_vector.h"
