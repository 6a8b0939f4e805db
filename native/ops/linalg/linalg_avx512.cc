#include "core/simd/avx512.h"
#include "ops/linalg/linalg_vector.h"
