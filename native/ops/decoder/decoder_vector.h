// Norms, rotary embedding and attention of a decoder, sixteen lanes at a time. Included by one file per instruction
// set, after its vector vocabulary (core/simd/<isa>.h), which names the namespace.

#include "core/float_bits.h"
#include "ops/decoder/decoder_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

LOWBIT_INLINE F32x16 like(F32x16, float value) { return broadcast(value); }

}  // namespace
}  // namespace lowbit::LOWBIT_ISA

#include "core/simd/exponential.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr FloatType kF32 = FloatType::kFloat32;
static_assert(kKeyBlock == kLanes, "a block of keys is a vector");

LOWBIT_INLINE float sum_of(F32x16 x) {
  float lanes[kLanes];
  store_lanes(lanes, x);
  for (std::size_t half = kLanes / 2; half >= 1; half /= 2) {
    for (std::size_t i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

void rms_norm(const float* x, const float* weight, std::size_t n, float epsilon, float* out) {
  F32x16 sums = broadcast(0.0F);
  const std::size_t whole = n / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    const F32x16 v = in_register(load<kF32>(x + i));
    sums = fused(v, v, sums);
  }
  if (whole < n) {  // the padding is zero and adds nothing
    const F32x16 v = load_first<kF32>(x + whole, n - whole);
    sums = fused(v, v, sums);
  }
  const F32x16 mean = broadcast(sum_of(sums) / static_cast<float>(n) + epsilon);
  const F32x16 scale = div(broadcast(1.0F), square_root(mean));
  for (std::size_t i = 0; i < whole; i += kLanes) {
    store<kF32, false>(out + i, mul(mul(load<kF32>(x + i), scale), load<kF32>(weight + i)));
  }
  if (whole < n) {
    const std::size_t left = n - whole;
    store_first<kF32>(out + whole,
                      mul(mul(load_first<kF32>(x + whole, left), scale), load_first<kF32>(weight + whole, left)), left);
  }
}

void rotate(float* x, std::size_t heads, std::size_t head_dim, const float* angles) {
  const std::size_t half = head_dim / 2;
  for (std::size_t i = 0; i < half; i += kLanes) {
    const std::size_t count = half - i < kLanes ? half - i : kLanes;
    const F32x16 cosine = load_up_to<kF32>(angles + i, count), sine = load_up_to<kF32>(angles + half + i, count);
    for (std::size_t h = 0; h < heads; h++) {
      float* const low = x + h * head_dim + i;
      const F32x16 a = load_up_to<kF32>(low, count), b = load_up_to<kF32>(low + half, count);
      store_up_to<kF32>(low, fused_negative(b, sine, mul(a, cosine)), count);
      store_up_to<kF32>(low + half, fused(a, sine, mul(b, cosine)), count);
    }
  }
}

// Scores of some heads and blocks of keys. `scores` and `stride` are those of the first head, in whole blocks.
template <int Heads, int Blocks>
LOWBIT_INLINE void score_blocks(const AttendArguments& a, const float* queries, const float* keys, float* scores,
                                std::size_t stride) {
  F32x16 sums[Heads][Blocks];
  for (auto& head : sums) {
    for (auto& sum : head) sum = broadcast(0.0F);
  }
  LOWBIT_NO_UNROLL
  for (std::size_t i = 0; i < a.head_dim; i++) {
    LOWBIT_UNROLL
    for (int b = 0; b < Blocks; b++) {
      const F32x16 key = in_register(load<kF32>(keys + (static_cast<std::size_t>(b) * a.head_dim + i) * kKeyBlock));
      LOWBIT_UNROLL
      for (int h = 0; h < Heads; h++) {
        sums[h][b] = fused(broadcast(queries[static_cast<std::size_t>(h) * a.head_dim + i]), key, sums[h][b]);
      }
    }
  }
  LOWBIT_UNROLL
  for (int h = 0; h < Heads; h++) {
    LOWBIT_UNROLL
    for (int b = 0; b < Blocks; b++) {
      store<kF32, false>(scores + static_cast<std::size_t>(h) * stride + static_cast<std::size_t>(b) * kKeyBlock,
                         mul(sums[h][b], broadcast(a.scale)));
    }
  }
}

// Values of some heads and sixteen elements each of `Vectors`, times the powers; `count` of the only vector, if fewer.
template <int Heads, int Vectors>
LOWBIT_INLINE void add_values(const AttendArguments& a, const float* powers, std::size_t stride, const float* shares,
                              const float* values, float* out, std::size_t count) {
  F32x16 sums[Heads][Vectors];
  for (auto& head : sums) {
    for (auto& sum : head) sum = broadcast(0.0F);
  }
  const std::size_t from = a.first % kKeyBlock;
  LOWBIT_NO_UNROLL
  for (std::size_t j = a.first; j < a.last; j++) {
    LOWBIT_UNROLL
    for (int v = 0; v < Vectors; v++) {
      const float* const at = values + j * a.head_dim + static_cast<std::size_t>(v) * kLanes;
      const F32x16 value = in_register(count == kLanes ? load<kF32>(at) : load_first<kF32>(at, count));
      LOWBIT_UNROLL
      for (int h = 0; h < Heads; h++) {
        const float power = powers[static_cast<std::size_t>(h) * stride + from + (j - a.first)];
        sums[h][v] = fused(broadcast(power), value, sums[h][v]);
      }
    }
  }
  LOWBIT_UNROLL
  for (int h = 0; h < Heads; h++) {
    LOWBIT_UNROLL
    for (int v = 0; v < Vectors; v++) {
      store_up_to<kF32>(out + static_cast<std::size_t>(h) * a.head_dim + static_cast<std::size_t>(v) * kLanes,
                        mul(sums[h][v], broadcast(shares[h])), count);
    }
  }
}

constexpr std::uint32_t kMinusInfinity = 0xff800000U;

// Scores become exponentials, zero outside of [first, last); 1 / their sum.
LOWBIT_INLINE float take_powers(const AttendArguments& a, float* scores, std::size_t count) {
  const std::size_t from = a.first % kKeyBlock, to = from + (a.last - a.first);
  const float nothing = float_of(kMinusInfinity);
  for (std::size_t j = 0; j < from; j++) scores[j] = nothing;
  for (std::size_t j = to; j < count; j++) scores[j] = nothing;
  F32x16 most = broadcast(nothing);
  for (std::size_t j = 0; j < count; j += kLanes) most = max(load<kF32>(scores + j), most);
  const F32x16 greatest = broadcast(horizontal_max(most));
  for (std::size_t j = 0; j < count; j += kLanes) {
    const F32x16 below = sub(load<kF32>(scores + j), greatest);
    store<kF32, false>(scores + j, add(exponential(below), sub(below, below)));  // of NaN and infinities NaN
  }
  for (std::size_t j = 0; j < from; j++) scores[j] = 0.0F;
  for (std::size_t j = to; j < count; j++) scores[j] = 0.0F;
  F32x16 sums = broadcast(0.0F);
  for (std::size_t j = 0; j < count; j += kLanes) sums = add(sums, load<kF32>(scores + j));
  return 1.0F / sum_of(sums);
}

template <int Heads>
LOWBIT_INLINE void attend_heads(const AttendArguments& a, std::size_t head) {
  // As many sums at a time as hide the latency of their additions, in registers of sixteen lanes.
  constexpr int kSide = 4 / Heads;
  const std::size_t first_block = a.first / kKeyBlock, blocks = (a.last + kKeyBlock - 1) / kKeyBlock - first_block;
  const std::size_t stride = blocks * kKeyBlock;
  const float* const queries = a.queries + head * a.head_dim;
  const float* const keys = a.keys + first_block * kKeyBlock * a.head_dim;
  std::size_t b = 0;
  for (; b + kSide <= blocks; b += kSide) {
    score_blocks<Heads, kSide>(a, queries, keys + b * kKeyBlock * a.head_dim, a.scores + b * kKeyBlock, stride);
  }
  for (; kSide > 1 && b < blocks; b++) {
    score_blocks<Heads, 1>(a, queries, keys + b * kKeyBlock * a.head_dim, a.scores + b * kKeyBlock, stride);
  }
  float shares[Heads];
  for (int h = 0; h < Heads; h++) {
    shares[h] = take_powers(a, a.scores + static_cast<std::size_t>(h) * stride, stride);
  }
  float* const out = a.out + head * a.head_dim;
  std::size_t i = 0;
  for (; i + kSide * kLanes <= a.head_dim; i += kSide * kLanes) {
    add_values<Heads, kSide>(a, a.scores, stride, shares, a.values + i, out + i, kLanes);
  }
  for (; i < a.head_dim; i += kLanes) {
    const std::size_t count = a.head_dim - i < kLanes ? a.head_dim - i : kLanes;
    add_values<Heads, 1>(a, a.scores, stride, shares, a.values + i, out + i, count);
  }
}

void attend(const AttendArguments& a) {
  std::size_t head = 0;
  for (; head + 4 <= a.heads; head += 4) attend_heads<4>(a, head);
  if (head + 2 <= a.heads) {
    attend_heads<2>(a, head);
    head += 2;
  }
  if (head < a.heads) attend_heads<1>(a, head);
}

}  // namespace

const DecoderKernels kDecoder = {rms_norm, rotate, attend};

}  // namespace lowbit::LOWBIT_ISA
