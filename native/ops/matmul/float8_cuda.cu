// Products of E4M3FN on a device. Tensor cores keep fewer bits of long sums than float32 has, so sums over 128 columns
// are added up outside them.

#include "cuda/byte_tiles.cuh"
#include "cuda/tokens.cuh"
#include "cuda/warpgroups.cuh"
#include "cuda/workspace.cuh"
#include "ops/matmul/float8_cuda.h"

namespace lowbit {
namespace {

constexpr int kStagesOfSum = 128 / kStageBytes;

struct Float8Bytes {
  __device__ static void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_float8(c, a, b);
  }
};

// (Compute capability 9.0 has instructions for these products only where whole warp groups make them; here it converts
// to float16.) Two sets of sums leave room for half of the tile that int8 has.
using WideTile = ByteTile<64, 32, 2, 4>;
using SmallTile = ByteTile<32, 32, 2, 2, 6>;
using FlatTile = ByteTile<16, 16, 1, 4, 8>;

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads)
    multiply_float8_rows(ByteRows a, ByteRows b, std::size_t k, ScaledResult result) {
  const TilePlace tile = tile_of_block<Tile>(a.rows, b.rows);
  float sums[Tile::kDown][Tile::kAcross][4] = {}, totals[Tile::kDown][Tile::kAcross][4] = {};
  const auto add_up = [&] {
#pragma unroll
    for (int i = 0; i < Tile::kDown; i++) {
#pragma unroll
      for (int j = 0; j < Tile::kAcross; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          totals[i][j][e] += sums[i][j][e];
          sums[i][j][e] = 0.0F;
        }
      }
    }
  };
  for_stages<Tile>(a, b, tile.row, tile.column, k, [&](int number, const unsigned char* stage) {
    multiply_stage<Tile, Float8Bytes>(stage, sums);
    if (number % kStagesOfSum == kStagesOfSum - 1) add_up();
  });
  add_up();  // what is left, or zeros
  store_tile<Tile>(tile, totals, result);
}

template <typename Tile>
CudaStatus launch_tiles(const CudaStream& stream, const ByteRows& a, const ByteRows& b, std::size_t k,
                        const ScaledResult& result) {
  return launch(stream, multiply_float8_rows<Tile>, dim3(tiles_of<Tile>(a.rows, b.rows)), Tile::kThreads,
                Tile::kSharedBytes, a, b, k, result);
}

CudaStatus multiply_layer(CudaStream* stream, const Float8LinearCuda& l) {
  if (stream->major * 10 + stream->minor < 89) return CudaStatus::kUnsupported;
  if (l.m == 0 || l.n == 0) return CudaStatus::kOk;
  if (stream->uses_warp_groups && l.m >= kRowsForWarpGroups) return float8_linear_by_groups(stream, l);
  Workspace copy_of_x(*stream), copy_of_w(*stream);
  ByteRows x, w;
  LOWBIT_TRY(tileable(*stream, l.x, l.m, l.k, copy_of_x, &x));
  LOWBIT_TRY(tileable(*stream, l.w, l.n, l.k, copy_of_w, &w));
  const ScaledResult result{l.x_scales, l.w_scales, l.bias, l.x_scale_per_row, l.w_scale_per_row, l.type,
                            l.y,        l.m,        l.n};
  const auto multiprocessors = static_cast<unsigned>(stream->multiprocessors);
  if (l.m <= 16) return launch_tiles<FlatTile>(*stream, x, w, l.k, result);
  if (tiles_of<WideTile>(l.m, l.n) < multiprocessors) return launch_tiles<SmallTile>(*stream, x, w, l.k, result);
  return launch_tiles<WideTile>(*stream, x, w, l.k, result);
}

template <bool Whole>
__global__ void __launch_bounds__(kTokenThreads)
    quantize_rows(const void* x, FloatType type, std::size_t k, std::uint8_t* codes, float* scales,
                  CudaFinding* finding) {
  constexpr float kLargest = 448.0F;
  const float largest = largest_of_row<Whole>(x, type, k, finding);
  const bool nothing = largest < kNoMagnitude;
  const float scale = nothing ? 0.0F : largest / kLargest;
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  write_codes<Whole>(x, type, k, codes, [&](float value) {
    return nothing ? std::uint8_t{0} : small_float_of_fast<SmallFloatType::kFloat8E4m3fn>(value / scale, true);
  });
}

CudaStatus quantize_tokens(CudaStream* stream, const void* x, FloatType type, std::size_t m, std::size_t k,
                           std::uint8_t* codes, float* scales) {
  return launch(*stream, has_whole_units(x, codes, k) ? quantize_rows<true> : quantize_rows<false>,
                dim3(static_cast<unsigned>(m)), kTokenThreads, kTokenThreads / kWarp * sizeof(float), x, type, k, codes,
                scales, stream->finding);
}

}  // namespace

const Float8Cuda kFloat8Cuda = {quantize_tokens, multiply_layer};

}  // namespace lowbit
