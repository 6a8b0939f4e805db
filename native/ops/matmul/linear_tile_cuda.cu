// Products with many rows of x: blocks of rows by tokens, whose stages of 64 columns come to shared memory some ahead
// of what is multiplied. Each warp decodes the weights of 32 rows, then multiplies them with all tokens that are its
// own.

#include "ops/matmul/linear_cuda_kernels.cuh"

namespace lowbit {
namespace {

constexpr unsigned kStageColumns = 64, kStagesOfBlock = kColumnsOfBlock / kStageColumns;
constexpr unsigned kRowOfX = kStageColumns * 2;  // bytes of a token in a stage
constexpr unsigned kMostStages = 4;
constexpr unsigned kUnitBytes = 16;

// How the eight warps of a block share its rows and tokens.
struct Shape {
  unsigned token_tiles;  // of eight, of a warp
  unsigned token_warps;  // side by side

  constexpr unsigned row_tiles() const { return kProductWarps / token_warps * 2; }
  constexpr unsigned rows() const { return row_tiles() * kRowsOfTile; }
  constexpr unsigned tokens() const { return token_warps * token_tiles * 8; }
  constexpr unsigned x_bytes() const { return tokens() * kRowOfX; }
  constexpr unsigned stage_bytes(CudaWeightFormat format) const {
    return x_bytes() + row_tiles() * static_cast<unsigned>(units_of(format)) / kStagesOfBlock * kWarp * kUnitBytes;
  }
  constexpr unsigned blocks_at_once() const { return token_tiles <= 8 ? 2 : 1; }
};
constexpr Shape kShapes[] = {{4, 1}, {8, 1}, {8, 2}, {16, 2}};
constexpr int kShapeCount = 4;

// Results on their way from fragments to rows of y: of a warp, [8 tokens][32 rows], the stride free of bank conflicts.
constexpr unsigned kStagingStride = 36, kStagingFloats = 8 * kStagingStride;

// Token rows of 128 bytes: slots of sixteen bytes of odd rows change halves, so that the eight lanes that are served
// together, of two rows, read different banks.
__device__ inline unsigned slot_of(unsigned token, unsigned slot) {
  return token * kRowOfX + (slot ^ (token % 2 * 4)) * kUnitBytes;
}

__device__ inline void wait_for_stage(unsigned stages) {
  if (stages == 2) {
    wait_for_copies<0>();
  } else if (stages == 3) {
    wait_for_copies<1>();
  } else {
    wait_for_copies<2>();
  }
}

// Scales and zero points of a warp's two tiles for a stage.
template <bool Fine>
struct Parameters {
  static constexpr int kCount = Fine ? 2 : 1;
  Scales<kCount> scales[2];
  ZeroBytes<kCount> zeros[2];

