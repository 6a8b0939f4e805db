#include "core/simd/neon.h"
#include "ops/hqq/hqq_vector.h"
