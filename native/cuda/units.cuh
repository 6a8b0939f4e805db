#pragma once

// Conversion kernels work on units of eight elements, which are whole bytes of every code type: how units lie in a
// tensor, how they come from memory and go there, and division.

#include "core/tiles.h"
#include "cuda/floats.cuh"
#include "cuda/stream.cuh"
#include "ops/affine/affine.h"

namespace lowbit {

constexpr unsigned kUnit = 8;

// --- places ---

// Division of numbers below 2^31 by one that is known before the launch: multiplication and shift. (Granlund and
// Montgomery, "Division by Invariant Integers using Multiplication", 1994.)
struct Divisor {
  unsigned divisor, multiplier, shift;

  static Divisor of(std::size_t d) {
    if (d >= std::size_t{1} << 31) return {0x80000000U, 0, 0};  // every quotient is 0
    Divisor result{static_cast<unsigned>(d), 0, 0};
    if (d == 1) return result;
    unsigned log2 = 0;
    while ((std::size_t{1} << log2) < d) log2++;
    result.multiplier = static_cast<unsigned>(((std::uint64_t{1} << (31 + log2)) + d - 1) / d);
    result.shift = log2 - 1;
    return result;
  }
  __device__ unsigned quotient(unsigned n) const {
    if (divisor == 1) return n;
    return static_cast<unsigned>(static_cast<std::uint64_t>(n) * multiplier >> 32) >> shift;
  }
};

// How the units of a tensor lie. In a dense one each follows the last; else every row starts with a new one, and its
// last may be shorter.
struct UnitGrid {
  std::size_t units;
  std::size_t columns, units_per_row, row_bytes;
  bool dense;
  bool uniform;  // dense, and all elements of a unit have the same parameters: unit_parameter() finds them
  AffineLayout layout;
  Divisor block_units, group_units, blocks_alike;
  unsigned groups_per_block;

  // `elements` are those that are loaded or stored as floats; `codes` the packed ones.
  static UnitGrid of(AffineLayout layout, CodeType code, const void* elements, const void* codes) {
    UnitGrid grid{};
    const std::size_t count = layout.element_count();
    if (count == 0) return grid;
    const auto aligned = [](const void* p, std::size_t bytes) {
      return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
    };
    grid.dense = layout.columns % kUnit == 0 && aligned(elements, 16) && aligned(codes, 8);
    if (layout.blocks_alike == 1 && layout.block_size % layout.group_size == 0) {
      layout.block_size *= layout.blocks;  // groups never notice where one block ends
      layout.blocks = 1;
    }
    grid.layout = layout;
    grid.columns = grid.dense ? count : layout.columns;
    grid.units_per_row = ceil_div(grid.columns, kUnit);
    grid.row_bytes = code.packed_bytes(grid.columns);
    grid.units = count / grid.columns * grid.units_per_row;
    grid.groups_per_block = static_cast<unsigned>(ceil_div(layout.block_size, layout.group_size));
    grid.uniform = grid.dense && grid.units < std::size_t{1} << 31 && layout.block_size % kUnit == 0 &&
                   (layout.group_size % kUnit == 0 || layout.group_size >= layout.block_size);
    if (grid.uniform) {
      grid.block_units = Divisor::of(layout.block_size / kUnit);
      grid.group_units = Divisor::of(ceil_div(layout.group_size, kUnit));
      grid.blocks_alike = Divisor::of(layout.blocks_alike);
    }
    return grid;
  }

