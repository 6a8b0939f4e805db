#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "core/tiles.h"
#include "ops/affine/affine.h"

namespace lowbit {

// Consecutive elements that start on a byte of codes, and either start a group or lie within one.
struct Run {
  std::size_t offset;  // of the first element
  std::size_t count;
  std::size_t code_offset;  // of the first byte
  std::size_t parameter;    // of the first group
  std::size_t group_size;   // ≥ count if the run lies within one group
};

// The smallest number of codes that fills whole bytes.
inline std::size_t codes_in_whole_bytes(CodeType code) { return 8 / std::gcd(std::size_t{8}, std::size_t{code.bits}); }

// Divides a tensor into tiles, and those into runs: the only place that knows how groups, rows and bytes interleave.
//
// A line is a stretch of elements whose codes follow each other without padding and whose parameters do not start anew:
// a block if rows fill whole bytes, else a row. Long lines are cut, short ones are put together.
class AffineTiles {
 public:
  AffineTiles(const AffineLayout& layout, CodeType code) : layout_(layout), bits_(code.bits) {
    if (layout.element_count() == 0) return;
    const std::size_t codes_per_bytes = codes_in_whole_bytes(code);
    const bool whole_bytes = layout.columns % codes_per_bytes == 0;
    if (whole_bytes && layout.blocks_alike == 1 && layout.block_size % layout.group_size == 0) {
      layout_.block_size *= layout_.blocks;  // groups never notice where one block ends
      layout_.blocks = 1;
    }
    line_ = whole_bytes ? layout_.block_size : layout_.columns;
    lines_ = layout.element_count() / line_;
    line_bytes_ = code.packed_bytes(line_);

    const std::size_t group = layout_.group_size;
    if (group >= line_) {
      cut_ = kTileElements;
    } else if (group > kTileElements && group % codes_per_bytes == 0) {
      cuts_per_group_ = ceil_div(group, kTileElements);
    } else {
      const std::size_t unit = std::lcm(group, codes_per_bytes);
      cut_ = unit * std::max<std::size_t>(1, kTileElements / unit);
    }
    if (cuts_per_group_ != 0) {
      tiles_per_line_ = ceil_div(line_, group) * cuts_per_group_;
    } else if (line_ > cut_) {
      tiles_per_line_ = ceil_div(line_, cut_);
    } else {
      lines_per_tile_ = std::max<std::size_t>(1, kTileElements / line_);
    }
    tile_count_ = lines_per_tile_ != 0 ? ceil_div(lines_, lines_per_tile_) : lines_ * tiles_per_line_;
  }

  std::size_t tile_count() const { return tile_count_; }

  // Whether every group lies in one run, so that its parameters are known before any of its codes is written.
  bool groups_are_whole() const {
    return layout_.group_size <= kTileElements && std::min(layout_.group_size, layout_.block_size) <= line_;
  }

  template <typename Body>
  void for_each_run(std::size_t tile, const Body& body) const {
    if (lines_per_tile_ != 0) {
      const std::size_t last = std::min(lines_, (tile + 1) * lines_per_tile_);
      for (std::size_t line = tile * lines_per_tile_; line < last; line++) body(run(line, 0, line_));
      return;
    }
    const std::size_t line = tile / tiles_per_line_, piece = tile % tiles_per_line_;
    if (cuts_per_group_ == 0) {
      body(run(line, piece * cut_, std::min(line_, (piece + 1) * cut_)));
      return;
    }
    const std::size_t group_begin = piece / cuts_per_group_ * layout_.group_size;
    const std::size_t group_end = std::min(line_, group_begin + layout_.group_size);
    const std::size_t begin = group_begin + piece % cuts_per_group_ * kTileElements;
    if (begin < group_end) body(run(line, begin, std::min(group_end, begin + kTileElements)));
  }

 private:
  Run run(std::size_t line, std::size_t begin, std::size_t end) const {
    const std::size_t offset = line * line_ + begin;
    const std::size_t block = offset / layout_.block_size, in_block = offset % layout_.block_size;
    const std::size_t first_parameter = block / layout_.blocks_alike * layout_.groups_per_block();
    const bool starts_group = in_block % layout_.group_size == 0;
    return {offset, end - begin, line * line_bytes_ + begin * bits_ / 8,
            first_parameter + in_block / layout_.group_size, starts_group ? layout_.group_size : end - begin};
  }

  AffineLayout layout_;
  std::size_t bits_;
  std::size_t line_ = 0, lines_ = 0, line_bytes_ = 0;
  std::size_t lines_per_tile_ = 0;  // short lines are put together, or
  std::size_t cut_ = 0;             // a long line is cut every so many elements, or
  std::size_t cuts_per_group_ = 0;  // each of its long groups is cut on its own
  std::size_t tiles_per_line_ = 0;
  std::size_t tile_count_ = 0;
};

}  // namespace lowbit
