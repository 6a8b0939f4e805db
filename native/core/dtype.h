#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace lowbit {

// Float storage types. The numbers are the raw surface between lib/addon.ts and native/node.
enum class FloatType : std::uint8_t { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2 };

// The C++ type that holds one element.
template <FloatType Type>
using Storage = std::conditional_t<Type == FloatType::kFloat32, float, std::uint16_t>;

constexpr std::size_t size_of(FloatType type) { return type == FloatType::kFloat32 ? 4 : 2; }

// An integer code type: int8 … uint2. Codes are packed at `bits` each, the first in the low bits, signed ones in two's
// complement; every row of a tensor starts on a byte.
struct CodeType {
  std::uint8_t bits;  // 2, 3, 4 or 8
  bool is_signed;

  constexpr int lowest() const { return is_signed ? -(1 << (bits - 1)) : 0; }
  constexpr int highest() const { return is_signed ? (1 << (bits - 1)) - 1 : (1 << bits) - 1; }
  constexpr std::size_t packed_bytes(std::size_t count) const { return (count * bits + 7) / 8; }
};

}  // namespace lowbit
