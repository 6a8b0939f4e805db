#include "ops/cast/cast.h"

#include <algorithm>
#include <cstring>

#include "core/kernels.h"
#include "core/tiles.h"

namespace lowbit {
namespace {

struct Cast {
  const CastKernels& k;
  AnyFloatType from, to;
  bool saturate, stream;

  void operator()(const std::uint8_t* in, std::uint8_t* out, std::size_t count) const {
    if (from == to) {
      copy(in, out, count);
    } else if (from.is_small() && to.is_small()) {
      between_small(in, out, count);
    } else if (to.is_small()) {
      k.to_small(in, from.large(), out, to.small(), saturate, count, stream);
    } else if (from.is_small()) {
      k.from_small(in, from.small(), out, to.large(), count, stream);
    } else {
      between_large(in, out, count);
    }
  }

 private:
  void copy(const std::uint8_t* in, std::uint8_t* out, std::size_t count) const {
    const std::size_t bytes = to.packed_bytes(count), spare_bits = bytes * 8 - count * to.bits();
    std::memcpy(out, in, bytes);
    if (spare_bits != 0) out[bytes - 1] = static_cast<std::uint8_t>(out[bytes - 1] & (0xff >> spare_bits));
  }

  void between_small(const std::uint8_t* in, std::uint8_t* out, std::size_t count) const {
    float floats[kBatchElements];
    for (std::size_t i = 0; i < count; i += kBatchElements) {
      const std::size_t n = std::min(count - i, kBatchElements);
      k.from_small(in + from.packed_bytes(i), from.small(), floats, FloatType::kFloat32, n, false);
      k.to_small(floats, FloatType::kFloat32, out + to.packed_bytes(i), to.small(), saturate, n, stream);
    }
  }

  void between_large(const std::uint8_t* in, std::uint8_t* out, std::size_t count) const {
    const auto* floats = reinterpret_cast<const float*>(in);
    const auto* halves = reinterpret_cast<const std::uint16_t*>(in);
    auto* out_floats = reinterpret_cast<float*>(out);
    auto* out_halves = reinterpret_cast<std::uint16_t*>(out);
    if (from == FloatType::kFloat32) {
      (to == FloatType::kFloat16 ? k.float32_to_float16 : k.float32_to_bfloat16)(floats, out_halves, count, stream);
    } else if (to == FloatType::kFloat32) {
      (from == FloatType::kFloat16 ? k.float16_to_float32 : k.bfloat16_to_float32)(halves, out_floats, count, stream);
    } else {
      (from == FloatType::kFloat16 ? k.float16_to_bfloat16 : k.bfloat16_to_float16)(halves, out_halves, count, stream);
    }
  }
};

}  // namespace

Outcome cast(const void* in, AnyFloatType from, void* out, AnyFloatType to, bool saturate, std::size_t count,
             const CancelFlag* cancel) {
  const Cast cast_run{*kernels().cast, from, to, saturate, to.packed_bytes(count) >= kStreamBytes};
  const auto* in_bytes = static_cast<const std::uint8_t*>(in);
  auto* out_bytes = static_cast<std::uint8_t*>(out);
  // Tiles of packed elements start on a byte.
  static_assert(kTileElements % 8 == 0 && kBatchElements % 8 == 0, "elements of 4 and 6 bits");
  const auto tile = [&](std::size_t t) {
    const std::size_t begin = t * kTileElements, end = std::min(count, begin + kTileElements);
    cast_run(in_bytes + from.packed_bytes(begin), out_bytes + to.packed_bytes(begin), end - begin);
  };
  const bool done = ThreadPool::instance().parallel_for(ceil_div(count, kTileElements), tile, cancel);
  return {done ? Status::kOk : Status::kCancelled, -1};
}

}  // namespace lowbit