  __device__ std::size_t unit_parameter(std::size_t unit) const {
    const unsigned u = static_cast<unsigned>(unit), block = block_units.quotient(u);
    const unsigned group = group_units.quotient(u - block * block_units.divisor);
    return std::size_t{blocks_alike.quotient(block)} * groups_per_block + group;
  }
};

struct Unit {
  std::size_t first;  // element
  std::size_t byte;   // of its codes
  unsigned count;
};

__device__ inline Unit unit_at(const UnitGrid& grid, unsigned bits, std::size_t unit) {
  if (grid.dense) return {unit * kUnit, unit * bits, kUnit};
  const std::size_t row = unit / grid.units_per_row, column = unit % grid.units_per_row * kUnit;
  const std::size_t left = grid.columns - column;
  return {row * grid.columns + column, row * grid.row_bytes + column / kUnit * bits,
          static_cast<unsigned>(left < kUnit ? left : kUnit)};
}

// The parameter set of an element, and of those after it.
class ParameterCursor {
 public:
  __device__ ParameterCursor(const AffineLayout& layout, unsigned groups_per_block, std::size_t element)
      : layout_(layout), groups_per_block_(groups_per_block), element_(element) {
    find();
  }
  __device__ std::size_t parameter() const { return parameter_; }
  __device__ void step() {
    element_++;
    if (--in_block_ == 0) {
      find();
    } else if (--in_group_ == 0) {
      parameter_++;
      in_group_ = layout_.group_size;
    }
  }

 private:
  __device__ void find() {
    const std::size_t block = element_ / layout_.block_size, inner = element_ % layout_.block_size;
    const std::size_t group = inner / layout_.group_size;
    parameter_ = block / layout_.blocks_alike * groups_per_block_ + group;
    in_block_ = layout_.block_size - inner;
    in_group_ = layout_.group_size - (inner - group * layout_.group_size);
  }

  const AffineLayout& layout_;
  unsigned groups_per_block_;
  std::size_t element_, parameter_, in_block_, in_group_;  // the latter two: elements left
};

// --- floats ---

// NaN is some NaN.
__device__ inline float2 float16_floats(unsigned pair) {
#if defined(__CUDA_ARCH__)
  return make_float2(__half2float(__ushort_as_half(static_cast<std::uint16_t>(pair))),
                     __half2float(__ushort_as_half(static_cast<std::uint16_t>(pair >> 16))));
#else
  return make_float2(float_of_float16(static_cast<std::uint16_t>(pair)),
                     float_of_float16(static_cast<std::uint16_t>(pair >> 16)));
#endif
}

// Aligned units that begin at these elements, all of them in flight before the first is used: hence one branch for all.
// NaN is some NaN.
template <int Units>
__device__ inline void load_units(const void* x, FloatType type, const std::size_t (&first)[Units],
                                  float (&v)[Units][kUnit]) {
  if (type == FloatType::kFloat32) {
    float4 halves[Units][2];
#pragma unroll
    for (int k = 0; k < Units; k++) {
      const float4* in = reinterpret_cast<const float4*>(static_cast<const float*>(x) + first[k]);
      halves[k][0] = __ldg(in);
      halves[k][1] = __ldg(in + 1);
    }
#pragma unroll
    for (int k = 0; k < Units; k++) {
      const float4 a = halves[k][0], b = halves[k][1];
      v[k][0] = a.x, v[k][1] = a.y, v[k][2] = a.z, v[k][3] = a.w;
      v[k][4] = b.x, v[k][5] = b.y, v[k][6] = b.z, v[k][7] = b.w;
    }
    return;
  }
  uint4 raw[Units];
#pragma unroll
  for (int k = 0; k < Units; k++) {
    raw[k] = __ldg(reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(x) + first[k]));
  }
  const auto convert = [&](auto pair_of) {
#pragma unroll
    for (int k = 0; k < Units; k++) {
      const unsigned words[4] = {raw[k].x, raw[k].y, raw[k].z, raw[k].w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 pair = pair_of(words[i]);
        v[k][2 * i] = pair.x;
        v[k][2 * i + 1] = pair.y;
      }
    }
  };
  if (type == FloatType::kBfloat16) {
    convert(
        [](unsigned pair) { return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000U)); });
  } else {
    convert([](unsigned pair) { return float16_floats(pair); });
  }
}

