#include "core/simd/neon.h"
#include "ops/blocks/blocks_vector.h"
