#include "core/simd/neon.h"
#include "ops/logits/logits_vector.h"
