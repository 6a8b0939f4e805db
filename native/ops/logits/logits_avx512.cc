#include "core/simd/avx512.h"
#include "ops/logits/logits_vector.h"
