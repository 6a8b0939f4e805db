#include "ops/cast/cast.h"

#include <algorithm>
#include <cstring>

#include "core/kernels.h"
#include "core/tiles.h"

namespace lowbit {
namespace {

void cast_tile(const CastKernels& k, const void* in, FloatType from, void* out, FloatType to, std::size_t count,
               bool stream) {
  const auto* floats = static_cast<const float*>(in);
  const auto* halves = static_cast<const std::uint16_t*>(in);
  auto* out_floats = static_cast<float*>(out);
  auto* out_halves = static_cast<std::uint16_t*>(out);
  if (from == to) {
    std::memcpy(out, in, count * size_of(from));
  } else if (from == FloatType::kFloat32) {
    (to == FloatType::kFloat16 ? k.float32_to_float16 : k.float32_to_bfloat16)(floats, out_halves, count, stream);
  } else if (to == FloatType::kFloat32) {
    (from == FloatType::kFloat16 ? k.float16_to_float32 : k.bfloat16_to_float32)(halves, out_floats, count, stream);
  } else {
    (from == FloatType::kFloat16 ? k.float16_to_bfloat16 : k.bfloat16_to_float16)(halves, out_halves, count, stream);
  }
}

}  // namespace

Outcome cast(const void* in, FloatType from, void* out, FloatType to, std::size_t count, const CancelFlag* cancel) {
  const CastKernels& k = *kernels().cast;
  const bool stream = count * size_of(to) >= kStreamBytes;
  const auto* in_bytes = static_cast<const std::uint8_t*>(in);
  auto* out_bytes = static_cast<std::uint8_t*>(out);
  const auto tile = [&](std::size_t t) {
    const std::size_t begin = t * kTileElements, end = std::min(count, begin + kTileElements);
    cast_tile(k, in_bytes + begin * size_of(from), from, out_bytes + begin * size_of(to), to, end - begin, stream);
  };
  const bool done = ThreadPool::instance().parallel_for(ceil_div(count, kTileElements), tile, cancel);
  return {done ? Status::kOk : Status::kCancelled, -1};
}

}  // namespace lowbit
