#pragma once

// Runs of floats to quantize, of every kind that could be special.

#include <cmath>

#include "core/dtype.h"
#include "core/float_bits.h"
#include "test/check.h"

namespace lowbit::test {

constexpr FloatType kFloatTypes[] = {FloatType::kFloat32, FloatType::kFloat16, FloatType::kBfloat16};
constexpr std::size_t kGroupSizes[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 24, 32, 33, 64, 100, 128, 256, 100000};

inline const char* name_of(FloatType type) {
  return type == FloatType::kFloat32 ? "float32" : type == FloatType::kFloat16 ? "float16" : "bfloat16";
}

// What the values of a run look like.
enum class Data : std::uint8_t { kNormal, kZeros, kTies, kTiny, kHuge, kMixed, kNonFinite };
constexpr Data kAllData[] = {Data::kNormal, Data::kZeros, Data::kTies,     Data::kTiny,
                             Data::kHuge,   Data::kMixed, Data::kNonFinite};

inline float sample(Data data, Random& random) {
  switch (data) {
    case Data::kNormal:
      return random.normal();
    case Data::kZeros:
      return random.below(2) == 0 ? 0.0F : -0.0F;
    case Data::kTies:  // multiples of a half: with power-of-two scales every second one is a tie
      return static_cast<float>(static_cast<int>(random.below(600)) - 300) * 0.5F;
    case Data::kTiny:  // subnormals and their neighbours
      return float_of(random.bits32() & 0x80ffffffU);
    case Data::kHuge:
      return float_of((random.bits32() & 0x80ffffffU) | 0x7e000000U);
    case Data::kMixed: {  // every exponent
      const float v = float_of(random.bits32());
      return is_finite(v) ? v : 1.0F;
    }
    case Data::kNonFinite: {
      const std::size_t kind = random.below(8);
      return kind == 0 ? NAN : kind == 1 ? INFINITY : kind == 2 ? -INFINITY : random.normal();
    }
  }
  return 0.0F;
}

// A run of one float type, kept as bytes.
struct Values {
  Buffer<std::uint8_t> bytes;
  Values(FloatType type, std::size_t count, std::size_t misalignment, Data data, Random& random)
      : bytes(count * size_of(type), misalignment * size_of(type)) {
    for (std::size_t i = 0; i < count; i++) {
      const float v = sample(data, random);
      if (type == FloatType::kFloat32) {
        std::memcpy(bytes.data() + 4 * i, &v, 4);
      } else {
        // Values past the range of float16 become infinite; only Data::kNonFinite may.
        std::uint16_t half = type == FloatType::kFloat16 ? float16_of(v) : bfloat16_of(v);
        const float back = type == FloatType::kFloat16 ? float_of_float16(half) : float_of_bfloat16(half);
        if (is_finite(v) && !is_finite(back)) half = 0x7bff;
        std::memcpy(bytes.data() + 2 * i, &half, 2);
      }
    }
  }
};

}  // namespace lowbit::test
