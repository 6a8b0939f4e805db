#pragma once

// Quantized weights for the tests of whole products, and what a product with them is by plain loops.

#include <algorithm>
#include <cmath>

#include "core/float_bits.h"
#include "ops/matmul/matmul.h"
#include "test/check.h"

namespace lowbit::test {

enum class Zeros : std::uint8_t { kMiddle, kAlike, kVarying };

// Random codes, scales and zero points of W[rows, columns], packed; everything is in blocks of exactly its size.
// group_size 0: one scale for all; group_size ≥ columns: one for each row.
class RandomWeight {
 public:
  RandomWeight(CodeType type, std::size_t rows, std::size_t columns, std::size_t group_size, Zeros zeros,
               FloatType scale_type, Random& random)
      : rows_(rows),
        columns_(columns),
        group_size_(group_size == 0 ? std::max<std::size_t>(columns, 1) : group_size),
        row_stride_(group_size == 0 ? 0 : std::max<std::size_t>(1, (columns + group_size - 1) / group_size)),
        scales_(group_size == 0 ? 1 : rows * row_stride_),
        zeros_(zeros == Zeros::kMiddle ? 0 : scales_.size()),
        data_(rows * type.packed_bytes(columns)),
        codes_(rows * columns),
        middle_(type.is_signed ? 0 : 1 << (type.bits - 1)) {
    const auto any_code = [&] {
      return type.lowest() + static_cast<std::int32_t>(random.below(std::size_t{1} << type.bits));
    };
    for (std::size_t i = 0; i < scales_.size(); i++) {
      const float scale = random.between(0.001F, 0.1F);
      scales_[i] = scale_type == FloatType::kFloat16    ? float_of_float16(float16_of(scale))
                   : scale_type == FloatType::kBfloat16 ? float_of_bfloat16(bfloat16_of(scale))
                                                        : scale;
    }
    const std::int32_t zero = any_code();
    for (std::size_t i = 0; i < zeros_.size(); i++) zeros_[i] = zeros == Zeros::kAlike ? zero : any_code();
    // Bits past the last code of a row may be anything.
    for (std::size_t i = 0; i < data_.size(); i++) data_[i] = static_cast<std::uint8_t>(random.bits());
    for (std::size_t r = 0; r < rows; r++) {
      for (std::size_t k = 0; k < columns; k++) {
        const std::int32_t code = codes_[r * columns + k] = any_code();
        for (unsigned b = 0; b < type.bits; b++) {
          const std::size_t bit = k * type.bits + b;
          std::uint8_t& byte = data_[r * type.packed_bytes(columns) + bit / 8];
          byte = static_cast<std::uint8_t>((byte & ~(1 << (bit % 8))) | (((code >> b) & 1) << (bit % 8)));
        }
      }
    }
    packed_ = pack_codes({data_.data(), type, rows, columns, scales_.data(),
                          zeros == Zeros::kMiddle ? nullptr : zeros_.data(), row_stride_, group_size_});
  }

  const PackedWeight& packed() const { return packed_; }
  std::size_t rows() const { return rows_; }
  std::size_t columns() const { return columns_; }
  float scale(std::size_t r, std::size_t k) const { return scales_[parameter(r, k)]; }
  // The code's distance to its zero point.
  std::int32_t distance(std::size_t r, std::size_t k) const {
    return codes_[r * columns_ + k] - (zeros_.size() == 0 ? middle_ : zeros_[parameter(r, k)]);
  }
  double value(std::size_t r, std::size_t k) const { return static_cast<double>(scale(r, k)) * distance(r, k); }

 private:
  std::size_t parameter(std::size_t r, std::size_t k) const { return r * row_stride_ + k / group_size_; }

  std::size_t rows_, columns_, group_size_, row_stride_;
  Buffer<float> scales_;
  Buffer<std::int32_t> zeros_;
  Buffer<std::uint8_t> data_;
  std::vector<std::int32_t> codes_;
  std::int32_t middle_;
  PackedWeight packed_;
};

// An element of a product, and how far from it a result may be.
struct Element {
  double value, error;
};

// x·Wᵀ in float64; the error is that of one rounding for each k and each weight.
template <typename Weight>
std::vector<Element> exact_product(const Buffer<float>& x, std::size_t m, const Weight& weight) {
  const std::size_t n = weight.rows(), count = weight.columns();
  std::vector<Element> y(m * n);
  for (std::size_t i = 0; i < m; i++) {
    for (std::size_t j = 0; j < n; j++) {
      double sum = 0.0, magnitude = 0.0;
      for (std::size_t k = 0; k < count; k++) {
        const double term = static_cast<double>(x[i * count + k]) * weight.value(j, k);
        sum += term;
        magnitude += std::fabs(term);
      }
      y[i * n + j] = {sum, static_cast<double>(count + 2) * 0x1p-24 * magnitude};
    }
  }
  return y;
}

// x·Wᵀ on quantized activations, every operation as matmul_kernels.h says: without error.
inline std::vector<Element> quantized_product(const Buffer<float>& x, std::size_t m, const RandomWeight& weight,
                                              float steps, bool per_token) {
  const std::size_t n = weight.rows(), count = weight.columns();
  const auto segment = static_cast<std::size_t>(weight.packed().layout.segment);
  const std::size_t segments = (count + segment - 1) / segment;
  std::vector<Element> y(m * n);
  std::vector<std::int32_t> q(count);
  std::vector<float> scales(segments);
  const auto largest_of = [&](std::size_t row, std::size_t begin, std::size_t end) {
    float largest = 0.0F;
    for (std::size_t k = begin; k < end; k++) largest = std::max(largest, std::fabs(x[row * count + k]));
    return largest;
  };
  for (std::size_t i = 0; i < m; i++) {
    for (std::size_t s = 0; s < segments; s++) {
      const std::size_t begin = s * segment, end = std::min(count, begin + segment);
      const float largest = per_token ? largest_of(i, 0, count) : largest_of(i, begin, end);
      const bool nothing = largest < 0x1p-110F;
      scales[s] = nothing ? 0.0F : largest / steps;
      const float factor = nothing ? 0.0F : steps / largest;
      for (std::size_t k = begin; k < end; k++) {
        q[k] = static_cast<std::int32_t>(std::nearbyint(x[i * count + k] * factor));
      }
    }
    for (std::size_t j = 0; j < n; j++) {
      float total = 0.0F;
      for (std::size_t s = 0; s < segments; s++) {
        const std::size_t begin = s * segment, end = std::min(count, begin + segment);
        std::int32_t sum = 0;
        for (std::size_t k = begin; k < end; k++) sum += q[k] * weight.distance(j, k);
        const float scale = per_token ? weight.scale(j, begin) : weight.scale(j, begin) * scales[s];
        total = std::fma(static_cast<float>(sum), scale, total);
      }
      y[i * n + j] = {static_cast<double>(per_token && segments > 0 ? total * scales[0] : total), 0.0};
    }
  }
  return y;
}

inline double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case Activation::kNone:
      break;
  }
  return x;
}
constexpr Activation kActivations[] = {Activation::kNone, Activation::kSilu, Activation::kGelu, Activation::kGeluTanh};

}  // namespace lowbit::test
