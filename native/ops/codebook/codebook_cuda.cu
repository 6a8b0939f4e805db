// Codebooks. Small floats are rounded as floats, where the last bit of a sum is worth what the format's is; NF4 and FP4
// are looked up: each of so many equal cells of quotients holds at most one threshold.

#include "ops/affine/tensor_quantizer.cuh"
#include "ops/codebook/codebook_cuda.h"
#include "ops/codebook/codebook_math.h"
#include "ops/codebook/nested_scales.h"

namespace lowbit {
namespace {

// --- tables in shared memory, one copy for each lane: no bank is asked twice ---

constexpr unsigned kCells = 32, kMostTableCodes = 64;
constexpr float kCellsPerOne = 16.0F, kCellMargin = 0x1p-10F;

struct Cell {
  float threshold;
  unsigned codes;  // below or at the threshold in the low half, above it in the high one
};

struct CellTable {
  Cell cells[kCells];
  float first;  // the middle of the first cell

  static CellTable of(Codebook book) {
    CellTable table{};
    const bool is_fp4 = book == Codebook::kFp4;
    const float* const thresholds = is_fp4 ? kFp4Thresholds : kNf4Thresholds;
    const unsigned count = is_fp4 ? 7 : 15;
    table.first = is_fp4 ? 0.0F : -1.0F;
    const auto code = [=](unsigned rank) { return is_fp4 ? fp4_code_of_rank(rank) : rank; };
    for (unsigned c = 0; c < kCells; c++) {
      const float low = table.first + (static_cast<float>(c) - 0.5F) / kCellsPerOne, high = low + 1.0F / kCellsPerOne;
      unsigned below = 0;
      while (below < count && thresholds[below] < low - kCellMargin) below++;
      const bool any = below < count && thresholds[below] <= high + kCellMargin;
      table.cells[c] = {any ? thresholds[below] : float_of(kInfinity32),
                        code(below) | (any ? code(below + 1) << 16 : 0U)};
    }
    return table;
  }
};

__device__ inline Cell* cells() {
  __shared__ Cell table[kCells * kWarp];
  return table;
}

// --- codes ---

// The code of a magnitude that is at most the largest, or rounds to it. Let 2^e be the power of two at or below it, or
// the smallest normal number if that is greater, and C = 2^(e + 23 − M) for a mantissa of M bits: the last bit of
// x + C is worth 2^(e − M), so that the addition rounds.
template <SmallFloatType Type>
__device__ inline unsigned magnitude_code(float x) {
  constexpr SmallFloat kFormat = small_float(Type);
  constexpr unsigned kLowest = static_cast<unsigned>(kFormat.lowest_exponent() + 127) << 23;
  constexpr unsigned kDropped = 23 - kFormat.mantissa_bits;
  const unsigned bits = __float_as_uint(x), exponent = (bits > kLowest ? bits : kLowest) & 0x7f800000U;
  const unsigned addend = exponent + (kDropped << 23);
  const unsigned sum = __float_as_uint(x + __uint_as_float(addend));
  return (sum - addend) + ((exponent - kLowest) >> kDropped);
}

// Two at once.
template <SmallFloatType Type>
__device__ inline void float8_pair(float a, float b, unsigned* codes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  std::uint16_t pair;
  if constexpr (Type == SmallFloatType::kFloat8E4m3fn) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(b), "f"(a));
  } else {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(b), "f"(a));
  }
  codes[0] = pair & 0xffU;
  codes[1] = static_cast<unsigned>(pair) >> 8;
#else
  codes[0] = magnitude_code<Type>(a);
  codes[1] = magnitude_code<Type>(b);
#endif
}

// The definition, for what is not finite and for parameters that change within a unit.
__device__ __noinline__ unsigned exact_code(Codebook book, float x, float scale) {
  return rounded_code_of(book, x, scale);
}

struct CodebookCodec {
  Codebook book;
  ScaleRule rule;
  FloatType scale_type;
  unsigned bits;
  float largest;  // value
  int largest_exponent;
  float* scales;
  const float* global_scale;
  CellTable table;

  static constexpr bool symmetric = true;
  static constexpr std::int32_t* offsets = nullptr;

