#include "core/simd/avx512.h"
#include "ops/affine/affine_vector.h"
