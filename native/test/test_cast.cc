// Float conversion: the scalar file against arithmetic in float64, every instruction set against the scalar file, and
// the whole operation for every number of threads.

#include <cmath>

#include "core/float_bits.h"
#include "core/thread_pool.h"
#include "ops/cast/cast.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

// Every exponent with mantissas around every rounding boundary of both 16-bit types, both signs; infinities; NaNs with
// payloads in every place.
std::vector<float> float32_sweep() {
  std::vector<float> values;
  std::vector<std::uint32_t> mantissas = {0, 1, 2, 0x7fffff, 0x7ffffe, 0x400000, 0x3fffff, 0x400001};
  for (int bit = 0; bit < 23; bit++) {
    for (const std::uint32_t m : {1U << bit, (1U << bit) - 1, (1U << bit) + 1, 0x7fffffU ^ (1U << bit)}) {
      mantissas.push_back(m & 0x7fffffU);
    }
  }
  for (const int keep : {10, 7}) {  // ties: half of the last kept bit, above even and odd neighbours, and next to them
    const std::uint32_t half = 1U << (22 - keep);
    for (std::uint32_t k = 0; k < 8; k++) {
      for (const std::uint32_t m : {k * 2 * half + half, k * 2 * half + half - 1, k * 2 * half + half + 1}) {
        mantissas.push_back(m & 0x7fffffU);
        mantissas.push_back(0x7fffffU - m);
      }
    }
  }
  for (std::uint32_t exponent = 0; exponent < 256; exponent++) {
    for (const std::uint32_t mantissa : mantissas) {
      values.push_back(float_of((exponent << 23) | mantissa));
      values.push_back(float_of(0x80000000U | (exponent << 23) | mantissa));
    }
  }
  Random random(1);
  for (int i = 0; i < 200000; i++) values.push_back(float_of(random.bits32()));
  // Subnormal float16 results, where the unit in the last place is fixed.
  for (int i = 0; i < 100000; i++) values.push_back(random.between(-0x1p-13F, 0x1p-13F));
  return values;
}

// Rounds to a binary format in float64: the nearest multiple of the unit in the last place, ties to even.
double rounded_in_float64(double x, int mantissa_bits, int lowest_exponent, double overflow_at) {
  if (!std::isfinite(x) || x == 0.0) return x;
  int exponent = 0;
  std::frexp(x, &exponent);
  exponent = exponent - 1 < lowest_exponent ? lowest_exponent : exponent - 1;
  const double unit = std::ldexp(1.0, exponent - mantissa_bits);
  const double rounded = std::nearbyint(x / unit) * unit;
  return std::fabs(rounded) >= overflow_at ? std::copysign(INFINITY, x) : rounded;
}

bool same(double a, double b) { return a == b && std::signbit(a) == std::signbit(b); }

TEST("cast: scalar float32 → float16 → float32 equals float64 arithmetic, NaN stays a quiet NaN") {
  for (const float x : float32_sweep()) {
    const std::uint16_t half = float16_of(x);
    const float back = float_of_float16(half);
    if (std::isnan(x)) {
      CHECK(std::isnan(back) && (half & 0x0200) != 0 && std::signbit(back) == std::signbit(x), "NaN %08x gave %04x",
            bits_of(x), half);
    } else {
      const double expected = rounded_in_float64(static_cast<double>(x), 10, -14, 65536.0);
      CHECK(same(static_cast<double>(back), expected), "%a gave %a, expected %a", static_cast<double>(x),
            static_cast<double>(back), expected);
    }
  }
}

TEST("cast: scalar float32 → bfloat16 → float32 equals float64 arithmetic, NaN stays a quiet NaN") {
  for (const float x : float32_sweep()) {
    const std::uint16_t b = bfloat16_of(x);
    const float back = float_of_bfloat16(b);
    if (std::isnan(x)) {
      CHECK(std::isnan(back) && (b & 0x40) != 0 && std::signbit(back) == std::signbit(x), "NaN %08x gave %04x",
            bits_of(x), b);
    } else {
      const double expected = rounded_in_float64(static_cast<double>(x), 7, -126, 0x1p128);
      CHECK(same(static_cast<double>(back), expected), "%a gave %a, expected %a", static_cast<double>(x),
            static_cast<double>(back), expected);
    }
  }
}

