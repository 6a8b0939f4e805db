// Affine quantization, sixteen lanes at a time. Included by one file per instruction set, after its vector vocabulary
// (core/simd/<isa>.h), which names the namespace.
//
// Quantizing needs x / scale exactly as IEEE division rounds it, but a vector division costs as much as ten
// multiplications. With r = 1 / scale correctly rounded, q₀ = x·r is off by less than two units in the last place; each
// step e = x − q·scale (exact in a fused multiply-add), q ← q + e·r halves no more than the last error: after the first
// step q is within one unit, and by Markstein's theorem the second then gives the correctly rounded quotient (P.
// Markstein, "Computation of elementary functions on the IBM RISC System/6000 processor", IBM J. Res. Dev. 34, 1990,
// theorem 7). That needs r and every e to be free of underflow and overflow, so it is used for scales in [2^-100,
// 2^100]; others divide. Clamping comes first there: bounds·scale are finite, and clamping x at them gives the same
// codes.

#include "ops/affine/affine_kernels.h"
#include "ops/affine/affine_math.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::int32_t kInfinityBits = 0x7f800000;

std::size_t group_end(std::size_t begin, std::size_t group_size, std::size_t count) {
  return group_size < count - begin ? begin + group_size : count;
}

// Calls body(std::integral_constant<FloatType, …>) for a run-time type.
template <typename Body>
LOWBIT_INLINE auto with_type(FloatType type, Body body) {
  switch (type) {
    case FloatType::kFloat16:
      return body(std::integral_constant<FloatType, FloatType::kFloat16>{});
    case FloatType::kBfloat16:
      return body(std::integral_constant<FloatType, FloatType::kBfloat16>{});
    default:
      return body(std::integral_constant<FloatType, FloatType::kFloat32>{});
  }
}

template <typename Body>
LOWBIT_INLINE void with_bits(int bits, Body body) {
  switch (bits) {
    case 2:
      return body(std::integral_constant<int, 2>{});
    case 3:
      return body(std::integral_constant<int, 3>{});
    case 4:
      return body(std::integral_constant<int, 4>{});
    default:
      return body(std::integral_constant<int, 8>{});
  }
}

// --- range ---------------------------------------------------------------------------------------------------------

// Absolute values are compared as integers: their order is that of the floats, and NaN and infinity come out on top.
template <FloatType Type>
bool absmax_of(const Storage<Type>* x, std::size_t count, std::size_t group_size, float* absmax) {
  I32x16 seen = broadcast(0);
  if (group_size == 1) {
    for (std::size_t i = 0; i < count; i += kLanes) {
      const std::size_t n = count - i < kLanes ? count - i : kLanes;
      const I32x16 magnitude = magnitude_bits(load_up_to<Type>(x + i, n));
      seen = max(seen, magnitude);
      store_up_to<FloatType::kFloat32>(absmax + i, as_floats(magnitude), n);
    }
    return horizontal_max(seen) < kInfinityBits;
  }
  for (std::size_t begin = 0, g = 0; begin < count; g++) {
    const std::size_t end = group_end(begin, group_size, count);
    I32x16 largest = broadcast(0);
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) largest = max(largest, magnitude_bits(load<Type>(x + i)));
    if (i < end) largest = max(largest, magnitude_bits(load_first<Type>(x + i, end - i)));
    absmax[g] = float_of(static_cast<std::uint32_t>(horizontal_max(largest)));
    seen = max(seen, largest);
    begin = end;
  }
  return horizontal_max(seen) < kInfinityBits;
}

template <FloatType Type>
bool minmax_of(const Storage<Type>* x, std::size_t count, std::size_t group_size, float* min_out, float* max_out) {
  I32x16 seen = broadcast(0);
  if (group_size == 1) {
    for (std::size_t i = 0; i < count; i += kLanes) {
      const std::size_t n = count - i < kLanes ? count - i : kLanes;
      const F32x16 v = load_up_to<Type>(x + i, n);
      seen = max(seen, magnitude_bits(v));
      store_up_to<FloatType::kFloat32>(min_out + i, min(v, broadcast(0.0F)), n);
      store_up_to<FloatType::kFloat32>(max_out + i, max(v, broadcast(0.0F)), n);
    }
    return horizontal_max(seen) < kInfinityBits;
  }
  for (std::size_t begin = 0, g = 0; begin < count; g++) {
    const std::size_t end = group_end(begin, group_size, count);
    F32x16 least = broadcast(0.0F), greatest = broadcast(0.0F);
    const auto take = [&](F32x16 v) {
      least = min(v, least);
      greatest = max(v, greatest);
      seen = max(seen, magnitude_bits(v));
    };
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) take(load<Type>(x + i));
    if (i < end) take(load_first<Type>(x + i, end - i));
    min_out[g] = horizontal_min(least);
    max_out[g] = horizontal_max(greatest);
    begin = end;
  }
  return horizontal_max(seen) < kInfinityBits;
}

