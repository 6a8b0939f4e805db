#pragma once

#include "core/status.h"
#include "core/thread_pool.h"
#include "ops/matmul/packed_weight.h"

namespace lowbit {

enum class ComputeType : std::uint8_t { kFloat32, kInt16, kInt8 };

// y[M, N] = activation(x·Wᵀ + bias), or with a gate: activation(x·Gᵀ + gate_bias) ⊙ (x·Wᵀ + bias).
struct LinearArguments {
  const float* x;  // [M, K], row-major
  std::size_t m;
  const PackedWeight* weight;
  const float* bias;         // [N] or nullptr
  const PackedWeight* gate;  // nullptr, or as many rows and columns as the weight
  const float* gate_bias;
  Activation activation;
  ComputeType compute;  // weights that are floats, or codes of floats, compute in float32 whatever it says
  bool per_token;       // activations: one scale for a row instead of one for each of its segments
  float* y;
};

// kNonFinite: x holds NaN or infinity; `index` is its first such element of the first such row. The same bits for any
// number of threads, and for every instruction set but for float32.
Outcome linear(const LinearArguments& arguments, const CancelFlag* cancel = nullptr);

// What becomes of the exact integers of a product.
enum class IntegerResult : std::uint8_t {
  kInt32,   // as they are: ONNX MatMulInteger
  kFloats,  // c · scale[column] + bias[column]: what DynamicQuantizeMatMul does next
  kInt8,    // saturate(round half to even(c · scale[column]) + zero point): QLinearMatMul
  kUint8,
};

// c[m, n] = (a − a_zero) · (b − b_zero), exact modulo 2^32.
struct IntegerMatmulArguments {
  const std::uint8_t* a;  // [m, k] bytes
  bool a_signed;
  std::size_t m;
  const PackedWeight* b;        // kIntegers
  const std::int32_t* a_zeros;  // one, or one for each row of a
  bool a_zero_per_row;
  const std::int32_t* b_zeros;  // one, or one for each column of b
  bool b_zero_per_column;
  IntegerResult result;
  const float* scales;  // one, or one for each column; not for kInt32
  bool scale_per_column;
  const float* bias;        // kFloats: one for each column, or nullptr
  std::int32_t zero_point;  // kInt8, kUint8
  void* c;
};
Outcome matmul_integer(const IntegerMatmulArguments& arguments, const CancelFlag* cancel = nullptr);

// ONNX DynamicQuantizeLinear: one scale and zero point for all of x, as uint8: the range widened to contain 0, scale =
// (max − min) / 255, zero point = saturate(round(−min / scale)), codes = saturate(round(x / scale) + zero point). All
// zeros have scale 1 here (ONNX Runtime: 0 and NaN) and codes 0. kNonFinite names the first NaN or infinity.
Outcome dynamic_quantize(const float* x, std::size_t count, std::uint8_t* codes, float& scale, std::uint8_t& zero_point,
                         const CancelFlag* cancel = nullptr);

// ONNX Runtime's DynamicQuantizeMatMul: the product of x[m, k], quantized as above, and b, as floats. `product` says m,
// b, its zero points and scales, bias and c; the rest is filled in.
Outcome dynamic_quantize_matmul(const float* x, IntegerMatmulArguments product, const CancelFlag* cancel = nullptr);

// gram[K, K] (+)= xᵀ·x for x[M, K], symmetric; added to what is there unless `first`. Sums in the order of M.
Outcome gram(const float* x, std::size_t m, std::size_t k, bool first, float* out, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
