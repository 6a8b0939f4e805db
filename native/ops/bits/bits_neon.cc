#include "core/simd/neon.h"
#include "ops/bits/bits_count_neon.h"
#include "ops/bits/bits_vector.h"