  using Given = float;  // the scale
  struct Group {
    Reciprocal scale;  // NF4, FP4: only the inverse counts
    float most;        // the dividend that has the largest value
    float exact_scale;
    bool simple;
  };

  __device__ bool is_looked_up() const { return book == Codebook::kNf4 || book == Codebook::kFp4; }

  __device__ void enter() const {
    if (!is_looked_up()) return;
    for (unsigned i = threadIdx.x; i < kCells * kWarp; i += blockDim.x) {
      cells()[i] = table.cells[i / kWarp];
    }
    __syncthreads();
  }

  __device__ Group group_of(float scale) const {
    Group group = {Reciprocal(scale), 0.0F, scale, scale > 0.0F && is_finite(scale)};
    if (is_looked_up()) {
      group.scale.inverse = inverse_of_absmax(scale);
    } else {
      group.most = largest * group.scale.divisor;
    }
    return group;
  }
  __device__ Group choose(const Range& range) const {
    switch (rule) {
      case ScaleRule::kAbsmax:
        return group_of(round_to(scale_type, range.high));
      case ScaleRule::kLargest:
        return group_of(scale_of(range.high, largest, scale_type));
      case ScaleRule::kPowerOfTwo:
        return group_of(power_of_two_scale(range.high, largest_exponent));
      default:  // kNvfp4
        return group_of(nvfp4_scale(range.high, __ldg(global_scale)));
    }
  }
  __device__ void write(std::size_t i, const Group& group, CudaFinding* finding) const {
    scales[i] = group.exact_scale;
    if (!is_finite(group.exact_scale)) note_later(finding, Status::kScaleOverflow, i);
  }
  __device__ float load(std::size_t i) const { return __ldg(scales + i); }

  __device__ unsigned looked_up(float quotient) const {
    const bool is_fp4 = book == Codebook::kFp4;
    const float position = is_fp4 ? fabsf(quotient) : quotient;
    const float inside = fminf(fmaxf(position, table.first), 0.95F);  // past the last threshold
    const float rounded = __fmaf_rn(inside, kCellsPerOne, kRounder - table.first * kCellsPerOne);
    const Cell cell = cells()[(__float_as_uint(rounded) - kRounderBits) * kWarp + threadIdx.x % kWarp];
    const unsigned code = position > cell.threshold ? cell.codes >> 16 : cell.codes & 0xffffU;
    return is_fp4 && quotient < 0.0F ? code | 8U : code;
  }

