// Fake quantization, sixteen lanes at a time. Included by one file per instruction set, after its vector vocabulary
// (core/simd/<isa>.h), which names the namespace.

#include <type_traits>

#include "ops/fake_quantize/fake_quantize_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr FloatType kFloat = FloatType::kFloat32;

// Calls body(first element, how many) for every sixteen elements, and for what is left. The count is a constant but at
// the end.
template <typename Body>
LOWBIT_INLINE void for_each_sixteen(std::size_t count, const Body& body) {
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) body(i, std::integral_constant<std::size_t, kLanes>{});
  if (i < count) body(i, count - i);
}

// Sixteen lanes from memory, or fewer and zeros.
template <typename Count>
LOWBIT_INLINE F32x16 read(const float* in, Count n) {
  if constexpr (std::is_same_v<Count, std::size_t>) {
    return load_first<kFloat>(in, n);
  } else {
    return load<kFloat>(in);
  }
}

template <bool Stream, typename Count>
LOWBIT_INLINE void write(float* out, F32x16 v, Count n) {
  if constexpr (std::is_same_v<Count, std::size_t>) {
    store_first<kFloat>(out, v, n);
  } else {
    store<kFloat, Stream>(out, v);
  }
}

template <typename Count>
LOWBIT_INLINE void write_mask(std::uint8_t* out, Mask16 inside, Count n) {
  const I32x16 bytes = select(inside, broadcast(1), broadcast(0));
  if constexpr (std::is_same_v<Count, std::size_t>) {
    std::uint8_t padded[kLanes];
    store_low_bytes(padded, bytes);
    std::memcpy(out, padded, n);
  } else {
    store_low_bytes(out, bytes);
  }
}

// Calls body(whether to stream, whether each element has parameters of its own) with both as constants.
template <typename Body>
LOWBIT_INLINE void with_constants(bool stream, bool each, const Body& body) {
  if (stream && !each) {
    body(std::true_type{}, std::false_type{});
    stream_fence();
  } else if (stream) {
    body(std::true_type{}, std::true_type{});
    stream_fence();
  } else if (!each) {
    body(std::false_type{}, std::false_type{});
  } else {
    body(std::false_type{}, std::true_type{});
  }
}

// --- integers ------------------------------------------------------------------------------------------------------

struct Parameters {
  F32x16 inverse, scale, shift, low, high;
};

LOWBIT_INLINE Parameters same_for_all(const QuantizerSteps& q) {
  return {broadcast(*q.inverse), broadcast(*q.scale), broadcast(*q.shift), broadcast(*q.low), broadcast(*q.high)};
}

template <typename Count>
LOWBIT_INLINE Parameters of_each(const QuantizerSteps& q, std::size_t i, Count n) {
  return {read(q.inverse + i, n), read(q.scale + i, n), read(q.shift + i, n), read(q.low + i, n), read(q.high + i, n)};
}

struct Steps {
  F32x16 steps;
  Mask16 inside;
};

template <Rounding Rule>
LOWBIT_INLINE Steps steps_of(F32x16 position, const Parameters& q) {
  const F32x16 one = broadcast(1.0F), half = broadcast(0.5F);
  const F32x16 near = min(max(position, sub(q.low, one)), add(q.high, one));
  F32x16 rounded;
  if constexpr (Rule == Rounding::kHalfEven) {
    // Within 2^22, so that the last bit of this sum is worth one.
    rounded = sub(add(near, broadcast(0x1.8p23F)), broadcast(0x1.8p23F));
  } else {
    const F32x16 whole = to_float(truncate_to_int(near)), rest = sub(near, whole);
    const F32x16 down = select(less(broadcast(-0.5F), rest), whole, sub(whole, one));
    rounded = select(less(rest, half), down, add(whole, one));
  }
  // What is rounded to an integer is inside exactly if it lies within half a step more.
  const Mask16 inside = both(less(sub(q.low, half), rounded), less(rounded, add(q.high, half)));
  return {sub(min(max(rounded, q.low), q.high), q.shift), inside};
}

template <Rounding Rule>
void integers_by(const float* x, std::size_t count, const QuantizerSteps& q, bool stream, float* out,
                 std::uint8_t* mask) {
  with_constants(stream && can_stream(out), q.each, [&](auto streams, auto each) {
    const Parameters all = same_for_all(q);
    for_each_sixteen(count, [&](std::size_t i, auto n) {
      Parameters p = all;
      if constexpr (each.value) p = of_each(q, i, n);
      const Steps s = steps_of<Rule>(add(mul(read(x + i, n), p.inverse), p.shift), p);
      write<streams.value>(out + i, mul(s.steps, p.scale), n);
      write_mask(mask + i, s.inside, n);
    });
  });
}

