#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

// The block types of GGUF files that lowbit reads and writes. The numbers are the raw surface between lib/addon.ts and
// native/node.
enum class BlockType : std::uint8_t {
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kQ8_K,
  kIQ4_NL,
  kIQ4_XS,
  kTQ1_0,
  kTQ2_0,
  kMXFP4,
  kNVFP4,
};
constexpr std::size_t kBlockTypes = 17;

// What one block is: so many elements in so many bytes. Its float16 scales, if it has any, lie next to each other.
struct BlockFormat {
  std::uint16_t length, bytes;
  std::uint16_t scales_at, scales;
  bool takes_importance;
};

constexpr BlockFormat kBlockFormats[kBlockTypes] = {
    {32, 18, 0, 1, true},      // q4_0: scale, 16 bytes of codes (element j in the low, j + 16 in the high half)
    {32, 20, 0, 2, true},      // q4_1: scale, minimum, codes
    {32, 22, 0, 1, true},      // q5_0: scale, 32 fifth bits, codes
    {32, 24, 0, 2, true},      // q5_1: scale, minimum, fifth bits, codes
    {32, 34, 0, 1, false},     // q8_0: scale, int8 codes
    {256, 84, 80, 2, true},    // q2_k: 16 × (4-bit scale, 4-bit minimum), codes, scale, minimum
    {256, 110, 108, 1, true},  // q3_k: third bits, codes, 16 × 6-bit scale, scale
    {256, 144, 0, 2, true},    // q4_k: scale, minimum, 8 × (6-bit scale, 6-bit minimum), codes
    {256, 176, 0, 2, true},    // q5_k: scale, minimum, 8 × (6-bit scale, 6-bit minimum), fifth bits, codes
    {256, 210, 208, 1, true},  // q6_k: low four bits, high two bits, 16 × int8 scale, scale
    {256, 292, 0, 0, false},   // q8_k: float32 scale, int8 codes, sums of 16 codes
    {32, 18, 0, 1, true},      // iq4_nl: scale, 16 bytes of indices into kNonlinear
    {256, 136, 0, 1, true},    // iq4_xs: scale, 8 × 6-bit scale, indices
    {256, 54, 52, 1, false},   // tq1_0: five ternary digits a byte, scale
    {256, 66, 64, 1, false},   // tq2_0: four ternary digits a byte, scale
    {32, 17, 0, 0, false},     // mxfp4: power-of-two scale, E2M1 codes
    {64, 36, 0, 0, false},     // nvfp4: 4 × UE4M3 scale, E2M1 codes
};

constexpr const BlockFormat& format_of(BlockType type) { return kBlockFormats[static_cast<std::size_t>(type)]; }

// One block type. `in` and `out` must not overlap; inputs are finite.
struct BlockKernels {
  void (*quantize)(const float* in, std::size_t blocks, std::uint8_t* out);
  // The same with one weight for every element of these blocks, of which all lie in one row; `mean_square` is that of
  // the whole row (used by blocks of 32 elements except iq4_nl). Null for types that take no importance.
  void (*quantize_weighted)(const float* in, std::size_t blocks, const float* importance, float mean_square,
                            std::uint8_t* out);
  // Any bytes are accepted. `stream` asks for stores that go around the caches; it is a hint.
  void (*dequantize)(const std::uint8_t* in, std::size_t blocks, float* out, bool stream);
};

struct BlocksKernels {
  BlockKernels types[kBlockTypes];

  const BlockKernels& of(BlockType type) const { return types[static_cast<std::size_t>(type)]; }
};

namespace scalar {
extern const BlocksKernels kBlocks;
}
namespace avx2 {
extern const BlocksKernels kBlocks;
}
namespace avx512 {
extern const BlocksKernels kBlocks;
}
namespace neon {
extern const BlocksKernels kBlocks;
}

}  // namespace lowbit