  // The quotients of magnitudes, at most that of `most`, as codes with the sign of v.
  template <SmallFloatType Type>
  __device__ Codes small_floats(const Group& group, const float* v) const {
    constexpr SmallFloat kFormat = small_float(Type);
    float q[kUnit];
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) q[i] = fminf(fabsf(v[i]) * group.scale.factor, group.most);
    divide(group, q);
    unsigned each[kUnit];
#pragma unroll
    for (unsigned i = 0; i < kUnit; i += 2) {
      if constexpr (Type == SmallFloatType::kFloat8E4m3fn || Type == SmallFloatType::kFloat8E5m2) {
        float8_pair<Type>(q[i], q[i + 1], each + i);
      } else {
        each[i] = magnitude_code<Type>(q[i]);
        each[i + 1] = magnitude_code<Type>(q[i + 1]);
      }
    }
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) {
      each[i] |= (__float_as_uint(v[i]) >> (32 - kFormat.bits())) & kFormat.sign();
    }
    return pack_codes(each, static_cast<unsigned>(kFormat.bits()), 0, 0);
  }

  // Powers of two have exact inverses.
  __device__ void divide(const Group& group, float* v) const {
    if (rule == ScaleRule::kPowerOfTwo) {
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) v[i] *= group.scale.inverse;
    } else {
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) v[i] = group.scale.quotient(v[i]);
    }
  }

  // Quotients times `unit`, rounded to integers of `bits` bits with a sign.
  __device__ Codes integers(const Group& group, const float* v, float unit) const {
    float q[kUnit];
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) {
      q[i] = fminf(fmaxf(v[i] * group.scale.factor, -group.most), group.most);
    }
    divide(group, q);
    unsigned each[kUnit];
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) each[i] = __float_as_uint(q[i] * unit + kRounder);
    const unsigned flip = 1U << (bits - 1);
    return pack_codes(each, bits, flip - kRounderBits, flip);
  }

  __device__ Codes codes(const Group& group, const float* v, bool finite) const {
    unsigned each[kUnit];
    if (is_looked_up()) {
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) each[i] = looked_up(v[i] * group.scale.inverse);
      return pack_codes(each, 4, 0, 0);
    }
    if (!finite || !group.simple || book == Codebook::kBinary) {
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) {
        each[i] = book == Codebook::kBinary ? (v[i] >= 0.0F ? 1U : 0U) : exact_code(book, v[i], group.exact_scale);
      }
      return pack_codes(each, bits, 0, 0);
    }
    switch (book) {
      case Codebook::kE4m3fn:
        return small_floats<SmallFloatType::kFloat8E4m3fn>(group, v);
      case Codebook::kE5m2:
        return small_floats<SmallFloatType::kFloat8E5m2>(group, v);
      case Codebook::kE2m3:
        return small_floats<SmallFloatType::kFloat6E2m3fn>(group, v);
      case Codebook::kE3m2:
        return small_floats<SmallFloatType::kFloat6E3m2fn>(group, v);
      case Codebook::kE2m1:
        return small_floats<SmallFloatType::kFloat4E2m1fn>(group, v);
      default:  // kFixed8, kTernary
        return integers(group, v, book == Codebook::kFixed8 ? 64.0F : 1.0F);
    }
  }

  __device__ unsigned code(float x, std::size_t i) const {
    const float scale = __ldg(scales + i);
    return is_looked_up() ? looked_up(x * inverse_of_absmax(scale)) : exact_code(book, x, scale);
  }
};

// NVFP4's global scale from the largest magnitude, unless it is given; of other rules 1.
__global__ void finish_global_scale(float* global_scale, const float* largest, bool is_used) {
  if (!is_used) {
    *global_scale = 1.0F;
  } else if (*global_scale == 0.0F) {
    // Of tiny numbers as well it stays finite.
    *global_scale = *largest == 0.0F ? 1.0F : fminf(kLargestE4m3 * kLargestE2m1 / *largest, 0x1.fffffep127F);
  }
}

CudaStatus quantize(CudaStream* stream, const void* x, FloatType type, const AffineLayout& layout,
                    const CodebookScheme& scheme, RangeChoice range, NonFinite non_finite, float* scales,
                    float* global_scale, std::uint8_t* codes) {
  const bool is_given = range.method == RangeChoice::Method::kGiven;
  if (!is_given && (range.method != RangeChoice::Method::kMinMax || scheme.rule >= ScaleRule::kMean)) {
    return CudaStatus::kUnsupported;
  }
  const CodebookFormat& format = format_of(scheme.book);
  const CodeType code = code_type_of(scheme.book);
  const bool is_nvfp4 = scheme.rule == ScaleRule::kNvfp4, is_empty = layout.element_count() == 0;
  if (is_nvfp4 && !is_given && !is_empty) {
    // The first scale is the working memory.
    LOWBIT_TRY(cuda_status(cudaMemsetAsync(scales, 0, sizeof *scales, stream->stream)));
    const std::size_t count = layout.element_count();
    const AffineLayout whole = {1, count, count, 1, count};
    LOWBIT_TRY(find_largest(*stream, x, type, UnitGrid::of(whole, code, x, codes), non_finite, global_scale,
                            reinterpret_cast<unsigned*>(scales)));
  }
  if (!is_nvfp4 || (!is_given && !is_empty)) {
    LOWBIT_TRY(
        launch(*stream, finish_global_scale, dim3(1), 1, 0, global_scale, static_cast<const float*>(scales), is_nvfp4));
  }
  const CodebookCodec codec = {scheme.book, scheme.rule,    scheme.scale_type,
                               format.bits, format.largest, format.largest_exponent,
                               scales,      global_scale,   CellTable::of(scheme.book)};
  return quantize_tensor(*stream, x, type, layout, code, range, non_finite, codec, codes);
}

