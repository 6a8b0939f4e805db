#include "core/simd/neon.h"
#include "ops/decoder/decoder_vector.h"
