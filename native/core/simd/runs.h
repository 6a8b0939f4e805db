// Part of every vector vocabulary: runs of packed codes that are divided into groups. Included after
// core/simd/<isa>.h by the operations that need it.

#pragma once

#include "core/tiles.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::int32_t kInfinityBits = 0x7f800000;

// Codes are stored thirty-two at a time.
constexpr std::size_t kUnit = 2 * kLanes;

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

// Calls body(std::integral_constant<int, 1, 2 or 4>) for groups of 32, 64 or 128 elements, so that their loops have a
// known length, with 0 for others.
template <typename Body>
LOWBIT_INLINE void with_units(std::size_t group_size, Body body) {
  switch (group_size) {
    case 32:
      return body(std::integral_constant<int, 1>{});
    case 64:
      return body(std::integral_constant<int, 2>{});
    case 128:
      return body(std::integral_constant<int, 4>{});
    default:
      return body(std::integral_constant<int, 0>{});
  }
}

// Whether every group starts on a byte.
template <int Bits>
LOWBIT_INLINE bool starts_on_bytes(std::size_t group_size, std::size_t count) {
  return group_size >= count || group_size * Bits % 8 == 0;
}

// Up to sixteen scales; missing ones are 1.
LOWBIT_INLINE F32x16 load_scales(const float* scales, std::size_t count) {
  if (count == kLanes) return load<FloatType::kFloat32>(scales);
  float padded[kLanes];
  for (std::size_t i = 0; i < kLanes; i++) padded[i] = i < count ? scales[i] : 1.0F;
  return load<FloatType::kFloat32>(padded);
}

// Groups that do not start on bytes go through a window of one code per byte, which is then packed.
constexpr std::size_t kWindow = 512;

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
