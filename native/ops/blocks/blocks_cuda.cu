// GGUF blocks. Going back, a thread takes four consecutive elements, whose codes are bits at one place of four bytes.
// Going there, eight lanes share a block of 32 elements, or a warp a superblock, and blocks are put together in shared
// memory, because most are no whole number of words.

#include "core/tiles.h"
#include "cuda/stream.cuh"
#include "ops/blocks/blocks_cuda.h"
#include "ops/blocks/blocks_fp4.h"

namespace lowbit {
namespace {

constexpr unsigned kThreads = 256;

// --- loads ---

// `Bytes` of them, of which the address is a multiple of Alignment.
template <int Alignment>
__device__ inline unsigned load_two(const std::uint8_t* in) {
  if constexpr (Alignment >= 2) {
    return __ldg(reinterpret_cast<const std::uint16_t*>(in));
  } else {
    return __ldg(in) | static_cast<unsigned>(__ldg(in + 1)) << 8;
  }
}
template <int Alignment>
__device__ inline unsigned load_four(const std::uint8_t* in) {
  if constexpr (Alignment >= 4) {
    return __ldg(reinterpret_cast<const unsigned*>(in));
  } else {
    return load_two<Alignment>(in) | load_two<Alignment>(in + 2) << 16;
  }
}

__device__ inline float half_float(unsigned half) { return float_of_float16(static_cast<std::uint16_t>(half)); }

// Entry `code` of a table of sixteen bytes.
struct ByteTable {
  std::uint64_t low, high;

  static constexpr ByteTable of(const std::int8_t (&values)[16]) {
    ByteTable table{};
    for (int i = 0; i < 8; i++) {
      table.low |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(values[i])) << (8 * i);
      table.high |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(values[i + 8])) << (8 * i);
    }
    return table;
  }
  __device__ float at(unsigned code) const {
    const std::uint64_t half = (code & 8U) != 0 ? high : low;
    return static_cast<float>(static_cast<std::int8_t>(half >> (8 * (code & 7U))));
  }
};

// --- four elements of a block ---

constexpr unsigned alignment_of(BlockType type) {
  const unsigned bytes = format_of(type).bytes;
  return bytes % 4 == 0 ? 4 : bytes % 2 == 0 ? 2 : 1;
}

// Codes of `Bits` bits at bit `at` of four bytes.
template <int Bits, typename Body>
__device__ inline float4 each_code(unsigned four, unsigned at, const Body& body) {
  constexpr unsigned kMask = (1U << Bits) - 1;
  four >>= at;
  return make_float4(body(four & kMask, 0), body((four >> 8) & kMask, 1), body((four >> 16) & kMask, 2),
                     body((four >> 24) & kMask, 3));
}

