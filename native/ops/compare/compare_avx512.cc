#include "core/simd/avx512.h"
#include "ops/compare/compare_vector.h"
