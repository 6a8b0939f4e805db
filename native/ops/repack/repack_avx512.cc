#include "core/simd/avx512.h"
#include "ops/repack/repack_vector.h"
