#include "ops/linalg/gptq.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/kernels.h"
#include "core/pages.h"
#include "ops/linalg/cholesky.h"
#include "ops/linalg/code_rows.h"
#include "ops/matmul/strips.h"

namespace lowbit {
namespace {

constexpr std::size_t kLanes = kLinalgLanes;
constexpr int kMostDampings = 1000;    // each is a factorization
constexpr std::size_t kMostTiles = 4;  // of sixteen rows, that a task takes together
constexpr std::size_t kChunk = 512;    // columns whose errors are added at a time: a tile of them stays in a cache

// A part of the calling thread's scratch memory.
template <typename T>
T* take(std::uint8_t*& from, std::size_t count) {
  T* const result = reinterpret_cast<T*>(from);
  from += ceil_div(count * sizeof(T), 64) * 64;
  return result;
}

class Gptq {
 public:
  Gptq(const GptqArguments& a, const CancelFlag* cancel)
      : a_(a), cancel_(cancel), tiles_(ceil_div(a.rows, kLanes)), dead_(a.columns), importance_(a.columns, 1.0F) {}

  Outcome run();

 private:
  std::size_t source(std::size_t j) const { return a_.order == nullptr ? j : static_cast<std::size_t>(a_.order[j]); }
  // R[i][j] / R[j][j].
  float factor(std::size_t i, std::size_t j) const { return cholesky_.at(i, j) / cholesky_.diagonal(j); }

  Outcome factorize();
  void choose_importance();
  void list_groups();
  void gather(std::size_t tile, std::size_t tiles, const std::size_t* columns, std::size_t first, std::size_t count,
              bool zero_dead, float* out) const;
  void range(std::size_t tile, std::size_t group, const float* x, std::size_t stride, std::size_t count,
             const float* importance) const;
  bool static_ranges(bool again);
  bool sweep(bool keep);
  bool prepare(std::size_t begin, std::size_t end, std::size_t extent);
  void quantize(std::size_t tile, std::size_t tiles, std::size_t begin, std::size_t end, std::size_t extent, bool keep);
  bool write_results() const;
  template <typename Task>
  bool for_panels(const Task& task) const;

