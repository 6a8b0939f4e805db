#include "ops/affine/affine.h"

#include "ops/affine/affine_range.h"
#include "ops/affine/tensor_quantizer.h"

namespace lowbit {

namespace {

// Integer codes with a scale and a zero point, for a TensorQuantizer.
class AffineCodec {
 public:
  AffineCodec(const void* x, FloatType type, const AffineLayout& layout, const AffineScheme& scheme, float* scales,
              std::int32_t* zero_points, const CancelFlag* cancel)
      : k_(*kernels().affine),
        x_(x),
        type_(type),
        layout_(layout),
        scheme_(scheme),
        scales_(scales),
        zero_points_(zero_points),
        cancel_(cancel) {}

  CodeType code() const { return scheme_.code; }
  bool symmetric() const { return scheme_.symmetric; }
  bool needs_largest() const { return false; }
  void set_largest(float /*largest*/) const {}

  Outcome choose(RangeChoice range, float* low, float* high) const {
    switch (range.method) {
      case RangeChoice::Method::kPercentile:
        return percentile_ranges(x_, type_, layout_, range.percentile, low, high, cancel_);
      case RangeChoice::Method::kMse:
        return mse_ranges(x_, type_, layout_, scheme_, low, high, cancel_);
      default:
        return {};
    }
  }

  bool parameters(const float* low, const float* high, std::size_t first, std::size_t count) const {
    if (!scheme_.symmetric) {
      return k_.asymmetric_parameters(low, high, count, scheme_.lowest, scheme_.highest, scheme_.scale_type,
                                      scales_ + first, zero_points_ + first);
    }
    if (zero_points_ != nullptr) std::fill_n(zero_points_ + first, count, scheme_.symmetric_zero_point());
    return k_.symmetric_scales(high, count, scheme_.symmetric_steps(), scheme_.scale_type, scales_ + first);
  }
  float scale(std::size_t i) const { return scales_[i]; }

  void quantize(const void* x, const Run& r, bool within_range, bool stream, std::uint8_t* codes) const {
    k_.quantize(x, type_, r.count, r.group_size, scales_ + r.parameter,
                zero_points_ != nullptr ? zero_points_ + r.parameter : nullptr, scheme_.code, scheme_.lowest,
                scheme_.highest, within_range, stream, codes);
  }
  void finish_stream() const { k_.finish_stream(); }

 private:
  const AffineKernels& k_;
  const void* x_;
  FloatType type_;
  const AffineLayout& layout_;
  const AffineScheme& scheme_;
  float* scales_;
  std::int32_t* zero_points_;
  const CancelFlag* cancel_;
};

}  // namespace

Outcome quantize_affine(const void* x, FloatType type, const AffineLayout& layout, const AffineScheme& scheme,
                        RangeChoice range, NonFinite non_finite, float* scales, std::int32_t* zero_points,
                        std::uint8_t* codes, const CancelFlag* cancel) {
  AffineCodec codec(x, type, layout, scheme, scales, zero_points, cancel);
  return TensorQuantizer<AffineCodec>(x, type, layout, non_finite, codec, codes, cancel).run(range);
}

Outcome dequantize_affine(const std::uint8_t* codes, CodeType code, const AffineLayout& layout, const float* scales,
                          const std::int32_t* zero_points, void* out, FloatType out_type, const CancelFlag* cancel) {
  const AffineKernels& k = *kernels().affine;
  const AffineTiles tiles(layout, code);
  const bool stream = layout.element_count() * size_of(out_type) >= kStreamBytes;
  auto* out_bytes = static_cast<std::uint8_t*>(out);
  const auto one_run = [&](const Run& r) {
    k.dequantize(codes + r.code_offset, code, r.count, r.group_size, scales + r.parameter,
                 zero_points != nullptr ? zero_points + r.parameter : nullptr, out_type,
                 out_bytes + r.offset * size_of(out_type), stream);
  };
  const bool done = ThreadPool::instance().parallel_for(
      tiles.tile_count(), [&](std::size_t t) { tiles.for_each_run(t, one_run); }, cancel);
  return {done ? Status::kOk : Status::kCancelled, -1};
}

void unpack_codes(const std::uint8_t* codes, CodeType code, std::size_t rows, std::size_t columns, std::uint8_t* out) {
  const std::size_t row_bytes = code.packed_bytes(columns);
  const unsigned sign = code.is_signed ? 1U << (code.bits - 1) : 0U, mask = (1U << code.bits) - 1;
  for (std::size_t r = 0; r < rows; r++) {
    const std::uint8_t* row = codes + r * row_bytes;
    for (std::size_t c = 0; c < columns; c++) {
      const std::size_t bit = c * code.bits;
      unsigned word = row[bit / 8];
      if (bit % 8 + code.bits > 8) word |= static_cast<unsigned>(row[bit / 8 + 1]) << 8;
      *out++ = static_cast<std::uint8_t>((((word >> (bit % 8)) & mask) ^ sign) - sign);
    }
  }
}

}  // namespace lowbit
