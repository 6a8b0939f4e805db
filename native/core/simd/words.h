#pragma once

// Unaligned little-endian words, for codes that are packed across bytes.

#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace lowbit {
namespace {

LOWBIT_INLINE std::uint32_t load_u32(const std::uint8_t* in) {
  std::uint32_t word;
  std::memcpy(&word, in, sizeof word);
  return word;
}

// The low `Count` bytes of a word; Count is 4 or 6.
template <int Count>
LOWBIT_INLINE void store_bytes(std::uint8_t* out, std::uint64_t word) {
  static_assert(Count == 4 || Count == 6, "sixteen codes of 2 or 3 bits");
  const std::uint32_t low = static_cast<std::uint32_t>(word);
  std::memcpy(out, &low, sizeof low);
  if constexpr (Count == 6) {
    const std::uint16_t high = static_cast<std::uint16_t>(word >> 32);
    std::memcpy(out + 4, &high, sizeof high);
  }
}

// The top bit of every code in eight bytes (six for 3 bits): turns offset binary into two's complement and back.
template <int Bits>
constexpr std::uint64_t sign_bits() {
  std::uint64_t pattern = 0;
  for (int bit = Bits - 1; bit < (Bits == 3 ? 48 : 64); bit += Bits) pattern |= std::uint64_t{1} << bit;
  return pattern;
}

}  // namespace
}  // namespace lowbit
