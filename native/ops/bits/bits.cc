#include "ops/bits/bits.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "core/float_bits.h"
#include "core/kernels.h"
#include "core/pages.h"
#include "core/tiles.h"
#include "ops/matmul/strips.h"

namespace lowbit {
namespace {

// --- products --------------------------------------------------------------------------------------------------------

// Rows of bits whose last line may be short: its bytes, and which bits of the last of them count.
class RowLength {
 public:
  explicit RowLength(std::size_t columns)
      : row_bytes_(packed_bit_bytes(columns)),
        line_bytes_(columns / (8 * kBitLine) * kBitLine),
        last_mask_(static_cast<std::uint8_t>(columns % 8 == 0 ? 0xff : (1U << (columns % 8)) - 1U)) {}

  std::size_t row_bytes() const { return row_bytes_; }
  std::size_t line_bytes() const { return line_bytes_; }
  bool has_tail() const { return row_bytes_ != line_bytes_; }

  // `rows` rows from `data` on; their tails go to `room`, which holds a line for each.
  BitRows rows(const std::uint8_t* data, std::size_t rows, std::uint8_t* room) const {
    if (!has_tail()) return {data, row_bytes_, nullptr};
    const std::size_t bytes = row_bytes_ - line_bytes_;
    for (std::size_t r = 0; r < rows; r++) {
      std::uint8_t* const tail = room + r * kBitLine;
      std::memset(tail, 0, kBitLine);
      std::memcpy(tail, data + r * row_bytes_ + line_bytes_, bytes);
      tail[bytes - 1] &= last_mask_;
    }
    return {data, row_bytes_, room};
  }

 private:
  std::size_t row_bytes_, line_bytes_;
  std::uint8_t last_mask_;
};

// Rows of b that stay in the first-level cache for all rows of a strip, which is short enough to stay in the second.
constexpr std::size_t kPanelBytes = 16384, kMostPanelRows = 256, kStripRows = 64;

std::size_t panel_rows(std::size_t row_bytes) {
  const std::size_t fitting = kPanelBytes / std::max<std::size_t>(row_bytes, kBitLine);
  return std::clamp<std::size_t>(fitting / 4 * 4, 4, kMostPanelRows);
}

// --- packing ---------------------------------------------------------------------------------------------------------

// So many elements of a row start on a byte in every packed form, and on a vector.
constexpr std::size_t kPieceUnit = 80, kPieceElements = kTileElements / kPieceUnit * kPieceUnit;

// A stretch of a row, from an element that starts on a byte.
struct Piece {
  std::size_t row, begin, count;
};

// Calls body for all pieces of all rows, on all threads. False if cancelled.
template <typename Body>
bool for_each_piece(std::size_t rows, std::size_t columns, const Body& body, const CancelFlag* cancel) {
  if (rows == 0 || columns == 0) return true;
  if (columns > kPieceElements) {
    const std::size_t per_row = ceil_div(columns, kPieceElements);
    return ThreadPool::instance().parallel_for(
        rows * per_row,
        [&](std::size_t i) {
          const std::size_t begin = i % per_row * kPieceElements;
          body(Piece{i / per_row, begin, std::min(kPieceElements, columns - begin)});
        },
        cancel);
  }
  const std::size_t together = kPieceElements / columns;
  return ThreadPool::instance().parallel_for(
      ceil_div(rows, together),
      [&](std::size_t i) {
        const std::size_t end = std::min(rows, (i + 1) * together);
        for (std::size_t row = i * together; row < end; row++) body(Piece{row, 0, columns});
      },
      cancel);
}

// The lowest of the elements that threads report.
class FirstElement {
 public:
  void report(std::size_t element) {
    auto index = static_cast<std::int64_t>(element);
    std::int64_t seen = first_.load(std::memory_order_relaxed);
    while (index < seen && !first_.compare_exchange_weak(seen, index, std::memory_order_relaxed)) {
    }
  }
  Outcome outcome(bool finished, Status status) const {
    if (!finished) return {Status::kCancelled, -1};
    const std::int64_t first = first_.load();
    return first == INT64_MAX ? Outcome{} : Outcome{status, first};
  }

