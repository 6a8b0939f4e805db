#include "core/simd/neon.h"
#include "ops/repack/repack_vector.h"