bool absmax(const void* x, FloatType type, std::size_t count, std::size_t group_size, float* absmax) {
  return with_type(type, [&](auto t) {
    return absmax_of<t.value>(static_cast<const Storage<t.value>*>(x), count, group_size, absmax);
  });
}

bool minmax(const void* x, FloatType type, std::size_t count, std::size_t group_size, float* min, float* max) {
  return with_type(type, [&](auto t) {
    return minmax_of<t.value>(static_cast<const Storage<t.value>*>(x), count, group_size, min, max);
  });
}

// --- parameters ----------------------------------------------------------------------------------------------------

template <FloatType Type>
LOWBIT_INLINE F32x16 round_lanes_to(F32x16 v) {
  if constexpr (Type == FloatType::kFloat32) {
    return v;
  } else {
    Storage<Type> rounded[kLanes];
    store<Type, false>(rounded, v);
    return load<Type>(rounded);
  }
}

template <FloatType ScaleType>
LOWBIT_INLINE F32x16 scale_lanes(F32x16 range, F32x16 levels) {
  const F32x16 scale = max(round_lanes_to<ScaleType>(div(range, levels)), broadcast(smallest_of(ScaleType)));
  return select_zero(range, broadcast(1.0F), scale);
}

template <FloatType ScaleType>
bool symmetric_scales_in(const float* absmax, std::size_t count, int steps, float* scales) {
  const F32x16 levels = broadcast(static_cast<float>(steps));
  I32x16 seen = broadcast(0);
  for (std::size_t g = 0; g < count; g += kLanes) {
    const std::size_t n = count - g < kLanes ? count - g : kLanes;
    const F32x16 range = load_up_to<FloatType::kFloat32>(absmax + g, n);
    const F32x16 scale = scale_lanes<ScaleType>(range, levels);
    seen = max(seen, magnitude_bits(scale));
    store_up_to<FloatType::kFloat32>(scales + g, scale, n);
  }
  return horizontal_max(seen) < kInfinityBits;
}

bool symmetric_scales(const float* absmax, std::size_t count, int steps, FloatType scale_type, float* scales) {
  return with_type(scale_type, [&](auto t) { return symmetric_scales_in<t.value>(absmax, count, steps, scales); });
}

template <FloatType ScaleType>
bool asymmetric_parameters_in(const float* min_in, const float* max_in, std::size_t count, int lowest, int highest,
                              float* scales, std::int32_t* zero_points) {
  const F32x16 low = broadcast(static_cast<float>(lowest)), high = broadcast(static_cast<float>(highest));
  const F32x16 levels = broadcast(static_cast<float>(highest - lowest));
  I32x16 seen = broadcast(0);
  for (std::size_t g = 0; g < count; g += kLanes) {
    const std::size_t n = count - g < kLanes ? count - g : kLanes;
    const F32x16 least = load_up_to<FloatType::kFloat32>(min_in + g, n);
    const F32x16 range = sub(load_up_to<FloatType::kFloat32>(max_in + g, n), least);
    F32x16 scale = scale_lanes<ScaleType>(range, levels);
    if (horizontal_max(magnitude_bits(range)) >= kInfinityBits) {  // rare: see asymmetric_scale()
      float each[kLanes];
      store_lanes(each, scale);
      for (std::size_t i = 0; i < n; i++) {
        each[i] = asymmetric_scale(min_in[g + i], max_in[g + i], lowest, highest, ScaleType);
      }
      scale = load<FloatType::kFloat32>(each);
    }
    const F32x16 position = min(max(sub(low, div(least, scale)), low), high);
    seen = max(seen, magnitude_bits(scale));
    store_up_to<FloatType::kFloat32>(scales + g, scale, n);
    store_up_to_lanes(zero_points + g, round_to_int(position), n);
  }
  return horizontal_max(seen) < kInfinityBits;
}

bool asymmetric_parameters(const float* min, const float* max, std::size_t count, int lowest, int highest,
                           FloatType scale_type, float* scales, std::int32_t* zero_points) {
  return with_type(scale_type, [&](auto t) {
    return asymmetric_parameters_in<t.value>(min, max, count, lowest, highest, scales, zero_points);
  });
}

