// GGUF blocks, sixteen lanes at a time: the types whose scale follows from the range of a block. Part of
// blocks_vector.h.

#pragma once

#include "core/tiles.h"
#include "ops/blocks/blocks_math.h"

namespace lowbit::LOWBIT_ISA {
namespace {

LOWBIT_INLINE F32x16 load16(const float* x) { return load<FloatType::kFloat32>(x); }

struct Block {
  F32x16 low, high;

  LOWBIT_INLINE explicit Block(const float* x) : low(load16(x)), high(load16(x + 16)) {}
};

LOWBIT_INLINE F32x16 magnitude(F32x16 x) { return as_floats(magnitude_bits(x)); }
LOWBIT_INLINE F32x16 zeros() { return broadcast(0.0F); }
LOWBIT_INLINE F32x16 negated(F32x16 x) { return as_floats(bit_xor(as_bits(x), broadcast(INT32_MIN))); }

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
  // As they end a block: the fifth bits, if there are any, and then the others.
  template <int Highest>
  LOWBIT_INLINE void store(std::uint8_t* end) const {
    if constexpr (Highest > 15) store_fifth_bits(end - 20);
    store_four_bits(end - 16);
  }
  LOWBIT_INLINE void store_fifth_bits(std::uint8_t* out) const {
    const std::uint32_t bits = sign_mask(shift_left<27>(low)) | sign_mask(shift_left<27>(high)) << 16;
    std::memcpy(out, &bits, sizeof bits);
  }
};

LOWBIT_INLINE void store_scale(std::uint8_t* out, float scale) { store_u16(out, narrow_half(scale)); }

// inverse_of() in lanes.
LOWBIT_INLINE F32x16 inverses_of(F32x16 d) {
  const F32x16 inverse = div(broadcast(1.0F), d);
  return select(less(magnitude(inverse), broadcast(float_of(0x7f800000U))), inverse, zeros());
}

template <BlockType Type, typename Body>
LOWBIT_INLINE void encode_all(const float* in, std::size_t blocks, std::uint8_t* out, const Body& body) {
  constexpr BlockFormat kFormat = format_of(Type);
  LOWBIT_NO_UNROLL
  for (std::size_t b = 0; b < blocks; b++) body(in + b * kFormat.length, out + b * kFormat.bytes);
}

// --- blocks of 32 elements ---
//
// Sixteen blocks at a time: first the range of each, then what follows from all ranges, in lanes, then the codes of
// each. Waiting for one block's divisions would take longer than all of that.

// body(first block, how many, their input, their output)
template <BlockType Type, typename Body>
LOWBIT_INLINE void encode_sixteen(const float* in, std::size_t blocks, std::uint8_t* out, const Body& body) {
  constexpr BlockFormat kFormat = format_of(Type);
  for (std::size_t b = 0; b < blocks; b += kLanes) {
    const std::size_t n = blocks - b < kLanes ? blocks - b : kLanes;
    body(in + b * kFormat.length, n, out + b * kFormat.bytes);
  }
}

struct Ranges {
  F32x16 least, greatest;
};

// The batch after this one comes from memory while this one is computed.
LOWBIT_INLINE void prefetch_next(const float* x) {
  prefetch(x + kBatchElements);
  prefetch(x + kBatchElements + kLanes);
}

// Of `n` blocks; other lanes repeat the last.
LOWBIT_INLINE Ranges ranges_of(const float* x, std::size_t n) {
  F32x16 negated_least[kLanes], greatest[kLanes];
  for (std::size_t g = 0; g < kLanes; g++) {
    const Block b(x + kBlock * (g < n ? g : n - 1));
    prefetch_next(x + kBlock * g);
    negated_least[g] = negated(min(b.low, b.high));
    greatest[g] = max(b.low, b.high);
  }
  return {negated(maxima(negated_least)), maxima(greatest)};
}

LOWBIT_INLINE F32x16 largest_of(const float* x, std::size_t n) {
  F32x16 largest[kLanes];
  for (std::size_t g = 0; g < kLanes; g++) {
    const Block b(x + kBlock * (g < n ? g : n - 1));
    prefetch_next(x + kBlock * g);
    largest[g] = max(magnitude(b.low), magnitude(b.high));
  }
  return maxima(largest);
}

// The same by looking at one element after the other, for the lanes of blocks in which one magnitude has both signs.
LOWBIT_NOINLINE void look_for_extremes(const float* x, std::size_t n, const Ranges& ranges, float* extremes) {
  float least[kLanes], greatest[kLanes];
  store_lanes(least, ranges.least);
  store_lanes(greatest, ranges.greatest);
  for (std::size_t g = 0; g < n; g++) {
    if (greatest[g] == -least[g]) extremes[g] = extreme_of(x + g * kBlock, kBlock);
  }
}

// extreme_of() of `n` blocks.
LOWBIT_INLINE F32x16 extremes_of(const float* x, std::size_t n) {
  const Ranges ranges = ranges_of(x, n);
  const F32x16 opposite = negated(ranges.least);
  // Adding zero makes −0 +0.
  const F32x16 found = add(select(less(opposite, ranges.greatest), ranges.greatest, ranges.least), zeros());
  const F32x16 both_signs = select_zero(sub(ranges.greatest, opposite), magnitude(found), zeros());
  if (!any(less(zeros(), both_signs))) return found;
  float extremes[kLanes];
  store_lanes(extremes, found);
  look_for_extremes(x, n, ranges, extremes);
  return load16(extremes);
}

// A minimum of zero has the sign of the first zero, as it comes from comparing one element after the other.
LOWBIT_NOINLINE F32x16 with_first_zeros(const float* x, std::size_t n, F32x16 least) {
  float minimums[kLanes];
  store_lanes(minimums, least);
  for (std::size_t g = 0; g < n; g++) {
    if (minimums[g] != 0.0F) continue;
    const float* zero = x + g * kBlock;
    while (*zero != 0.0F) zero++;
    minimums[g] = *zero;
  }
  return load16(minimums);
}

// What is stored of sixteen blocks besides their codes, and what their codes are computed with.
struct Scales16 {
  std::uint16_t scales[kLanes], minimums[kLanes];
  float inverses[kLanes], lowest[kLanes];

