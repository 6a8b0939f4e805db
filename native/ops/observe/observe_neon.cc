#include "core/simd/neon.h"
#include "ops/observe/observe_vector.h"
