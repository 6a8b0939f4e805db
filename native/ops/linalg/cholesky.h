#pragma once

#include <cstddef>
#include <cstdint>

#include "core/pages.h"
#include "core/status.h"
#include "core/thread_pool.h"

namespace lowbit {

// H = R·Rᵀ with R upper triangular: the Cholesky factorization from the last column to the first. Quantizing columns
// from the first to the last needs R as it is, where the inverse of H would need another factorization: the columns
// from i on of the error E add ‖E·R‖², and column j of E·R is E[j]·R[j][j] plus what earlier columns of E contribute.
//
// Kept as T, of the ordinary factorization TᵀT of H with rows and columns in the opposite order, in blocks of 64
// columns: within one, four tiles of sixteen columns, each [row][16] with the rows up to the end of the block's own, as
// the products read it. Rows and columns past the last are those of the identity.
class ReversedCholesky {
 public:
  static constexpr std::size_t kBlock = 64;

  // Of H[order[i]][order[j]] (order: a permutation, or nullptr), with `damp` added to the diagonal; a column that is
  // zero on it is replaced by that of the identity. kNonFinite: of `h`. kNotPositive: `index` counts from the last
  // column. Products accumulate in float32 in the order of the columns, blocks on the diagonal are factorized in
  // float64: the same bits for any number of threads and every instruction set.
  Outcome factorize(const float* h, std::size_t size, const std::int32_t* order, double damp,
                    const CancelFlag* cancel = nullptr);

  std::size_t size() const { return size_; }
  // R[i][j], i ≤ j.
  float at(std::size_t i, std::size_t j) const { return element(size_ - 1 - j, size_ - 1 - i); }
  float diagonal(std::size_t j) const { return at(j, j); }

 private:
  // T[row][column], row ≤ column.
  float element(std::size_t row, std::size_t column) const {
    return block(column / kBlock)[tile_floats(column / kBlock) * (column % kBlock / 16) + row * 16 + column % 16];
  }
  float* block(std::size_t b) const { return storage_.as<float>() + kBlock * kBlock * (b * (b + 1) / 2); }
  static std::size_t tile_floats(std::size_t b) { return kBlock * (b + 1) * 16; }

  bool pack_strips(std::size_t b, const CancelFlag* cancel);
  void update(std::size_t b, std::size_t column_block, float* out) const;
  std::ptrdiff_t factorize_diagonal(std::size_t b, const float* updated);
  void gather(std::size_t b, std::size_t column_block, float* out) const;

  Pages storage_, strips_, diagonal_;
  std::size_t size_ = 0;
  const float* h_ = nullptr;
  const std::int32_t* order_ = nullptr;
  float damp_ = 0.0F;
};

}  // namespace lowbit
