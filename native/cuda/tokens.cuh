#pragma once

// Rows of activations that are quantized with a scale each: a block of threads for a row.

#include "core/float_bits.h"
#include "cuda/floats.cuh"
#include "cuda/stream.cuh"

namespace lowbit {

constexpr unsigned kTokenThreads = 256;
constexpr int kTokenUnit = 8;  // elements that a thread takes at a time

// Below this 127 / largest would not be finite.
constexpr float kNoMagnitude = 0x1p-110F;

__device__ inline float float_at(const void* x, FloatType type, std::size_t i) {
  switch (type) {
    case FloatType::kFloat16:
      return float_of_float16_fast(static_cast<const std::uint16_t*>(x)[i]);
    case FloatType::kBfloat16:
      return float_of_bfloat16(static_cast<const std::uint16_t*>(x)[i]);
    default:
      return static_cast<const float*>(x)[i];
  }
}

// Eight elements from a multiple of eight on; x is 16-byte aligned.
__device__ inline void load_unit(const void* x, FloatType type, std::size_t begin, float (&out)[kTokenUnit]) {
  if (type == FloatType::kFloat32) {
    const float4* const from = reinterpret_cast<const float4*>(static_cast<const float*>(x) + begin);
    const float4 low = from[0], high = from[1];
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
    return;
  }
  const uint4 words = *reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(x) + begin);
  const unsigned pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < kTokenUnit; i++) {
    const auto half = static_cast<std::uint16_t>(pairs[i / 2] >> (16 * (i % 2)));
    out[i] = type == FloatType::kFloat16 ? float_of_float16_fast(half) : float_of_bfloat16(half);
  }
}

// The largest magnitude of row blockIdx.x of x[m, k], for all threads. Notes what is not finite.
template <bool Whole>  // units: k a multiple of eight, x aligned
__device__ inline float largest_of_row(const void* x, FloatType type, std::size_t k, CudaFinding* finding) {
  const std::size_t row = std::size_t{blockIdx.x} * k;
  float largest = 0.0F;
  const auto take = [&](float value, std::size_t i) {
    if (!is_finite(value)) note(finding, Status::kNonFinite, i);
    const float magnitude = float_of(bits_of(value) & 0x7fffffffU);
    largest = magnitude > largest ? magnitude : largest;
  };
  if constexpr (Whole) {
    for (std::size_t i = std::size_t{threadIdx.x} * kTokenUnit; i < k; i += std::size_t{kTokenThreads} * kTokenUnit) {
      float values[kTokenUnit];
      load_unit(x, type, row + i, values);
#pragma unroll
      for (int e = 0; e < kTokenUnit; e++) take(values[e], row + i + static_cast<std::size_t>(e));
    }
  } else {
    for (std::size_t i = threadIdx.x; i < k; i += kTokenThreads) take(float_at(x, type, row + i), row + i);
  }
  const auto larger = [](float a, float b) { return a > b ? a : b; };
  largest = warp_reduce(largest, larger);
  auto* const of_warps = reinterpret_cast<float*>(shared_memory());
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = largest;
  __syncthreads();
#pragma unroll
  for (unsigned w = 0; w < kTokenThreads / kWarp; w++) largest = larger(largest, of_warps[w]);
  return largest;
}

// codes[row][·] = code(x[row][·]).
template <bool Whole, typename Code>
__device__ inline void write_codes(const void* x, FloatType type, std::size_t k, std::uint8_t* codes,
                                   const Code& code) {
  const std::size_t row = std::size_t{blockIdx.x} * k;
  if constexpr (Whole) {
    for (std::size_t i = std::size_t{threadIdx.x} * kTokenUnit; i < k; i += std::size_t{kTokenThreads} * kTokenUnit) {
      float values[kTokenUnit];
      load_unit(x, type, row + i, values);
      unsigned words[2] = {0, 0};
#pragma unroll
      for (int e = 0; e < kTokenUnit; e++) words[e / 4] |= static_cast<unsigned>(code(values[e])) << (8 * (e % 4));
      *reinterpret_cast<uint2*>(codes + row + i) = make_uint2(words[0], words[1]);
    }
  } else {
    for (std::size_t i = threadIdx.x; i < k; i += kTokenThreads) codes[row + i] = code(float_at(x, type, row + i));
  }
}

inline bool has_whole_units(const void* x, const void* codes, std::size_t k) {
  return k % kTokenUnit == 0 && reinterpret_cast<std::uintptr_t>(x) % 16 == 0 &&
         reinterpret_cast<std::uintptr_t>(codes) % 8 == 0;
}

// Two results side by side; the second may be past the end of a row.
__device__ inline void store_pair(void* y, FloatType type, std::size_t at, float first, float second, bool both) {
  if (type == FloatType::kFloat32) {
    float* const to = static_cast<float*>(y) + at;
    if (both && reinterpret_cast<std::uintptr_t>(to) % sizeof(float2) == 0) {
      *reinterpret_cast<float2*>(to) = make_float2(first, second);
      return;
    }
    to[0] = first;
    if (both) to[1] = second;
    return;
  }
  std::uint16_t* const to = static_cast<std::uint16_t*>(y) + at;
  const bool is_float16 = type == FloatType::kFloat16;
  const std::uint16_t low = is_float16 ? float16_of_fast(first) : bfloat16_of(first);
  const std::uint16_t high = is_float16 ? float16_of_fast(second) : bfloat16_of(second);
  if (both && reinterpret_cast<std::uintptr_t>(to) % sizeof(unsigned) == 0) {
    *reinterpret_cast<unsigned*>(to) = low | static_cast<unsigned>(high) << 16;
    return;
  }
  to[0] = low;
  if (both) to[1] = high;
}

// y = sum · w_scale[column] · x_scale[row] + bias[column].
struct ScaledResult {
  const float *x_scales, *w_scales, *bias;
  bool x_scale_per_row, w_scale_per_row;
  FloatType type;
  void* y;
  std::size_t m, n;

  __device__ float value(float sum, std::size_t row, std::size_t column) const {
    const float scaled = sum * w_scales[w_scale_per_row ? column : 0] * x_scales[x_scale_per_row ? row : 0];
    return bias == nullptr ? scaled : scaled + bias[column];
  }
  // Columns `column` and the next.
  __device__ void store(std::size_t row, std::size_t column, float first, float second) const {
    if (row >= m || column >= n) return;
    const bool both = column + 1 < n;
    store_pair(y, type, row * n + column, value(first, row, column), both ? value(second, row, column + 1) : 0.0F,
               both);
  }
};

}  // namespace lowbit
