// GGUF blocks, the specification: ternary codes. x = (digit − 1) · scale with digits 0, 1, 2 and the scale max|x|.
//
// tq2_0: 2 bits a digit. Byte 32h + m (h = 0, 1; m < 32) holds element 128h + 32n + m at bits 2n.
//
// tq1_0: five digits to a byte, d₀·81 + d₁·27 + d₂·9 + d₃·3 + d₄ = v of 243, stored as v/243 of a turn, ⌈v·256/243⌉:
// multiplying by 3ⁿ modulo 256 brings digit n to the top, where ·3 / 256 reads it, with no division. Three runs:
//   bytes 0–31: elements m + 32n, bytes 32–47: elements 160 + m + 16n, bytes 48–51: elements 240 + m + 4n (n < 4 only).

#include "ops/blocks/blocks_each.h"
#include "ops/blocks/blocks_scalar.h"

namespace lowbit::scalar {
namespace {

struct Run {
  std::size_t byte, bytes, element, digits;
};
constexpr Run kRuns[] = {{0, 32, 0, 5}, {32, 16, 160, 5}, {48, 4, 240, 4}};

int digit_of(float x, float inverse) { return round_half_away(x * inverse) + 1; }

}  // namespace

void quantize_tq1_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kTQ1_0>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    const float scale = std::fabs(extreme_of(x, kSuperblock)), inverse = inverse_of(scale);
    for (const Run& run : kRuns) {
      for (std::size_t m = 0; m < run.bytes; m++) {
        int value = 0;
        for (std::size_t n = 0; n < 5; n++) {
          value *= 3;
          if (n < run.digits) value += digit_of(x[run.element + m + run.bytes * n], inverse);
        }
        y[run.byte + m] = static_cast<std::uint8_t>((value * 256 + 242) / 243);
      }
    }
    store_half(y + 52, scale);
  });
}

void dequantize_tq1_0(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kTQ1_0>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y + 52);
    for (const Run& run : kRuns) {
      for (std::size_t m = 0; m < run.bytes; m++) {
        std::uint8_t turned = y[run.byte + m];
        for (std::size_t n = 0; n < run.digits; n++) {
          x[run.element + m + run.bytes * n] = static_cast<float>(((turned * 3) >> 8) - 1) * scale;
          turned = static_cast<std::uint8_t>(turned * 3);
        }
      }
    }
  });
}

void quantize_tq2_0(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kTQ2_0>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    const float scale = std::fabs(extreme_of(x, kSuperblock)), inverse = inverse_of(scale);
    for (std::size_t b = 0; b < 64; b++) {
      const float* first = x + 128 * (b / 32) + b % 32;
      int byte = 0;
      for (std::size_t n = 0; n < 4; n++) byte |= digit_of(first[32 * n], inverse) << (2 * n);
      y[b] = static_cast<std::uint8_t>(byte);
    }
    store_half(y + 64, scale);
  });
}

void dequantize_tq2_0(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kTQ2_0>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    const float scale = load_half(y + 64);
    for (std::size_t i = 0; i < kSuperblock; i++) {
      const int digit = (y[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
      x[i] = static_cast<float>(digit - 1) * scale;
    }
  });
}

}  // namespace lowbit::scalar
