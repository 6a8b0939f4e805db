#pragma once

// Quantizing one tensor on a device, as tensor_quantizer.h does: range → parameters → codes. Groups that a warp or a
// block holds in registers are read once; else there are two passes. What the codes are is up to the codec:
//
//   unsigned bits; bool symmetric            as there
//   float* scales; std::int32_t* offsets     of all parameter sets; working memory for ranges, the latter if asymmetric
//   struct Group                             what the codes of a group need to know
//   void enter()                             a block begins; all threads take part
//   Group choose(range)                      parameters from a range, and
//   void write(i, group, finding)            to memory
//   Group given(i)                           parameters from memory
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
__global__ void __launch_bounds__(kQuantizeThreads)
    quantize_groups(const void* x, FloatType type, std::size_t groups, unsigned lanes, NonFinite non_finite,
                    Codec codec, std::uint8_t* codes, CudaFinding* finding) {
  codec.enter();
  const unsigned lane = threadIdx.x % kWarp, part = lane & (lanes - 1), per_warp = kWarp / lanes;
  const std::size_t stride = grid_threads() / kWarp * per_warp;
  for (std::size_t base = grid_thread() / kWarp * per_warp; base < groups; base += stride) {
    const std::size_t group = base + lane / lanes;
    const bool active = group < groups;
    float v[Units][kUnit];
    std::size_t first[Units];
#pragma unroll
    for (int k = 0; k < Units; k++) {
      first[k] = ((group * Units + static_cast<unsigned>(k)) * lanes + part) * kUnit;
      if (active) {
        load_floats(x, type, {first[k], 0, kUnit}, true, v[k]);
      } else {
#pragma unroll
        for (unsigned i = 0; i < kUnit; i++) v[k][i] = 0.0F;
      }
    }
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
      first[k] = (group * group_units + part) * kUnit;
      if (part < group_units) {
        load_floats(x, type, {first[k], 0, kUnit}, true, v[k]);
      } else {
#pragma unroll
        for (unsigned i = 0; i < kUnit; i++) v[k][i] = 0.0F;
      }
    }
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
    quantize_given(const void* x, FloatType type, UnitGrid grid, NonFinite non_finite, Codec codec, std::uint8_t* codes,
                   CudaFinding* finding) {
  codec.enter();
  for (std::size_t u = grid_thread(); u < grid.units; u += grid_threads()) {
    const Unit unit = unit_at(grid, codec.bits, u);
    float v[kUnit];
    load_floats(x, type, unit, grid.dense, v);
    Range range;
    range.widen(v, true);
    if (!range.finite() && non_finite == NonFinite::kThrow) note_non_finite(finding, v, unit.first);
    Codes packed;
    if (grid.uniform) {
      packed = codec.codes(codec.given(grid.unit_parameter(u)), v, range.finite());
    } else {
      unsigned each[kUnit];
      ParameterCursor cursor(grid.layout, grid.groups_per_block, unit.first);
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) {
        each[i] = 0;
        if (i >= unit.count) continue;
        if (i > 0) cursor.step();
        each[i] = codec.code(v[i], cursor.parameter());
      }
      packed = pack_codes(each, codec.bits, 0, 0);
    }
    store_codes(codes, codec.bits, unit, grid.dense, packed);
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
      const unsigned blocks = blocks_for(stream, groups * lanes, kQuantizeThreads);
      return launch(stream, units >= 16 ? quantize_groups<Codec, 4> : quantize_groups<Codec, 2>, dim3(blocks),
                    kQuantizeThreads, 0, x, type, groups, lanes, non_finite, codec, codes, stream.finding);
    }
    // A block for a group, unless these are so few that they do not fill the device.
    if (own && units <= kRowUnits * kMostRowThreads &&
        (groups >= static_cast<std::size_t>(stream.multiprocessors) || units * groups <= std::size_t{1} << 16)) {
      const unsigned threads = static_cast<unsigned>(ceil_div(ceil_div(units, kRowUnits), kWarp)) * kWarp;
      const unsigned blocks = blocks_for(stream, groups, 1);
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
    LOWBIT_TRY(launch(stream, choose_parameters<Codec>, dim3(blocks_for(stream, count, kQuantizeThreads)),
                      kQuantizeThreads, 0, count, codec, stream.finding));
  }
  return launch(stream, quantize_given<Codec>, dim3(blocks_for(stream, grid.units, kQuantizeThreads)), kQuantizeThreads,
                0, x, type, grid, non_finite, codec, codes, stream.finding);
}

// --- back ---
//
// What codes stand for is up to `Values`:
//
//   unsigned bits
//   void enter()                             as above
//   bool unit(codes, parameter, v)           the elements of a unit; false if some are NaN, whose bits count
//   float one(code, parameter)

template <typename Values>
__global__ void __launch_bounds__(kQuantizeThreads)
    dequantize_units(const std::uint8_t* codes, UnitGrid grid, Values values, void* out, FloatType out_type) {
  values.enter();
  constexpr int kBatch = 2;
  const std::size_t lane = threadIdx.x % kWarp, stride = grid_threads();
  for (std::size_t base = grid_thread() - lane; base < grid.units; base += stride * kBatch) {
    Codes packed[kBatch];
    Unit units[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; k++) {
      const std::size_t u = base + static_cast<unsigned>(k) * stride + lane;
      if (u >= grid.units) continue;
      units[k] = unit_at(grid, values.bits, u);
      packed[k] = load_codes(codes, values.bits, units[k], grid.dense);
    }
#pragma unroll
    for (int k = 0; k < kBatch; k++) {
      const std::size_t u = base + static_cast<unsigned>(k) * stride + lane;
      const bool active = u < grid.units;
      float v[kUnit];
      bool whole = grid.dense;
      if (!active) {
#pragma unroll
        for (unsigned i = 0; i < kUnit; i++) v[i] = 0.0F;
      } else if (grid.uniform) {
        if (!values.unit(packed[k], grid.unit_parameter(u), v)) whole = false;
      } else {
        whole = false;
        ParameterCursor cursor(grid.layout, grid.groups_per_block, units[k].first);
        const std::uint64_t all = static_cast<std::uint64_t>(packed[k].y) << 32 | packed[k].x;
#pragma unroll
        for (unsigned i = 0; i < kUnit; i++) {
          v[i] = 0.0F;
          if (i >= units[k].count) continue;
          if (i > 0) cursor.step();
          v[i] = values.one(static_cast<unsigned>(all >> (i * values.bits)) & ((1U << values.bits) - 1),
                            cursor.parameter());
        }
      }
      if (grid.dense && out_type == FloatType::kFloat32) {
        store_float32_units(static_cast<float*>(out), u * kUnit, active, v);
      } else if (active) {
        store_floats(out, out_type, units[k], whole, v);
      }
    }
  }
}

template <typename Values>
CudaStatus dequantize_tensor(const CudaStream& stream, const std::uint8_t* codes, CodeType code,
                             const AffineLayout& layout, const Values& values, void* out, FloatType out_type) {
  const UnitGrid grid = UnitGrid::of(layout, code, out, codes);
  return launch(stream, dequantize_units<Values>, dim3(blocks_for(stream, ceil_div(grid.units, 2), kQuantizeThreads)),
                kQuantizeThreads, 0, codes, grid, values, out, out_type);
}

}  // namespace
}  // namespace lowbit
