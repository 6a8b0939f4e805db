// The reversed Cholesky factorization of cholesky.h on a device. T, of TᵀT, in blocks of 64 columns: each is factorized
// in float64, the rows beside it are solved for, and what they contribute is taken from the rest at once. An element
// meets the operations of cholesky.cc in their order, so the bits are the same.

#include "cuda/float_tiles.cuh"
#include "ops/linalg/linalg_device.cuh"

namespace lowbit {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kBlock = 64;
// What rounding leaves of a pivot that should be zero, relative to the diagonal.
constexpr double kLeastPivot = 0x1p-23;

__global__ void __launch_bounds__(kThreads)
    find_not_finite(const float* x, std::size_t count, Status status, CudaFinding* finding) {
  for (std::size_t i = grid_thread(); i < count; i += grid_threads()) {
    if (!is_finite(x[i])) note(finding, status, i);
  }
}

// Where column or row i of T comes from in H.
__device__ std::size_t source_of(const CholeskyRequest& c, std::size_t i) {
  const std::size_t j = c.size - 1 - i;
  return c.order == nullptr ? j : static_cast<std::size_t>(c.order[j]);
}

__device__ float damped(const CholeskyRequest& c, float diagonal) {
  return diagonal == 0.0F ? 1.0F : diagonal + c.damp;
}

// The upper triangle of H in the opposite order, damped; the identity past the last row and column.
__global__ void __launch_bounds__(kThreads) gather_reversed(CholeskyRequest c, float* t, std::size_t pitch) {
  for (std::size_t i = grid_thread(); i < pitch * pitch; i += grid_threads()) {
    const std::size_t row = i / pitch, column = i % pitch;
    if (row > column) continue;
    float value = row == column ? 1.0F : 0.0F;
    if (column < c.size) {
      value = c.h[source_of(c, row) * c.size + source_of(c, column)];
      if (row == column) value = damped(c, value);
    }
    t[i] = value;
  }
}

// One block of threads. Below the diagonal zeros are left.
__global__ void __launch_bounds__(kThreads)
    factorize_diagonal(CholeskyRequest c, float* t, std::size_t pitch, std::size_t first) {
  constexpr unsigned kPitch = kBlock + 1;
  auto* const own = reinterpret_cast<double*>(shared_memory());
  const unsigned column = threadIdx.x % kBlock, part = threadIdx.x / kBlock, parts = kThreads / kBlock;
  float* const block = t + first * pitch + first;
  for (unsigned row = part; row < kBlock; row += parts) {
    own[row * kPitch + column] = column < row ? 0.0 : static_cast<double>(block[row * pitch + column]);
  }
  __syncthreads();
  for (unsigned r = 0; r < kBlock; r++) {
    const double pivot = own[r * kPitch + r];
    if (threadIdx.x == 0) {
      double least = kLeastPivot;
      if (first + r < c.size) {
        const std::size_t from = source_of(c, first + r);
        least *= static_cast<double>(damped(c, c.h[from * c.size + from]));
      }
      if (!(pivot > least) || !(pivot < INFINITY)) note(c.finding, Status::kNotPositive, first + r);
    }
    const double root = sqrt(pivot);
    __syncthreads();
    if (part == 0 && column >= r) own[r * kPitch + column] /= root;
    __syncthreads();
    for (unsigned i = r + 1 + part; i < kBlock; i += parts) {
      if (column >= i) own[i * kPitch + column] -= own[r * kPitch + i] * own[r * kPitch + column];
    }
    __syncthreads();
  }
  for (unsigned row = part; row < kBlock; row += parts) {
    block[row * pitch + column] = static_cast<float>(own[row * kPitch + column]);
  }
}

// The rows of a block beside it: a thread for a column.
__global__ void __launch_bounds__(kBlock) solve_rows(float* t, std::size_t pitch, std::size_t first) {
  auto* const factor = reinterpret_cast<float*>(shared_memory());
  const float* const block = t + first * pitch + first;
  for (unsigned i = threadIdx.x; i < kBlock * kBlock; i += kBlock) {
    factor[i] = block[i / kBlock * pitch + i % kBlock];
  }
  __syncthreads();
  float* const column = t + first * pitch + first + (std::size_t{blockIdx.x} + 1) * kBlock + threadIdx.x;
  float x[kBlock];
#pragma unroll
  for (unsigned i = 0; i < kBlock; i++) x[i] = column[i * pitch];
#pragma unroll
  for (unsigned i = 0; i < kBlock; i++) {
    const float y = x[i] / factor[i * kBlock + i];
    x[i] = y;
#pragma unroll
    for (unsigned j = i + 1; j < kBlock; j++) x[j] = __fmaf_rn(-y, factor[i * kBlock + j], x[j]);
  }
#pragma unroll
  for (unsigned i = 0; i < kBlock; i++) column[i * pitch] = x[i];
}

// factor[i][j] = R[i][j] / R[j][j], where R[i][j] = T[size − 1 − j][size − 1 − i]: squares pass through shared memory.
constexpr unsigned kSquare = 32;

__global__ void __launch_bounds__(kThreads)
    write_factor(const float* t, std::size_t pitch, std::size_t size, float* factor, float* diagonal) {
  constexpr unsigned kPitch = kSquare + 1;
  auto* const square = reinterpret_cast<float*>(shared_memory());
  const std::size_t first_i = std::size_t{blockIdx.y} * kSquare, first_j = std::size_t{blockIdx.x} * kSquare;
  const unsigned x = threadIdx.x % kSquare;
  for (unsigned y = threadIdx.x / kSquare; y < kSquare; y += kThreads / kSquare) {
    const std::size_t i = first_i + x, j = first_j + y;
    if (i >= size || j >= size || i > j) continue;
    const std::size_t row = size - 1 - j;
    const float pivot = t[row * pitch + row];
    square[y * kPitch + x] = t[row * pitch + (size - 1 - i)] / pivot;
    if (i == j) diagonal[j] = pivot;
  }
  __syncthreads();
  for (unsigned y = threadIdx.x / kSquare; y < kSquare; y += kThreads / kSquare) {
    const std::size_t i = first_i + y, j = first_j + x;
    if (i < size && j < size) factor[i * size + j] = i < j ? square[x * kPitch + y] : i == j ? 1.0F : 0.0F;
  }
}

}  // namespace