 private:
  std::atomic<std::int64_t> first_{INT64_MAX};
};

bool is_nan_at(const void* x, FloatType type, std::size_t i) {
  if (type == FloatType::kFloat32) return std::isnan(static_cast<const float*>(x)[i]);
  const std::uint16_t bits = static_cast<const std::uint16_t*>(x)[i];
  return std::isnan(type == FloatType::kFloat16 ? float_of_float16(bits) : float_of_bfloat16(bits));
}

// All of −1, 0 and 1 and nothing else become 0, 1 or 2.
bool are_digits(const std::int8_t* digits, std::size_t count) {
  std::uint8_t largest = 0;
  for (std::size_t i = 0; i < count; i++) {
    largest = std::max(largest, static_cast<std::uint8_t>(digits[i] + 1));
  }
  return largest <= 2;
}

void report_first_wrong(const std::int8_t* digits, std::size_t count, std::size_t element, FirstElement& first) {
  for (std::size_t i = 0; i < count; i++) {
    if (digits[i] < -1 || digits[i] > 1) return first.report(element + i);
  }
}

void pack_two_bits(const std::int8_t* digits, std::size_t count, std::uint8_t* packed) {
  std::size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    packed[i / 4] = static_cast<std::uint8_t>((digits[i] & 3) | ((digits[i + 1] & 3) << 2) |
                                              ((digits[i + 2] & 3) << 4) | ((digits[i + 3] & 3) << 6));
  }
  if (i == count) return;
  unsigned last = 0;
  for (std::size_t j = i; j < count; j++) last |= (static_cast<unsigned>(digits[j]) & 3U) << (2 * (j - i));
  packed[i / 4] = static_cast<std::uint8_t>(last);
}

void pack_base3(const std::int8_t* digits, std::size_t count, std::uint8_t* packed) {
  std::size_t i = 0;
  for (; i + kDigitsPerByte <= count; i += kDigitsPerByte) {
    const std::int8_t* const d = digits + i;
    packed[i / kDigitsPerByte] = static_cast<std::uint8_t>(d[0] + 3 * d[1] + 9 * d[2] + 27 * d[3] + 81 * d[4] + 121);
  }
  if (i == count) return;
  int value = 0;
  for (std::size_t j = count; j > i; j--) value = 3 * value + digits[j - 1] + 1;
  packed[i / kDigitsPerByte] = static_cast<std::uint8_t>(value);
}

// The index of the first element that is not a digit, or -1.
std::ptrdiff_t first_minus_two(const std::uint8_t* packed, std::size_t count) {
  std::uint8_t seen = 0;  // the high bit of a code without its low one
  for (std::size_t i = 0; i < count / 4; i++) seen = static_cast<std::uint8_t>(seen | ((packed[i] >> 1) & ~packed[i]));
  for (std::size_t i = (seen & 0x55) != 0 ? 0 : count / 4 * 4; i < count; i++) {
    if (((packed[i / 4] >> (2 * (i % 4))) & 3) == 2) return static_cast<std::ptrdiff_t>(i);
  }
  return -1;
}
std::ptrdiff_t first_wrong_base3(const std::uint8_t* packed, std::size_t count) {
  constexpr std::uint8_t kLargest = 242;
  const std::size_t bytes = packed_base3_bytes(count);
  std::uint8_t largest = 0;
  for (std::size_t i = 0; i < bytes; i++) largest = std::max(largest, packed[i]);
  for (std::size_t i = 0; largest > kLargest && i < bytes; i++) {
    if (packed[i] > kLargest) return static_cast<std::ptrdiff_t>(i * kDigitsPerByte);
  }
  return -1;
}

}  // namespace

Outcome xor_counts(const BitProduct& p, const CancelFlag* cancel) {
  if (p.m == 0 || p.n == 0) return {};
  const RowLength length(p.columns);
  const std::size_t panel = panel_rows(length.row_bytes()), panels = ceil_div(p.n, panel);
  const Strips strips(p.m, kStripRows);
  const double bytes = static_cast<double>(p.n) * static_cast<double>(length.row_bytes());
  // What a vector of 512 bits takes is about what six products of bytes take.
  const double lines = static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(length.row_bytes());
  const Grid grid = divide(panels, 1, strips.count, bytes, lines);
  const auto run = [&](std::size_t i) {
    const GridTask task = grid.task(i);
    for (std::size_t t = task.first_tile; t < task.last_tile; t++) {
      const std::size_t column = t * panel, columns = std::min(panel, p.n - column);
      std::uint8_t* const room = scratch(Scratch::kPanel, length.has_tail() ? (columns + kStripRows) * kBitLine : 1);
      XorCountArguments a{};
      a.b = length.rows(p.b + column * length.row_bytes(), columns, room);
      a.columns = columns;
      a.line_bytes = length.line_bytes();
      a.start = p.start;
      a.step = p.step;
      a.out_stride = p.n;
      for (std::size_t s = task.first_strip; s < task.last_strip; s++) {
        const std::size_t row = strips.begin(s);
        a.rows = strips.size(s);
        a.a = length.rows(p.a + row * length.row_bytes(), a.rows, room + columns * kBitLine);
        a.out = p.out + row * p.n + column;
        kernels().bits->xor_counts(a);
      }
    }
  };
  return ThreadPool::instance().parallel_for(grid.count(), run, cancel, grid.helpers) ? Outcome{}
                                                                                      : Outcome{Status::kCancelled, -1};
}

