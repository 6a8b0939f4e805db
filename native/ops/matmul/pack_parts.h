#pragma once

// What all ways of packing weights share: how rows are divided, how words are put into lines, how scales are kept.

#include <algorithm>
#include <cstring>

#include "core/float_bits.h"
#include "core/tiles.h"
#include "ops/matmul/packed_weight.h"

namespace lowbit {
namespace {

inline std::size_t line_aligned(std::size_t bytes) { return ceil_div(bytes, kLineBytes) * kLineBytes; }

struct Division {
  std::size_t segment, segments, segments_per_group;
};

// Groups of `group` columns: the longest segments that divide them.
inline Division divide_groups(std::size_t group, std::size_t columns, std::size_t unit) {
  std::size_t segment = std::min(group, kLongestSegment / unit * unit);
  while (group % segment != 0) segment -= unit;
  const std::size_t groups = std::max<std::size_t>(1, ceil_div(columns, group));
  return {segment, groups * (group / segment), group / segment};
}

// One group for all columns: segments that leave little padding.
inline Division divide_row(std::size_t columns, std::size_t unit) {
  std::size_t best = std::min(kLongestSegment, ceil_div(std::max<std::size_t>(columns, 1), unit) * unit);
  for (std::size_t segment = best; segment >= kLongestSegment / 2; segment -= unit) {
    if (ceil_div(columns, segment) * segment < ceil_div(columns, best) * best) best = segment;
  }
  const std::size_t segments = std::max<std::size_t>(1, ceil_div(columns, best));
  return {best, segments, segments};
}

inline std::uint32_t word_at(const std::uint8_t* p) {
  std::uint32_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

// The words of one column in the lines of a tile.
class Column {
 public:
  Column(std::uint8_t* tile, std::size_t column) : next_(tile + kQuad * column) {}
  void put(std::uint32_t word) {
    std::memcpy(next_, &word, sizeof word);
    next_ += kLineBytes;
  }

 private:
  std::uint8_t* next_;
};

// word_of(i) for every i. Sixteen are computed before they are put, which compilers do with vectors.
template <typename WordOf>
void put_words(std::size_t count, const WordOf& word_of, Column column) {
  constexpr std::size_t kBatch = 16;
  std::uint32_t words[kBatch];
  std::size_t i = 0;
  for (; i + kBatch <= count; i += kBatch) {
    for (std::size_t j = 0; j < kBatch; j++) words[j] = word_of(i + j);
    for (std::size_t j = 0; j < kBatch; j++) column.put(words[j]);
  }
  for (; i < count; i++) column.put(word_of(i));
}

// Most scales are float16 numbers in disguise: normal ones, of which the last thirteen bits are zero.
inline bool is_normal_float16(float value) {
  const std::uint32_t bits = bits_of(value), exponent = (bits >> 23) & 0xffU;
  return (bits & 0x1fffU) == 0 && exponent - 113U <= 142U - 113U;
}

// Scales are kept in sixteen bits where that loses nothing.
inline FloatType scale_type_of(const float* scales, std::size_t count) {
  std::size_t i = 0;
  while (i < count && (is_normal_float16(scales[i]) || float_of_float16(float16_of(scales[i])) == scales[i])) i++;
  if (i == count) return FloatType::kFloat16;
  i = 0;
  while (i < count && (bits_of(scales[i]) & 0xffffU) == 0) i++;
  return i == count ? FloatType::kBfloat16 : FloatType::kFloat32;
}

inline void store_scale(FloatType type, std::uint8_t* scales, std::size_t i, float scale) {
  const std::uint32_t bits = bits_of(scale);
  std::uint16_t half = 0;
  switch (type) {
    case FloatType::kFloat32:
      std::memcpy(scales + 4 * i, &scale, 4);
      return;
    case FloatType::kBfloat16:
      half = static_cast<std::uint16_t>(bits >> 16);
      break;
    case FloatType::kFloat16:
      half = is_normal_float16(scale)
                 ? static_cast<std::uint16_t>(((bits >> 16) & 0x8000U) | (((bits >> 13) & 0x3ffffU) - (112U << 10)))
                 : float16_of(scale);
      break;
  }
  std::memcpy(scales + 2 * i, &half, 2);
}

}  // namespace
}  // namespace lowbit
