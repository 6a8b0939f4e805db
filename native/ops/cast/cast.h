#pragma once

#include <cstddef>

#include "core/dtype.h"
#include "core/status.h"
#include "core/thread_pool.h"

namespace lowbit {

// Converts `count` elements between float storage types on all threads, as core/float_bits.h defines. `in` and `out`
// must not overlap. From a type to itself copies.
Outcome cast(const void* in, FloatType from, void* out, FloatType to, std::size_t count,
             const CancelFlag* cancel = nullptr);

}  // namespace lowbit
