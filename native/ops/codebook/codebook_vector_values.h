// Codebooks, sixteen lanes at a time: the values of codes. Included after core/simd/<isa>.h.

#pragma once

#include "core/simd/small_floats.h"
#include "ops/codebook/codebook_kernels.h"
#include "ops/codebook/codebook_math.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr bool is_small_float(Codebook book) {
  return book == Codebook::kE4m3fn || book == Codebook::kE5m2 || book == Codebook::kE2m3 || book == Codebook::kE3m2 ||
         book == Codebook::kE2m1;
}
constexpr SmallFloatType small_type_of(Codebook book) {
  switch (book) {
    case Codebook::kE4m3fn:
      return SmallFloatType::kFloat8E4m3fn;
    case Codebook::kE5m2:
      return SmallFloatType::kFloat8E5m2;
    case Codebook::kE2m3:
      return SmallFloatType::kFloat6E2m3fn;
    case Codebook::kE3m2:
      return SmallFloatType::kFloat6E3m2fn;
    default:
      return SmallFloatType::kFloat4E2m1fn;
  }
}

// Codes, with zeros above their bits, to values.
template <Codebook Book>
LOWBIT_INLINE F32x16 values_of(I32x16 codes) {
  if constexpr (Book == Codebook::kNf4) {
    return look_up(load<FloatType::kFloat32>(kNf4Values), codes);
  } else if constexpr (Book == Codebook::kFp4) {
    return look_up(load<FloatType::kFloat32>(kFp4Values), codes);
  } else if constexpr (Book == Codebook::kFixed8) {
    return mul(to_float(sub(bit_xor(codes, broadcast(128)), broadcast(128))), broadcast(0x1p-6F));
  } else if constexpr (Book == Codebook::kTernary) {
    return to_float(sub(bit_xor(codes, broadcast(2)), broadcast(2)));
  } else if constexpr (Book == Codebook::kBinary) {
    return to_float(sub(add(codes, codes), broadcast(1)));
  } else {
    return from_small<small_type_of(Book)>(codes);
  }
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