// --- codes ---------------------------------------------------------------------------------------------------------

// What every element of a group shares, spread over the lanes.
struct Group {
  F32x16 scale, reciprocal;
  F32x16 low, high;              // the bounds: of x if `by_reciprocal`, else of x / scale
  F32x16 low_steps, high_steps;  // lowest − zero point, highest − zero point
  bool by_reciprocal;
};

LOWBIT_INLINE Group group_of(float scale, std::int32_t zero_point, int lowest, int highest) {
  const float low_steps = static_cast<float>(lowest - zero_point);
  const float high_steps = static_cast<float>(highest - zero_point);
  Group group;
  group.by_reciprocal = scale >= 0x1p-100F && scale <= 0x1p100F;
  group.scale = broadcast(scale);
  group.reciprocal = broadcast(1.0F / scale);
  group.low = broadcast(low_steps * scale);
  group.high = broadcast(high_steps * scale);
  group.low_steps = broadcast(low_steps);
  group.high_steps = broadcast(high_steps);
  return group;
}

// round(x / scale), clamped: the code less the zero point.
template <bool ByReciprocal>
LOWBIT_INLINE I32x16 steps_of(F32x16 x, const Group& group) {
  if constexpr (ByReciprocal) {
    x = min(max(x, group.low), group.high);
    F32x16 quotient = mul(x, group.reciprocal);
    quotient = fused(fused_negative(quotient, group.scale, x), group.reciprocal, quotient);
    quotient = fused(fused_negative(quotient, group.scale, x), group.reciprocal, quotient);
    return round_to_int(quotient);
  } else {
    return round_to_int(min(max(div(x, group.scale), group.low_steps), group.high_steps));
  }
}

template <bool ByReciprocal, FloatType Type, int Bits>
LOWBIT_INLINE void quantize_blocks(const Storage<Type>* x, std::size_t count, const Group& group, I32x16 zero_point,
                                   std::uint8_t* codes) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store_codes<Bits>(codes + i / 8 * Bits, add(steps_of<ByReciprocal>(load<Type>(x + i), group), zero_point));
  }
  if (i < count) {
    const F32x16 rest = load_first<Type>(x + i, count - i);
    store_first_codes<Bits>(codes + i / 8 * Bits, add(steps_of<ByReciprocal>(rest, group), zero_point), count - i);
  }
}

// One group that starts on a byte.
template <FloatType Type, int Bits>
LOWBIT_INLINE void quantize_group(const Storage<Type>* x, std::size_t count, float scale, std::int32_t zero_point,
                                  int lowest, int highest, std::uint8_t* codes) {
  const Group group = group_of(scale, zero_point, lowest, highest);
  if (group.by_reciprocal) {
    quantize_blocks<true, Type, Bits>(x, count, group, broadcast(zero_point), codes);
  } else {
    quantize_blocks<false, Type, Bits>(x, count, group, broadcast(zero_point), codes);
  }
}

// A scale for every element: per-channel along the last axis.
template <FloatType Type, int Bits>
void quantize_each(const Storage<Type>* x, std::size_t count, const float* scales, const std::int32_t* zero_points,
                   int lowest, int highest, std::uint8_t* codes) {
  for (std::size_t i = 0; i < count; i += kLanes) {
    const std::size_t n = count - i < kLanes ? count - i : kLanes;
    const I32x16 zero_point = zero_points != nullptr ? load_up_to_lanes(zero_points + i, n) : broadcast(0);
    const F32x16 low = to_float(sub(broadcast(lowest), zero_point));
    const F32x16 high = to_float(sub(broadcast(highest), zero_point));
    const F32x16 scale = load_up_to<FloatType::kFloat32>(scales + i, n);
    const F32x16 steps = min(max(div(load_up_to<Type>(x + i, n), scale), low), high);
    const I32x16 code = add(round_to_int(steps), zero_point);
    store_up_to_codes<Bits>(codes + i / 8 * Bits, code, n);
  }
}

// Groups that do not start on bytes go through a window of one code per byte, which is then packed.
constexpr std::size_t kWindow = 512;

