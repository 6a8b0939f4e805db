// Ranges of parameter sets that are longer than what a block holds, or that lie in pieces. Each warp goes through
// consecutive units, and adds what it found to memory where the parameter set changes.

#include "ops/affine/ranges_cuda.h"

namespace lowbit {
namespace {

constexpr unsigned kThreads = 256, kBatch = 4;  // units that a thread loads at a time
constexpr std::size_t kNoParameter = ~std::size_t{0};

struct Ranges {
  unsigned *least, *largest;
  CudaFinding* finding;
  NonFinite non_finite;

  __device__ bool symmetric() const { return least == nullptr; }

  // Atomic only if it changes something: most do not.
  __device__ static void raise(unsigned* to, float magnitude) {
    const unsigned bits = __float_as_uint(magnitude);
    if (bits > *static_cast<volatile unsigned*>(to)) atomicMax(to, bits);
  }
  __device__ void add(const Range& range, std::size_t parameter) const {
    raise(largest + parameter, range.high);
    if (!symmetric()) raise(least + parameter, fabsf(range.low));
  }

  // The range of a unit, all of whose elements are taken as finite afterwards.
  __device__ Range of(float* v, std::size_t first) const {
    Range range;
    range.widen(v, symmetric());
    if (range.finite()) return range;
    if (non_finite == NonFinite::kThrow) note_non_finite(finding, v, first);
    only_finite(v, v);
    range = {};
    range.widen(v, symmetric());
    return range;
  }
};

__global__ void __launch_bounds__(kThreads)
    uniform_ranges(const void* x, FloatType type, UnitGrid grid, std::size_t units_per_warp, Ranges ranges,
                   const float* wanted) {
  if (wanted != nullptr && *wanted != 0.0F) return;
  const unsigned lane = threadIdx.x % kWarp;
  const std::size_t begin = grid_thread() / kWarp * units_per_warp;
  const std::size_t end = begin + units_per_warp < grid.units ? begin + units_per_warp : grid.units;
  Range range;
  std::size_t parameter = kNoParameter;
  const auto flush = [&] {
    if (parameter == kNoParameter) return;
    range.unite_lanes(kWarp, ranges.symmetric());
    if (lane == 0) ranges.add(range, parameter);
    range = {};
  };
  for (std::size_t base = begin; base < end; base += kWarp * kBatch) {
    const std::size_t last = base + kWarp * kBatch < end ? base + kWarp * kBatch - 1 : end - 1;
    const std::size_t first_parameter = grid.unit_parameter(base);
    const bool alike = first_parameter == grid.unit_parameter(last);
    if (!alike || first_parameter != parameter) flush();
    parameter = alike ? first_parameter : kNoParameter;
    float v[kBatch][kUnit];
    std::size_t first[kBatch];
#pragma unroll
    for (unsigned k = 0; k < kBatch; k++) {
      const std::size_t unit = base + k * kWarp + lane;
      first[k] = (unit < end ? unit : end - 1) * kUnit;  // twice the same does no harm
    }
    load_units(x, type, first, v);
#pragma unroll
    for (unsigned k = 0; k < kBatch; k++) {
      const std::size_t unit = base + k * kWarp + lane;
      const Range found = ranges.of(v[k], first[k]);
      if (alike) {
        range.unite(found);
      } else if (unit < end) {
        ranges.add(found, grid.unit_parameter(unit));
      }
    }
  }
  flush();
}

__global__ void __launch_bounds__(kThreads)
    mixed_ranges(const void* x, FloatType type, UnitGrid grid, Ranges ranges, const float* wanted) {
  if (wanted != nullptr && *wanted != 0.0F) return;
  for (std::size_t u = grid_thread(); u < grid.units; u += grid_threads()) {
    const Unit unit = unit_at(grid, 8, u);
    float v[kUnit];
    load_unit(x, type, unit, grid.dense, v);
    ranges.of(v, unit.first);
    ParameterCursor cursor(grid.layout, grid.groups_per_block, unit.first);
    Range range;
    std::size_t parameter = cursor.parameter();
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) {
      if (i >= unit.count) continue;
      if (i > 0) cursor.step();
      if (cursor.parameter() != parameter) {
        ranges.add(range, parameter);
        range = {};
        parameter = cursor.parameter();
      }
      if (ranges.symmetric()) {
        range.high = fmaxf(range.high, fabsf(v[i]));
      } else {
        range.low = fminf(range.low, v[i]);
        range.high = fmaxf(range.high, v[i]);
      }
    }
    ranges.add(range, parameter);
  }
}

// Every column has a parameter set of its own: a thread goes down the rows of eight of them.
__global__ void __launch_bounds__(kThreads) column_ranges(const void* x, FloatType type, UnitGrid grid,
                                                          std::size_t rows, std::size_t rows_per_block, Ranges ranges) {
  const std::size_t column = grid_thread() * kUnit, columns = grid.layout.columns;
  if (column >= columns) return;
  const std::size_t begin = blockIdx.y * rows_per_block;
  const std::size_t end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
  const unsigned count = static_cast<unsigned>(columns - column < kUnit ? columns - column : kUnit);
  Range each[kUnit];
#pragma unroll 4
  for (std::size_t row = begin; row < end; row++) {
    float v[kUnit];
    const Unit unit = {row * columns + column, 0, count};
    load_unit(x, type, unit, grid.dense, v);
    ranges.of(v, unit.first);
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) {
      each[i].low = fminf(each[i].low, v[i]);
      each[i].high = fmaxf(each[i].high, ranges.symmetric() ? fabsf(v[i]) : v[i]);
    }
  }
#pragma unroll
  for (unsigned i = 0; i < kUnit; i++) {
    if (i < count) ranges.add(each[i], column + i);
  }
}

