#include "core/simd/avx2.h"
#include "ops/cast/cast_vector.h"
