// Float conversion, sixteen lanes at a time: to and from floats of eight bits and fewer. Part of cast_vector.h.

#pragma once

#include "core/simd/small_floats.h"
#include "ops/cast/cast_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// Codes are stored thirty-two at a time.
constexpr std::size_t kUnit = 2 * kLanes;

template <FloatType From, SmallFloatType To, bool Stream>
void to_small_blocks(const Storage<From>* in, std::uint8_t* out, bool saturate, std::size_t count) {
  constexpr int kBits = bit_width(To);
  const ToSmall<To> code(saturate);
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kUnit <= count; i += kUnit) {
    const I32x16 low = code(load<From>(in + i)), high = code(load<From>(in + i + kLanes));
    store_codes<kBits, Stream>(out + i * kBits / 8, narrow(low, high), 0);
  }
  if (i < count) {
    const std::size_t rest = count - i, first = rest < kLanes ? rest : kLanes;
    const I32x16 low = code(load_up_to<From>(in + i, first));
    const I32x16 high = code(load_first<From>(in + i + first, rest - first));
    store_first_codes<kBits>(out + i * kBits / 8, narrow(low, high), 0, rest);
  }
  if constexpr (Stream) stream_fence();
}

template <SmallFloatType From, FloatType To, bool Stream>
void from_small_blocks(const std::uint8_t* in, Storage<To>* out, std::size_t count) {
  constexpr int kBits = bit_width(From);
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) {
    store<To, Stream>(out + i, from_small<From>(load_codes<kBits>(in + i * kBits / 8)));
  }
  if (i < count) {
    const I32x16 codes = load_first_codes<kBits>(in + i * kBits / 8, count - i);
    store_first<To>(out + i, from_small<From>(codes), count - i);
  }
  if constexpr (Stream) stream_fence();
}

// Calls body(std::integral_constant<FloatType, …>) for a type that is not small.
template <typename Body>
LOWBIT_INLINE void with_large_type(FloatType type, const Body& body) {
  switch (type) {
    case FloatType::kFloat16:
      return body(std::integral_constant<FloatType, FloatType::kFloat16>{});
    case FloatType::kBfloat16:
      return body(std::integral_constant<FloatType, FloatType::kBfloat16>{});
    default:
      return body(std::integral_constant<FloatType, FloatType::kFloat32>{});
  }
}

void to_small(const void* in, FloatType from, std::uint8_t* out, SmallFloatType to, bool saturate, std::size_t count,
              bool stream) {
  with_large_type(from, [&](auto large) {
    with_small_type(to, [&](auto small) {
      constexpr FloatType kFrom = decltype(large)::value;
      constexpr SmallFloatType kTo = decltype(small)::value;
      const auto* elements = static_cast<const Storage<kFrom>*>(in);
      if (stream && can_stream(out)) {
        to_small_blocks<kFrom, kTo, true>(elements, out, saturate, count);
      } else {
        to_small_blocks<kFrom, kTo, false>(elements, out, saturate, count);
      }
    });
  });
}

void from_small(const std::uint8_t* in, SmallFloatType from, void* out, FloatType to, std::size_t count, bool stream) {
  with_small_type(from, [&](auto small) {
    with_large_type(to, [&](auto large) {
      constexpr SmallFloatType kFrom = decltype(small)::value;
      constexpr FloatType kTo = decltype(large)::value;
      auto* elements = static_cast<Storage<kTo>*>(out);
      if (stream && can_stream(out)) {
        from_small_blocks<kFrom, kTo, true>(in, elements, count);
      } else {
        from_small_blocks<kFrom, kTo, false>(in, elements, count);
      }
    });
  });
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
