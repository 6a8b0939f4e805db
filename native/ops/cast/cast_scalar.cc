// Float conversion, the specification: one element at a time through core/float_bits.h.

#include "core/float_bits.h"
#include "ops/cast/cast_kernels.h"

namespace lowbit::scalar {
namespace {

template <auto Convert, typename In, typename Out>
void convert(const In* in, Out* out, std::size_t count, bool /*stream*/) {
  for (std::size_t i = 0; i < count; i++) out[i] = Convert(in[i]);
}

std::uint16_t bfloat16_of_float16(std::uint16_t value) { return bfloat16_of(float_of_float16(value)); }
std::uint16_t float16_of_bfloat16(std::uint16_t value) { return float16_of(float_of_bfloat16(value)); }

}  // namespace

const CastKernels kCast = {
    convert<float16_of>,        convert<bfloat16_of>,         convert<float_of_float16>,
    convert<float_of_bfloat16>, convert<bfloat16_of_float16>, convert<float16_of_bfloat16>,
};

}  // namespace lowbit::scalar
