// Comparison of two tensors, the specification.

#include "ops/compare/compare_kernels.h"

namespace lowbit::scalar {
namespace {

constexpr std::size_t kSumLanes = 8;

CompareSums compare(const float* reference, const float* other, std::size_t count) {
  CompareSums lanes[kSumLanes];
  for (std::size_t i = 0; i < count; i++) {
    const double r = static_cast<double>(reference[i]), o = static_cast<double>(other[i]);
    const double error = r - o;
    const double magnitude = error < 0.0 ? -error : error;
    CompareSums& lane = lanes[i % kSumLanes];
    lane.reference_power += r * r;
    lane.other_power += o * o;
    lane.product += r * o;
    lane.error_power += error * error;
    lane.largest_error = magnitude > lane.largest_error ? magnitude : lane.largest_error;
  }
  for (std::size_t half = kSumLanes / 2; half >= 1; half /= 2) {
    for (std::size_t i = 0; i < half; i++) {
      CompareSums& a = lanes[i];
      const CompareSums& b = lanes[i + half];
      a.reference_power += b.reference_power;
      a.other_power += b.other_power;
      a.product += b.product;
      a.error_power += b.error_power;
      a.largest_error = b.largest_error > a.largest_error ? b.largest_error : a.largest_error;
    }
  }
  return lanes[0];
}

}  // namespace

const CompareKernels kCompare = {compare};

}  // namespace lowbit::scalar
