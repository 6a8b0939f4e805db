#include "core/simd/avx512.h"
#include "ops/cast/cast_vector.h"
