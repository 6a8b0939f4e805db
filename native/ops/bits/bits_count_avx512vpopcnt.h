// Counting bits with VPOPCNTDQ: an instruction for each vector.

#include "ops/bits/bits_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

struct Bits {
  __m512i v;
};
constexpr std::size_t kBitsBytes = 64;
constexpr std::size_t kRunVectors = 1;
constexpr int kBlockRows = 4;

LOWBIT_INLINE Bits load_bits(const std::uint8_t* p) { return {_mm512_loadu_si512(p)}; }
LOWBIT_INLINE Bits bit_xor(Bits a, Bits b) { return {_mm512_xor_si512(a.v, b.v)}; }

struct Count {
  __m512i counted;

  static LOWBIT_INLINE Count zero() { return {_mm512_setzero_si512()}; }
  LOWBIT_INLINE void add_run(const Bits (&x)[kRunVectors]) { add(x[0]); }
  LOWBIT_INLINE void add(Bits x) { counted = _mm512_add_epi32(counted, _mm512_popcnt_epi32(x.v)); }
  LOWBIT_INLINE __m512i lanes(bool) const { return counted; }
};

}  // namespace
}  // namespace lowbit::LOWBIT_ISA

#include "ops/bits/bits_count_zmm.h"