template <BlockType Type>
__device__ float4 decode_four(const std::uint8_t* y, unsigned i) {
  constexpr int kAlignment = static_cast<int>(alignment_of(Type));
  const auto four = [&](unsigned at) { return load_four<kAlignment>(y + at); };
  const auto half = [&](unsigned at) { return half_float(load_two < kAlignment<2 ? 1 : 2>(y + at)); };
  const auto number = [](unsigned code) { return static_cast<float>(static_cast<int>(code)); };
  const unsigned in_half = i % 16, nibble = i % 32 < 16 ? 0 : 4;  // of blocks of 32
  if constexpr (Type == BlockType::kQ4_0) {
    const float scale = half(0);
    return each_code<4>(four(2 + in_half), nibble, [=](unsigned c, int) { return (number(c) - 8.0F) * scale; });
  } else if constexpr (Type == BlockType::kQ4_1) {
    const float scale = half(0), minimum = half(2);
    return each_code<4>(four(4 + in_half), nibble, [=](unsigned c, int) { return number(c) * scale + minimum; });
  } else if constexpr (Type == BlockType::kQ5_0 || Type == BlockType::kQ5_1) {
    constexpr unsigned kFifths = Type == BlockType::kQ5_0 ? 2 : 4;
    const unsigned fifths = four(kFifths) >> i;
    const float scale = half(0), minimum = Type == BlockType::kQ5_1 ? half(2) : 0.0F;
    return each_code<4>(four(kFifths + 4 + in_half), nibble, [=](unsigned c, int j) {
      const float code = number(c | (fifths >> j & 1U) << 4);
      return Type == BlockType::kQ5_1 ? code * scale + minimum : (code - 16.0F) * scale;
    });
  } else if constexpr (Type == BlockType::kQ8_0) {
    const float scale = half(0);
    return each_code<8>(four(2 + i), 0,
                        [=](unsigned c, int) { return static_cast<float>(static_cast<std::int8_t>(c)) * scale; });
  } else if constexpr (Type == BlockType::kQ2_K) {
    const unsigned group = __ldg(y + i / 16);
    const float step = half(80) * number(group & 15U), offset = half(82) * number(group >> 4);
    return each_code<2>(four(16 + 32 * (i / 128) + i % 32), 2 * (i % 128 / 32),
                        [=](unsigned c, int) { return step * number(c) - offset; });
  } else if constexpr (Type == BlockType::kQ3_K) {
    const float step = half(108) * static_cast<float>(load_q3_k_scale(y + 96, i / 16));
    const unsigned thirds = four(i % 32) >> (i / 32);
    return each_code<2>(four(32 + 32 * (i / 128) + i % 32), 2 * (i % 128 / 32),
                        [=](unsigned c, int j) { return step * (number(c + 4 * (thirds >> (8 * j) & 1U)) - 4.0F); });
  } else if constexpr (Type == BlockType::kQ4_K || Type == BlockType::kQ5_K) {
    const ScaleAndMinimum group = load_six_bits(y + 4, i / 32);
    const float step = half(0) * static_cast<float>(group.scale);
    const float offset = half(2) * static_cast<float>(group.minimum);
    const unsigned nibbles = (Type == BlockType::kQ5_K ? 48 : 16) + 32 * (i / 64) + i % 32;
    const unsigned fifths = Type == BlockType::kQ5_K ? four(16 + i % 32) >> (i / 32) : 0;
    return each_code<4>(four(nibbles), i % 64 < 32 ? 0 : 4,
                        [=](unsigned c, int j) { return step * number(c | (fifths >> (8 * j) & 1U) << 4) - offset; });
  } else if constexpr (Type == BlockType::kQ6_K) {
    const unsigned part = i / 128, quarter = i % 128 / 32, l = i % 32;
    const float step = half(208) * static_cast<float>(static_cast<std::int8_t>(__ldg(y + 192 + i / 16)));
    const unsigned tops = four(128 + 32 * part + l) >> (2 * quarter);
    return each_code<4>(four(64 * part + 32 * (quarter % 2) + l), quarter < 2 ? 0 : 4,
                        [=](unsigned c, int j) { return step * (number(c | (tops >> (8 * j) & 3U) << 4) - 32.0F); });
  } else if constexpr (Type == BlockType::kQ8_K) {
    const float scale = __uint_as_float(four(0));
    return each_code<8>(four(4 + i), 0,
                        [=](unsigned c, int) { return scale * static_cast<float>(static_cast<std::int8_t>(c)); });
  } else if constexpr (Type == BlockType::kIQ4_NL || Type == BlockType::kIQ4_XS) {
    constexpr ByteTable kLevels = ByteTable::of(kNonlinear);
    float scale = half(0);
    unsigned at = 2 + in_half;
    if constexpr (Type == BlockType::kIQ4_XS) {
      const unsigned g = i / 32, low = __ldg(y + 4 + g / 2) >> (4 * (g % 2)) & 15U;
      const unsigned high = load_two<2>(y + 2) >> (2 * g) & 3U;
      scale = scale * static_cast<float>(static_cast<int>(low | high << 4) - 32);
      at = 8 + 16 * g + in_half;
    }
    return each_code<4>(four(at), nibble, [=](unsigned c, int) { return kLevels.at(c) * scale; });
  } else if constexpr (Type == BlockType::kTQ1_0) {
    const float scale = half(52);
    unsigned byte, digit;
    if (i < 160) {
      byte = i % 32, digit = i / 32;
    } else if (i < 240) {
      byte = 32 + (i - 160) % 16, digit = (i - 160) / 16;
    } else {
      byte = 48, digit = (i - 240) / 4;
    }
    // The digit's place: multiplication by 3ⁿ modulo 256.
    const unsigned power = digit == 0 ? 1 : digit == 1 ? 3 : digit == 2 ? 9 : digit == 3 ? 27 : 81;
    return each_code<8>(four(byte), 0,
                        [=](unsigned c, int) { return (number(((c * power & 0xffU) * 3) >> 8) - 1.0F) * scale; });
  } else if constexpr (Type == BlockType::kTQ2_0) {
    const float scale = half(64);
    return each_code<2>(four(32 * (i / 128) + i % 32), 2 * (i % 128 / 32),
                        [=](unsigned c, int) { return (number(c) - 1.0F) * scale; });
  } else {
    constexpr ByteTable kValues = ByteTable::of(kTwiceE2M1);
    if constexpr (Type == BlockType::kMXFP4) {
      const float scale = half_e8m0(__ldg(y));
      return each_code<4>(four(1 + in_half), nibble, [=](unsigned c, int) { return kValues.at(c) * scale; });
    } else {
      static_assert(Type == BlockType::kNVFP4, "a block type without a decoder");
      const unsigned s = i / 16;
      const float scale = half_ue4m3(__ldg(y + s));
      return each_code<4>(four(4 + 8 * s + i % 8), i % 16 < 8 ? 0 : 4,
                          [=](unsigned c, int) { return kValues.at(c) * scale; });
    }
  }
}