  __device__ void load(const CudaProduct& p, unsigned scales_of_block, unsigned first_tile, unsigned block,
                       unsigned half, unsigned g) {
#pragma unroll
    for (unsigned r = 0; r < 2; r++) {
      const unsigned tile = smaller(first_tile + r, p.tiles - 1);
      const std::uint64_t set = tile * p.scale_blocks + (scales_of_block == 1 ? block >> p.scale_shift : block);
      const unsigned of_half = scales_of_block == 1 ? 0 : half * scales_of_block;
      const std::uint64_t first = set * (kRowsOfTile * scales_of_block) + g * (2 * scales_of_block) + of_half;
      scales[r].load(p.scales + first * (p.half_scales ? 2 : 4), p.half_scales);
      if (p.zeros != nullptr) zeros[r].load(p.zeros + first);
    }
  }
};

// `Fine`: scales of 32 columns.
template <CudaWeightFormat Format, FloatType Half, bool Fine, int ShapeIndex>
__global__ void __launch_bounds__(kProductThreads, kShapes[ShapeIndex].blocks_at_once())
    multiply_tile(CudaProduct p, unsigned scales_of_block, unsigned stages) {
  constexpr Shape kShape = kShapes[ShapeIndex];
  constexpr int kTokenTiles = kShape.token_tiles, kWords = words_of(Format);
  constexpr unsigned kUnits = units_of(Format) / kStagesOfBlock;  // of a lane in a stage, of a tile
  constexpr unsigned kStageBytes = kShape.stage_bytes(Format);
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const unsigned first_tile = blockIdx.x * kShape.row_tiles(), first_token = blockIdx.y * kShape.tokens();
  const unsigned row_warp = warp / kShape.token_warps, token_warp = warp % kShape.token_warps;
  const unsigned first_block = blockIdx.z * p.blocks_of_split;
  const unsigned end_block = smaller(p.blocks, first_block + p.blocks_of_split);
  const unsigned count = (end_block - first_block) * kStagesOfBlock;

  unsigned char* const table = shared_memory();
  unsigned char* const ring = shared_memory() + (Format == CudaWeightFormat::kTable4 ? kTableBytes : 0);
  if constexpr (Format == CudaWeightFormat::kTable4) fill_table(p, reinterpret_cast<unsigned*>(table));

  // A thread copies the same slot of every 32nd token, and units of weights, at addresses that go on from stage to
  // stage.
  constexpr unsigned kSlots = kRowOfX / kUnitBytes, kTokensAtOnce = kProductThreads / kSlots;
  constexpr unsigned kUnitsOfTile = kUnits * kWarp, kUnitsOfStage = kShape.row_tiles() * kUnitsOfTile;
  static_assert(kShape.tokens() % kTokensAtOnce == 0 && kTokensAtOnce % 2 == 0 &&
                    (kProductThreads % kUnitsOfTile == 0 || kUnitsOfTile % kProductThreads == 0),
                "every thread copies alike");
  const unsigned own_token = first_token + threadIdx.x / kSlots;
  const std::size_t first_stage = std::size_t{first_block} * kStagesOfBlock;
  const std::uint16_t* const x_from = kept(p.x + (own_token < p.m ? own_token : 0) * p.x_stride +
                                           first_stage * kStageColumns + threadIdx.x % kSlots * 8);
  const std::size_t tokens_further = kTokensAtOnce * p.x_stride;
  const unsigned x_to = slot_of(threadIdx.x / kSlots, threadIdx.x % kSlots);
  const std::size_t tile_units = std::size_t{p.blocks} * (kStagesOfBlock * kUnitsOfTile);
  const uint4* const codes_from = kept(p.codes + (first_tile + threadIdx.x / kUnitsOfTile) * tile_units +
                                       first_stage * kUnitsOfTile + threadIdx.x % kUnitsOfTile);
  const auto copy_stage = [&](unsigned char* stage, unsigned index) {
    const std::uint16_t* x = x_from + index * kStageColumns;
#pragma unroll 1  // addresses side by side would cost registers
    for (unsigned i = 0; i < kShape.tokens() / kTokensAtOnce; i++, x += tokens_further) {
      // What is not wanted is not read, wherever it would be.
      const bool wanted = own_token + i * kTokensAtOnce < p.m;
      copy_async(stage + x_to + i * (kTokensAtOnce * kRowOfX), x, wanted);
    }
    unsigned char* const weights = stage + kShape.x_bytes() + threadIdx.x * kUnitBytes;
    const uint4* const codes = codes_from + index * kUnitsOfTile;
#pragma unroll
    for (unsigned i = 0; i < (kUnitsOfStage + kProductThreads - 1) / kProductThreads; i++) {
      const unsigned unit = i * kProductThreads + threadIdx.x, tile = unit / kUnitsOfTile;
      if (kUnitsOfStage % kProductThreads != 0 && unit >= kUnitsOfStage) break;
      // From this thread's first unit on.
      const std::size_t further = kUnitsOfTile <= kProductThreads ? i * (kProductThreads / kUnitsOfTile) * tile_units
                                                                  : i * kProductThreads / kUnitsOfTile * tile_units +
                                                                        i * kProductThreads % kUnitsOfTile;
      const bool wanted = first_tile + tile < p.tiles;
      copy_async(weights + i * (kProductThreads * kUnitBytes), codes + further, wanted);
    }
  };

  float sum[2][kTokenTiles][4] = {};
  Zero<Format, Half> zero[2][2];
#pragma unroll
  for (int r = 0; r < 2; r++) zero[r][0].set(p.zero), zero[r][1].set(p.zero);
  const unsigned own_tile = first_tile + row_warp * 2;
  Parameters<Fine> next;
  if (count != 0) next.load(p, scales_of_block, own_tile, first_block, 0, g);
  for (unsigned i = 0; i + 1 < stages; i++) {
    if (i < count) copy_stage(ring + i * kStageBytes, i);
    commit_copies();
  }
  unsigned char* stage = ring;
  unsigned char* const last = ring + (stages - 1) * kStageBytes;
  unsigned char* free_stage = last;                                             // whose contents have been multiplied
  const bool looks = p.finding != nullptr && blockIdx.x == 0 && row_warp == 0;  // one row of warps for all
  bool found = false;
  for (unsigned index = 0; index < count; index++) {
    wait_for_stage(stages);
    __syncthreads();
    if (index + stages - 1 < count) copy_stage(free_stage, index + stages - 1);
    commit_copies();
    const Parameters<Fine> now = next;
    if (index + 1 < count) {
      next.load(p, scales_of_block, own_tile, first_block + (index + 1) / kStagesOfBlock, (index + 1) % kStagesOfBlock,
                g);
    }
    const auto* const weights = reinterpret_cast<const uint4*>(stage + kShape.x_bytes());

    unsigned a[2][4][4];  // of the two tiles, four times sixteen columns
#pragma unroll
    for (int r = 0; r < 2; r++) {
      unsigned words[kUnits * 4];
#pragma unroll
      for (unsigned u = 0; u < kUnits; u++) {
        const uint4 unit = weights[((row_warp * 2 + static_cast<unsigned>(r)) * kUnits + u) * kWarp + lane];
        words[4 * u] = unit.x, words[4 * u + 1] = unit.y, words[4 * u + 2] = unit.z, words[4 * u + 3] = unit.w;
      }
#pragma unroll
      for (int step = 0; step < 2; step++) {
        if constexpr (is_integer(Format)) {
          if (p.zeros != nullptr && (Fine || step == 0)) {
            zero[r][0].set(now.zeros[r].get(Fine ? step : 0, 0));
            zero[r][1].set(now.zeros[r].get(Fine ? step : 0, 1));
          }
        }
        unsigned upper[4], lower[4];
        decode<Format, Half>(words + step * 2 * kWords, zero[r][0], table, lane, upper);
        decode<Format, Half>(words + step * 2 * kWords + kWords, zero[r][1], table, lane, lower);
#pragma unroll
        for (int k = 0; k < 2; k++) {
          a[r][2 * step + k][0] = upper[2 * k], a[r][2 * step + k][1] = lower[2 * k];
          a[r][2 * step + k][2] = upper[2 * k + 1], a[r][2 * step + k][3] = lower[2 * k + 1];
        }
      }
    }
    float scale[2][2][2];  // tile, step, row
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
      for (int step = 0; step < (Fine ? 2 : 1); step++) now.scales[r].get(p.half_scales, step, scale[r][step]);
    }
#pragma unroll
    for (int n = 0; n < kTokenTiles; n++) {
      const unsigned token = (token_warp * kTokenTiles + static_cast<unsigned>(n)) * 8 + g;
      const uint4 first = *reinterpret_cast<const uint4*>(stage + slot_of(token, t));
      const uint4 second = *reinterpret_cast<const uint4*>(stage + slot_of(token, 4 + t));
      if (looks) found = found || has_non_finite<Half>(first) || has_non_finite<Half>(second);
      const unsigned b[4][2] = {{first.x, first.y}, {first.z, first.w}, {second.x, second.y}, {second.z, second.w}};
#pragma unroll
      for (int r = 0; r < 2; r++) {
        float part[4] = {0.0F, 0.0F, 0.0F, 0.0F};
        multiply<Half>(part, a[r][0], b[0]);
        multiply<Half>(part, a[r][1], b[1]);
        if constexpr (Fine) {
#pragma unroll
          for (int c = 0; c < 4; c++) {
            sum[r][n][c] = __fmaf_rn(part[c], scale[r][0][c / 2], sum[r][n][c]);
            part[c] = 0.0F;
          }
        }
        multiply<Half>(part, a[r][2], b[2]);
        multiply<Half>(part, a[r][3], b[3]);
#pragma unroll
        for (int c = 0; c < 4; c++) {
          sum[r][n][c] = __fmaf_rn(part[c], scale[r][Fine ? 1 : 0][c / 2], sum[r][n][c]);
        }
      }
    }
    free_stage = stage;
    stage = stage == last ? ring : stage + kStageBytes;
  }

