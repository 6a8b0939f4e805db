#include "core/simd/avx512.h"
#include "ops/hqq/hqq_vector.h"
