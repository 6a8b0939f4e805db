// Counting bits on Advanced SIMD: CNT counts those of every byte.

#include "ops/bits/bits_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

struct Bits {
  uint8x16_t v;
};
constexpr std::size_t kBitsBytes = 16;
constexpr std::size_t kRunVectors = 4;  // a line
constexpr int kBlockRows = 1;

LOWBIT_INLINE Bits load_bits(const std::uint8_t* p) { return {vld1q_u8(p)}; }
LOWBIT_INLINE Bits bit_xor(Bits a, Bits b) { return {veorq_u8(a.v, b.v)}; }

struct Count {
  uint32x4_t counted;

  static LOWBIT_INLINE Count zero() { return {vdupq_n_u32(0)}; }
  LOWBIT_INLINE void add_run(const Bits (&x)[kRunVectors]) {
    const uint8x16_t first = vaddq_u8(vcntq_u8(x[0].v), vcntq_u8(x[1].v));
    const uint8x16_t second = vaddq_u8(vcntq_u8(x[2].v), vcntq_u8(x[3].v));
    counted = vpadalq_u16(counted, vpaddlq_u8(vaddq_u8(first, second)));
  }
  LOWBIT_INLINE void add(Bits x) { counted = vpadalq_u16(counted, vpaddlq_u8(vcntq_u8(x.v))); }
  LOWBIT_INLINE uint32x4_t lanes(bool) const { return counted; }
};

using CountLanes = uint32x4_t;

LOWBIT_INLINE std::uint32_t sum_of_one(CountLanes x) { return vaddvq_u32(x); }
// out[i] = start + step · Σ lanes of x[i]
LOWBIT_INLINE void store_four(std::int32_t* out, const CountLanes (&x)[4], std::int32_t start, std::int32_t step) {
  const uint32x4_t sums = vpaddq_u32(vpaddq_u32(x[0], x[1]), vpaddq_u32(x[2], x[3]));
  vst1q_s32(out, vmlaq_n_s32(vdupq_n_s32(start), vreinterpretq_s32_u32(sums), step));
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
