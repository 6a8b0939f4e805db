#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "cuda/abi.h"
#include "ops/matmul/matmul.h"

namespace lowbit {

// The product of bytes of matmul.h on memory of a device: c[m, n] = (a − a_zero) · (b − b_zero), the same bits. All
// pointers are to the device.
struct IntegerMatmulCuda {
  const std::uint8_t* a;  // [m, k] bytes
  bool a_signed;
  std::size_t m, n, k;
  const void* b;                // what pack() or pack_rows() wrote
  bool b_signed;                // as it was given to them
  const std::int32_t* a_zeros;  // one, or one for each row of a; nullptr: 0
  bool a_zero_per_row;
  const std::int32_t* b_zeros;  // one, or one for each column of b; nullptr: 0
  bool b_zero_per_column;
  IntegerResult result;
  const float* scales;  // one, or one for each column; not for kInt32
  bool scale_per_column;
  const float* bias;        // kFloats: one for each column, or nullptr
  std::int32_t zero_point;  // kInt8, kUint8
  void* c;                  // [m, n]
};

// y[m, n] = (Σ codes · weights, an exact integer) · w_scale[column] · x_scale[row] + bias[column], each operation
// rounded to float32, the result to its type. What linear() of matmul.h computes with kInt8 per token, but for the
// roundings of its sums over segments.
struct Int8LinearCuda {
  const std::int8_t* x;   // [m, k]: codes
  const float* x_scales;  // [m], or one
  bool x_scale_per_row;
  const std::int8_t* w;   // [n, k]: codes
  const float* w_scales;  // [n], or one
  bool w_scale_per_row;
  std::size_t m, n, k;  // k: at most kMostInt8Columns, or sums might overflow; more are kUnsupported
  const float* bias;    // [n] or nullptr
  FloatType type;       // of y
  void* y;
};
constexpr std::size_t kMostInt8Columns = 131072;

struct IntegerCuda {
  // b as the product reads it: columns one after the other, with their sums.
  std::size_t (*packed_bytes)(std::size_t k, std::size_t n);
  // b[k, n], row-major.
  CudaStatus (*pack)(CudaStream* stream, const std::uint8_t* b, bool is_signed, std::size_t k, std::size_t n,
                     void* packed);
  // bᵀ[n, k], row-major.
  CudaStatus (*pack_rows)(CudaStream* stream, const std::uint8_t* rows, bool is_signed, std::size_t k, std::size_t n,
                          void* packed);
  CudaStatus (*matmul)(CudaStream* stream, const IntegerMatmulCuda& product);

  // Rows of x[m, k] to signed bytes with a scale each, as quantize_row of matmul_kernels.h does per token. Notes
  // kNonFinite with the index in x of the first such element.
  CudaStatus (*quantize_tokens)(CudaStream* stream, const void* x, FloatType type, std::size_t m, std::size_t k,
                                std::int8_t* codes, float* scales);
  // Fastest where k is a multiple of 16: other operands are copied, at every call.
  CudaStatus (*linear)(CudaStream* stream, const Int8LinearCuda& layer);
};

extern const IntegerCuda kIntegerCuda;

// linear() by products of whole warp groups, for streams that use them.
CudaStatus int8_linear_by_groups(CudaStream* stream, const Int8LinearCuda& layer);

}  // namespace lowbit
