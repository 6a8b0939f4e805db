// Sums of magnitudes, sixteen float64 lanes at a time. Part of bits_vector.h.

#pragma once

#include "ops/bits/bits_vector_pack.h"

namespace lowbit::LOWBIT_ISA {
namespace {

struct F64x16 {
  F64x8 low, high;
};
LOWBIT_INLINE F64x16 no_sum() { return {broadcast(0.0), broadcast(0.0)}; }
LOWBIT_INLINE void take(F64x16& sum, I32x16 magnitudes) {
  const F32x16 x = as_floats(magnitudes);
  sum.low = add(sum.low, widen_low(x));
  sum.high = add(sum.high, widen_high(x));
}
LOWBIT_INLINE double sum_of(F64x16 x) { return pairwise_sum(add(x.low, x.high)); }

// Calls body(magnitude bits) for the elements of a group, padded with zeros.
template <FloatType Type, typename Body>
LOWBIT_INLINE void for_magnitudes(const Storage<Type>* x, std::size_t count, const Body& body) {
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) body(magnitude_bits(load<Type>(x + i)));
  if (i < count) body(magnitude_bits(load_first<Type>(x + i, count - i)));
}

template <FloatType Type>
bool abs_sums_of(const Storage<Type>* x, std::size_t count, std::size_t group_size, double* sums) {
  I32x16 largest = broadcast(0);
  for (std::size_t begin = 0, g = 0; begin < count; g++) {
    const std::size_t size = group_size < count - begin ? group_size : count - begin;
    F64x16 sum = no_sum();
    for_magnitudes<Type>(x + begin, size, [&](I32x16 magnitudes) {
      largest = max(largest, magnitudes);
      take(sum, magnitudes);
    });
    sums[g] = sum_of(sum);
    begin += size;
  }
  return horizontal_max(largest) < 0x7f800000;
}

bool abs_sums(const void* x, FloatType type, std::size_t count, std::size_t group_size, double* sums) {
  return with_type(type, [&](auto t) {
    return abs_sums_of<t.value>(static_cast<const Storage<t.value>*>(x), count, group_size, sums);
  });
}

// The padding is zero, and so above no threshold.
template <FloatType Type>
void sums_above_of(const Storage<Type>* x, std::size_t count, std::size_t group_size, const float* thresholds,
                   double* sums, std::uint32_t* counts) {
  for (std::size_t begin = 0, g = 0; begin < count; g++) {
    const std::size_t size = group_size < count - begin ? group_size : count - begin;
    const F32x16 threshold = broadcast(thresholds[g]);
    F64x16 sum = no_sum();
    I32x16 above = broadcast(0);
    for_magnitudes<Type>(x + begin, size, [&](I32x16 magnitudes) {
      const Mask16 which = less(threshold, as_floats(magnitudes));
      above = add(above, select(which, broadcast(1), broadcast(0)));
      take(sum, select(which, magnitudes, broadcast(0)));
    });
    sums[g] = sum_of(sum);
    counts[g] = static_cast<std::uint32_t>(horizontal_sum(above));
    begin += size;
  }
}

void sums_above(const void* x, FloatType type, std::size_t count, std::size_t group_size, const float* thresholds,
                double* sums, std::uint32_t* counts) {
  with_type(type, [&](auto t) {
    sums_above_of<t.value>(static_cast<const Storage<t.value>*>(x), count, group_size, thresholds, sums, counts);
  });
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
