// Conversion between float types: units of elements go through float32 in registers. The types are arguments, not
// templates: all threads branch alike, and one kernel is quick to build.

#include "cuda/floats.cuh"
#include "cuda/stream.cuh"
#include "ops/cast/cast_cuda.h"

namespace lowbit {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kUnit = 8;  // elements: whole bytes of every type

// The bytes of a unit, moved in the largest words that divide them.
template <int Bytes>
struct Unit {
  using Word = std::conditional_t<
      Bytes % 16 == 0, uint4,
      std::conditional_t<Bytes % 8 == 0, uint2, std::conditional_t<Bytes % 4 == 0, unsigned, std::uint16_t>>>;
  static constexpr int kWords = Bytes / static_cast<int>(sizeof(Word));
  static_assert(kWords * static_cast<int>(sizeof(Word)) == Bytes, "units are whole words");
};

template <int Bytes>
__device__ void move_bytes(const unsigned char* from, unsigned char* to) {
  using Word = typename Unit<Bytes>::Word;
#pragma unroll
  for (int i = 0; i < Unit<Bytes>::kWords; i++) reinterpret_cast<Word*>(to)[i] = reinterpret_cast<const Word*>(from)[i];
}

// Calls body(std::integral_constant<int, bits>) with the width of the type.
template <typename Body>
__device__ void with_bits(AnyFloatType type, const Body& body) {
  switch (type.bits()) {
    case 32:
      return body(std::integral_constant<int, 32>{});
    case 16:
      return body(std::integral_constant<int, 16>{});
    case 8:
      return body(std::integral_constant<int, 8>{});
    case 6:
      return body(std::integral_constant<int, 6>{});
    default:
      return body(std::integral_constant<int, 4>{});
  }
}

template <int Bits>
__device__ std::uint8_t packed_code(const unsigned char* bytes, int i) {
  if constexpr (Bits == 8) {
    return bytes[i];
  } else if constexpr (Bits == 4) {
    return static_cast<std::uint8_t>(bytes[i / 2] >> (4 * (i % 2)) & 15);
  } else {
    const int bit = 6 * i, byte = bit / 8;
    const unsigned two = bytes[byte] | (bit % 8 > 2 ? static_cast<unsigned>(bytes[byte + 1]) << 8 : 0U);
    return static_cast<std::uint8_t>(two >> (bit % 8) & 63U);
  }
}

__device__ void to_floats(const unsigned char* bytes, AnyFloatType type, float* floats) {
  if (type == FloatType::kFloat32) {
#pragma unroll
    for (int i = 0; i < kUnit; i++) floats[i] = reinterpret_cast<const float*>(bytes)[i];
  } else if (type == FloatType::kFloat16) {
#pragma unroll
    for (int i = 0; i < kUnit; i++) {
      floats[i] = float_of_float16_fast(reinterpret_cast<const std::uint16_t*>(bytes)[i]);
    }
  } else if (type == FloatType::kBfloat16) {
#pragma unroll
    for (int i = 0; i < kUnit; i++) floats[i] = float_of_bfloat16(reinterpret_cast<const std::uint16_t*>(bytes)[i]);
  } else {
    with_small_type(type.small(), [&](auto constant) {
      constexpr SmallFloatType kType = decltype(constant)::value;
#pragma unroll
      for (int i = 0; i < kUnit; i++) {
        floats[i] = float_of_small<kType>(packed_code<static_cast<int>(bit_width(kType))>(bytes, i));
      }
    });
  }
}

__device__ void from_floats(const float* floats, AnyFloatType type, bool saturate, unsigned char* bytes) {
  if (type == FloatType::kFloat32) {
#pragma unroll
    for (int i = 0; i < kUnit; i++) reinterpret_cast<float*>(bytes)[i] = floats[i];
  } else if (type == FloatType::kFloat16) {
#pragma unroll
    for (int i = 0; i < kUnit; i++) reinterpret_cast<std::uint16_t*>(bytes)[i] = float16_of_fast(floats[i]);
  } else if (type == FloatType::kBfloat16) {
#pragma unroll
    for (int i = 0; i < kUnit; i++) reinterpret_cast<std::uint16_t*>(bytes)[i] = bfloat16_of(floats[i]);
  } else {
    with_small_type(type.small(), [&](auto constant) {
      constexpr SmallFloatType kType = decltype(constant)::value;
      constexpr int kBits = static_cast<int>(bit_width(kType));
      std::uint8_t codes[kUnit];
#pragma unroll
      for (int i = 0; i < kUnit; i++) codes[i] = small_float_of_fast<kType>(floats[i], saturate);
      if constexpr (kBits == 8) {
#pragma unroll
        for (int i = 0; i < kUnit; i++) bytes[i] = codes[i];
      } else if constexpr (kBits == 4) {
#pragma unroll
        for (int i = 0; i < kUnit; i += 2) bytes[i / 2] = static_cast<std::uint8_t>(codes[i] | codes[i + 1] << 4);
      } else {
#pragma unroll
        for (int i = 0; i < kUnit; i += 4) {
          const unsigned four = unsigned{codes[i]} | unsigned{codes[i + 1]} << 6 | unsigned{codes[i + 2]} << 12 |
                                unsigned{codes[i + 3]} << 18;
#pragma unroll
          for (int j = 0; j < 3; j++) bytes[i / 4 * 3 + j] = static_cast<std::uint8_t>(four >> (8 * j));
        }
      }
    });
  }
}

// The elements after the last whole unit are the first thread's.
__global__ void __launch_bounds__(kThreads) cast_units(const unsigned char* in, AnyFloatType from, unsigned char* out,
                                                       AnyFloatType to, bool saturate, std::size_t count) {
  const std::size_t units = count / kUnit;
  alignas(16) unsigned char bytes[kUnit * 4], result[kUnit * 4];
  float floats[kUnit];
  for (std::size_t unit = grid_thread(); unit < units; unit += grid_threads()) {
    with_bits(from, [&](auto bits) { move_bytes<bits * kUnit / 8>(in + unit * (bits * kUnit / 8), bytes); });
    to_floats(bytes, from, floats);
    from_floats(floats, to, saturate, result);
    with_bits(to, [&](auto bits) { move_bytes<bits * kUnit / 8>(result, out + unit * (bits * kUnit / 8)); });
  }
  const std::size_t rest = count % kUnit;
  if (grid_thread() != 0 || rest == 0) return;
  const std::size_t in_bytes = from.packed_bytes(rest), out_bytes = to.packed_bytes(rest);
  const unsigned char* last_in = in + from.packed_bytes(count - rest);
  unsigned char* last_out = out + to.packed_bytes(count - rest);
  const std::size_t spare_bits = out_bytes * 8 - rest * to.bits();
#pragma unroll
  for (std::size_t i = 0; i < kUnit * 4; i++) bytes[i] = i < in_bytes ? last_in[i] : 0;
  to_floats(bytes, from, floats);
  from_floats(floats, to, saturate, result);
#pragma unroll
  for (std::size_t i = 0; i < kUnit * 4; i++) {
    const unsigned used = i + 1 == out_bytes ? 0xffU >> spare_bits : 0xffU;
    if (i < out_bytes) last_out[i] = static_cast<unsigned char>(result[i] & used);
  }
}

__global__ void clear_spare_bits(unsigned char* last, unsigned used) {
  *last &= static_cast<unsigned char>(0xffU >> (8 - used));
}

CudaStatus copy_elements(CudaStream* stream, const void* in, void* out, AnyFloatType type, std::size_t count) {
  const std::size_t bytes = type.packed_bytes(count), used = count * type.bits() % 8;
  const CudaStatus status = cuda_status(cudaMemcpyAsync(out, in, bytes, cudaMemcpyDeviceToDevice, stream->stream));
  if (status != CudaStatus::kOk || used == 0) return status;
  return launch(*stream, clear_spare_bits, dim3(1), 1, 0, static_cast<unsigned char*>(out) + bytes - 1,
                static_cast<unsigned>(used));
}

CudaStatus cast(CudaStream* stream, const void* in, AnyFloatType from, void* out, AnyFloatType to, bool saturate,
                std::size_t count) {
  if (count == 0) return CudaStatus::kOk;
  if (from == to) return copy_elements(stream, in, out, to, count);
  const unsigned blocks = blocks_for(*stream, count / kUnit + 1, kThreads);
  return launch(*stream, cast_units, dim3(blocks), kThreads, 0, static_cast<const unsigned char*>(in), from,
                static_cast<unsigned char*>(out), to, saturate, count);
}

}  // namespace

const CastCuda kCastCuda = {cast};

}  // namespace lowbit
