// Affine quantization, sixteen lanes at a time: floats to codes. Part of affine_vector.h.
//
// Codes need x / scale exactly as IEEE division rounds it, but a vector division costs as much as ten multiplications.
//
// Fast: with r = 1 / scale, the integers nearest to x·r⁻ and x·r⁺ are taken, r⁻ and r⁺ being r less and plus four units
// in the last place. x / scale as rounded (2^-24) by way of r as rounded (2^-24) lies between them (2^-22 at least),
// and rounding to integers keeps order: where both agree, that is the code.
//
// Exact: they disagree only next to ties. There, q₀ = x·r is refined: each step e = x − q·scale (exact in a fused
// multiply-add), q ← q + e·r takes nearly all of the error away; after the first step q is within one unit in the last
// place, and by Markstein's theorem the second then gives the correctly rounded quotient (P. Markstein, "Computation of
// elementary functions on the IBM RISC System/6000 processor", IBM J. Res. Dev. 34, 1990). That needs r and every e to
// be free of underflow and overflow, so it is used for scales in [2^-100, 2^100]; others divide.

#pragma once

#include "core/simd/runs.h"
#include "ops/affine/affine_kernels.h"
#include "ops/affine/affine_math.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr float kLeastReciprocal = 0x1p-100F, kGreatestReciprocal = 0x1p100F;

LOWBIT_INLINE bool has_reciprocal(float scale) { return scale >= kLeastReciprocal && scale <= kGreatestReciprocal; }

// x / scale, correctly rounded; see the head of this file.
LOWBIT_INLINE F32x16 divide(F32x16 x, F32x16 scale, F32x16 reciprocal) {
  F32x16 quotient = mul(x, reciprocal);
  quotient = fused(fused_negative(quotient, scale, x), reciprocal, quotient);
  return fused(fused_negative(quotient, scale, x), reciprocal, quotient);
}

// Adding 1.5·2^23 rounds to an integer, half to even, because the last bit of such a float32 is worth one: its bits are
// kRounderBits + the integer. The number of steps that a code lies from zero is kept in this form.
constexpr float kRounder = 0x1.8p23F;
constexpr std::int32_t kRounderBits = 0x4b400000;
LOWBIT_INLINE I32x16 rounded(F32x16 steps) { return as_bits(add(steps, broadcast(kRounder))); }

// What turns steps into codes, spread over the lanes. In registers a code is a signed byte: codes of 8 bits in two's
// complement, narrower ones in offset binary, so that they need no masking. `flip`, xor-ed as they are stored, makes
// them what `code` says.
struct CodeRange {
  I32x16 origin;  // of steps in the form above
  I8x32 low, high;
  std::uint64_t flip;
};

template <int Bits>
constexpr std::int32_t bias_of(CodeType code) {
  const std::int32_t half = 1 << (Bits - 1);
  if (Bits == 8) return code.is_signed ? 0 : -half;
  return code.is_signed ? half : 0;
}

template <int Bits>
LOWBIT_INLINE I32x16 origin_of(CodeType code, std::int32_t zero_point) {
  return broadcast(zero_point + bias_of<Bits>(code) - kRounderBits);
}

template <int Bits>
LOWBIT_INLINE CodeRange code_range(CodeType code, std::int32_t zero_point, int lowest, int highest) {
  const std::int32_t bias = bias_of<Bits>(code);
  return {origin_of<Bits>(code, zero_point), broadcast8(lowest + bias), broadcast8(highest + bias),
          bias != 0 ? sign_bits<Bits>() : 0};
}

LOWBIT_INLINE I8x32 codes_from(I32x16 a, I32x16 b, const CodeRange& range) {
  return min(max(narrow(add(a, range.origin), add(b, range.origin)), range.low), range.high);
}

template <int Bits>
LOWBIT_INLINE std::uint8_t* byte_of(std::uint8_t* codes, std::size_t i) {
  return codes + i * Bits / 8;
}

