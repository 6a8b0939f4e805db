#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

// Codes between the rows of a QuantizedTensor (packed along the columns, the first in the low bits: CodeType in
// core/dtype.h) and words of 32 bits as GPTQ and AWQ store them, for a weight [N, K] of which any strip of output
// channels can be worked on alone. Rows must fill whole words: K · bits is a multiple of 32.
//
// GPTQ packs the codes of an output channel along K, densely, three bits across words as well: `qweight` [K·bits/32, N]
// is the transpose of our rows seen as words. AWQ packs four bits along N: `qweight` [K, N/8].

// AWQ: nibble i (from the low end) of word c holds output channel 8c + kAwqOrder[i].
constexpr std::size_t kAwqOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

// Consecutive words are consecutive columns; rows lie `stride` words apart.
struct ConstWords {
  const std::uint32_t* data;
  std::size_t stride;
};
struct Words {
  std::uint32_t* data;
  std::size_t stride;
};

struct RepackKernels {
  // out[c][r] = in[r][c]
  void (*transpose)(ConstWords in, std::size_t rows, std::size_t columns, Words out);

  // Words of AWQ [8·k_words, columns] to rows [8·columns, k_words] of four bits, and back.
  void (*awq_to_rows)(ConstWords in, std::size_t k_words, std::size_t columns, Words out);
  void (*rows_to_awq)(ConstWords in, std::size_t k_words, std::size_t columns, Words out);

  // Codes of 2, 3, 4 or 8 bits that are packed along the rows of words [count·bits/32, columns]:
  // code i of a column of `out` is code order[i] of that column of `in`.
  void (*select_codes)(ConstWords in, unsigned bits, const std::int32_t* order, std::size_t count, std::size_t columns,
                       Words out);
};

#define LOWBIT_DECLARE_REPACK(isa)    \
  namespace isa {                     \
  extern const RepackKernels kRepack; \
  }
LOWBIT_DECLARE_REPACK(scalar)
LOWBIT_DECLARE_REPACK(avx2)
LOWBIT_DECLARE_REPACK(avx512)
LOWBIT_DECLARE_REPACK(neon)
#undef LOWBIT_DECLARE_REPACK

}  // namespace lowbit
