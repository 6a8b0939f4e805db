#include "core/simd/avx512.h"
#include "ops/observe/observe_vector.h"
