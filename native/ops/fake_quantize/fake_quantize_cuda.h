#pragma once

#include "cuda/abi.h"
#include "ops/fake_quantize/fake_quantize.h"

namespace lowbit {

// The operations of fake_quantize.h on memory of a device, with the same bits.
struct FakeQuantizeCuda {
  CudaStatus (*integers)(CudaStream* stream, const float* x, const Channels& channels,
                         const IntegerQuantizer& quantizer, Rounding rounding, float* out, std::uint8_t* mask);

  CudaStatus (*scaled)(CudaStream* stream, const float* x, const Channels& channels, ElementType type,
                       const float* scales, float* out, std::uint8_t* mask);

  CudaStatus (*blocks)(CudaStream* stream, const float* x, std::size_t rows, std::size_t columns, std::size_t length,
                       ElementType type, BlockScale scale, float* out, std::uint8_t* mask);

  CudaStatus (*straight_through)(CudaStream* stream, const float* dy, const std::uint8_t* mask, std::size_t count,
                                 float* dx);

  CudaStatus (*gradients)(CudaStream* stream, const float* dy, const float* x, const Channels& channels,
                          const IntegerQuantizer& quantizer, double factor, const QuantizerGradients& out);
};

extern const FakeQuantizeCuda kFakeQuantizeCuda;

}  // namespace lowbit
