// Comparison of two tensors, eight float64 lanes at a time. Included by one file per instruction set, after its vector
// vocabulary (core/simd/<isa>.h), which names the namespace.

#include "ops/compare/compare_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

struct Lanes {
  F64x8 reference_power, other_power, product, error_power, largest_error;
};

LOWBIT_INLINE void take(Lanes& sums, F64x8 r, F64x8 o) {
  const F64x8 error = sub(r, o);
  sums.reference_power = fused(r, r, sums.reference_power);  // the product is exact: the same bits as mul, then add
  sums.other_power = fused(o, o, sums.other_power);
  sums.product = fused(r, o, sums.product);
  sums.error_power = add(sums.error_power, mul(error, error));
  sums.largest_error = max(magnitude(error), sums.largest_error);
}

LOWBIT_INLINE void take(Lanes& sums, F32x16 reference, F32x16 other) {
  take(sums, widen_low(reference), widen_low(other));
  take(sums, widen_high(reference), widen_high(other));
}

CompareSums compare(const float* reference, const float* other, std::size_t count) {
  const F64x8 zero = broadcast(0.0);
  Lanes sums = {zero, zero, zero, zero, zero};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    take(sums, load<FloatType::kFloat32>(reference + i), load<FloatType::kFloat32>(other + i));
  }
  if (i < count) {  // the padding is zero and adds nothing
    take(sums, load_first<FloatType::kFloat32>(reference + i, count - i),
         load_first<FloatType::kFloat32>(other + i, count - i));
  }
  return {pairwise_sum(sums.reference_power), pairwise_sum(sums.other_power), pairwise_sum(sums.product),
          pairwise_sum(sums.error_power), horizontal_max(sums.largest_error)};
}

}  // namespace

const CompareKernels kCompare = {compare};

}  // namespace lowbit::LOWBIT_ISA