template <BlockType Type>
__global__ void __launch_bounds__(kThreads) dequantize_fours(const std::uint8_t* in, std::size_t fours, float4* out) {
  constexpr BlockFormat kFormat = format_of(Type);
  constexpr unsigned kFours = kFormat.length / 4;
  const std::size_t stride = grid_threads();
  const auto decode = [&](std::size_t f) {
    return decode_four<Type>(in + f / kFours * kFormat.bytes, static_cast<unsigned>(f % kFours) * 4);
  };
  for (std::size_t f = grid_thread(); f < fours; f += 2 * stride) {
    const std::size_t g = f + stride < fours ? f + stride : f;  // twice the same does no harm
    const float4 first = decode(f), second = decode(g);
    out[f] = first;
    out[g] = second;
  }
}

// Calls body(std::integral_constant<BlockType, …>).
template <typename Body>
CudaStatus with_block_type(BlockType type, const Body& body) {
  switch (type) {
#define LOWBIT_CASE(name) \
  case BlockType::name:   \
    return body(std::integral_constant<BlockType, BlockType::name>{});
    LOWBIT_CASE(kQ4_0)
    LOWBIT_CASE(kQ4_1)
    LOWBIT_CASE(kQ5_0)
    LOWBIT_CASE(kQ5_1)
    LOWBIT_CASE(kQ8_0)
    LOWBIT_CASE(kQ2_K)
    LOWBIT_CASE(kQ3_K)
    LOWBIT_CASE(kQ4_K)
    LOWBIT_CASE(kQ5_K)
    LOWBIT_CASE(kQ6_K)
    LOWBIT_CASE(kQ8_K)
    LOWBIT_CASE(kIQ4_NL)
    LOWBIT_CASE(kIQ4_XS)
    LOWBIT_CASE(kTQ1_0)
    LOWBIT_CASE(kTQ2_0)
    LOWBIT_CASE(kMXFP4)
    LOWBIT_CASE(kNVFP4)
#undef LOWBIT_CASE
  }
  return CudaStatus::kUnsupported;
}

bool is_aligned(const void* floats, const void* blocks) {
  return reinterpret_cast<std::uintptr_t>(floats) % 16 == 0 && reinterpret_cast<std::uintptr_t>(blocks) % 4 == 0;
}

CudaStatus dequantize(CudaStream* stream, const std::uint8_t* in, BlockType type, std::size_t blocks, float* out) {
  if (!is_aligned(out, in)) return CudaStatus::kUnsupported;
  const std::size_t fours = blocks * (format_of(type).length / 4U);
  const unsigned grid = many_blocks_for(*stream, ceil_div(fours, 2), kThreads);
  return with_block_type(type, [&](auto constant) {
    return launch(*stream, dequantize_fours<decltype(constant)::value>, dim3(grid), kThreads, 0, in, fours,
                  reinterpret_cast<float4*>(out));
  });
}

