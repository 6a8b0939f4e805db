#include "core/simd/neon.h"
#include "ops/fake_quantize/fake_quantize_vector.h"
