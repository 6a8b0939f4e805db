// y = x·Wᵀ on a device: what x must become before, which kernel multiplies, and the gate.

#include "cuda/warpgroups.cuh"
#include "cuda/workspace.cuh"
#include "ops/codebook/codebook_math.h"
#include "ops/matmul/linear_cuda_kernels.cuh"

namespace lowbit {
namespace {

constexpr unsigned kThreads = 256;

__device__ inline bool is_finite_magnitude(float magnitude) { return magnitude < INFINITY; }

// Where products of warp groups want column k of x: of 32 columns, pair 4i + j changes places with pair 4j + i.
__device__ inline std::size_t transposed(std::size_t k) {
  return (k & ~std::size_t{31}) | (k >> 1 & 3U) << 3 | (k >> 3 & 3U) << 1 | (k & 1U);
}

// A block for each row of x: to the compute type, with zeros up to the stride; divided by a power of two if there are
// scales to write.
__global__ void __launch_bounds__(kThreads)
    prepare_rows(const void* x, FloatType from, std::uint64_t columns, bool transposes, std::uint16_t* out,
                 std::uint64_t stride, float* scales, CudaFinding* finding) {
  const std::size_t row = blockIdx.x;
  auto* const warps = reinterpret_cast<float*>(shared_memory());
  float scale = 1.0F;
  if (scales != nullptr) {
    float largest = 0.0F;
    for (std::size_t k = threadIdx.x; k < columns; k += kThreads) {
      const float magnitude = fabsf(element(x, from, row * columns + k));
      if (is_finite_magnitude(magnitude) && magnitude > largest) largest = magnitude;
    }
    const auto larger = [](float a, float b) { return a > b ? a : b; };
    largest = warp_reduce(largest, larger);
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = largest;
    __syncthreads();
    for (unsigned i = 0; i < kThreads / kWarp; i++) largest = larger(largest, warps[i]);
    scale = power_below(largest);
    if (threadIdx.x == 0) scales[row] = scale;
  }
  for (std::size_t k = threadIdx.x; k < stride; k += kThreads) {
    std::uint16_t result = 0;
    if (k < columns) {
      const std::size_t i = row * columns + k;
      if (scales != nullptr) {
        const float value = element(x, from, i);
        if (finding != nullptr && !is_finite_magnitude(fabsf(value))) note(finding, Status::kNonFinite, i);
        result = float16_of_fast(value / scale);
      } else {
        result = static_cast<const std::uint16_t*>(x)[i];
        if (finding != nullptr && !is_finite_magnitude(fabsf(element(x, from, i)))) {
          note(finding, Status::kNonFinite, i);
        }
      }
    }
    out[row * stride + (transposes ? transposed(k) : k)] = result;
  }
}

// x of the compute type whose rows are whole blocks: a thread transposes 32 columns.
__global__ void __launch_bounds__(kThreads)
    transpose_pairs(const uint4* x, std::size_t count, unsigned exponent, uint4* out, CudaFinding* finding) {
  for (std::size_t i = grid_thread(); i < count; i += grid_threads()) {
    unsigned pairs[4][4];
#pragma unroll
    for (int row = 0; row < 4; row++) {
      const uint4 four = __ldg(x + 4 * i + row);
      pairs[row][0] = four.x, pairs[row][1] = four.y, pairs[row][2] = four.z, pairs[row][3] = four.w;
    }
    if (finding != nullptr) {
      std::size_t first = 32;
#pragma unroll
      for (int e = 31; e >= 0; e--) {
        if ((pairs[e / 8][e / 2 % 4] >> (16 * (e % 2)) & exponent) == exponent) first = static_cast<std::size_t>(e);
      }
      if (first != 32) note(finding, Status::kNonFinite, 32 * i + first);
    }
#pragma unroll
    for (unsigned row = 0; row < 4; row++) {
      out[4 * i + row] = make_uint4(pairs[0][row], pairs[1][row], pairs[2][row], pairs[3][row]);
    }
  }
}

// The values of a table as the compute type, times table_factor().
void fill_values(Codebook book, FloatType half, std::uint16_t (&values)[16]) {
  for (unsigned code = 0; code < 16; code++) {
    float value = value_of(book, static_cast<std::uint8_t>(code)) * table_factor(book, half);
    // FP4 has the integers 1, 128, 192, 64, 96, 32 and 48, but for the last bit of float32.
    if (book == Codebook::kFp4) value = static_cast<float>(static_cast<int>(value + (value < 0.0F ? -0.5F : 0.5F)));
    values[code] = half == FloatType::kFloat16 ? float16_of(value) : bfloat16_of(value);
  }
}

// x as the kernels read it.
struct Activations {
  FloatType half;
  bool scaled;
  bool whole;  // blocks of columns, aligned
  bool transposed;
  bool prepared;  // not as it is given
  std::uint64_t stride;
};

Activations activations_of(const CudaStream& stream, const CudaLinearArguments& a, bool transposed) {
  Activations x{};
  const bool float16_weights = a.layout->format == CudaWeightFormat::kFloat16 ||
                               (a.gate != nullptr && a.gate_layout->format == CudaWeightFormat::kFloat16);
  x.half = a.x_type == FloatType::kBfloat16 && stream.major >= 8 && !float16_weights ? FloatType::kBfloat16
                                                                                     : FloatType::kFloat16;
  x.scaled = a.x_type != x.half;
  x.whole = a.layout->columns % kColumnsOfBlock == 0 && reinterpret_cast<std::uintptr_t>(a.x) % 16 == 0;
  x.transposed = transposed;
  x.prepared = x.scaled || !x.whole || transposed;
  x.stride = a.layout->blocks * kColumnsOfBlock;
  return x;
}

CudaStatus plan_product(const CudaStream& stream, const CudaPackedLayout& layout, std::uint64_t m,
                        CudaProductPlan* plan) {
  if (m > kStreamedRows && !(stream.uses_warp_groups && m >= kRowsForWarpGroups)) {
    return plan_tiled(stream, layout, m, plan);
  }
  *plan = m > kStreamedRows ? plan_groups(stream, layout, m) : plan_streamed(stream, layout, m);
  return CudaStatus::kOk;
}

CudaProduct product_of(const CudaPackedLayout& layout, const void* weight, const CudaProductPlan& plan) {
  CudaProduct p{};
  const auto* const memory = static_cast<const unsigned char*>(weight);
  p.rows = static_cast<unsigned>(layout.rows);
  p.tiles = static_cast<unsigned>(layout.tiles);
  p.blocks = static_cast<unsigned>(layout.blocks);
  p.codes = reinterpret_cast<const uint4*>(memory);
  p.scales = memory + layout.scales_at;
  p.zeros = layout.has_zeros ? memory + layout.zeros_at : nullptr;
  p.zero = static_cast<unsigned>(layout.zero);
  p.half_scales = layout.scale_type == FloatType::kFloat16;
  p.scale_blocks = cuda_scale_sets(layout);
  p.scale_shift = 0;
  if (p.scale_blocks == 1) {
    p.scale_shift = 31;
  } else {
    while ((layout.group >> p.scale_shift) > kColumnsOfBlock) p.scale_shift++;
  }
  p.splits = plan.splits;
  p.blocks_of_split = plan.blocks_of_split;
  return p;
}

CudaStatus linear(CudaStream* stream, const CudaLinearArguments* arguments) {
  const CudaLinearArguments& a = *arguments;
  const CudaPackedLayout& layout = *a.layout;
  const std::uint64_t m = a.m, n = layout.rows, k = layout.columns;
  if (stream->major * 10 + stream->minor < 75) return CudaStatus::kUnsupported;
  constexpr std::uint64_t kMost = 0x7fffffffU;
  if (m > kMost || layout.tiles > kMost || layout.blocks > kMost) return CudaStatus::kUnsupported;
  if (m == 0 || n == 0) return CudaStatus::kOk;

  CudaProductPlan plan{}, gate_plan{};
  LOWBIT_TRY(plan_product(*stream, layout, m, &plan));
  if (a.gate != nullptr) LOWBIT_TRY(plan_product(*stream, *a.gate_layout, m, &gate_plan));
  const Activations x = activations_of(*stream, a, plan.way == CudaProductWay::kGroups);

  const auto aligned = [](std::size_t bytes) { return (bytes + 255) / 256 * 256; };
  const std::size_t x_at = kProductCounters * sizeof(unsigned);
  const std::size_t x_scales_at = x_at + aligned(x.prepared ? m * x.stride * 2 : 0);
  const std::size_t factors_at = x_scales_at + aligned(x.scaled ? m * sizeof(float) : 0);
  const std::size_t partials_at = factors_at + aligned(a.gate != nullptr ? m * n * sizeof(float) : 0);
  const std::size_t partials = plan.partials > gate_plan.partials ? plan.partials : gate_plan.partials;
  // The stream keeps what decoding needs, call after call; what more rows need is given back.
  constexpr std::size_t kMostKept = std::size_t{64} << 20;
  const std::size_t bytes = partials_at + partials * sizeof(float);
  Workspace room(*stream);
  unsigned char *counters = nullptr, *memory = nullptr;
  LOWBIT_TRY(scratch(*stream, bytes <= kMostKept ? bytes : kScratchZeros, &counters));
  memory = counters;
  if (bytes > kMostKept) {
    LOWBIT_TRY(room.reserve(bytes));
    memory = room.as<unsigned char>();
  }
  auto* const x_scales = x.scaled ? reinterpret_cast<float*>(memory + x_scales_at) : nullptr;

  CudaFinding* const finding = a.check_finite ? stream->finding : nullptr;
  const auto* ready = static_cast<const std::uint16_t*>(a.x);
  const unsigned exponent = a.x_type == FloatType::kFloat16 ? 0x7c00U : 0x7f80U;
  if (x.prepared) {
    auto* const out = reinterpret_cast<std::uint16_t*>(memory + x_at);
    ready = out;
    if (x.transposed && x.whole && !x.scaled) {
      const std::size_t count = m * k / 32;
      LOWBIT_TRY(launch(*stream, transpose_pairs, dim3(blocks_for(*stream, count, kThreads)), kThreads, 0,
                        static_cast<const uint4*>(a.x), count, exponent, reinterpret_cast<uint4*>(out), finding));
    } else {
      LOWBIT_TRY(launch(*stream, prepare_rows, dim3(static_cast<unsigned>(m)), kThreads,
                        kThreads / kWarp * sizeof(float), a.x, a.x_type, k, x.transposed, out, x.stride, x_scales,
                        finding));
    }
  }
  // What is multiplied as it is given is looked through by the product.
  CudaFinding* const to_find = x.prepared ? nullptr : finding;

  const auto multiply = [&](const CudaPackedLayout& of, const void* weight, const CudaProductPlan& planned,
                            const float* bias, Activation activation, const float* factors, void* y, FloatType y_type) {
    CudaProduct p = product_of(of, weight, planned);
    p.x = ready;
    p.x_stride = x.stride;
    p.finding = to_find;
    p.m = static_cast<unsigned>(m);
    p.partials = reinterpret_cast<float*>(memory + partials_at);
    p.counters = reinterpret_cast<unsigned*>(counters);
    p.factor = of.factor * missing_factor(of.format, x.half);
    if (of.format == CudaWeightFormat::kTable4) {
      fill_values(of.table, x.half, p.table);
      p.factor /= table_factor(of.table, x.half);
    }
    p.x_scales = x_scales;
    p.bias = bias;
    p.activation = activation;
    p.factors = factors;
    p.y = y;
    p.y_type = y_type;
    const auto run = planned.way == CudaProductWay::kStreamed ? multiply_streamed
                     : planned.way == CudaProductWay::kTiled  ? multiply_tiled
                                                              : multiply_groups;
    return run(*stream, planned, of.format, x.half, cuda_scales_of_block(of), p);
  };
  const float* factors = nullptr;
  if (a.gate != nullptr) {
    auto* const out = reinterpret_cast<float*>(memory + factors_at);
    LOWBIT_TRY(
        multiply(*a.gate_layout, a.gate, gate_plan, a.gate_bias, a.activation, nullptr, out, FloatType::kFloat32));
    factors = out;
  }
  return multiply(layout, a.weight, plan, a.bias, a.gate != nullptr ? Activation::kNone : a.activation, factors, a.y,
                  a.y_type);
}

}  // namespace

const LinearCuda kLinearCuda = {cuda_weight_layout, cuda_prepack, linear};

}  // namespace lowbit
