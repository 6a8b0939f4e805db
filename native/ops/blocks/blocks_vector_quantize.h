// GGUF blocks, sixteen lanes at a time: the types whose scale follows from the range of a block. Part of
// blocks_vector.h.

#pragma once

#include "ops/blocks/blocks_fp4.h"
#include "ops/blocks/blocks_math.h"

namespace lowbit::LOWBIT_ISA {
namespace {

LOWBIT_INLINE F32x16 load16(const float* x) { return load<FloatType::kFloat32>(x); }

struct Block {
  F32x16 low, high;

  LOWBIT_INLINE explicit Block(const float* x) : low(load16(x)), high(load16(x + 16)) {}
  LOWBIT_INLINE float largest() const { return float_of_largest(max(magnitude_bits(low), magnitude_bits(high))); }

  LOWBIT_INLINE static float float_of_largest(I32x16 magnitudes) {
    return float_of(static_cast<std::uint32_t>(horizontal_max(magnitudes)));
  }
};

struct Ends {
  float least, greatest;

  LOWBIT_INLINE explicit Ends(const Block& b) {
    store_range(&least, &greatest, min(b.low, b.high), max(b.low, b.high));
  }

  // As extreme_of(): which of two equal magnitudes came first is looked up only where there are two.
  LOWBIT_INLINE float extreme(const float* x) const {
    if (greatest > -least) return greatest;
    if (-least > greatest) return least;
    return extreme_of(x, kBlock);
  }
};

// round_half_away() in lanes.
LOWBIT_INLINE I32x16 round_half_away(F32x16 x) {
  const I32x16 sign = bit_and(as_bits(x), broadcast(INT32_MIN));
  return truncate_to_int(add(x, as_floats(bit_xor(sign, as_bits(broadcast(0x1.fffffep-2F))))));
}

// nearest_int() in lanes.
LOWBIT_INLINE I32x16 nearest_int(F32x16 x) {
  return sub(bit_and(as_bits(add(x, broadcast(0x1.8p23F))), broadcast(0x7fffff)), broadcast(0x400000));
}
LOWBIT_INLINE I32x16 clamp(I32x16 x, int lowest, int highest) {
  return min(max(x, broadcast(lowest)), broadcast(highest));
}

// cut_off() in lanes.
LOWBIT_INLINE I32x16 cut_off(F32x16 x, int highest) {
  return truncate_to_int(min(x, broadcast(static_cast<float>(highest))));
}

struct Codes {
  I32x16 low, high;

  LOWBIT_INLINE void store_four_bits(std::uint8_t* out) const {
    const I32x16 mask = broadcast(15);
    store_low_bytes(out, bit_xor(bit_and(low, mask), shift_left<4>(bit_and(high, mask))));
  }
  LOWBIT_INLINE void store_fifth_bits(std::uint8_t* out) const {
    const std::uint32_t bits = sign_mask(shift_left<27>(low)) | sign_mask(shift_left<27>(high)) << 16;
    std::memcpy(out, &bits, sizeof bits);
  }
};

LOWBIT_INLINE void store_scale(std::uint8_t* out, float scale) { store_u16(out, narrow_half(scale)); }

template <int Zero>
LOWBIT_INLINE Codes code_symmetric(const float* x, std::uint8_t* scale_out) {
  const Block b(x);
  const float scale = Ends(b).extreme(x) / static_cast<float>(-Zero);
  store_scale(scale_out, scale);
  const F32x16 inverse = broadcast(inverse_of(scale)), offset = broadcast(static_cast<float>(Zero) + 0.5F);
  return {cut_off(add(mul(b.low, inverse), offset), 2 * Zero - 1),
          cut_off(add(mul(b.high, inverse), offset), 2 * Zero - 1)};
}

// A minimum of zero has the sign of the first zero, as it comes from comparing one element after the other.
LOWBIT_NOINLINE float first_zero(const float* x) {
  while (*x != 0.0F) x++;
  return *x;
}

template <int Highest>
LOWBIT_INLINE Codes code_between(const float* x, std::uint8_t* scale_out) {
  const Block b(x);
  const Ends ends(b);
  const float minimum = ends.least == 0.0F ? first_zero(x) : ends.least;
  const float range = ends.greatest > ends.least ? ends.greatest - minimum : 0.0F;
  const float scale = range / static_cast<float>(Highest);
  store_scale(scale_out, scale);
  store_scale(scale_out + 2, minimum);
  const F32x16 lowest = broadcast(minimum), inverse = broadcast(inverse_of(scale)), half = broadcast(0.5F);
  return {cut_off(add(mul(sub(b.low, lowest), inverse), half), Highest),
          cut_off(add(mul(sub(b.high, lowest), inverse), half), Highest)};
}

template <BlockType Type, typename Body>
LOWBIT_INLINE void encode_all(const float* in, std::size_t blocks, std::uint8_t* out, const Body& body) {
  constexpr BlockFormat kFormat = format_of(Type);
  LOWBIT_NO_UNROLL
  for (std::size_t b = 0; b < blocks; b++) body(in + b * kFormat.length, out + b * kFormat.bytes);
}

void quantize_q4_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_all<BlockType::kQ4_0>(in, blocks, out,
                               [](const float* x, std::uint8_t* y) { code_symmetric<8>(x, y).store_four_bits(y + 2); });
}

void quantize_q4_1(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_all<BlockType::kQ4_1>(in, blocks, out,
                               [](const float* x, std::uint8_t* y) { code_between<15>(x, y).store_four_bits(y + 4); });
}

void quantize_q5_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_all<BlockType::kQ5_0>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    const Codes codes = code_symmetric<16>(x, y);
    codes.store_fifth_bits(y + 2);
    codes.store_four_bits(y + 6);
  });
}

