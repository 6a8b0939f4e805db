// Sums over rows of logits, eight float64 lanes at a time. Included by one file per instruction set, after its vector
// vocabulary (core/simd/<isa>.h), which names the namespace.

#include "ops/logits/logits_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

LOWBIT_INLINE F64x8 exponential_of(F64x8 value) {
  using namespace exponential;
  const F64x8 x = max(broadcast(kLowest), value);
  const F64x8 shifted = fused(x, broadcast(kLog2E), broadcast(kShift));
  const F64x8 n = sub(shifted, broadcast(kShift));
  const F64x8 r = fused(n, broadcast(-kLn2Low), fused(n, broadcast(-kLn2High), x));
  F64x8 sum = broadcast(kCoefficients[0]);
  for (std::size_t i = 1; i < sizeof kCoefficients / sizeof *kCoefficients; i++) {
    sum = fused(sum, r, broadcast(kCoefficients[i]));
  }
  return mul(sum, two_to_the(shifted));
}

// The first element that is not finite, or where the largest first stands, is looked for in one stretch only.
constexpr std::size_t kStretch = 1024;
constexpr std::int32_t kInfinityBits = 0x7f800000;

LogitTop top(const float* row, std::size_t count) {
  LogitTop result{row[0], 0, -1};
  std::size_t best = 0;  // the stretch of the largest
  for (std::size_t begin = 0; begin < count; begin += kStretch) {
    const std::size_t end = begin + kStretch < count ? begin + kStretch : count;
    F32x16 largest = broadcast(row[begin]);
    I32x16 magnitude = magnitude_bits(largest);
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const F32x16 x = load<FloatType::kFloat32>(row + i);
      largest = max(largest, x);
      magnitude = max(magnitude, magnitude_bits(x));
    }
    float stretch_largest = horizontal_max(largest);
    bool finite = horizontal_max(magnitude) < kInfinityBits;
    for (; i < end; i++) {
      finite = finite && row[i] - row[i] == 0.0F;
      stretch_largest = row[i] > stretch_largest ? row[i] : stretch_largest;
    }
    if (!finite) {
      i = begin;
      while (row[i] - row[i] == 0.0F) i++;
      return {0.0F, -1, static_cast<std::int64_t>(i)};
    }
    if (stretch_largest > result.largest) {
      result.largest = stretch_largest;
      best = begin;
    }
  }
  while (row[best] != result.largest) best++;
  result.index = static_cast<std::int64_t>(best);
  return result;
}

// The first `count` lanes, and zero.
LOWBIT_INLINE F64x8 first_lanes(F64x8 x, std::size_t count) {
  double lanes[kLanes / 2];
  store_lanes(lanes, x);
  for (std::size_t i = count; i < kLanes / 2; i++) lanes[i] = 0.0;
  return load_lanes(lanes);
}

double sum_exponentials(const float* row, float largest, std::size_t count) {
  constexpr std::size_t half = kLanes / 2;
  const F64x8 shift = broadcast(static_cast<double>(largest));
  F64x8 sum = broadcast(0.0);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const F32x16 x = load<FloatType::kFloat32>(row + i);
    sum = add(sum, exponential_of(sub(widen_low(x), shift)));
    sum = add(sum, exponential_of(sub(widen_high(x), shift)));
  }
  if (i < count) {
    const std::size_t left = count - i;
    const F32x16 x = load_first<FloatType::kFloat32>(row + i, left);
    const F64x8 low = exponential_of(sub(widen_low(x), shift)), high = exponential_of(sub(widen_high(x), shift));
    sum = add(sum, first_lanes(low, left < half ? left : half));
    if (left > half) sum = add(sum, first_lanes(high, left - half));
  }
  return pairwise_sum(sum);
}

struct Lanes {
  F64x8 reference, other, weighted, difference;
};

// `count` lanes at most count.
LOWBIT_INLINE void take(Lanes& sums, F64x8 r, F64x8 reference_largest, F64x8 o, F64x8 other_largest,
                        std::size_t count) {
  const F64x8 difference = sub(r, o);
  F64x8 a = exponential_of(sub(r, reference_largest)), b = exponential_of(sub(o, other_largest));
  if (count < kLanes / 2) {
    a = first_lanes(a, count);
    b = first_lanes(b, count);
  }
  sums.reference = add(sums.reference, a);
  sums.other = add(sums.other, b);
  sums.weighted = fused(a, difference, sums.weighted);
  sums.difference = max(magnitude(difference), sums.difference);  // the padding is zero
}

LogitSums compare(const float* reference, float reference_largest, const float* other, float other_largest,
                  std::size_t count) {
  constexpr std::size_t half = kLanes / 2;
  const F64x8 zero = broadcast(0.0);
  const F64x8 largest = broadcast(static_cast<double>(reference_largest));
  const F64x8 others_largest = broadcast(static_cast<double>(other_largest));
  Lanes sums = {zero, zero, zero, zero};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const F32x16 r = load<FloatType::kFloat32>(reference + i), o = load<FloatType::kFloat32>(other + i);
    take(sums, widen_low(r), largest, widen_low(o), others_largest, half);
    take(sums, widen_high(r), largest, widen_high(o), others_largest, half);
  }
  if (i < count) {
    const std::size_t left = count - i;
    const F32x16 r = load_first<FloatType::kFloat32>(reference + i, left);
    const F32x16 o = load_first<FloatType::kFloat32>(other + i, left);
    take(sums, widen_low(r), largest, widen_low(o), others_largest, left < half ? left : half);
    if (left > half) take(sums, widen_high(r), largest, widen_high(o), others_largest, left - half);
  }
  return {pairwise_sum(sums.reference), pairwise_sum(sums.other), pairwise_sum(sums.weighted),
          horizontal_max(sums.difference)};
}

}  // namespace

const LogitsKernels kLogits = {top, sum_exponentials, compare};

}  // namespace lowbit::LOWBIT_ISA
