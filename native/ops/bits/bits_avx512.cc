#include "core/simd/avx512.h"
#include "ops/bits/bits_count_avx512.h"
#include "ops/bits/bits_vector.h"
