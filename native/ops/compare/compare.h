#pragma once

#include "core/status.h"
#include "core/thread_pool.h"
#include "ops/compare/compare_kernels.h"

namespace lowbit {

// The sums over two whole tensors on all threads; the same bits for any number of them. kNonFinite names the first
// element that is NaN or infinite in either tensor.
Outcome compare(const float* reference, const float* other, std::size_t count, CompareSums& sums,
                const CancelFlag* cancel = nullptr);

}  // namespace lowbit
