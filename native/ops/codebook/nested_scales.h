#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

// bitsandbytes' signed dynamic map of 8 bits: 256 values in ascending order, of seven decades with 1, 2, 4 … 64 steps
// and both signs. Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861.
const float* dynamic_map();

// Scales that are quantized themselves share an absmax in blocks of so many.
constexpr std::size_t kNestedBlock = 256;

// bitsandbytes' nested ("double") quantization: offset = mean(scales), in blocks absmax = max|scale − offset|, and
// codes of the dynamic map for (scale − offset) / absmax. Each scale becomes what its code stands for: map[code] ·
// absmax + offset. Returns the offset. Scalar only: there is one scale for dozens of elements.
float nest_scales(float* scales, std::size_t count, std::uint8_t* codes, float* absmax);

}  // namespace lowbit