// Codes of consecutive elements that start on a byte; `steps_of` gives round(x / scale) for sixteen of them.
template <FloatType Type, int Bits, typename Steps>
LOWBIT_INLINE void quantize_blocks(const Storage<Type>* x, std::size_t count, const CodeRange& range,
                                   std::uint8_t* codes, const Steps& steps_of) {
  std::size_t i = 0;
  for (; i + kUnit <= count; i += kUnit) {
    const I8x32 all = codes_from(steps_of(load<Type>(x + i)), steps_of(load<Type>(x + i + kLanes)), range);
    store_codes<Bits, false>(byte_of<Bits>(codes, i), all, range.flip);
  }
  if (i == count) return;
  const std::size_t rest = count - i, first = rest < kLanes ? rest : kLanes;
  const I32x16 a = steps_of(load_up_to<Type>(x + i, first));
  const I32x16 b = first < rest ? steps_of(load_first<Type>(x + i + first, rest - first)) : a;
  store_first_codes<Bits>(byte_of<Bits>(codes, i), codes_from(a, b, range), range.flip, rest);
}

// One group with any scale and any elements: x / scale is clamped as a float first, because an integer could not hold
// it.
template <FloatType Type, int Bits>
LOWBIT_NOINLINE void quantize_group(const Storage<Type>* x, std::size_t count, float scale, std::int32_t zero_point,
                                    CodeType code, int lowest, int highest, std::uint8_t* codes) {
  const CodeRange range = code_range<Bits>(code, zero_point, lowest, highest);
  const float low_steps = static_cast<float>(lowest - zero_point);
  const float high_steps = static_cast<float>(highest - zero_point);
  const F32x16 scales = broadcast(scale);
  if (has_reciprocal(scale)) {
    // Clamping x at bound · scale gives the same codes, keeps every step finite, and makes NaN the lowest.
    const F32x16 reciprocal = broadcast(1.0F / scale);
    const F32x16 low = broadcast(low_steps * scale), high = broadcast(high_steps * scale);
    quantize_blocks<Type, Bits>(x, count, range, codes,
                                [&](F32x16 v) { return rounded(divide(min(max(v, low), high), scales, reciprocal)); });
  } else {
    const F32x16 low = broadcast(low_steps), high = broadcast(high_steps);
    quantize_blocks<Type, Bits>(x, count, range, codes,
                                [&](F32x16 v) { return rounded(min(max(div(v, scales), low), high)); });
  }
}

// Four units in the last place of a reciprocal.
constexpr std::int32_t kReciprocalMargin = 4;

// Elements between two looks for ties.
constexpr std::size_t kCheckElements = 128;

// What sixteen groups need, one lane each, before it is spread group by group.
struct GroupConstants {
  float below[kLanes], above[kLanes];
  std::int32_t origin[kLanes];
  bool have_reciprocals;

  LOWBIT_INLINE GroupConstants(F32x16 scales, I32x16 zero_points, std::int32_t bias) {
    const I32x16 reciprocals = as_bits(div(broadcast(1.0F), scales));
    store_lanes(below, as_floats(sub(reciprocals, broadcast(kReciprocalMargin))));
    store_lanes(above, as_floats(add(reciprocals, broadcast(kReciprocalMargin))));
    store_lanes(origin, add(zero_points, broadcast(bias - kRounderBits)));
    have_reciprocals = horizontal_min(scales) >= kLeastReciprocal && horizontal_max(scales) <= kGreatestReciprocal;
  }
};

// One unit of a group within range, right unless one element lies next to a tie: then a bit of `differing` gets set.
template <FloatType Type, int Bits, bool Stream>
LOWBIT_INLINE void quantize_unit(const Storage<Type>* x, F32x16 below, F32x16 above, const CodeRange& range,
                                 I32x16& differing, std::uint8_t* codes) {
  const F32x16 rounder = broadcast(kRounder);
  // The next pass over the range of new elements finds them near: memory works while the codes are computed.
  prefetch(x + kBatchElements);
  if constexpr (Type == FloatType::kFloat32) prefetch(x + kBatchElements + kLanes);
  const F32x16 a = in_register(load<Type>(x)), b = in_register(load<Type>(x + kLanes));
  const I32x16 a_low = as_bits(fused(a, below, rounder)), b_low = as_bits(fused(b, below, rounder));
  differing = or_difference(differing, a_low, as_bits(fused(a, above, rounder)));
  differing = or_difference(differing, b_low, as_bits(fused(b, above, rounder)));
  store_codes<Bits, Stream>(codes, codes_from(a_low, b_low, range), range.flip);
}

