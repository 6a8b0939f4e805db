#define LOWBIT_ISA avx512vnni
#include "core/simd/avx512.h"
#include "ops/matmul/dot_avx512vnni.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// Thirty-two registers: 6 × 2 sums and as many totals; 14 × 2 sums of floats.
constexpr int kDotRows = 6, kFloatRows = 14;
constexpr int dot_tiles_for(int rows) { return rows <= 2 ? 4 : rows <= 4 ? 3 : 2; }
constexpr int float_tiles_for(int rows) { return rows <= 6 ? 4 : 2; }
constexpr std::size_t kDecodeRows = 384;

}  // namespace
}  // namespace lowbit::LOWBIT_ISA

#include "ops/matmul/matmul_vector.h"
