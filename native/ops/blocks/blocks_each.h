#pragma once

// GGUF blocks: loops over blocks for functions of one block.

#include "ops/blocks/blocks_math.h"

namespace lowbit {
namespace {

template <BlockType Type, typename Body>
LOWBIT_INLINE void quantize_each(const float* in, std::size_t blocks, std::uint8_t* out, const Body& body) {
  constexpr BlockFormat kFormat = format_of(Type);
  for (std::size_t b = 0; b < blocks; b++) body(in + b * kFormat.length, out + b * kFormat.bytes);
}

template <BlockType Type, typename Body>
LOWBIT_INLINE void quantize_each(const float* in, std::size_t blocks, const float* importance, std::uint8_t* out,
                                 const Body& body) {
  constexpr BlockFormat kFormat = format_of(Type);
  for (std::size_t b = 0; b < blocks; b++) {
    body(in + b * kFormat.length, importance + b * kFormat.length, out + b * kFormat.bytes);
  }
}

template <BlockType Type, typename Body>
LOWBIT_INLINE void dequantize_each(const std::uint8_t* in, std::size_t blocks, float* out, const Body& body) {
  constexpr BlockFormat kFormat = format_of(Type);
  for (std::size_t b = 0; b < blocks; b++) body(in + b * kFormat.bytes, out + b * kFormat.length);
}

}  // namespace
}  // namespace lowbit
