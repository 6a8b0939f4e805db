#pragma once

#include <cstdint>

#include "core/channels.h"
#include "core/status.h"
#include "core/thread_pool.h"

namespace lowbit {

// Histograms that can be added up in any order, and in any parts, with the same result. Their grid depends on no more
// than the largest magnitude seen: 2 · half bins (half a power of two) of equal width divide [−2^e, 2^e), where e is
// the least exponent for which that contains every element. A bin of a coarser grid is exactly two of a finer one, so
// that a histogram moves to a larger e by adding pairs of its counts.
//
// Bin half + m holds m ≤ x / width < m + 1, and bin half − 1 − m holds m < −x / width < m + 1 with its lower end. A
// count is a whole number below 2^53.
constexpr int kLowestGridExponent = -100, kHighestGridExponent = 128;
constexpr std::size_t kLeastHalfBins = 256, kMostHalfBins = 32768;

// The e of elements of at most this magnitude.
int grid_exponent(float absmax);

// The range of every channel: infinities (∞, −∞) if there are no elements. kNonFinite names the first element that is
// NaN or infinite.
Outcome observe_ranges(const float* x, const Channels& channels, float* min, float* max,
                       const CancelFlag* cancel = nullptr);

// The range and the histogram of a whole tensor, in one pass: its exponent, and counts for 2 · half bins.
Outcome observe_histogram(const float* x, std::size_t count, std::size_t half, float* min, float* max,
                          std::int32_t* exponent, double* counts, const CancelFlag* cancel = nullptr);

// Adds every channel to a histogram of its own: counts[channel · 2 · half + bin]. Elements that are too large for the
// exponent of their channel count in the outermost bins.
Outcome observe_counts(const float* x, const Channels& channels, std::size_t half, const std::int32_t* exponents,
                       double* counts, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
