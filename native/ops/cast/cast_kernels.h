#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace lowbit {

// Conversion between float storage types, element by element; defined by core/float_bits.h and core/small_floats.h.
//
// `stream` asks for stores that go around the caches, for outputs far larger than the last-level cache. It is a hint:
// the bytes are the same. `in` and `out` must not overlap.
struct CastKernels {
  void (*float32_to_float16)(const float* in, std::uint16_t* out, std::size_t count, bool stream);
  void (*float32_to_bfloat16)(const float* in, std::uint16_t* out, std::size_t count, bool stream);
  void (*float16_to_float32)(const std::uint16_t* in, float* out, std::size_t count, bool stream);
  void (*bfloat16_to_float32)(const std::uint16_t* in, float* out, std::size_t count, bool stream);
  void (*float16_to_bfloat16)(const std::uint16_t* in, std::uint16_t* out, std::size_t count, bool stream);
  void (*bfloat16_to_float16)(const std::uint16_t* in, std::uint16_t* out, std::size_t count, bool stream);

  // To floats of eight bits and fewer, and back. Those of 6 and 4 bits are packed (AnyFloatType::packed_bytes); unused
  // bits of the last byte become zero.
  void (*to_small)(const void* in, FloatType from, std::uint8_t* out, SmallFloatType to, bool saturate,
                   std::size_t count, bool stream);
  void (*from_small)(const std::uint8_t* in, SmallFloatType from, void* out, FloatType to, std::size_t count,
                     bool stream);
};

namespace scalar {
extern const CastKernels kCast;
}
namespace avx2 {
extern const CastKernels kCast;
}
namespace avx512 {
extern const CastKernels kCast;
}
namespace neon {
extern const CastKernels kCast;
}

}  // namespace lowbit