// Any unit, element by element; those past its end are 0.
__device__ inline void load_part(const void* x, FloatType type, const Unit& unit, float (&v)[kUnit]) {
#pragma unroll
  for (unsigned i = 0; i < kUnit; i++) {
    v[i] = 0.0F;
    if (i >= unit.count) continue;
    if (type == FloatType::kFloat32) {
      v[i] = static_cast<const float*>(x)[unit.first + i];
    } else {
      const std::uint16_t half = static_cast<const std::uint16_t*>(x)[unit.first + i];
      v[i] = type == FloatType::kFloat16 ? float16_floats(half).x : float_of_bfloat16(half);
    }
  }
}

__device__ inline void load_unit(const void* x, FloatType type, const Unit& unit, bool whole, float (&v)[kUnit]) {
  if (!whole) return load_part(x, type, unit, v);
  const std::size_t first[1] = {unit.first};
  float one[1][kUnit];
  load_units(x, type, first, one);
#pragma unroll
  for (unsigned i = 0; i < kUnit; i++) v[i] = one[0][i];
}

// Two floats as float16 or bfloat16, the first in the low half. NaN is some NaN.
__device__ inline unsigned float16_pair(float low, float high) {
#if defined(__CUDA_ARCH__)
  const __half2 pair = __floats2half2_rn(low, high);
  return static_cast<unsigned>(__half_as_ushort(__low2half(pair))) |
         static_cast<unsigned>(__half_as_ushort(__high2half(pair))) << 16;
#else
  return float16_of(low) | static_cast<unsigned>(float16_of(high)) << 16;
#endif
}
__device__ inline unsigned bfloat16_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return bfloat16_of(low) | static_cast<unsigned>(bfloat16_of(high)) << 16;
#endif
}

// Two lanes that hold neighbouring units of float32 exchange halves, so that each of their two stores of 16 bytes
// completes a sector of 32 with the other's. All lanes take part.
__device__ inline void store_float32_units(float* out, std::size_t first, bool active, float* v) {
  const bool odd = (threadIdx.x & 1U) != 0;
  float4 kept, given;
  kept = odd ? make_float4(v[4], v[5], v[6], v[7]) : make_float4(v[0], v[1], v[2], v[3]);
  given = odd ? make_float4(v[0], v[1], v[2], v[3]) : make_float4(v[4], v[5], v[6], v[7]);
  float4 got;
  got.x = __shfl_xor_sync(kAllLanes, given.x, 1);
  got.y = __shfl_xor_sync(kAllLanes, given.y, 1);
  got.z = __shfl_xor_sync(kAllLanes, given.z, 1);
  got.w = __shfl_xor_sync(kAllLanes, given.w, 1);
  // The even unit's halves, then the odd one's.
  float4* const even_unit = reinterpret_cast<float4*>(out + (odd ? first - kUnit : first));
  const bool other_active = __shfl_xor_sync(kAllLanes, active ? 1 : 0, 1) != 0;
  const bool even_active = odd ? other_active : active, odd_active = odd ? active : other_active;
  if (even_active) even_unit[odd ? 1 : 0] = odd ? got : kept;
  if (odd_active) even_unit[odd ? 3 : 2] = odd ? kept : got;
}

// A whole unit of 16-bit floats, or any number of elements. NaN is some NaN if whole.
__device__ inline void store_floats(void* out, FloatType type, const Unit& unit, bool whole, const float* v) {
  if (whole && type != FloatType::kFloat32) {
    uint4 words;
    if (type == FloatType::kBfloat16) {
      words = make_uint4(bfloat16_pair(v[0], v[1]), bfloat16_pair(v[2], v[3]), bfloat16_pair(v[4], v[5]),
                         bfloat16_pair(v[6], v[7]));
    } else {
      words = make_uint4(float16_pair(v[0], v[1]), float16_pair(v[2], v[3]), float16_pair(v[4], v[5]),
                         float16_pair(v[6], v[7]));
    }
    *reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(out) + unit.first) = words;
    return;
  }
