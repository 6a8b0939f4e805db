#include "core/simd/avx2.h"
#include "ops/compare/compare_vector.h"
