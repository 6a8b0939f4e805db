// Affine quantization, sixteen lanes at a time: ranges, and the scales and zero points that follow from them. Part of
// affine_vector.h.

#pragma once

#include "core/simd/runs.h"
#include "ops/affine/affine_kernels.h"
#include "ops/affine/affine_math.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// Groups of up to so many elements are reduced to their largest lanes side by side.
constexpr std::size_t kReducedTogether = 128;

// Absolute values are compared as integers: their order is that of the floats, and NaN and infinity come out on top.
template <FloatType Type>
LOWBIT_INLINE I32x16 largest_magnitude(const Storage<Type>* x, std::size_t count) {
  I32x16 largest = broadcast(0);
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) largest = max(largest, magnitude_bits(load<Type>(x + i)));
  if (i < count) largest = max(largest, magnitude_bits(load_first<Type>(x + i, count - i)));
  return largest;
}

// Returns the largest lanes of all, as bits.
template <FloatType Type>
I32x16 absmax_of(const Storage<Type>* x, std::size_t count, std::size_t group_size, float* absmax) {
  I32x16 seen = broadcast(0);
  if (group_size == 1) {
    for (std::size_t i = 0; i < count; i += kLanes) {
      const std::size_t n = count - i < kLanes ? count - i : kLanes;
      const I32x16 magnitudes = magnitude_bits(load_up_to<Type>(x + i, n));
      seen = max(seen, magnitudes);
      store_up_to<FloatType::kFloat32>(absmax + i, as_floats(magnitudes), n);
    }
    return seen;
  }
  const auto groups_of = [&](std::size_t size) {
    std::size_t begin = 0, g = 0;
    // Sixteen groups at a time become one lane each.
    for (; size <= kReducedTogether && count - begin >= kLanes * size; g += kLanes) {
      F32x16 largest[kLanes];
      LOWBIT_NO_UNROLL
      for (std::size_t j = 0; j < kLanes; j++, begin += size) {
        const I32x16 lanes = largest_magnitude<Type>(x + begin, size);
        seen = max(seen, lanes);
        largest[j] = as_floats(lanes);
      }
      store<FloatType::kFloat32, false>(absmax + g, maxima(largest));
    }
    LOWBIT_NO_UNROLL
    for (; begin < count; begin += size, g++) {
      const I32x16 lanes = largest_magnitude<Type>(x + begin, count - begin < size ? count - begin : size);
      seen = max(seen, lanes);
      absmax[g] = float_of(static_cast<std::uint32_t>(horizontal_max(lanes)));
    }
  };
  if (group_size == kLanes) {
    groups_of(kLanes);
  } else {
    with_units(group_size, [&](auto units) { groups_of(units.value != 0 ? units.value * kUnit : group_size); });
  }
  return seen;
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
  F32x16 poison = broadcast(0.0F);  // 0 · x is zero unless x is NaN or infinite, and NaN then
  with_units(group_size, [&](auto units) {
    const std::size_t size = units.value != 0 ? units.value * kUnit : group_size;
    LOWBIT_NO_UNROLL
    for (std::size_t begin = 0, g = 0; begin < count; begin += size, g++) {
      F32x16 least = broadcast(0.0F), greatest = broadcast(0.0F);
      const auto take = [&](F32x16 v) {
        least = min(v, least);
        greatest = max(v, greatest);
        poison = fused(v, broadcast(0.0F), poison);
      };
      const Storage<Type>* group = x + begin;
      const std::size_t n = count - begin >= size ? size : count - begin;
      std::size_t i = 0;
      LOWBIT_NO_UNROLL
      for (; i + kLanes <= n; i += kLanes) take(load<Type>(group + i));
      if (i < n) take(load_first<Type>(group + i, n - i));
      store_range(min_out + g, max_out + g, least, greatest);
    }
  });
  return horizontal_max(magnitude_bits(poison)) == 0;
}

bool absmax(const void* x, FloatType type, std::size_t count, std::size_t group_size, float* absmax) {
  return with_type(type, [&](auto t) {
    const auto* elements = static_cast<const Storage<t.value>*>(x);
    return horizontal_max(absmax_of<t.value>(elements, count, group_size, absmax)) < kInfinityBits;
  });
}

bool minmax(const void* x, FloatType type, std::size_t count, std::size_t group_size, float* min, float* max) {
  return with_type(type, [&](auto t) {
    return minmax_of<t.value>(static_cast<const Storage<t.value>*>(x), count, group_size, min, max);
  });
}

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

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
