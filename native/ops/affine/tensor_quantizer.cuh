#pragma once

// Quantizing one tensor on a device, as tensor_quantizer.h does: range → parameters → codes. Groups that a warp or a
// block holds in registers are read once; else there are two passes. What the codes are is up to the codec:
//
//   unsigned bits; bool symmetric            as there
//   float* scales; std::int32_t* offsets     of all parameter sets; working memory for ranges, the latter if asymmetric
//   struct Given                             parameters
//   struct Group                             what codes need to know of them
//   void enter()                             a block begins; all threads take part
//   Group choose(range)                      parameters from a range, and
//   void write(i, group, finding)            to memory
//   Given load(i)                            parameters from memory, and
//   Group group_of(given)                    what follows from them
//   Codes codes(group, v, finite)            of a unit; `finite` is whether all v are, which it may change
//   unsigned code(x, i)                      of one element

#include "ops/affine/ranges_cuda.h"

namespace lowbit {
namespace {

constexpr unsigned kQuantizeThreads = 256, kMostRowThreads = 512, kRowUnits = 4;

// Of one thread's units: finite ones count, or are reported.
template <int Units>
__device__ Range range_of_units(float (&v)[Units][kUnit], const std::size_t (&first)[Units], bool symmetric,
                                NonFinite non_finite, CudaFinding* finding, bool& finite) {
  Range range;
#pragma unroll
  for (int k = 0; k < Units; k++) range.widen(v[k], symmetric);
  finite = range.finite();
  if (finite) return range;
  range = {};
#pragma unroll
  for (int k = 0; k < Units; k++) {
    if (non_finite == NonFinite::kThrow) note_non_finite(finding, v[k], first[k]);
    float counted[kUnit];
    only_finite(v[k], counted);
    range.widen(counted, symmetric);
  }
  return range;
}

// Groups of `lanes` · Units units each, a power of two of lanes of a warp to a group.
template <typename Codec, int Units>
__global__ void __launch_bounds__(kQuantizeThreads, 3)
    quantize_groups(const void* x, FloatType type, std::size_t groups, unsigned lanes, NonFinite non_finite,
                    Codec codec, std::uint8_t* codes, CudaFinding* finding) {
  codec.enter();
  const unsigned lane = threadIdx.x % kWarp, part = lane & (lanes - 1), per_warp = kWarp / lanes;
  const std::size_t stride = grid_threads() / kWarp * per_warp;
  for (std::size_t base = grid_thread() / kWarp * per_warp; base < groups; base += stride) {
    const bool active = base + lane / lanes < groups;
    const std::size_t group = active ? base + lane / lanes : groups - 1;  // twice the same does no harm
    float v[Units][kUnit];
    std::size_t first[Units];
#pragma unroll
    for (int k = 0; k < Units; k++) {
      first[k] = ((group * Units + static_cast<unsigned>(k)) * lanes + part) * kUnit;
    }
    load_units(x, type, first, v);
    bool finite;
    Range range = range_of_units(v, first, codec.symmetric, non_finite, finding, finite);
    range.unite_lanes(lanes, codec.symmetric);
    const typename Codec::Group chosen = codec.choose(range);
    if (!active) continue;
    if (part == 0) codec.write(group, chosen, finding);
#pragma unroll
    for (int k = 0; k < Units; k++) {
      store_codes(codes, codec.bits, {0, first[k] / kUnit * codec.bits, kUnit}, true,
                  codec.codes(chosen, v[k], finite));
    }
  }
}

// Groups of any number of units up to kRowUnits for each thread, a block to a group.
template <typename Codec>
__global__ void __launch_bounds__(kMostRowThreads)
    quantize_rows(const void* x, FloatType type, std::size_t groups, unsigned group_units, NonFinite non_finite,
                  Codec codec, std::uint8_t* codes, CudaFinding* finding) {
  codec.enter();
  __shared__ float lows[kMostRowThreads / kWarp], highs[kMostRowThreads / kWarp];
  const unsigned warps = blockDim.x / kWarp;
  for (std::size_t group = blockIdx.x; group < groups; group += gridDim.x) {
    float v[kRowUnits][kUnit];
    std::size_t first[kRowUnits];
#pragma unroll
    for (unsigned k = 0; k < kRowUnits; k++) {
      const unsigned part = k * blockDim.x + threadIdx.x;
      first[k] = (group * group_units + (part < group_units ? part : group_units - 1)) * kUnit;
    }
    load_units(x, type, first, v);
    bool finite;
    Range range = range_of_units(v, first, codec.symmetric, non_finite, finding, finite);
    range.unite_lanes(kWarp, codec.symmetric);
    if (threadIdx.x % kWarp == 0) {
      lows[threadIdx.x / kWarp] = range.low;
      highs[threadIdx.x / kWarp] = range.high;
    }
    __syncthreads();
    for (unsigned w = 0; w < warps; w++) range.unite({lows[w], highs[w]});
    __syncthreads();
    const typename Codec::Group chosen = codec.choose(range);
    if (threadIdx.x == 0) codec.write(group, chosen, finding);
#pragma unroll
    for (unsigned k = 0; k < kRowUnits; k++) {
      if (k * blockDim.x + threadIdx.x >= group_units) continue;
      store_codes(codes, codec.bits, {0, first[k] / kUnit * codec.bits, kUnit}, true,
                  codec.codes(chosen, v[k], finite));
    }
  }
}

// From ranges to parameters, in place.
template <typename Codec>
__global__ void __launch_bounds__(kQuantizeThreads)
    choose_parameters(std::size_t count, Codec codec, CudaFinding* finding) {
  codec.enter();
  for (std::size_t i = grid_thread(); i < count; i += grid_threads()) {
    Range range;
    range.high = codec.scales[i];
    if (!codec.symmetric) range.low = -__int_as_float(codec.offsets[i]);
    codec.write(i, codec.choose(range), finding);
  }
}

template <typename Codec>
__global__ void __launch_bounds__(kQuantizeThreads)
    quantize_uniform(const void* x, FloatType type, UnitGrid grid, NonFinite non_finite, Codec codec,
                     std::uint8_t* codes, CudaFinding* finding) {
  codec.enter();
  constexpr int kBatch = 2;
  const std::size_t stride = grid_threads();
  for (std::size_t base = grid_thread(); base < grid.units; base += stride * kBatch) {
    typename Codec::Given given[kBatch];
    float v[kBatch][kUnit];
    std::size_t first[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; k++) {
      const std::size_t next = base + static_cast<unsigned>(k) * stride, unit = next < grid.units ? next : base;
      given[k] = codec.load(grid.unit_parameter(unit));
      first[k] = unit * kUnit;
    }
    load_units(x, type, first, v);
#pragma unroll
    for (int k = 0; k < kBatch; k++) {
      if (k > 0 && first[k] == first[0]) continue;
      Range range;
      range.widen(v[k], true);
      if (!range.finite() && non_finite == NonFinite::kThrow) note_non_finite(finding, v[k], first[k]);
      store_codes(codes, codec.bits, {0, first[k] / kUnit * codec.bits, kUnit}, true,
                  codec.codes(codec.group_of(given[k]), v[k], range.finite()));
    }
  }
}

// Where units are cut by the ends of rows, or have several parameter sets.
template <typename Codec>
__global__ void __launch_bounds__(kQuantizeThreads)
    quantize_mixed(const void* x, FloatType type, UnitGrid grid, NonFinite non_finite, Codec codec, std::uint8_t* codes,
                   CudaFinding* finding) {
  codec.enter();
  for (std::size_t u = grid_thread(); u < grid.units; u += grid_threads()) {
    const Unit unit = unit_at(grid, codec.bits, u);
    float v[kUnit];
    load_unit(x, type, unit, grid.dense, v);
    Range range;
    range.widen(v, true);
    if (!range.finite() && non_finite == NonFinite::kThrow) note_non_finite(finding, v, unit.first);
    unsigned each[kUnit];
    ParameterCursor cursor(grid.layout, grid.groups_per_block, unit.first);
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) {
      each[i] = 0;
      if (i >= unit.count) continue;
      if (i > 0) cursor.step();
      each[i] = codec.code(v[i], cursor.parameter());
    }
    store_codes(codes, codec.bits, unit, grid.dense, pack_codes(each, codec.bits, 0, 0));
  }
}

template <typename Codec>
CudaStatus quantize_tensor(const CudaStream& stream, const void* x, FloatType type, const AffineLayout& layout,
                           CodeType code, RangeChoice range, NonFinite non_finite, const Codec& codec,
                           std::uint8_t* codes) {
  const UnitGrid grid = UnitGrid::of(layout, code, x, codes);
  if (grid.units == 0) return CudaStatus::kOk;
  if (range.method == RangeChoice::Method::kMinMax) {
    const std::size_t group =
        grid.layout.group_size < grid.layout.block_size ? grid.layout.group_size : grid.layout.block_size;
    const std::size_t units = group / kUnit, groups = grid.units * kUnit / group;
    const bool own = grid.uniform && grid.layout.block_size % group == 0 &&
                     (grid.layout.blocks_alike == 1 || grid.layout.blocks == 1);
    if (own && (units & (units - 1)) == 0 && units >= 2 && units <= 4 * kWarp) {
      const unsigned lanes = static_cast<unsigned>(units >= 16 ? units / 4 : units / 2);
      const unsigned blocks = many_blocks_for(stream, groups * lanes, kQuantizeThreads);
      return launch(stream, units >= 16 ? quantize_groups<Codec, 4> : quantize_groups<Codec, 2>, dim3(blocks),
                    kQuantizeThreads, 0, x, type, groups, lanes, non_finite, codec, codes, stream.finding);
    }
    // A block for a group, unless these are so few that they do not fill the device.
    if (own && units <= kRowUnits * kMostRowThreads &&
        (groups >= static_cast<std::size_t>(stream.multiprocessors) || units * groups <= std::size_t{1} << 16)) {
      const unsigned threads = static_cast<unsigned>(ceil_div(ceil_div(units, kRowUnits), kWarp)) * kWarp;
      const unsigned blocks = many_blocks_for(stream, groups, 1);
      return launch(stream, quantize_rows<Codec>, dim3(blocks), threads, 0, x, type, groups,
                    static_cast<unsigned>(units), non_finite, codec, codes, stream.finding);
    }
    const std::size_t count = layout.parameter_count();
    LOWBIT_TRY(cuda_status(cudaMemsetAsync(codec.scales, 0, count * sizeof(float), stream.stream)));
    if (!codec.symmetric) {
      LOWBIT_TRY(cuda_status(cudaMemsetAsync(codec.offsets, 0, count * sizeof(std::int32_t), stream.stream)));
    }
    LOWBIT_TRY(find_ranges(stream, x, type, grid, non_finite,
                           codec.symmetric ? nullptr : reinterpret_cast<unsigned*>(codec.offsets),
                           reinterpret_cast<unsigned*>(codec.scales)));
    LOWBIT_TRY(launch(stream, choose_parameters<Codec>, dim3(many_blocks_for(stream, count, kQuantizeThreads)),
                      kQuantizeThreads, 0, count, codec, stream.finding));
  }
  const std::size_t batches = grid.uniform ? ceil_div(grid.units, 2) : grid.units;
  return launch(stream, grid.uniform ? quantize_uniform<Codec> : quantize_mixed<Codec>,
                dim3(many_blocks_for(stream, batches, kQuantizeThreads)), kQuantizeThreads, 0, x, type, grid,
                non_finite, codec, codes, stream.finding);
}

// --- back ---
//
// What codes stand for is up to `Values`:
//
//   unsigned bits
//   struct Given                             parameters
//   void enter()                             as above
//   Given load(i)
//   bool unit(codes, given, v)               the elements of a unit; false if some are NaN, whose bits count
//   float one(code, given)

template <typename Values>
__global__ void __launch_bounds__(kQuantizeThreads)
    dequantize_uniform(const std::uint8_t* codes, UnitGrid grid, Values values, void* out, FloatType out_type) {
  values.enter();
  constexpr int kBatch = 2;
  const std::size_t lane = threadIdx.x % kWarp, stride = grid_threads();
  for (std::size_t base = grid_thread() - lane; base < grid.units; base += stride * kBatch) {
    typename Values::Given given[kBatch];
    Codes packed[kBatch];
    std::size_t byte[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; k++) {
      const std::size_t next = base + static_cast<unsigned>(k) * stride + lane;
      const std::size_t unit = next < grid.units ? next : grid.units - 1;
      given[k] = values.load(grid.unit_parameter(unit));
      byte[k] = unit * values.bits;
    }
    load_codes(codes, values.bits, byte, packed);
#pragma unroll
    for (int k = 0; k < kBatch; k++) {
      const std::size_t unit = base + static_cast<unsigned>(k) * stride + lane;
      float v[kUnit];
      const bool whole = values.unit(packed[k], given[k], v);
      if (out_type == FloatType::kFloat32) {
        store_float32_units(static_cast<float*>(out), unit * kUnit, unit < grid.units, v);
      } else if (unit < grid.units) {
        store_floats(out, out_type, {unit * kUnit, 0, kUnit}, whole, v);
      }
    }
  }
}

template <typename Values>
__global__ void __launch_bounds__(kQuantizeThreads)
    dequantize_mixed(const std::uint8_t* codes, UnitGrid grid, Values values, void* out, FloatType out_type) {
  values.enter();
  for (std::size_t u = grid_thread(); u < grid.units; u += grid_threads()) {
    const Unit unit = unit_at(grid, values.bits, u);
    const Codes packed = load_part_of_codes(codes, values.bits, unit);
    const std::uint64_t all = static_cast<std::uint64_t>(packed.y) << 32 | packed.x;
    ParameterCursor cursor(grid.layout, grid.groups_per_block, unit.first);
    float v[kUnit];
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) {
      v[i] = 0.0F;
      if (i >= unit.count) continue;
      if (i > 0) cursor.step();
      v[i] = values.one(static_cast<unsigned>(all >> (i * values.bits)) & ((1U << values.bits) - 1),
                        values.load(cursor.parameter()));
    }
    store_floats(out, out_type, unit, false, v);
  }
}

template <typename Values>
CudaStatus dequantize_tensor(const CudaStream& stream, const std::uint8_t* codes, CodeType code,
                             const AffineLayout& layout, const Values& values, void* out, FloatType out_type) {
  const UnitGrid grid = UnitGrid::of(layout, code, out, codes);
  return launch(stream, grid.uniform ? dequantize_uniform<Values> : dequantize_mixed<Values>,
                dim3(many_blocks_for(stream, grid.uniform ? ceil_div(grid.units, 2) : grid.units, kQuantizeThreads)),
                kQuantizeThreads, 0, codes, grid, values, out, out_type);
}

}  // namespace
}  // namespace lowbit
