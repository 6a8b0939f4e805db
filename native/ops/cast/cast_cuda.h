#pragma once

#include <cstddef>

#include "core/dtype.h"
#include "cuda/abi.h"

namespace lowbit {

// The operation of cast.h on memory of a device.
struct CastCuda {
  CudaStatus (*cast)(CudaStream* stream, const void* in, AnyFloatType from, void* out, AnyFloatType to, bool saturate,
                     std::size_t count);
};

extern const CastCuda kCastCuda;

}  // namespace lowbit