template <FloatType Type, int Bits>
void quantize_ragged(const Storage<Type>* x, std::size_t count, std::size_t group_size, const float* scales,
                     const std::int32_t* zero_points, int lowest, int highest, std::uint8_t* codes) {
  std::uint8_t window[kWindow];
  for (std::size_t base = 0; base < count; base += kWindow) {
    const std::size_t window_end = group_end(base, kWindow, count);
    for (std::size_t begin = base; begin < window_end;) {
      const std::size_t g = begin / group_size;
      const std::size_t next = (g + 1) * group_size;
      const std::size_t end = next < window_end ? next : window_end;
      const std::int32_t zero_point = zero_points != nullptr ? zero_points[g] : 0;
      quantize_group<Type, 8>(x + begin, end - begin, scales[g], zero_point, lowest, highest, window + (begin - base));
      begin = end;
    }
    for (std::size_t i = base; i < window_end; i += kLanes) {
      const std::size_t n = window_end - i < kLanes ? window_end - i : kLanes;
      store_up_to_codes<Bits>(codes + i / 8 * Bits, load_up_to_codes<8>(window + (i - base), n), n);
    }
  }
}

template <FloatType Type, int Bits>
void quantize_as(const Storage<Type>* x, std::size_t count, std::size_t group_size, const float* scales,
                 const std::int32_t* zero_points, int lowest, int highest, std::uint8_t* codes) {
  if (group_size == 1 && count > 1) {
    quantize_each<Type, Bits>(x, count, scales, zero_points, lowest, highest, codes);
  } else if (group_size >= count || group_size % 8 == 0) {
    for (std::size_t begin = 0, g = 0; begin < count; g++) {
      const std::size_t end = group_end(begin, group_size, count);
      const std::int32_t zero_point = zero_points != nullptr ? zero_points[g] : 0;
      quantize_group<Type, Bits>(x + begin, end - begin, scales[g], zero_point, lowest, highest,
                                 codes + begin / 8 * Bits);
      begin = end;
    }
  } else {
    quantize_ragged<Type, Bits>(x, count, group_size, scales, zero_points, lowest, highest, codes);
  }
}

void quantize(const void* x, FloatType type, std::size_t count, std::size_t group_size, const float* scales,
              const std::int32_t* zero_points, CodeType code, int lowest, int highest, std::uint8_t* codes) {
  with_type(type, [&](auto t) {
    with_bits(code.bits, [&](auto bits) {
      quantize_as<t.value, bits.value>(static_cast<const Storage<t.value>*>(x), count, group_size, scales, zero_points,
                                       lowest, highest, codes);
    });
  });
}

// --- back to floats ------------------------------------------------------------------------------------------------

// (code ^ flip) − offset is the signed step count: flip = 2^(bits−1) turns two's complement into offset binary, and
// offset = flip + zero point takes both away.
template <FloatType Out, int Bits, bool Stream>
LOWBIT_INLINE void dequantize_group(const std::uint8_t* codes, std::size_t count, I32x16 flip, I32x16 offset,
                                    F32x16 scale, Storage<Out>* out) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const I32x16 steps = sub(bit_xor(load_codes<Bits>(codes + i / 8 * Bits), flip), offset);
    store<Out, Stream>(out + i, mul(to_float(steps), scale));
  }
  if (i < count) {
    const I32x16 steps = sub(bit_xor(load_first_codes<Bits>(codes + i / 8 * Bits, count - i), flip), offset);
    store_first<Out>(out + i, mul(to_float(steps), scale), count - i);
  }
}

template <FloatType Out, int Bits>
void dequantize_each(const std::uint8_t* codes, std::size_t count, I32x16 flip, const float* scales,
                     const std::int32_t* zero_points, Storage<Out>* out) {
  for (std::size_t i = 0; i < count; i += kLanes) {
    const std::size_t n = count - i < kLanes ? count - i : kLanes;
    const I32x16 zero_point = zero_points != nullptr ? load_up_to_lanes(zero_points + i, n) : broadcast(0);
    const I32x16 lanes = load_up_to_codes<Bits>(codes + i / 8 * Bits, n);
    const I32x16 steps = sub(sub(bit_xor(lanes, flip), flip), zero_point);
    store_up_to<Out>(out + i, mul(to_float(steps), load_up_to<FloatType::kFloat32>(scales + i, n)), n);
  }
}