#pragma unroll
  for (unsigned i = 0; i < kUnit; i++) {
    if (i >= unit.count) continue;
    if (type == FloatType::kFloat32) {
      static_cast<float*>(out)[unit.first + i] = v[i];
    } else {
      static_cast<std::uint16_t*>(out)[unit.first + i] =
          type == FloatType::kFloat16 ? float16_of_fast(v[i]) : bfloat16_of(v[i]);
    }
  }
}

// --- codes ---

// The codes of a unit, packed at 8 bits or fewer: the first in the low bits of x.
using Codes = uint2;

// Packs eight numbers, plus `offset` each, of which the sums fit a code without a sign; then flips the bits of `flip`
// in each code. What is above the bits of a number counts in the sums, so that the offset may take it away again.
__device__ inline Codes pack_codes(const unsigned* v, unsigned bits, unsigned offset, unsigned flip) {
  const unsigned step = 1U << bits, ones = 1U + step * (1U + step * (1U + step));
  const unsigned low = v[0] + step * (v[1] + step * (v[2] + step * v[3])), add = offset * ones, mask = flip * ones;
  const unsigned high = v[4] + step * (v[5] + step * (v[6] + step * v[7]));
  const unsigned first = (low + add) ^ mask, second = (high + add) ^ mask;
  if (bits == 8) return make_uint2(first, second);
  return make_uint2(first | second << (4 * bits), bits == 6 ? second >> 8 : 0U);
}

// Integers from floats of which each is such a number plus this one: adding it rounds half to even.
constexpr float kRounder = 0x1.8p23F;
constexpr unsigned kRounderBits = 0x4b400000U;

// Aligned units that begin at these bytes, all in flight at once.
template <int Units>
__device__ inline void load_codes(const std::uint8_t* codes, unsigned bits, const std::size_t (&byte)[Units],
                                  Codes (&packed)[Units]) {
  const auto each = [&](auto load) {
#pragma unroll
    for (int k = 0; k < Units; k++) packed[k] = load(codes + byte[k]);
  };
  const auto two = [](const std::uint8_t* in) {
    return static_cast<unsigned>(__ldg(reinterpret_cast<const std::uint16_t*>(in)));
  };
  switch (bits) {
    case 8:
      return each([](const std::uint8_t* in) { return __ldg(reinterpret_cast<const uint2*>(in)); });
    case 6:
      return each([&](const std::uint8_t* in) { return make_uint2(two(in) | two(in + 2) << 16, two(in + 4)); });
    case 4:
      return each([](const std::uint8_t* in) { return make_uint2(__ldg(reinterpret_cast<const unsigned*>(in)), 0); });
    case 3:
      return each([](const std::uint8_t* in) {
        return make_uint2(
            __ldg(in) | static_cast<unsigned>(__ldg(in + 1)) << 8 | static_cast<unsigned>(__ldg(in + 2)) << 16, 0);
      });
    case 2:
      return each([&](const std::uint8_t* in) { return make_uint2(two(in), 0); });
    default:
      return each([](const std::uint8_t* in) { return make_uint2(__ldg(in), 0); });
  }
}

// Any unit, byte by byte.
__device__ inline Codes load_part_of_codes(const std::uint8_t* codes, unsigned bits, const Unit& unit) {
  std::uint64_t all = 0;
  const unsigned bytes = (unit.count * bits + 7) / 8;
  for (unsigned i = 0; i < bytes; i++) all |= static_cast<std::uint64_t>(codes[unit.byte + i]) << (8 * i);
  return make_uint2(static_cast<unsigned>(all), static_cast<unsigned>(all >> 32));
}