// --- quantization ---

// As on the processor: no type comes near this whose scales are float16 or E4M3.
constexpr float kMost = 0x1p30F;

// What the elements of a block have in common, between `Lanes` neighbouring lanes of `Count` elements each, in order.
template <int Lanes, int Count>
struct Shared {
  // The first element of the block that `matches`, or +0. All lanes take part.
  template <typename Matches>
  __device__ static float first(const float (&x)[Count], const Matches& matches) {
    float found = 0.0F;
    bool any = false;
#pragma unroll
    for (int i = Count - 1; i >= 0; i--) {
      if (!matches(x[i])) continue;
      found = x[i];
      any = true;
    }
    const unsigned lane = threadIdx.x % kWarp, begin = lane & ~static_cast<unsigned>(Lanes - 1);
    unsigned having = __ballot_sync(kAllLanes, any ? 1 : 0) >> begin;
    if constexpr (Lanes < 32) having &= (1U << Lanes) - 1;
    const unsigned from = having == 0 ? lane : begin + static_cast<unsigned>(__ffs(static_cast<int>(having))) - 1;
    return __shfl_sync(kAllLanes, found, from);
  }
  template <typename Combine>
  __device__ static float reduce(float value, const Combine& combine) {
#pragma unroll
    for (unsigned step = Lanes / 2; step != 0; step /= 2) {
      value = combine(value, __shfl_xor_sync(kAllLanes, value, step));
    }
    return value;
  }
  __device__ static float largest_magnitude(const float (&x)[Count]) {
    float largest = 0.0F;
#pragma unroll
    for (int i = 0; i < Count; i++) largest = fmaxf(largest, fabsf(x[i]));
    return reduce(largest, [](float a, float b) { return fmaxf(a, b); });
  }
  // extreme_of()
  __device__ static float extreme(const float (&x)[Count]) {
    const float largest = largest_magnitude(x);
    return first(x, [=](float v) { return fabsf(v) == largest && largest > 0.0F; });
  }
};

struct Report {
  CudaFinding* finding;
  bool bounded;

  // The element, or 0 if no block can hold it.
  __device__ float checked(float x, std::size_t element, std::size_t length) const {
    if (fabsf(x) < kMost) return x;
    if (!is_finite(x)) {
      note(finding, Status::kNonFinite, element);
      return 0.0F;
    }
    if (!bounded) return x;
    note_later(finding, Status::kScaleOverflow, element / length);
    return 0.0F;
  }
  __device__ void check_half(std::uint16_t half, std::size_t block) const {
    if ((half & 0x7c00U) == 0x7c00U) note_later(finding, Status::kScaleOverflow, block);
  }
};

__device__ inline void store_half_of(std::uint8_t* out, float value, const Report& report, std::size_t block) {
  const std::uint16_t half = float16_of(value);
  store_u16(out, half);
  report.check_half(half, block);
}

// Four codes of a lane as bytes.
__device__ inline unsigned four_bytes(const unsigned (&codes)[4]) {
  return codes[0] | codes[1] << 8 | codes[2] << 16 | codes[3] << 24;
}
__device__ inline void store_four(std::uint8_t* out, unsigned four) {
#pragma unroll
  for (int i = 0; i < 4; i++) out[i] = static_cast<std::uint8_t>(four >> (8 * i));
}

// The first code of E2M1 that is nearest, that is of the smaller magnitude in the middle between two: the differences
// that decide are exact.
__device__ inline unsigned e2m1_code(float x, float half_scale) {
  const float magnitude = fabsf(x);
  unsigned code = 0;
  constexpr float kMiddles[7] = {0.5F, 1.5F, 2.5F, 3.5F, 5.0F, 7.0F, 10.0F};
#pragma unroll
  for (int i = 0; i < 7; i++) code += magnitude > kMiddles[i] * half_scale ? 1U : 0U;
  if (code == 0 || half_scale == 0.0F) return 0;
  return x < 0.0F ? code | 8U : code;
}

