#pragma once

#include <cstddef>

namespace lowbit {

// Work is divided into tiles of about this many elements: big enough that handing one out costs nothing, small enough
// that its float32 values stay in the second-level cache between two passes. The division never depends on the number
// of threads, so that neither do sums over tiles.
constexpr std::size_t kTileElements = 32768;

// Within a tile, passes over the same elements alternate every so many of them: they stay in the first-level cache.
constexpr std::size_t kBatchElements = 1024, kMostBatchElements = 4096;

// Parameters of groups are computed this many at a time: batches hold a multiple of them where they can.
constexpr std::size_t kVectorGroups = 16;

// Outputs of at least this many bytes are written around the caches: they would not stay there.
constexpr std::size_t kStreamBytes = std::size_t{8} << 20;

constexpr std::size_t ceil_div(std::size_t a, std::size_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace lowbit
