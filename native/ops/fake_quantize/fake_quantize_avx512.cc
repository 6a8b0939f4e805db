#include "core/simd/avx512.h"
#include "ops/fake_quantize/fake_quantize_vector.h"