void quantize_q5_1(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_all<BlockType::kQ5_1>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    const Codes codes = code_between<31>(x, y);
    codes.store_fifth_bits(y + 4);
    codes.store_four_bits(y + 8);
  });
}

void quantize_q8_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_all<BlockType::kQ8_0>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    const Block b(x);
    const float scale = b.largest() / 127.0F;
    store_scale(y, scale);
    const F32x16 inverse = broadcast(inverse_of(scale));
    store_codes<8, false>(y + 2, narrow(round_half_away(mul(b.low, inverse)), round_half_away(mul(b.high, inverse))),
                          0);
  });
}

// --- 4-bit floats ---

// nearest_e2m1() in lanes: a magnitude takes the code above a midpoint of two values only if it is greater. Values that
// overflow float32 are never nearest, and if all values are zero the first is. Magnitudes are below 2^24 of these
// steps, where all distances that matter are exact.
class NearestE2M1 {
 public:
  LOWBIT_INLINE explicit NearestE2M1(float half_scale) {
    for (int i = 0; i < 7; i++) {
      const float middle = static_cast<float>(kTwiceE2M1[i] + kTwiceE2M1[i + 1]) * 0.5F * half_scale;
      const bool reachable = half_scale > 0.0F && is_finite(static_cast<float>(kTwiceE2M1[i + 1]) * half_scale);
      middles_[i] = broadcast(reachable ? middle : float_of(0x7f800000U));
    }
  }

  LOWBIT_INLINE I32x16 operator()(F32x16 x) const {
    const F32x16 magnitude = as_floats(magnitude_bits(x));
    const I32x16 one = broadcast(1), zero = broadcast(0);
    const I32x16 sign = bit_and(shift_right<28>(as_bits(x)), broadcast(8));
    // Zero has no sign.
    I32x16 code = select(less(middles_[0], magnitude), add(sign, one), zero);
    for (int i = 1; i < 7; i++) code = add(code, select(less(middles_[i], magnitude), one, zero));
    return code;
  }

 private:
  F32x16 middles_[7];
};

void quantize_mxfp4(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_all<BlockType::kMXFP4>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    const Block b(x);
    y[0] = e8m0_for(b.largest());
    const NearestE2M1 nearest(half_e8m0(y[0]));
    Codes{nearest(b.low), nearest(b.high)}.store_four_bits(y + 1);
  });
}

// Past what a scale reaches, magnitudes may be so large that their distances to the values are rounded.
constexpr float kExactDistances = 0x1p28F;

LOWBIT_NOINLINE void code_one_by_one(const float* x, float half_scale, std::uint8_t* codes) {
  for (std::size_t i = 0; i < kLanes; i++) codes[i] = static_cast<std::uint8_t>(nearest_e2m1(x[i], half_scale));
}

void quantize_nvfp4(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_all<BlockType::kNVFP4>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    for (std::size_t s = 0; s < 4; s++) {
      const F32x16 v = load16(x + 16 * s);
      const float largest = Block::float_of_largest(magnitude_bits(v));
      y[s] = ue4m3_of(largest / 6.0F);
      std::uint8_t codes[kLanes];
      if (largest < kExactDistances) {
        store_low_bytes(codes, NearestE2M1(half_ue4m3(y[s]))(v));
      } else {
        code_one_by_one(x + 16 * s, half_ue4m3(y[s]), codes);
      }
      std::uint64_t low, high;
      std::memcpy(&low, codes, sizeof low);
      std::memcpy(&high, codes + 8, sizeof high);
      low |= high << 4;
      std::memcpy(y + 4 + 8 * s, &low, sizeof low);
    }
  });
}

