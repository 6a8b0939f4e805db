// The activation functions of MatmulKernels::finish, written once over the vocabulary's names so that every instruction
// set gives the same bits: F is F32x16, or float in the scalar file. Included after those names are there.

#include "core/simd/exponential.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// x · sigmoid(u), where u is about x or of larger magnitude. Far below zero the result is nothing, but as e^-u is
// bounded, x must be too. (Of a NaN, max and min give the second operand.)
template <typename F>
LOWBIT_INLINE F gated(F x, F u) {
  return div(max(like(x, -256.0F), x), add(like(x, 1.0F), exponential(sub(like(x, 0.0F), u))));
}

// x · sigmoid(x): Elfwing et al., arXiv:1702.03118.
template <typename F>
LOWBIT_INLINE F silu(F x) {
  return gated(x, x);
}

// x · Φ(x): Hendrycks and Gimpel, arXiv:1606.08415, with erf by formula 7.1.26 of Abramowitz and Stegun (absolute error
// below 1.5e-7).
template <typename F>
LOWBIT_INLINE F gelu(F x) {
  const F magnitude = max(x, sub(like(x, 0.0F), x));
  const F z = mul(magnitude, like(x, 0.70710678F));
  const F t = div(like(x, 1.0F), fused(z, like(x, 0.3275911F), like(x, 1.0F)));
  F p = like(x, 1.061405429F);
  p = fused(p, t, like(x, -1.453152027F));
  p = fused(p, t, like(x, 1.421413741F));
  p = fused(p, t, like(x, -0.284496736F));
  p = fused(p, t, like(x, 0.254829592F));
  // half the tail of the normal distribution beyond |x|
  const F tail = mul(mul(mul(p, t), exponential(mul(sub(like(x, 0.0F), z), z))), like(x, 0.5F));
  // beyond 16 the tail is nothing, which an infinity must not be multiplied with
  return fused_negative(min(like(x, 16.0F), magnitude), tail, max(x, like(x, 0.0F)));
}

// The approximation of the same paper: x · sigmoid(2 √(2/π) (x + 0.044715 x³)).
template <typename F>
LOWBIT_INLINE F gelu_tanh(F x) {
  const F cubic = fused(mul(mul(x, x), x), like(x, 0.044715F), x);
  return gated(x, mul(cubic, like(x, 1.59576912F)));
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
