#include "core/simd/avx512.h"
#include "ops/decoder/decoder_vector.h"