  if (found) {
    for (unsigned n = 0; n < kShape.token_tiles; n++) {
      const unsigned token = first_token + (token_warp * kShape.token_tiles + n) * 8 + g;
      if (token >= p.m) break;
      note_non_finite<Half>(p.finding, p.x, token * p.x_stride, first_block, end_block, 1, t);
    }
  }

  // Splits leave their sums as they lie in registers, one after the other for each lane.
  if (gridDim.z != 1) {
    constexpr unsigned kSums = 2 * kTokenTiles * 4;
    const unsigned group = blockIdx.y * gridDim.x + blockIdx.x;
    float* const partials = p.partials + std::size_t{group} * gridDim.z * (kSums * kProductThreads) + threadIdx.x;
    float* const own = partials + blockIdx.z * (kSums * kProductThreads);
#pragma unroll
    for (unsigned i = 0; i < kSums; i++) {
      own[i * kProductThreads] = sum[i / (4 * kTokenTiles)][i / 4 % kTokenTiles][i % 4];
    }
    if (!is_last_of(gridDim.z, p.counters + group)) return;
#pragma unroll
    for (unsigned i = 0; i < kSums; i++) sum[i / (4 * kTokenTiles)][i / 4 % kTokenTiles][i % 4] = 0.0F;
    for (unsigned split = 0; split < gridDim.z; split++) {
#pragma unroll
      for (unsigned i = 0; i < kSums; i++) {
        sum[i / (4 * kTokenTiles)][i / 4 % kTokenTiles][i % 4] +=
            load_written(partials + (split * kSums + i) * kProductThreads);
      }
    }
  }
  __syncthreads();  // nobody reads the ring any more
  float* const staging = reinterpret_cast<float*>(ring) + warp * kStagingFloats;
  const unsigned row = own_tile * kRowsOfTile + lane;
#pragma unroll
  for (int n = 0; n < kTokenTiles; n++) {
#pragma unroll
    for (unsigned r = 0; r < 2; r++) {
#pragma unroll
      for (unsigned c = 0; c < 4; c++) {
        staging[(2 * t + c % 2) * kStagingStride + r * kRowsOfTile + g + 8 * (c / 2)] = sum[r][n][c];
      }
    }
    __syncwarp();
    const unsigned token = first_token + (token_warp * kTokenTiles + static_cast<unsigned>(n)) * 8;
    for (unsigned i = 0; i < 8; i++) {
      if (row < p.rows && token + i < p.m) finish(p, token + i, row, staging[i * kStagingStride + lane]);
    }
    __syncwarp();
  }
}

template <CudaWeightFormat Format, FloatType Half, bool Fine, int ShapeIndex>
CudaStatus launch_tile(CudaStream& stream, const CudaProductPlan& plan, unsigned scales, const CudaProduct& product) {
  const std::size_t shared = (Format == CudaWeightFormat::kTable4 ? kTableBytes : 0) +
                             std::size_t{plan.stages} * kShapes[ShapeIndex].stage_bytes(Format);
  return launch(stream, multiply_tile<Format, Half, Fine, ShapeIndex>,
                dim3(plan.row_groups, plan.token_groups, plan.splits), kProductThreads, shared, product, scales,
                plan.stages);
}

template <CudaWeightFormat Format, FloatType Half, bool Fine>
CudaStatus with_shape(CudaStream& stream, const CudaProductPlan& plan, unsigned scales, const CudaProduct& product) {
  switch (plan.shape) {
    case 0:
      return launch_tile<Format, Half, Fine, 0>(stream, plan, scales, product);
    case 1:
      return launch_tile<Format, Half, Fine, 1>(stream, plan, scales, product);
    case 2:
      return launch_tile<Format, Half, Fine, 2>(stream, plan, scales, product);
    default:
      return launch_tile<Format, Half, Fine, 3>(stream, plan, scales, product);
  }
}

template <CudaWeightFormat Format, FloatType Half>
CudaStatus with_scales(CudaStream& stream, const CudaProductPlan& plan, unsigned scales, const CudaProduct& product) {
  if constexpr (Format != CudaWeightFormat::kFloat16) {
    if (scales == 4) return with_shape<Format, Half, true>(stream, plan, scales, product);
  }
  return with_shape<Format, Half, false>(stream, plan, scales, product);
}

unsigned stages_of(const CudaStream& stream, CudaWeightFormat format, const Shape& shape) {
  const std::size_t table = format == CudaWeightFormat::kTable4 ? kTableBytes : 0;
  const std::size_t stages = (stream.shared_bytes - table) / shape.stage_bytes(format);
  return stages < kMostStages ? static_cast<unsigned>(stages) : kMostStages;
}

}  // namespace