// --- back ---

__device__ inline float* table_values() {
  __shared__ float table[kMostTableCodes * kWarp];
  return table;
}

struct CodebookValues {
  Codebook book;
  unsigned bits;
  const float* scales;
  float values[kMostTableCodes];  // of books of six bits and fewer

  static CodebookValues of(Codebook book, const float* scales) {
    CodebookValues result{book, format_of(book).bits, scales, {}};
    for (unsigned i = 0; result.bits <= 6 && i < 1U << result.bits; i++) {
      result.values[i] = value_of(book, static_cast<std::uint8_t>(i));
    }
    return result;
  }

  __device__ void enter() const {
    if (bits > 6) return;
    for (unsigned i = threadIdx.x; i < (1U << bits) * kWarp; i += blockDim.x) table_values()[i] = values[i / kWarp];
    __syncthreads();
  }

  // The definition, with NaN as it is.
  __device__ __noinline__ static float scaled_float8(Codebook book, unsigned code, float scale) {
    const float value = book == Codebook::kE4m3fn
                            ? float_of_small<SmallFloatType::kFloat8E4m3fn>(static_cast<std::uint8_t>(code))
                            : float_of_small<SmallFloatType::kFloat8E5m2>(static_cast<std::uint8_t>(code));
    return value != value ? value : value * scale;
  }

  using Given = float;  // the scale
  __device__ float load(std::size_t i) const { return __ldg(scales + i); }

  __device__ bool unit(Codes packed, float scale, float* v) const {
    if (bits <= 6) {
      const std::uint64_t all = static_cast<std::uint64_t>(packed.y) << 32 | packed.x;
      const unsigned mask = (1U << bits) - 1, lane = threadIdx.x % kWarp;
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) {
        v[i] = table_values()[(static_cast<unsigned>(all >> (i * bits)) & mask) * kWarp + lane] * scale;
      }
      return true;
    }
    if (book == Codebook::kFixed8) {
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) {
        const unsigned code = (((i < 4 ? packed.x : packed.y) >> (8 * (i % 4))) & 0xffU) ^ 0x80U;
        v[i] = (__uint_as_float(code | 0x4b000000U) - (0x1p23F + 128.0F)) * 0x1p-6F * scale;
      }
      return true;
    }
    const bool is_e4m3 = book == Codebook::kE4m3fn;
    const unsigned past = is_e4m3 ? 0x01010101U : 0x04040404U;  // brings what is not finite to the top bit
    const unsigned special = ((packed.x & 0x7f7f7f7fU) + past) | ((packed.y & 0x7f7f7f7fU) + past);
    if ((special & 0x80808080U) != 0) {
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) {
        v[i] = scaled_float8(book, ((i < 4 ? packed.x : packed.y) >> (8 * (i % 4))) & 0xffU, scale);
      }
      return false;
    }
    // The bits at their places in a float32, whose exponents start elsewhere: the product is exact.
    const unsigned place = is_e4m3 ? 20 : 21;
    const float start = is_e4m3 ? 0x1p120F : 0x1p112F;
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) {
      const unsigned code = (i < 4 ? packed.x : packed.y) >> (8 * (i % 4));
      const float magnitude = __uint_as_float((code & 0x7fU) << place) * start;
      v[i] = __uint_as_float(__float_as_uint(magnitude) | (code & 0x80U) << 24) * scale;
    }
    return true;
  }

  __device__ float one(unsigned code, float scale) const {
    if (bits <= 6) return table_values()[code * kWarp + threadIdx.x % kWarp] * scale;
    if (book != Codebook::kFixed8) return scaled_float8(book, code, scale);
    return static_cast<float>(static_cast<std::int8_t>(code)) * 0x1p-6F * scale;
  }
};

CudaStatus dequantize(CudaStream* stream, const std::uint8_t* codes, Codebook book, const AffineLayout& layout,
                      const float* scales, void* out, FloatType out_type) {
  return dequantize_tensor(*stream, codes, code_type_of(book), layout, CodebookValues::of(book, scales), out, out_type);
}

// --- nested scales ---

constexpr unsigned kMeanThreads = 512;
static_assert(kNestedBlock == 256, "one thread for each scale of a block");

