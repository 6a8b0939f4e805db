// Products with many rows of x by products of whole warp groups, for compute capability 9.0. A block makes 128 rows by
// 128 tokens: eight warps, two groups of them, have a tile of sixteen rows each. Stages of 64 columns come to shared
// memory some ahead of what is multiplied. Weights are the operand A, decoded to registers, tokens the operand B, in
// shared memory.
//
// A lane has columns 8t … 8t + 7 of 32, which are parts of two matrices of sixteen columns: pair s of lane t there are
// columns 2t and 2t + 1 of the first or last eight of matrix s / 2. The pairs of x are transposed (4t + s to 4s + t)
// before they come here, so that the same columns meet.
//
// Products go on while the warps do other things. A group makes those of its first 64 tokens and those of the last in
// turn: while it scales the sums of one side and adds them up, those of the other are being made, and while it decodes
// the next stage, both are. Sums are over the columns of a scale, at most 128, as everywhere.

#include "cuda/warpgroups.cuh"
#include "ops/matmul/linear_cuda_kernels.cuh"

namespace lowbit {
namespace {

constexpr unsigned kTileRowTiles = kProductWarps, kTileRows = kTileRowTiles * kRowsOfTile;
constexpr unsigned kSideTokens = 64, kTileTokens = 2 * kSideTokens;
constexpr unsigned kStageColumns = 64, kStagesOfBlock = kColumnsOfBlock / kStageColumns;
constexpr unsigned kRowOfX = kStageColumns * 2;  // bytes of a token in a stage
constexpr unsigned kXBytes = kTileTokens * kRowOfX;
constexpr unsigned kUnitBytes = 16;
// Blocks of columns between which products do not pause.
constexpr unsigned kBlocksOfTurn = 2;

// Units of a lane in a stage.
constexpr unsigned stage_units(CudaWeightFormat format) {
  return static_cast<unsigned>(units_of(format)) / kStagesOfBlock;
}
constexpr unsigned stage_bytes(CudaWeightFormat format) {
  return kXBytes + kTileRowTiles * stage_units(format) * kWarp * kUnitBytes;
}
// Even: a block of columns is two stages.
constexpr unsigned stages_of(CudaWeightFormat format) { return format == CudaWeightFormat::kFloat16 ? 6 : 8; }
constexpr std::size_t shared_bytes(CudaWeightFormat format) {
  return (format == CudaWeightFormat::kTable4 ? kTableBytes : 0) + std::size_t{stages_of(format)} * stage_bytes(format);
}

// Sums on their way from fragments to rows of y: [128 tokens][128 rows], the stride free of bank conflicts.
constexpr unsigned kStagingStride = kTileRows + 4;
static_assert(sizeof(float) * kTileTokens * kStagingStride <= 6 * std::size_t{kXBytes},
              "results fit where stages were");

#if LOWBIT_HAS_WARPGROUPS

// Token tiles side by side whose blocks run together: 2048 tokens, so that x stays in the second-level cache and
// weights are read from memory once for all of them.
constexpr unsigned kBandTokens = 16;

constexpr int kSums = kSideTokens / 2;  // of a lane, of a side

// Scales and zero points of a warp's tile for a block of columns.
template <int ScalesOfBlock>
struct Parameters {
  Scales<ScalesOfBlock> scales;
  ZeroBytes<ScalesOfBlock> zeros;

