// Codebooks, sixteen lanes at a time. Included by one file per instruction set, after its vector vocabulary
// (core/simd/<isa>.h), which names the namespace.

#include <cstring>
#include <limits>

#include "core/simd/runs.h"
#include "ops/codebook/codebook_vector_values.h"

namespace lowbit::LOWBIT_ISA {
namespace {

template <typename Body>
LOWBIT_INLINE void with_book(Codebook book, Body body) {
  switch (book) {
    case Codebook::kNf4:
      return body(std::integral_constant<Codebook, Codebook::kNf4>{});
    case Codebook::kFp4:
      return body(std::integral_constant<Codebook, Codebook::kFp4>{});
    case Codebook::kE4m3fn:
      return body(std::integral_constant<Codebook, Codebook::kE4m3fn>{});
    case Codebook::kE5m2:
      return body(std::integral_constant<Codebook, Codebook::kE5m2>{});
    case Codebook::kE2m3:
      return body(std::integral_constant<Codebook, Codebook::kE2m3>{});
    case Codebook::kE3m2:
      return body(std::integral_constant<Codebook, Codebook::kE3m2>{});
    case Codebook::kE2m1:
      return body(std::integral_constant<Codebook, Codebook::kE2m1>{});
    case Codebook::kFixed8:
      return body(std::integral_constant<Codebook, Codebook::kFixed8>{});
    case Codebook::kTernary:
      return body(std::integral_constant<Codebook, Codebook::kTernary>{});
    default:
      return body(std::integral_constant<Codebook, Codebook::kBinary>{});
  }
}

template <Codebook Book>
constexpr int kBits = format_of(Book).bits;

// --- scales --------------------------------------------------------------------------------------------------------

LOWBIT_INLINE F32x16 power_of_two_scales(F32x16 largest, int largest_exponent) {
  const I32x16 exponent = shift_right<23>(as_bits(select_zero(largest, broadcast(0x1p-126F), largest)));
  const I32x16 bits = shift_left<23>(sub(exponent, broadcast(largest_exponent)));
  return as_floats(max(bits, broadcast(0x400000)));  // 2^-127
}

LOWBIT_INLINE F32x16 nvfp4_scales(F32x16 largest, F32x16 global_scale) {
  constexpr SmallFloatType kType = SmallFloatType::kFloat8E4m3fn;
  const F32x16 wanted = div(mul(global_scale, largest), broadcast(kLargestE2m1));
  const F32x16 scale = from_small<kType>(bit_and(ToSmall<kType>(true)(wanted), broadcast(255)));
  return div(select_zero(scale, broadcast(0.125F), scale), global_scale);
}

bool scales(const float* largest, std::size_t count, Codebook book, ScaleRule rule, FloatType scale_type,
            float global_scale, float* scales) {
  if (rule == ScaleRule::kAbsmax || rule == ScaleRule::kLargest) {
    bool finite = true;
    for (std::size_t g = 0; g < count; g++) {
      scales[g] = scale_from(largest[g], book, rule, scale_type, global_scale);
      finite = finite && is_finite(scales[g]);
    }
    return finite;
  }
  I32x16 seen = broadcast(0);
  for (std::size_t g = 0; g < count; g += kLanes) {
    const std::size_t n = group_end(g, kLanes, count) - g;
    const F32x16 high = load_up_to<FloatType::kFloat32>(largest + g, n);
    const F32x16 scale = rule == ScaleRule::kPowerOfTwo ? power_of_two_scales(high, format_of(book).largest_exponent)
                                                        : nvfp4_scales(high, broadcast(global_scale));
    seen = max(seen, magnitude_bits(scale));
    store_up_to<FloatType::kFloat32>(scales + g, scale, n);
  }
  return horizontal_max(seen) < kInfinityBits;
}

// --- floats to codes -------------------------------------------------------------------------------------------------

// How a quotient is computed. A power of two is divided by as exactly with a product.
enum class Quotient : std::uint8_t { kDivide, kMultiply };

// Thresholds by cells of one eighth, of which none holds more than two: how many lie below a cell, and the next two.
// (No threshold is so near to the edge of a cell that rounding could carry an element across both.)
struct Cells {
  std::int32_t below[kLanes];
  float first[kLanes], second[kLanes];
};
constexpr Cells cells_from(float begin, const float* thresholds, int count) {
  constexpr float kNone = std::numeric_limits<float>::infinity();
  Cells cells{};
  for (std::size_t c = 0; c < kLanes; c++) {
    int below = 0;
    while (below < count && thresholds[below] < begin + static_cast<float>(c) * 0.125F) below++;
    cells.below[c] = below;
    cells.first[c] = below < count ? thresholds[below] : kNone;
    cells.second[c] = below + 1 < count ? thresholds[below + 1] : kNone;
  }
  return cells;
}
constexpr Cells kNf4Cells = cells_from(-1.0F, kNf4Thresholds, 15);
constexpr Cells kFp4Cells = cells_from(0.0F, kFp4Thresholds, 7);

// How many thresholds lie below v.
LOWBIT_INLINE I32x16 rank_of(F32x16 v, const Cells& cells, I32x16 cell) {
  const I32x16 below = as_bits(look_up(as_floats(load_lanes(cells.below)), cell));
  const F32x16 first = look_up(load<FloatType::kFloat32>(cells.first), cell);
  const F32x16 second = look_up(load<FloatType::kFloat32>(cells.second), cell);
  const I32x16 rank = select(less(first, v), add(below, broadcast(1)), below);
  return select(less(second, v), add(rank, broadcast(1)), rank);
}

LOWBIT_INLINE I32x16 cell_of(F32x16 v, float begin) {
  constexpr float kInLastCell = 0.9375F;
  const F32x16 clamped = min(max(v, broadcast(begin)), broadcast(kInLastCell));  // a NaN lies in the first
  return truncate_to_int(mul(sub(clamped, broadcast(begin)), broadcast(8.0F)));
}

// Sixteen elements to sixteen codes, as narrow() wants them.
template <Codebook Book>
class Encoder {
 public:
  static LOWBIT_INLINE I32x16 code(F32x16 quotient) {
    if constexpr (Book == Codebook::kNf4) {
      return rank_of(quotient, kNf4Cells, cell_of(quotient, -1.0F));
    } else if constexpr (Book == Codebook::kFp4) {
      const F32x16 magnitude = as_floats(magnitude_bits(quotient));
      const I32x16 rank = rank_of(magnitude, kFp4Cells, cell_of(magnitude, 0.0F));
      const I32x16 code = bit_xor(rank, shift_left<1>(bit_and(rank, broadcast(2))));
      return select(less(quotient, broadcast(0.0F)), bit_or(code, broadcast(8)), code);
    } else if constexpr (Book == Codebook::kFixed8) {
      return steps(mul(quotient, broadcast(64.0F)), -127.0F, 127.0F);
    } else if constexpr (Book == Codebook::kTernary) {
      return bit_and(steps(quotient, -1.0F, 1.0F), broadcast(3));
    } else if constexpr (Book == Codebook::kBinary) {
      const I32x16 sign = select(less(quotient, broadcast(0.0F)), broadcast(0), broadcast(1));
      return select(less(broadcast(kInfinityBits), magnitude_bits(quotient)), broadcast(0), sign);
    } else {
      return ToSmall<small_type_of(Book)>(true)(quotient);
    }
  }