// One lane's part of a block of 32 (NVFP4: of sixteen), elements i … i + 3 of it, written to y. All lanes take part.
template <BlockType Type>
__device__ void encode_four(const float (&x)[4], unsigned i, std::uint8_t* y, const Report& report, std::size_t block) {
  unsigned codes[4];
  const bool is_head = i == 0;
  // Nibbles: the second half of the block goes into the high ones.
  const auto store_nibbles = [&](std::uint8_t* out, unsigned lanes) {
    const unsigned own = four_bytes(codes) & 0x0f0f0f0fU;
    const unsigned other = __shfl_xor_sync(kAllLanes, own, lanes / 2);
    const unsigned at = i % (4 * lanes);
    if (at < 2 * lanes) store_four(out + at, own | other << 4);
  };
  const auto store_fifths = [&](std::uint8_t* out) {
    unsigned bits = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) bits |= (codes[j] >> 4) << j;
    const unsigned other = __shfl_xor_sync(kAllLanes, bits, 1);
    if (i % 8 == 0) out[i / 8] = static_cast<std::uint8_t>(bits | other << 4);
  };
  using Eight = Shared<8, 4>;
  if constexpr (Type == BlockType::kQ4_0 || Type == BlockType::kQ5_0) {
    constexpr int kZero = Type == BlockType::kQ4_0 ? 8 : 16;
    const float scale = Eight::extreme(x) / static_cast<float>(-kZero), inverse = inverse_of(scale);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      codes[j] = cut_off(x[j] * inverse + (static_cast<float>(kZero) + 0.5F), 2 * kZero - 1);
    }
    if (is_head) store_half_of(y, scale, report, block);
    if constexpr (Type == BlockType::kQ5_0) store_fifths(y + 2);
    store_nibbles(y + (Type == BlockType::kQ5_0 ? 6 : 2), 8);
  } else if constexpr (Type == BlockType::kQ4_1 || Type == BlockType::kQ5_1) {
    constexpr int kHighest = Type == BlockType::kQ4_1 ? 15 : 31;
    const auto least = [](float a, float b) { return fminf(a, b); };
    const auto most = [](float a, float b) { return fmaxf(a, b); };
    const float low = Eight::reduce(fminf(fminf(x[0], x[1]), fminf(x[2], x[3])), least);
    const float high = Eight::reduce(fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])), most);
    const float minimum = Eight::first(x, [=](float v) { return v == low; });  // with the sign of its zero
    const float range = high == low ? 0.0F : high - minimum;
    const float scale = range / static_cast<float>(kHighest), inverse = inverse_of(scale);
#pragma unroll
    for (int j = 0; j < 4; j++) codes[j] = cut_off((x[j] - minimum) * inverse + 0.5F, kHighest);
    if (is_head) {
      store_half_of(y, scale, report, block);
      store_half_of(y + 2, minimum, report, block);
    }
    if constexpr (Type == BlockType::kQ5_1) store_fifths(y + 4);
    store_nibbles(y + (Type == BlockType::kQ5_1 ? 8 : 4), 8);
  } else if constexpr (Type == BlockType::kQ8_0) {
    const float scale = Eight::largest_magnitude(x) / 127.0F, inverse = inverse_of(scale);
    if (is_head) store_half_of(y, scale, report, block);
#pragma unroll
    for (int j = 0; j < 4; j++) codes[j] = static_cast<std::uint8_t>(round_half_away(x[j] * inverse));
    store_four(y + 2 + i, four_bytes(codes));
  } else if constexpr (Type == BlockType::kMXFP4) {
    const std::uint8_t scale = e8m0_for(Eight::largest_magnitude(x));
    if (is_head) y[0] = scale;
#pragma unroll
    for (int j = 0; j < 4; j++) codes[j] = e2m1_code(x[j], half_e8m0(scale));
    store_nibbles(y + 1, 8);
  } else {
    static_assert(Type == BlockType::kNVFP4, "a block type without an encoder");
    const std::uint8_t scale = ue4m3_of(Shared<4, 4>::largest_magnitude(x) / 6.0F);
    if (i % 16 == 0) y[i / 16] = scale;
#pragma unroll
    for (int j = 0; j < 4; j++) codes[j] = e2m1_code(x[j], half_ue4m3(scale));
    store_nibbles(y + 4 + 8 * (i / 16), 4);
  }
}