CudaStatus plan_tiled(const CudaStream& stream, const CudaPackedLayout& layout, std::uint64_t m,
                      CudaProductPlan* plan) {
  *plan = {};
  plan->way = CudaProductWay::kTiled;
  // The fewest tokens that hold all; many take the largest tiles if that leaves no multiprocessor without work.
  unsigned shape = m <= 32 ? 0 : m <= 64 ? 1 : 2;
  if (m > 2 * kShapes[2].tokens()) {
    const std::uint64_t tiles = (layout.rows + kShapes[3].rows() - 1) / kShapes[3].rows() *
                                ((m + kShapes[3].tokens() - 1) / kShapes[3].tokens());
    if (tiles >= static_cast<std::uint64_t>(stream.multiprocessors)) shape = 3;
  }
  for (int tries = 0; stages_of(stream, layout.format, kShapes[shape]) < 2; tries++) {
    if (tries == kShapeCount) return CudaStatus::kUnsupported;
    shape = (shape + 1) % kShapeCount;
  }
  const Shape& s = kShapes[shape];
  plan->shape = shape;
  plan->stages = stages_of(stream, layout.format, s);
  plan->row_tiles = s.row_tiles();
  plan->tokens = s.tokens();
  plan->row_groups = static_cast<unsigned>((layout.tiles + s.row_tiles() - 1) / s.row_tiles());
  plan->token_groups = static_cast<unsigned>((m + s.tokens() - 1) / s.tokens());
  constexpr unsigned kMostInGridY = 65535;
  if (plan->token_groups > kMostInGridY) return CudaStatus::kUnsupported;
  const auto blocks = static_cast<unsigned>(layout.blocks);
  const std::uint64_t groups = std::uint64_t{plan->row_groups} * plan->token_groups;
  constexpr unsigned kLeastBlocks = 4;  // of columns in a split
  std::uint64_t splits =
      groups == 0 ? 1 : static_cast<std::uint64_t>(stream.multiprocessors) * s.blocks_at_once() / groups;
  if (splits > blocks / kLeastBlocks) splits = blocks / kLeastBlocks;
  if (splits < 1 || groups > kProductCounters) splits = 1;
  plan->blocks_of_split = (blocks + static_cast<unsigned>(splits) - 1) / static_cast<unsigned>(splits);
  plan->splits = blocks == 0 ? 1 : (blocks + plan->blocks_of_split - 1) / plan->blocks_of_split;
  if (plan->splits > 1) plan->partials = groups * plan->splits * s.rows() * s.tokens();
  return CudaStatus::kOk;
}

CudaStatus multiply_tiled(CudaStream& stream, const CudaProductPlan& plan, CudaWeightFormat format, FloatType half,
                          unsigned scales, const CudaProduct& product) {
  return with_case(format, half, [&](auto of) {
    using Case = decltype(of);
    return with_scales<Case::kFormat, Case::kHalf>(stream, plan, scales, product);
  });
}

}  // namespace lowbit