 private:
  static LOWBIT_INLINE I32x16 steps(F32x16 x, float lowest, float highest) {
    return round_to_int(min(max(x, broadcast(lowest)), broadcast(highest)));
  }
};

// What a scale becomes before it meets the elements.
template <Codebook Book, Quotient How>
LOWBIT_INLINE F32x16 factor_of(F32x16 scale) {
  if constexpr (Book == Codebook::kNf4 || Book == Codebook::kFp4) {
    return div(broadcast(1.0F), max(scale, broadcast(1e-38F)));
  } else if constexpr (How == Quotient::kMultiply) {
    return div(broadcast(1.0F), scale);
  } else {
    return scale;
  }
}

template <Codebook Book, Quotient How>
LOWBIT_INLINE I32x16 encode(F32x16 x, F32x16 factor) {
  if constexpr (Book == Codebook::kBinary) {
    return Encoder<Book>::code(x);
  } else if constexpr (Book == Codebook::kNf4 || Book == Codebook::kFp4 || How == Quotient::kMultiply) {
    return Encoder<Book>::code(mul(x, factor));
  } else {
    return Encoder<Book>::code(div(x, factor));
  }
}

template <int Bits>
LOWBIT_INLINE std::uint8_t* byte_of(std::uint8_t* codes, std::size_t i) {
  return codes + i * Bits / 8;
}

// Thirty-two codes, of which the first `count` are stored.
template <int Bits, bool Stream>
LOWBIT_INLINE void store_unit(std::uint8_t* out, I32x16 low, I32x16 high) {
  if constexpr (Bits == 1) {
    const std::uint32_t bits = sign_mask(shift_left<31>(low)) | sign_mask(shift_left<31>(high)) << 16;
    std::memcpy(out, &bits, sizeof bits);
  } else {
    store_codes<Bits, Stream>(out, narrow(low, high), 0);
  }
}
template <int Bits>
LOWBIT_INLINE void store_part(std::uint8_t* out, I32x16 low, I32x16 high, std::size_t count) {
  if constexpr (Bits == 1) {
    const std::uint32_t all = sign_mask(shift_left<31>(low)) | sign_mask(shift_left<31>(high)) << 16;
    const std::uint32_t bits = count < 32 ? all & ((1U << count) - 1) : all;
    for (std::size_t i = 0; 8 * i < count; i++) out[i] = static_cast<std::uint8_t>(bits >> (8 * i));
  } else {
    store_first_codes<Bits>(out, narrow(low, high), 0, count);
  }
}

// Whole units of one group.
template <FloatType Type, Codebook Book, Quotient How, int Bits, bool Stream>
LOWBIT_INLINE void quantize_units(const Storage<Type>* x, std::size_t count, F32x16 factor, std::uint8_t* codes) {
  LOWBIT_NO_UNROLL
  for (std::size_t i = 0; i < count; i += kUnit) {
    const F32x16 a = load<Type>(x + i), b = load<Type>(x + i + kLanes);
    store_unit<Bits, Stream>(byte_of<Bits>(codes, i), encode<Book, How>(a, factor), encode<Book, How>(b, factor));
  }
}

// Less than a unit.
template <FloatType Type, Codebook Book, Quotient How, int Bits>
LOWBIT_NOINLINE void quantize_part(const Storage<Type>* x, std::size_t count, F32x16 factor, std::uint8_t* codes) {
  const std::size_t first = count < kLanes ? count : kLanes;
  const F32x16 a = load_up_to<Type>(x, first), b = load_first<Type>(x + first, count - first);
  store_part<Bits>(codes, encode<Book, How>(a, factor), encode<Book, How>(b, factor), count);
}

// Elements of one group that start on a byte.
template <FloatType Type, Codebook Book, Quotient How, int Bits, bool Stream>
LOWBIT_INLINE void quantize_group(const Storage<Type>* x, std::size_t count, F32x16 factor, std::uint8_t* codes) {
  const std::size_t whole = count / kUnit * kUnit;
  quantize_units<Type, Book, How, Bits, Stream>(x, whole, factor, codes);
  if (whole < count) {
    quantize_part<Type, Book, How, Bits>(x + whole, count - whole, factor, byte_of<Bits>(codes, whole));
  }
}

// Groups of sixteen: two make a unit.
template <FloatType Type, Codebook Book, Quotient How, bool Stream>
LOWBIT_INLINE void quantize_sixteens(const Storage<Type>* x, std::size_t groups, const float* scales,
                                     std::uint8_t* codes) {
  constexpr int kWidth = kBits<Book>;
  std::size_t g = 0;
  LOWBIT_NO_UNROLL
  for (; g + 2 <= groups; g += 2) {
    const F32x16 low = factor_of<Book, How>(broadcast(scales[g]));
    const F32x16 high = factor_of<Book, How>(broadcast(scales[g + 1]));
    const F32x16 a = load<Type>(x + g * kLanes), b = load<Type>(x + (g + 1) * kLanes);
    store_unit<kWidth, Stream>(byte_of<kWidth>(codes, g * kLanes), encode<Book, How>(a, low),
                               encode<Book, How>(b, high));
  }
  if (g < groups) {
    quantize_part<Type, Book, How, kWidth>(x + g * kLanes, kLanes, factor_of<Book, How>(broadcast(scales[g])),
                                           byte_of<kWidth>(codes, g * kLanes));
  }
}

// Groups that start on bytes.
template <FloatType Type, Codebook Book, Quotient How, bool Stream>
void quantize_groups(const Storage<Type>* x, std::size_t count, std::size_t group_size, const float* scales,
                     std::uint8_t* codes) {
  constexpr int kWidth = kBits<Book>;
  if (group_size == kLanes && count % kLanes == 0) {
    return quantize_sixteens<Type, Book, How, Stream>(x, count / kLanes, scales, codes);
  }
  LOWBIT_NO_UNROLL
  for (std::size_t begin = 0, g = 0; begin < count; begin += group_size, g++) {
    quantize_group<Type, Book, How, kWidth, Stream>(x + begin, group_end(begin, group_size, count) - begin,
                                                    factor_of<Book, How>(broadcast(scales[g])),
                                                    byte_of<kWidth>(codes, begin));
  }
}

// A scale for each element.
template <FloatType Type, Codebook Book>
void quantize_each(const Storage<Type>* x, std::size_t count, const float* scales, std::uint8_t* codes) {
  constexpr int kWidth = kBits<Book>;
  const auto lanes_at = [&](std::size_t i, std::size_t n) {
    const F32x16 factor = factor_of<Book, Quotient::kDivide>(load_up_to<FloatType::kFloat32>(scales + i, n));
    return encode<Book, Quotient::kDivide>(load_up_to<Type>(x + i, n), factor);
  };
  for (std::size_t i = 0; i < count; i += kUnit) {
    const std::size_t n = group_end(i, kUnit, count) - i, first = n < kLanes ? n : kLanes;
    const I32x16 a = lanes_at(i, first), b = first < n ? lanes_at(i + first, n - first) : a;
    store_part<kWidth>(byte_of<kWidth>(codes, i), a, b, n);
  }
}

// Groups that do not start on bytes: codes wait in a window, one to a byte.
template <FloatType Type, Codebook Book>
void quantize_ragged(const Storage<Type>* x, std::size_t count, std::size_t group_size, const float* scales,
                     std::uint8_t* codes) {
  constexpr int kWidth = kBits<Book>;
  std::uint8_t window[kWindow] = {};
  for (std::size_t base = 0; base < count; base += kWindow) {
    const std::size_t window_end = group_end(base, kWindow, count);
    for (std::size_t begin = base; begin < window_end;) {
      const std::size_t g = begin / group_size, next = (g + 1) * group_size;
      const std::size_t end = next < window_end ? next : window_end;
      quantize_group<Type, Book, Quotient::kDivide, 8, false>(
          x + begin, end - begin, factor_of<Book, Quotient::kDivide>(broadcast(scales[g])), window + (begin - base));
      begin = end;
    }
    for (std::size_t i = base; i < window_end; i += kUnit) {
      const std::size_t n = group_end(i, kUnit, window_end) - i;
      const std::uint8_t* in = window + (i - base);
      store_part<kWidth>(byte_of<kWidth>(codes, i), load_codes<8>(in), load_codes<8>(in + kLanes), n);
    }
  }
}

// Whether division by each of the scales may become multiplication by its reciprocal.
LOWBIT_INLINE bool are_powers_of_two(const float* scales, std::size_t count) {
  I32x16 mantissas = broadcast(0);
  F32x16 least = broadcast(1.0F), greatest = least;
  for (std::size_t g = 0; g < count; g += kLanes) {
    const std::size_t n = count - g < kLanes ? count - g : kLanes;
    const F32x16 scale = load_scales(scales + g, n);
    mantissas = bit_or(mantissas, bit_and(as_bits(scale), broadcast(0x7fffff)));
    least = min(scale, least);
    greatest = max(scale, greatest);
  }
  return is_zero(mantissas) && horizontal_min(least) >= 0x1p-126F && horizontal_max(greatest) <= 0x1p126F;
}

template <FloatType Type, Codebook Book, Quotient How>
LOWBIT_INLINE void quantize_how(const Storage<Type>* x, std::size_t count, std::size_t group_size, const float* scales,
                                bool stream, std::uint8_t* codes) {
  constexpr bool kCanStream = kBits<Book> != 1;
  if (kCanStream && stream && can_stream(codes) && (group_size >= count || group_size % kUnit == 0)) {
    quantize_groups<Type, Book, How, kCanStream>(x, count, group_size, scales, codes);
  } else {
    quantize_groups<Type, Book, How, false>(x, count, group_size, scales, codes);
  }
}

template <FloatType Type, Codebook Book>
void quantize_as(const Storage<Type>* x, std::size_t count, std::size_t group_size, const float* scales, bool stream,
                 std::uint8_t* codes) {
  if (count == 0) return;
  if (group_size == 1 && count > 1) return quantize_each<Type, Book>(x, count, scales, codes);
  if (!starts_on_bytes<kBits<Book>>(group_size, count)) {
    return quantize_ragged<Type, Book>(x, count, group_size, scales, codes);
  }
  if constexpr (is_small_float(Book) || Book == Codebook::kFixed8) {
    if (are_powers_of_two(scales, ceil_div(count, group_size))) {
      return quantize_how<Type, Book, Quotient::kMultiply>(x, count, group_size, scales, stream, codes);
    }
  }
  quantize_how<Type, Book, Quotient::kDivide>(x, count, group_size, scales, stream, codes);
}

void quantize(const void* x, FloatType type, std::size_t count, std::size_t group_size, const float* scales,
              Codebook book, bool stream, std::uint8_t* codes) {
  with_type(type, [&](auto t) {
    with_book(book, [&](auto b) {
      quantize_as<t.value, b.value>(static_cast<const Storage<t.value>*>(x), count, group_size, scales, stream, codes);
    });
  });
}

// --- codes to floats -------------------------------------------------------------------------------------------------

template <int Bits>
LOWBIT_INLINE I32x16 load_sixteen(const std::uint8_t* in) {
  if constexpr (Bits == 1) {
    return keep_where(static_cast<std::uint32_t>(in[0] | in[1] << 8), broadcast(1));
  } else {
    return load_codes<Bits>(in);
  }
}
template <int Bits>
LOWBIT_INLINE I32x16 load_part(const std::uint8_t* in, std::size_t count) {
  if constexpr (Bits == 1) {
    return keep_where(static_cast<std::uint32_t>(in[0] | (count > 8 ? in[1] << 8 : 0)), broadcast(1));
  } else {
    return load_up_to_codes<Bits>(in, count);
  }
}

// Less than sixteen elements.
template <FloatType Out, Codebook Book, int Bits>
LOWBIT_NOINLINE void dequantize_part(const std::uint8_t* codes, std::size_t count, F32x16 scale, Storage<Out>* out) {
  store_first<Out>(out, mul(values_of<Book>(load_part<Bits>(codes, count)), scale), count);
}

template <FloatType Out, Codebook Book, int Bits, bool Stream>
LOWBIT_INLINE void dequantize_group(const std::uint8_t* codes, std::size_t count, F32x16 scale, Storage<Out>* out) {
  std::size_t i = 0;
  LOWBIT_NO_UNROLL
  for (; i + kLanes <= count; i += kLanes) {
    store<Out, Stream>(out + i, mul(values_of<Book>(load_sixteen<Bits>(codes + i * Bits / 8)), scale));
  }
  if (i < count) dequantize_part<Out, Book, Bits>(codes + i * Bits / 8, count - i, scale, out + i);
}

template <FloatType Out, Codebook Book, bool Stream>
void dequantize_groups(const std::uint8_t* codes, std::size_t count, std::size_t group_size, const float* scales,
                       Storage<Out>* out) {
  constexpr int kWidth = kBits<Book>;
  if (group_size == kLanes && count % kLanes == 0) {
    LOWBIT_NO_UNROLL
    for (std::size_t g = 0; g < count / kLanes; g++) {
      const F32x16 values = values_of<Book>(load_sixteen<kWidth>(codes + g * (kLanes * kWidth / 8)));
      store<Out, Stream>(out + g * kLanes, mul(values, broadcast(scales[g])));
    }
    if constexpr (Stream) stream_fence();
    return;
  }
  LOWBIT_NO_UNROLL
  for (std::size_t begin = 0, g = 0; begin < count; begin += group_size, g++) {
    dequantize_group<Out, Book, kWidth, Stream>(codes + begin * kWidth / 8, group_end(begin, group_size, count) - begin,
                                                broadcast(scales[g]), out + begin);
  }
  if constexpr (Stream) stream_fence();
}

template <FloatType Out, Codebook Book>
void dequantize_each(const std::uint8_t* codes, std::size_t count, const float* scales, Storage<Out>* out) {
  for (std::size_t i = 0; i < count; i += kLanes) {
    const std::size_t n = count - i < kLanes ? count - i : kLanes;
    const I32x16 lanes = load_part<kBits<Book>>(codes + i * kBits<Book> / 8, n);
    store_up_to<Out>(out + i, mul(values_of<Book>(lanes), load_up_to<FloatType::kFloat32>(scales + i, n)), n);
  }
}

template <FloatType Out, Codebook Book>
void dequantize_ragged(const std::uint8_t* codes, std::size_t count, std::size_t group_size, const float* scales,
                       Storage<Out>* out) {
  constexpr int kWidth = kBits<Book>;
  std::uint8_t window[kWindow];
  for (std::size_t base = 0; base < count; base += kWindow) {
    const std::size_t window_end = group_end(base, kWindow, count);
    for (std::size_t i = base; i < window_end; i += kLanes) {
      const std::size_t n = group_end(i, kLanes, window_end) - i;
      store_low_bytes(window + (i - base), load_part<kWidth>(codes + i * kWidth / 8, n));
    }
    for (std::size_t begin = base; begin < window_end;) {
      const std::size_t g = begin / group_size, next = (g + 1) * group_size;
      const std::size_t end = next < window_end ? next : window_end;
      dequantize_group<Out, Book, 8, false>(window + (begin - base), end - begin, broadcast(scales[g]), out + begin);
      begin = end;
    }
  }
}

template <FloatType Out, Codebook Book>
void dequantize_as(const std::uint8_t* codes, std::size_t count, std::size_t group_size, const float* scales,
                   Storage<Out>* out, bool stream) {
  if (group_size == 1 && count > 1) {
    dequantize_each<Out, Book>(codes, count, scales, out);
  } else if (!starts_on_bytes<kBits<Book>>(group_size, count)) {
    dequantize_ragged<Out, Book>(codes, count, group_size, scales, out);
  } else if (stream && can_stream(out) && (group_size >= count || group_size % kLanes == 0)) {
    dequantize_groups<Out, Book, true>(codes, count, group_size, scales, out);
  } else {
    dequantize_groups<Out, Book, false>(codes, count, group_size, scales, out);
  }
}

void dequantize(const std::uint8_t* codes, Codebook book, std::size_t count, std::size_t group_size,
                const float* scales, FloatType out_type, void* out, bool stream) {
  with_type(out_type, [&](auto t) {
    with_book(book, [&](auto b) {
      dequantize_as<t.value, b.value>(codes, count, group_size, scales, static_cast<Storage<t.value>*>(out), stream);
    });
  });
}

}  // namespace

const CodebookKernels kCodebook = {scales, quantize, dequantize};

}  // namespace lowbit::LOWBIT_ISA
