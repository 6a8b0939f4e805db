#include "ops/hqq/hqq.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/kernels.h"
#include "core/pages.h"
#include "core/tiles.h"
#include "ops/affine/affine_math.h"
#include "ops/linalg/code_rows.h"
#include "ops/matmul/strips.h"

namespace lowbit {
namespace {

constexpr std::size_t kLanes = kHqqLanes;

// The same group of sixteen rows lies in the lanes.
class Hqq {
 public:
  Hqq(const HqqRequest& r, const CancelFlag* cancel)
      : r_(r),
        cancel_(cancel),
        groups_(ceil_div(r.columns, r.group_size)),
        tiles_(ceil_div(r.rows, kLanes)),
        steps_(tiles_ * groups_ * kLanes * sizeof(float)),
        zeros_(tiles_ * groups_ * kLanes * sizeof(float)),
        errors_(tiles_ * kLanes) {}

  Outcome run();

 private:
  // Calls body(arguments, begin) for every group of a tile; the lanes past the last row hold zeros.
  template <typename Body>
  bool for_groups(const Body& body);
  bool choose_codes();

  const HqqRequest& r_;
  const CancelFlag* cancel_;
  std::size_t groups_, tiles_;
  Pages steps_, zeros_;  // [tile][group][16]
  std::vector<double> errors_;
};

template <typename Body>
bool Hqq::for_groups(const Body& body) {
  const auto highest = static_cast<float>(r_.code.highest() - r_.code.lowest());
  return ThreadPool::instance().parallel_for(
      tiles_,
      [&](std::size_t tile) {
        auto* const x = reinterpret_cast<float*>(
            scratch(Scratch::kPanel, std::min(r_.group_size, r_.columns) * kLanes * sizeof(float)));
        for (std::size_t g = 0; g < groups_; g++) {
          const std::size_t begin = g * r_.group_size, count = std::min(r_.group_size, r_.columns - begin);
          for (std::size_t lane = 0; lane < kLanes; lane++) {
            const std::size_t row = tile * kLanes + lane;
            const float* from = r_.weight + std::min(row, r_.rows - 1) * r_.columns + begin;
            for (std::size_t i = 0; i < count; i++) x[i * kLanes + lane] = row < r_.rows ? from[i] : 0.0F;
          }
          const std::size_t at = (tile * groups_ + g) * kLanes;
          body(HqqArguments{count, x, highest, r_.round_zero, steps_.as<float>() + at, zeros_.as<float>() + at}, tile,
               g);
        }
      },
      cancel_);
}

bool Hqq::choose_codes() {
  const HqqKernels& kernel = *kernels().hqq;
  const auto highest = static_cast<float>(r_.code.highest() - r_.code.lowest());
  Pages bytes(r_.rows * r_.columns);
  const bool done = for_groups([&](HqqArguments a, std::size_t tile, std::size_t g) {
    std::uint8_t codes[kLanes];
    float zeros[kLanes], steps[kLanes];
    for (std::size_t lane = 0; lane < kLanes; lane++) {
      zeros[lane] = a.zeros[lane];
      if (r_.round_zero) zeros[lane] = round_half_even(std::min(std::max(zeros[lane], 0.0F), highest));
      steps[lane] = a.steps[lane];
    }
    const std::size_t begin = g * r_.group_size;
    const std::size_t lanes = std::min(kLanes, r_.rows - tile * kLanes);
    for (std::size_t i = 0; i < a.count; i++) {
      kernel.codes({1, a.x + i * kLanes, a.highest, false, steps, zeros}, codes);
      for (std::size_t lane = 0; lane < lanes; lane++) {
        bytes.data()[(tile * kLanes + lane) * r_.columns + begin + i] = codes[lane];
      }
    }
    for (std::size_t lane = 0; lane < lanes; lane++) {
      const std::size_t to = (tile * kLanes + lane) * groups_ + g;
      r_.scales[to] = std::max(round_to(r_.scale_type, 1.0F / steps[lane]), smallest_of(r_.scale_type));
      r_.zeros[to] = zeros[lane];
    }
  });
  return done && pack_rows(bytes.data(), r_.rows, r_.columns, r_.code, r_.code.lowest(), r_.codes, cancel_);
}

Outcome Hqq::run() {
  const Outcome cancelled{Status::kCancelled, -1};
  const std::ptrdiff_t bad = first_not_finite(r_.weight, r_.rows * r_.columns);
  if (bad >= 0) return {Status::kNonFinite, bad};
  const HqqKernels& kernel = *kernels().hqq;
  if (!for_groups([&](const HqqArguments& a, std::size_t, std::size_t) { kernel.start(a); })) return cancelled;
  float best = 1e4F;
  for (std::size_t step = 0; step < r_.steps; step++) {
    std::fill(errors_.begin(), errors_.end(), 0.0);
    const bool done = for_groups([&](const HqqArguments& a, std::size_t tile, std::size_t) {
      kernel.step(a, r_.power, r_.beta, errors_.data() + tile * kLanes);
    });
    if (!done) return cancelled;
    double sum = 0.0;
    for (std::size_t row = 0; row < r_.rows; row++) sum += errors_[row];
    const auto error = static_cast<float>(sum / static_cast<double>(r_.rows * r_.columns));
    if (!(error < best)) break;
    best = error;
  }
  if (!choose_codes()) return cancelled;
  for (std::size_t i = 0; i < r_.rows * groups_; i++) {
    if (!is_finite(r_.scales[i])) return {Status::kScaleOverflow, static_cast<std::int64_t>(i)};
  }
  return {};
}

}  // namespace

Outcome hqq(const HqqRequest& request, const CancelFlag* cancel) {
  if (request.rows == 0 || request.columns == 0) return {};
  return Hqq(request, cancel).run();
}

}  // namespace lowbit