CudaStatus start(const CudaStream& stream, const void* x, FloatType type, const UnitGrid& grid, const Ranges& ranges,
                 const float* wanted) {
  const AffineLayout& layout = grid.layout;
  if (layout.group_size == 1 && layout.block_size == layout.columns && layout.blocks_alike >= layout.blocks) {
    const std::size_t across = ceil_div(ceil_div(layout.columns, kUnit), kThreads);
    const std::size_t wanted_blocks = static_cast<std::size_t>(stream.multiprocessors) * 8;
    std::size_t down = ceil_div(wanted_blocks, across);
    down = down < layout.blocks ? down : layout.blocks;
    down = down < 65535 ? down : 65535;
    return launch(stream, column_ranges, dim3(static_cast<unsigned>(across), static_cast<unsigned>(down)), kThreads, 0,
                  x, type, grid, layout.blocks, ceil_div(layout.blocks, down), ranges);
  }
  if (!grid.uniform) {
    return launch(stream, mixed_ranges, dim3(many_blocks_for(stream, grid.units, kThreads)), kThreads, 0, x, type, grid,
                  ranges, wanted);
  }
  // Few warps with long ways, which write little: four times what the device holds.
  const std::size_t most = static_cast<std::size_t>(stream.multiprocessors) * 12;
  const std::size_t needed = ceil_div(grid.units, kBatch * kThreads);
  const unsigned blocks = static_cast<unsigned>(needed < most ? needed : most);
  const std::size_t batches = ceil_div(grid.units, kWarp * kBatch), warps = std::size_t{blocks} * (kThreads / kWarp);
  return launch(stream, uniform_ranges, dim3(blocks), kThreads, 0, x, type, grid,
                ceil_div(batches, warps) * kWarp * kBatch, ranges, wanted);
}

}  // namespace

CudaStatus find_ranges(const CudaStream& stream, const void* x, FloatType type, const UnitGrid& grid,
                       NonFinite non_finite, unsigned* least, unsigned* largest) {
  return start(stream, x, type, grid, {least, largest, stream.finding, non_finite}, nullptr);
}

CudaStatus find_largest(const CudaStream& stream, const void* x, FloatType type, const UnitGrid& grid,
                        NonFinite non_finite, const float* wanted, unsigned* largest) {
  return start(stream, x, type, grid, {nullptr, largest, stream.finding, non_finite}, wanted);
}

}  // namespace lowbit
