// Products with few rows of x, which reading the weights takes longest for: warps read units of packed weights from
// memory straight to registers, a few ahead of what they multiply, and x from the first-level cache, where it stays.
//
// A block has one or two tiles of rows; its warps take the blocks of 128 columns in turn and add up through shared
// memory. Where that leaves multiprocessors without work, the columns are divided among several blocks as well.

#include "ops/matmul/linear_cuda_kernels.cuh"

namespace lowbit {
namespace {

// Tiles of rows of a block: two share what is read of x, where registers suffice.
constexpr int row_tiles_of(CudaWeightFormat format, int token_tiles) { return words_of(format) == 1 ? token_tiles : 1; }
[[maybe_unused]] constexpr int blocks_at_once(CudaWeightFormat format, int token_tiles) {
  return token_tiles == 1 && format != CudaWeightFormat::kFloat16 ? 3 : 2;
}

// Blocks of columns that a lane has in registers or under way: four loads or more beside those of the block that is
// being multiplied.
constexpr int buffers_of(CudaWeightFormat format, int row_tiles) {
  const int units = units_of(format) * row_tiles;
  return 1 + (units >= 4 ? 1 : 4 / units);
}

// Where a lane finds what it needs of a tile.
struct LanePlaces {
  const uint4* codes;
  const unsigned char *scales, *zeros;
};

template <CudaWeightFormat Format, bool HasZeros, int ScalesOfBlock>
struct Block {
  static constexpr unsigned kUnits = units_of(Format);
  uint4 units[kUnits];
  Scales<ScalesOfBlock> scales;
  ZeroBytes<ScalesOfBlock> zeros;

