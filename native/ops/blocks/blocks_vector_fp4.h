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
    code = select(less(quarter, m), add(code, broadcast(2)), code);
    code = select(less(mul(look_up8(middles_, code), half_scale), m), add(code, broadcast(1)), code);
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

// e8m0_for() in lanes, but for what is_odd() says.
LOWBIT_INLINE I32x16 e8m0_for(F32x16 largest) {
  return max(sub(shift_right<23>(as_bits(largest)), broadcast(2)), broadcast(0));
}
// Magnitudes so near the next power of two that their logarithm may be rounded to it, which is within 2^6 · ln 2 steps
// of float32, and magnitudes so small that their scale is not a normal float32 with all the values it has.
LOWBIT_INLINE bool any_odd(F32x16 largest) {
  constexpr int kMantissa = 0x7fffff, kNear = 64;
  return any(less(broadcast(kMantissa - kNear), bit_and(as_bits(largest), broadcast(kMantissa)))) ||
         any(both(less(zeros(), largest), less(largest, broadcast(0x1p-122F))));
}

// nearest_e2m1() in lanes for a scale that is a power of two: then a magnitude's bits, less those of a quarter of the
// scale, say all. Past 7/8 of the scale the values are the floats of one mantissa bit, and rounding cuts off 22 bits
// after adding one less than half of what is cut off; below, there are the midpoints of 0, ½ and 1.
class NearestScaledE2M1 {
 public:
  // Bits of a quarter of the scale; those of nothing are an eighth of the least one.
  LOWBIT_INLINE static I32x16 quarters(I32x16 e8m0) {
    return shift_left<23>(sub(max(e8m0, broadcast(3)), broadcast(2)));
  }

  LOWBIT_INLINE explicit NearestScaledE2M1(std::int32_t quarter) : quarter_(broadcast(quarter)) {}

  LOWBIT_INLINE I32x16 operator()(F32x16 x) const {
    constexpr int kThreeQuarters = 0xc00000, kRounding = 0x1fffff - 0x800000;
    const I32x16 past = sub(magnitude_bits(x), quarter_);
    const Mask16 not_zero = less(broadcast(0), past);
    const I32x16 low = select(less(broadcast(kThreeQuarters), past), broadcast(2), broadcast(1));
    const I32x16 code = min(max(shift_right<22>(add(past, broadcast(kRounding))), low), broadcast(7));
    const I32x16 sign = bit_and(shift_right<28>(as_bits(x)), broadcast(8));
    return select(not_zero, bit_or(code, sign), broadcast(0));
  }

 private:
  I32x16 quarter_;
};

void quantize_mxfp4(const float* in, std::size_t blocks, std::uint8_t* out) {
  constexpr std::size_t kBytes = format_of(BlockType::kMXFP4).bytes;
  encode_sixteen<BlockType::kMXFP4>(in, blocks, out, [](const float* x, std::size_t n, std::uint8_t* y) {
    const F32x16 largest = largest_of(x, n);
    if (any_odd(largest)) return scalar::quantize_mxfp4(x, n, y);
    const I32x16 e8m0 = e8m0_for(largest);
    std::uint8_t scales[kLanes];
    std::int32_t quarters[kLanes];
    store_low_bytes(scales, e8m0);
    store_lanes(quarters, NearestScaledE2M1::quarters(e8m0));
    for (std::size_t g = 0; g < n; g++) {
      const Block b(x + g * kBlock);
      const NearestScaledE2M1 nearest(quarters[g]);
      y[g * kBytes] = scales[g];
      Codes{nearest(b.low), nearest(b.high)}.store_four_bits(y + g * kBytes + 1);
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
    for (std::size_t s = 0; s < kLanes; s += 2) prefetch_next(x + kLanes * s);
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
