// Dot products of bytes on AArch64 Advanced SIMD. All of them multiply signed bytes: small codes are that as they are,
// and those of 8 bits get 128 subtracted as they are read. matmul_neondot.cc and matmul_neoni8mm.cc name what they
// have:
//
//   LOWBIT_NEON_SDOT    four products added to a lane
//   LOWBIT_NEON_SMMLA   two rows of eight bytes by two columns of them as well

#include "ops/matmul/matmul_kernels.h"

namespace lowbit::LOWBIT_ISA {
namespace {

constexpr std::int32_t kByteOffset = 128;
constexpr LineFormat kSmallFormat = LineFormat::kSmallBytes;

struct Line {
  uint8x16_t v[4];  // columns 0–3, 4–7, 8–11, 12–15
};
LOWBIT_INLINE Line load_line(const std::uint8_t* p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
LOWBIT_INLINE Line load_wide_line(const std::uint8_t* p) {
  const uint8x16_t flip = vdupq_n_u8(0x80);
  const Line line = load_line(p);
  return {{veorq_u8(line.v[0], flip), veorq_u8(line.v[1], flip), veorq_u8(line.v[2], flip), veorq_u8(line.v[3], flip)}};
}
LOWBIT_INLINE void store_line(std::uint8_t* p, Line line) {
  vst1q_u8(p, line.v[0]);
  vst1q_u8(p + 16, line.v[1]);
  vst1q_u8(p + 32, line.v[2]);
  vst1q_u8(p + 48, line.v[3]);
}
LOWBIT_INLINE I32x16 lanes_of(Line line) {
  return {vreinterpretq_s32_u8(line.v[0]), vreinterpretq_s32_u8(line.v[1]), vreinterpretq_s32_u8(line.v[2]),
          vreinterpretq_s32_u8(line.v[3])};
}
LOWBIT_INLINE Line either(Line a, Line b) {
  return {{vorrq_u8(a.v[0], b.v[0]), vorrq_u8(a.v[1], b.v[1]), vorrq_u8(a.v[2], b.v[2]), vorrq_u8(a.v[3], b.v[3])}};
}

template <int Shift, int Mask>
LOWBIT_INLINE uint8x16_t field(uint8x16_t bytes) {
  if constexpr (Shift > 0) bytes = vshrq_n_u8(bytes, Shift);
  return Mask == 0xff >> Shift ? bytes : vandq_u8(bytes, vdupq_n_u8(Mask));
}
// Entries 0 … 15 of a table of bytes.
LOWBIT_INLINE Line look_up_bytes(const std::uint8_t* table, Line indices) {
  const uint8x16_t entries = vld1q_u8(table);
  return {{vqtbl1q_u8(entries, indices.v[0]), vqtbl1q_u8(entries, indices.v[1]), vqtbl1q_u8(entries, indices.v[2]),
           vqtbl1q_u8(entries, indices.v[3])}};
}

// (byte >> Shift) & Mask
template <int Shift, int Mask>
LOWBIT_INLINE Line field(Line line) {
  return {{field<Shift, Mask>(line.v[0]), field<Shift, Mask>(line.v[1]), field<Shift, Mask>(line.v[2]),
           field<Shift, Mask>(line.v[3])}};
}
template <int J>
LOWBIT_INLINE uint8x16_t third_bit(uint8x16_t bytes) {
  if constexpr (J < 2) bytes = vshlq_n_u8(bytes, 2 - J);
  if constexpr (J > 2) bytes = vshrq_n_u8(bytes, J - 2);
  return vandq_u8(bytes, vdupq_n_u8(4));
}
// Bit J of every byte, as its third bit.
template <int J>
LOWBIT_INLINE Line third_bit(Line line) {
  return {{third_bit<J>(line.v[0]), third_bit<J>(line.v[1]), third_bit<J>(line.v[2]), third_bit<J>(line.v[3])}};
}
LOWBIT_INLINE int8x16_t signed_bytes(uint8x16_t bytes) { return vreinterpretq_s8_u8(bytes); }

struct Quad {
  int8x16_t v;
};
LOWBIT_INLINE Quad load_quad(const std::int32_t* p) { return {vreinterpretq_s8_s32(vdupq_n_s32(*p))}; }

// zero · (128 · high + low)
LOWBIT_INLINE I32x16 zero_times_pair(I32x16 zero, std::int32_t pair) {
  const auto high = static_cast<std::int16_t>(static_cast<std::uint32_t>(pair) & 0xffffU);
  return mul(zero, broadcast(128 * high + (pair >> 16)));
}

#if defined(LOWBIT_NEON_SDOT)

template <bool Wide>
struct Partial {
  I32x16 v;
  static LOWBIT_INLINE Partial begin(I32x16 sum) { return {sum}; }
  LOWBIT_INLINE I32x16 end(I32x16) const { return v; }
};
template <bool Wide>
LOWBIT_INLINE Partial<Wide> dot(Partial<Wide> sum, Line codes, Quad quad) {
  return {{vdotq_s32(sum.v.a, signed_bytes(codes.v[0]), quad.v), vdotq_s32(sum.v.b, signed_bytes(codes.v[1]), quad.v),
           vdotq_s32(sum.v.c, signed_bytes(codes.v[2]), quad.v), vdotq_s32(sum.v.d, signed_bytes(codes.v[3]), quad.v)}};
}

// Two rows of sums of a tile, to which products over two quads are added.
constexpr bool kRowPairs = true;

#if defined(LOWBIT_NEON_SMMLA)

template <bool Wide>
struct RowPair {
  int32x4_t v[8];  // columns 0–1, 2–3, …: both of the first row, both of the second

  struct Codes {
    int8x16_t v[8];  // the same columns: eight bytes of each
  };
  struct Activations {
    int8x16_t v;  // eight bytes of each row
  };
  static LOWBIT_INLINE Codes codes(Line first, Line second) {
    const I32x16 a = lanes_of(first), b = lanes_of(second);
    const auto low = [](int32x4_t x, int32x4_t y) { return vreinterpretq_s8_s32(vzip1q_s32(x, y)); };
    const auto high = [](int32x4_t x, int32x4_t y) { return vreinterpretq_s8_s32(vzip2q_s32(x, y)); };
    return {{low(a.a, b.a), high(a.a, b.a), low(a.b, b.b), high(a.b, b.b), low(a.c, b.c), high(a.c, b.c), low(a.d, b.d),
             high(a.d, b.d)}};
  }
  static LOWBIT_INLINE Activations activations(const std::int32_t* first, const std::int32_t* second) {
    const int32x2_t zero = vdup_n_s32(0);
    return {
        vreinterpretq_s8_s32(vzip1q_s32(vcombine_s32(vld1_s32(first), zero), vcombine_s32(vld1_s32(second), zero)))};
  }
  static LOWBIT_INLINE int32x4_t low(int32x4_t x, int32x4_t y) {
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(x), vreinterpretq_s64_s32(y)));
  }
  static LOWBIT_INLINE int32x4_t high(int32x4_t x, int32x4_t y) {
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(x), vreinterpretq_s64_s32(y)));
  }
  static LOWBIT_INLINE RowPair begin(I32x16 x, I32x16 y) {
    return {{low(x.a, y.a), high(x.a, y.a), low(x.b, y.b), high(x.b, y.b), low(x.c, y.c), high(x.c, y.c), low(x.d, y.d),
             high(x.d, y.d)}};
  }
  LOWBIT_INLINE I32x16 first() const { return {low(v[0], v[1]), low(v[2], v[3]), low(v[4], v[5]), low(v[6], v[7])}; }
  LOWBIT_INLINE I32x16 second() const {
    return {high(v[0], v[1]), high(v[2], v[3]), high(v[4], v[5]), high(v[6], v[7])};
  }
  LOWBIT_INLINE RowPair plus(Codes codes, Activations activations) const {
    RowPair sum;
    LOWBIT_UNROLL
    for (int i = 0; i < 8; i++) sum.v[i] = vmmlaq_s32(v[i], activations.v, codes.v[i]);
    return sum;
  }
};

