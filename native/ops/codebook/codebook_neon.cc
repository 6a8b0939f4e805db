#include "core/simd/neon.h"
#include "ops/codebook/codebook_vector.h"
