#include "core/simd/avx2.h"
#include "ops/affine/affine_vector.h"
