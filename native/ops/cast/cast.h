#pragma once

#include <cstddef>

#include "core/dtype.h"
#include "core/status.h"
#include "core/thread_pool.h"

namespace lowbit {

// Converts `count` elements between float storage types on all threads, as core/float_bits.h and core/small_floats.h
// define; `saturate` concerns small types. Between two of those it goes through float32, which holds either exactly.
// `in` and `out` hold packed_bytes(count) bytes of their types and must not overlap. From a type to itself copies.
Outcome cast(const void* in, AnyFloatType from, void* out, AnyFloatType to, bool saturate, std::size_t count,
             const CancelFlag* cancel = nullptr);

}  // namespace lowbit
