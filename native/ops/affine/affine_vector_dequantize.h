// Affine quantization, sixteen lanes at a time: codes to floats. Part of affine_vector.h.

#pragma once

#include "core/simd/runs.h"
#include "ops/affine/affine_kernels.h"
#include "ops/affine/affine_math.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// Codes become floats without a conversion: or-ed into the bits of 2^23, a code is the float 2^23 + code. Flipping the
// top bit of a code on the way (xor) turns two's complement into offset binary, which 2^(bits−1) takes back, together
// with the zero point: one xor, one exact subtraction.
struct Steps {
  I32x16 bits;    // of 2^23, with the code's sign bit
  F32x16 offset;  // 2^23 + the code that stands for zero

  LOWBIT_INLINE F32x16 operator()(I32x16 codes) const { return sub(as_floats(bit_xor(codes, bits)), offset); }
};

constexpr std::int32_t kTwo23Bits = 0x4b000000;
constexpr float kTwo23 = 0x1p23F;

LOWBIT_INLINE Steps steps_from(std::int32_t flip, std::int32_t zero_point) {
  return {broadcast(kTwo23Bits | flip), broadcast(kTwo23 + static_cast<float>(flip + zero_point))};
}

template <FloatType Out, int Bits, bool Stream>
LOWBIT_INLINE void dequantize_group(const std::uint8_t* codes, std::size_t count, const Steps& steps, F32x16 scale,
                                    Storage<Out>* out) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store<Out, Stream>(out + i, mul(steps(load_codes<Bits>(codes + i * Bits / 8)), scale));
  }
  if (i < count) {
    const I32x16 rest = load_first_codes<Bits>(codes + i * Bits / 8, count - i);
    store_first<Out>(out + i, mul(steps(rest), scale), count - i);
  }
}

template <FloatType Out, int Bits>
void dequantize_each(const std::uint8_t* codes, std::size_t count, std::int32_t flip, const float* scales,
                     const std::int32_t* zero_points, Storage<Out>* out) {
  Steps steps = steps_from(flip, 0);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const std::size_t n = count - i < kLanes ? count - i : kLanes;
    if (zero_points != nullptr) {
      const I32x16 offset = add(load_up_to_lanes(zero_points + i, n), broadcast(flip));
      steps.offset = add(to_float(offset), broadcast(kTwo23));
    }
    const I32x16 lanes = load_up_to_codes<Bits>(codes + i * Bits / 8, n);
    store_up_to<Out>(out + i, mul(steps(lanes), load_up_to<FloatType::kFloat32>(scales + i, n)), n);
  }
}

template <FloatType Out, int Bits>
void dequantize_ragged(const std::uint8_t* codes, std::size_t count, std::size_t group_size, std::int32_t flip,
                       const float* scales, const std::int32_t* zero_points, Storage<Out>* out) {
  std::uint8_t window[kWindow];
  for (std::size_t base = 0; base < count; base += kWindow) {
    const std::size_t window_end = group_end(base, kWindow, count);
    for (std::size_t i = base; i < window_end; i += kUnit) {
      const std::size_t n = group_end(i, kUnit, window_end) - i, first = n < kLanes ? n : kLanes;
      const I32x16 a = load_up_to_codes<Bits>(codes + i * Bits / 8, first);
      const I32x16 b = first < n ? load_up_to_codes<Bits>(codes + (i + first) * Bits / 8, n - first) : a;
      store_up_to_codes<8>(window + (i - base), narrow(a, b), 0, n);
    }
    for (std::size_t begin = base; begin < window_end;) {
      const std::size_t g = begin / group_size;
      const std::size_t next = (g + 1) * group_size;
      const std::size_t end = next < window_end ? next : window_end;
      const std::int32_t zero_point = zero_points != nullptr ? zero_points[g] : 0;
      dequantize_group<Out, 8, false>(window + (begin - base), end - begin, steps_from(flip, zero_point),
                                      broadcast(scales[g]), out + begin);
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
    dequantize_group<Out, Bits, Stream>(codes + begin * Bits / 8, end - begin, steps_from(flip, zero_point),
                                        broadcast(scales[g]), out + begin);
    begin = end;
  }
  if constexpr (Stream) stream_fence();
}

template <FloatType Out, int Bits>
void dequantize_as(const std::uint8_t* codes, std::size_t count, std::size_t group_size, std::int32_t flip,
                   const float* scales, const std::int32_t* zero_points, Storage<Out>* out, bool stream) {
  if (group_size == 1 && count > 1) {
    dequantize_each<Out, Bits>(codes, count, flip, scales, zero_points, out);
  } else if (!starts_on_bytes<Bits>(group_size, count)) {
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

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