struct DynamicMap {
  float values[256];
};

// The sum is defined in the order of the scales. Where all partial sums of any order are exact, any order will do: if
// between the lowest bit of a scale and the highest of the sum there are no more than float64 holds.
__global__ void __launch_bounds__(kMeanThreads) mean_scale(const float* scales, std::size_t count, float* offset) {
  __shared__ double sums[kMeanThreads];
  __shared__ int lowest, highest;
  if (threadIdx.x == 0) {
    lowest = 1 << 20;
    highest = -(1 << 20);
  }
  __syncthreads();
  double sum = 0.0;
  int low = 1 << 20, high = -(1 << 20);
  for (std::size_t i = threadIdx.x; i < count; i += kMeanThreads) {
    const unsigned bits = __float_as_uint(scales[i]) & 0x7fffffffU;
    sum += static_cast<double>(scales[i]);
    if (bits == 0) continue;
    const int exponent = bits < 0x800000U ? 1 : static_cast<int>(bits >> 23);
    const unsigned significand = bits < 0x800000U ? bits : (bits & 0x7fffffU) | 0x800000U;
    const int lowest_bit = exponent + __ffs(static_cast<int>(significand)) - 1;  // in units of 2^-150
    low = lowest_bit < low ? lowest_bit : low;
    high = exponent + 24 > high ? exponent + 24 : high;
  }
  atomicMin(&lowest, low);
  atomicMax(&highest, high);
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned half = kMeanThreads / 2; half != 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  int more = 0;
  while (more < 63 && (std::size_t{1} << more) < count) more++;
  if (highest + more - lowest <= 53) {
    sum = sums[0];
  } else {
    sum = 0.0;
    for (std::size_t i = 0; i < count; i++) sum += static_cast<double>(scales[i]);
  }
  *offset = count == 0 ? 0.0F : static_cast<float>(sum / static_cast<double>(count));
}

__global__ void __launch_bounds__(kNestedBlock) nest_block(float* scales, std::size_t count, std::uint8_t* codes,
                                                           float* absmax, const float* offset, DynamicMap map) {
  __shared__ float values[256], maxima[kNestedBlock / kWarp];
  values[threadIdx.x] = map.values[threadIdx.x];
  const std::size_t i = blockIdx.x * kNestedBlock + threadIdx.x;
  const bool active = i < count;
  const float difference = active ? scales[i] - *offset : 0.0F;
  float largest = warp_reduce(fabsf(difference), [](float a, float b) { return fmaxf(a, b); });
  if (threadIdx.x % kWarp == 0) maxima[threadIdx.x / kWarp] = largest;
  __syncthreads();
  for (unsigned w = 0; w < kNestedBlock / kWarp; w++) largest = fmaxf(largest, maxima[w]);
  if (threadIdx.x == 0) absmax[blockIdx.x] = largest;
  if (!active) return;
  const float divisor = largest > 1e-38F ? largest : 1e-38F;
  const float x = fminf(fmaxf(difference / divisor, -1.0F), 1.0F);
  unsigned low = 0, high = 255;
  while (low < high) {
    const unsigned middle = (low + high) / 2;
    if (x > (values[middle] + values[middle + 1]) / 2.0F) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  codes[i] = static_cast<std::uint8_t>(low);
  scales[i] = values[low] * largest + *offset;
}

CudaStatus nest(CudaStream* stream, float* scales, std::size_t count, std::uint8_t* codes, float* absmax,
                float* offset) {
  LOWBIT_TRY(launch(*stream, mean_scale, dim3(1), kMeanThreads, 0, static_cast<const float*>(scales), count, offset));
  DynamicMap map;
  for (unsigned i = 0; i < 256; i++) map.values[i] = dynamic_map()[i];
  return launch(*stream, nest_block, dim3(static_cast<unsigned>(ceil_div(count, kNestedBlock))),
                static_cast<unsigned>(kNestedBlock), 0, scales, count, codes, absmax, static_cast<const float*>(offset),
                map);
}

}  // namespace

const CodebookCuda kCodebookCuda = {quantize, dequantize, nest};

}  // namespace lowbit
