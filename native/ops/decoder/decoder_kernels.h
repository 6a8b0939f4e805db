#pragma once

#include <cstddef>

namespace lowbit {

// Positions of keys that lie side by side: see AttendArguments::keys.
constexpr std::size_t kKeyBlock = 16;

// One token's queries of the heads that share a head of keys and values.
struct AttendArguments {
  const float* queries;  // [heads][head_dim]
  std::size_t heads;
  std::size_t head_dim;
  const float* keys;        // [block of 16 positions][head_dim][16]: whole blocks, up to the one that holds last − 1
  const float* values;      // [position][head_dim], up to last − 1
  std::size_t first, last;  // attends to positions [first, last), at least one
  float scale;              // of the products of queries and keys
  float* scores;            // room for heads · whole blocks from that of `first` on
  float* out;               // as queries
};

// What a decoder computes besides products with weights. All sums have a fixed order, so that every instruction set
// gives the same bits; NaN and infinities come out as NaN.
struct DecoderKernels {
  // out[i] = (x[i] · s) · weight[i], where s = 1 / √(Σ x² / n + epsilon). Element i is added to lane i mod 16 by a
  // fused multiply-add; lanes are then added pairwise (i and i + 8, i and i + 4, …). `out` may be x.
  void (*rms_norm)(const float* x, const float* weight, std::size_t n, float epsilon, float* out);

  // Turns the pairs (i, i + head_dim / 2) of each head, where angles holds head_dim / 2 cosines, then as many sines:
  // a·cos − b·sin and b·cos + a·sin, the second product of each in a fused operation.
  void (*rotate)(float* x, std::size_t heads, std::size_t head_dim, const float* angles);

  // out = softmax(scale · queries · keysᵀ) · values, for each head. Products of queries and keys are added in the order
  // of the elements, those with values in that of the positions, by fused multiply-adds; exponentials in lane (position
  // mod 16), lanes pairwise as above.
  void (*attend)(const AttendArguments& arguments);
};

namespace scalar {
extern const DecoderKernels kDecoder;
}
namespace avx2 {
extern const DecoderKernels kDecoder;
}
namespace avx512 {
extern const DecoderKernels kDecoder;
}
namespace neon {
extern const DecoderKernels kDecoder;
}

}  // namespace lowbit
