#pragma once

// Products of float32 matrices without tensor cores: c[i][j] is a chain of fused multiply-adds in the order of k, so
// that it has the bits of MatmulKernels::float_dot. Both operands lie by rows of k: a[k][i], b[k][j].
//
// A block of 256 threads makes a square tile; slices of a few k pass through shared memory, the next one in registers
// meanwhile.

#include "cuda/floats.cuh"
#include "cuda/stream.cuh"

namespace lowbit {

constexpr unsigned kFloatTileThreads = 256;

// Rows of k of an operand, of any float type.
struct FloatRows {
  const void* data;
  FloatType type;
  std::size_t stride;  // elements from a row to the next
  std::size_t columns;
};

// Four neighbouring columns of every `step`-th row; those past the last column are zeros.
template <FloatType Type>
class FourColumns {
 public:
  __device__ FourColumns(const FloatRows& rows, std::size_t row, std::size_t column, int step)
      : at_(static_cast<const Stored*>(rows.data)), step_(rows.stride * static_cast<std::size_t>(step)) {
    if (column >= rows.columns) return;
    at_ += row * rows.stride + column;
    wanted_ = rows.columns - column < 4 ? static_cast<int>(rows.columns - column) : 4;
    if (wanted_ == 4 && rows.stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(at_) % kBytes == 0) wanted_ = kWhole;
  }

  __device__ float4 next() {
    const Stored* const from = at_;
    at_ += step_;
    if (wanted_ == kWhole) {
      if constexpr (Type == FloatType::kFloat32) {
        return *reinterpret_cast<const float4*>(from);
      } else {
        const uint2 words = *reinterpret_cast<const uint2*>(from);
        return make_float4(value(static_cast<std::uint16_t>(words.x)), value(static_cast<std::uint16_t>(words.x >> 16)),
                           value(static_cast<std::uint16_t>(words.y)),
                           value(static_cast<std::uint16_t>(words.y >> 16)));
      }
    }
    float four[4];
#pragma unroll
    for (int i = 0; i < 4; i++) four[i] = i < wanted_ ? value(from[i]) : 0.0F;
    return make_float4(four[0], four[1], four[2], four[3]);
  }

 private:
  using Stored = Storage<Type>;
  static constexpr std::size_t kBytes = 4 * sizeof(Stored);
  static constexpr int kWhole = 5;

  __device__ static float value(Stored stored) {
    if constexpr (Type == FloatType::kFloat16) return float_of_float16_fast(stored);
    if constexpr (Type == FloatType::kBfloat16) return float_of_bfloat16(stored);
    if constexpr (Type == FloatType::kFloat32) return stored;
  }

  const Stored* at_;
  std::size_t step_;
  int wanted_ = 0;  // kWhole: four, in one load
};

template <int Size_>
struct FloatTile {
  static constexpr int kSize = Size_;
  static constexpr int kOwn = kSize / 16;      // rows and columns of a thread
  static constexpr int kDepth = 1024 / kSize;  // k of a slice: four elements of each operand for a thread
  static constexpr int kQuads = kSize / 4;     // of a row of a slice
  static constexpr int kSliceFloats = kDepth * kSize;
  static constexpr std::size_t kSharedBytes = std::size_t{4} * kSliceFloats * sizeof(float);
  static_assert(kOwn % 4 == 0, "threads own quads");