// --- ternary ---

LOWBIT_INLINE float largest_of_superblock(const float* x) {
  I32x16 largest = magnitude_bits(load16(x));
  for (std::size_t i = kLanes; i < kSuperblock; i += kLanes) largest = max(largest, magnitude_bits(load16(x + i)));
  return Block::float_of_largest(largest);
}

struct Digits {
  F32x16 inverse;

  LOWBIT_INLINE I32x16 operator()(const float* x) const { return of(load16(x)); }
  LOWBIT_INLINE I32x16 of(F32x16 x) const { return add(round_half_away(mul(x, inverse)), broadcast(1)); }
};

void quantize_tq2_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_all<BlockType::kTQ2_0>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    const float scale = largest_of_superblock(x);
    const Digits digits{broadcast(inverse_of(scale))};
    for (std::size_t quarter = 0; quarter < 4; quarter++) {
      const float* first = x + 128 * (quarter / 2) + 16 * (quarter % 2);
      const I32x16 low = add(digits(first), shift_left<2>(digits(first + 32)));
      const I32x16 high = add(digits(first + 64), shift_left<2>(digits(first + 96)));
      store_low_bytes(y + 16 * quarter, add(low, shift_left<4>(high)));
    }
    store_scale(y + 64, scale);
  });
}

// ⌈v · 256 / 243⌉ for v < 243: 8631 · 2^−21 is just above 1 / 243.
LOWBIT_INLINE I32x16 turned(I32x16 value) {
  return shift_right<21>(mul(add(shift_left<8>(value), broadcast(242)), broadcast(8631)));
}

void quantize_tq1_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_all<BlockType::kTQ1_0>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    const float scale = largest_of_superblock(x);
    const Digits digits{broadcast(inverse_of(scale))};
    const auto tripled = [](I32x16 value) { return add(value, shift_left<1>(value)); };
    for (std::size_t run = 0; run < 3; run++) {
      const float* first = x + (run < 2 ? 16 * run : 160);
      const std::size_t distance = run < 2 ? 32 : 16;
      I32x16 value = digits(first);
      for (std::size_t n = 1; n < 5; n++) value = add(tripled(value), digits(first + distance * n));
      store_low_bytes(y + 16 * run, turned(value));
    }
    I32x16 value = broadcast(0);
    for (std::size_t n = 0; n < 4; n++) {
      value = add(tripled(value), digits.of(load_first<FloatType::kFloat32>(x + 240 + 4 * n, 4)));
    }
    std::uint8_t last[kLanes];
    store_low_bytes(last, turned(tripled(value)));
    std::memcpy(y + 48, last, 4);
    store_scale(y + 52, scale);
  });
}

// --- q8_k ---

void quantize_q8_k(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_all<BlockType::kQ8_K>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    F32x16 least = load16(x), greatest = least;
    for (std::size_t i = kLanes; i < kSuperblock; i += kLanes) {
      least = min(load16(x + i), least);
      greatest = max(load16(x + i), greatest);
    }
    float low, high;
    store_range(&low, &high, least, greatest);
    const float extreme = high > -low ? high : -low > high ? low : extreme_of(x, kSuperblock);
    const float inverse = -127.0F / extreme;
    if (!is_finite(inverse)) {
      std::memset(y, 0, format_of(BlockType::kQ8_K).bytes);
      return;
    }
    const float scale = 1.0F / inverse;
    std::memcpy(y, &scale, sizeof scale);
    for (std::size_t g = 0; g < kSuperblock / kLanes; g += 2) {
      const auto code = [&](std::size_t i) {
        return clamp(nearest_int(mul(broadcast(inverse), load16(x + kLanes * i))), -127, 127);
      };
      const I32x16 first = code(g), second = code(g + 1);
      store_codes<8, false>(y + 4 + kLanes * g, narrow(first, second), 0);
      store_u16(y + 260 + 2 * g, static_cast<std::uint16_t>(horizontal_sum(first)));
      store_u16(y + 262 + 2 * g, static_cast<std::uint16_t>(horizontal_sum(second)));
    }
  });
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
