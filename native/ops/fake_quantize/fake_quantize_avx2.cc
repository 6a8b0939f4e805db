#include "core/simd/avx2.h"
#include "ops/fake_quantize/fake_quantize_vector.h"
