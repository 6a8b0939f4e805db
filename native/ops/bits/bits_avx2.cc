#include "core/simd/avx2.h"
#include "ops/bits/bits_count_avx2.h"
#include "ops/bits/bits_vector.h"
