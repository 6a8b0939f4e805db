#include "core/simd/avx2.h"
#include "ops/decoder/decoder_vector.h"