  // The i-th of a thread's own rows or columns: quads that are a quarter of a warp's reads apart.
  __device__ static int own(int i, int thread) { return i / 4 * 64 + thread * 4 + i % 4; }
  __device__ static int row(int i) { return own(i, static_cast<int>(threadIdx.x) / 16); }
  __device__ static int column(int i) { return own(i, static_cast<int>(threadIdx.x) % 16); }
};

// sums[i][j] continues with the products of rows [0, k) of both operands, from their columns first_a and first_b on;
// `sign` is what a is multiplied with. see(k, column, four) is shown what this thread loads of a.
template <typename Tile, FloatType Type, typename See>
__device__ inline void multiply_floats(const FloatRows& a, const FloatRows& b, std::size_t first_a, std::size_t first_b,
                                       std::size_t k, float sign, float (&sums)[Tile::kOwn][Tile::kOwn],
                                       const See& see) {
  auto* const shared = reinterpret_cast<float*>(shared_memory());
  const int slice_row = static_cast<int>(threadIdx.x) / Tile::kQuads;
  const int slice_column = static_cast<int>(threadIdx.x) % Tile::kQuads * 4;
  const auto column = static_cast<std::size_t>(slice_column);
  FourColumns<Type> fours_of_a(a, static_cast<std::size_t>(slice_row), first_a + column, Tile::kDepth);
  FourColumns<Type> fours_of_b(b, static_cast<std::size_t>(slice_row), first_b + column, Tile::kDepth);
  float4 of_a, of_b;
  const auto load = [&](std::size_t from) {
    of_a = of_b = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
    if (from + static_cast<std::size_t>(slice_row) >= k) return;
    of_a = fours_of_a.next();
    of_b = fours_of_b.next();
    see(from + static_cast<std::size_t>(slice_row), first_a + column, of_a);
  };
  const auto store = [&](int slot) {
    float* const slice = shared + slot * 2 * Tile::kSliceFloats + slice_row * Tile::kSize + slice_column;
    *reinterpret_cast<float4*>(slice) = make_float4(sign * of_a.x, sign * of_a.y, sign * of_a.z, sign * of_a.w);
    *reinterpret_cast<float4*>(slice + Tile::kSliceFloats) = of_b;
  };
  const auto add = [&](const float* slice, int row) {
    float rows[Tile::kOwn], columns[Tile::kOwn];
#pragma unroll
    for (int i = 0; i < Tile::kOwn; i += 4) {
      *reinterpret_cast<float4*>(rows + i) = *reinterpret_cast<const float4*>(slice + row * Tile::kSize + Tile::row(i));
      *reinterpret_cast<float4*>(columns + i) =
          *reinterpret_cast<const float4*>(slice + Tile::kSliceFloats + row * Tile::kSize + Tile::column(i));
    }
#pragma unroll
    for (int i = 0; i < Tile::kOwn; i++) {
#pragma unroll
      for (int j = 0; j < Tile::kOwn; j++) sums[i][j] = __fmaf_rn(rows[i], columns[j], sums[i][j]);
    }
  };
  if (k == 0) return;
  load(0);
  store(0);
  __syncthreads();
  int slot = 0;
  for (std::size_t from = 0; from < k; from += Tile::kDepth) {
    const bool more = from + Tile::kDepth < k;
    if (more) load(from + Tile::kDepth);
    const float* const slice = shared + slot * 2 * Tile::kSliceFloats;
    if (from + Tile::kDepth <= k) {
#pragma unroll
      for (int row = 0; row < Tile::kDepth; row++) add(slice, row);
    } else {
      // Products with zeros would make +0 of −0.
      for (int row = 0; row < static_cast<int>(k - from); row++) add(slice, row);
    }
    slot ^= 1;
    if (more) store(slot);
    __syncthreads();
  }
}

struct SeeNothing {
  __device__ void operator()(std::size_t, std::size_t, const float4&) const {}
};

// c += sign · aᵀ · b over rows [0, k), c[i][j] at i · pitch + j; of a square c no more than what is on and above the
// diagonal, if `upper`.
template <typename Tile>
__global__ void __launch_bounds__(kFloatTileThreads, 2)
    add_products(FloatRows a, FloatRows b, std::size_t k, float sign, bool upper, float* c, std::size_t pitch) {
  if (upper && blockIdx.x < blockIdx.y) return;
  const std::size_t first_row = std::size_t{blockIdx.y} * Tile::kSize;
  const std::size_t first_column = std::size_t{blockIdx.x} * Tile::kSize;
  const auto each = [&](auto body) {
#pragma unroll
    for (int i = 0; i < Tile::kOwn; i++) {
#pragma unroll
      for (int j = 0; j < Tile::kOwn; j++) {
        const std::size_t row = first_row + static_cast<std::size_t>(Tile::row(i));
        const std::size_t column = first_column + static_cast<std::size_t>(Tile::column(j));
        const bool wanted = row < a.columns && column < b.columns && (!upper || row <= column);
        if (wanted) body(i, j, c[row * pitch + column]);
      }
    }
  };
  float sums[Tile::kOwn][Tile::kOwn] = {};
  each([&](int i, int j, float& element) { sums[i][j] = element; });
  multiply_floats<Tile, FloatType::kFloat32>(a, b, first_row, first_column, k, sign, sums, SeeNothing{});
  each([&](int i, int j, float& element) { element = sums[i][j]; });
}

template <typename Tile>
CudaStatus launch_products(const CudaStream& stream, const FloatRows& a, const FloatRows& b, std::size_t k, float sign,
                           bool upper, float* c, std::size_t pitch) {
  const auto tiles = [](std::size_t size) { return static_cast<unsigned>((size + Tile::kSize - 1) / Tile::kSize); };
  return launch(stream, add_products<Tile>, dim3(tiles(b.columns), tiles(a.columns)), kFloatTileThreads,
                Tile::kSharedBytes, a, b, k, sign, upper, c, pitch);
}

// Whether 128 × 128 tiles of a matrix, or of its upper half, would leave multiprocessors idle.
inline bool needs_small_tiles(const CudaStream& stream, std::size_t rows, std::size_t columns, bool upper) {
  const std::size_t down = (rows + 127) / 128, across = (columns + 127) / 128;
  return (upper ? down * (down + 1) / 2 : down * across) < static_cast<std::size_t>(stream.multiprocessors) * 2;
}

inline CudaStatus queue_products(const CudaStream& stream, const FloatRows& a, const FloatRows& b, std::size_t k,
                                 float sign, bool upper, float* c, std::size_t pitch) {
  return needs_small_tiles(stream, a.columns, b.columns, upper)
             ? launch_products<FloatTile<64>>(stream, a, b, k, sign, upper, c, pitch)
             : launch_products<FloatTile<128>>(stream, a, b, k, sign, upper, c, pitch);
}

}  // namespace lowbit
