// GGUF blocks, the specification: 4-bit floats (E2M1: 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives).
//
// mxfp4: 32 elements, scale 2^(e − 127) (E8M0), byte j holds elements j and j + 16. The scale puts the block's largest
//   magnitude into [4, 8) times it; what lies above 6 becomes 6.
// nvfp4: four times 16 elements, each with a scale (E4M3 without sign) that maps the largest magnitude to 6; byte j of
// a
//   sub-block's eight holds its elements j and j + 8.
//
// A code is the first of the sixteen that is nearest, so ties go to the smaller magnitude and −0 never occurs. (OCP
// rounds them to even: this is ggml's own rule.)

#include "ops/blocks/blocks_each.h"
#include "ops/blocks/blocks_fp4.h"
#include "ops/blocks/blocks_scalar.h"

namespace lowbit::scalar {
namespace {

// `count` elements, the second half of which goes into the high halves of the bytes.
void code_e2m1(const float* x, std::size_t count, float half_scale, std::uint8_t* out) {
  for (std::size_t j = 0; j < count / 2; j++) {
    out[j] =
        static_cast<std::uint8_t>(nearest_e2m1(x[j], half_scale) | nearest_e2m1(x[j + count / 2], half_scale) << 4);
  }
}

void decode_e2m1(const std::uint8_t* in, std::size_t count, float half_scale, float* x) {
  for (std::size_t j = 0; j < count / 2; j++) {
    x[j] = static_cast<float>(kTwiceE2M1[in[j] & 15]) * half_scale;
    x[j + count / 2] = static_cast<float>(kTwiceE2M1[in[j] >> 4]) * half_scale;
  }
}

}  // namespace

void quantize_mxfp4(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kMXFP4>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    y[0] = e8m0_for(std::fabs(extreme_of(x, kBlock)));
    code_e2m1(x, kBlock, half_e8m0(y[0]), y + 1);
  });
}

void dequantize_mxfp4(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kMXFP4>(
      in, blocks, out, [](const std::uint8_t* y, float* x) { decode_e2m1(y + 1, kBlock, half_e8m0(y[0]), x); });
}

void quantize_nvfp4(const float* in, std::size_t blocks, std::uint8_t* out) {
  quantize_each<BlockType::kNVFP4>(in, blocks, out, [](const float* x, std::uint8_t* y) {
    for (std::size_t s = 0; s < 4; s++) {
      y[s] = ue4m3_of(std::fabs(extreme_of(x + 16 * s, 16)) / 6.0F);
      code_e2m1(x + 16 * s, 16, half_ue4m3(y[s]), y + 4 + 8 * s);
    }
  });
}

void dequantize_nvfp4(const std::uint8_t* in, std::size_t blocks, float* out, bool /*stream*/) {
  dequantize_each<BlockType::kNVFP4>(in, blocks, out, [](const std::uint8_t* y, float* x) {
    for (std::size_t s = 0; s < 4; s++) decode_e2m1(y + 4 + 8 * s, 16, half_ue4m3(y[s]), x + 16 * s);
  });
}

}  // namespace lowbit::scalar
