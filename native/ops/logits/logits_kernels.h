#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

// The largest of a row of logits, and where it first stands; the first element that is NaN or infinite, or -1.
struct LogitTop {
  float largest = 0.0F;
  std::int64_t index = -1;
  std::int64_t non_finite = -1;
};

// What the distance between two rows of logits, r and o, needs; Σ in float64.
struct LogitSums {
  double reference = 0.0;   // Σ exp(r − max r)
  double other = 0.0;       // Σ exp(o − max o)
  double weighted = 0.0;    // Σ exp(r − max r) · (r − o)
  double difference = 0.0;  // max |r − o|
};

// exp(x) for x in [−700, 0], below as at −700, is 2ⁿ · P(x − n·ln 2): n the integer nearest to x / ln 2, P the Taylor
// polynomial of degree 11, whose relative error is below 1e-14. All in float64, in fused operations.
namespace exponential {
constexpr double kLowest = -700.0;
constexpr double kLog2E = 0x1.71547652b82fep+0;
constexpr double kShift = 0x1.8p+52;  // x + kShift is an integer plus kShift; its low bits are the integer's
constexpr double kLn2High = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;
constexpr double kCoefficients[] = {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
                                    1.0 / 120,      1.0 / 24,      1.0 / 6,      1.0 / 2,     1.0,        1.0};
}  // namespace exponential

// Element i is added in lane i mod 8; the lanes are then added pairwise (i and i + 4, i and i + 2, the last two), so
// that every instruction set gives the same bits. count > 0.
struct LogitsKernels {
  LogitTop (*top)(const float* row, std::size_t count);
  // Σ exp(row − largest), where no element is larger than `largest`.
  double (*sum_exponentials)(const float* row, float largest, std::size_t count);
  LogitSums (*compare)(const float* reference, float reference_largest, const float* other, float other_largest,
                       std::size_t count);
};

namespace scalar {
extern const LogitsKernels kLogits;
}
namespace avx2 {
extern const LogitsKernels kLogits;
}
namespace avx512 {
extern const LogitsKernels kLogits;
}
namespace neon {
extern const LogitsKernels kLogits;
}

}  // namespace lowbit
