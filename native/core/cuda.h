#pragma once

#include "cuda/abi.h"

namespace lowbit {

// The CUDA module, opened on first use, or the reason why there is none.
struct CudaModule {
  const CudaApi* api = nullptr;  // null without a device that can be used
  std::int32_t devices = 0;
  char reason[512] = "";
};

// Opens `lowbit_cuda.so` (.dll) beside the addon, or the file that the environment variable LOWBIT_CUDA_MODULE names.
// Once per process, from any thread.
const CudaModule& cuda_module();

}  // namespace lowbit
