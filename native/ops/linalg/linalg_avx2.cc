#include "core/simd/avx2.h"
#include "ops/linalg/linalg_vector.h"
