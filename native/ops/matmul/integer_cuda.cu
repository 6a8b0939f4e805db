// Products of bytes on a device: exact int32 sums on tensor cores, or for a few rows as dot products, and what becomes
// of them.

#include "cuda/byte_tiles.cuh"
#include "cuda/tokens.cuh"
#include "cuda/warpgroups.cuh"
#include "cuda/workspace.cuh"
#include "ops/matmul/integer_cuda.h"

namespace lowbit {
namespace {

constexpr unsigned kThreads = 256;

// b is signed here: its zero points are less by 128 where it was not.
struct IntegerFinish {
  const std::int32_t *a_zeros, *b_zeros;  // or nullptr: 0
  bool a_zero_per_row, b_zero_per_column;
  std::int32_t b_offset;         // added to the zero points of b
  const std::int32_t* row_sums;  // of a; nullptr where they are multiplied by nothing
  const std::int32_t* column_sums;
  std::uint32_t k;
  IntegerResult result;
  const float *scales, *bias;
  bool scale_per_column;
  std::int32_t zero_point;
  void* c;
  std::size_t m, n;

  __device__ std::int32_t exact(std::int32_t sum, std::size_t row, std::size_t column) const {
    const auto a_zero = static_cast<std::uint32_t>(a_zeros == nullptr ? 0 : a_zeros[a_zero_per_row ? row : 0]);
    const auto b_zero =
        static_cast<std::uint32_t>((b_zeros == nullptr ? 0 : b_zeros[b_zero_per_column ? column : 0]) + b_offset);
    std::uint32_t corrected = static_cast<std::uint32_t>(sum);
    if (row_sums != nullptr) corrected -= b_zero * (static_cast<std::uint32_t>(row_sums[row]) - k * a_zero);
    if (a_zeros != nullptr) corrected -= a_zero * static_cast<std::uint32_t>(column_sums[column]);
    return static_cast<std::int32_t>(corrected);
  }

  __device__ void store_one(std::size_t row, std::size_t column, std::int32_t sum) const {
    const std::size_t at = row * n + column;
    const std::int32_t integer = exact(sum, row, column);
    if (result == IntegerResult::kInt32) {
      static_cast<std::int32_t*>(c)[at] = integer;
      return;
    }
    const float scaled = static_cast<float>(integer) * scales[scale_per_column ? column : 0];
    if (result == IntegerResult::kFloats) {
      static_cast<float*>(c)[at] = bias == nullptr ? scaled : scaled + bias[column];
      return;
    }
    // Within ±1000 everything saturates the same way, and adding 1.5 · 2^23 rounds half to even.
    const float bounded = scaled < -1000.0F ? -1000.0F : scaled > 1000.0F ? 1000.0F : scaled;
    const std::int32_t code = static_cast<std::int32_t>((bounded + 12582912.0F) - 12582912.0F) + zero_point;
    const std::int32_t lowest = result == IntegerResult::kInt8 ? -128 : 0, highest = lowest + 255;
    static_cast<std::uint8_t*>(c)[at] = static_cast<std::uint8_t>(code < lowest    ? lowest
                                                                  : code > highest ? highest
                                                                                   : code);
  }