  __device__ void load(const CudaProduct& p, const LanePlaces& places, unsigned block) {
    const uint4* const from = places.codes + std::size_t{block} * (kUnits * kWarp);
#pragma unroll
    for (unsigned u = 0; u < kUnits; u++) units[u] = load_once(from + u * kWarp);
    const std::size_t set = ScalesOfBlock == 1 ? block >> p.scale_shift : block;
    constexpr unsigned kSet = kRowsOfTile * ScalesOfBlock;
    scales.load(places.scales + set * (p.half_scales ? kSet * 2 : kSet * 4), p.half_scales);
    if constexpr (HasZeros) zeros.load(places.zeros + set * kSet);
  }
};

template <CudaWeightFormat Format, FloatType Half, bool HasZeros, int ScalesOfBlock, int TokenTiles>
__global__ void __launch_bounds__(kProductThreads, blocks_at_once(Format, TokenTiles)) multiply_stream(CudaProduct p) {
  constexpr int kRowTiles = row_tiles_of(Format, TokenTiles);
  constexpr int kBuffers = buffers_of(Format, kRowTiles), kWords = words_of(Format);
  constexpr int kStepsOfScale = kStepsOfBlock / ScalesOfBlock;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const unsigned first_tile = blockIdx.x * kRowTiles;
  const unsigned end = smaller(p.blocks, (blockIdx.y + 1) * p.blocks_of_split);
  unsigned block = blockIdx.y * p.blocks_of_split + warp;

  LanePlaces places[kRowTiles];
#pragma unroll
  for (unsigned r = 0; r < kRowTiles; r++) {
    const unsigned tile = smaller(first_tile + r, p.tiles - 1);
    places[r].codes = kept(p.codes + std::size_t{tile} * p.blocks * (units_of(Format) * kWarp) + lane);
    const std::size_t first = tile * p.scale_blocks * (kRowsOfTile * ScalesOfBlock) + g * (2 * ScalesOfBlock);
    places[r].scales = kept(p.scales + first * (p.half_scales ? 2 : 4));
    places[r].zeros = HasZeros ? kept(p.zeros + first) : nullptr;
  }
  Block<Format, HasZeros, ScalesOfBlock> buffers[kBuffers][kRowTiles];
#pragma unroll
  for (unsigned i = 0; i < kBuffers; i++) {
#pragma unroll
    for (unsigned r = 0; r < kRowTiles; r++) {
      if (block + i * kProductWarps < end) buffers[i][r].load(p, places[r], block + i * kProductWarps);
    }
  }
  unsigned char* const table = shared_memory();
  auto* const sums =
      reinterpret_cast<float*>(shared_memory() + (Format == CudaWeightFormat::kTable4 ? kTableBytes : 0));
  if constexpr (Format == CudaWeightFormat::kTable4) {
    fill_table(p, reinterpret_cast<unsigned*>(table));
    __syncthreads();
  }

  // Tokens past the last repeat it.
  const uint4* x[TokenTiles];
#pragma unroll
  for (unsigned j = 0; j < TokenTiles; j++) {
    x[j] = kept(reinterpret_cast<const uint4*>(p.x + smaller(8 * j + g, p.m - 1) * p.x_stride) + t);
  }
  Zero<Format, Half> zero[kRowTiles][2];
#pragma unroll
  for (int r = 0; r < kRowTiles; r++) zero[r][0].set(p.zero), zero[r][1].set(p.zero);

  float sum[kRowTiles][TokenTiles][4] = {};
  const bool looks = p.finding != nullptr && blockIdx.x == 0;  // one block of rows for all
  bool found = false;
  while (block < end) {
#pragma unroll
    for (int i = 0; i < kBuffers; i++, block += kProductWarps) {
      if (block >= end) break;
      auto& now = buffers[i];
      uint4 activations[TokenTiles][kStepsOfBlock];
#pragma unroll
      for (int j = 0; j < TokenTiles; j++) {
#pragma unroll
        for (unsigned s = 0; s < kStepsOfBlock; s++) {
          activations[j][s] = __ldg(x[j] + block * (kColumnsOfBlock / 8) + s * (kColumnsOfStep / 8));
        }
      }
      if (looks) {
#pragma unroll
        for (int j = 0; j < TokenTiles; j++) {
#pragma unroll
          for (unsigned s = 0; s < kStepsOfBlock; s++) found = found || has_non_finite<Half>(activations[j][s]);
        }
      }
      float part[kRowTiles][TokenTiles][4];
#pragma unroll
      for (int s = 0; s < static_cast<int>(kStepsOfBlock); s++) {
#pragma unroll
        for (int r = 0; r < kRowTiles; r++) {
          if (s % kStepsOfScale == 0) {
#pragma unroll
            for (int j = 0; j < TokenTiles; j++) {
#pragma unroll
              for (int c = 0; c < 4; c++) part[r][j][c] = 0.0F;
            }
            if constexpr (HasZeros) {
              zero[r][0].set(now[r].zeros.get(s / kStepsOfScale, 0));
              zero[r][1].set(now[r].zeros.get(s / kStepsOfScale, 1));
            }
          }
          unsigned words[2 * kWords], upper[4], lower[4];
#pragma unroll
          for (int w = 0; w < 2 * kWords; w++) {
            const int word = s * 2 * kWords + w;
            const uint4& unit = now[r].units[word / 4];
            words[w] = word % 4 == 0 ? unit.x : word % 4 == 1 ? unit.y : word % 4 == 2 ? unit.z : unit.w;
          }
          decode<Format, Half>(words, zero[r][0], table, lane, upper);
          decode<Format, Half>(words + kWords, zero[r][1], table, lane, lower);
          const unsigned a[2][4] = {{upper[0], lower[0], upper[1], lower[1]}, {upper[2], lower[2], upper[3], lower[3]}};
#pragma unroll
          for (int j = 0; j < TokenTiles; j++) {
            const uint4& four = activations[j][s];
            const unsigned b[2][2] = {{four.x, four.y}, {four.z, four.w}};
            multiply<Half>(part[r][j], a[0], b[0]);
            multiply<Half>(part[r][j], a[1], b[1]);
          }
          if ((s + 1) % kStepsOfScale == 0) {
            float scale[2];
            now[r].scales.get(p.half_scales, s / kStepsOfScale, scale);
#pragma unroll
            for (int j = 0; j < TokenTiles; j++) {
#pragma unroll
              for (int c = 0; c < 4; c++) sum[r][j][c] = __fmaf_rn(part[r][j][c], scale[c / 2], sum[r][j][c]);
            }
          }
        }
      }
      const unsigned next = block + kBuffers * kProductWarps;
      if (next < end) {
#pragma unroll
        for (unsigned r = 0; r < kRowTiles; r++) now[r].load(p, places[r], next);
      }
    }
  }

  if (found) {
    for (unsigned j = 0; j < TokenTiles; j++) {
      note_non_finite<Half>(p.finding, p.x, smaller(8 * j + g, p.m - 1) * p.x_stride,
                            blockIdx.y * p.blocks_of_split + warp, end, kProductWarps, t);
    }
  }

  // [warp][row tile][token][row]
  constexpr unsigned kSums = kRowTiles * TokenTiles * 8 * kRowsOfTile;
#pragma unroll
  for (unsigned r = 0; r < kRowTiles; r++) {
#pragma unroll
    for (unsigned j = 0; j < TokenTiles; j++) {
#pragma unroll
      for (unsigned c = 0; c < 4; c++) {
        const unsigned token = 8 * j + 2 * t + c % 2, row = g + 8 * (c / 2);
        sums[warp * kSums + (r * TokenTiles * 8 + token) * kRowsOfTile + row] = sum[r][j][c];
      }
    }
  }
  __syncthreads();
  const bool alone = gridDim.y == 1;
  float* const partials = p.partials + std::size_t{blockIdx.x} * gridDim.y * kSums;
  for (unsigned i = threadIdx.x; i < kSums; i += kProductThreads) {
    float total = sums[i];
#pragma unroll
    for (unsigned w = 1; w < kProductWarps; w++) total += sums[w * kSums + i];
    if (alone) {
      sums[i] = total;
    } else {
      partials[blockIdx.y * kSums + i] = total;
    }
  }
  if (!alone && !is_last_of(gridDim.y, p.counters + blockIdx.x)) return;
  for (unsigned i = threadIdx.x; i < kSums; i += kProductThreads) {
    const unsigned row = (first_tile + i / (TokenTiles * 8 * kRowsOfTile)) * kRowsOfTile + i % kRowsOfTile;
    const unsigned token = i / kRowsOfTile % (TokenTiles * 8);
    if (row >= p.rows || token >= p.m) continue;
    float total = 0.0F;
    if (alone) {
      total = sums[i];
    } else {
      for (unsigned split = 0; split < gridDim.y; split++) total += load_written(partials + split * kSums + i);
    }
    finish(p, token, row, total);
  }
}

template <CudaWeightFormat Format, FloatType Half, bool HasZeros, int ScalesOfBlock, int TokenTiles>
CudaStatus launch_stream(CudaStream& stream, const CudaProductPlan& plan, const CudaProduct& product) {
  constexpr std::size_t kShared =
      (Format == CudaWeightFormat::kTable4 ? kTableBytes : 0) +
      sizeof(float) * kProductWarps * row_tiles_of(Format, TokenTiles) * TokenTiles * 8 * kRowsOfTile;
  return launch(stream, multiply_stream<Format, Half, HasZeros, ScalesOfBlock, TokenTiles>,
                dim3(plan.row_groups, plan.splits), kProductThreads, kShared, product);
}

template <CudaWeightFormat Format, FloatType Half, bool HasZeros, int ScalesOfBlock>
CudaStatus with_tokens(CudaStream& stream, const CudaProductPlan& plan, const CudaProduct& product) {
  return plan.tokens == 8 ? launch_stream<Format, Half, HasZeros, ScalesOfBlock, 1>(stream, plan, product)
                          : launch_stream<Format, Half, HasZeros, ScalesOfBlock, 2>(stream, plan, product);
}

template <CudaWeightFormat Format, FloatType Half, bool HasZeros>
CudaStatus with_scales(CudaStream& stream, const CudaProductPlan& plan, unsigned scales, const CudaProduct& product) {
  if (scales == 1) return with_tokens<Format, Half, HasZeros, 1>(stream, plan, product);
  if (scales == 2) return with_tokens<Format, Half, HasZeros, 2>(stream, plan, product);
  return with_tokens<Format, Half, HasZeros, 4>(stream, plan, product);
}

template <CudaWeightFormat Format, FloatType Half>
CudaStatus with_zeros(CudaStream& stream, const CudaProductPlan& plan, unsigned scales, const CudaProduct& product) {
  if constexpr (Format == CudaWeightFormat::kFloat16) {
    return with_tokens<Format, Half, false, 1>(stream, plan, product);
  } else {
    if constexpr (is_integer(Format)) {
      if (product.zeros != nullptr) return with_scales<Format, Half, true>(stream, plan, scales, product);
    }
    return with_scales<Format, Half, false>(stream, plan, scales, product);
  }
}

}  // namespace

CudaProductPlan plan_streamed(const CudaStream& stream, const CudaPackedLayout& layout, std::uint64_t m) {
  CudaProductPlan plan{};
  plan.way = CudaProductWay::kStreamed;
  plan.tokens = m <= 8 ? 8 : 16;
  plan.row_tiles = static_cast<unsigned>(row_tiles_of(layout.format, static_cast<int>(plan.tokens / 8)));
  const auto tiles = static_cast<unsigned>(layout.tiles), blocks = static_cast<unsigned>(layout.blocks);
  plan.row_groups = (tiles + plan.row_tiles - 1) / plan.row_tiles;
  plan.token_groups = 1;
  // Three blocks a multiprocessor hide what a load takes; a warp should have at least two blocks of columns.
  const unsigned wanted = static_cast<unsigned>(stream.multiprocessors) * 3;
  unsigned splits = plan.row_groups == 0 ? 1 : wanted / plan.row_groups;
  if (splits > blocks / (2 * kProductWarps)) splits = blocks / (2 * kProductWarps);
  if (splits < 1 || plan.row_groups > kProductCounters) splits = 1;
  plan.blocks_of_split = (blocks + splits - 1) / splits;
  plan.splits = blocks == 0 ? 1 : (blocks + plan.blocks_of_split - 1) / plan.blocks_of_split;
  if (plan.splits > 1) {
    plan.partials = std::size_t{plan.row_groups} * plan.splits * plan.row_tiles * plan.tokens * kRowsOfTile;
  }
  return plan;
}

CudaStatus multiply_streamed(CudaStream& stream, const CudaProductPlan& plan, CudaWeightFormat format, FloatType half,
                             unsigned scales, const CudaProduct& product) {
  return with_case(format, half, [&](auto of) {
    using Case = decltype(of);
    return with_zeros<Case::kFormat, Case::kHalf>(stream, plan, scales, product);
  });
}

}  // namespace lowbit