// Each block of threads writes whole blocks of together so many elements.
constexpr unsigned kChunk = kThreads * 4, kMostChunkBytes = kChunk / 32 * 34;

template <BlockType Type>
__global__ void __launch_bounds__(kThreads)
    quantize_fours(const float4* in, std::size_t blocks, std::uint8_t* out, Report report) {
  constexpr BlockFormat kFormat = format_of(Type);
  constexpr unsigned kChunkBlocks = kChunk / kFormat.length;
  static_assert(kChunkBlocks * kFormat.bytes <= kMostChunkBytes && kChunkBlocks * kFormat.bytes % 4 == 0, "chunk");
  __shared__ unsigned words[kMostChunkBytes / 4];
  auto* const bytes = reinterpret_cast<std::uint8_t*>(words);
  const unsigned i = threadIdx.x * 4 % kFormat.length, within = threadIdx.x * 4 / kFormat.length;
  for (std::size_t first = blockIdx.x * kChunkBlocks; first < blocks; first += gridDim.x * kChunkBlocks) {
    const std::size_t block = first + within, element = first * kFormat.length + threadIdx.x * 4;
    float x[4] = {0.0F, 0.0F, 0.0F, 0.0F};
    if (block < blocks) {
      const float4 four = __ldg(in + element / 4);
      x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
#pragma unroll
      for (unsigned j = 0; j < 4; j++) x[j] = report.checked(x[j], element + j, kFormat.length);
    }
    encode_four<Type>(x, i, bytes + within * kFormat.bytes, report, block);
    __syncthreads();
    const std::size_t left = blocks - first;
    const unsigned count = static_cast<unsigned>(left < kChunkBlocks ? left : kChunkBlocks) * kFormat.bytes;
    std::uint8_t* const to = out + first * kFormat.bytes;
    for (unsigned w = threadIdx.x; w < count / 4; w += kThreads) reinterpret_cast<unsigned*>(to)[w] = words[w];
    const unsigned rest = count / 4 * 4 + threadIdx.x;
    if (rest < count) to[rest] = bytes[rest];
    __syncthreads();
  }
}

// --- superblocks, a warp each ---

using WholeWarp = Shared<32, 8>;

__device__ inline void encode_q8_k(const float* in, std::uint8_t* y, const Report& report, std::size_t element) {
  const unsigned lane = threadIdx.x % kWarp;
  const auto* fours = reinterpret_cast<const float4*>(in) + 2 * lane;
  const float4 a = __ldg(fours), b = __ldg(fours + 1);
  float x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
  for (unsigned j = 0; j < 8; j++) x[j] = report.checked(x[j], element + 8 * lane + j, kSuperblock);
  const float inverse = -127.0F / WholeWarp::extreme(x);
  const bool any = is_finite(inverse);  // else all bytes are zero
  unsigned words[2] = {0, 0};
  int sum = 0;
#pragma unroll
  for (unsigned j = 0; j < 8; j++) {
    const int code = any ? clamp(nearest_int(inverse * x[j]), -127, 127) : 0;
    words[j / 4] |= (static_cast<unsigned>(code) & 0xffU) << (8 * (j % 4));
    sum += code;
  }
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  auto* const out = reinterpret_cast<unsigned*>(y);
  out[1 + 2 * lane] = words[0];
  out[2 + 2 * lane] = words[1];
  if (lane % 2 == 0) store_u16(y + 260 + lane, static_cast<std::uint16_t>(sum));
  if (lane == 0) out[0] = __float_as_uint(any ? 1.0F / inverse : 0.0F);
}

// The elements of one byte of ternary digits: element + n · step for n < digits.
struct DigitRun {
  unsigned byte, element, step, digits;
};

