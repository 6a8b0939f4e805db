#include "ops/repack/repack.h"

#include <algorithm>

#include "core/kernels.h"
#include "core/tiles.h"

namespace lowbit {
namespace {

// What a thread takes at once: whole cache lines on both sides, some tens of kilobytes, and no more pages than the
// translation buffers hold.
constexpr std::size_t kRepackColumns = 64, kRepackRows = 256;

// Calls body(first row, rows, first column, columns) for tiles of a matrix, on all threads.
template <typename Body>
Outcome for_each_tile(std::size_t rows, std::size_t columns, std::size_t tile_rows, std::size_t tile_columns,
                      const CancelFlag* cancel, const Body& body) {
  const std::size_t across = ceil_div(columns, tile_columns), down = ceil_div(rows, tile_rows);
  const auto run = [&](std::size_t i) {
    const std::size_t row = i / across * tile_rows, column = i % across * tile_columns;
    body(row, std::min(tile_rows, rows - row), column, std::min(tile_columns, columns - column));
  };
  return ThreadPool::instance().parallel_for(across * down, run, cancel) ? Outcome{} : Outcome{Status::kCancelled, -1};
}

}  // namespace

Outcome transpose_words(ConstWords in, std::size_t rows, std::size_t columns, Words out, const CancelFlag* cancel) {
  const auto body = [&](std::size_t row, std::size_t count, std::size_t column, std::size_t width) {
    kernels().repack->transpose({in.data + row * in.stride + column, in.stride}, count, width,
                                {out.data + column * out.stride + row, out.stride});
  };
  return for_each_tile(rows, columns, kRepackRows, kRepackColumns, cancel, body);
}

Outcome awq_to_rows(ConstWords in, std::size_t k_words, std::size_t columns, Words out, const CancelFlag* cancel) {
  const auto body = [&](std::size_t word, std::size_t count, std::size_t column, std::size_t width) {
    kernels().repack->awq_to_rows({in.data + 8 * word * in.stride + column, in.stride}, count, width,
                                  {out.data + 8 * column * out.stride + word, out.stride});
  };
  return for_each_tile(k_words, columns, kRepackRows / 8, kRepackColumns, cancel, body);
}

Outcome rows_to_awq(ConstWords in, std::size_t k_words, std::size_t columns, Words out, const CancelFlag* cancel) {
  const auto body = [&](std::size_t word, std::size_t count, std::size_t column, std::size_t width) {
    kernels().repack->rows_to_awq({in.data + 8 * column * in.stride + word, in.stride}, count, width,
                                  {out.data + 8 * word * out.stride + column, out.stride});
  };
  return for_each_tile(k_words, columns, kRepackRows / 8, kRepackColumns, cancel, body);
}

Outcome select_codes(ConstWords in, unsigned bits, const std::int32_t* order, std::size_t count, std::size_t columns,
                     Words out, const CancelFlag* cancel) {
  // Codes come from anywhere in a column: a tile is as long as that.
  const auto body = [&](std::size_t, std::size_t, std::size_t column, std::size_t width) {
    kernels().repack->select_codes({in.data + column, in.stride}, bits, order, count, width,
                                   {out.data + column, out.stride});
  };
  return for_each_tile(count == 0 ? 0 : 1, columns, 1, kRepackColumns, cancel, body);
}

}  // namespace lowbit