CudaStatus check_finite(const CudaStream& stream, const float* x, std::size_t count, Status status,
                        CudaFinding* finding) {
  return launch(stream, find_not_finite, dim3(blocks_for(stream, count, kThreads)), kThreads, 0, x, count, status,
                finding);
}

CudaStatus queue_cholesky(const CudaStream& stream, const CholeskyRequest& request) {
  if (request.size == 0) return CudaStatus::kOk;
  const std::size_t pitch = (request.size + kBlock - 1) / kBlock * kBlock;
  Workspace memory(stream);
  LOWBIT_TRY(memory.reserve(pitch * pitch * sizeof(float)));
  auto* const t = memory.as<float>();
  LOWBIT_TRY(launch(stream, gather_reversed, dim3(blocks_for(stream, pitch * pitch, kThreads)), kThreads, 0, request, t,
                    pitch));
  for (std::size_t first = 0; first < pitch; first += kBlock) {
    LOWBIT_TRY(launch(stream, factorize_diagonal, dim3(1), kThreads, kBlock * (kBlock + 1) * sizeof(double), request, t,
                      pitch, first));
    const std::size_t next = first + kBlock, left = pitch - next;
    if (left == 0) break;
    LOWBIT_TRY(launch(stream, solve_rows, dim3(static_cast<unsigned>(left / kBlock)), kBlock,
                      kBlock * kBlock * sizeof(float), t, pitch, first));
    const FloatRows rows{t + first * pitch + next, FloatType::kFloat32, pitch, left};
    float* const rest = t + next * pitch + next;
    LOWBIT_TRY(queue_products(stream, rows, rows, kBlock, -1.0F, true, rest, pitch));
  }
  const auto squares = static_cast<unsigned>((request.size + kSquare - 1) / kSquare);
  return launch(stream, write_factor, dim3(squares, squares), kThreads, kSquare * (kSquare + 1) * sizeof(float),
                static_cast<const float*>(t), pitch, request.size, request.factor, request.diagonal);
}

}  // namespace lowbit
