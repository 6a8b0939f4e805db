// Affine quantization, the specification: affine_math.h applied to one element after the other.

#include "core/packed_codes.h"
#include "ops/affine/affine_kernels.h"
#include "ops/affine/affine_math.h"

namespace lowbit::scalar {
namespace {

std::size_t group_end(std::size_t begin, std::size_t group_size, std::size_t count) {
  return group_size < count - begin ? begin + group_size : count;
}

bool absmax(const void* x, FloatType type, std::size_t count, std::size_t group_size, float* absmax) {
  bool finite = true;
  for (std::size_t begin = 0, g = 0; begin < count; begin = group_end(begin, group_size, count), g++) {
    absmax[g] = 0.0F;
    for (std::size_t i = begin; i < group_end(begin, group_size, count); i++) {
      const float value = element(x, type, i);
      const float magnitude = value < 0.0F ? -value : value;
      finite = finite && is_finite(value);
      if (magnitude > absmax[g]) absmax[g] = magnitude;
    }
  }
  return finite;
}

bool minmax(const void* x, FloatType type, std::size_t count, std::size_t group_size, float* min, float* max) {
  bool finite = true;
  for (std::size_t begin = 0, g = 0; begin < count; begin = group_end(begin, group_size, count), g++) {
    min[g] = max[g] = 0.0F;
    for (std::size_t i = begin; i < group_end(begin, group_size, count); i++) {
      const float value = element(x, type, i);
      finite = finite && is_finite(value);
      if (value < min[g]) min[g] = value;
      if (value > max[g]) max[g] = value;
    }
  }
  return finite;
}

bool symmetric_scales(const float* absmax, std::size_t count, int steps, FloatType scale_type, float* scales) {
  bool finite = true;
  for (std::size_t g = 0; g < count; g++) {
    scales[g] = symmetric_scale(absmax[g], steps, scale_type);
    finite = finite && is_finite(scales[g]);
  }
  return finite;
}

bool asymmetric_parameters(const float* min, const float* max, std::size_t count, int lowest, int highest,
                           FloatType scale_type, float* scales, std::int32_t* zero_points) {
  bool finite = true;
  for (std::size_t g = 0; g < count; g++) {
    scales[g] = asymmetric_scale(min[g], max[g], lowest, highest, scale_type);
    zero_points[g] = zero_point_of(min[g], scales[g], lowest, highest);
    finite = finite && is_finite(scales[g]);
  }
  return finite;
}

void quantize(const void* x, FloatType type, std::size_t count, std::size_t group_size, const float* scales,
              const std::int32_t* zero_points, CodeType code, int lowest, int highest, bool /*within_range*/,
              bool /*stream*/, std::uint8_t* codes) {
  for (std::size_t i = 0; i < code.packed_bytes(count); i++) codes[i] = 0;
  for (std::size_t i = 0; i < count; i++) {
    const std::size_t g = i / group_size;
    const int zero_point = zero_points != nullptr ? zero_points[g] : 0;
    set_code(codes, code, i, quantize_one(element(x, type, i), scales[g], zero_point, lowest, highest));
  }
}

void finish_stream() {}

void dequantize(const std::uint8_t* codes, CodeType code, std::size_t count, std::size_t group_size,
                const float* scales, const std::int32_t* zero_points, FloatType out_type, void* out, bool /*stream*/) {
  for (std::size_t i = 0; i < count; i++) {
    const std::size_t g = i / group_size;
    const int zero_point = zero_points != nullptr ? zero_points[g] : 0;
    set_element(out, out_type, i, dequantize_one(code_at(codes, code, i), scales[g], zero_point));
  }
}

double squared_error(const float* x, std::size_t count, float scale, std::int32_t zero_point, int lowest, int highest) {
  double total = 0.0;
  for (std::size_t begin = 0; begin < count; begin = group_end(begin, kErrorBlock, count)) {
    float lanes[16] = {};
    for (std::size_t i = begin; i < group_end(begin, kErrorBlock, count); i++) {
      const int code = quantize_one(x[i], scale, zero_point, lowest, highest);
      const float error = x[i] - dequantize_one(code, scale, zero_point);
      lanes[i % 16] += error * error;
    }
    double sums[16];
    for (int i = 0; i < 16; i++) sums[i] = static_cast<double>(lanes[i]);
    for (int half = 8; half >= 1; half /= 2) {
      for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    }
    total += sums[0];
  }
  return total;
}

}  // namespace

const AffineKernels kAffine = {absmax,   minmax,        symmetric_scales, asymmetric_parameters,
                               quantize, finish_stream, dequantize,       squared_error};

}  // namespace lowbit::scalar
