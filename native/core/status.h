#pragma once

#include <cstdint>

namespace lowbit {

// How an operation over a whole tensor ended. Anything but kOk leaves the outputs unspecified.
enum class Status : std::uint8_t {
  kOk,
  kNonFinite,      // an input element is NaN or infinite; `index` is the first
  kScaleOverflow,  // a scale is too large for its type; `index` is its parameter set
  kInvalidCode,    // a code that stands for nothing; `index` is the first such element
  kNotPositive,    // a matrix is not positive definite; `index` is the first column that shows it
  kCancelled,
};

struct Outcome {
  Status status = Status::kOk;
  std::int64_t index = -1;
};

}  // namespace lowbit
