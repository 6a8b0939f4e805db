// XᵀX on a device. Only tiles on or above the diagonal are computed; what they hold is written to both sides of it.

#include "core/float_bits.h"
#include "cuda/float_tiles.cuh"
#include "ops/matmul/gram_cuda.h"

namespace lowbit {
namespace {

template <typename Tile, FloatType Type>
__global__ void __launch_bounds__(kFloatTileThreads, 2)
    gram_tile(FloatRows x, std::size_t m, bool first, float* out, CudaFinding* finding) {
  if (blockIdx.x < blockIdx.y) return;
  const std::size_t k = x.columns;
  const std::size_t first_row = std::size_t{blockIdx.y} * Tile::kSize,
                    first_column = std::size_t{blockIdx.x} * Tile::kSize;
  const auto wanted = [&](std::size_t row, std::size_t column) { return row <= column && column < k; };
  float sums[Tile::kOwn][Tile::kOwn];
#pragma unroll
  for (int i = 0; i < Tile::kOwn; i++) {
#pragma unroll
    for (int j = 0; j < Tile::kOwn; j++) {
      const std::size_t row = first_row + static_cast<std::size_t>(Tile::row(i));
      const std::size_t column = first_column + static_cast<std::size_t>(Tile::column(j));
      sums[i][j] = !first && wanted(row, column) ? out[row * k + column] : 0.0F;
    }
  }
  // Tiles on the diagonal meet every element of x.
  const bool looks = blockIdx.x == blockIdx.y;
  multiply_floats<Tile, Type>(x, x, first_row, first_column, m, 1.0F, sums,
                              [&](std::size_t row, std::size_t column, const float4& four) {
                                if (!looks) return;
                                const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                                for (std::size_t i = 0; i < 4; i++) {
                                  if (!is_finite(values[i])) note(finding, Status::kNonFinite, row * k + column + i);
                                }
                              });
#pragma unroll
  for (int i = 0; i < Tile::kOwn; i++) {
#pragma unroll
    for (int j = 0; j < Tile::kOwn; j++) {
      const std::size_t row = first_row + static_cast<std::size_t>(Tile::row(i));
      const std::size_t column = first_column + static_cast<std::size_t>(Tile::column(j));
      if (!wanted(row, column)) continue;
      out[row * k + column] = sums[i][j];
      out[column * k + row] = sums[i][j];
    }
  }
}

template <typename Tile>
CudaStatus launch_gram(const CudaStream& stream, const FloatRows& x, std::size_t m, bool first, float* out) {
  const auto tiles = static_cast<unsigned>((x.columns + Tile::kSize - 1) / Tile::kSize);
  const auto kernel = x.type == FloatType::kFloat32   ? gram_tile<Tile, FloatType::kFloat32>
                      : x.type == FloatType::kFloat16 ? gram_tile<Tile, FloatType::kFloat16>
                                                      : gram_tile<Tile, FloatType::kBfloat16>;
  return launch(stream, kernel, dim3(tiles, tiles), kFloatTileThreads, Tile::kSharedBytes, x, m, first, out,
                stream.finding);
}

CudaStatus gram(CudaStream* stream, const void* x, FloatType type, std::size_t m, std::size_t k, bool first,
                float* out) {
  const FloatRows rows{x, type, k, k};
  return needs_small_tiles(*stream, k, k, true) ? launch_gram<FloatTile<64>>(*stream, rows, m, first, out)
                                                : launch_gram<FloatTile<128>>(*stream, rows, m, first, out);
}

}  // namespace

const GramCuda kGramCuda = {gram};

}  // namespace lowbit
