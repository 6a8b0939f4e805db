#include "ops/codebook/codebook.h"

#include "ops/affine/affine_math.h"
#include "ops/affine/affine_range.h"
#include "ops/affine/tensor_quantizer.h"
#include "ops/bits/magnitudes.h"
#include "ops/codebook/codebook_math.h"

namespace lowbit {
namespace {

// Codes of a codebook, for a TensorQuantizer.
class CodebookCodec {
 public:
  CodebookCodec(const void* x, FloatType type, const AffineLayout& layout, const CodebookScheme& scheme, float* scales,
                float* global_scale, const CancelFlag* cancel)
      : k_(*kernels().codebook),
        x_(x),
        type_(type),
        layout_(layout),
        scheme_(scheme),
        scales_(scales),
        global_scale_(*global_scale),
        cancel_(cancel) {}

  CodeType code() const { return code_type_of(scheme_.book); }
  bool symmetric() const { return true; }
  bool needs_largest() const { return scheme_.rule == ScaleRule::kNvfp4 && global_scale_ == 0.0F; }
  void set_largest(float largest) {
    const float scale = kLargestE4m3 * kLargestE2m1 / largest;
    // Of tiny numbers as well it stays finite.
    global_scale_ = largest == 0.0F ? 1.0F : std::min(scale, std::numeric_limits<float>::max());
  }

  Outcome choose(RangeChoice range, float* low, float* high) const {
    if (range.method != RangeChoice::Method::kPercentile) return {};
    return percentile_ranges(x_, type_, layout_, range.percentile, low, high, cancel_);
  }

  bool parameters(const float* /*low*/, const float* high, std::size_t first, std::size_t count) const {
    return k_.scales(high, count, scheme_.book, scheme_.rule, scheme_.scale_type, global_scale_, scales_ + first);
  }
  float scale(std::size_t i) const { return scales_[i]; }

  void quantize(const void* x, const Run& r, bool /*within_range*/, bool stream, std::uint8_t* codes) const {
    k_.quantize(x, type_, r.count, r.group_size, scales_ + r.parameter, scheme_.book, stream, codes);
  }
  void finish_stream() const { kernels().affine->finish_stream(); }

 private:
  const CodebookKernels& k_;
  const void* x_;
  FloatType type_;
  const AffineLayout& layout_;
  const CodebookScheme& scheme_;
  float* scales_;
  float& global_scale_;
  const CancelFlag* cancel_;
};

// The scales of a rule of means, and what codes are to be computed with: the codes of ternary weight networks are not
// those of the nearest value, but of what exceeds a threshold, which is half a step of a scale twice as large.
Outcome mean_scales(const void* x, FloatType type, const AffineLayout& layout, const CodebookScheme& scheme,
                    float* scales, std::vector<float>& divisors, const CancelFlag* cancel) {
  switch (scheme.rule) {
    case ScaleRule::kMean:
      return binary_scales(x, type, layout, scheme.scale_type, scales, cancel);
    case ScaleRule::kAbsmean:
      return absmean_scales(x, type, layout, scheme.scale_type, scales, cancel);
    default: {
      divisors.resize(layout.parameter_count());
      const Outcome outcome = ternary_scales(x, type, layout, scheme.scale_type, divisors.data(), scales, cancel);
      for (float& threshold : divisors) threshold = threshold == 0.0F ? 1.0F : 2.0F * threshold;
      return outcome;
    }
  }
}

}  // namespace

Outcome quantize_codebook(const void* x, FloatType type, const AffineLayout& layout, const CodebookScheme& scheme,
                          RangeChoice range, NonFinite non_finite, float* scales, float* global_scale,
                          std::uint8_t* codes, const CancelFlag* cancel) {
  if (scheme.rule != ScaleRule::kNvfp4) *global_scale = 1.0F;
  std::vector<float> divisors;
  if (scheme.rule >= ScaleRule::kMean && range.method != RangeChoice::Method::kGiven) {
    const Outcome outcome = mean_scales(x, type, layout, scheme, scales, divisors, cancel);
    if (outcome.status != Status::kOk) return outcome;
    range.method = RangeChoice::Method::kGiven;
  }
  float* const used = divisors.empty() ? scales : divisors.data();
  CodebookCodec codec(x, type, layout, scheme, used, global_scale, cancel);
  return TensorQuantizer<CodebookCodec>(x, type, layout, non_finite, codec, codes, cancel).run(range);
}

Outcome dequantize_codebook(const std::uint8_t* codes, Codebook book, const AffineLayout& layout, const float* scales,
                            void* out, FloatType out_type, const CancelFlag* cancel) {
  const CodebookKernels& k = *kernels().codebook;
  const AffineTiles tiles(layout, code_type_of(book));
  const bool stream = layout.element_count() * size_of(out_type) >= kStreamBytes;
  auto* out_bytes = static_cast<std::uint8_t*>(out);
  const auto one_run = [&](const Run& r) {
    k.dequantize(codes + r.code_offset, book, r.count, r.group_size, scales + r.parameter, out_type,
                 out_bytes + r.offset * size_of(out_type), stream);
  };
  const bool done = ThreadPool::instance().parallel_for(
      tiles.tile_count(), [&](std::size_t t) { tiles.for_each_run(t, one_run); }, cancel);
  return {done ? Status::kOk : Status::kCancelled, -1};
}

}  // namespace lowbit
