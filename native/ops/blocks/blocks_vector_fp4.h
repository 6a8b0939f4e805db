// GGUF blocks, sixteen lanes at a time: floats to 4-bit floats. Part of blocks_vector.h.

#pragma once

#include "ops/blocks/blocks_fp4.h"
#include "ops/blocks/blocks_scalar.h"
#include "ops/blocks/blocks_vector_quantize.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// nearest_e2m1() in lanes: a magnitude takes the code above a midpoint of two values only if it is greater; which of
// the seven midpoints it passes is found by halving. Midpoints are exact, and so are all distances that matter to
// nearest_e2m1() while magnitudes are below 2^24 of its steps and the values are finite.
class NearestE2M1 {
 public:
  LOWBIT_INLINE NearestE2M1() {
    float middles[kLanes] = {};
    for (int i = 0; i < 7; i++) middles[i] = middle(i);
    middles_ = load16(middles);
  }

  // A scale of infinity makes all codes 0.
  LOWBIT_INLINE I32x16 operator()(F32x16 x, F32x16 half_scale) const {
    const F32x16 m = magnitude(x);
    const Mask16 upper = less(mul(broadcast(middle(3)), half_scale), m);
    const F32x16 quarter = mul(select(upper, broadcast(middle(5)), broadcast(middle(1))), half_scale);
    I32x16 code = select(upper, broadcast(4), broadcast(0));
    code = add(code, select(less(quarter, m), broadcast(2), broadcast(0)));
    code = add(code, select(less(mul(look_up8(middles_, code), half_scale), m), broadcast(1), broadcast(0)));
    // Zero has no sign.
    const I32x16 sign = bit_and(shift_right<28>(as_bits(x)), broadcast(8));
    return select(less(broadcast(0), code), add(code, sign), code);
  }

 private:
  // Between twice the values of the codes i and i + 1.
  static constexpr float middle(int i) { return static_cast<float>(kTwiceE2M1[i] + kTwiceE2M1[i + 1]) * 0.5F; }

  F32x16 middles_;
};

// --- mxfp4 ---

// e8m0_for() in lanes, but for magnitudes so near the next power of two that their logarithm may be rounded to it.
LOWBIT_INLINE I32x16 e8m0_for(F32x16 largest) {
  return max(sub(shift_right<23>(as_bits(largest)), broadcast(2)), broadcast(0));
}
LOWBIT_INLINE bool may_round_up(F32x16 largest) {
  constexpr int kMantissa = 0x7fffff, kNear = 64;  // at most 2^6 · ln 2 of these steps, for exponents up to 2^7
  return any(less(broadcast(kMantissa - kNear), bit_and(as_bits(largest), broadcast(kMantissa))));
}

void quantize_mxfp4(const float* in, std::size_t blocks, std::uint8_t* out) {
  const NearestE2M1 nearest;
  encode_sixteen<BlockType::kMXFP4>(in, blocks, out, [&](const float* x, std::size_t n, std::uint8_t* y) {
    const F32x16 largest = largest_of(x, n);
    if (may_round_up(largest)) return scalar::quantize_mxfp4(x, n, y);
    std::int32_t scales[kLanes];
    store_lanes(scales, e8m0_for(largest));
    for (std::size_t g = 0; g < n; g++) {
      const Block b(x + g * kBlock);
      const auto e = static_cast<std::uint8_t>(scales[g]);
      const F32x16 half_scale = broadcast(half_e8m0(e));
      y[17 * g] = e;
      Codes{nearest(b.low, half_scale), nearest(b.high, half_scale)}.store_four_bits(y + 17 * g + 1);
    }
  });
}

// --- nvfp4 ---

// Past what a scale reaches, magnitudes may be so large that their distances to the values are rounded.
constexpr float kExactDistances = 0x1p28F;

// ue4m3_of() in lanes.
LOWBIT_INLINE I32x16 ue4m3_of(F32x16 x) {
  const F32x16 bounded = min(x, broadcast(448.0F));
  const I32x16 normal = sub(shift_right<20>(add(as_bits(bounded), broadcast(0x80000))), broadcast(120 << 3));
  const I32x16 small = clamp(truncate_to_int(add(mul(bounded, broadcast(512.0F)), broadcast(0.5F))), 0, 7);
  const I32x16 code = select(less(bounded, broadcast(0x1p-6F)), small, normal);
  return select(less(broadcast(0x77), code), broadcast(0x7e), code);
}
// half_ue4m3() in lanes, of codes that ue4m3_of() gives; infinity instead of 0.
LOWBIT_INLINE F32x16 half_ue4m3(I32x16 code) {
  const F32x16 small = mul(to_float(code), broadcast(0x1p-10F));
  const F32x16 normal = as_floats(add(shift_left<20>(code), broadcast(119 << 23)));
  const F32x16 half = select(less(code, broadcast(8)), small, normal);
  return select_zero(half, broadcast(float_of(0x7f800000U)), half);
}

// Four blocks are sixteen sub-blocks of sixteen elements.
void quantize_nvfp4(const float* in, std::size_t blocks, std::uint8_t* out) {
  constexpr std::size_t kBytes = format_of(BlockType::kNVFP4).bytes, kParts = 4, kAtOnce = kLanes / kParts;
  const NearestE2M1 nearest;
  for (std::size_t b = 0; b < blocks; b += kAtOnce) {
    const std::size_t n = kParts * (blocks - b < kAtOnce ? blocks - b : kAtOnce);
    const float* x = in + b * kParts * kLanes;
    std::uint8_t* y = out + b * kBytes;
    F32x16 magnitudes[kLanes];
    for (std::size_t s = 0; s < kLanes; s++) magnitudes[s] = magnitude(load16(x + kLanes * (s < n ? s : n - 1)));
    const F32x16 largest = maxima(magnitudes);
    if (any(less(broadcast(kExactDistances), largest))) {
      scalar::quantize_nvfp4(x, n / kParts, y);
      continue;
    }
    const I32x16 codes = ue4m3_of(div(largest, broadcast(6.0F)));
    std::uint8_t scales[kLanes];
    float half_scales[kLanes];
    store_low_bytes(scales, codes);
    store_lanes(half_scales, half_ue4m3(codes));
    for (std::size_t s = 0; s < n; s++) {
      std::uint8_t* part = y + s / kParts * kBytes;
      part[s % kParts] = scales[s];
      std::uint8_t own[kLanes];
      store_low_bytes(own, nearest(load16(x + kLanes * s), broadcast(half_scales[s])));
      std::uint64_t low, high;
      std::memcpy(&low, own, sizeof low);
      std::memcpy(&high, own + 8, sizeof high);
      low |= high << 4;
      std::memcpy(part + 4 + 8 * (s % kParts), &low, sizeof low);
    }
  }
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