  const GptqArguments& a_;
  const CancelFlag* cancel_;
  std::size_t tiles_;
  std::vector<std::uint8_t> dead_;   // in order, as what follows
  std::vector<float> importance_;    // of ranges
  std::vector<float> pivots_;        // R[j][j]², or 1 without a Gram matrix
  std::vector<std::size_t> starts_;  // of each group among members_; one more at the end
  std::vector<std::size_t> members_;
  ReversedCholesky cholesky_;
  Pages scales_, zeros_;  // [tile][group][16]
  Pages errors_;          // [tile][column][16]
  Pages codes_;           // [row][column], code − lowest
  Pages targets_;         // [tile][column][16]: what the columns were when they were quantized
  Pages strips_;          // factor(i, j) for the columns j of a block and those that its ranges need, for all earlier i
  Pages within_;          // factor(i, j) in the block
  std::vector<double> losses_;
};

template <typename Task>
bool Gptq::for_panels(const Task& task) const {
  ThreadPool& pool = ThreadPool::instance();
  const std::size_t fair = tiles_ / (4 * pool.thread_count());
  const std::size_t width = std::max<std::size_t>(1, std::min(kMostTiles, fair));
  return pool.parallel_for(
      ceil_div(tiles_, width), [&](std::size_t p) { task(p * width, std::min(width, tiles_ - p * width)); }, cancel_);
}

Outcome Gptq::factorize() {
  double sum = 0.0;
  std::size_t alive = 0;
  for (std::size_t j = 0; j < a_.columns; j++) {
    const float diagonal = a_.gram[source(j) * a_.columns + source(j)];
    dead_[j] = diagonal == 0.0F;
    alive += dead_[j] ? 0 : 1;
    sum += static_cast<double>(diagonal);
  }
  const double mean = alive == 0 ? 0.0 : sum / static_cast<double>(alive);
  Outcome outcome{Status::kNotPositive, -1};
  for (int step = 0;; step++) {
    const double damp = a_.damp + static_cast<double>(step) * a_.damp_step;
    if (step > 0 && (!(damp < 1.0) || step > kMostDampings)) return outcome;
    outcome = cholesky_.factorize(a_.gram, a_.columns, a_.order, damp * mean, cancel_);
    *a_.damp_used = damp;
    if (outcome.status != Status::kNotPositive) break;
    if (!(a_.damp_step > 0.0)) return outcome;
  }
  if (outcome.status == Status::kNonFinite) {
    outcome.index += static_cast<std::int64_t>(a_.rows * a_.columns);
    return outcome;
  }
  if (outcome.status != Status::kOk) return outcome;
  for (std::size_t j = 0; j < a_.columns; j++) {
    const float root = cholesky_.diagonal(j);
    pivots_[j] = dead_[j] ? 0.0F : root * root;
  }
  return {};
}

void Gptq::choose_importance() {
  if (a_.importance == Importance::kNone) return;
  for (std::size_t j = 0; j < a_.columns; j++) {
    importance_[j] = a_.importance == Importance::kFactor ? pivots_[j] : a_.given_importance[source(j)];
  }
}

void Gptq::list_groups() {
  starts_.assign(a_.group_count + 1, 0);
  for (std::size_t j = 0; j < a_.columns; j++) starts_[static_cast<std::size_t>(a_.groups[j]) + 1]++;
  for (std::size_t g = 0; g < a_.group_count; g++) starts_[g + 1] += starts_[g];
  std::vector<std::size_t> next(starts_.begin(), starts_.end() - 1);
  members_.resize(a_.columns);
  for (std::size_t j = 0; j < a_.columns; j++) members_[next[static_cast<std::size_t>(a_.groups[j])]++] = j;
}

// Columns of the weight as lanes: out[i][row]. They are `columns[i]`, or from `first` on, in order.
void Gptq::gather(std::size_t tile, std::size_t tiles, const std::size_t* columns, std::size_t first, std::size_t count,
                  bool zero_dead, float* out) const {
  const std::size_t stride = tiles * kLanes, begin = tile * kLanes;
  for (std::size_t r = 0; r < stride; r++) {
    const bool padding = begin + r >= a_.rows;
    const float* row = a_.weight + (padding ? 0 : (begin + r) * a_.columns);
    for (std::size_t i = 0; i < count; i++) {
      const std::size_t j = columns != nullptr ? columns[i] : first + i;
      out[i * stride + r] = padding || (zero_dead && dead_[j]) ? 0.0F : row[source(j)];
    }
  }
}

void Gptq::range(std::size_t tile, std::size_t group, const float* x, std::size_t stride, std::size_t count,
                 const float* importance) const {
  RangeArguments r{};
  r.count = count;
  r.x = x;
  r.stride = stride;
  r.rule = a_.rule;
  r.symmetric = a_.symmetric;
  r.lowest = a_.lowest;
  r.highest = a_.highest;
  r.zero = a_.zero;
  r.steps = a_.steps;
  r.scale_type = a_.scale_type;
  r.factors = a_.factors;
  r.factor_count = a_.factor_count;
  r.importance = importance;
  r.power_2_4 = a_.power_2_4;
  r.scales = scales_.as<float>() + (tile * a_.group_count + group) * kLanes;
  r.zeros = zeros_.as<float>() + (tile * a_.group_count + group) * kLanes;
  kernels().linalg->range(r);
}

bool Gptq::static_ranges(bool again) {
  std::size_t longest = 0;
  for (std::size_t g = 0; g < a_.group_count; g++) longest = std::max(longest, starts_[g + 1] - starts_[g]);
  const bool weighted = a_.importance != Importance::kNone;
  return ThreadPool::instance().parallel_for(
      tiles_,
      [&](std::size_t tile) {
        std::uint8_t* memory = scratch(Scratch::kPanel, (longest * kLanes + longest) * sizeof(float) + 128);
        auto* const x = take<float>(memory, longest * kLanes);
        auto* const importance = take<float>(memory, longest);
        for (std::size_t g = 0; g < a_.group_count; g++) {
          const std::size_t begin = starts_[g], count = starts_[g + 1] - begin;
          if (again) {
            for (std::size_t i = 0; i < count; i++) {
              const float* from = targets_.as<float>() + (tile * a_.columns + members_[begin + i]) * kLanes;
              std::copy_n(from, kLanes, x + i * kLanes);
            }
          } else {
            gather(tile, 1, members_.data() + begin, 0, count, a_.zero_dead && !a_.ranges_with_dead, x);
          }
          for (std::size_t i = 0; i < count; i++) importance[i] = importance_[members_[begin + i]];
          range(tile, g, x, kLanes, count, weighted ? importance : nullptr);
        }
      },
      cancel_);
}

// The factors of a block's columns.
bool Gptq::prepare(std::size_t begin, std::size_t end, std::size_t extent) {
  const std::size_t count = end - begin;
  auto* const within = within_.as<float>();
  for (std::size_t i = 0; i < count; i++) {
    for (std::size_t j = i + 1; j < count; j++) within[i * count + j] = factor(begin + i, begin + j);
  }
  const Strips strips(extent - begin, kernels().matmul->float_rows);
  strips_.reserve(begin * (extent - begin) * sizeof(float));
  auto* const packed = strips_.as<float>();
  return ThreadPool::instance().parallel_for(
      strips.count,
      [&](std::size_t s) {
        const std::size_t width = strips.size(s), first = begin + strips.begin(s);
        float* to = packed + strips.begin(s) * begin;
        for (std::size_t i = 0; i < begin; i++) {
          for (std::size_t r = 0; r < width; r++) *to++ = factor(i, first + r);
        }
      },
      cancel_);
}

// Columns [begin, end) of some tiles. Ranges of groups that begin there may need columns up to `extent`.
void Gptq::quantize(std::size_t tile, std::size_t tiles, std::size_t begin, std::size_t end, std::size_t extent,
                    bool keep) {
  const std::size_t count = end - begin, width = extent - begin, stride = tiles * kLanes;
  std::uint8_t* memory =
      scratch(Scratch::kPanel, (width + count) * stride * sizeof(float) + count * kLanes * (1 + sizeof(float)) + 256);
  auto* const w = take<float>(memory, width * stride);
  auto* const original = take<float>(memory, count * stride);
  auto* const codes = take<std::uint8_t>(memory, count * kLanes);
  auto* const unused = take<float>(memory, count * kLanes);
  gather(tile, tiles, nullptr, begin, width, a_.zero_dead, w);
  std::memcpy(original, w, count * stride * sizeof(float));
  const MatmulKernels& kernel = *kernels().matmul;
  const Strips strips(width, kernel.float_rows);
  for (std::size_t k = 0; a_.gram != nullptr && k < begin; k += kChunk) {
    for (std::size_t s = 0; s < strips.count; s++) {
      FloatArguments f{};
      f.type = FloatType::kFloat32;
      f.tiles = tiles;
      f.weights = errors_.as<float>() + (tile * a_.columns + k) * kLanes;
      f.tile_stride = a_.columns * kLanes;
      f.count = std::min(kChunk, begin - k);
      f.rows = strips.size(s);
      f.activations = strips_.as<float>() + strips.begin(s) * begin + k * f.rows;
      f.out = w + strips.begin(s) * stride;
      f.out_stride = stride;
      kernel.float_dot(f);
    }
  }
  for (std::size_t t = 0; t < tiles; t++) {
    for (std::size_t j = begin; j < end && !a_.static_ranges; j++) {
      const auto group = static_cast<std::size_t>(a_.groups[j]);
      if (members_[starts_[group]] != j) continue;
      range(tile + t, group, w + (j - begin) * stride + t * kLanes, stride, starts_[group + 1] - starts_[group],
            a_.importance == Importance::kNone ? nullptr : importance_.data() + j);
    }
    SweepArguments s{};
    s.count = count;
    s.w = w + t * kLanes;
    s.original = original + t * kLanes;
    s.stride = stride;
    s.factor = a_.gram == nullptr ? nullptr : within_.as<float>();
    s.factor_stride = count;
    s.importance = pivots_.data() + begin;
    s.groups = a_.groups + begin;
    s.scales = scales_.as<float>() + (tile + t) * a_.group_count * kLanes;
    s.zeros = zeros_.as<float>() + (tile + t) * a_.group_count * kLanes;
    s.lowest = a_.lowest;
    s.highest = a_.highest;
    s.errors = a_.gram == nullptr ? unused : errors_.as<float>() + ((tile + t) * a_.columns + begin) * kLanes;
    s.codes = codes;
    s.loss = losses_.data() + (tile + t) * kLanes;
    kernels().linalg->sweep(s);
    for (std::size_t i = 0; keep && i < count; i++) {
      std::copy_n(s.w + i * stride, kLanes, targets_.as<float>() + ((tile + t) * a_.columns + begin + i) * kLanes);
    }
    for (std::size_t lane = 0; lane < std::min(kLanes, a_.rows - (tile + t) * kLanes); lane++) {
      std::uint8_t* row = codes_.data() + ((tile + t) * kLanes + lane) * a_.columns;
      for (std::size_t i = 0; i < count; i++) {
        row[a_.codes_in_order ? begin + i : source(begin + i)] = codes[i * kLanes + lane];
      }
    }
  }
}

bool Gptq::write_results() const {
  for (std::size_t row = 0; row < a_.rows; row++) {
    for (std::size_t g = 0; g < a_.group_count; g++) {
      const std::size_t from = (row / kLanes * a_.group_count + g) * kLanes + row % kLanes;
      const std::size_t to = row * a_.group_count + g;
      a_.scales[to] = scales_.as<float>()[from];
      if (a_.zeros != nullptr) a_.zeros[to] = static_cast<std::int32_t>(zeros_.as<float>()[from]);
    }
  }
  return pack_rows(codes_.data(), a_.rows, a_.columns, a_.code, a_.lowest, a_.codes, cancel_);
}

// All columns, block after block.
bool Gptq::sweep(bool keep) {
  const std::size_t block = std::min(a_.block, a_.columns);
  for (std::size_t begin = 0; begin < a_.columns; begin += block) {
    const std::size_t end = std::min(a_.columns, begin + block);
    std::size_t extent = end;
    for (std::size_t j = begin; j < end && !a_.static_ranges; j++) {
      const auto group = static_cast<std::size_t>(a_.groups[j]);
      if (members_[starts_[group]] == j) extent = std::max(extent, j + starts_[group + 1] - starts_[group]);
    }
    if (a_.gram != nullptr && !prepare(begin, end, extent)) return false;
    const bool done =
        for_panels([&](std::size_t tile, std::size_t tiles) { quantize(tile, tiles, begin, end, extent, keep); });
    if (!done) return false;
  }
  return true;
}

Outcome Gptq::run() {
  const Outcome cancelled{Status::kCancelled, -1};
  const std::ptrdiff_t bad = first_not_finite(a_.weight, a_.rows * a_.columns);
  if (bad >= 0) return {Status::kNonFinite, bad};
  pivots_.assign(a_.columns, 1.0F);
  *a_.loss = 0.0;
  *a_.damp_used = 0.0;
  if (a_.gram != nullptr) {
    const Outcome outcome = factorize();
    if (outcome.status != Status::kOk) return outcome;
  } else if (a_.importance == Importance::kGiven) {
    for (std::size_t j = 0; j < a_.columns; j++) pivots_[j] = a_.given_importance[source(j)];
  }
  if (tiles_ == 0 || a_.columns == 0) return {};
  choose_importance();
  list_groups();
  const std::size_t block = std::min(a_.block, a_.columns);
  scales_ = Pages(tiles_ * a_.group_count * kLanes * sizeof(float));
  zeros_ = Pages(tiles_ * a_.group_count * kLanes * sizeof(float));
  codes_ = Pages(a_.rows * a_.columns);
  if (a_.gram != nullptr) {
    errors_ = Pages(tiles_ * kLanes * a_.columns * sizeof(float));
    within_ = Pages(block * block * sizeof(float));
  }
  const std::size_t passes = a_.static_ranges && a_.gram != nullptr ? a_.passes : 1;
  if (passes > 1) targets_ = Pages(tiles_ * kLanes * a_.columns * sizeof(float));
  for (std::size_t pass = 0; pass < passes; pass++) {
    losses_.assign(tiles_ * kLanes, 0.0);
    if (a_.static_ranges && !static_ranges(pass != 0)) return cancelled;
    if (!sweep(pass + 1 < passes)) return cancelled;
  }
  if (!write_results()) return cancelled;
  for (std::size_t row = 0; row < a_.rows; row++) *a_.loss += losses_[row];
  for (std::size_t i = 0; i < a_.rows * a_.group_count; i++) {
    if (!is_finite(a_.scales[i])) return {Status::kScaleOverflow, static_cast<std::int64_t>(i)};
  }
  return {};
}

}  // namespace

Outcome gptq(const GptqArguments& arguments, const CancelFlag* cancel) { return Gptq(arguments, cancel).run(); }

}  // namespace lowbit
