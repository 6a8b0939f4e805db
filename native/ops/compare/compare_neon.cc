#include "core/simd/neon.h"
#include "ops/compare/compare_vector.h"
