#include "core/simd/neon.h"
#include "ops/affine/affine_vector.h"
