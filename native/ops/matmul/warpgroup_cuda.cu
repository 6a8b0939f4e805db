// Linear layers of int8 and of E4M3FN by products of whole warp groups, for compute capability 9.0. Two groups of warps
// make the upper and the lower half of a tile; stages of 128 columns pass through shared memory, copied by all threads
// while earlier ones are multiplied.

#include <type_traits>

#include "cuda/byte_tiles.cuh"
#include "cuda/tokens.cuh"
#include "cuda/warpgroups.cuh"
#include "ops/matmul/float8_cuda.h"
#include "ops/matmul/integer_cuda.h"

namespace lowbit {
namespace {

constexpr int kGroupThreads = 128, kGroups = 2, kThreads = kGroupThreads * kGroups;
constexpr int kTileRows = 64 * kGroups;
constexpr int kLongStageBytes = 128;

// The rows and columns of a tile, for tile_of_block().
template <int Columns, int Stages>
struct GroupTile {
  static constexpr int kRows = kTileRows, kColumns = Columns, kStages = Stages;
  static constexpr int kBytes = (kRows + kColumns) * kLongStageBytes;
  static constexpr std::size_t kSharedBytes = std::size_t{kBytes} * kStages;
};
using Int8Tile = GroupTile<256, 4>;
// Sums over 128 columns are added up in float32, so there are three sets of sums, and half of the columns.
using Float8Tile = GroupTile<128, 6>;

#if LOWBIT_HAS_WARPGROUPS

constexpr int kChunksOfLongRow = kLongStageBytes / kChunk;

// Rows [first, first + Rows) of an operand, columns from `begin` on, to a stage.
template <int Rows>
__device__ void copy_long_rows(const ByteRows& from, std::size_t first, std::size_t begin, std::size_t k,
                               unsigned char* to) {
  static_assert(Rows * kChunksOfLongRow % kThreads == 0, "every thread copies as much");
#pragma unroll
  for (int i = 0; i < Rows * kChunksOfLongRow / kThreads; i++) {
    const int id = static_cast<int>(threadIdx.x) + i * kThreads;
    const int row = id / kChunksOfLongRow, chunk = id % kChunksOfLongRow;
    const std::size_t at = begin + static_cast<std::size_t>(chunk * kChunk);
    const bool wanted = first + static_cast<std::size_t>(row) < from.rows && at < k;
    copy_async(to + row * kLongStageBytes + (chunk ^ row % 8) * kChunk,
               from.data + (wanted ? (first + static_cast<std::size_t>(row)) * from.stride + at : 0), wanted);
  }
}

// The stages of a tile, and what the calling thread's group multiplies of them.
template <typename Tile>
struct Stages {
  const ByteRows &a, &b;
  std::size_t k;
  TilePlace tile;
  int count;

  __device__ Stages(const ByteRows& a_, const ByteRows& b_, std::size_t k_)
      : a(a_),
        b(b_),
        k(k_),
        tile(tile_of_block<Tile>(a_.rows, b_.rows)),
        count(static_cast<int>((k_ + kLongStageBytes - 1) / kLongStageBytes)) {}

