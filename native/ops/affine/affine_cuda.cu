// Affine quantization. Codes are packed as one sum: see pack_codes().

#include "ops/affine/affine_cuda.h"
#include "ops/affine/affine_math.h"
#include "ops/affine/tensor_quantizer.cuh"

namespace lowbit {
namespace {

// Zero points past this are not those of any scheme, and go the simple way.
constexpr int kMostZeroPoint = 1 << 16;

__device__ inline bool is_simple(float scale, int zero_point) {
  return scale > 0.0F && is_finite(scale) && zero_point >= -kMostZeroPoint && zero_point <= kMostZeroPoint;
}

struct AffineCodec {
  unsigned bits;
  bool is_signed, symmetric;
  int lowest, highest, symmetric_zero_point, steps;
  FloatType scale_type;
  float* scales;
  std::int32_t* offsets;  // zero points, or null

  struct Given {
    float scale;
    int zero_point;
  };
  struct Group {
    Reciprocal scale;
    float low, high;  // dividends that have the outermost codes
    float exact_scale;
    int zero_point;
    bool simple;
  };

  __device__ void enter() const {}

  __device__ Group group_of(const Given& given) const {
    const Reciprocal reciprocal(given.scale);
    return {reciprocal,
            static_cast<float>(lowest - given.zero_point) * reciprocal.divisor,
            static_cast<float>(highest - given.zero_point) * reciprocal.divisor,
            given.scale,
            given.zero_point,
            is_simple(given.scale, given.zero_point)};
  }
  __device__ Group choose(const Range& range) const {
    if (symmetric) {
      return group_of({symmetric_scale(range.high, steps, scale_type), offsets != nullptr ? symmetric_zero_point : 0});
    }
    const float scale = asymmetric_scale(range.low, range.high, lowest, highest, scale_type);
    return group_of({scale, zero_point_of(range.low, scale, lowest, highest)});
  }
  __device__ void write(std::size_t i, const Group& group, CudaFinding* finding) const {
    scales[i] = group.exact_scale;
    if (offsets != nullptr) offsets[i] = group.zero_point;
    if (!is_finite(group.exact_scale)) note_later(finding, Status::kScaleOverflow, i);
  }
  __device__ Given load(std::size_t i) const {
    return {__ldg(scales + i), offsets != nullptr ? __ldg(offsets + i) : 0};
  }

  __device__ Codes codes(const Group& group, const float* v, bool finite) const {
    unsigned each[kUnit];
    if (!finite || !group.simple) {
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) {
        each[i] = static_cast<unsigned>(quantize_one(v[i], group.exact_scale, group.zero_point, lowest, highest)) &
                  ((1U << bits) - 1);
      }
      return pack_codes(each, bits, 0, 0);
    }
    // Dividends are clamped, not quotients: what is past an outermost code rounds to it either way.
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) {
      const float x = fminf(fmaxf(v[i] * group.scale.factor, group.low), group.high);
      each[i] = __float_as_uint(group.scale.quotient(x) + kRounder);
    }
    const unsigned flip = is_signed ? 1U << (bits - 1) : 0U;
    return pack_codes(each, bits, static_cast<unsigned>(group.zero_point) + flip - kRounderBits, flip);
  }

  __device__ unsigned code(float x, std::size_t i) const {
    const Given given = load(i);
    return static_cast<unsigned>(quantize_one(x, given.scale, given.zero_point, lowest, highest)) & ((1U << bits) - 1);
  }
};

CudaStatus quantize(CudaStream* stream, const void* x, FloatType type, const AffineLayout& layout,
                    const AffineScheme& scheme, RangeChoice range, NonFinite non_finite, float* scales,
                    std::int32_t* zero_points, std::uint8_t* codes) {
  if (range.method == RangeChoice::Method::kMse || range.method == RangeChoice::Method::kPercentile) {
    return CudaStatus::kUnsupported;
  }
  const AffineCodec codec = {scheme.code.bits,
                             scheme.code.is_signed,
                             scheme.symmetric,
                             scheme.lowest,
                             scheme.highest,
                             scheme.symmetric_zero_point(),
                             scheme.symmetric_steps(),
                             scheme.scale_type,
                             scales,
                             zero_points};
  return quantize_tensor(*stream, x, type, layout, scheme.code, range, non_finite, codec, codes);
}

