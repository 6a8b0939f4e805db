#pragma once

#include "core/status.h"
#include "core/thread_pool.h"
#include "ops/matmul/packed_weight.h"

namespace lowbit {

// Rows of ternary digits, packed at two bits each, as columns of a product: codes of two bits whose scale is 1.
// kInvalidCode names the first element that is −2. Throws std::bad_alloc.
Outcome pack_ternary_weight(const std::uint8_t* digits, std::size_t rows, std::size_t columns, PackedWeight& weight);

// Whether ternary_matmul() can compute with a weight.
bool is_ternary_weight(const PackedWeight& weight);

// c[m, N] = a[m, K] · Wᵀ, exact modulo 2^32, on the kernels of linear().
Outcome ternary_matmul(const std::int8_t* a, std::size_t m, const PackedWeight& weight, std::int32_t* c,
                       const CancelFlag* cancel = nullptr);

}  // namespace lowbit