#else

template <bool Wide>
struct RowPair {
  I32x16 row[2];

  struct Codes {
    Line first, second;
  };
  struct Activations {
    int8x8_t first, second;  // both rows
  };
  static LOWBIT_INLINE Codes codes(Line first, Line second) { return {first, second}; }
  static LOWBIT_INLINE Activations activations(const std::int32_t* first, const std::int32_t* second) {
    return {vreinterpret_s8_s32(vld1_s32(first)), vreinterpret_s8_s32(vld1_s32(second))};
  }
  static LOWBIT_INLINE RowPair begin(I32x16 x, I32x16 y) { return {{x, y}}; }
  LOWBIT_INLINE I32x16 first() const { return row[0]; }
  LOWBIT_INLINE I32x16 second() const { return row[1]; }

  template <int Row>
  static LOWBIT_INLINE I32x16 dot(I32x16 sum, Line codes, int8x8_t quads) {
    return {vdotq_lane_s32(sum.a, signed_bytes(codes.v[0]), quads, Row),
            vdotq_lane_s32(sum.b, signed_bytes(codes.v[1]), quads, Row),
            vdotq_lane_s32(sum.c, signed_bytes(codes.v[2]), quads, Row),
            vdotq_lane_s32(sum.d, signed_bytes(codes.v[3]), quads, Row)};
  }
  LOWBIT_INLINE RowPair plus(Codes codes, Activations a) const {
    return {{dot<0>(dot<0>(row[0], codes.first, a.first), codes.second, a.second),
             dot<1>(dot<1>(row[1], codes.first, a.first), codes.second, a.second)}};
  }
};

