#define LOWBIT_ISA avx512vpopcnt
#include "core/simd/avx512.h"
#include "ops/bits/bits_count_avx512vpopcnt.h"
#include "ops/bits/bits_vector.h"