void integers(const float* x, std::size_t count, const QuantizerSteps& steps, Rounding rounding, bool stream,
              float* out, std::uint8_t* mask) {
  if (count == 0) return;
  if (rounding == Rounding::kHalfEven) {
    integers_by<Rounding::kHalfEven>(x, count, steps, stream, out, mask);
  } else {
    integers_by<Rounding::kHalfAway>(x, count, steps, stream, out, mask);
  }
}

void straight_through(const float* dy, const std::uint8_t* mask, std::size_t count, bool stream, float* dx) {
  with_constants(stream && can_stream(dx), false, [&](auto streams, auto) {
    for_each_sixteen(count, [&](std::size_t i, auto n) {
      I32x16 bytes;
      if constexpr (std::is_same_v<decltype(n), std::size_t>) {
        bytes = load_first_codes<8>(mask + i, n);
      } else {
        bytes = load_codes<8>(mask + i);
      }
      write<streams.value>(dx + i, mul(read(dy + i, n), to_float(min(bytes, broadcast(1)))), n);
    });
  });
}

void gradients(const float* dy_in, const float* x_in, std::size_t count, const QuantizerSteps& q, bool stream,
               float* dx, double* scale_sums, double* zero_point_sums) {
  if (count == 0) return;
  with_constants(stream && can_stream(dx), q.each, [&](auto streams, auto each) {
    const Parameters all = same_for_all(q);
    F64x8 scale_sum = broadcast(0.0), zero_point_sum = broadcast(0.0);
    for_each_sixteen(count, [&](std::size_t i, auto n) {
      Parameters p = all;
      if constexpr (each.value) p = of_each(q, i, n);
      const F32x16 x = read(x_in + i, n), dy = read(dy_in + i, n);
      const Steps s = steps_of<Rounding::kHalfEven>(fused(x, p.inverse, p.shift), p);
      write<streams.value>(dx + i, mul(dy, select(s.inside, broadcast(1.0F), broadcast(0.0F))), n);
      // Both factors with the other sign.
      const F32x16 inner = mul(fused_negative(s.steps, p.scale, x), sub(broadcast(0.0F), p.inverse));
      const F32x16 slope = select(s.inside, inner, s.steps);
      const F32x16 clipped = select(s.inside, broadcast(0.0F), dy);
      // The products are exact: the same bits as multiply, then add. Past the end dy is zero.
      if constexpr (each.value && !std::is_same_v<decltype(n), std::size_t>) {
        double *const scale = scale_sums + i, *const zero_point = zero_point_sums + i;
        store_lanes(scale, fused(widen_low(dy), widen_low(slope), load_lanes(scale)));
        store_lanes(scale + 8, fused(widen_high(dy), widen_high(slope), load_lanes(scale + 8)));
        store_lanes(zero_point, add(load_lanes(zero_point), widen_low(clipped)));
        store_lanes(zero_point + 8, add(load_lanes(zero_point + 8), widen_high(clipped)));
      } else if constexpr (each.value) {
        float dys[kLanes], slopes[kLanes], clips[kLanes];
        store_lanes(dys, dy);
        store_lanes(slopes, slope);
        store_lanes(clips, clipped);
        for (std::size_t j = 0; j < n; j++) {
          scale_sums[i + j] += static_cast<double>(dys[j]) * static_cast<double>(slopes[j]);
          zero_point_sums[i + j] += static_cast<double>(clips[j]);
        }
      } else {
        scale_sum = fused(widen_low(dy), widen_low(slope), scale_sum);
        scale_sum = fused(widen_high(dy), widen_high(slope), scale_sum);
        zero_point_sum = add(add(zero_point_sum, widen_low(clipped)), widen_high(clipped));
      }
    });
    if constexpr (!each.value) {
      *scale_sums += pairwise_sum(scale_sum);
      *zero_point_sums += pairwise_sum(zero_point_sum);
    }
  });
}

// --- element formats -----------------------------------------------------------------------------------------------

// Rounds to an element format by value. Let 2^e be the power of two at or below |x|, or the smallest normal number if
// that is greater, and C = 2^(e + 23 − M) for a mantissa of M bits: the last bit of |x| + C is worth 2^(e − M), so that
// the addition rounds, and the subtraction of C leaves the result.
class ToElement {
 public:
  LOWBIT_INLINE explicit ToElement(const ElementFormat& f)
      : largest_(broadcast(f.largest)),
        past_(broadcast(power_of_two(f.highest_exponent + 1))),
        lowest_(broadcast((f.lowest_exponent + 127) << 23)),
        raise_(broadcast((23 - f.mantissa_bits) << 23)) {}

