// The exponential function, written once over the vocabulary's names so that every instruction set gives the same bits:
// F is F32x16, or float in the scalar files. Included after those names are there.

namespace lowbit::LOWBIT_ISA {
namespace {

// e^x by 2^n · e^r with |r| ≤ ln 2 / 2 and a polynomial of degree 6 (relative error below 2^-23); x is kept where the
// result is a normal number.
template <typename F>
LOWBIT_INLINE F exponential(F x) {
  const F bounded = max(min(x, like(x, 88.0F)), like(x, -87.0F));
  const auto n = round_to_int(mul(bounded, like(x, 1.44269504F)));
  const F whole = to_float(n);
  const F r = fused_negative(whole, like(x, -2.12194440e-4F), fused_negative(whole, like(x, 0.693359375F), bounded));
  F p = like(x, 1.0F / 720.0F);
  p = fused(p, r, like(x, 1.0F / 120.0F));
  p = fused(p, r, like(x, 1.0F / 24.0F));
  p = fused(p, r, like(x, 1.0F / 6.0F));
  p = fused(p, r, like(x, 0.5F));
  p = fused(p, r, like(x, 1.0F));
  p = fused(p, r, like(x, 1.0F));
  return as_floats(add(as_bits(p), shift_left<23>(n)));
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
