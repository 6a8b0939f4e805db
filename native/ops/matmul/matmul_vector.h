// Matrix products on packed weights, sixteen columns at a time. Included by one file per instruction set, after its
// vector vocabulary (core/simd/<isa>.h), its dot products (dot_<isa>.h) and the shape of its register tiles:
//
//   kDotRows, kFloatRows      the most rows of a strip
//   dot_tiles_for(rows)       tiles side by side for that many rows, so that sums stay in registers
//   float_tiles_for(rows)
//   kDecodeRows               see MatmulKernels

#include "core/float_bits.h"
#include "ops/codebook/codebook_vector_values.h"
#include "ops/matmul/matmul_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

LOWBIT_INLINE F32x16 like(F32x16, float value) { return broadcast(value); }

}  // namespace
}  // namespace lowbit::LOWBIT_ISA

#include "ops/matmul/matmul_math.h"
#include "ops/matmul/matmul_vector_sums.h"

namespace lowbit::LOWBIT_ISA {
namespace {

LOWBIT_INLINE F32x16 load_scales(FloatType type, const void* scales, std::size_t i) {
  if (type == FloatType::kFloat16) return load<FloatType::kFloat16>(static_cast<const std::uint16_t*>(scales) + i);
  if (type == FloatType::kBfloat16) return load<FloatType::kBfloat16>(static_cast<const std::uint16_t*>(scales) + i);
  return load<FloatType::kFloat32>(static_cast<const float*>(scales) + i);
}

// --- codes times activations -----------------------------------------------------------------------------------------

template <int Rows, int Tiles>
LOWBIT_INLINE void start_sums(I32x16 (&sums)[Rows][Tiles], const DotArguments& a, const std::uint8_t* zero_points,
                              const std::int32_t* starts) {
  if (a.zero_points == nullptr) {
    LOWBIT_UNROLL
    for (int r = 0; r < Rows; r++) {
      LOWBIT_UNROLL
      for (int t = 0; t < Tiles; t++) sums[r][t] = broadcast(starts[r]);
    }
    return;
  }
  LOWBIT_UNROLL
  for (int t = 0; t < Tiles; t++) {
    I32x16 zero = load_codes<8>(zero_points + static_cast<std::size_t>(t) * a.parameters);
    if (kByteOffset != 0 && a.format == LineFormat::kBits8) zero = sub(zero, broadcast(kByteOffset));
    LOWBIT_UNROLL
    for (int r = 0; r < Rows; r++) sums[r][t] = zero_times_pair(zero, starts[r]);
  }
}

template <LineFormat Format, int Rows, int Tiles>
void dot_tiles(const DotArguments& a) {
  const ActivationStrip& strip = a.strip;
  F32x16 totals[Rows][Tiles];
  const std::size_t rows = strip.two_planes ? Rows / 2 : Rows;
  LOWBIT_UNROLL
  for (std::size_t r = 0; r < Rows; r++) {
    LOWBIT_UNROLL
    for (std::size_t t = 0; t < Tiles; t++) {
      const bool zero = a.first || r >= rows;
      totals[r][t] = zero ? broadcast(0.0F) : load<FloatType::kFloat32>(a.out + r * a.out_stride + t * kTileColumns);
    }
  }
  const std::uint8_t* codes = a.codes;
  const std::int32_t* quads = strip.quads;
  const std::int32_t* starts = strip.starts;
  const float* scales = strip.scales;
  std::size_t parameter = 0, left_of_group = a.left_of_group;
  LOWBIT_NO_UNROLL
  for (std::size_t s = 0; s < a.segments; s++) {
    I32x16 sums[Rows][Tiles];
    start_sums(sums, a, a.zero_points == nullptr ? nullptr : a.zero_points + parameter, starts);
    add_quads_of<Format>(sums, codes, a.tile_bytes, quads, a.quads_per_segment);
    codes += bytes_of_quads<Format>(a.quads_per_segment);
    quads += a.quads_per_segment * Rows;
    starts += Rows;

    F32x16 scale[Tiles];
    LOWBIT_UNROLL
    for (int t = 0; t < Tiles; t++) {
      scale[t] = load_scales(a.scale_type, a.scales, parameter + static_cast<std::size_t>(t) * a.parameters);
    }
    if (Rows % 2 == 0 && strip.two_planes) {
      LOWBIT_UNROLL
      for (int r = 0; r < Rows / 2; r++) {
        const F32x16 row_scale = broadcast(strip.per_token ? 1.0F : scales[r]);  // times 1 changes nothing
        LOWBIT_UNROLL
        for (int t = 0; t < Tiles; t++) {
          const I32x16 sum = add(shift_left<7>(sums[2 * r][t]), sums[(2 * r + 1) % Rows][t]);
          totals[r][t] = fused(to_float(sum), mul(scale[t], row_scale), totals[r][t]);
        }
      }
      if (!strip.per_token) scales += Rows / 2;
    } else if (strip.per_token) {
      LOWBIT_UNROLL
      for (int r = 0; r < Rows; r++) {
        LOWBIT_UNROLL
        for (int t = 0; t < Tiles; t++) totals[r][t] = fused(to_float(sums[r][t]), scale[t], totals[r][t]);
      }
    } else {
      LOWBIT_UNROLL
      for (int r = 0; r < Rows; r++) {
        const F32x16 row_scale = broadcast(scales[r]);
        LOWBIT_UNROLL
        for (int t = 0; t < Tiles; t++) {
          totals[r][t] = fused(to_float(sums[r][t]), mul(scale[t], row_scale), totals[r][t]);
        }
      }
      scales += Rows;
    }
    if (--left_of_group == 0) {
      left_of_group = a.segments_per_group;
      parameter += kTileColumns;
    }
  }
  const bool scaled = strip.per_token && a.last;
  LOWBIT_UNROLL
  for (std::size_t r = 0; r < Rows; r++) {
    LOWBIT_UNROLL
    for (std::size_t t = 0; t < Tiles; t++) {
      if (r >= rows) continue;  // a way out of the outer loop would keep clang from unrolling it
      const F32x16 total = scaled ? mul(totals[r][t], broadcast(strip.scales[r])) : totals[r][t];
      store<FloatType::kFloat32, false>(a.out + r * a.out_stride + t * kTileColumns, total);
    }
  }
}

template <LineFormat Format, int Rows>
void dot_rows(DotArguments a) {
  constexpr int kTiles = dot_tiles_for(Rows);
  while (a.tiles != 0) {
    const std::size_t tiles = a.tiles >= kTiles ? kTiles : 1;
    if (tiles == kTiles) {
      dot_tiles<Format, Rows, kTiles>(a);
    } else {
      dot_tiles<Format, Rows, 1>(a);
    }
    a.tiles -= tiles;
    a.codes += tiles * a.tile_bytes;
    const std::size_t parameters = tiles * a.parameters;
    a.scales = static_cast<const std::uint8_t*>(a.scales) + parameters * size_of(a.scale_type);
    if (a.zero_points != nullptr) a.zero_points += parameters;
    a.out += tiles * kTileColumns;
  }
}

template <LineFormat Format, int Rows = kDotRows>
void dot_format(const DotArguments& a) {
  if constexpr (Rows > 1) {
    if (a.strip.rows != Rows) return dot_format<Format, Rows - 1>(a);
  }
  dot_rows<Format, Rows>(a);
}

void dot(const DotArguments& a) {
  switch (a.format) {
    case LineFormat::kBits2:
      return dot_format<LineFormat::kBits2>(a);
    case LineFormat::kBits3:
      return dot_format<LineFormat::kBits3>(a);
    case LineFormat::kBits4:
      return dot_format<LineFormat::kBits4>(a);
    case LineFormat::kBits8:
      return dot_format<LineFormat::kBits8>(a);
    default:
      return dot_format<kSmallFormat>(a);
  }
}

// --- exact integers --------------------------------------------------------------------------------------------------

template <int Rows, int Tiles>
void integer_tiles(const IntegerArguments& a) {
  I32x16 sums[Rows][Tiles];
  LOWBIT_UNROLL
  for (int r = 0; r < Rows; r++) {
    LOWBIT_UNROLL
    for (int t = 0; t < Tiles; t++) sums[r][t] = broadcast(0);
  }
  add_quads_of<LineFormat::kBits8>(sums, a.codes, a.tile_bytes, a.quads, a.quad_count);
  LOWBIT_UNROLL
  for (std::size_t t = 0; t < Tiles; t++) {
    const I32x16 terms = load_lanes(a.column_terms + t * kTileColumns);
    const I32x16 zeros = load_lanes(a.column_zeros + t * kTileColumns);
    LOWBIT_UNROLL
    for (std::size_t r = 0; r < Rows; r++) {
      const I32x16 correction = add(mul(terms, broadcast(a.row_zeros[r])), mul(zeros, broadcast(a.row_sums[r])));
      store_lanes(a.out + r * a.out_stride + t * kTileColumns, sub(sums[r][t], correction));
    }
  }
}

template <int Rows = kDotRows>
void integer_rows(IntegerArguments a) {
  if constexpr (Rows > 1) {
    if (a.rows != Rows) return integer_rows<Rows - 1>(a);
  }
  constexpr int kTiles = dot_tiles_for(Rows);
  while (a.tiles != 0) {
    const std::size_t tiles = a.tiles >= kTiles ? kTiles : 1;
    if (tiles == kTiles) {
      integer_tiles<Rows, kTiles>(a);
    } else {
      integer_tiles<Rows, 1>(a);
    }
    a.tiles -= tiles;
    a.codes += tiles * a.tile_bytes;
    a.column_terms += tiles * kTileColumns;
    a.column_zeros += tiles * kTileColumns;
    a.out += tiles * kTileColumns;
  }
}

void integer_dot(const IntegerArguments& a) { integer_rows(a); }

// --- floats ----------------------------------------------------------------------------------------------------------

template <FloatType Type, int Rows, int Tiles>
void float_tiles(const FloatArguments& a) {
  F32x16 sums[Rows][Tiles];
  LOWBIT_UNROLL
  for (std::size_t r = 0; r < Rows; r++) {
    LOWBIT_UNROLL
    for (std::size_t t = 0; t < Tiles; t++) {
      sums[r][t] = a.first ? broadcast(0.0F) : load<FloatType::kFloat32>(a.out + r * a.out_stride + t * kTileColumns);
    }
  }
  const auto* weights = static_cast<const Storage<Type>*>(a.weights);
  const float* activations = a.activations;
  LOWBIT_NO_UNROLL
  for (std::size_t k = 0; k < a.count; k++) {
    F32x16 weight[Tiles];
    LOWBIT_UNROLL
    for (std::size_t t = 0; t < Tiles; t++) weight[t] = load<Type>(weights + t * a.tile_stride);
    LOWBIT_UNROLL
    for (int r = 0; r < Rows; r++) {
      const F32x16 activation = broadcast(activations[r]);
      LOWBIT_UNROLL
      for (int t = 0; t < Tiles; t++) sums[r][t] = fused(weight[t], activation, sums[r][t]);
    }
    weights += kTileColumns;
    activations += Rows;
  }
  LOWBIT_UNROLL
  for (std::size_t r = 0; r < Rows; r++) {
    LOWBIT_UNROLL
    for (std::size_t t = 0; t < Tiles; t++) {
      store<FloatType::kFloat32, false>(a.out + r * a.out_stride + t * kTileColumns, sums[r][t]);
    }
  }
}

template <FloatType Type, int Rows = kFloatRows>
void float_rows(FloatArguments a) {
  if constexpr (Rows > 1) {
    if (a.rows != Rows) return float_rows<Type, Rows - 1>(a);
  }
  constexpr int kTiles = float_tiles_for(Rows);
  while (a.tiles != 0) {
    const std::size_t tiles = a.tiles >= kTiles ? kTiles : 1;
    if (tiles == kTiles) {
      float_tiles<Type, Rows, kTiles>(a);
    } else {
      float_tiles<Type, Rows, 1>(a);
    }
    a.tiles -= tiles;
    a.weights = static_cast<const Storage<Type>*>(a.weights) + tiles * a.tile_stride;
    a.out += tiles * kTileColumns;
  }
}

void float_dot(const FloatArguments& a) {
  switch (a.type) {
    case FloatType::kFloat32:
      return float_rows<FloatType::kFloat32>(a);
    case FloatType::kFloat16:
      return float_rows<FloatType::kFloat16>(a);
    case FloatType::kBfloat16:
      return float_rows<FloatType::kBfloat16>(a);
  }
}

// --- codes to bytes and to floats ------------------------------------------------------------------------------------

template <LineFormat Format>
LOWBIT_INLINE Line levels_in(Line codes) {
  if constexpr (has_levels(Format)) {
    return look_up_bytes(levels_of(Format), codes);
  } else {
    return codes;
  }
}

template <LineFormat Format, int J, int Quads>
LOWBIT_INLINE void decode_run(const std::uint8_t* run, std::uint8_t* out) {
  if constexpr (J < Quads) {
    store_line(out + J * kLineBytes, levels_in<Format>(codes_of<lines_of(Format), J>(run)));
    decode_run<Format, J + 1, Quads>(run, out);
  }
}

template <LineFormat Format>
void decode_format(const std::uint8_t* codes, std::size_t quads, std::uint8_t* out) {
  constexpr int kQuads = Format == LineFormat::kBits3 ? 8 : 4;
  LOWBIT_NO_UNROLL
  for (std::size_t q = 0; q < quads; q += kQuads) {
    decode_run<Format, 0, kQuads>(codes, out);
    codes += bytes_of_quads<lines_of(Format)>(kQuads);
    out += kQuads * kLineBytes;
  }
}

void decode(LineFormat format, const std::uint8_t* codes, std::size_t quads, std::uint8_t* out) {
  if (format == LineFormat::kBits2) return decode_format<LineFormat::kBits2>(codes, quads, out);
  if (format == LineFormat::kBits3) return decode_format<LineFormat::kBits3>(codes, quads, out);
  if (format == LineFormat::kTwiceE2m1) return decode_format<LineFormat::kTwiceE2m1>(codes, quads, out);
  if (format == LineFormat::kNonlinear) return decode_format<LineFormat::kNonlinear>(codes, quads, out);
  decode_format<LineFormat::kBits4>(codes, quads, out);
}

// What sixteen columns of a group have in common.
struct GroupParameters {
  F32x16 scale, offset;
  I32x16 zero;
};

template <LineFormat Format>
LOWBIT_INLINE F32x16 values_of_codes(I32x16 codes, I32x16 zero) {
  if constexpr (has_float_values(Format)) {
    return values_of<codebook_of(Format)>(codes);
  } else {
    return to_float(sub(codes, zero));
  }
}

template <LineFormat Format, bool Offsets, int I>
LOWBIT_INLINE void dequantize_byte(float* out, I32x16 codes, const GroupParameters& group) {
  if constexpr (I < 4) {
    const I32x16 code = bit_and(shift_right<8 * I>(codes), broadcast(255));
    const F32x16 scaled = mul(values_of_codes<Format>(code, group.zero), group.scale);
    store<FloatType::kFloat32, false>(out + I * kTileColumns, Offsets ? add(scaled, group.offset) : scaled);
    dequantize_byte<Format, Offsets, I + 1>(out, codes, group);
  }
}

template <LineFormat Format, bool Offsets, int J, int Quads>
LOWBIT_INLINE void dequantize_run(const std::uint8_t* run, float* out, const GroupParameters& group) {
  if constexpr (J < Quads) {
    const I32x16 codes = lanes_of(levels_in<Format>(codes_of<lines_of(Format), J>(run)));
    dequantize_byte<Format, Offsets, 0>(out + J * kQuad * kTileColumns, codes, group);
    dequantize_run<Format, Offsets, J + 1, Quads>(run, out, group);
  }
}

template <LineFormat Format, bool Offsets>
void dequantize_lines(const DequantizeTileArguments& a) {
  constexpr int kQuads = Format == LineFormat::kBits3 ? 8 : 4;
  const std::uint8_t* codes = a.codes + bytes_of_quads<lines_of(Format)>(a.first_quad);
  float* out = a.out;
  GroupParameters group = {broadcast(0.0F), broadcast(0.0F), broadcast(a.zero_point)};
  std::size_t index = static_cast<std::size_t>(-1);
  for (std::size_t q = a.first_quad; q < a.first_quad + a.quads; q += kQuads) {
    if (q / a.quads_per_group != index) {
      index = q / a.quads_per_group;
      group.scale = load_scales(a.scale_type, a.scales, index * kTileColumns);
      if (a.zero_points != nullptr) group.zero = load_codes<8>(a.zero_points + index * kTileColumns);
      if constexpr (Offsets) group.offset = load<FloatType::kFloat32>(a.offsets + index * kTileColumns);
    }
    dequantize_run<Format, Offsets, 0, kQuads>(codes, out, group);
    codes += bytes_of_quads<lines_of(Format)>(kQuads);
    out += kQuads * kQuad * kTileColumns;
  }
}

template <LineFormat Format>
void dequantize_format(const DequantizeTileArguments& a) {
  if (a.offsets == nullptr) return dequantize_lines<Format, false>(a);
  dequantize_lines<Format, true>(a);
}

void dequantize_tile(const DequantizeTileArguments& a) {
  switch (a.format) {
    case LineFormat::kBits2:
      return dequantize_format<LineFormat::kBits2>(a);
    case LineFormat::kBits3:
      return dequantize_format<LineFormat::kBits3>(a);
    case LineFormat::kBits4:
      return dequantize_format<LineFormat::kBits4>(a);
    case LineFormat::kBits8:
    case LineFormat::kSmallBytes:
      return dequantize_format<LineFormat::kSmallBytes>(a);
    case LineFormat::kTwiceE2m1:
      return dequantize_lines<LineFormat::kTwiceE2m1, false>(a);
    case LineFormat::kNonlinear:
      return dequantize_lines<LineFormat::kNonlinear, false>(a);
    case LineFormat::kNf4:
      return dequantize_lines<LineFormat::kNf4, false>(a);
    case LineFormat::kFp4:
      return dequantize_lines<LineFormat::kFp4, false>(a);
    case LineFormat::kE4m3fn:
      return dequantize_lines<LineFormat::kE4m3fn, false>(a);
    case LineFormat::kE5m2:
      return dequantize_lines<LineFormat::kE5m2, false>(a);
    case LineFormat::kE2m3:
      return dequantize_lines<LineFormat::kE2m3, false>(a);
    case LineFormat::kE3m2:
      return dequantize_lines<LineFormat::kE3m2, false>(a);
  }
}

// --- activations -----------------------------------------------------------------------------------------------------

// Sixteen elements at position k; zeros past the end.
LOWBIT_INLINE F32x16 activations_at(const QuantizeRowArguments& a, std::size_t k) {
  if (k + kLanes <= a.count) return load<FloatType::kFloat32>(a.x + k);
  return k < a.count ? load_first<FloatType::kFloat32>(a.x + k, a.count - k) : broadcast(0.0F);
}

LOWBIT_INLINE std::uint32_t largest_bits(const QuantizeRowArguments& a, std::size_t begin, std::size_t end) {
  I32x16 largest = broadcast(0);
  for (std::size_t k = begin; k < end; k += kLanes) largest = max(magnitude_bits(activations_at(a, k)), largest);
  return static_cast<std::uint32_t>(horizontal_max(largest));
}

LOWBIT_NOINLINE std::ptrdiff_t first_not_finite(const QuantizeRowArguments& a) {
  for (std::size_t k = 0; k < a.count; k++) {
    if (!is_finite(a.x[k])) return static_cast<std::ptrdiff_t>(k);
  }
  return -1;
}

template <bool TwoPlanes>
LOWBIT_INLINE std::int32_t quantize_segment(const QuantizeRowArguments& a, std::size_t begin, float factor) {
  const F32x16 factors = broadcast(factor);
  I32x16 sum = broadcast(0);
  for (std::size_t k = begin; k < begin + a.segment; k += 2 * kLanes) {
    const bool half = k + kLanes == begin + a.segment;  // segments of an odd multiple of sixteen
    const I32x16 q0 = round_to_int(mul(activations_at(a, k), factors));
    const I32x16 q1 = half ? broadcast(0) : round_to_int(mul(activations_at(a, k + kLanes), factors));
    sum = add(sum, add(q0, q1));
    I32x16 high0 = q0, high1 = q1;
    I8x32 low = broadcast8(0);
    if constexpr (TwoPlanes) {
      high0 = shift_right<7>(add(q0, broadcast(64)));
      high1 = shift_right<7>(add(q1, broadcast(64)));
      low = narrow(sub(q0, shift_left<7>(high0)), sub(q1, shift_left<7>(high1)));
    }
    const I8x32 high = narrow(high0, high1);
    auto* const out_high = reinterpret_cast<std::uint8_t*>(a.high) + k;
    auto* const out_low = reinterpret_cast<std::uint8_t*>(a.low) + k;
    if (half) {
      store_first_codes<8>(out_high, high, 0, kLanes);
      if (TwoPlanes) store_first_codes<8>(out_low, low, 0, kLanes);
    } else {
      store_codes<8, false>(out_high, high, 0);
      if (TwoPlanes) store_codes<8, false>(out_low, low, 0);
    }
  }
  return horizontal_sum(sum);
}

std::ptrdiff_t quantize_row(const QuantizeRowArguments& a) {
  constexpr float kNothing = 0x1p-110F;
  constexpr std::uint32_t kInfinity = 0x7f800000U;
  const float steps = a.two_planes ? 127.0F * 128.0F : 127.0F;
  const std::size_t padded = a.segment * a.segments;
  const std::uint32_t largest_of_all = a.per_token ? largest_bits(a, 0, padded) : 0;
  for (std::size_t s = 0; s < a.segments; s++) {
    const std::size_t begin = s * a.segment;
    const std::uint32_t bits = a.per_token ? largest_of_all : largest_bits(a, begin, begin + a.segment);
    if (bits >= kInfinity) return first_not_finite(a);
    const float largest = float_of(bits);
    const bool nothing = largest < kNothing;
    const float factor = nothing ? 0.0F : steps / largest;
    a.scales[a.per_token ? 0 : s] = nothing ? 0.0F : largest / steps;
    a.sums[s] = a.two_planes ? quantize_segment<true>(a, begin, factor) : quantize_segment<false>(a, begin, factor);
  }
  return -1;
}

// --- results ---------------------------------------------------------------------------------------------------------

template <Activation Function>
void finish_with(float* y, const float* bias, const float* factor, std::size_t count) {
  for (std::size_t i = 0; i < count; i += kLanes) {
    const std::size_t n = count - i < kLanes ? count - i : kLanes;
    F32x16 value = load_up_to<FloatType::kFloat32>(y + i, n);
    if (bias != nullptr) value = add(value, load_up_to<FloatType::kFloat32>(bias + i, n));
    if constexpr (Function == Activation::kSilu) value = silu(value);
    if constexpr (Function == Activation::kGelu) value = gelu(value);
    if constexpr (Function == Activation::kGeluTanh) value = gelu_tanh(value);
    if (factor != nullptr) value = mul(value, load_up_to<FloatType::kFloat32>(factor + i, n));
    store_up_to<FloatType::kFloat32>(y + i, value, n);
  }
}

void finish(float* y, const float* bias, Activation activation, const float* factor, std::size_t count) {
  switch (activation) {
    case Activation::kNone:
      return finish_with<Activation::kNone>(y, bias, factor, count);
    case Activation::kSilu:
      return finish_with<Activation::kSilu>(y, bias, factor, count);
    case Activation::kGelu:
      return finish_with<Activation::kGelu>(y, bias, factor, count);
    case Activation::kGeluTanh:
      return finish_with<Activation::kGeluTanh>(y, bias, factor, count);
  }
}

}  // namespace

const MatmulKernels kMatmul = {
    kDotRows,
    kFloatRows,
    [](std::size_t rows) { return static_cast<std::size_t>(dot_tiles_for(static_cast<int>(rows))); },
    [](std::size_t rows) { return static_cast<std::size_t>(float_tiles_for(static_cast<int>(rows))); },
    kByteOffset,
    kDecodeRows,
    dot,
    integer_dot,
    float_dot,
    decode,
    dequantize_tile,
    quantize_row,
    finish,
};

}  // namespace lowbit::LOWBIT_ISA