// Groups of Units units (0: of any number of units), within range.
template <FloatType Type, int Bits, int Units, bool Stream>
void quantize_groups(const Storage<Type>* x, std::size_t groups, std::size_t group_size, const float* scales,
                     const std::int32_t* zero_points, CodeType code, int lowest, int highest, std::uint8_t* codes) {
  constexpr std::size_t kGroupsAtOnce = Units != 0 ? kCheckElements / (Units * kUnit) : 1;
  CodeRange range = code_range<Bits>(code, 0, lowest, highest);
  const std::size_t size = Units != 0 ? Units * kUnit : group_size;
  for (std::size_t first = 0; first < groups; first += kLanes) {
    const std::size_t last = group_end(first, kLanes, groups);
    const GroupConstants constants(
        load_scales(scales + first, last - first),
        zero_points != nullptr ? load_up_to_lanes(zero_points + first, last - first) : broadcast(0),
        bias_of<Bits>(code));
    for (std::size_t g = first; g < last; g += kGroupsAtOnce) {
      const std::size_t g_end = group_end(g, kGroupsAtOnce, last);
      for (std::size_t begin = 0; begin < size; begin += kCheckElements) {
        const std::size_t n = Units != 0 ? size : group_end(begin, kCheckElements, size) - begin;
        I32x16 differing = broadcast(0);
        LOWBIT_NO_UNROLL
        for (std::size_t k = g; k < g_end; k++) {
          const F32x16 below = broadcast(constants.below[k - first]), above = broadcast(constants.above[k - first]);
          range.origin = broadcast(constants.origin[k - first]);
          LOWBIT_NO_UNROLL
          for (std::size_t i = k * size + begin; i < k * size + begin + n; i += kUnit) {
            quantize_unit<Type, Bits, Stream>(x + i, below, above, range, differing, byte_of<Bits>(codes, i));
          }
        }
        if (is_zero(differing) && constants.have_reciprocals) continue;
        for (std::size_t k = g; k < g_end; k++) {
          quantize_group<Type, Bits>(x + k * size + begin, n, scales[k], zero_points != nullptr ? zero_points[k] : 0,
                                     code, lowest, highest, byte_of<Bits>(codes, k * size + begin));
        }
      }
    }
  }
}

// Groups that start on bytes, within range.
template <FloatType Type, int Bits>
void quantize_within_range(const Storage<Type>* x, std::size_t count, std::size_t group_size, const float* scales,
                           const std::int32_t* zero_points, CodeType code, int lowest, int highest, bool stream,
                           std::uint8_t* codes) {
  const std::size_t size = group_size < count ? group_size : count;
  const std::size_t whole = size % kUnit == 0 ? count / size : 0;
  with_units(size, [&](auto units) {
    if constexpr (Bits == 4 || Bits == 8) {
      if (stream && can_stream(codes)) {
        return quantize_groups<Type, Bits, units.value, true>(x, whole, size, scales, zero_points, code, lowest,
                                                              highest, codes);
      }
    }
    quantize_groups<Type, Bits, units.value, false>(x, whole, size, scales, zero_points, code, lowest, highest, codes);
  });
  for (std::size_t g = whole, begin = whole * size; begin < count; g++) {
    const std::size_t end = group_end(begin, size, count);
    quantize_group<Type, Bits>(x + begin, end - begin, scales[g], zero_points != nullptr ? zero_points[g] : 0, code,
                               lowest, highest, byte_of<Bits>(codes, begin));
    begin = end;
  }
}