  __device__ void load(const CudaProduct& p, unsigned tile, unsigned block, unsigned g) {
    const std::uint64_t set = tile * p.scale_blocks + (ScalesOfBlock == 1 ? block >> p.scale_shift : block);
    const std::uint64_t first = (set * kRowsOfTile + 2 * g) * ScalesOfBlock;
    scales.load(p.scales + first * (p.half_scales ? 2 : 4), p.half_scales);
    if (p.zeros != nullptr) zeros.load(p.zeros + first);
  }
};

// Four results side by side; p.rows is a multiple of four, and so is `row`.
__device__ void finish_four(const CudaProduct& p, unsigned token, unsigned row, const float4& sums) {
  float values[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
  for (unsigned i = 0; i < 4; i++) values[i] = finished(p, token, row + i, values[i]);
  const std::size_t at = std::size_t{token} * p.rows + row;
  if (p.y_type == FloatType::kFloat32) {
    *reinterpret_cast<float4*>(static_cast<float*>(p.y) + at) = make_float4(values[0], values[1], values[2], values[3]);
    return;
  }
  unsigned halves[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    halves[i] = p.y_type == FloatType::kFloat16 ? float16_of_fast(values[i]) : bfloat16_of(values[i]);
  }
  *reinterpret_cast<uint2*>(static_cast<std::uint16_t*>(p.y) + at) =
      make_uint2(halves[0] | halves[1] << 16, halves[2] | halves[3] << 16);
}

template <CudaWeightFormat Format, FloatType Half, int ScalesOfBlock>
__device__ void multiply_group_tile(const CudaProduct& p, unsigned row_group, unsigned token_group) {
  constexpr int kWords = words_of(Format);
  constexpr unsigned kUnits = stage_units(Format), kStageBytes = stage_bytes(Format), kStages = stages_of(Format);
  // With scales of 32 columns, products of a stage are two parts.
  constexpr int kParts = ScalesOfBlock == 4 ? 2 : 1, kStepsOfPart = 4 / kParts;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const unsigned first_tile = row_group * kTileRowTiles, first_token = token_group * kTileTokens;
  const unsigned first_block = blockIdx.y * p.blocks_of_split;
  const unsigned end_block = smaller(p.blocks, first_block + p.blocks_of_split);
  const unsigned count = (end_block - first_block) * kStagesOfBlock;
  const unsigned tile = smaller(first_tile + warp, p.tiles - 1);

  unsigned char* const table = shared_memory();
  unsigned char* const ring = shared_memory() + (Format == CudaWeightFormat::kTable4 ? kTableBytes : 0);
  if constexpr (Format == CudaWeightFormat::kTable4) {
    fill_table(p, reinterpret_cast<unsigned*>(table));
    __syncthreads();
  }

  // A thread copies the same chunk of every 32nd token, and the units that it will decode itself.
  constexpr unsigned kChunks = kRowOfX / 16, kTokensAtOnce = kProductThreads / kChunks;
  static_assert(kTokensAtOnce % 8 == 0, "tokens of a thread are alike modulo eight");
  const unsigned token_of_copy = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
  const unsigned own_token = first_token + token_of_copy;
  const std::size_t first_stage = std::size_t{first_block} * kStagesOfBlock;
  const std::uint16_t* const x_from =
      kept(p.x + (own_token < p.m ? own_token : 0) * p.x_stride + first_stage * kStageColumns + chunk * 8);
  const std::size_t tokens_further = kTokensAtOnce * p.x_stride;
  const unsigned x_to = token_of_copy * kRowOfX + (chunk ^ token_of_copy % 8) * 16;
  const uint4* const codes_from =
      kept(p.codes + (std::size_t{tile} * p.blocks * kStagesOfBlock + first_stage) * (kUnits * kWarp) + lane);
  const unsigned codes_at = kXBytes + (warp * kUnits * kWarp + lane) * kUnitBytes;
  // Past the last there are stages of zeros.
  const auto copy_stage = [&](unsigned char* stage, unsigned index) {
    const bool there = index < count;
    const std::uint16_t* x = x_from + index * kStageColumns;
#pragma unroll 1  // addresses side by side would cost registers
    for (unsigned i = 0; i < kTileTokens / kTokensAtOnce; i++, x += tokens_further) {
      // What is not wanted is not read, wherever it would be.
      copy_async(stage + x_to + i * (kTokensAtOnce * kRowOfX), x, there && own_token + i * kTokensAtOnce < p.m);
    }
    const uint4* const codes = codes_from + index * (kUnits * kWarp);
#pragma unroll
    for (unsigned u = 0; u < kUnits; u++) {
      copy_async(stage + codes_at + u * (kWarp * kUnitBytes), codes + u * kWarp, there);
    }
  };

  Zero<Format, Half> zero[2];
  zero[0].set(p.zero), zero[1].set(p.zero);
  // Half `i` of a block of columns to the operand A of four products.
  const auto decode_stage = [&](const unsigned char* stage, int i, const Parameters<ScalesOfBlock>& parameters,
                                unsigned(&a)[4][4]) {
    unsigned words[kUnits * 4];
#pragma unroll
    for (unsigned u = 0; u < kUnits; u++) {
      const uint4 unit = *reinterpret_cast<const uint4*>(stage + codes_at + u * (kWarp * kUnitBytes));
      words[4 * u] = unit.x, words[4 * u + 1] = unit.y, words[4 * u + 2] = unit.z, words[4 * u + 3] = unit.w;
    }
#pragma unroll
    for (int step = 0; step < 2; step++) {
      if constexpr (is_integer(Format)) {
        if (p.zeros != nullptr && (step == 0 || kParts == 2)) {
          const int group = ScalesOfBlock == 1 ? 0 : ScalesOfBlock == 2 ? i : 2 * i + step;
          zero[0].set(parameters.zeros.get(group, 0));
          zero[1].set(parameters.zeros.get(group, 1));
        }
      }
      unsigned upper[4], lower[4];
      decode<Format, Half>(words + step * 2 * kWords, zero[0], table, lane, upper);
      decode<Format, Half>(words + step * 2 * kWords + kWords, zero[1], table, lane, lower);
#pragma unroll
      for (int k = 0; k < 2; k++) {
        a[2 * step + k][0] = upper[2 * k], a[2 * step + k][1] = lower[2 * k];
        a[2 * step + k][2] = upper[2 * k + 1], a[2 * step + k][3] = lower[2 * k + 1];
      }
    }
  };

  float totals[2][kSums] = {}, sums[2][kSums] = {};
  float scale[2] = {0.0F, 0.0F};  // of the sums that are being made
  const auto add_up = [&](int side) {
    hold(sums[side]);
#pragma unroll
    for (int i = 0; i < kSums; i++) totals[side][i] = __fmaf_rn(sums[side][i], scale[i / 2 % 2], totals[side][i]);
  };
  const auto multiply_side = [&](int side, const unsigned(&a)[4][4], int first, std::uint64_t x, bool adds) {
    if (!adds) hold(sums[side]);
    begin_products();
#pragma unroll
    for (int k = 0; k < kStepsOfPart; k++) {
      multiply_group<Half>(sums[side], a[first + k], x + static_cast<unsigned>(first + k) * (32 >> 4), adds || k != 0);
    }
    commit_products();
  };

  // Products of a stage may go on while the next is begun, so two stages are not copied to.
  constexpr unsigned kAhead = kStages - 2;
#pragma unroll 1
  for (unsigned i = 0; i < kAhead; i++) {
    copy_stage(ring + i * kStageBytes, i);
    commit_copies();
  }
  // Where all have come past it, all have waited for their part of the next stage, and for the products of the stage
  // before this one.
  const auto meet = [&] {
    publish_to_products();
    __syncthreads();
  };
  Parameters<ScalesOfBlock> now, next;
  unsigned a[2][4][4];
  now.load(p, tile, smaller(first_block, p.blocks - 1), g);
  wait_for_copies<static_cast<int>(kAhead) - 1>();
  decode_stage(ring, 0, now, a[0]);
  meet();
  unsigned slot = 0, block = first_block;
  // Blocks past the last are zeros.
  while (block < end_block) {
#pragma unroll
    for (int turn = 0; turn < static_cast<int>(kBlocksOfTurn); turn++) {
      next.load(p, tile, smaller(block + 1, p.blocks - 1), g);
#pragma unroll
      for (int i = 0; i < static_cast<int>(kStagesOfBlock); i++) {
        const std::uint64_t x = matrix_descriptor(ring + slot * kStageBytes);
#pragma unroll
        for (int k = 0; k < 4; k++) hold(a[i][k]);
#pragma unroll
        for (int part = 0; part < kParts; part++) {
          const bool begins = ScalesOfBlock != 1 || i == 0;  // other sums
          if (begins && turn + i + part != 0) {
            wait_for_products<1>();
            add_up(0);
          }
          multiply_side(0, a[i], part * kStepsOfPart, x, !begins);
          wait_for_products<1>();  // the sums of the other side; and nobody reads the other operand A any more
          if (begins) add_up(1);
          multiply_side(1, a[i], part * kStepsOfPart, x + (kSideTokens * kRowOfX >> 4), !begins);
          if (begins) {
            now.scales.get(p.half_scales, ScalesOfBlock == 1 ? 0 : ScalesOfBlock == 2 ? i : 2 * i + part, scale);
          }
        }
        const unsigned index = (block - first_block) * kStagesOfBlock + static_cast<unsigned>(i);
        const unsigned free_slot = slot < 2 ? slot + kAhead : slot - 2;
        copy_stage(ring + free_slot * kStageBytes, index + kAhead);
        commit_copies();
        slot = slot + 1 == kStages ? 0 : slot + 1;
        wait_for_copies<static_cast<int>(kAhead) - 1>();
        decode_stage(ring + slot * kStageBytes, 1 - i, i == 0 ? now : next, a[1 - i]);
        meet();
      }
      now = next;
      block++;
    }
    // The compiler does not follow products from one turn of a loop to the next: it would wait for each of them.
    wait_for_products<1>();
    add_up(0);
    wait_for_products<0>();
  }
  add_up(1);

  // Splits leave their sums as they lie in registers, one after the other for each lane.
  if (gridDim.y != 1) {
    constexpr unsigned kAll = 2 * kSums;
    float* const partials = p.partials + std::size_t{blockIdx.x} * gridDim.y * (kAll * kProductThreads) + threadIdx.x;
    float* const own = partials + blockIdx.y * (kAll * kProductThreads);
#pragma unroll
    for (unsigned i = 0; i < kAll; i++) own[i * kProductThreads] = totals[i / kSums][i % kSums];
    if (!is_last_of(gridDim.y, p.counters + blockIdx.x)) return;
#pragma unroll
    for (unsigned i = 0; i < kAll; i++) totals[i / kSums][i % kSums] = 0.0F;
    for (unsigned split = 0; split < gridDim.y; split++) {
#pragma unroll
      for (unsigned i = 0; i < kAll; i++) {
        totals[i / kSums][i % kSums] += load_written(partials + (split * kAll + i) * kProductThreads);
      }
    }
  }
  wait_for_copies<0>();  // of zeros, to the ring
  __syncthreads();       // nobody reads it any more
  float* const staging = reinterpret_cast<float*>(ring);
#pragma unroll
  for (unsigned i = 0; i < 2 * kSums; i++) {
    const unsigned of_side = i % kSums, token = i / kSums * kSideTokens + of_side / 4 * 8 + 2 * t + of_side % 2;
    staging[token * kStagingStride + warp * kRowsOfTile + g + of_side / 2 % 2 * 8] = totals[i / kSums][of_side];
  }
  __syncthreads();
  const unsigned row = first_tile * kRowsOfTile + 4 * lane;
  const bool fours = p.rows % 4 == 0 && reinterpret_cast<std::uintptr_t>(p.y) % 16 == 0;
  for (unsigned i = warp; i < kTileTokens && first_token + i < p.m; i += kProductWarps) {
    const float4 four = *reinterpret_cast<const float4*>(staging + i * kStagingStride + 4 * lane);
    if (fours) {
      if (row < p.rows) finish_four(p, first_token + i, row, four);
    } else {
      if (row < p.rows) finish(p, first_token + i, row, four.x);
      if (row + 1 < p.rows) finish(p, first_token + i, row + 1, four.y);
      if (row + 2 < p.rows) finish(p, first_token + i, row + 2, four.z);
      if (row + 3 < p.rows) finish(p, first_token + i, row + 3, four.w);
    }
  }
}

#endif

template <CudaWeightFormat Format, FloatType Half, int ScalesOfBlock>
__global__ void __launch_bounds__(kProductThreads, 1)
    multiply_group_tiles(CudaProduct p, unsigned row_groups, unsigned token_groups) {
#if LOWBIT_HAS_WARPGROUPS
  const unsigned of_band = row_groups * kBandTokens, band = blockIdx.x / of_band, within = blockIdx.x % of_band;
  const unsigned width = smaller(kBandTokens, token_groups - band * kBandTokens);
  multiply_group_tile<Format, Half, ScalesOfBlock>(p, within / width, band * kBandTokens + within % width);
#else
  static_cast<void>(p), static_cast<void>(row_groups), static_cast<void>(token_groups);
  __trap();
#endif
}

template <CudaWeightFormat Format, FloatType Half, int ScalesOfBlock>
CudaStatus launch_groups(CudaStream& stream, const CudaProductPlan& plan, const CudaProduct& product) {
  return launch(stream, multiply_group_tiles<Format, Half, ScalesOfBlock>,
                dim3(plan.row_groups * plan.token_groups, plan.splits), kProductThreads, shared_bytes(Format), product,
                plan.row_groups, plan.token_groups);
}

}  // namespace

CudaProductPlan plan_groups(const CudaStream& stream, const CudaPackedLayout& layout, std::uint64_t m) {
  CudaProductPlan plan{};
  plan.way = CudaProductWay::kGroups;
  plan.row_tiles = kTileRowTiles;
  plan.tokens = kTileTokens;
  plan.row_groups = static_cast<unsigned>((layout.tiles + kTileRowTiles - 1) / kTileRowTiles);
  plan.token_groups = static_cast<unsigned>((m + kTileTokens - 1) / kTileTokens);
  const auto blocks = static_cast<unsigned>(layout.blocks);
  const std::uint64_t groups = std::uint64_t{plan.row_groups} * plan.token_groups;
  constexpr unsigned kLeastBlocks = 4;  // of columns in a split
  std::uint64_t splits = groups == 0 ? 1 : static_cast<std::uint64_t>(stream.multiprocessors) / groups;
  if (splits > blocks / kLeastBlocks) splits = blocks / kLeastBlocks;
  if (splits < 1 || groups > kProductCounters) splits = 1;
  const unsigned shared = (blocks + static_cast<unsigned>(splits) - 1) / static_cast<unsigned>(splits);
  plan.blocks_of_split = (shared + kBlocksOfTurn - 1) / kBlocksOfTurn * kBlocksOfTurn;
  plan.splits = blocks == 0 ? 1 : (blocks + plan.blocks_of_split - 1) / plan.blocks_of_split;
  if (plan.splits > 1) plan.partials = groups * plan.splits * kTileRows * kTileTokens;
  return plan;
}

CudaStatus multiply_groups(CudaStream& stream, const CudaProductPlan& plan, CudaWeightFormat format, FloatType half,
                           unsigned scales, const CudaProduct& product) {
  return with_case(format, half, [&](auto of) {
    using Case = decltype(of);
    if constexpr (Case::kFormat != CudaWeightFormat::kFloat16) {
      if (scales == 4) return launch_groups<Case::kFormat, Case::kHalf, 4>(stream, plan, product);
      if (scales == 2) return launch_groups<Case::kFormat, Case::kHalf, 2>(stream, plan, product);
    }
    return launch_groups<Case::kFormat, Case::kHalf, 1>(stream, plan, product);
  });
}

}  // namespace lowbit
