#include "core/simd/avx2.h"
#include "ops/codebook/codebook_vector.h"