  // Columns `column` and the next.
  __device__ void store(std::size_t row, std::size_t column, std::int32_t first, std::int32_t second) const {
    if (row >= m || column >= n) return;
    auto* const pair = reinterpret_cast<int2*>(static_cast<std::int32_t*>(c) + row * n + column);
    if (result == IntegerResult::kInt32 && column + 1 < n &&
        reinterpret_cast<std::uintptr_t>(pair) % sizeof *pair == 0) {
      *pair = make_int2(exact(first, row, column), exact(second, row, column + 1));
      return;
    }
    store_one(row, column, first);
    if (column + 1 < n) store_one(row, column + 1, second);
  }
};

struct ScaledFinish {
  ScaledResult result;
  __device__ void store(std::size_t row, std::size_t column, std::int32_t first, std::int32_t second) const {
    result.store(row, column, static_cast<float>(first), static_cast<float>(second));
  }
};

struct SignedBytes {
  __device__ static void multiply(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_int8(c, a, b);
  }
  __device__ static int dot(unsigned a, unsigned b, int c) { return dot_int8(a, b, c); }
};
struct UnsignedBytes {
  __device__ static void multiply(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_uint8(c, a, b);
  }
  __device__ static int dot(unsigned a, unsigned b, int c) { return dot_uint8(a, b, c); }
};

using WideTile = ByteTile<64, 64, 2, 2>;
using SmallTile = ByteTile<32, 32, 2, 2, 6>;
using FlatTile = ByteTile<16, 16, 1, 4, 8>;

template <typename Tile, typename Product, typename Finish>
__global__ void __launch_bounds__(Tile::kThreads) multiply_bytes(ByteRows a, ByteRows b, std::size_t k, Finish finish) {
  const TilePlace tile = tile_of_block<Tile>(a.rows, b.rows);
  int sums[Tile::kDown][Tile::kAcross][4] = {};
  for_stages<Tile>(a, b, tile.row, tile.column, k,
                   [&](int, const unsigned char* stage) { multiply_stage<Tile, Product>(stage, sums); });
  store_tile<Tile>(tile, sums, finish);
}

// For a few rows of a, where reading b is what takes time: a warp makes two columns of the result.
constexpr int kFewRows = 8, kFewColumns = 2;

template <int Rows, typename Product, typename Finish>
__global__ void __launch_bounds__(kThreads) multiply_few(ByteRows a, ByteRows b, std::size_t k, Finish finish) {
  const std::size_t warp = grid_thread() / kWarp, lane = threadIdx.x % kWarp, column = warp * kFewColumns;
  if (column >= b.rows) return;
  int sums[Rows][kFewColumns] = {};
  const std::uint8_t* rows_of_b[kFewColumns];
#pragma unroll
  for (int c = 0; c < kFewColumns; c++) {
    const std::size_t row = column + static_cast<std::size_t>(c);
    rows_of_b[c] = b.data + (row < b.rows ? row : column) * b.stride;
  }
#pragma unroll 4
  for (std::size_t i = lane * kChunk; i < k; i += std::size_t{kWarp} * kChunk) {
    uint4 of_b[kFewColumns];
#pragma unroll
    for (int c = 0; c < kFewColumns; c++) of_b[c] = load_once(reinterpret_cast<const uint4*>(rows_of_b[c] + i));
#pragma unroll
    for (int r = 0; r < Rows; r++) {
      // Rows past the last are the last: their sums are not kept.
      const std::size_t row = static_cast<std::size_t>(r) < a.rows ? static_cast<std::size_t>(r) : a.rows - 1;
      const uint4 of_a = *reinterpret_cast<const uint4*>(a.data + row * a.stride + i);
#pragma unroll
      for (int c = 0; c < kFewColumns; c++) {
        int sum = sums[r][c];
        sum = Product::dot(of_a.x, of_b[c].x, sum);
        sum = Product::dot(of_a.y, of_b[c].y, sum);
        sum = Product::dot(of_a.z, of_b[c].z, sum);
        sums[r][c] = Product::dot(of_a.w, of_b[c].w, sum);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < Rows; r++) {
#pragma unroll
    for (int c = 0; c < kFewColumns; c++) {
      sums[r][c] = warp_reduce(sums[r][c], [](int x, int y) {
        return static_cast<int>(static_cast<unsigned>(x) + static_cast<unsigned>(y));
      });
    }
    if (lane == static_cast<std::size_t>(r)) {
      finish.store(static_cast<std::size_t>(r), column, sums[r][0], sums[r][1]);
    }
  }
}

template <int Rows, typename Product, typename Finish>
CudaStatus launch_few(const CudaStream& stream, const ByteRows& a, const ByteRows& b, std::size_t k,
                      const Finish& finish) {
  const std::size_t warps = (b.rows + kFewColumns - 1) / kFewColumns;
  const unsigned blocks = static_cast<unsigned>((warps * kWarp + kThreads - 1) / kThreads);
  return launch(stream, multiply_few<Rows, Product, Finish>, dim3(blocks), kThreads, 0, a, b, k, finish);
}

template <typename Tile, typename Product, typename Finish>
CudaStatus launch_tiles(const CudaStream& stream, const ByteRows& a, const ByteRows& b, std::size_t k,
                        const Finish& finish) {
  return launch(stream, multiply_bytes<Tile, Product, Finish>, dim3(tiles_of<Tile>(a.rows, b.rows)), Tile::kThreads,
                Tile::kSharedBytes, a, b, k, finish);
}

template <typename Product, typename Finish>
CudaStatus multiply(const CudaStream& stream, const ByteRows& a, const ByteRows& b, std::size_t k,
                    const Finish& finish) {
  if (a.rows == 0 || b.rows == 0) return CudaStatus::kOk;
  if (a.rows == 1) return launch_few<1, Product>(stream, a, b, k, finish);
  if (a.rows == 2) return launch_few<2, Product>(stream, a, b, k, finish);
  if (a.rows <= 4) return launch_few<4, Product>(stream, a, b, k, finish);
  if (a.rows <= kFewRows) return launch_few<kFewRows, Product>(stream, a, b, k, finish);
  const auto multiprocessors = static_cast<unsigned>(stream.multiprocessors);
  if (a.rows <= 16) return launch_tiles<FlatTile, Product>(stream, a, b, k, finish);
  if (tiles_of<WideTile>(a.rows, b.rows) < multiprocessors) {
    return launch_tiles<SmallTile, Product>(stream, a, b, k, finish);
  }
  return launch_tiles<WideTile, Product>(stream, a, b, k, finish);
}

// A packed operand: [n][padded_row(k)] signed bytes, then the sums of its rows.
struct Packed {
  std::uint8_t* codes;
  std::int32_t* sums;
};
constexpr std::size_t sums_at(std::size_t k, std::size_t n) { return n * padded_row(k); }
Packed packed_in(void* memory, std::size_t k, std::size_t n) {
  auto* const bytes = static_cast<std::uint8_t*>(memory);
  return {bytes, reinterpret_cast<std::int32_t*>(bytes + sums_at(k, n))};
}
std::size_t packed_bytes(std::size_t k, std::size_t n) { return sums_at(k, n) + n * sizeof(std::int32_t); }

// The sums of rows of bytes, modulo 2^32: a warp for each.
template <bool Signed>
__global__ void __launch_bounds__(kThreads) sum_rows(ByteRows in, std::size_t k, std::int32_t* sums) {
  const std::size_t lane = threadIdx.x % kWarp;
  for (std::size_t row = grid_thread() / kWarp; row < in.rows; row += grid_threads() / kWarp) {
    int sum = 0;
    for (std::size_t i = lane * kChunk; i < k; i += std::size_t{kWarp} * kChunk) {
      const uint4 words = *reinterpret_cast<const uint4*>(in.data + row * in.stride + i);
      const unsigned four[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int w = 0; w < 4; w++) {
        sum = Signed ? dot_int8(four[w], 0x01010101U, sum) : dot_uint8(four[w], 0x01010101U, sum);
      }
    }
    sum = warp_reduce(
        sum, [](int x, int y) { return static_cast<int>(static_cast<unsigned>(x) + static_cast<unsigned>(y)); });
    if (lane == 0) sums[row] = sum;
  }
}

CudaStatus launch_sums(const CudaStream& stream, const ByteRows& in, std::size_t k, bool is_signed,
                       std::int32_t* sums) {
  return launch(stream, is_signed ? sum_rows<true> : sum_rows<false>,
                dim3(blocks_for(stream, in.rows * kWarp, kThreads)), kThreads, 0, in, k, sums);
}

// out[column][padded_row(k)] = in[k][column] ^ flip, and zeros: squares of 64 bytes pass through shared memory, in
// words of which one column of threads writes four rows.
constexpr unsigned kSquare = 64;

__global__ void __launch_bounds__(kThreads)
    transpose(const std::uint8_t* in, std::size_t k, std::size_t n, unsigned across, unsigned flip, std::uint8_t* out) {
  constexpr unsigned kPitch = kSquare + 4;  // a word more, so that columns meet different banks
  std::uint8_t* const square = shared_memory();
  const std::size_t first_k = std::size_t{blockIdx.x / across} * kSquare,
                    first_n = std::size_t{blockIdx.x % across} * kSquare;
  for (unsigned i = threadIdx.x; i < kSquare * kSquare; i += kThreads) {
    const unsigned row = i / kSquare, column = i % kSquare;
    const bool inside = first_k + row < k && first_n + column < n;
    square[row * kPitch + column] =
        inside ? static_cast<std::uint8_t>(in[(first_k + row) * n + first_n + column] ^ flip) : std::uint8_t{0};
  }
  __syncthreads();
  const std::size_t stride = padded_row(k);
  for (unsigned i = threadIdx.x; i < kSquare * kSquare / 4; i += kThreads) {
    const unsigned column = i / (kSquare / 4), quad = i % (kSquare / 4) * 4;
    if (first_n + column >= n || first_k + quad >= stride) continue;
    unsigned word = 0;
#pragma unroll
    for (unsigned b = 0; b < 4; b++) word |= static_cast<unsigned>(square[(quad + b) * kPitch + column]) << (8 * b);
    *reinterpret_cast<unsigned*>(out + (first_n + column) * stride + first_k + quad) = word;
  }
}

CudaStatus pack(CudaStream* stream, const std::uint8_t* b, bool is_signed, std::size_t k, std::size_t n, void* packed) {
  if (n == 0) return CudaStatus::kOk;
  const Packed to = packed_in(packed, k, n);
  const std::size_t across = (n + kSquare - 1) / kSquare, down = (padded_row(k) + kSquare - 1) / kSquare;
  LOWBIT_TRY(launch(*stream, transpose, dim3(static_cast<unsigned>(across * down)), kThreads,
                    std::size_t{kSquare} * (kSquare + 4), b, k, n, static_cast<unsigned>(across),
                    is_signed ? 0U : 0x80U, to.codes));
  return launch_sums(*stream, {to.codes, n, padded_row(k)}, k, true, to.sums);
}

CudaStatus pack_rows(CudaStream* stream, const std::uint8_t* rows, bool is_signed, std::size_t k, std::size_t n,
                     void* packed) {
  if (n == 0) return CudaStatus::kOk;
  const Packed to = packed_in(packed, k, n);
  LOWBIT_TRY(launch(*stream, pad_rows, dim3(blocks_for(*stream, sums_at(k, n) / kChunk, kThreads)), kThreads, 0, rows,
                    n, k, is_signed ? 0U : 0x80U, to.codes));
  return launch_sums(*stream, {to.codes, n, padded_row(k)}, k, true, to.sums);
}

CudaStatus matmul(CudaStream* stream, const IntegerMatmulCuda& p) {
  if (p.m == 0 || p.n == 0) return CudaStatus::kOk;
  const Packed packed = packed_in(const_cast<void*>(p.b), p.k, p.n);
  const ByteRows b{packed.codes, p.n, padded_row(p.k)};
  Workspace copy(*stream), sums(*stream);
  ByteRows a;
  LOWBIT_TRY(tileable(*stream, p.a, p.m, p.k, copy, &a));
  if (p.b_zeros != nullptr || !p.b_signed) {
    LOWBIT_TRY(sums.reserve(p.m * sizeof(std::int32_t)));
    LOWBIT_TRY(launch_sums(*stream, a, p.k, p.a_signed, sums.as<std::int32_t>()));
  }
  const IntegerFinish finish{p.a_zeros,
                             p.b_zeros,
                             p.a_zero_per_row,
                             p.b_zero_per_column,
                             p.b_signed ? 0 : -128,
                             sums.as<std::int32_t>(),
                             packed.sums,
                             static_cast<std::uint32_t>(p.k),
                             p.result,
                             p.scales,
                             p.bias,
                             p.scale_per_column,
                             p.zero_point,
                             p.c,
                             p.m,
                             p.n};
  return p.a_signed ? multiply<SignedBytes>(*stream, a, b, p.k, finish)
                    : multiply<UnsignedBytes>(*stream, a, b, p.k, finish);
}

CudaStatus multiply_layer(CudaStream* stream, const Int8LinearCuda& l) {
  if (l.k > kMostInt8Columns) return CudaStatus::kUnsupported;
  if (l.m == 0 || l.n == 0) return CudaStatus::kOk;
  if (stream->uses_warp_groups && l.m >= kRowsForWarpGroups) return int8_linear_by_groups(stream, l);
  Workspace copy_of_x(*stream), copy_of_w(*stream);
  ByteRows x, w;
  LOWBIT_TRY(tileable(*stream, l.x, l.m, l.k, copy_of_x, &x));
  LOWBIT_TRY(tileable(*stream, l.w, l.n, l.k, copy_of_w, &w));
  const ScaledFinish finish{
      {l.x_scales, l.w_scales, l.bias, l.x_scale_per_row, l.w_scale_per_row, l.type, l.y, l.m, l.n}};
  return multiply<SignedBytes>(*stream, x, w, l.k, finish);
}

template <bool Whole>
__global__ void __launch_bounds__(kTokenThreads)
    quantize_rows(const void* x, FloatType type, std::size_t k, std::uint8_t* codes, float* scales,
                  CudaFinding* finding) {
  constexpr float kSteps = 127.0F;
  const float largest = largest_of_row<Whole>(x, type, k, finding);
  const bool nothing = largest < kNoMagnitude;
  const float factor = nothing ? 0.0F : kSteps / largest;
  if (threadIdx.x == 0) scales[blockIdx.x] = nothing ? 0.0F : largest / kSteps;
  write_codes<Whole>(x, type, k, codes,
                     [&](float value) { return static_cast<std::uint8_t>(__float2int_rn(value * factor)); });
}

CudaStatus quantize_tokens(CudaStream* stream, const void* x, FloatType type, std::size_t m, std::size_t k,
                           std::int8_t* codes, float* scales) {
  return launch(*stream, has_whole_units(x, codes, k) ? quantize_rows<true> : quantize_rows<false>,
                dim3(static_cast<unsigned>(m)), kTokenThreads, kTokenThreads / kWarp * sizeof(float), x, type, k,
                reinterpret_cast<std::uint8_t*>(codes), scales, stream->finding);
}

}  // namespace

const IntegerCuda kIntegerCuda = {packed_bytes, pack, pack_rows, matmul, quantize_tokens, multiply_layer};

}  // namespace lowbit
