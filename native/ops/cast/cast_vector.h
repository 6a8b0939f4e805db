// Float conversion, sixteen lanes at a time. Included by one file per instruction set, after its vector vocabulary
// (core/simd/<isa>.h), which names the namespace.
//
// Every conversion goes through float32 lanes and rounds once: the first half (float16 or bfloat16 to float32) is
// exact. The tail is padded to sixteen elements on the stack and takes the same code.

#include "ops/cast/cast_kernels.h"
#include "ops/cast/cast_vector_small.h"

namespace lowbit::LOWBIT_ISA {
namespace {

template <FloatType From, FloatType To, bool Stream>
void convert_blocks(const Storage<From>* in, Storage<To>* out, std::size_t count) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store<To, Stream>(out + i, load<From>(in + i));
  if (i < count) store_first<To>(out + i, load_first<From>(in + i, count - i), count - i);
  if constexpr (Stream) stream_fence();
}

template <FloatType From, FloatType To>
void convert(const Storage<From>* in, Storage<To>* out, std::size_t count, bool stream) {
  if (stream && can_stream(out)) {
    convert_blocks<From, To, true>(in, out, count);
  } else {
    convert_blocks<From, To, false>(in, out, count);
  }
}

}  // namespace

const CastKernels kCast = {
    convert<FloatType::kFloat32, FloatType::kFloat16>,
    convert<FloatType::kFloat32, FloatType::kBfloat16>,
    convert<FloatType::kFloat16, FloatType::kFloat32>,
    convert<FloatType::kBfloat16, FloatType::kFloat32>,
    convert<FloatType::kFloat16, FloatType::kBfloat16>,
    convert<FloatType::kBfloat16, FloatType::kFloat16>,
    to_small,
    from_small,
};

}  // namespace lowbit::LOWBIT_ISA
