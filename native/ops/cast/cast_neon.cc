#include "core/simd/neon.h"
#include "ops/cast/cast_vector.h"
