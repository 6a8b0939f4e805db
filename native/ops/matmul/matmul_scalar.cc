// Matrix products on packed weights, the specification.

#include <cmath>

#include "core/float_bits.h"
#include "core/scalar_lane.h"
#include "ops/codebook/codebook_math.h"
#include "ops/matmul/matmul_kernels.h"
#include "ops/matmul/matmul_math.h"

namespace lowbit::scalar {
namespace {

// The code of a column at k = 4 · quad + i, or the level that it stands for.
std::int32_t code_at(LineFormat format, const std::uint8_t* codes, std::size_t column, std::size_t quad,
                     std::size_t i) {
  const auto byte = [&](std::size_t line) { return std::int32_t{codes[line * kLineBytes + 4 * column + i]}; };
  switch (lines_of(format)) {
    case LineFormat::kBits2:
      return (byte(quad / 4) >> (2 * (quad % 4))) & 3;
    case LineFormat::kBits3: {
      const std::size_t line = 3 * (quad / 8), j = quad % 8;
      return ((byte(line + j / 4) >> (2 * (j % 4))) & 3) | (((byte(line + 2) >> j) & 1) << 2);
    }
    case LineFormat::kBits4: {
      const std::int32_t code = (byte(quad / 2) >> (4 * (quad % 2))) & 15;
      return has_levels(format) ? levels_of(format)[code] : code;
    }
    default:
      return byte(quad);
  }
}

float scale_at(FloatType type, const void* scales, std::size_t i) {
  switch (type) {
    case FloatType::kFloat16:
      return float_of_float16(static_cast<const std::uint16_t*>(scales)[i]);
    case FloatType::kBfloat16:
      return float_of_bfloat16(static_cast<const std::uint16_t*>(scales)[i]);
    case FloatType::kFloat32:
      break;
  }
  return static_cast<const float*>(scales)[i];
}

std::int32_t activation_at(const std::int32_t* quads, std::size_t rows, std::size_t row, std::size_t quad,
                           std::size_t i) {
  return static_cast<std::int8_t>(static_cast<std::uint32_t>(quads[quad * rows + row]) >> (8 * i));
}

// Σ codes · activations over a segment, with the correction for the zero points.
std::int32_t segment_sum(const DotArguments& a, const std::uint8_t* codes, std::size_t column, std::size_t parameter,
                         std::size_t segment, std::size_t row) {
  const ActivationStrip& strip = a.strip;
  const std::int32_t start = strip.starts[segment * strip.rows + row];
  std::int32_t sum = start;
  if (a.zero_points != nullptr) {
    const std::int32_t high = static_cast<std::int16_t>(static_cast<std::uint32_t>(start) & 0xffffU);
    const std::int32_t low = static_cast<std::int16_t>(static_cast<std::uint32_t>(start) >> 16);
    sum = a.zero_points[parameter] * (128 * high + low);
  }
  for (std::size_t q = segment * a.quads_per_segment; q < (segment + 1) * a.quads_per_segment; q++) {
    for (std::size_t i = 0; i < kQuad; i++) {
      sum += code_at(a.format, codes, column, q, i) * activation_at(strip.quads, strip.rows, row, q, i);
    }
  }
  return sum;
}

void dot(const DotArguments& a) {
  const std::size_t planes = a.strip.two_planes ? 2 : 1, rows = a.strip.rows / planes;
  for (std::size_t t = 0; t < a.tiles; t++) {
    const std::uint8_t* const codes = a.codes + t * a.tile_bytes;
    for (std::size_t r = 0; r < rows; r++) {
      for (std::size_t c = 0; c < kTileColumns; c++) {
        float& out = a.out[r * a.out_stride + t * kTileColumns + c];
        float total = a.first ? 0.0F : out;
        for (std::size_t s = 0; s < a.segments; s++) {
          const std::size_t group = (a.segments_per_group - a.left_of_group + s) / a.segments_per_group;
          const std::size_t parameter = t * a.parameters + group * kTileColumns + c;
          std::int32_t sum = segment_sum(a, codes, c, parameter, s, planes * r);
          if (planes == 2) sum = add(shift_left<7>(sum), segment_sum(a, codes, c, parameter, s, 2 * r + 1));
          const float scale = scale_at(a.scale_type, a.scales, parameter);
          total = a.strip.per_token ? std::fmaf(to_float(sum), scale, total)
                                    : std::fmaf(to_float(sum), scale * a.strip.scales[s * rows + r], total);
        }
        out = a.strip.per_token && a.last ? total * a.strip.scales[r] : total;
      }
    }
  }
}

void integer_dot(const IntegerArguments& a) {
  for (std::size_t t = 0; t < a.tiles; t++) {
    const std::uint8_t* const codes = a.codes + t * a.tile_bytes;
    for (std::size_t r = 0; r < a.rows; r++) {
      for (std::size_t c = 0; c < kTileColumns; c++) {
        std::uint32_t sum = 0;
        for (std::size_t q = 0; q < a.quad_count; q++) {
          for (std::size_t i = 0; i < kQuad; i++) {
            sum += static_cast<std::uint32_t>(code_at(LineFormat::kBits8, codes, c, q, i) *
                                              activation_at(a.quads, a.rows, r, q, i));
          }
        }
        const std::size_t column = t * kTileColumns + c;
        const auto product = [](std::int32_t x, std::int32_t y) {
          return static_cast<std::uint32_t>(x) * static_cast<std::uint32_t>(y);
        };
        sum -= product(a.row_zeros[r], a.column_terms[column]) + product(a.column_zeros[column], a.row_sums[r]);
        a.out[r * a.out_stride + column] = static_cast<std::int32_t>(sum);
      }
    }
  }
}

void float_dot(const FloatArguments& a) {
  for (std::size_t t = 0; t < a.tiles; t++) {
    for (std::size_t r = 0; r < a.rows; r++) {
      for (std::size_t c = 0; c < kTileColumns; c++) {
        float& out = a.out[r * a.out_stride + t * kTileColumns + c];
        float sum = a.first ? 0.0F : out;
        for (std::size_t k = 0; k < a.count; k++) {
          const float weight = scale_at(a.type, a.weights, t * a.tile_stride + k * kTileColumns + c);
          sum = std::fmaf(weight, a.activations[k * a.rows + r], sum);
        }
        out = sum;
      }
    }
  }
}

void decode(LineFormat format, const std::uint8_t* codes, std::size_t quads, std::uint8_t* out) {
  for (std::size_t q = 0; q < quads; q++) {
    for (std::size_t c = 0; c < kTileColumns; c++) {
      for (std::size_t i = 0; i < kQuad; i++) {
        out[q * kLineBytes + 4 * c + i] = static_cast<std::uint8_t>(code_at(format, codes, c, q, i));
      }
    }
  }
}

void dequantize_tile(const DequantizeTileArguments& a) {
  for (std::size_t q = 0; q < a.quads; q++) {
    for (std::size_t i = 0; i < kQuad; i++) {
      for (std::size_t c = 0; c < kTileColumns; c++) {
        const std::size_t quad = a.first_quad + q, parameter = quad / a.quads_per_group * kTileColumns + c;
        const std::int32_t zero_point = a.zero_points == nullptr ? a.zero_point : a.zero_points[parameter];
        const std::int32_t code = code_at(a.format, a.codes, c, quad, i);
        const float value = has_float_values(a.format)
                                ? value_of(codebook_of(a.format), static_cast<std::uint8_t>(code))
                                : to_float(code - zero_point);
        const float scaled = value * scale_at(a.scale_type, a.scales, parameter);
        a.out[(q * kQuad + i) * kTileColumns + c] = a.offsets == nullptr ? scaled : scaled + a.offsets[parameter];
      }
    }
  }
}

float magnitude_of(float x) { return float_of(bits_of(x) & 0x7fffffffU); }

// Below this 127 / largest would not be finite.
constexpr float kNothing = 0x1p-110F;

std::ptrdiff_t quantize_row(const QuantizeRowArguments& a) {
  const float steps = a.two_planes ? 127.0F * 128.0F : 127.0F;
  float largest_of_all = 0.0F;
  for (std::size_t k = 0; k < a.count; k++) {
    if (!is_finite(a.x[k])) return static_cast<std::ptrdiff_t>(k);
    largest_of_all = max(magnitude_of(a.x[k]), largest_of_all);
  }
  for (std::size_t s = 0; s < a.segments; s++) {
    const std::size_t begin = s * a.segment, end = begin + a.segment;
    float largest = largest_of_all;
    if (!a.per_token) {
      largest = 0.0F;
      for (std::size_t k = begin; k < end && k < a.count; k++) largest = max(magnitude_of(a.x[k]), largest);
    }
    const bool nothing = largest < kNothing;
    const float factor = nothing ? 0.0F : steps / largest;
    a.scales[a.per_token ? 0 : s] = nothing ? 0.0F : largest / steps;
    std::int32_t sum = 0;
    for (std::size_t k = begin; k < end; k++) {
      const std::int32_t q = k < a.count ? round_to_int(a.x[k] * factor) : 0;
      sum += q;
      const std::int32_t high = a.two_planes ? (q + 64) >> 7 : q;
      a.high[k] = static_cast<std::int8_t>(high);
      if (a.two_planes) a.low[k] = static_cast<std::int8_t>(q - 128 * high);
    }
    a.sums[s] = sum;
  }
  return -1;
}

void finish(float* y, const float* bias, Activation activation, const float* factor, std::size_t count) {
  for (std::size_t i = 0; i < count; i++) {
    float value = bias == nullptr ? y[i] : y[i] + bias[i];
    if (activation == Activation::kSilu) value = silu(value);
    if (activation == Activation::kGelu) value = gelu(value);
    if (activation == Activation::kGeluTanh) value = gelu_tanh(value);
    y[i] = factor == nullptr ? value : value * factor[i];
  }
}

}  // namespace

const MatmulKernels kMatmul = {
    8,
    8,
    [](std::size_t) { return std::size_t{1}; },
    [](std::size_t) { return std::size_t{1}; },
    0,
    16,
    dot,
    integer_dot,
    float_dot,
    decode,
    dequantize_tile,
    quantize_row,
    finish,
};

}  // namespace lowbit::scalar
