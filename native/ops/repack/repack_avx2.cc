#include "core/simd/avx2.h"
#include "ops/repack/repack_vector.h"
