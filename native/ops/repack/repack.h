#pragma once

#include "core/status.h"
#include "core/thread_pool.h"
#include "ops/repack/repack_kernels.h"

namespace lowbit {

// The kernels over whole strips, on all threads. Only kOk and kCancelled come back.

Outcome transpose_words(ConstWords in, std::size_t rows, std::size_t columns, Words out,
                        const CancelFlag* cancel = nullptr);

Outcome awq_to_rows(ConstWords in, std::size_t k_words, std::size_t columns, Words out,
                    const CancelFlag* cancel = nullptr);
Outcome rows_to_awq(ConstWords in, std::size_t k_words, std::size_t columns, Words out,
                    const CancelFlag* cancel = nullptr);

// `order` must hold numbers from 0 to count − 1, and count · bits must be a multiple of 32.
Outcome select_codes(ConstWords in, unsigned bits, const std::int32_t* order, std::size_t count, std::size_t columns,
                     Words out, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
