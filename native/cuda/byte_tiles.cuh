#pragma once

// Products of matrices of bytes on tensor cores: sums[m, n] = Σ over k of a[m, k] · b[n, k]. A block of threads makes a
// tile of the result, each of its warps a part of it; stages of 64 columns of both operands pass through shared memory,
// copied while earlier ones are multiplied.
//
// A stage holds rows of 64 bytes, four chunks of sixteen; chunk c of row r lies at c ^ (r / 2 % 4), so that the eight
// rows that ldmatrix reads together meet every bank once.

#include "cuda/tensor_cores.cuh"
#include "cuda/workspace.cuh"

namespace lowbit {

// Rows of bytes: 16-byte aligned, `stride` a multiple of 16, zeros from the last column to the next multiple of 16.
struct ByteRows {
  const std::uint8_t* data;
  std::size_t rows, stride;
};

constexpr int kStageBytes = 64, kChunk = 16;
constexpr int kChunksOfRow = kStageBytes / kChunk;

// Small tiles have more stages: as few of them run, more of each must be on its way to keep the memory busy.
template <int WarpRows_, int WarpColumns_, int WarpsDown_, int WarpsAcross_, int Stages_ = 4>
struct ByteTile {
  static constexpr int kStages = Stages_;
  static constexpr int kWarpRows = WarpRows_, kWarpColumns = WarpColumns_;
  static constexpr int kWarpsDown = WarpsDown_, kWarpsAcross = WarpsAcross_;
  static constexpr int kRows = kWarpRows * kWarpsDown, kColumns = kWarpColumns * kWarpsAcross;
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * 32;
  // Products of the tensor cores, down and across.
  static constexpr int kDown = kWarpRows / 16, kAcross = kWarpColumns / 8;
  static constexpr int kBytes = (kRows + kColumns) * kStageBytes;
  static constexpr std::size_t kSharedBytes = std::size_t{kBytes} * kStages;
  static_assert(kWarpRows % 16 == 0 && kWarpColumns % 16 == 0, "warps read their operands sixteen rows at a time");
};

// Copies of one operand's rows to stages, by all threads of a block.
template <int Rows, int Threads>
class StageCopies {
 public:
  __device__ StageCopies(const ByteRows& from, std::size_t first_row, std::size_t k) : left_(k) {
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      const int id = static_cast<int>(threadIdx.x) + i * Threads;
      const std::size_t row = first_row + static_cast<std::size_t>(id / kChunksOfRow);
      wanted_[i] = id < Rows * kChunksOfRow && row < from.rows;
      source_[i] = from.data + (wanted_[i] ? row * from.stride : 0) + id % kChunksOfRow * kChunk;
    }
  }

  // The next stage.
  __device__ void copy(unsigned char* shared) {
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      const int id = static_cast<int>(threadIdx.x) + i * Threads;
      const int row = id / kChunksOfRow, chunk = id % kChunksOfRow;
      if (kCopies * Threads > Rows * kChunksOfRow && id >= Rows * kChunksOfRow) break;
      copy_async(shared + row * kStageBytes + ((chunk ^ (row / 2 % 4)) * kChunk), source_[i],
                 wanted_[i] && static_cast<std::size_t>(chunk * kChunk) < left_);
      source_[i] += kStageBytes;
    }
    left_ = left_ > kStageBytes ? left_ - kStageBytes : 0;
  }

 private:
  static constexpr int kCopies = (Rows * kChunksOfRow + Threads - 1) / Threads;
  const std::uint8_t* source_[kCopies];
  bool wanted_[kCopies];
  std::size_t left_;
};

// The first row and column of a tile.
struct TilePlace {
  std::size_t row, column;
};

// Where a lane's parts of a warp's products are: with (i, j) of its sums, row 16 · i + row (and eight further), column
// 8 · j + column (and the next).
template <typename Tile>
struct LanePlace {
  std::size_t row, column;
  __device__ LanePlace(std::size_t first_row, std::size_t first_column) {
    const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    row = first_row + warp / Tile::kWarpsAcross * Tile::kWarpRows + lane / 4;
    column = first_column + warp % Tile::kWarpsAcross * Tile::kWarpColumns + 2 * (lane % 4);
  }
};

// sums += the products of one stage.
template <typename Tile, typename Product, typename Sum>
__device__ inline void multiply_stage(const unsigned char* stage, Sum (&sums)[Tile::kDown][Tile::kAcross][4]) {
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, matrix = lane / 8, r = lane % 8;
  const unsigned flip = r / 2;
  const unsigned char* const a =
      stage + (warp / Tile::kWarpsAcross * Tile::kWarpRows + matrix % 2 * 8 + r) * kStageBytes;
  const unsigned char* const b =
      stage + (Tile::kRows + warp % Tile::kWarpsAcross * Tile::kWarpColumns + matrix / 2 * 8 + r) * kStageBytes;
#pragma unroll
  for (unsigned step = 0; step < kStageBytes / 32; step++) {
    unsigned of_a[Tile::kDown][4], of_b[Tile::kAcross / 2][4];
#pragma unroll
    for (int i = 0; i < Tile::kDown; i++) {
      load_matrices(of_a[i], a + i * 16 * kStageBytes + ((2 * step + matrix / 2) ^ flip) * kChunk);
    }
#pragma unroll
    for (int j = 0; j < Tile::kAcross / 2; j++) {
      load_matrices(of_b[j], b + j * 16 * kStageBytes + ((2 * step + matrix % 2) ^ flip) * kChunk);
    }
#pragma unroll
    for (int i = 0; i < Tile::kDown; i++) {
#pragma unroll
      for (int j = 0; j < Tile::kAcross; j++) {
        const unsigned pair[2] = {of_b[j / 2][j % 2 * 2], of_b[j / 2][j % 2 * 2 + 1]};
        Product::multiply(sums[i][j], of_a[i], pair);
      }
    }
  }
}

