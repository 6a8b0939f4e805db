#include "ops/compare/compare.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/kernels.h"
#include "core/tiles.h"

namespace lowbit {

Outcome compare(const float* reference, const float* other, std::size_t count, CompareSums& sums,
                const CancelFlag* cancel) {
  const CompareKernels& k = *kernels().compare;
  std::vector<CompareSums> tiles(ceil_div(count, kTileElements));
  const auto tile = [&](std::size_t t) {
    const std::size_t begin = t * kTileElements, end = std::min(count, begin + kTileElements);
    tiles[t] = k.compare(reference + begin, other + begin, end - begin);
  };
  if (!ThreadPool::instance().parallel_for(tiles.size(), tile, cancel)) return {Status::kCancelled, -1};
  sums = {};
  for (const CompareSums& t : tiles) {
    sums.reference_power += t.reference_power;
    sums.other_power += t.other_power;
    sums.product += t.product;
    sums.error_power += t.error_power;
    sums.largest_error = std::max(sums.largest_error, t.largest_error);
  }
  if (!std::isfinite(sums.reference_power) || !std::isfinite(sums.other_power)) {
    for (std::size_t i = 0; i < count; i++) {
      if (!std::isfinite(reference[i]) || !std::isfinite(other[i])) {
        return {Status::kNonFinite, static_cast<std::int64_t>(i)};
      }
    }
  }
  return {};
}

}  // namespace lowbit
