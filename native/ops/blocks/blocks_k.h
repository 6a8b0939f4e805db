#pragma once

// GGUF blocks: what the specification and the vector kernels share of superblocks. The searches of the groups and the
// codes are each one's own; the scales of a superblock's groups become codes here, and everything is packed here.

#include "ops/blocks/blocks_search.h"

namespace lowbit {
namespace {

constexpr std::size_t kMostGroups = 16;

// --- layouts ---

// Four 2-bit codes a byte: byte 32h + l holds elements 128h + 32n + l at bits 2n.
inline void store_two_bits(std::uint8_t* out, const std::uint8_t* codes) {
  for (std::size_t h = 0; h < 2; h++) {
    for (std::size_t l = 0; l < 32; l++) {
      const std::uint8_t* c = codes + 128 * h + l;
      out[32 * h + l] = static_cast<std::uint8_t>((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
    }
  }
}

// Two 4-bit codes a byte: byte 32c + l holds elements 64c + l and 64c + 32 + l.
inline void store_four_bits(std::uint8_t* out, const std::uint8_t* codes) {
  for (std::size_t c = 0; c < 4; c++) {
    for (std::size_t l = 0; l < 32; l++) {
      out[32 * c + l] = static_cast<std::uint8_t>((codes[64 * c + l] & 15) | (codes[64 * c + 32 + l] & 15) << 4);
    }
  }
}

// One more bit of each code: bit b of byte l is that of element 32b + l.
inline void store_one_bit(std::uint8_t* out, const std::uint8_t* codes, int bit) {
  for (std::size_t l = 0; l < 32; l++) {
    int byte = 0;
    for (std::size_t b = 0; b < 8; b++) byte |= ((codes[32 * b + l] >> bit) & 1) << b;
    out[l] = static_cast<std::uint8_t>(byte);
  }
}

// The code of element i.
LOWBIT_HOST_DEVICE inline int load_two_bits(const std::uint8_t* in, std::size_t i) {
  return (in[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
}
LOWBIT_HOST_DEVICE inline int load_four_bits(const std::uint8_t* in, std::size_t i) {
  const std::uint8_t byte = in[32 * (i / 64) + i % 32];
  return i % 64 < 32 ? byte & 15 : byte >> 4;
}
LOWBIT_HOST_DEVICE inline int load_one_bit(const std::uint8_t* in, std::size_t i) {
  return (in[i % 32] >> (i / 32)) & 1;
}
LOWBIT_HOST_DEVICE inline int load_q6_k(const std::uint8_t* y, std::size_t i) {
  const std::size_t h = i / 128, quarter = i % 128 / 32, l = i % 32;
  const std::uint8_t low = y[64 * h + 32 * (quarter % 2) + l];
  return (quarter < 2 ? low & 15 : low >> 4) | ((y[128 + 32 * h + l] >> (2 * quarter)) & 3) << 4;
}

// --- q2_k, q4_k, q5_k: groups with a scale and a minimum ---

struct LineScheme {
  std::size_t groups, group;
  int limit, scale_limit;
  Steps steps;
};
constexpr LineScheme kQ2 = {16, 16, 3, 15, {-0.5F, 0.1F, 15}};
constexpr LineScheme kQ4 = {8, 32, 15, 63, {-1.0F, 0.1F, 20}};
constexpr LineScheme kQ5 = {8, 32, 31, 63, {-0.5F, 0.1F, 15}};
constexpr Steps kWeightedSteps = {-0.9F, 0.05F, 36};

// What a superblock stores: its codes, those of its scales and minimums, and the float16 steps of these.
struct Lines {
  std::uint8_t codes[kSuperblock], scales[kMostGroups], minimums[kMostGroups];
  std::uint16_t scale, minimum;
};

// Without an importance the largest takes the limit. Returns what one step is.
inline float code_scales(const LineScheme& scheme, const float* values, std::uint8_t* codes) {
  float largest = 0.0F;
  for (std::size_t g = 0; g < scheme.groups; g++) largest = values[g] > largest ? values[g] : largest;
  const float limit = static_cast<float>(scheme.scale_limit), inverse = largest > 0.0F ? limit / largest : 0.0F;
  for (std::size_t g = 0; g < scheme.groups; g++) {
    codes[g] = static_cast<std::uint8_t>(clamp(nearest_int(inverse * values[g]), 0, scheme.scale_limit));
  }
  return largest / limit;
}
inline void code_line_scales(const LineScheme& scheme, const float* scales, const float* minimums, Lines& lines) {
  lines.scale = float16_of(code_scales(scheme, scales, lines.scales));
  lines.minimum = float16_of(code_scales(scheme, minimums, lines.minimums));
}

// With an importance they are searched as well; groups weigh what their elements weigh together.
inline void fit_line_scales(const LineScheme& scheme, const float* scales, const float* minimums,
                            const float* group_weights, Lines& lines) {
  lines.scale = float16_of(fit_scales(scheme.groups, scheme.scale_limit, scales, group_weights, lines.scales));
  lines.minimum = float16_of(fit_scales(scheme.groups, scheme.scale_limit, minimums, group_weights, lines.minimums));
}
inline float mean_square_of(const LineScheme& scheme, const float* x) {
  const float mean_square = sum_of_squares(x, kSuperblock) / static_cast<float>(kSuperblock);
  return scheme.limit == 3 ? mean_square : 2.0F * mean_square;
}

inline void store_q2_k(std::uint8_t* y, const Lines& lines) {
  for (std::size_t g = 0; g < 16; g++) y[g] = static_cast<std::uint8_t>(lines.scales[g] | lines.minimums[g] << 4);
  store_two_bits(y + 16, lines.codes);
  store_u16(y + 80, lines.scale);
  store_u16(y + 82, lines.minimum);
}

inline void store_head_of_q4_k(std::uint8_t* y, const Lines& lines) {
  store_u16(y, lines.scale);
  store_u16(y + 2, lines.minimum);
  for (std::size_t i = 0; i < 4; i++) {
    const int scale = lines.scales[i + 4], minimum = lines.minimums[i + 4];
    y[4 + i] = static_cast<std::uint8_t>(lines.scales[i] | (scale >> 4) << 6);
    y[8 + i] = static_cast<std::uint8_t>(lines.minimums[i] | (minimum >> 4) << 6);
    y[12 + i] = static_cast<std::uint8_t>((scale & 15) | (minimum & 15) << 4);
  }
}
inline void store_q4_k(std::uint8_t* y, const Lines& lines) {
  store_head_of_q4_k(y, lines);
  store_four_bits(y + 16, lines.codes);
}
inline void store_q5_k(std::uint8_t* y, const Lines& lines) {
  store_head_of_q4_k(y, lines);
  store_one_bit(y + 16, lines.codes, 4);
  store_four_bits(y + 48, lines.codes);
}

// --- q3_k, q6_k: groups with a scale alone ---

constexpr std::size_t kGroups = 16, kGroup = 16;

struct Scales {
  std::uint8_t codes[kSuperblock];
  int scales[kGroups];
  std::uint16_t scale;
};

inline void code_q3_k_scales(const float* found, Scales& s) {
  const float extreme = extreme_of(found, kGroups);
  if (extreme == 0.0F) {
    // The reference stores codes of 0 here, which stand for −32.
    for (int& scale : s.scales) scale = -32;
    s.scale = 0;
    return;
  }
  const float inverse = -32.0F / extreme;
  for (std::size_t g = 0; g < kGroups; g++) s.scales[g] = clamp(nearest_int(inverse * found[g]), -32, 31);
  s.scale = float16_of(1.0F / inverse);
}

inline void fit_q3_k_scales(const float* found, const float* group_weights, Scales& s) {
  std::uint8_t codes[kGroups];
  s.scale = float16_of(fit_symmetric(kGroups, 32, found, group_weights, codes));
  for (std::size_t g = 0; g < kGroups; g++) s.scales[g] = codes[g] - 32;
}

inline void store_q3_k(std::uint8_t* y, const Scales& s) {
  store_one_bit(y, s.codes, 2);
  store_two_bits(y + 32, s.codes);
  std::uint8_t* packed = y + 96;
  std::memset(packed, 0, 12);
  for (std::size_t g = 0; g < kGroups; g++) {
    const int code = s.scales[g] + 32;
    packed[g % 8] = static_cast<std::uint8_t>(packed[g % 8] | (code & 15) << (g < 8 ? 0 : 4));
    packed[8 + g % 4] = static_cast<std::uint8_t>(packed[8 + g % 4] | (code >> 4) << (2 * (g / 4)));
  }
  store_u16(y + 108, s.scale);
}

// False if all groups are next to zero: then all bytes of the block are.
inline bool code_q6_k_scales(const float* found, Scales& s) {
  const float extreme = extreme_of(found, kGroups);
  if (std::fabs(extreme) < kNothing) return false;
  const float inverse = -128.0F / extreme;
  for (std::size_t g = 0; g < kGroups; g++) s.scales[g] = clamp(nearest_int(inverse * found[g]), -128, 127);
  s.scale = float16_of(1.0F / inverse);
  return true;
}

inline void store_q6_k(std::uint8_t* y, const Scales& s) {
  for (std::size_t h = 0; h < 2; h++) {
    for (std::size_t l = 0; l < 32; l++) {
      const std::uint8_t* c = s.codes + 128 * h + l;
      y[64 * h + l] = static_cast<std::uint8_t>((c[0] & 15) | (c[64] & 15) << 4);
      y[64 * h + 32 + l] = static_cast<std::uint8_t>((c[32] & 15) | (c[96] & 15) << 4);
      y[128 + 32 * h + l] =
          static_cast<std::uint8_t>(c[0] >> 4 | (c[32] >> 4) << 2 | (c[64] >> 4) << 4 | (c[96] >> 4) << 6);
    }
  }
  for (std::size_t g = 0; g < kGroups; g++) y[192 + g] = static_cast<std::uint8_t>(s.scales[g]);
  store_u16(y + 208, s.scale);
}

}  // namespace
}  // namespace lowbit
