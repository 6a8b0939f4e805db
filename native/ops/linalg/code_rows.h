#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/thread_pool.h"

namespace lowbit {

// Packs rows of codes that are bytes, code − lowest; every row starts on a byte. False if cancelled.
inline bool pack_rows(const std::uint8_t* bytes, std::size_t rows, std::size_t columns, CodeType code, int lowest,
                      std::uint8_t* out, const CancelFlag* cancel) {
  constexpr std::size_t kRows = 16;
  const std::size_t row_bytes = code.packed_bytes(columns);
  return ThreadPool::instance().parallel_for(
      (rows + kRows - 1) / kRows,
      [&](std::size_t part) {
        const unsigned mask = (1U << code.bits) - 1U;
        for (std::size_t row = part * kRows; row < rows && row < (part + 1) * kRows; row++) {
          const std::uint8_t* in = bytes + row * columns;
          std::uint8_t* to = out + row * row_bytes;
          unsigned waiting = 0, bits = 0;
          for (std::size_t i = 0; i < columns; i++) {
            waiting |= (static_cast<unsigned>(static_cast<int>(in[i]) + lowest) & mask) << bits;
            for (bits += code.bits; bits >= 8; bits -= 8) {
              *to++ = static_cast<std::uint8_t>(waiting);
              waiting >>= 8;
            }
          }
          if (bits != 0) *to = static_cast<std::uint8_t>(waiting);
        }
      },
      cancel);
}

}  // namespace lowbit
