// The products of AVX-VNNI with the instructions of AVX-512 VNNI and VL, which do the same under another encoding: few
// machines have both, and this way the algorithm is tested on those that have only the second.

#include <immintrin.h>

#define LOWBIT_ISA avxvnni_stand_in
#define LOWBIT_AVXVNNI_STAND_IN
#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32

#include "ops/matmul/matmul_kernels.h"

namespace lowbit::avxvnni_stand_in {
extern const MatmulKernels kMatmul;
}

#include "core/simd/avx2.h"
#include "ops/matmul/dot_avx2.h"
#include "ops/matmul/matmul_vector.h"
