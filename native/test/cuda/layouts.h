#pragma once

// Tensors for the tests of conversion on a device: layouts that take every way through the kernels, and their elements.

#include "core/packed_codes.h"
#include "ops/affine/affine.h"
#include "test/cuda/device.h"
#include "test/values.h"

namespace lowbit::test {

// The layouts of affine.h by their names.
inline AffineLayout per_tensor(std::size_t rows, std::size_t columns) {
  return {1, rows * columns, rows * columns == 0 ? 1 : rows * columns, 1, columns};
}
inline AffineLayout per_group(std::size_t rows, std::size_t columns, std::size_t group) {
  return {rows, columns, group, 1, columns};
}
inline AffineLayout per_row(std::size_t rows, std::size_t columns) { return per_group(rows, columns, columns); }
inline AffineLayout per_channel(std::size_t before, std::size_t channels, std::size_t after) {
  return {before, channels * after, after, before == 0 ? 1 : before, after == 1 ? channels : after};
}
inline AffineLayout per_block(std::size_t rows, std::size_t columns, std::size_t height, std::size_t width) {
  return {rows, columns, width, height, columns};
}

inline std::vector<AffineLayout> layouts() {
  std::vector<AffineLayout> all = {
      per_tensor(0, 8),        per_tensor(1, 1),        per_tensor(3, 5),        per_tensor(7, 24),
      per_tensor(1, 3000),     per_tensor(9, 520),      per_row(5, 7),           per_row(3, 8),
      per_row(4, 96),          per_row(2, 1000),        per_row(3, 4096),        per_row(1, 16400),
      per_row(7, 33),          per_channel(1, 5, 9),    per_channel(4, 3, 8),    per_channel(3, 4, 9),
      per_channel(6, 40, 1),   per_channel(5, 13, 1),   per_channel(1, 3, 2056), per_channel(2, 3, 1030),
      per_channel(2, 3, 1032), per_block(8, 64, 2, 32), per_block(5, 40, 2, 16), per_block(6, 33, 4, 7),
  };
  for (const std::size_t group : Sizes{1, 3, 8, 16, 24, 32, 64, 100, 128, 256, 512, 1024}) {
    all.push_back(per_group(3, 2 * group, group));
    all.push_back(per_group(2, 3 * group + group / 2 + 1, group));
  }
  all.push_back(per_group(37, 128, 32));
  all.push_back(per_group(5, 640, 128));
  all.push_back(per_group(3, 200, 128));
  return all;
}

inline std::string name_of(const AffineLayout& l) {
  return format("%zu blocks of %zu in groups of %zu, %zu alike, rows of %zu", l.blocks, l.block_size, l.group_size,
                l.blocks_alike, l.columns);
}

// Elements as they lie in memory, and one of them.
inline Buffer<std::uint8_t> elements(const AffineLayout& layout, FloatType type, Data data, Random& random) {
  const std::size_t count = layout.element_count();
  Buffer<std::uint8_t> bytes(count * size_of(type));
  for (std::size_t i = 0; i < count; i++) set_element(bytes.data(), type, i, sample(data, random));
  return bytes;
}

inline std::size_t code_bytes(const AffineLayout& layout, CodeType code) {
  const std::size_t count = layout.element_count();
  return count == 0 ? 0 : count / layout.columns * code.packed_bytes(layout.columns);
}

// Compares what came back from a device, and says where it differs.
template <typename T>
bool expect_equal(const Buffer<T>& got, const Buffer<T>& expected, const char* what, const std::string& where) {
  const std::size_t i = first_difference(got, expected);
  if (i == expected.size()) return true;
  unsigned long long a = 0, b = 0;
  std::memcpy(&a, &got[i], sizeof(T));
  std::memcpy(&b, &expected[i], sizeof(T));
  CHECK(false, "%s: %s %zu of %zu is %llx, not %llx", where.c_str(), what, i, expected.size(), a, b);
  return false;
}

}  // namespace lowbit::test
