// Bits and ternary digits, the specification.

#include "core/float_bits.h"
#include "ops/bits/bits_kernels.h"

namespace lowbit::scalar {
namespace {

float element(const void* x, FloatType type, std::size_t i) {
  switch (type) {
    case FloatType::kFloat16:
      return float_of_float16(static_cast<const std::uint16_t*>(x)[i]);
    case FloatType::kBfloat16:
      return float_of_bfloat16(static_cast<const std::uint16_t*>(x)[i]);
    case FloatType::kFloat32:
      break;
  }
  return static_cast<const float*>(x)[i];
}

std::uint32_t differing_bits(const std::uint8_t* a, const std::uint8_t* b, std::size_t bytes) {
  std::uint32_t count = 0;
  for (std::size_t i = 0; i < bytes; i++) {
    for (int difference = a[i] ^ b[i]; difference != 0; difference >>= 1) {
      count += static_cast<std::uint32_t>(difference & 1);
    }
  }
  return count;
}

void xor_counts(const XorCountArguments& a) {
  for (std::size_t r = 0; r < a.rows; r++) {
    for (std::size_t c = 0; c < a.columns; c++) {
      std::uint32_t count = differing_bits(a.a.data + r * a.a.stride, a.b.data + c * a.b.stride, a.line_bytes);
      if (a.a.tails != nullptr) {
        count += differing_bits(a.a.tails + r * kBitLine, a.b.tails + c * kBitLine, kBitLine);
      }
      const std::uint32_t result = static_cast<std::uint32_t>(a.start) + static_cast<std::uint32_t>(a.step) * count;
      a.out[r * a.out_stride + c] = static_cast<std::int32_t>(result);
    }
  }
}

void clear(std::uint8_t* bits, std::size_t count) {
  for (std::size_t i = 0; i < (count + 7) / 8; i++) bits[i] = 0;
}

void set_bit(std::uint8_t* bits, std::size_t i) {
  bits[i / 8] = static_cast<std::uint8_t>(bits[i / 8] | (1U << (i % 8)));
}

bool bit_at(const std::uint8_t* bits, std::size_t i) { return ((bits[i / 8] >> (i % 8)) & 1) != 0; }

bool pack_signs(const void* x, FloatType type, std::size_t count, std::uint8_t* bits) {
  bool numbers = true;
  clear(bits, count);
  for (std::size_t i = 0; i < count; i++) {
    const float value = element(x, type, i);
    numbers = numbers && value == value;
    if (value >= 0.0F) set_bit(bits, i);
  }
  return numbers;
}

void pack_byte_signs(const std::int8_t* x, std::size_t count, std::uint8_t* bits) {
  clear(bits, count);
  for (std::size_t i = 0; i < count; i++) {
    if (x[i] >= 0) set_bit(bits, i);
  }
}

void unpack_signs(const std::uint8_t* bits, std::size_t count, std::int8_t* out) {
  for (std::size_t i = 0; i < count; i++) out[i] = bit_at(bits, i) ? 1 : -1;
}

void unpack_float_signs(const std::uint8_t* bits, std::size_t count, float value, float* out) {
  for (std::size_t i = 0; i < count; i++) out[i] = bit_at(bits, i) ? value : -value;
}

void unpack_two_bits(const std::uint8_t* bytes, std::size_t count, std::int8_t* out) {
  for (std::size_t i = 0; i < count; i++) {
    const int code = (bytes[i / 4] >> (2 * (i % 4))) & 3;
    out[i] = static_cast<std::int8_t>((code ^ 2) - 2);
  }
}

void unpack_base3(const std::uint8_t* bytes, std::size_t count, std::int8_t* out) {
  constexpr int kPowers[kDigitsPerByte] = {1, 3, 9, 27, 81};
  for (std::size_t i = 0; i < count; i++) {
    out[i] = static_cast<std::int8_t>(bytes[i / kDigitsPerByte] / kPowers[i % kDigitsPerByte] % 3 - 1);
  }
}

constexpr std::size_t kSumLanes = 16;

double sum_of_lanes(double (&lanes)[kSumLanes]) {
  for (std::size_t half = kSumLanes / 2; half >= 1; half /= 2) {
    for (std::size_t i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

bool abs_sums(const void* x, FloatType type, std::size_t count, std::size_t group_size, double* sums) {
  bool finite = true;
  for (std::size_t begin = 0, g = 0; begin < count; g++) {
    const std::size_t size = group_size < count - begin ? group_size : count - begin;
    double lanes[kSumLanes] = {};
    for (std::size_t i = 0; i < size; i++) {
      const float value = element(x, type, begin + i);
      finite = finite && is_finite(value);
      lanes[i % kSumLanes] += static_cast<double>(value < 0.0F ? -value : value);
    }
    sums[g] = sum_of_lanes(lanes);
    begin += size;
  }
  return finite;
}

void sums_above(const void* x, FloatType type, std::size_t count, std::size_t group_size, const float* thresholds,
                double* sums, std::uint32_t* counts) {
  for (std::size_t begin = 0, g = 0; begin < count; g++) {
    const std::size_t size = group_size < count - begin ? group_size : count - begin;
    double lanes[kSumLanes] = {};
    counts[g] = 0;
    for (std::size_t i = 0; i < size; i++) {
      const float value = element(x, type, begin + i);
      const float magnitude = value < 0.0F ? -value : value;
      if (!(magnitude > thresholds[g])) continue;
      lanes[i % kSumLanes] += static_cast<double>(magnitude);
      counts[g]++;
    }
    sums[g] = sum_of_lanes(lanes);
    begin += size;
  }
}

}  // namespace

const BitsKernels kBits = {xor_counts,      pack_signs,   pack_byte_signs, unpack_signs, unpack_float_signs,
                           unpack_two_bits, unpack_base3, abs_sums,        sums_above};

}  // namespace lowbit::scalar
