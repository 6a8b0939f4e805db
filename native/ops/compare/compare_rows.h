#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/dtype.h"
#include "core/kernels.h"
#include "core/status.h"
#include "core/thread_pool.h"
#include "core/tiles.h"
#include "ops/cast/cast.h"
#include "ops/compare/compare_kernels.h"

namespace lowbit {

// Where rows may be cut: their parameters change every `group` columns and every `rows_alike` rows.
struct RowGrid {
  std::size_t rows, columns;
  std::size_t group;       // at least 1; at most `columns`, unless that is 0
  std::size_t rows_alike;  // at least 1

  std::size_t groups_per_row() const { return ceil_div(columns, group); }
  std::size_t parameter_count() const { return ceil_div(rows, rows_alike) * groups_per_row(); }
  std::size_t parameter_of(std::size_t row, std::size_t column) const {
    return row / rows_alike * groups_per_row() + column / group;
  }
};

// The distance of every row of `reference` from values that are made where they are compared, a tile at a time on each
// thread: neither they nor the reference in float32 leave the cache.
//
// make(row, rows, column, columns, out) writes the values of whole rows with the same parameters, or of one part of one
// row, which begins at a multiple of eight columns and of the group. sums[r] is CompareKernels::compare of row r, parts
// of a long one added in order: the same bits for any number of threads and any division into blocks of rows.
// kNonFinite: the index is that of the first element of the row where a NaN or infinity was met.
template <typename Make>
Outcome compare_rows(const void* reference, FloatType type, const RowGrid& grid, const Make& make, CompareSums* sums,
                     const CancelFlag* cancel = nullptr) {
  const auto& k = *kernels().compare;
  if (grid.rows == 0 || grid.columns == 0) return {};
  const std::size_t step = grid.group < grid.columns ? std::lcm(grid.group, std::size_t{8}) : std::size_t{8};
  const std::size_t most = std::max<std::size_t>(1, kTileElements / step) * step;
  const std::size_t part = std::min(grid.columns, most);  // columns that are compared at once
  const std::size_t parts = ceil_div(grid.columns, part);
  // Rows of a tile: never across a change of parameters within it.
  std::size_t height = std::max<std::size_t>(1, kTileElements / grid.columns);
  if (height >= grid.rows_alike) height = height / grid.rows_alike * grid.rows_alike;
  while (height < grid.rows_alike && grid.rows_alike % height != 0) height--;
  const std::size_t row_tiles = ceil_div(grid.rows, height);
  std::vector<CompareSums> of_parts(parts > 1 ? grid.rows * parts : 0);

  const auto tile = [&](std::size_t t) {
    const std::size_t row = t / parts * height, rows = std::min(height, grid.rows - row);
    const std::size_t column = t % parts * part, columns = std::min(part, grid.columns - column);
    const std::size_t count = rows * columns, first = row * grid.columns + column;
    // Kept by the thread: fresh memory costs more than the arithmetic on it.
    thread_local std::vector<float> values, converted;
    if (values.size() < count) values.resize(count);
    make(row, rows, column, columns, values.data());
    const auto* bytes = static_cast<const std::uint8_t*>(reference) + first * size_of(type);
    const float* r = reinterpret_cast<const float*>(bytes);
    if (type != FloatType::kFloat32) {
      if (converted.size() < count) converted.resize(count);
      cast(bytes, type, converted.data(), FloatType::kFloat32, true, count);
      r = converted.data();
    }
    CompareSums* const out = parts > 1 ? &of_parts[row * parts + t % parts] : sums + row;
    for (std::size_t i = 0; i < rows; i++) out[i] = k.compare(r + i * columns, values.data() + i * columns, columns);
  };
  if (!ThreadPool::instance().parallel_for(row_tiles * parts, tile, cancel)) return {Status::kCancelled, -1};

  if (parts > 1) {  // a tile then has one row
    for (std::size_t row = 0; row < grid.rows; row++) {
      CompareSums& total = sums[row];
      total = {};
      for (std::size_t p = 0; p < parts; p++) {
        const CompareSums& s = of_parts[row * parts + p];
        total.reference_power += s.reference_power;
        total.other_power += s.other_power;
        total.product += s.product;
        total.error_power += s.error_power;
        total.largest_error = std::max(total.largest_error, s.largest_error);
      }
    }
  }
  for (std::size_t row = 0; row < grid.rows; row++) {
    if (!std::isfinite(sums[row].reference_power) || !std::isfinite(sums[row].other_power)) {
      return {Status::kNonFinite, static_cast<std::int64_t>(row * grid.columns)};
    }
  }
  return {};
}

}  // namespace lowbit
