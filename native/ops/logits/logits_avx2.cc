#include "core/simd/avx2.h"
#include "ops/logits/logits_vector.h"
