// Linear layers of int8 and of E4M3FN by products of whole warp groups, for compute capability 9.0. Two groups of warps
// make the upper and the lower half of a tile; stages of 128 columns pass through shared memory, copied by all threads
// while earlier ones are multiplied.

#include "cuda/byte_tiles.cuh"
#include "cuda/tokens.cuh"
#include "cuda/warpgroups.cuh"
#include "ops/matmul/float8_cuda.h"
#include "ops/matmul/integer_cuda.h"

namespace lowbit {
namespace {

constexpr int kGroupThreads = 128, kGroups = 2, kThreads = kGroupThreads * kGroups;
constexpr int kTileRows = 64 * kGroups;
constexpr int kLongStageBytes = 128, kLongStages = 4;

// The rows and columns of a tile, for tile_of_block().
template <int Columns>
struct GroupTile {
  static constexpr int kRows = kTileRows, kColumns = Columns;
  static constexpr int kBytes = (kRows + kColumns) * kLongStageBytes;
  static constexpr std::size_t kSharedBytes = std::size_t{kBytes} * kLongStages;
};

#if LOWBIT_HAS_WARPGROUPS

constexpr int kChunksOfLongRow = kLongStageBytes / kChunk;

struct Int8Group {
  using Sum = int;
  static constexpr int kColumns = 256;
  static constexpr bool kAddsOutside = false;
  __device__ static void multiply(Sum (&c)[kColumns / 2], std::uint64_t a, std::uint64_t b, bool adds) {
    multiply_group_int8(c, a, b, adds);
  }
};

// Sums over 128 columns are added up in float32: a second set of sums, and half of the columns.
struct Float8Group {
  using Sum = float;
  static constexpr int kColumns = 128;
  static constexpr bool kAddsOutside = true;
  __device__ static void multiply(Sum (&c)[kColumns / 2], std::uint64_t a, std::uint64_t b, bool adds) {
    multiply_group_float8(c, a, b, adds);
  }
};

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

template <typename Group>
__device__ void multiply_tile(const ByteRows& a, const ByteRows& b, std::size_t k, const ScaledResult& result) {
  using Tile = GroupTile<Group::kColumns>;
  using Sum = typename Group::Sum;
  constexpr int kSums = Group::kColumns / 2;
  unsigned char* const shared = shared_memory();
  const TilePlace tile = tile_of_block<Tile>(a.rows, b.rows);
  const unsigned group = threadIdx.x / kGroupThreads;
  const int stages = static_cast<int>((k + kLongStageBytes - 1) / kLongStageBytes);
  const auto copy = [&](int stage) {
    if (stage < stages) {
      unsigned char* const to = shared + stage % kLongStages * Tile::kBytes;
      const std::size_t begin = static_cast<std::size_t>(stage) * kLongStageBytes;
      copy_long_rows<kTileRows>(a, tile.row, begin, k, to);
      copy_long_rows<Group::kColumns>(b, tile.column, begin, k, to + kTileRows * kLongStageBytes);
    }
    commit_copies();
  };
  // Products of a stage may go on while the next is begun, so two stages are not copied to.
  Sum sums[kSums] = {};
  float totals[Group::kAddsOutside ? kSums : 1] = {};
#pragma unroll
  for (int s = 0; s < kLongStages - 2; s++) copy(s);
  for (int s = 0; s < stages; s++) {
    wait_for_copies<kLongStages - 3>();
    publish_to_products();
    __syncthreads();
    const unsigned char* const stage = shared + s % kLongStages * Tile::kBytes;
    std::uint64_t of_a = matrix_descriptor(stage + group * 64 * kLongStageBytes);
    std::uint64_t of_b = matrix_descriptor(stage + kTileRows * kLongStageBytes);
    hold(sums);
    begin_products();
#pragma unroll
    for (int step = 0; step < kLongStageBytes / 32; step++) {
      Group::multiply(sums, of_a, of_b, Group::kAddsOutside ? step != 0 : s + step != 0);
      of_a = next_columns(of_a);
      of_b = next_columns(of_b);
    }
    commit_products();
    copy(s + kLongStages - 2);
    if constexpr (Group::kAddsOutside) {
      wait_for_products<0>();
      hold(sums);
#pragma unroll
      for (int i = 0; i < kSums; i++) totals[i] += sums[i];
    } else {
      wait_for_products<1>();
    }
  }
  wait_for_products<0>();
  hold(sums);
  const unsigned warp = threadIdx.x / kWarp % 4, lane = threadIdx.x % kWarp;
  const std::size_t row = tile.row + group * 64 + warp * 16 + lane / 4, column = tile.column + 2 * (lane % 4);
#pragma unroll
  for (int j = 0; j < Group::kColumns / 8; j++) {
    float four[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      four[i] = Group::kAddsOutside ? totals[Group::kAddsOutside ? 4 * j + i : 0] : static_cast<float>(sums[4 * j + i]);
    }
    const std::size_t at = column + 8 * static_cast<std::size_t>(j);
    result.store(row, at, four[0], four[1]);
    result.store(row + 8, at, four[2], four[3]);
  }
}

#endif

template <bool IsFloat8>
__global__ void __launch_bounds__(kThreads)
    multiply_groups(ByteRows a, ByteRows b, std::size_t k, ScaledResult result) {
#if LOWBIT_HAS_WARPGROUPS
  multiply_tile<std::conditional_t<IsFloat8, Float8Group, Int8Group>>(a, b, k, result);
#else
  static_cast<void>(a), static_cast<void>(b), static_cast<void>(k), static_cast<void>(result);
  __trap();
#endif
}

template <bool IsFloat8, typename Layer>
CudaStatus multiply_by_groups(CudaStream* stream, const Layer& l) {
  using Tile = GroupTile<IsFloat8 ? 128 : 256>;
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