// Gives a warp's sums to finish.store(row, column, sum, sum of the next column).
template <typename Tile, typename Sum, typename Finish>
__device__ inline void store_tile(const TilePlace& tile, const Sum (&sums)[Tile::kDown][Tile::kAcross][4],
                                  const Finish& finish) {
  const LanePlace<Tile> place(tile.row, tile.column);
#pragma unroll
  for (int j = 0; j < Tile::kAcross; j++) {
#pragma unroll
    for (int i = 0; i < Tile::kDown; i++) {
      const std::size_t row = place.row + 16 * static_cast<std::size_t>(i);
      const std::size_t column = place.column + 8 * static_cast<std::size_t>(j);
      finish.store(row, column, sums[i][j][0], sums[i][j][1]);
      finish.store(row + 8, column, sums[i][j][2], sums[i][j][3]);
    }
  }
}

// Passes the stages of columns [0, k) through shared memory; use(stage's number, its memory) for each.
template <typename Tile, typename Use>
__device__ inline void for_stages(const ByteRows& a, const ByteRows& b, std::size_t row, std::size_t column,
                                  std::size_t k, const Use& use) {
  constexpr int kStages = Tile::kStages;
  unsigned char* const shared = shared_memory();
  StageCopies<Tile::kRows, Tile::kThreads> copies_of_a(a, row, k);
  StageCopies<Tile::kColumns, Tile::kThreads> copies_of_b(b, column, k);
  const auto copy = [&](int slot) {
    copies_of_a.copy(shared + slot * Tile::kBytes);
    copies_of_b.copy(shared + slot * Tile::kBytes + Tile::kRows * kStageBytes);
  };
  const int stages = static_cast<int>((k + kStageBytes - 1) / kStageBytes);
#pragma unroll
  for (int s = 0; s < kStages - 1; s++) {
    if (s < stages) copy(s);
    commit_copies();
  }
  int slot = 0, next = kStages - 1;
  for (int s = 0; s < stages; s++) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    if (s + kStages - 1 < stages) copy(next);
    commit_copies();
    next = next + 1 == kStages ? 0 : next + 1;
    use(s, shared + slot * Tile::kBytes);
    slot = slot + 1 == kStages ? 0 : slot + 1;
  }
}

// Which tile a block makes: eight rows of tiles at a time, so that blocks that run together share operands in the
// second-level cache.
template <typename Tile>
__device__ inline TilePlace tile_of_block(std::size_t m, std::size_t n) {
  constexpr unsigned kBand = 8;
  const auto down = static_cast<unsigned>((m + Tile::kRows - 1) / Tile::kRows);
  const auto across = static_cast<unsigned>((n + Tile::kColumns - 1) / Tile::kColumns);
  const unsigned band = blockIdx.x / (kBand * across), within = blockIdx.x - band * kBand * across;
  const unsigned first = band * kBand, height = down - first < kBand ? down - first : kBand;
  return {std::size_t{first + within % height} * Tile::kRows, std::size_t{within / height} * Tile::kColumns};
}
template <typename Tile>
unsigned tiles_of(std::size_t m, std::size_t n) {
  return static_cast<unsigned>((m + Tile::kRows - 1) / Tile::kRows * ((n + Tile::kColumns - 1) / Tile::kColumns));
}

// Rows whose length is no multiple of sixteen become copies that are.
constexpr std::size_t padded_row(std::size_t k) { return (k + kChunk - 1) / kChunk * kChunk; }

inline bool can_be_tiled(const void* rows, std::size_t k) {
  return k % kChunk == 0 && reinterpret_cast<std::uintptr_t>(rows) % kChunk == 0;
}

namespace {

constexpr unsigned kPadThreads = 256;

// out[row][padded_row(k)] = in[row][k] ^ flip, and zeros.
__global__ void pad_rows(const std::uint8_t* in, std::size_t rows, std::size_t k, unsigned flip, std::uint8_t* out) {
  const std::size_t chunks = padded_row(k) / kChunk;
  for (std::size_t i = grid_thread(); i < rows * chunks; i += grid_threads()) {
    const std::size_t row = i / chunks, begin = i % chunks * kChunk;
    alignas(16) std::uint8_t bytes[kChunk];
#pragma unroll
    for (std::size_t b = 0; b < kChunk; b++) {
      bytes[b] = begin + b < k ? static_cast<std::uint8_t>(in[row * k + begin + b] ^ flip) : std::uint8_t{0};
    }
    reinterpret_cast<uint4*>(out)[i] = *reinterpret_cast<const uint4*>(bytes);
  }
}

// Rows as tiles read them: as they are, or a copy in `room`, which is made anew for every call.
inline CudaStatus tileable(const CudaStream& stream, const void* data, std::size_t rows, std::size_t k, Workspace& room,
                           ByteRows* out) {
  const auto* const bytes = static_cast<const std::uint8_t*>(data);
  *out = {bytes, rows, k};
  if (can_be_tiled(bytes, k) || rows == 0 || k == 0) return CudaStatus::kOk;
  LOWBIT_TRY(room.reserve(rows * padded_row(k)));
  *out = {room.as<std::uint8_t>(), rows, padded_row(k)};
  return launch(stream, pad_rows, dim3(blocks_for(stream, rows * padded_row(k) / kChunk, kPadThreads)), kPadThreads, 0,
                bytes, rows, k, 0U, room.as<std::uint8_t>());
}

}  // namespace
}  // namespace lowbit
