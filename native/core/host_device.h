#pragma once

// Before functions that define bits, one element at a time: kernels of CUDA call the very functions that the scalar
// files do.
#if defined(__CUDACC__)
#define LOWBIT_HOST_DEVICE __host__ __device__
#else
#define LOWBIT_HOST_DEVICE
#endif