__device__ inline void store_codes(std::uint8_t* codes, unsigned bits, const Unit& unit, bool whole, Codes packed) {
  std::uint8_t* out = codes + unit.byte;
  if (!whole) {
    const unsigned used = unit.count * bits;
    std::uint64_t all = static_cast<std::uint64_t>(packed.y) << 32 | packed.x;
    if (used < 64) all &= (std::uint64_t{1} << used) - 1;
    for (unsigned i = 0; i < (used + 7) / 8; i++) out[i] = static_cast<std::uint8_t>(all >> (8 * i));
    return;
  }
  switch (bits) {
    case 8:
      *reinterpret_cast<uint2*>(out) = packed;
      return;
    case 6: {
      auto* out16 = reinterpret_cast<std::uint16_t*>(out);
      out16[0] = static_cast<std::uint16_t>(packed.x);
      out16[1] = static_cast<std::uint16_t>(packed.x >> 16);
      out16[2] = static_cast<std::uint16_t>(packed.y);
      return;
    }
    case 4:
      *reinterpret_cast<unsigned*>(out) = packed.x;
      return;
    case 3:
      out[0] = static_cast<std::uint8_t>(packed.x);
      out[1] = static_cast<std::uint8_t>(packed.x >> 8);
      out[2] = static_cast<std::uint8_t>(packed.x >> 16);
      return;
    case 2:
      *reinterpret_cast<std::uint16_t*>(out) = static_cast<std::uint16_t>(packed.x);
      return;
    default:
      *out = static_cast<std::uint8_t>(packed.x);
  }
}

// --- ranges ---

// NaN if either is.
__device__ inline float max_or_nan(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return b > a || b != b ? b : a;
#endif
}
__device__ inline float min_or_nan(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return b < a || b != b ? b : a;
#endif
}

// A range that contains zero; of a symmetric scheme only `high` counts, which is max|x|. Not finite if any element is.
struct Range {
  float low = 0.0F, high = 0.0F;

  __device__ void widen(const float* v, bool symmetric) {
    if (symmetric) {
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) high = max_or_nan(high, fabsf(v[i]));
    } else {
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) {
        low = min_or_nan(low, v[i]);
        high = max_or_nan(high, v[i]);
      }
    }
  }
  __device__ bool finite() const { return is_finite(low) && is_finite(high); }
  __device__ void unite(const Range& other) {
    low = min_or_nan(low, other.low);
    high = max_or_nan(high, other.high);
  }
  // With `lanes` neighbouring lanes, a power of two. All lanes take part.
  __device__ void unite_lanes(unsigned lanes, bool symmetric) {
    for (unsigned step = lanes / 2; step != 0; step /= 2) {
      high = max_or_nan(high, __shfl_xor_sync(kAllLanes, high, step));
      if (!symmetric) low = min_or_nan(low, __shfl_xor_sync(kAllLanes, low, step));
    }
  }
};

// What is not finite counts as zero.
__device__ inline void only_finite(const float* v, float* finite) {
#pragma unroll
  for (unsigned i = 0; i < kUnit; i++) finite[i] = is_finite(v[i]) ? v[i] : 0.0F;
}

__device__ inline void note_non_finite(CudaFinding* finding, const float* v, std::size_t first) {
#pragma unroll
  for (unsigned i = 0; i < kUnit; i++) {
    if (is_finite(v[i])) continue;
    note(finding, Status::kNonFinite, first + i);
    return;
  }
}

// --- division ---

// Division by one positive, finite number, for quotients that are clamped or rounded to few bits: the very quotient of
// IEEE 754 where it is at least 2^-20 and at most 2^17, and else one that is as small or as large. Two corrections with
// the exact remainder: after the first the quotient is nearest or next to it, and the remainder fits. (Markstein,
// "Computation of elementary functions on the IBM RISC System/6000 processor", 1990.) Numbers are scaled by a power of
// two where the remainder could underflow.
struct Reciprocal {
  float divisor, inverse;
  float factor;  // for dividends

  __device__ explicit Reciprocal(float s) {
    factor = s < 0x1p-60F ? 0x1p64F : s > 0x1p60F ? 0x1p-64F : 1.0F;
    divisor = s * factor;
    inverse = 1.0F / divisor;
  }
  // Of a dividend that has been multiplied by the factor, and is finite.
  __device__ float quotient(float x) const {
    const float first = x * inverse;
    const float second = __fmaf_rn(__fmaf_rn(-first, divisor, x), inverse, first);
    return __fmaf_rn(__fmaf_rn(-second, divisor, x), inverse, second);
  }
};

}  // namespace lowbit
