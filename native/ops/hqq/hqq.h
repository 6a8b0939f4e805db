#pragma once

#include "core/dtype.h"
#include "core/status.h"
#include "core/thread_pool.h"

namespace lowbit {

struct HqqRequest {
  const float* weight;  // [rows, columns]
  std::size_t rows, columns, group_size;
  CodeType code;
  float power, beta;
  std::size_t steps;  // of the search, at most
  bool round_zero;    // zero points become integers of the code type before the codes are chosen; ranges contain zero
  FloatType scale_type;
  float* scales;        // [rows, groups]
  float* zeros;         // the same, as numbers of steps from the lowest code
  std::uint8_t* codes;  // packed
};

// HQQ: kNonFinite names an element of the weight. The search ends when the mean |error| over the whole weight, as a
// float32, no longer falls. The same bits for any number of threads and every instruction set.
Outcome hqq(const HqqRequest& request, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
