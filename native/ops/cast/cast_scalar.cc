// Float conversion, the specification: one element at a time through core/float_bits.h and core/small_floats.h.

#include "core/packed_codes.h"
#include "core/small_floats.h"
#include "ops/cast/cast_kernels.h"

namespace lowbit::scalar {
namespace {

template <auto Convert, typename In, typename Out>
void convert(const In* in, Out* out, std::size_t count, bool /*stream*/) {
  for (std::size_t i = 0; i < count; i++) out[i] = Convert(in[i]);
}

std::uint16_t bfloat16_of_float16(std::uint16_t value) { return bfloat16_of(float_of_float16(value)); }
std::uint16_t float16_of_bfloat16(std::uint16_t value) { return float16_of(float_of_bfloat16(value)); }

// A run of packed elements, written and read in order, the first in the low bits.
template <SmallFloatType Type>
void write_codes(const void* in, FloatType from, std::uint8_t* out, bool saturate, std::size_t count) {
  std::uint32_t pending = 0;
  std::size_t held = 0;  // bits
  for (std::size_t i = 0; i < count; i++) {
    pending |= static_cast<std::uint32_t>(small_float_of<Type>(element(in, from, i), saturate)) << held;
    for (held += bit_width(Type); held >= 8; held -= 8, pending >>= 8) *out++ = static_cast<std::uint8_t>(pending);
  }
  if (held != 0) *out = static_cast<std::uint8_t>(pending);
}

template <SmallFloatType Type>
void read_codes(const std::uint8_t* in, void* out, FloatType to, std::size_t count) {
  std::uint32_t pending = 0;
  std::size_t held = 0;
  for (std::size_t i = 0; i < count; i++) {
    if (held < bit_width(Type)) {
      pending |= static_cast<std::uint32_t>(*in++) << held;
      held += 8;
    }
    set_element(out, to, i, float_of_small<Type>(static_cast<std::uint8_t>(pending)));
    pending >>= bit_width(Type);
    held -= bit_width(Type);
  }
}

void to_small(const void* in, FloatType from, std::uint8_t* out, SmallFloatType to, bool saturate, std::size_t count,
              bool /*stream*/) {
  with_small_type(to, [&](auto type) { write_codes<decltype(type)::value>(in, from, out, saturate, count); });
}

void from_small(const std::uint8_t* in, SmallFloatType from, void* out, FloatType to, std::size_t count,
                bool /*stream*/) {
  with_small_type(from, [&](auto type) { read_codes<decltype(type)::value>(in, out, to, count); });
}

}  // namespace

const CastKernels kCast = {
    convert<float16_of>,
    convert<bfloat16_of>,
    convert<float_of_float16>,
    convert<float_of_bfloat16>,
    convert<bfloat16_of_float16>,
    convert<float16_of_bfloat16>,
    to_small,
    from_small,
};

}  // namespace lowbit::scalar
