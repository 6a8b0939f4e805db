#include "ops/logits/logits.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/kernels.h"
#include "core/tiles.h"

namespace lowbit {
namespace {

struct Row {
  const float* data;
  LogitTop top;

  // sum ≥ 1, so that sum − 1 is exact; log itself would tie the addon to glibc 2.29.
  double log_sum(double sum) const { return static_cast<double>(top.largest) + std::log1p(sum - 1.0); }
};

}  // namespace

Outcome logit_statistics(const float* logits, const float* reference, const std::int32_t* targets, std::size_t rows,
                         std::size_t vocabulary, LogitStatistics* statistics, std::int32_t* largest,
                         const CancelFlag* cancel) {
  const LogitsKernels& k = *kernels().logits;
  const auto position = [&](std::size_t i) -> std::int64_t {
    const auto row_at = [&](const float* data) { return Row{data, k.top(data, vocabulary)}; };
    const auto target = static_cast<std::size_t>(targets[i]);
    const Row row = row_at(logits + i * vocabulary);
    if (reference == nullptr) {
      if (row.top.non_finite >= 0) return row.top.non_finite;
      const double sum = row.log_sum(k.sum_exponentials(row.data, row.top.largest, vocabulary));
      statistics[i] = {sum - static_cast<double>(row.data[target]), 0.0, 0.0, 0.0};
      largest[2 * i] = static_cast<std::int32_t>(row.top.index);
      largest[2 * i + 1] = -1;
      return -1;
    }
    const Row original = row_at(reference + i * vocabulary);
    const std::int64_t a = row.top.non_finite, b = original.top.non_finite;
    if (a >= 0 || b >= 0) return a < 0 || (b >= 0 && b < a) ? b : a;
    const LogitSums sums = k.compare(original.data, original.top.largest, row.data, row.top.largest, vocabulary);
    const double sum = row.log_sum(sums.other), original_sum = original.log_sum(sums.reference);
    const double divergence = sums.weighted / sums.reference - original_sum + sum;
    statistics[i] = {sum - static_cast<double>(row.data[target]),
                     original_sum - static_cast<double>(original.data[target]), std::max(0.0, divergence),
                     sums.difference};
    largest[2 * i] = static_cast<std::int32_t>(row.top.index);
    largest[2 * i + 1] = static_cast<std::int32_t>(original.top.index);
    return -1;
  };
  const std::size_t rows_per_tile = std::max<std::size_t>(1, kTileElements / std::max<std::size_t>(1, vocabulary));
  std::vector<std::int64_t> faults(ceil_div(rows, rows_per_tile), -1);
  const auto tile = [&](std::size_t t) {
    const std::size_t end = std::min(rows, (t + 1) * rows_per_tile);
    for (std::size_t i = t * rows_per_tile; i < end; i++) {
      const std::int64_t fault = position(i);
      if (fault < 0) continue;
      faults[t] = static_cast<std::int64_t>(i * vocabulary) + fault;
      return;
    }
  };
  if (!ThreadPool::instance().parallel_for(faults.size(), tile, cancel)) return {Status::kCancelled, -1};
  for (const std::int64_t fault : faults) {
    if (fault >= 0) return {Status::kNonFinite, fault};
  }
  return {};
}

}  // namespace lowbit