  LOWBIT_INLINE void put(F32x16 scale) {
    store<FloatType::kFloat16, false>(scales, scale);
    store_lanes(inverses, inverses_of(scale));
  }
  LOWBIT_INLINE void put(F32x16 scale, F32x16 minimum) {
    put(scale);
    store<FloatType::kFloat16, false>(minimums, minimum);
    store_lanes(lowest, minimum);
  }
};

// Codes 0 … 2 · Zero − 1 around Zero, of q4_0 and q5_0.
template <BlockType Type, int Zero>
LOWBIT_INLINE void quantize_symmetric(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_sixteen<Type>(in, blocks, out, [](const float* x, std::size_t n, std::uint8_t* y) {
    Scales16 s;
    s.put(div(extremes_of(x, n), broadcast(static_cast<float>(-Zero))));
    const F32x16 offset = broadcast(static_cast<float>(Zero) + 0.5F);
    for (std::size_t g = 0; g < n; g++) {
      constexpr std::size_t kBytes = format_of(Type).bytes;
      const Block b(x + g * kBlock);
      const F32x16 inverse = broadcast(s.inverses[g]);
      const Codes codes = {cut_off(add(mul(b.low, inverse), offset), 2 * Zero - 1),
                           cut_off(add(mul(b.high, inverse), offset), 2 * Zero - 1)};
      store_u16(y + g * kBytes, s.scales[g]);
      codes.store<2 * Zero - 1>(y + (g + 1) * kBytes);
    }
  });
}

// Codes 0 … Highest from the minimum, of q4_1 and q5_1.
template <BlockType Type, int Highest>
LOWBIT_INLINE void quantize_between(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_sixteen<Type>(in, blocks, out, [](const float* x, std::size_t n, std::uint8_t* y) {
    const Ranges ranges = ranges_of(x, n);
    F32x16 minimum = ranges.least;
    if (any(less(select_zero(minimum, broadcast(-1.0F), zeros()), zeros()))) minimum = with_first_zeros(x, n, minimum);
    const Mask16 wide = less(ranges.least, ranges.greatest);
    const F32x16 range = select(wide, sub(ranges.greatest, minimum), zeros());
    Scales16 s;
    s.put(div(range, broadcast(static_cast<float>(Highest))), minimum);
    const F32x16 half = broadcast(0.5F);
    for (std::size_t g = 0; g < n; g++) {
      constexpr std::size_t kBytes = format_of(Type).bytes;
      const Block b(x + g * kBlock);
      const F32x16 lowest = broadcast(s.lowest[g]), inverse = broadcast(s.inverses[g]);
      const Codes codes = {cut_off(add(mul(sub(b.low, lowest), inverse), half), Highest),
                           cut_off(add(mul(sub(b.high, lowest), inverse), half), Highest)};
      store_u16(y + g * kBytes, s.scales[g]);
      store_u16(y + g * kBytes + 2, s.minimums[g]);
      codes.store<Highest>(y + (g + 1) * kBytes);
    }
  });
}

void quantize_q4_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_symmetric<BlockType::kQ4_0, 8>(in, blocks, out);
}
void quantize_q5_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_symmetric<BlockType::kQ5_0, 16>(in, blocks, out);
}
void quantize_q4_1(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_between<BlockType::kQ4_1, 15>(in, blocks, out);
}
void quantize_q5_1(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_between<BlockType::kQ5_1, 31>(in, blocks, out);
}

void quantize_q8_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  encode_sixteen<BlockType::kQ8_0>(in, blocks, out, [](const float* x, std::size_t n, std::uint8_t* y) {
    Scales16 s;
    s.put(div(largest_of(x, n), broadcast(127.0F)));
    for (std::size_t g = 0; g < n; g++) {
      constexpr std::size_t kBytes = format_of(BlockType::kQ8_0).bytes;
      const Block b(x + g * kBlock);
      const F32x16 inverse = broadcast(s.inverses[g]);
      store_u16(y + g * kBytes, s.scales[g]);
      store_codes<8, false>(y + g * kBytes + 2,
                            narrow(round_half_away(mul(b.low, inverse)), round_half_away(mul(b.high, inverse))), 0);
    }
  });
}

// --- ternary ---

LOWBIT_INLINE float largest_of_superblock(const float* x) {
  I32x16 largest = magnitude_bits(load16(x));
  for (std::size_t i = kLanes; i < kSuperblock; i += kLanes) largest = max(largest, magnitude_bits(load16(x + i)));
  for (std::size_t i = 0; i < kSuperblock; i += kBlock) prefetch_next(x + i);
  return float_of(static_cast<std::uint32_t>(horizontal_max(largest)));
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
