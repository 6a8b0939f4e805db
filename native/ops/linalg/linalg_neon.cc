#include "core/simd/neon.h"
#include "ops/linalg/linalg_vector.h"