Outcome xor_counts_of_rows(const BitProduct& p, const CancelFlag* cancel) {
  const RowLength length(p.columns);
  const std::size_t together = std::max<std::size_t>(1, kTileElements / std::max(length.row_bytes(), kBitLine));
  const auto run = [&](std::size_t i) {
    std::uint8_t tails[2 * kBitLine];
    XorCountArguments a{};
    a.rows = a.columns = 1;
    a.line_bytes = length.line_bytes();
    a.start = p.start;
    a.step = p.step;
    const std::size_t end = std::min(p.m, (i + 1) * together);
    for (std::size_t row = i * together; row < end; row++) {
      a.a = length.rows(p.a + row * length.row_bytes(), 1, tails);
      a.b = length.rows(p.b + row * length.row_bytes(), 1, tails + kBitLine);
      a.out = p.out + row;
      kernels().bits->xor_counts(a);
    }
  };
  return ThreadPool::instance().parallel_for(ceil_div(p.m, together), run, cancel) ? Outcome{}
                                                                                   : Outcome{Status::kCancelled, -1};
}

Outcome pack_signs(const void* x, FloatType type, std::size_t rows, std::size_t columns, std::uint8_t* bits,
                   const CancelFlag* cancel) {
  FirstElement first;
  const auto pack = [&](Piece p) {
    const std::size_t element = p.row * columns + p.begin;
    const auto* const from = static_cast<const std::uint8_t*>(x) + element * size_of(type);
    std::uint8_t* const to = bits + p.row * packed_bit_bytes(columns) + p.begin / 8;
    if (kernels().bits->pack_signs(from, type, p.count, to)) return;
    for (std::size_t i = 0; i < p.count; i++) {
      if (is_nan_at(from, type, i)) return first.report(element + i);
    }
  };
  return first.outcome(for_each_piece(rows, columns, pack, cancel), Status::kNonFinite);
}

Outcome pack_byte_signs(const std::int8_t* x, std::size_t rows, std::size_t columns, std::uint8_t* bits,
                        const CancelFlag* cancel) {
  const auto pack = [&](Piece p) {
    kernels().bits->pack_byte_signs(x + p.row * columns + p.begin, p.count,
                                    bits + p.row * packed_bit_bytes(columns) + p.begin / 8);
  };
  return for_each_piece(rows, columns, pack, cancel) ? Outcome{} : Outcome{Status::kCancelled, -1};
}

Outcome unpack_signs(const std::uint8_t* bits, std::size_t rows, std::size_t columns, std::int8_t* out,
                     const CancelFlag* cancel) {
  const auto unpack = [&](Piece p) {
    kernels().bits->unpack_signs(bits + p.row * packed_bit_bytes(columns) + p.begin / 8, p.count,
                                 out + p.row * columns + p.begin);
  };
  return for_each_piece(rows, columns, unpack, cancel) ? Outcome{} : Outcome{Status::kCancelled, -1};
}

Outcome unpack_float_signs(const std::uint8_t* bits, std::size_t rows, std::size_t columns, float* out,
                           const CancelFlag* cancel) {
  const auto unpack = [&](Piece p) {
    kernels().bits->unpack_float_signs(bits + p.row * packed_bit_bytes(columns) + p.begin / 8, p.count, 1.0F,
                                       out + p.row * columns + p.begin);
  };
  return for_each_piece(rows, columns, unpack, cancel) ? Outcome{} : Outcome{Status::kCancelled, -1};
}

Outcome pack_ternary(const std::int8_t* digits, TernaryPacking packing, std::size_t rows, std::size_t columns,
                     std::uint8_t* packed, const CancelFlag* cancel) {
  const bool base3 = packing == TernaryPacking::kBase3;
  const std::size_t row_bytes = packed_ternary_bytes(packing, columns);
  FirstElement first;
  const auto pack = [&](Piece p) {
    const std::size_t element = p.row * columns + p.begin;
    const std::int8_t* const from = digits + element;
    if (!are_digits(from, p.count)) return report_first_wrong(from, p.count, element, first);
    std::uint8_t* const to = packed + p.row * row_bytes + p.begin / (base3 ? kDigitsPerByte : 4);
    base3 ? pack_base3(from, p.count, to) : pack_two_bits(from, p.count, to);
  };
  return first.outcome(for_each_piece(rows, columns, pack, cancel), Status::kInvalidCode);
}

Outcome unpack_ternary(const std::uint8_t* packed, TernaryPacking packing, std::size_t rows, std::size_t columns,
                       std::int8_t* digits, const CancelFlag* cancel) {
  const bool base3 = packing == TernaryPacking::kBase3;
  const std::size_t row_bytes = packed_ternary_bytes(packing, columns);
  FirstElement first;
  const auto unpack = [&](Piece p) {
    const std::size_t element = p.row * columns + p.begin;
    const std::uint8_t* const from = packed + p.row * row_bytes + p.begin / (base3 ? kDigitsPerByte : 4);
    const std::ptrdiff_t wrong = base3 ? first_wrong_base3(from, p.count) : first_minus_two(from, p.count);
    if (wrong >= 0) return first.report(element + static_cast<std::size_t>(wrong));
    (base3 ? kernels().bits->unpack_base3 : kernels().bits->unpack_two_bits)(from, p.count, digits + element);
  };
  return first.outcome(for_each_piece(rows, columns, unpack, cancel), Status::kInvalidCode);
}

}  // namespace lowbit