TEST("cast: all 65,536 patterns of float16 and bfloat16 survive the way to float32 and back") {
  for (std::uint32_t i = 0; i < 65536; i++) {
    const auto pattern = static_cast<std::uint16_t>(i);
    const bool half_nan = (i & 0x7fff) > 0x7c00, brain_nan = (i & 0x7fff) > 0x7f80;
    CHECK(float16_of(float_of_float16(pattern)) == (half_nan ? (pattern | 0x200) : pattern), "float16 %04x", i);
    CHECK(bfloat16_of(float_of_bfloat16(pattern)) == (brain_nan ? (pattern | 0x40) : pattern), "bfloat16 %04x", i);
    CHECK(half_nan || static_cast<double>(float_of_float16(pattern)) ==
                          ((i & 0x8000) != 0 ? -1.0 : 1.0) *
                              ((i & 0x7c00) == 0x7c00 ? INFINITY
                               : (i & 0x7c00) == 0    ? std::ldexp(i & 0x3ff, -24)
                                                      : std::ldexp(1024 + (i & 0x3ff), ((i >> 10) & 31) - 25)),
          "float16 %04x", i);
  }
}

template <typename In, typename Out>
using Convert = void (*)(const In*, Out*, std::size_t, bool);

template <typename In, typename Out>
void expect_same(const char* isa, const char* what, Convert<In, Out> convert, Convert<In, Out> reference,
                 const std::vector<In>& values) {
  Buffer<In> in(values.size());
  std::memcpy(in.data(), values.data(), in.bytes());
  for (const bool stream : {false, true}) {
    Buffer<Out> got(values.size()), expected(values.size());
    convert(in.data(), got.data(), values.size(), stream);
    reference(in.data(), expected.data(), values.size(), false);
    const std::size_t i = first_difference(got, expected);
    CHECK(i == values.size(), "%s %s differs at element %zu", isa, what, i);
  }
  for (const std::size_t n : ragged_lengths()) {
    for (std::size_t misalignment = 0; misalignment < (n < 70 ? 16 : 3); misalignment++) {
      Buffer<In> piece(n, misalignment);
      std::memcpy(piece.data(), values.data() + (n * 131 + misalignment) % (values.size() - n), piece.bytes());
      Buffer<Out> got(n, 15 - misalignment), expected(n);
      convert(piece.data(), got.data(), n, misalignment % 2 == 1);
      reference(piece.data(), expected.data(), n, false);
      CHECK(first_difference(got, expected) == n, "%s %s, length %zu, misaligned by %zu", isa, what, n, misalignment);
    }
  }
}

TEST("cast: every instruction set equals the scalar file on all patterns, lengths and alignments") {
  const std::vector<float> floats = float32_sweep();
  std::vector<std::uint16_t> patterns(65536);
  for (std::size_t i = 0; i < patterns.size(); i++) patterns[i] = static_cast<std::uint16_t>(i);
  for (const Kernels* k : supported_kernels()) {
    const CastKernels &c = *k->cast, &s = scalar::kCast;
    expect_same(k->name, "float32 → float16", c.float32_to_float16, s.float32_to_float16, floats);
    expect_same(k->name, "float32 → bfloat16", c.float32_to_bfloat16, s.float32_to_bfloat16, floats);
    expect_same(k->name, "float16 → float32", c.float16_to_float32, s.float16_to_float32, patterns);
    expect_same(k->name, "bfloat16 → float32", c.bfloat16_to_float32, s.bfloat16_to_float32, patterns);
    expect_same(k->name, "float16 → bfloat16", c.float16_to_bfloat16, s.float16_to_bfloat16, patterns);
    expect_same(k->name, "bfloat16 → float16", c.bfloat16_to_float16, s.bfloat16_to_float16, patterns);
  }
}

TEST("cast: a tensor of several megabytes gives the same bytes for 1, 2, 3, 7 and 16 threads") {
  const std::size_t n = (std::size_t{5} << 20) + 13;
  Buffer<float> in(n);
  Random random(2);
  for (std::size_t i = 0; i < n; i++) in[i] = float_of(random.bits32());
  Buffer<std::uint16_t> expected(n);
  scalar::kCast.float32_to_bfloat16(in.data(), expected.data(), n, false);
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    Buffer<std::uint16_t> got(n);
    const Outcome outcome = cast(in.data(), FloatType::kFloat32, got.data(), FloatType::kBfloat16, true, n);
    CHECK(outcome.status == Status::kOk, "status");
    CHECK(first_difference(got, expected) == n, "%zu threads", threads);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

}  // namespace
}  // namespace lowbit::test
