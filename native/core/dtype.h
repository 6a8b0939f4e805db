#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace lowbit {

// Float storage types. The numbers are the raw surface between lib/addon/raw.ts and native/node.
enum class FloatType : std::uint8_t { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2 };

// The C++ type that holds one element.
template <FloatType Type>
using Storage = std::conditional_t<Type == FloatType::kFloat32, float, std::uint16_t>;

constexpr std::size_t size_of(FloatType type) { return type == FloatType::kFloat32 ? 4 : 2; }

// Floats of eight bits and fewer, which core/small_floats.h defines; their numbers go on from those of FloatType.
enum class SmallFloatType : std::uint8_t {
  kFloat8E4m3fn = 3,
  kFloat8E5m2 = 4,
  kFloat8E4m3fnuz = 5,
  kFloat8E5m2fnuz = 6,
  kFloat8E8m0fnu = 7,
  kFloat6E2m3fn = 8,
  kFloat6E3m2fn = 9,
  kFloat4E2m1fn = 10,
};

constexpr std::size_t bit_width(SmallFloatType type) {
  return type <= SmallFloatType::kFloat8E8m0fnu ? 8 : type <= SmallFloatType::kFloat6E3m2fn ? 6 : 4;
}

// What casts convert between: one of either kind, by its number.
class AnyFloatType {
 public:
  static constexpr int kCount = 11;

  constexpr AnyFloatType(FloatType type) : number_(static_cast<std::uint8_t>(type)) {}
  constexpr AnyFloatType(SmallFloatType type) : number_(static_cast<std::uint8_t>(type)) {}

  constexpr bool is_small() const { return number_ > static_cast<std::uint8_t>(FloatType::kBfloat16); }
  constexpr FloatType large() const { return static_cast<FloatType>(number_); }
  constexpr SmallFloatType small() const { return static_cast<SmallFloatType>(number_); }
  constexpr bool operator==(AnyFloatType other) const { return number_ == other.number_; }

  constexpr std::size_t bits() const { return is_small() ? bit_width(small()) : 8 * size_of(large()); }
  // The bytes of a run of elements. Those of 6 and 4 bits are packed, the first in the low bits; unused high bits of
  // the last byte are zero.
  constexpr std::size_t packed_bytes(std::size_t count) const { return (count * bits() + 7) / 8; }

 private:
  std::uint8_t number_;
};

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