// A scale for every element: per-channel along the last axis.
template <FloatType Type, int Bits>
void quantize_each(const Storage<Type>* x, std::size_t count, const float* scales, const std::int32_t* zero_points,
                   CodeType code, int lowest, int highest, std::uint8_t* codes) {
  const CodeRange range = code_range<Bits>(code, 0, lowest, highest);
  const auto lanes_at = [&](std::size_t i, std::size_t n) {
    const I32x16 zero_point = zero_points != nullptr ? load_up_to_lanes(zero_points + i, n) : broadcast(0);
    const F32x16 low = to_float(sub(broadcast(lowest), zero_point));
    const F32x16 high = to_float(sub(broadcast(highest), zero_point));
    const F32x16 scale = load_up_to<FloatType::kFloat32>(scales + i, n);
    const F32x16 steps = min(max(div(load_up_to<Type>(x + i, n), scale), low), high);
    return add(rounded(steps), zero_point);
  };
  for (std::size_t i = 0; i < count; i += kUnit) {
    const std::size_t n = group_end(i, kUnit, count) - i, first = n < kLanes ? n : kLanes;
    const I32x16 a = lanes_at(i, first), b = first < n ? lanes_at(i + first, n - first) : a;
    store_up_to_codes<Bits>(byte_of<Bits>(codes, i), codes_from(a, b, range), range.flip, n);
  }
}

template <FloatType Type, int Bits>
void quantize_ragged(const Storage<Type>* x, std::size_t count, std::size_t group_size, const float* scales,
                     const std::int32_t* zero_points, CodeType code, int lowest, int highest, std::uint8_t* codes) {
  // Unsigned codes, so that the window needs no flipping.
  const int offset = code.is_signed ? 1 << (Bits - 1) : 0;
  const std::uint64_t flip = code.is_signed ? sign_bits<Bits>() : 0;
  std::uint8_t window[kWindow] = {};
  for (std::size_t base = 0; base < count; base += kWindow) {
    const std::size_t window_end = group_end(base, kWindow, count);
    for (std::size_t begin = base; begin < window_end;) {
      const std::size_t g = begin / group_size;
      const std::size_t next = (g + 1) * group_size;
      const std::size_t end = next < window_end ? next : window_end;
      const std::int32_t zero_point = zero_points != nullptr ? zero_points[g] : 0;
      quantize_group<Type, 8>(x + begin, end - begin, scales[g], zero_point + offset, {8, false}, lowest + offset,
                              highest + offset, window + (begin - base));
      begin = end;
    }
    for (std::size_t i = base; i < window_end; i += kUnit) {
      const std::size_t n = group_end(i, kUnit, window_end) - i;
      store_up_to_codes<Bits>(byte_of<Bits>(codes, i), load_bytes(window + (i - base)), flip, n);
    }
  }
}

template <FloatType Type, int Bits>
void quantize_as(const Storage<Type>* x, std::size_t count, std::size_t group_size, const float* scales,
                 const std::int32_t* zero_points, CodeType code, int lowest, int highest, bool within_range,
                 bool stream, std::uint8_t* codes) {
  if (count == 0) return;
  if (group_size == 1 && count > 1) {
    quantize_each<Type, Bits>(x, count, scales, zero_points, code, lowest, highest, codes);
  } else if (!starts_on_bytes<Bits>(group_size, count)) {
    quantize_ragged<Type, Bits>(x, count, group_size, scales, zero_points, code, lowest, highest, codes);
  } else if (within_range) {
    quantize_within_range<Type, Bits>(x, count, group_size, scales, zero_points, code, lowest, highest, stream, codes);
  } else {
    for (std::size_t begin = 0, g = 0; begin < count; g++) {
      const std::size_t end = group_end(begin, group_size, count);
      const std::int32_t zero_point = zero_points != nullptr ? zero_points[g] : 0;
      quantize_group<Type, Bits>(x + begin, end - begin, scales[g], zero_point, code, lowest, highest,
                                 byte_of<Bits>(codes, begin));
      begin = end;
    }
  }
}

void quantize(const void* x, FloatType type, std::size_t count, std::size_t group_size, const float* scales,
              const std::int32_t* zero_points, CodeType code, int lowest, int highest, bool within_range, bool stream,
              std::uint8_t* codes) {
  with_type(type, [&](auto t) {
    with_bits(code.bits, [&](auto bits) {
      quantize_as<t.value, bits.value>(static_cast<const Storage<t.value>*>(x), count, group_size, scales, zero_points,
                                       code, lowest, highest, within_range, stream, codes);
    });
  });
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