  struct Rounded {
    F32x16 value;
    Mask16 inside;
  };
  LOWBIT_INLINE Rounded operator()(F32x16 x) const {
    const I32x16 sign_bit = broadcast(INT32_MIN);
    const F32x16 magnitude = min(as_floats(magnitude_bits(x)), past_);  // a NaN becomes what is past the largest
    const I32x16 exponent = bit_and(max(as_bits(magnitude), lowest_), broadcast(0x7f800000));
    const F32x16 raised = as_floats(add(exponent, raise_));
    const F32x16 rounded = sub(add(magnitude, raised), raised);
    const F32x16 clamped = min(rounded, largest_);
    // Positive floats order as their bits do.
    const Mask16 inside = less(as_bits(rounded), add(as_bits(largest_), broadcast(1)));
    return {as_floats(bit_select(sign_bit, as_bits(x), as_bits(clamped))), inside};
  }

 private:
  F32x16 largest_, past_;
  I32x16 lowest_, raise_;
};

void scaled(const float* x_in, std::size_t count, ElementType type, const float* scales, bool each_scale, bool stream,
            float* out, std::uint8_t* mask) {
  if (count == 0) return;
  const ToElement round(element_format(type));
  with_constants(stream && can_stream(out), each_scale, [&](auto streams, auto each) {
    const F32x16 all = broadcast(*scales);
    for_each_sixteen(count, [&](std::size_t i, auto n) {
      F32x16 scale = all;
      if constexpr (each.value) scale = read(scales + i, n);
      const F32x16 x = read(x_in + i, n);
      const auto rounded = round(div(x, scale));
      const Mask16 is_nan = less(broadcast(0x7f800000), magnitude_bits(x));
      write<streams.value>(out + i, select(is_nan, x, mul(rounded.value, scale)), n);
      write_mask(mask + i, rounded.inside, n);
    });
  });
}

// One block of at most 32 elements. Dividing by a power of two is exact, and so is multiplying by it.
template <bool Stream, typename Count>
LOWBIT_INLINE void block_of(const float* x, ElementFormat format, const ToElement& round, const BlockScale& scale,
                            float* out, std::uint8_t* mask, Count n) {
  constexpr bool kWhole = !std::is_same_v<Count, std::size_t>;
  I32x16 largest = broadcast(0);
  const auto each = [&](const auto& body) {
    if constexpr (kWhole) {
      for (std::size_t i = 0; i < n; i += kLanes) body(i, std::integral_constant<std::size_t, kLanes>{});
    } else {
      for (std::size_t i = 0; i < n; i += kLanes) body(i, n - i < kLanes ? n - i : kLanes);
    }
  };
  each([&](std::size_t i, auto m) { largest = max(largest, magnitude_bits(read(x + i, m))); });
  const std::int32_t absmax = horizontal_max(largest);
  if (absmax >= 0x7f800000) {
    for (std::size_t i = 0; i < n; i++) {
      out[i] = float_of(kNan32);
      mask[i] = 0;
    }
    return;
  }
  const float block = block_scale(scale, format, float_of(static_cast<std::uint32_t>(absmax)));
  // The reciprocal of 2^(e − 127) is 2^(127 − e), where e is the exponent's bits: 0 for 2^-127 as well.
  const F32x16 up = broadcast(block), down = broadcast(power_of_two(127 - static_cast<int>(bits_of(block) >> 23)));
  each([&](std::size_t i, auto m) {
    const F32x16 v = read(x + i, m);
    const auto rounded = round(scale.power_of_two ? mul(v, down) : div(v, up));
    write<Stream>(out + i, mul(rounded.value, up), m);
    write_mask(mask + i, rounded.inside, m);
  });
}

template <bool Stream, std::size_t Length>
LOWBIT_INLINE void blocks_of(const float* x, std::size_t count, ElementFormat format, const BlockScale& scale,
                             float* out, std::uint8_t* mask) {
  const ToElement round(format);
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + Length <= count; i += Length) {
    block_of<Stream>(x + i, format, round, scale, out + i, mask + i, std::integral_constant<std::size_t, Length>{});
  }
  if (i < count) block_of<false>(x + i, format, round, scale, out + i, mask + i, count - i);
  if constexpr (Stream) stream_fence();
}

void blocks(const float* x, std::size_t count, std::size_t length, ElementType type, const BlockScale& scale,
            bool stream, float* out, std::uint8_t* mask) {
  const ElementFormat format = element_format(type);
  const bool streams = stream && can_stream(out);
  if (length == 16) {
    streams ? blocks_of<true, 16>(x, count, format, scale, out, mask)
            : blocks_of<false, 16>(x, count, format, scale, out, mask);
  } else {
    streams ? blocks_of<true, 32>(x, count, format, scale, out, mask)
            : blocks_of<false, 32>(x, count, format, scale, out, mask);
  }
}

}  // namespace

const FakeQuantizeKernels kFakeQuantize = {integers, straight_through, gradients, scaled, blocks};

}  // namespace lowbit::LOWBIT_ISA