#endif

// Thirty-two registers: 4 × 1 sums of four, with the codes of two quads beside them; 6 × 1 sums of floats.
constexpr int kDotRows = 4, kFloatRows = 6;
constexpr int dot_tiles_for(int rows) { return rows <= 1 ? 2 : 1; }
constexpr std::size_t kDecodeRows = 24;

#else

constexpr bool kRowPairs = false;

template <bool Wide>
struct Partial;

// Sums of 16 bits, four for every column: a run of 8 quads adds at most 8 · 15 · 128, and two of them are below 2^15.
template <>
struct Partial<false> {
  int16x8_t v[8];  // columns 0–1, 2–3, …
  static LOWBIT_INLINE Partial begin(I32x16) {
    const int16x8_t zero = vdupq_n_s16(0);
    return {{zero, zero, zero, zero, zero, zero, zero, zero}};
  }
  LOWBIT_INLINE I32x16 end(I32x16 sum) const {
    return {vpadalq_s16(sum.a, vpaddq_s16(v[0], v[1])), vpadalq_s16(sum.b, vpaddq_s16(v[2], v[3])),
            vpadalq_s16(sum.c, vpaddq_s16(v[4], v[5])), vpadalq_s16(sum.d, vpaddq_s16(v[6], v[7]))};
  }
};
LOWBIT_INLINE Partial<false> dot(Partial<false> sum, Line codes, Quad quad) {
  LOWBIT_UNROLL
  for (int i = 0; i < 4; i++) {
    const int8x16_t bytes = signed_bytes(codes.v[i]);
    sum.v[2 * i] = vmlal_s8(sum.v[2 * i], vget_low_s8(bytes), vget_low_s8(quad.v));
    sum.v[2 * i + 1] = vmlal_high_s8(sum.v[2 * i + 1], bytes, quad.v);
  }
  return sum;
}

// Sums of 32 bits, two for every column. One product of −128 · −128 still fits into 16 bits, two would not.
template <>
struct Partial<true> {
  int32x4_t v[8];  // columns 0–1, 2–3, …
  static LOWBIT_INLINE Partial begin(I32x16) {
    const int32x4_t zero = vdupq_n_s32(0);
    return {{zero, zero, zero, zero, zero, zero, zero, zero}};
  }
  LOWBIT_INLINE I32x16 end(I32x16 sum) const {
    return {vaddq_s32(sum.a, vpaddq_s32(v[0], v[1])), vaddq_s32(sum.b, vpaddq_s32(v[2], v[3])),
            vaddq_s32(sum.c, vpaddq_s32(v[4], v[5])), vaddq_s32(sum.d, vpaddq_s32(v[6], v[7]))};
  }
};
LOWBIT_INLINE Partial<true> dot(Partial<true> sum, Line codes, Quad quad) {
  LOWBIT_UNROLL
  for (int i = 0; i < 4; i++) {
    const int8x16_t bytes = signed_bytes(codes.v[i]);
    sum.v[2 * i] = vpadalq_s16(sum.v[2 * i], vmull_s8(vget_low_s8(bytes), vget_low_s8(quad.v)));
    sum.v[2 * i + 1] = vpadalq_s16(sum.v[2 * i + 1], vmull_high_s8(bytes, quad.v));
  }
  return sum;
}

// Thirty-two registers: 2 × 1 sums of eight; 6 × 1 sums of floats.
constexpr int kDotRows = 2, kFloatRows = 6;
constexpr int dot_tiles_for(int) { return 1; }
constexpr std::size_t kDecodeRows = 8;

#endif

constexpr int float_tiles_for(int rows) { return rows <= 2 ? 2 : 1; }

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