// TQ1_0 has three runs, TQ2_0 two.
template <BlockType Type>
__device__ inline void encode_ternary(const float* in, std::uint8_t* y, const Report& report, std::size_t element,
                                      std::size_t block) {
  constexpr bool kFive = Type == BlockType::kTQ1_0;
  constexpr int kRuns = kFive ? 3 : 2;
  const unsigned lane = threadIdx.x % kWarp;
  float x[kRuns][5];
  DigitRun runs[kRuns];
  float largest = 0.0F;
#pragma unroll
  for (int r = 0; r < kRuns; r++) {
    if (!kFive) {
      runs[r] = {32U * static_cast<unsigned>(r) + lane, 128U * static_cast<unsigned>(r) + lane, 32, 4};
    } else if (r == 0) {
      runs[r] = {lane, lane, 32, 5};
    } else if (r == 1) {
      runs[r] = {32 + lane, 160 + lane, 16, lane < 16 ? 5U : 0U};
    } else {
      runs[r] = {48 + lane, 240 + lane, 4, lane < 4 ? 4U : 0U};
    }
#pragma unroll
    for (unsigned n = 0; n < 5; n++) {
      x[r][n] = 0.0F;
      if (n >= runs[r].digits) continue;
      const unsigned at = runs[r].element + n * runs[r].step;
      x[r][n] = report.checked(__ldg(in + at), element + at, kSuperblock);
      largest = fmaxf(largest, fabsf(x[r][n]));
    }
  }
  const float scale = warp_reduce(largest, [](float a, float b) { return fmaxf(a, b); });
  const float inverse = inverse_of(scale);
#pragma unroll
  for (int r = 0; r < kRuns; r++) {
    if (runs[r].digits == 0) continue;
    int value = 0;
#pragma unroll
    for (unsigned n = 0; n < 5; n++) {
      const int digit = n < runs[r].digits ? round_half_away(x[r][n] * inverse) + 1 : 0;
      if (kFive) {
        value = value * 3 + digit;
      } else {
        value |= digit << (2 * n);
      }
    }
    y[runs[r].byte] = static_cast<std::uint8_t>(kFive ? (value * 256 + 242) / 243 : value);
  }
  if (lane == 0) store_half_of(y + (kFive ? 52 : 64), scale, report, block);
}

template <BlockType Type>
__global__ void __launch_bounds__(kThreads)
    quantize_superblocks(const float* in, std::size_t blocks, std::uint8_t* out, Report report) {
  for (std::size_t block = grid_thread() / kWarp; block < blocks; block += grid_threads() / kWarp) {
    const std::size_t element = block * kSuperblock;
    std::uint8_t* const y = out + block * format_of(Type).bytes;
    if constexpr (Type == BlockType::kQ8_K) {
      encode_q8_k(in + element, y, report, element);
    } else {
      encode_ternary<Type>(in + element, y, report, element, block);
    }
  }
}

CudaStatus quantize(CudaStream* stream, const float* in, BlockType type, std::size_t rows, std::size_t columns,
                    const float* importance, std::uint8_t* out) {
  const BlockFormat& format = format_of(type);
  if ((importance != nullptr && format.takes_importance) || !is_aligned(in, out)) return CudaStatus::kUnsupported;
  const std::size_t blocks = rows * (columns / format.length);
  const Report report = {stream->finding, type != BlockType::kQ8_K && type != BlockType::kMXFP4};
  const auto fours = [&](auto constant) {
    const std::size_t chunks = ceil_div(blocks, kChunk / format.length);
    return launch(*stream, quantize_fours<decltype(constant)::value>, dim3(many_blocks_for(*stream, chunks, 1)),
                  kThreads, 0, reinterpret_cast<const float4*>(in), blocks, out, report);
  };
  const auto superblocks = [&](auto constant) {
    return launch(*stream, quantize_superblocks<decltype(constant)::value>,
                  dim3(many_blocks_for(*stream, blocks * kWarp, kThreads)), kThreads, 0, in, blocks, out, report);
  };
  return with_block_type(type, [&](auto constant) {
    constexpr BlockType kType = decltype(constant)::value;
    if constexpr (kType == BlockType::kQ8_K || kType == BlockType::kTQ1_0 || kType == BlockType::kTQ2_0) {
      return superblocks(constant);
    } else if constexpr (kType <= BlockType::kQ8_0 || kType == BlockType::kMXFP4 || kType == BlockType::kNVFP4) {
      return fours(constant);
    } else {
      return CudaStatus::kUnsupported;
    }
  });
}

}  // namespace

const BlocksCuda kBlocksCuda = {quantize, dequantize};

}  // namespace lowbit