template <FloatType Out, int Bits>
void dequantize_ragged(const std::uint8_t* codes, std::size_t count, std::size_t group_size, std::int32_t flip,
                       const float* scales, const std::int32_t* zero_points, Storage<Out>* out) {
  std::uint8_t window[kWindow];
  for (std::size_t base = 0; base < count; base += kWindow) {
    const std::size_t window_end = group_end(base, kWindow, count);
    for (std::size_t i = base; i < window_end; i += kLanes) {
      const std::size_t n = window_end - i < kLanes ? window_end - i : kLanes;
      store_up_to_codes<8>(window + (i - base), load_up_to_codes<Bits>(codes + i / 8 * Bits, n), n);
    }
    for (std::size_t begin = base; begin < window_end;) {
      const std::size_t g = begin / group_size;
      const std::size_t next = (g + 1) * group_size;
      const std::size_t end = next < window_end ? next : window_end;
      const std::int32_t zero_point = zero_points != nullptr ? zero_points[g] : 0;
      dequantize_group<Out, 8, false>(window + (begin - base), end - begin, broadcast(flip),
                                      broadcast(flip + zero_point), broadcast(scales[g]), out + begin);
      begin = end;
    }
  }
}

template <FloatType Out, int Bits, bool Stream>
void dequantize_groups(const std::uint8_t* codes, std::size_t count, std::size_t group_size, std::int32_t flip,
                       const float* scales, const std::int32_t* zero_points, Storage<Out>* out) {
  for (std::size_t begin = 0, g = 0; begin < count; g++) {
    const std::size_t end = group_end(begin, group_size, count);
    const std::int32_t zero_point = zero_points != nullptr ? zero_points[g] : 0;
    dequantize_group<Out, Bits, Stream>(codes + begin / 8 * Bits, end - begin, broadcast(flip),
                                        broadcast(flip + zero_point), broadcast(scales[g]), out + begin);
    begin = end;
  }
  if constexpr (Stream) stream_fence();
}

template <FloatType Out, int Bits>
void dequantize_as(const std::uint8_t* codes, std::size_t count, std::size_t group_size, std::int32_t flip,
                   const float* scales, const std::int32_t* zero_points, Storage<Out>* out, bool stream) {
  if (group_size == 1 && count > 1) {
    dequantize_each<Out, Bits>(codes, count, broadcast(flip), scales, zero_points, out);
  } else if (group_size < count && group_size % 8 != 0) {
    dequantize_ragged<Out, Bits>(codes, count, group_size, flip, scales, zero_points, out);
  } else if (stream && can_stream(out) && (group_size >= count || group_size % kLanes == 0)) {
    dequantize_groups<Out, Bits, true>(codes, count, group_size, flip, scales, zero_points, out);
  } else {
    dequantize_groups<Out, Bits, false>(codes, count, group_size, flip, scales, zero_points, out);
  }
}

void dequantize(const std::uint8_t* codes, CodeType code, std::size_t count, std::size_t group_size,
                const float* scales, const std::int32_t* zero_points, FloatType out_type, void* out, bool stream) {
  const std::int32_t flip = code.is_signed ? 1 << (code.bits - 1) : 0;
  with_type(out_type, [&](auto t) {
    with_bits(code.bits, [&](auto bits) {
      dequantize_as<t.value, bits.value>(codes, count, group_size, flip, scales, zero_points,
                                         static_cast<Storage<t.value>*>(out), stream);
    });
  });
}

// --- error ---------------------------------------------------------------------------------------------------------

template <bool ByReciprocal>
double squared_error_of(const float* x, std::size_t count, const Group& group) {
  double total = 0.0;
  for (std::size_t begin = 0; begin < count;) {
    const std::size_t end = group_end(begin, kErrorBlock, count);
    F32x16 sum = broadcast(0.0F);
    const auto take = [&](F32x16 v) {
      const F32x16 error = sub(v, mul(to_float(steps_of<ByReciprocal>(v, group)), group.scale));
      sum = add(sum, mul(error, error));
    };
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) take(load<FloatType::kFloat32>(x + i));
    if (i < end) take(load_first<FloatType::kFloat32>(x + i, end - i));  // the padding is zero and costs no error
    total += pairwise_sum(add(widen_low(sum), widen_high(sum)));
    begin = end;
  }
  return total;
}

double squared_error(const float* x, std::size_t count, float scale, std::int32_t zero_point, int lowest, int highest) {
  const Group group = group_of(scale, zero_point, lowest, highest);
  return group.by_reciprocal ? squared_error_of<true>(x, count, group) : squared_error_of<false>(x, count, group);
}

}  // namespace

const AffineKernels kAffine = {absmax,   minmax,     symmetric_scales, asymmetric_parameters,
                               quantize, dequantize, squared_error};

}  // namespace lowbit::LOWBIT_ISA