struct AffineValues {
  unsigned bits;
  bool is_signed;
  const float* scales;
  const std::int32_t* zero_points;  // or null

  using Given = AffineCodec::Given;

  __device__ void enter() const {}
  __device__ Given load(std::size_t i) const {
    return {__ldg(scales + i), zero_points != nullptr ? __ldg(zero_points + i) : 0};
  }

  __device__ bool unit(Codes packed, const Given& given, float* v) const {
    // Codes with a sign become those without that are so much greater, and that much joins the zero point.
    const unsigned sign = is_signed ? 1U << (bits - 1) : 0U, mask = (1U << bits) - 1;
    if (given.zero_point < -kMostZeroPoint || given.zero_point > kMostZeroPoint) {
      const std::uint64_t all = static_cast<std::uint64_t>(packed.y) << 32 | packed.x;
#pragma unroll
      for (unsigned i = 0; i < kUnit; i++) v[i] = one(static_cast<unsigned>(all >> (i * bits)) & mask, given);
      return true;
    }
    // In floats from 2^23 to 2^24 the last bit is worth one.
    const float shift = 0x1p23F + static_cast<float>(given.zero_point + static_cast<int>(sign));
    const unsigned high = bits == 8 ? packed.y : packed.x >> (4 * bits);
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) {
      const unsigned code = (((i < 4 ? packed.x : high) >> (i % 4 * bits)) & mask) ^ sign;
      v[i] = (__uint_as_float(code | 0x4b000000U) - shift) * given.scale;
    }
    return true;
  }
  __device__ float one(unsigned code, const Given& given) const {
    const int sign = is_signed ? 1 << (bits - 1) : 0;
    return dequantize_one((static_cast<int>(code) ^ sign) - sign, given.scale, given.zero_point);
  }
};

CudaStatus dequantize(CudaStream* stream, const std::uint8_t* codes, CodeType code, const AffineLayout& layout,
                      const float* scales, const std::int32_t* zero_points, void* out, FloatType out_type) {
  const AffineValues values = {code.bits, code.is_signed, scales, zero_points};
  return dequantize_tensor(*stream, codes, code, layout, values, out, out_type);
}

// --- one byte per code ---

__global__ void __launch_bounds__(kQuantizeThreads)
    unpack_units(const std::uint8_t* codes, unsigned bits, unsigned sign, UnitGrid grid, std::uint8_t* out) {
  const unsigned mask = (1U << bits) - 1;
  for (std::size_t u = grid_thread(); u < grid.units; u += grid_threads()) {
    const Unit unit = unit_at(grid, bits, u);
    Codes packed[1];
    if (grid.dense) {
      load_codes(codes, bits, {unit.byte}, packed);
    } else {
      packed[0] = load_part_of_codes(codes, bits, unit);
    }
    const std::uint64_t all = static_cast<std::uint64_t>(packed[0].y) << 32 | packed[0].x;
    unsigned words[2] = {0, 0};
#pragma unroll
    for (unsigned i = 0; i < kUnit; i++) {
      const unsigned code = ((static_cast<unsigned>(all >> (i * bits)) & mask) ^ sign) - sign;
      words[i / 4] |= (code & 0xffU) << (8 * (i % 4));
    }
    if (grid.dense) {
      *reinterpret_cast<uint2*>(out + unit.first) = make_uint2(words[0], words[1]);
    } else {
      for (unsigned i = 0; i < unit.count; i++)
        out[unit.first + i] = static_cast<std::uint8_t>(words[i / 4] >> (8 * (i % 4)));
    }
  }
}

CudaStatus unpack(CudaStream* stream, const std::uint8_t* codes, CodeType code, std::size_t rows, std::size_t columns,
                  std::uint8_t* out) {
  const AffineLayout layout = {rows, columns, columns, 1, columns};
  if (layout.element_count() == 0) return CudaStatus::kOk;
  const UnitGrid grid = UnitGrid::of(layout, code, out, codes);
  return launch(*stream, unpack_units, dim3(many_blocks_for(*stream, grid.units, kQuantizeThreads)), kQuantizeThreads,
                0, codes, static_cast<unsigned>(code.bits), code.is_signed ? 1U << (code.bits - 1) : 0U, grid, out);
}

}  // namespace

const AffineCuda kAffineCuda = {quantize, dequantize, unpack};

}  // namespace lowbit
