#include "core/simd/avx2.h"
#include "ops/observe/observe_vector.h"
