// GPTQ on a device: the loops of gptq.cc, block after block of columns. A warp quantizes two rows of a panel of columns
// one after the other, each lane holding four of the columns; what the errors of a panel do to all later columns is
// added at once, in the order of the columns. Every weight meets the operations of gptq.cc in their order.

#include <algorithm>
#include <vector>

#include "cuda/float_tiles.cuh"
#include "ops/linalg/gptq_cuda.h"
#include "ops/linalg/linalg_device.cuh"
#include "ops/linalg/linalg_math.h"

namespace lowbit {
namespace {

constexpr unsigned kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kMostDampings = 1000;  // each is a factorization, as in gptq.cc
constexpr unsigned kMostGridY = 65535;

// What kernels know of the weight. Columns are counted in the order of quantization.
struct Columns {
  const float* weight;  // [rows, columns]
  std::size_t rows, columns;
  const std::int32_t* order;  // or nullptr
  const std::uint8_t* dead;   // of columns that become zero, or nullptr

  __device__ std::size_t source(std::size_t j) const {
    return order == nullptr ? j : static_cast<std::size_t>(order[j]);
  }
  __device__ float original(std::size_t row, std::size_t j) const {
    return dead != nullptr && dead[j] != 0 ? 0.0F : weight[row * columns + source(j)];
  }
};

__global__ void __launch_bounds__(kThreads) gather_columns(Columns c, float* w) {
  for (std::size_t i = grid_thread(); i < c.rows * c.columns; i += grid_threads()) {
    w[i] = c.original(i / c.columns, i % c.columns);
  }
}

__global__ void gather_diagonal(const float* gram, std::size_t size, float* out) {
  for (std::size_t i = grid_thread(); i < size; i += grid_threads()) out[i] = gram[i * size + i];
}

// --- ranges ---

struct Ranges {
  RangeArguments rule;  // but for what differs by group and row
  const float* w;       // [rows, columns]
  std::size_t rows, columns, group_count;
  const std::int32_t *starts, *members;  // of groups, as Gptq in gptq.cc has them
  const std::int32_t* groups;            // those to be computed
  std::size_t count;
  const float* importance;  // [columns] or nullptr
  float *scales, *zeros;    // [rows, group_count]
};

// A warp for a row of a group, a lane for a factor.
__global__ void __launch_bounds__(kThreads) find_ranges(Ranges r) {
  const std::size_t row = grid_thread() / kWarp, lane = threadIdx.x % kWarp;
  if (row >= r.rows) return;
  const RangeArguments& rule = r.rule;
  const float lowest = static_cast<float>(rule.lowest), highest = static_cast<float>(rule.highest);
  const float* const w = r.w + row * r.columns;
  for (std::size_t g = blockIdx.y; g < r.count; g += gridDim.y) {
    const auto group = static_cast<std::size_t>(r.groups[g]);
    const std::int32_t* const members = r.members + r.starts[group];
    const auto count = static_cast<std::size_t>(r.starts[group + 1] - r.starts[group]);
    float min = 0.0F, max = 0.0F;
    for (std::size_t i = lane; i < count; i += kWarp) {
      const float x = w[members[i]];
      min = x < min ? x : min;
      max = x > max ? x : max;
    }
    min = warp_reduce(min, [](float a, float b) { return b < a ? b : a; });
    max = warp_reduce(max, [](float a, float b) { return b > a ? b : a; });
    float least = INFINITY;
    auto best = static_cast<unsigned>(rule.factor_count);  // none
    for (std::size_t f = lane; f < rule.factor_count && rule.factor_count > 1; f += kWarp) {
      const Parameters p = parameters_of(rule, min * rule.factors[f], max * rule.factors[f]);
      float cost = 0.0F;
      for (std::size_t i = 0; i < count; i++) {
        const float x = w[members[i]];
        const float error = p.scale * steps_of(x, p.scale, lowest - p.zero, highest - p.zero) - x;
        const float power = rule.power_2_4 ? power_2_4(error) : error * error;
        cost = r.importance != nullptr ? __fmaf_rn(power, r.importance[members[i]], cost) : cost + power;
      }
      if (cost < least) {
        least = cost;
        best = static_cast<unsigned>(f);
      }
    }
    for (unsigned step = kWarp / 2; step != 0; step /= 2) {
      const float other_least = __shfl_xor_sync(kAllLanes, least, step);
      const unsigned other_best = __shfl_xor_sync(kAllLanes, best, step);
      if (other_least < least || (other_least == least && other_best < best)) {
        least = other_least;
        best = other_best;
      }
    }
    const float factor = rule.factors[best < rule.factor_count ? best : 0];
    const Parameters p = parameters_of(rule, min * factor, max * factor);
    if (lane == 0) {
      r.scales[row * r.group_count + group] = p.scale;
      r.zeros[row * r.group_count + group] = p.zero;
    }
  }
}

// --- the sweep ---

constexpr unsigned kPanel = 128, kRowsOfWarp = 2, kRowsOfBlock = kWarps * kRowsOfWarp;
constexpr unsigned kOwn = kPanel / kWarp;  // columns of a lane
constexpr unsigned kErrorPitch = kRowsOfBlock + 1;

struct Sweep {
  Columns from;
  float* w;                    // [rows, columns]: with the errors of earlier panels; left as it was when quantized
  const float* factor;         // [columns, columns] or nullptr: errors are left where they are
  const std::int32_t* groups;  // [columns]
  std::size_t group_count;
  const float *scales, *zeros;  // [rows, group_count]
  int lowest, highest;
  bool codes_in_order;
  std::uint8_t* codes;  // [rows, columns]: code − lowest
  float* errors;        // [panel][error_pitch], or nullptr where nobody reads them
  std::size_t error_pitch;
};

__global__ void __launch_bounds__(kThreads) sweep_panel(Sweep s, std::size_t begin, unsigned count) {
  auto* const factor = reinterpret_cast<float*>(shared_memory());
  const std::size_t columns = s.from.columns;
  const bool moves = s.factor != nullptr;
  for (unsigned i = threadIdx.x; moves && i < kPanel * kPanel; i += kThreads) {
    const unsigned row = i / kPanel, column = i % kPanel;
    const bool inside = row < column && column < count;
    factor[i] = inside ? s.factor[(begin + row) * columns + begin + column] : 0.0F;
  }
  __syncthreads();
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::size_t first_row = std::size_t{blockIdx.x} * kRowsOfBlock + warp * kRowsOfWarp;
  const float lowest = static_cast<float>(s.lowest), highest = static_cast<float>(s.highest);
  float w[kRowsOfWarp][kOwn], original[kRowsOfWarp][kOwn], scale[kRowsOfWarp][kOwn], zero[kRowsOfWarp][kOwn];
  float errors[kRowsOfWarp][kOwn];
  unsigned codes[kRowsOfWarp];
#pragma unroll
  for (unsigned r = 0; r < kRowsOfWarp; r++) {
    codes[r] = 0;
#pragma unroll
    for (unsigned e = 0; e < kOwn; e++) {
      const std::size_t row = first_row + r, j = begin + lane * kOwn + e;
      const bool inside = row < s.from.rows && lane * kOwn + e < count;
      const std::size_t parameter = inside ? row * s.group_count + static_cast<std::size_t>(s.groups[j]) : 0;
      w[r][e] = inside ? s.w[row * columns + j] : 0.0F;
      original[r][e] = inside ? s.from.original(row, j) : 0.0F;
      scale[r][e] = inside ? s.scales[parameter] : 1.0F;
      zero[r][e] = inside ? s.zeros[parameter] : 0.0F;
      errors[r][e] = 0.0F;
    }
  }
  for (unsigned owner = 0; owner * kOwn < count; owner++) {
#pragma unroll
    for (unsigned e = 0; e < kOwn; e++) {
      const unsigned i = owner * kOwn + e;
      if (i >= count) break;
      float4 four = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
      if (moves) four = *reinterpret_cast<const float4*>(factor + i * kPanel + lane * kOwn);
      const float factors[kOwn] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (unsigned r = 0; r < kRowsOfWarp; r++) {
        // All lanes quantize; the owner's is meant.
        const float steps = steps_of(w[r][e], scale[r][e], lowest - zero[r][e], highest - zero[r][e]);
        const float own_error = original[r][e] - steps * scale[r][e];
        const float error = __shfl_sync(kAllLanes, own_error, owner);
        if (lane == owner) {
          errors[r][e] = own_error;
          codes[r] |= static_cast<unsigned>(static_cast<std::uint8_t>(steps + zero[r][e] - lowest)) << (8 * e);
        }
        if (!moves) continue;
#pragma unroll
        for (unsigned later = 0; later < kOwn; later++) {
          if (lane > owner || (lane == owner && later > e)) {
            w[r][later] = __fmaf_rn(error, factors[later], w[r][later]);
          }
        }
      }
    }
  }
#pragma unroll
  for (unsigned r = 0; r < kRowsOfWarp; r++) {
#pragma unroll
    for (unsigned e = 0; e < kOwn; e++) {
      const std::size_t row = first_row + r, j = begin + lane * kOwn + e;
      if (row >= s.from.rows || lane * kOwn + e >= count) continue;
      s.w[row * columns + j] = w[r][e];
      s.codes[row * columns + (s.codes_in_order ? j : s.from.source(j))] =
          static_cast<std::uint8_t>(codes[r] >> (8 * e));
    }
  }
  if (s.errors == nullptr) return;
  // By columns, through shared memory: neighbours write neighbours.
  __syncthreads();
#pragma unroll
  for (unsigned r = 0; r < kRowsOfWarp; r++) {
#pragma unroll
    for (unsigned e = 0; e < kOwn; e++) {
      factor[(lane * kOwn + e) * kErrorPitch + warp * kRowsOfWarp + r] = errors[r][e];
    }
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < count * kRowsOfBlock; i += kThreads) {
    const std::size_t row = std::size_t{blockIdx.x} * kRowsOfBlock + i % kRowsOfBlock;
    const unsigned column = i / kRowsOfBlock;
    if (row < s.from.rows) s.errors[column * s.error_pitch + row] = factor[column * kErrorPitch + i % kRowsOfBlock];
  }
}

// --- results ---

// Σ over the columns of importance · (w − value)², in float64 in their order: a thread for a row.
__global__ void sum_losses(Sweep s, const float* importance, double* losses) {
  const std::size_t row = grid_thread(), columns = s.from.columns;
  if (row >= s.from.rows) return;
  const float* const w = s.w + row * columns;
  const std::uint8_t* const codes = s.codes + row * columns;
  double loss = 0.0;
#pragma unroll 4
  for (std::size_t j = 0; j < columns; j++) {
    const std::size_t parameter = row * s.group_count + static_cast<std::size_t>(s.groups[j]);
    const int code = codes[s.codes_in_order ? j : s.from.source(j)] + s.lowest;
    const float left = w[j] - (static_cast<float>(code) - s.zeros[parameter]) * s.scales[parameter];
    loss += static_cast<double>(importance[j]) * static_cast<double>(left * left);
  }
  losses[row] = loss;
}

// One block of threads: the first adds up what all have read.
__global__ void __launch_bounds__(kThreads) add_losses(const double* losses, std::size_t count, double* sum) {
  auto* const some = reinterpret_cast<double*>(shared_memory());
  double total = 0.0;
  for (std::size_t begin = 0; begin < count; begin += kThreads) {
    if (begin + threadIdx.x < count) some[threadIdx.x] = losses[begin + threadIdx.x];
    __syncthreads();
    for (std::size_t i = 0; threadIdx.x == 0 && i < kThreads && begin + i < count; i++) total += some[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) *sum = total;
}

__global__ void __launch_bounds__(kThreads) pack_codes(const std::uint8_t* codes, std::size_t rows, std::size_t columns,
                                                       CodeType type, int lowest, std::uint8_t* out) {
  const std::size_t row_bytes = type.packed_bytes(columns), bits = type.bits;
  const unsigned mask = (1U << bits) - 1U;
  for (std::size_t i = grid_thread(); i < rows * row_bytes; i += grid_threads()) {
    const std::size_t row = i / row_bytes, first_bit = i % row_bytes * 8;
    unsigned byte = 0;
    for (std::size_t j = first_bit / bits; j < columns && j * bits < first_bit + 8; j++) {
      const unsigned code = static_cast<unsigned>(static_cast<int>(codes[row * columns + j]) + lowest) & mask;
      byte |= j * bits >= first_bit ? code << (j * bits - first_bit) : code >> (first_bit - j * bits);
    }
    out[i] = static_cast<std::uint8_t>(byte);
  }
}

__global__ void __launch_bounds__(kThreads) to_integers(const float* in, std::size_t count, std::int32_t* out) {
  for (std::size_t i = grid_thread(); i < count; i += grid_threads()) out[i] = static_cast<std::int32_t>(in[i]);
}

// --- the operation ---

class GptqOnDevice {
 public:
  GptqOnDevice(const CudaStream& stream, const GptqArguments& a)
      : stream_(stream),
        a_(a),
        findings_(stream),
        order_(stream),
        groups_(stream),
        starts_(stream),
        members_(stream),
        list_(stream),
        dead_(stream),
        importance_(stream),
        pivots_(stream),
        factors_(stream),
        factor_(stream),
        diagonal_(stream),
        w_(stream),
        codes_(stream),
        zeros_(stream),
        errors_(stream),
        losses_(stream) {}

  CudaStatus run(Outcome* outcome);

 private:
  std::size_t source(std::size_t j) const { return a_.order == nullptr ? j : static_cast<std::size_t>(a_.order[j]); }
  std::size_t size() const { return a_.rows * a_.columns; }
  unsigned blocks(std::size_t count) const { return blocks_for(stream_, count, kThreads); }
  Columns columns() const {
    return {a_.weight, a_.rows, a_.columns, order_.as<std::int32_t>(),
            a_.zero_dead ? dead_.as<std::uint8_t>() : nullptr};
  }

  CudaStatus check(Outcome* outcome);
  CudaStatus factorize(Outcome* outcome);
  CudaStatus prepare();
  CudaStatus ranges(std::size_t first, std::size_t count);
  CudaStatus sweep();
  CudaStatus write(Outcome* outcome);

  const CudaStream& stream_;
  const GptqArguments& a_;
  Findings findings_;
  std::vector<float> host_diagonal_, host_pivots_, host_importance_;
  std::vector<std::uint8_t> host_dead_;
  std::vector<std::int32_t> host_starts_, host_members_, host_list_;
  std::vector<std::size_t> begins_;  // of the groups of the list: their first columns
  Workspace order_, groups_, starts_, members_, list_, dead_, importance_, pivots_, factors_;
  Workspace factor_, diagonal_, w_, codes_, zeros_, errors_, losses_;
  Sweep sweep_{};
};

// Of the weight, then of the Gram matrix, whose diagonal comes to the host.
CudaStatus GptqOnDevice::check(Outcome* outcome) {
  LOWBIT_TRY(findings_.clear());
  LOWBIT_TRY(check_finite(stream_, a_.weight, size(), Status::kNonFinite, findings_.device()));
  LOWBIT_TRY(findings_.read(outcome));
  if (outcome->status != Status::kOk || a_.gram == nullptr) return CudaStatus::kOk;
  const std::size_t n = a_.columns;
  LOWBIT_TRY(diagonal_.reserve(n * sizeof(float)));
  LOWBIT_TRY(check_finite(stream_, a_.gram, n * n, Status::kNonFinite, findings_.device()));
  LOWBIT_TRY(launch(stream_, gather_diagonal, dim3(blocks(n)), kThreads, 0, a_.gram, n, diagonal_.as<float>()));
  host_diagonal_.resize(n);
  LOWBIT_TRY(cuda_status(cudaMemcpyAsync(host_diagonal_.data(), diagonal_.as<float>(), n * sizeof(float),
                                         cudaMemcpyDeviceToHost, stream_.stream)));
  LOWBIT_TRY(findings_.read(outcome));
  if (outcome->status == Status::kNonFinite) outcome->index += static_cast<std::int64_t>(size());
  return CudaStatus::kOk;
}

// With the least damping that makes the Gram matrix positive definite.
CudaStatus GptqOnDevice::factorize(Outcome* outcome) {
  const std::size_t n = a_.columns;
  double sum = 0.0;
  std::size_t alive = 0;
  host_dead_.resize(n);
  for (std::size_t j = 0; j < n; j++) {
    const float diagonal = host_diagonal_[source(j)];
    host_dead_[j] = diagonal == 0.0F;
    alive += host_dead_[j] != 0 ? 0 : 1;
    sum += static_cast<double>(diagonal);
  }
  const double mean = alive == 0 ? 0.0 : sum / static_cast<double>(alive);
  LOWBIT_TRY(upload(stream_, host_dead_.data(), n, dead_));
  LOWBIT_TRY(factor_.reserve(n * n * sizeof(float)));
  *outcome = {Status::kNotPositive, -1};
  for (int step = 0;; step++) {
    const double damp = a_.damp + static_cast<double>(step) * a_.damp_step;
    if (step > 0 && (!(damp < 1.0) || step > kMostDampings)) return CudaStatus::kOk;
    LOWBIT_TRY(findings_.clear());
    LOWBIT_TRY(queue_cholesky(stream_, {a_.gram, n, order_.as<std::int32_t>(), static_cast<float>(damp * mean),
                                        factor_.as<float>(), diagonal_.as<float>(), findings_.device()}));
    LOWBIT_TRY(cuda_status(cudaMemcpyAsync(host_diagonal_.data(), diagonal_.as<float>(), n * sizeof(float),
                                           cudaMemcpyDeviceToHost, stream_.stream)));
    LOWBIT_TRY(findings_.read(outcome));
    *a_.damp_used = damp;
    if (outcome->status != Status::kNotPositive) break;
    if (!(a_.damp_step > 0.0)) return CudaStatus::kOk;
  }
  for (std::size_t j = 0; j < n; j++) {
    const float root = host_diagonal_[j];
    host_pivots_[j] = host_dead_[j] != 0 ? 0.0F : root * root;
  }
  return CudaStatus::kOk;
}

// Groups, importance and room for what the sweep writes.
CudaStatus GptqOnDevice::prepare() {
  const std::size_t n = a_.columns, groups = a_.group_count;
  host_starts_.assign(groups + 1, 0);
  for (std::size_t j = 0; j < n; j++) host_starts_[static_cast<std::size_t>(a_.groups[j]) + 1]++;
  for (std::size_t g = 0; g < groups; g++) host_starts_[g + 1] += host_starts_[g];
  std::vector<std::int32_t> next(host_starts_.begin(), host_starts_.end() - 1);
  host_members_.resize(n);
  for (std::size_t j = 0; j < n; j++) {
    host_members_[static_cast<std::size_t>(next[static_cast<std::size_t>(a_.groups[j])]++)] =
        static_cast<std::int32_t>(j);
  }
  // All groups where ranges are static, else as they begin.
  for (std::size_t g = 0; a_.static_ranges && g < groups; g++) host_list_.push_back(static_cast<std::int32_t>(g));
  for (std::size_t j = 0; !a_.static_ranges && j < n; j++) {
    const auto group = static_cast<std::size_t>(a_.groups[j]);
    if (static_cast<std::size_t>(host_members_[static_cast<std::size_t>(host_starts_[group])]) != j) continue;
    host_list_.push_back(a_.groups[j]);
    begins_.push_back(j);
  }
  if (a_.importance != Importance::kNone) {
    host_importance_.resize(n);
    for (std::size_t j = 0; j < n; j++) {
      host_importance_[j] = a_.importance == Importance::kFactor ? host_pivots_[j] : a_.given_importance[source(j)];
    }
  }
  LOWBIT_TRY(upload(stream_, a_.groups, n, groups_));
  LOWBIT_TRY(upload(stream_, host_starts_.data(), host_starts_.size(), starts_));
  LOWBIT_TRY(upload(stream_, host_members_.data(), n, members_));
  LOWBIT_TRY(upload(stream_, host_list_.data(), host_list_.size(), list_));
  LOWBIT_TRY(upload(stream_, host_importance_.data(), host_importance_.size(), importance_));
  LOWBIT_TRY(upload(stream_, host_pivots_.data(), n, pivots_));
  LOWBIT_TRY(upload(stream_, a_.factors, a_.factor_count, factors_));

  const std::size_t parameters = a_.rows * groups, error_pitch = (a_.rows + 3) / 4 * 4;
  LOWBIT_TRY(w_.reserve(size() * sizeof(float)));
  LOWBIT_TRY(codes_.reserve(size()));
  LOWBIT_TRY(zeros_.reserve(parameters * sizeof(float)));
  LOWBIT_TRY(cuda_status(cudaMemsetAsync(a_.scales, 0, parameters * sizeof(float), stream_.stream)));
  LOWBIT_TRY(cuda_status(cudaMemsetAsync(zeros_.as<float>(), 0, parameters * sizeof(float), stream_.stream)));
  if (a_.gram != nullptr) LOWBIT_TRY(errors_.reserve(kPanel * error_pitch * sizeof(float)));
  sweep_ = {columns(),
            w_.as<float>(),
            a_.gram == nullptr ? nullptr : factor_.as<float>(),
            groups_.as<std::int32_t>(),
            groups,
            a_.scales,
            zeros_.as<float>(),
            a_.lowest,
            a_.highest,
            a_.codes_in_order,
            codes_.as<std::uint8_t>(),
            errors_.as<float>(),
            error_pitch};
  return CudaStatus::kOk;
}

// Of `count` groups of the list, from w as it is.
CudaStatus GptqOnDevice::ranges(std::size_t first, std::size_t count) {
  Ranges r{};
  r.rule.rule = a_.rule;
  r.rule.symmetric = a_.symmetric;
  r.rule.lowest = a_.lowest;
  r.rule.highest = a_.highest;
  r.rule.zero = a_.zero;
  r.rule.steps = a_.steps;
  r.rule.scale_type = a_.scale_type;
  r.rule.factors = factors_.as<float>();
  r.rule.factor_count = a_.factor_count;
  r.rule.power_2_4 = a_.power_2_4;
  r.w = w_.as<float>();
  r.rows = a_.rows;
  r.columns = a_.columns;
  r.group_count = a_.group_count;
  r.starts = starts_.as<std::int32_t>();
  r.members = members_.as<std::int32_t>();
  r.groups = list_.as<std::int32_t>() + first;
  r.count = count;
  r.importance = importance_.as<float>();
  r.scales = a_.scales;
  r.zeros = zeros_.as<float>();
  const dim3 grid(static_cast<unsigned>((a_.rows + kWarps - 1) / kWarps),
                  static_cast<unsigned>(std::min<std::size_t>(count, kMostGridY)));
  return launch(stream_, find_ranges, grid, kThreads, 0, r);
}

// All columns, block after block.
CudaStatus GptqOnDevice::sweep() {
  const std::size_t n = a_.columns, block = std::min(a_.block, n);
  std::size_t listed = 0;
  for (std::size_t begin = 0; begin < n; begin += block) {
    const std::size_t end = std::min(n, begin + block), first = listed;
    while (!a_.static_ranges && listed < begins_.size() && begins_[listed] < end) listed++;
    LOWBIT_TRY(ranges(first, listed - first));
    for (std::size_t panel = begin; panel < end; panel += kPanel) {
      const std::size_t count = std::min<std::size_t>(kPanel, end - panel), behind = panel + count;
      Sweep s = sweep_;
      if (behind == n) s.errors = nullptr;
      LOWBIT_TRY(launch(stream_, sweep_panel, dim3(static_cast<unsigned>((a_.rows + kRowsOfBlock - 1) / kRowsOfBlock)),
                        kThreads, std::size_t{kPanel} * kPanel * sizeof(float), s, panel,
                        static_cast<unsigned>(count)));
      if (s.errors == nullptr) continue;
      const FloatRows errors{s.errors, FloatType::kFloat32, s.error_pitch, a_.rows};
      const FloatRows factor{s.factor + panel * n + behind, FloatType::kFloat32, n, n - behind};
      LOWBIT_TRY(queue_products(stream_, errors, factor, count, 1.0F, false, s.w + behind, n));
    }
  }
  return CudaStatus::kOk;
}

CudaStatus GptqOnDevice::write(Outcome* outcome) {
  const std::size_t parameters = a_.rows * a_.group_count;
  LOWBIT_TRY(losses_.reserve((a_.rows + 1) * sizeof(double)));
  auto* const losses = losses_.as<double>();
  constexpr unsigned kLossThreads = 32;  // few rows on many multiprocessors
  LOWBIT_TRY(launch(stream_, sum_losses, dim3(static_cast<unsigned>((a_.rows + kLossThreads - 1) / kLossThreads)),
                    kLossThreads, 0, sweep_, static_cast<const float*>(pivots_.as<float>()), losses + 1));
  LOWBIT_TRY(launch(stream_, add_losses, dim3(1), kThreads, kThreads * sizeof(double),
                    static_cast<const double*>(losses + 1), a_.rows, losses));
  LOWBIT_TRY(launch(stream_, pack_codes, dim3(blocks(a_.rows * a_.code.packed_bytes(a_.columns))), kThreads, 0,
                    static_cast<const std::uint8_t*>(codes_.as<std::uint8_t>()), a_.rows, a_.columns, a_.code,
                    a_.lowest, a_.codes));
  if (a_.zeros != nullptr) {
    LOWBIT_TRY(launch(stream_, to_integers, dim3(blocks(parameters)), kThreads, 0,
                      static_cast<const float*>(zeros_.as<float>()), parameters, a_.zeros));
  }
  LOWBIT_TRY(findings_.clear());
  LOWBIT_TRY(check_finite(stream_, a_.scales, parameters, Status::kScaleOverflow, findings_.device()));
  LOWBIT_TRY(cuda_status(cudaMemcpyAsync(a_.loss, losses, sizeof *a_.loss, cudaMemcpyDeviceToHost, stream_.stream)));
  return findings_.read(outcome);
}

CudaStatus GptqOnDevice::run(Outcome* outcome) {
  *a_.loss = 0.0;
  *a_.damp_used = 0.0;
  host_pivots_.assign(a_.columns, 1.0F);
  LOWBIT_TRY(check(outcome));
  if (outcome->status != Status::kOk) return CudaStatus::kOk;
  if (a_.order != nullptr) LOWBIT_TRY(upload(stream_, a_.order, a_.columns, order_));
  if (a_.gram != nullptr) {
    LOWBIT_TRY(factorize(outcome));
    if (outcome->status != Status::kOk) return CudaStatus::kOk;
  } else if (a_.importance == Importance::kGiven) {
    for (std::size_t j = 0; j < a_.columns; j++) host_pivots_[j] = a_.given_importance[source(j)];
  }
  if (size() == 0) return CudaStatus::kOk;
  LOWBIT_TRY(prepare());
  const std::size_t passes = a_.static_ranges && a_.gram != nullptr ? a_.passes : 1;
  for (std::size_t pass = 0; pass < passes; pass++) {
    // Ranges follow from the weight, or from what its columns were when they were last quantized.
    const auto gather = [&](const Columns& from) {
      return launch(stream_, gather_columns, dim3(blocks(size())), kThreads, 0, from, w_.as<float>());
    };
    Columns seen = columns();
    if (a_.static_ranges && a_.ranges_with_dead) seen.dead = nullptr;
    if (pass == 0) LOWBIT_TRY(gather(seen));
    if (a_.static_ranges) LOWBIT_TRY(ranges(0, host_list_.size()));
    if (pass != 0 || seen.dead != columns().dead) LOWBIT_TRY(gather(columns()));
    LOWBIT_TRY(sweep());
  }
  return write(outcome);
}

CudaStatus run_gptq(CudaStream* stream, const GptqArguments& arguments, Outcome* outcome) {
  *outcome = {};
  return GptqOnDevice(*stream, arguments).run(outcome);
}

CudaStatus run_factorization(CudaStream* stream, const float* h, std::size_t size, const std::int32_t* order,
                             double damp, float* factor, float* diagonal, Outcome* outcome) {
  *outcome = {};
  if (size == 0) return CudaStatus::kOk;
  Findings findings(*stream);
  Workspace on_order(*stream);
  if (order != nullptr) LOWBIT_TRY(upload(*stream, order, size, on_order));
  LOWBIT_TRY(findings.clear());
  LOWBIT_TRY(check_finite(*stream, h, size * size, Status::kNonFinite, findings.device()));
  LOWBIT_TRY(findings.read(outcome));
  if (outcome->status != Status::kOk) return CudaStatus::kOk;
  LOWBIT_TRY(queue_cholesky(
      *stream, {h, size, on_order.as<std::int32_t>(), static_cast<float>(damp), factor, diagonal, findings.device()}));
  return findings.read(outcome);
}

}  // namespace

const GptqCuda kGptqCuda = {run_factorization, run_gptq};

}  // namespace lowbit
