#pragma once

// y = x·Wᵀ on a device, for weights that are packed there once: the operations of packed_weight.h, pack_rows.h and
// matmul.h on memory of a device.

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "cuda/abi.h"
#include "ops/codebook/codebook_kernels.h"
#include "ops/matmul/matmul_kernels.h"

namespace lowbit {

enum class CudaWeightKind : std::uint8_t {
  kCodes,     // integers: CodesSource of packed_weight.h
  kCodebook,  // codes of a codebook: CodebookSource of pack_rows.h
  kFloats,    // not quantized; kept as float16 times a power of two per row, so that no magnitude is out of range
};

// A weight W[rows, columns] as the host has it, in memory of the device.
struct CudaWeightSource {
  CudaWeightKind kind;
  CodeType code;         // kCodes
  Codebook book;         // kCodebook
  FloatType float_type;  // kFloats
  const void* data;      // rows of packed codes, each starting on a byte; kFloats: row-major elements
  std::uint64_t rows, columns;
  // The scale of row r and column k: scales[r / rows_alike · row_stride + (row_stride > 1 ? k / group_size : 0)], and
  // so the zero point; row_stride 0: one for all. Not for kFloats.
  const float* scales;
  const std::int32_t* zero_points;  // kCodes; nullptr: the middle of the range, which is 0 for signed codes
  std::uint64_t rows_alike, row_stride, group_size;
  // What scales are kept as, which must not change their values: float16 where it does not, or float32.
  FloatType scale_type;
};

// What the tiles of a packed weight hold.
enum class CudaWeightFormat : std::uint8_t {
  kBits4,   // integers 0 … 15 less a zero point
  kBits8,   // integers 0 … 255 less a zero point
  kTable4,  // indices of sixteen values
  kFloat8E4m3fn,
  kFloat8E5m2,
  kFloat16,
};

// How a packed weight lies in its memory. Filled in by layout(); plain numbers.
struct CudaPackedLayout {
  CudaWeightFormat format;
  Codebook table;        // kTable4: whose values
  FloatType scale_type;  // float16 or float32
  bool has_zeros;        // a byte for every scale
  std::int32_t zero;     // of all, if not
  float factor;          // of every product: what powers of two are left out of codes and tables
  std::uint64_t rows, columns;
  std::uint64_t group;   // columns of a scale as it is kept: 32, 64 or a multiple of 128
  std::uint64_t tiles;   // of 16 rows
  std::uint64_t blocks;  // of 128 columns
  std::uint64_t scales_at, zeros_at, bytes;
};

// y[M, N] = activation(x·Wᵀ + bias), or with a gate: activation(x·Gᵀ + gate_bias) ⊙ (x·Wᵀ + bias).
struct CudaLinearArguments {
  const void* x;  // [M, K], row-major
  FloatType x_type;
  std::uint64_t m;
  const CudaPackedLayout* layout;  // of the host
  const void* weight;
  const float* bias;                    // [N] or nullptr
  const CudaPackedLayout* gate_layout;  // nullptr, or as many rows and columns as the weight
  const void* gate;
  const float* gate_bias;
  Activation activation;
  void* y;  // [M, N], row-major
  FloatType y_type;
  bool check_finite;  // notes kNonFinite with the first element of x that is NaN or infinite
};

struct LinearCuda {
  // Fills in the layout; nothing but numbers is read of the source, and no device is needed. kUnsupported: groups (of a
  // row with several) that are no multiples of 32 columns, which can be dequantized and packed as kFloats.
  CudaStatus (*layout)(const CudaWeightSource* source, CudaPackedLayout* layout);

  // Fills layout.bytes of memory, 256-byte aligned. The source may be given back once the stream has been synchronized.
  // Notes kNonFinite with the first element whose code stands for NaN or an infinity (kFloats: that is one).
  CudaStatus (*prepack)(CudaStream* stream, const CudaWeightSource* source, const CudaPackedLayout* layout,
                        void* memory);

  // Products of codes (exact in the compute type) and x, added up in float32 over at most 128 columns in tensor cores,
  // then times the scale of their group, added up in float32. The compute type is x's, float16 for float32: rows are
  // then scaled by powers of two, so that none is out of range. The same bits for every call with the same device,
  // layout and M, and the same choice of uses_warp_groups(). kUnsupported: compute capability before 7.5.
  CudaStatus (*linear)(CudaStream* stream, const CudaLinearArguments* arguments);
};

extern const LinearCuda kLinearCuda;

}  // namespace lowbit