  // Past the last there are stages of zeros.
  __device__ void copy(int stage) const {
    unsigned char* const to = shared_memory() + stage % Tile::kStages * Tile::kBytes;
    const std::size_t begin = static_cast<std::size_t>(stage) * kLongStageBytes;
    copy_long_rows<kTileRows>(a, tile.row, begin, k, to);
    copy_long_rows<Tile::kColumns>(b, tile.column, begin, k, to + kTileRows * kLongStageBytes);
    commit_copies();
  }
  __device__ std::uint64_t of_a(int stage) const {
    return matrix_descriptor(shared_memory() + stage % Tile::kStages * Tile::kBytes +
                             threadIdx.x / kGroupThreads * 64 * kLongStageBytes);
  }
  __device__ std::uint64_t of_b(int stage) const {
    return matrix_descriptor(shared_memory() + stage % Tile::kStages * Tile::kBytes + kTileRows * kLongStageBytes);
  }
  // The next stage is there for all; and all have waited for the products that the calling thread has waited for.
  __device__ void meet() const {
    wait_for_copies<Tile::kStages - 3>();
    publish_to_products();
    __syncthreads();
  }
};

template <typename Tile, typename Sum>
__device__ void store_group(const TilePlace& tile, const Sum (&sums)[Tile::kColumns / 2], const ScaledResult& result) {
  const unsigned group = threadIdx.x / kGroupThreads, warp = threadIdx.x / kWarp % 4, lane = threadIdx.x % kWarp;
  const std::size_t row = tile.row + group * 64 + warp * 16 + lane / 4, column = tile.column + 2 * (lane % 4);
#pragma unroll
  for (int j = 0; j < Tile::kColumns / 8; j++) {
    float four[4];
#pragma unroll
    for (int i = 0; i < 4; i++) four[i] = static_cast<float>(sums[4 * j + i]);
    const std::size_t at = column + 8 * static_cast<std::size_t>(j);
    result.store(row, at, four[0], four[1]);
    result.store(row + 8, at, four[2], four[3]);
  }
}

// Products of a stage may go on while the next is begun, so two stages are not copied to.
__device__ void multiply_int8_tile(const ByteRows& a, const ByteRows& b, std::size_t k, const ScaledResult& result) {
  using Tile = Int8Tile;
  const Stages<Tile> stages(a, b, k);
  int sums[Tile::kColumns / 2] = {};
#pragma unroll
  for (int s = 0; s < Tile::kStages - 2; s++) stages.copy(s);
  hold(sums);
  for (int s = 0; s < stages.count; s++) {
    stages.meet();
    std::uint64_t of_a = stages.of_a(s), of_b = stages.of_b(s);
    begin_products();
#pragma unroll
    for (int step = 0; step < kLongStageBytes / 32; step++) {
      multiply_group_int8(sums, of_a, of_b, s + step != 0);
      of_a = next_columns(of_a);
      of_b = next_columns(of_b);
    }
    commit_products();
    stages.copy(s + Tile::kStages - 2);
    wait_for_products<1>();
  }
  wait_for_products<0>();
  hold(sums);
  store_group<Tile>(stages.tile, sums, result);
}

// Two sets of sums: while one is added to the totals, the other is being made. Between turns of so many stages products
// pause, as the compiler does not follow them from one turn of a loop to the next: it would wait for each of them.
constexpr int kStagesOfTurn = 4;

__device__ void multiply_float8_tile(const ByteRows& a, const ByteRows& b, std::size_t k, const ScaledResult& result) {
  using Tile = Float8Tile;
  constexpr int kSums = Tile::kColumns / 2;
  const Stages<Tile> stages(a, b, k);
  float sums[2][kSums] = {}, totals[kSums] = {};
  const auto add_up = [&](int set) {
    hold(sums[set]);
#pragma unroll
    for (int i = 0; i < kSums; i++) totals[i] += sums[set][i];
  };
#pragma unroll
  for (int s = 0; s < Tile::kStages - 2; s++) stages.copy(s);
  stages.meet();
  for (int first = 0; first < stages.count; first += kStagesOfTurn) {
#pragma unroll
    for (int i = 0; i < kStagesOfTurn; i++) {
      const int s = first + i;
      std::uint64_t of_a = stages.of_a(s), of_b = stages.of_b(s);
      hold(sums[i % 2]);
      begin_products();
#pragma unroll
      for (int step = 0; step < kLongStageBytes / 32; step++) {
        multiply_group_float8(sums[i % 2], of_a, of_b, step != 0);
        of_a = next_columns(of_a);
        of_b = next_columns(of_b);
      }
      commit_products();
      stages.copy(s + Tile::kStages - 2);
      wait_for_products<1>();
      add_up(1 - i % 2);  // of the stage before, or nothing
      stages.meet();
    }
    wait_for_products<0>();
  }
  if (stages.count != 0) add_up(1);
  store_group<Tile>(stages.tile, totals, result);
}

#endif

template <bool IsFloat8>
__global__ void __launch_bounds__(kThreads)
    multiply_groups(ByteRows a, ByteRows b, std::size_t k, ScaledResult result) {
#if LOWBIT_HAS_WARPGROUPS
  if constexpr (IsFloat8) {
    multiply_float8_tile(a, b, k, result);
  } else {
    multiply_int8_tile(a, b, k, result);
  }
#else
  static_cast<void>(a), static_cast<void>(b), static_cast<void>(k), static_cast<void>(result);
  __trap();
#endif
}

template <bool IsFloat8, typename Layer>
CudaStatus multiply_by_groups(CudaStream* stream, const Layer& l) {
  using Tile = std::conditional_t<IsFloat8, Float8Tile, Int8Tile>;
  Workspace copy_of_x(*stream), copy_of_w(*stream);
  ByteRows x, w;
  LOWBIT_TRY(tileable(*stream, l.x, l.m, l.k, copy_of_x, &x));
  LOWBIT_TRY(tileable(*stream, l.w, l.n, l.k, copy_of_w, &w));
  const ScaledResult result{l.x_scales, l.w_scales, l.bias, l.x_scale_per_row, l.w_scale_per_row, l.type,
                            l.y,        l.m,        l.n};
  return launch(*stream, multiply_groups<IsFloat8>, dim3(tiles_of<Tile>(l.m, l.n)), unsigned{kThreads},
                Tile::kSharedBytes, x, w, l.k, result);
}

}  // namespace

CudaStatus int8_linear_by_groups(CudaStream* stream, const Int8LinearCuda& layer) {
  return multiply_by_groups<false>(stream, layer);
}

CudaStatus float8_linear_by_groups(CudaStream* stream, const Float8LinearCuda& layer) {
  return multiply_by_groups<true>(stream, layer);
}

}  // namespace lowbit
