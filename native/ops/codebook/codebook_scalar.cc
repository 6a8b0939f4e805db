// Codebooks, the specification: codebook_math.h applied to one element after the other.

#include "core/packed_codes.h"
#include "ops/codebook/codebook_kernels.h"
#include "ops/codebook/codebook_math.h"

namespace lowbit::scalar {
namespace {

bool scales(const float* largest, std::size_t count, Codebook book, ScaleRule rule, FloatType scale_type,
            float global_scale, float* scales) {
  bool finite = true;
  for (std::size_t g = 0; g < count; g++) {
    scales[g] = scale_from(largest[g], book, rule, scale_type, global_scale);
    finite = finite && is_finite(scales[g]);
  }
  return finite;
}

void quantize(const void* x, FloatType type, std::size_t count, std::size_t group_size, const float* scales,
              Codebook book, bool /*stream*/, std::uint8_t* codes) {
  const CodeType code = code_type_of(book);
  for (std::size_t i = 0; i < code.packed_bytes(count); i++) codes[i] = 0;
  for (std::size_t i = 0; i < count; i++) {
    set_code(codes, code, i, code_of(book, element(x, type, i), scales[i / group_size]));
  }
}

void dequantize(const std::uint8_t* codes, Codebook book, std::size_t count, std::size_t group_size,
                const float* scales, FloatType out_type, void* out, bool /*stream*/) {
  const CodeType code{format_of(book).bits, false};
  for (std::size_t i = 0; i < count; i++) {
    const auto bits = static_cast<std::uint8_t>(code_at(codes, code, i));
    set_element(out, out_type, i, value_of(book, bits) * scales[i / group_size]);
  }
}

}  // namespace

const CodebookKernels kCodebook = {scales, quantize, dequantize};

}  // namespace lowbit::scalar
