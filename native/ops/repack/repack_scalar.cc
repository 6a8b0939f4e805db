// Codes in the words of GPTQ and AWQ, the specification.

#include "ops/repack/repack_kernels.h"

namespace lowbit::scalar {
namespace {

void transpose(ConstWords in, std::size_t rows, std::size_t columns, Words out) {
  for (std::size_t r = 0; r < rows; r++) {
    for (std::size_t c = 0; c < columns; c++) out.data[c * out.stride + r] = in.data[r * in.stride + c];
  }
}

constexpr unsigned kNibble = 15;

void awq_to_rows(ConstWords in, std::size_t k_words, std::size_t columns, Words out) {
  for (std::size_t c = 0; c < columns; c++) {
    for (std::size_t i = 0; i < 8; i++) {
      std::uint32_t* const row = out.data + (8 * c + kAwqOrder[i]) * out.stride;
      for (std::size_t w = 0; w < k_words; w++) {
        std::uint32_t word = 0;
        for (std::size_t j = 0; j < 8; j++) {
          word |= ((in.data[(8 * w + j) * in.stride + c] >> (4 * i)) & kNibble) << (4 * j);
        }
        row[w] = word;
      }
    }
  }
}

void rows_to_awq(ConstWords in, std::size_t k_words, std::size_t columns, Words out) {
  for (std::size_t w = 0; w < k_words; w++) {
    for (std::size_t j = 0; j < 8; j++) {
      for (std::size_t c = 0; c < columns; c++) {
        std::uint32_t word = 0;
        for (std::size_t i = 0; i < 8; i++) {
          word |= ((in.data[(8 * c + kAwqOrder[i]) * in.stride + w] >> (4 * j)) & kNibble) << (4 * i);
        }
        out.data[(8 * w + j) * out.stride + c] = word;
      }
    }
  }
}

void select_codes(ConstWords in, unsigned bits, const std::int32_t* order, std::size_t count, std::size_t columns,
                  Words out) {
  const std::uint32_t mask = (1U << bits) - 1U;
  for (std::size_t c = 0; c < columns; c++) {
    for (std::size_t i = 0; i < count * bits / 32; i++) out.data[i * out.stride + c] = 0;
    for (std::size_t i = 0; i < count; i++) {
      const std::size_t from = static_cast<std::size_t>(order[i]) * bits, to = i * bits;
      // A code of three bits may lie in two words.
      std::uint32_t code = in.data[from / 32 * in.stride + c] >> (from % 32);
      if (from % 32 + bits > 32) code |= in.data[(from / 32 + 1) * in.stride + c] << (32 - from % 32);
      code &= mask;
      out.data[to / 32 * out.stride + c] |= code << (to % 32);
      if (to % 32 + bits > 32) out.data[(to / 32 + 1) * out.stride + c] |= code >> (32 - to % 32);
    }
  }
}

}  // namespace

const RepackKernels kRepack = {transpose, awq_to_rows, rows_to_awq, select_codes};

}  // namespace lowbit::scalar
