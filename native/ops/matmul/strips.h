#pragma once

// What linear(), matmul_integer() and gram() share: the division of rows into strips and of a product into tasks.

#include <algorithm>
#include <cstddef>

#include "core/float_bits.h"
#include "core/thread_pool.h"
#include "core/tiles.h"
#include "ops/matmul/matmul_kernels.h"

namespace lowbit {

// Rows divided as evenly as can be into strips of at most `most`.
struct Strips {
  std::size_t rows, count, base, longer;  // the first `longer` strips have one row more

  Strips(std::size_t all, std::size_t most)
      : rows(all),
        count(ceil_div(all, most)),
        base(all / std::max<std::size_t>(count, 1)),
        longer(all - base * count) {}
  std::size_t size(std::size_t i) const { return base + (i < longer ? 1 : 0); }
  std::size_t begin(std::size_t i) const { return i * base + std::min(i, longer); }
  std::size_t longest() const { return base + (longer != 0 ? 1 : 0); }
};

struct GridTask {
  std::size_t first_tile, last_tile, first_strip, last_strip;
};

// A product as a grid of tasks: some tiles of columns by some strips of rows. Results don't depend on the division.
struct Grid {
  std::size_t tiles, tiles_per_task, strips, strips_per_task;
  Helpers helpers;

  std::size_t columns() const { return ceil_div(tiles, tiles_per_task); }
  std::size_t count() const { return columns() * ceil_div(strips, strips_per_task); }
  GridTask task(std::size_t i) const {
    const std::size_t tile = i % columns() * tiles_per_task, strip = i / columns() * strips_per_task;
    return {tile, std::min(tiles, tile + tiles_per_task), strip, std::min(strips, strip + strips_per_task)};
  }
};

// Work that one thread does in less time than this is not divided, or only with threads that are awake.
constexpr double kWorthDividing = 10e-6, kWorthWaking = 100e-6;  // seconds

// `bytes` of weights are read and `products` computed; a task takes a multiple of `unit` tiles.
inline Grid divide(std::size_t tiles, std::size_t unit, std::size_t strips, double bytes, double products) {
  const std::size_t threads = ThreadPool::instance().thread_count();
  const double seconds = bytes / 60e9 + products / 200e9;  // what is in the cache, by a fast processor
  Grid grid{tiles, std::max<std::size_t>(tiles, 1), strips, std::max<std::size_t>(strips, 1), Helpers::kAll};
  if (threads == 1 || seconds < kWorthDividing) return grid;
  if (seconds < kWorthWaking) grid.helpers = Helpers::kAwake;
  // Tasks of some microseconds, and enough of them that no thread waits long for the last.
  const std::size_t wanted = std::min<std::size_t>(8 * threads, static_cast<std::size_t>(seconds / 2e-6) + 1);
  const std::size_t units = ceil_div(tiles, unit);
  grid.tiles_per_task = ceil_div(units, std::min(units, wanted)) * unit;
  if (grid.columns() < 4 * threads && strips > 1) {
    const std::size_t parts = std::min(strips, ceil_div(4 * threads, grid.columns()));
    grid.strips_per_task = ceil_div(strips, parts);
  }
  return grid;
}

// The index of the first NaN or infinity, or -1.
inline std::ptrdiff_t first_not_finite(const float* x, std::size_t count) {
  constexpr std::size_t kBatch = 1024;
  for (std::size_t begin = 0; begin < count; begin += kBatch) {
    const std::size_t end = std::min(count, begin + kBatch);
    bool bad = false;
    for (std::size_t i = begin; i < end; i++)
      bad |= !is_finite(x[i]);  // without branches: compilers make vectors of it
    for (std::size_t i = begin; bad && i < end; i++) {
      if (!is_finite(x[i])) return static_cast<std::ptrdiff_t>(i);
    }
  }
  return -1;
}

}  // namespace lowbit
