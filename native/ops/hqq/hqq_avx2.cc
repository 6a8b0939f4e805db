#include "core/simd/avx2.h"
#include "ops/hqq/hqq_vector.h"
