// Floats of eight bits and fewer: the scalar file against a search of the nearest value in float64, every instruction
// set against the scalar file, and the whole operation for every number of threads.

#include <algorithm>
#include <cmath>

#include "core/float_bits.h"
#include "core/thread_pool.h"
#include "ops/cast/cast.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

// A format as its specification tells it: what lies in its tables, nothing of how lowbit computes.
struct Format {
  SmallFloatType type;
  const char* name;
  int exponent_bits, mantissa_bits, bias;
  int largest;       // the code of the largest finite number
  int nan;           // the code that a NaN becomes; the largest number where there is no NaN
  int overflow;      // what the first number past the largest becomes without saturation
  bool has_inf;      // whether that is an infinity
  bool is_unsigned;  // zero has no sign, and minus zero is the NaN
};

constexpr SmallFloatType kE8m0 = SmallFloatType::kFloat8E8m0fnu;
constexpr Format kFormats[] = {
    {SmallFloatType::kFloat8E4m3fn, "e4m3fn", 4, 3, 7, 0x7e, 0x7f, 0x7f, false, false},
    {SmallFloatType::kFloat8E5m2, "e5m2", 5, 2, 15, 0x7b, 0x7f, 0x7c, true, false},
    {SmallFloatType::kFloat8E4m3fnuz, "e4m3fnuz", 4, 3, 8, 0x7f, 0x80, 0x80, false, true},
    {SmallFloatType::kFloat8E5m2fnuz, "e5m2fnuz", 5, 2, 16, 0x7f, 0x80, 0x80, false, true},
    {kE8m0, "e8m0fnu", 8, 0, 127, 0xfe, 0xff, 0xff, false, true},
    {SmallFloatType::kFloat6E2m3fn, "e2m3fn", 2, 3, 1, 0x1f, 0x1f, 0x1f, false, false},
    {SmallFloatType::kFloat6E3m2fn, "e3m2fn", 3, 2, 3, 0x1f, 0x1f, 0x1f, false, false},
    {SmallFloatType::kFloat4E2m1fn, "e2m1fn", 2, 1, 1, 0x7, 0x7, 0x7, false, false},
};
constexpr FloatType kLargeTypes[] = {FloatType::kFloat32, FloatType::kFloat16, FloatType::kBfloat16};

int sign_bit(const Format& f) { return f.type == kE8m0 ? 0 : 1 << (f.exponent_bits + f.mantissa_bits); }

// The number that a code without its sign stands for, by the formula of the specifications; one past the largest too.
double value_of(const Format& f, int code) {
  if (f.type == kE8m0) return std::ldexp(1.0, code - f.bias);
  const int exponent = code >> f.mantissa_bits, mantissa = code & ((1 << f.mantissa_bits) - 1);
  if (exponent == 0) return std::ldexp(mantissa, 1 - f.bias - f.mantissa_bits);
  return std::ldexp((1 << f.mantissa_bits) + mantissa, exponent - f.bias - f.mantissa_bits);
}

// E8M0: the nearest power of two, the upper one in the middle.
int nearest_power(const Format& f, double x, bool saturate) {
  if (std::isnan(x)) return f.nan;
  int power = -127 - 30;
  while (power < 128 && x - std::ldexp(1.0, power) >= std::ldexp(1.0, power + 1) - x) power++;
  if (power < -127) return saturate ? 0 : f.nan;
  return power > 127 ? (saturate ? f.largest : f.nan) : power + 127;
}

// The nearest number's code, by trying all of them; the even code in the middle.
int model(const Format& f, double x, bool saturate) {
  if (f.type == kE8m0) return nearest_power(f, x, saturate);
  if (std::isnan(x)) return f.nan;
  const double magnitude = std::fabs(x);
  const int sign = std::signbit(x) ? sign_bit(f) : 0;
  int code = f.largest + 1;
  // Far past the largest number float64 can't tell the distances apart.
  if (magnitude < value_of(f, f.largest + 1)) {
    code = 0;
    for (int other = 1; other <= f.largest + 1; other++) {
      const double distance = std::fabs(value_of(f, other) - magnitude),
                   best = std::fabs(value_of(f, code) - magnitude);
      if (distance < best || (distance == best && other % 2 == 0)) code = other;
    }
  }
  if (code > f.largest) {
    if (f.is_unsigned && (!saturate || std::isinf(x))) return f.nan;
    code = saturate ? f.largest : f.overflow;
  }
  return f.is_unsigned && code == 0 ? 0 : sign | code;
}

// The float32 that a code becomes.
float decoded(const Format& f, int code) {
  const int magnitude = f.type == kE8m0 ? code : code & (sign_bit(f) - 1);
  const std::uint32_t sign = magnitude == code ? 0U : 0x80000000U;
  if (code == f.nan && f.is_unsigned) return float_of(sign | 0x7fc00000U);
  if (magnitude <= f.largest) return float_of(sign | bits_of(static_cast<float>(value_of(f, magnitude))));
  return float_of(sign | (f.has_inf && magnitude == f.overflow ? 0x7f800000U : 0x7fc00000U));
}

// All float32 patterns, as runs of those with the same code; what the model is asked for some.
struct Run {
  std::uint64_t first;
  int code;
};

std::vector<Run> runs_of(const Format& f, bool saturate) {
  const auto code_at = [&](std::uint64_t pattern) {
    return model(f, static_cast<double>(float_of(static_cast<std::uint32_t>(pattern))), saturate);
  };
  std::vector<Run> runs;
  // Finite numbers, infinity and NaN of either sign; the code counts on or stays within each.
  const std::uint64_t parts[] = {0, 0x7f800000, 0x7f800001, 0x80000000, 0xff800000, 0xff800001, 0x100000000};
  for (std::size_t part = 0; part + 1 < sizeof parts / sizeof parts[0]; part++) {
    const std::uint64_t end = parts[part + 1];
    for (std::uint64_t first = parts[part]; first < end;) {
      const int code = code_at(first);
      runs.push_back({first, code});
      std::uint64_t same = first, step = 1;
      while (same + step < end && code_at(same + step) == code) {
        same += step;
        step *= 2;
      }
      std::uint64_t other = std::min(same + step, end);
      while (other - same > 1) {
        const std::uint64_t middle = same + (other - same) / 2;
        (code_at(middle) == code ? same : other) = middle;
      }
      first = other;
    }
  }
  runs.push_back({0x100000000, 0});
  return runs;
}

std::vector<const Kernels*> different_kernels() {
  std::vector<const Kernels*> tables;
  for (const Kernels* k : supported_kernels()) {
    if (std::none_of(tables.begin(), tables.end(), [&](const Kernels* t) { return t->cast == k->cast; })) {
      tables.push_back(k);
    }
  }
  return tables;
}

std::size_t packed_bytes(SmallFloatType type, std::size_t count) { return AnyFloatType(type).packed_bytes(count); }

int code_at(const std::uint8_t* packed, SmallFloatType type, std::size_t i) {
  int code = 0;
  for (std::size_t b = 0; b < bit_width(type); b++) {
    const std::size_t at = i * bit_width(type) + b;
    code |= ((packed[at / 8] >> (at % 8)) & 1) << b;
  }
  return code;
}

TEST("small floats: every code becomes its number in float32, float16 and bfloat16") {
  for (const Format& f : kFormats) {
    const std::size_t count = std::size_t{1} << bit_width(f.type);
    Buffer<std::uint8_t> codes(packed_bytes(f.type, count));
    std::memset(codes.data(), 0, codes.bytes());
    for (std::size_t i = 0; i < count * bit_width(f.type); i++) {
      const auto bit = static_cast<unsigned>((i / bit_width(f.type)) >> (i % bit_width(f.type))) & 1U;
      codes[i / 8] = static_cast<std::uint8_t>(codes[i / 8] | (bit << (i % 8)));
    }
    for (const Kernels* k : different_kernels()) {
      Buffer<float> floats(count);
      Buffer<std::uint16_t> halves(count), brains(count);
      k->cast->from_small(codes.data(), f.type, floats.data(), FloatType::kFloat32, count, false);
      k->cast->from_small(codes.data(), f.type, halves.data(), FloatType::kFloat16, count, false);
      k->cast->from_small(codes.data(), f.type, brains.data(), FloatType::kBfloat16, count, false);
      for (std::size_t i = 0; i < count; i++) {
        const float expected = decoded(f, static_cast<int>(i));
        CHECK(bits_of(floats[i]) == bits_of(expected), "%s %s: code %02zx gave %08x, expected %08x", k->name, f.name, i,
              bits_of(floats[i]), bits_of(expected));
        CHECK(halves[i] == float16_of(expected), "%s %s: code %02zx gave %04x", k->name, f.name, i, halves[i]);
        CHECK(brains[i] == bfloat16_of(expected), "%s %s: code %02zx gave %04x", k->name, f.name, i, brains[i]);
      }
    }
  }
}

TEST("small floats: every float16 and bfloat16 becomes the nearest code, saturating and not") {
  Buffer<std::uint16_t> patterns(65536);
  for (std::size_t i = 0; i < patterns.size(); i++) patterns[i] = static_cast<std::uint16_t>(i);
  for (const Format& f : kFormats) {
    for (const bool saturate : {true, false}) {
      for (const FloatType from : {FloatType::kFloat16, FloatType::kBfloat16}) {
        std::vector<int> expected;
        for (std::size_t i = 0; i < patterns.size(); i++) {
          const float x = from == FloatType::kFloat16 ? float_of_float16(patterns[i]) : float_of_bfloat16(patterns[i]);
          expected.push_back(model(f, static_cast<double>(x), saturate));
        }
        for (const Kernels* k : different_kernels()) {
          Buffer<std::uint8_t> got(packed_bytes(f.type, patterns.size()));
          k->cast->to_small(patterns.data(), from, got.data(), f.type, saturate, patterns.size(), false);
          for (std::size_t i = 0; i < patterns.size(); i++) {
            const int code = code_at(got.data(), f.type, i);
            CHECK(code == expected[i], "%s %s, saturate %d: pattern %04zx gave %02x, expected %02x", k->name, f.name,
                  saturate, i, code, expected[i]);
          }
        }
      }
    }
  }
}

// Float32 inputs where rounding is decided: around every middle between two numbers, and those numbers; and any.
std::vector<float> hard_floats(const Format& f) {
  std::vector<float> values;
  const auto add_around = [&](double x) {
    const std::uint32_t bits = bits_of(static_cast<float>(x));
    for (const std::uint32_t offset : {0U, 1U, 2U, ~0U, ~1U}) {
      values.push_back(float_of(bits + offset));
      values.push_back(float_of((bits + offset) ^ 0x80000000U));
    }
  };
  for (int code = 0; code <= f.largest; code++) {
    const double here = value_of(f, code), next = value_of(f, code + 1);
    for (const double x : {here, (here + next) / 2}) {
      if (x < 0x1p128) add_around(x);
    }
  }
  add_around(value_of(f, 0) / 2 + value_of(f, 0) / 4);
  for (const std::uint32_t bits :
       {0U, 1U, 0x7fffffU, 0x800000U, 0x7f7fffffU, 0x7f800000U, 0x7f800001U, 0x7fc00000U, 0x7fffffffU}) {
    values.push_back(float_of(bits));
    values.push_back(float_of(bits | 0x80000000U));
  }
  Random random(7);
  const double largest = value_of(f, f.largest);
  const float span = f.type == kE8m0 ? 1.0F : static_cast<float>(2.0 * largest);
  for (int i = 0; i < 3000; i++) {
    values.push_back(float_of(random.bits32()));
    values.push_back(random.between(-span, span));
    values.push_back(random.normal());
  }
  return values;
}

TEST("small floats: float32 becomes the nearest code, around every middle and elsewhere") {
  for (const Format& f : kFormats) {
    const std::vector<float> values = hard_floats(f);
    for (const bool saturate : {true, false}) {
      for (const Kernels* k : different_kernels()) {
        Buffer<std::uint8_t> got(packed_bytes(f.type, values.size()));
        k->cast->to_small(values.data(), FloatType::kFloat32, got.data(), f.type, saturate, values.size(), false);
        for (std::size_t i = 0; i < values.size(); i++) {
          const int code = code_at(got.data(), f.type, i),
                    expected = model(f, static_cast<double>(values[i]), saturate);
          CHECK(code == expected, "%s %s, saturate %d: %a gave %02x, expected %02x", k->name, f.name, saturate,
                static_cast<double>(values[i]), code, expected);
        }
      }
    }
  }
}

// LOWBIT_TEST_LONG=1 asks for all float32 patterns; otherwise one block of so many is tried.
constexpr std::uint64_t kBlock = 1 << 16;

bool is_long() {
  const char* value = std::getenv("LOWBIT_TEST_LONG");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

TEST("small floats: all 2^32 float32 patterns to each 8-bit type, or a sample of them") {
  const std::uint64_t stride = is_long() ? 1 : quick() ? 4093 : 251;
  const std::vector<const Kernels*> tables = different_kernels();
  Buffer<float> in(kBlock);
  Buffer<std::uint8_t> expected(kBlock), got(kBlock);
  for (const Format& f : kFormats) {
    if (bit_width(f.type) != 8) continue;
    for (const bool saturate : {true, false}) {
      const std::vector<Run> runs = runs_of(f, saturate);
      std::size_t run = 0;
      std::uint64_t differences = 0;
      for (std::uint64_t begin = 0; begin < 0x100000000; begin += stride * kBlock) {
        for (std::uint64_t i = 0; i < kBlock; i++) {
          while (runs[run + 1].first <= begin + i) run++;
          in[i] = float_of(static_cast<std::uint32_t>(begin + i));
          expected[i] = static_cast<std::uint8_t>(runs[run].code);
        }
        for (const Kernels* k : tables) {
          k->cast->to_small(in.data(), FloatType::kFloat32, got.data(), f.type, saturate, kBlock, false);
          const std::size_t at = first_difference(got, expected);
          CHECK(at == kBlock, "%s %s, saturate %d: pattern %08x gave %02x, expected %02x", k->name, f.name, saturate,
                static_cast<unsigned>(begin + at), got[at % kBlock], expected[at % kBlock]);
          differences += at == kBlock ? 0 : 1;
        }
      }
      if (is_long()) {
        std::printf("    %s, saturate %d: 2^32 patterns, %zu codes in %zu runs, %llu blocks differ\n", f.name, saturate,
                    static_cast<std::size_t>(f.largest) + 1, runs.size() - 1,
                    static_cast<unsigned long long>(differences));
        std::fflush(stdout);
      }
    }
  }
}

// A piece of `count` elements in a heap block of exactly its size.
template <typename T>
Buffer<T> piece_of(const std::vector<T>& values, std::size_t count, std::size_t seed, std::size_t misalignment) {
  Buffer<T> piece(count, misalignment);
  std::memcpy(static_cast<void*>(piece.data()), values.data() + seed % (values.size() - count), piece.bytes());
  return piece;
}

struct Inputs {
  std::vector<float> floats;
  std::vector<std::uint16_t> patterns;
  std::vector<std::uint8_t> codes;
};

void expect_same_to_small(const Kernels& k, const Format& f, FloatType from, const Inputs& inputs, std::size_t n,
                          std::size_t misalignment) {
  const Buffer<float> floats = piece_of(inputs.floats, n, n * 131, misalignment);
  const Buffer<std::uint16_t> patterns = piece_of(inputs.patterns, n, n * 131, misalignment);
  const void* in = from == FloatType::kFloat32 ? static_cast<const void*>(floats.data()) : patterns.data();
  const bool saturate = (n + misalignment) % 2 == 0, stream = misalignment % 3 != 0;
  Buffer<std::uint8_t> got(packed_bytes(f.type, n), misalignment == 1 ? 0 : 15 - misalignment);
  Buffer<std::uint8_t> expected(got.size());
  k.cast->to_small(in, from, got.data(), f.type, saturate, n, stream);
  scalar::kCast.to_small(in, from, expected.data(), f.type, saturate, n, false);
  CHECK(first_difference(got, expected) == got.size(), "%s to %s from %d, length %zu, misaligned by %zu", k.name,
        f.name, static_cast<int>(from), n, misalignment);
}

template <typename T>
void expect_same_from_small(const Kernels& k, const Format& f, FloatType to, const Inputs& inputs, std::size_t n,
                            std::size_t misalignment) {
  const Buffer<std::uint8_t> in = piece_of(inputs.codes, packed_bytes(f.type, n), n * 17, misalignment);
  Buffer<T> got(n, misalignment == 1 ? 0 : 15 - misalignment), expected(n);
  k.cast->from_small(in.data(), f.type, got.data(), to, n, misalignment % 3 != 0);
  scalar::kCast.from_small(in.data(), f.type, expected.data(), to, n, false);
  CHECK(first_difference(got, expected) == n, "%s from %s to %d, length %zu, misaligned by %zu", k.name, f.name,
        static_cast<int>(to), n, misalignment);
}

TEST("small floats: every instruction set equals the scalar file on all lengths and alignments") {
  Inputs inputs;
  Random random(3);
  for (int i = 0; i < 40000; i++) {
    inputs.floats.push_back(i % 2 == 0 ? float_of(random.bits32()) : 100.0F * random.normal());
    inputs.patterns.push_back(static_cast<std::uint16_t>(random.bits32()));
    inputs.codes.push_back(static_cast<std::uint8_t>(random.bits32()));
  }
  for (const Kernels* k : different_kernels()) {
    for (const Format& f : kFormats) {
      for (const FloatType large : kLargeTypes) {
        for (const std::size_t n : ragged_lengths()) {
          for (std::size_t misalignment = 0; misalignment < (n < 70 ? 16 : 3); misalignment++) {
            expect_same_to_small(*k, f, large, inputs, n, misalignment);
            if (large == FloatType::kFloat32) {
              expect_same_from_small<float>(*k, f, large, inputs, n, misalignment);
            } else {
              expect_same_from_small<std::uint16_t>(*k, f, large, inputs, n, misalignment);
            }
          }
        }
      }
    }
  }
}

TEST("small floats: a tensor gives the same bytes for 1, 2, 3, 7 and 16 threads") {
  const std::size_t n = (std::size_t{1} << (quick() ? 17 : 20)) + 13;
  Buffer<float> in(n);
  Random random(5);
  for (std::size_t i = 0; i < n; i++) in[i] = 30.0F * random.normal();
  for (const Format& f : kFormats) {
    Buffer<std::uint8_t> expected(packed_bytes(f.type, n));
    Buffer<std::uint16_t> expected_back(n);
    scalar::kCast.to_small(in.data(), FloatType::kFloat32, expected.data(), f.type, false, n, false);
    scalar::kCast.from_small(expected.data(), f.type, expected_back.data(), FloatType::kBfloat16, n, false);
    for (const std::size_t threads : kThreadCounts) {
      ThreadPool::instance().set_thread_count(threads);
      Buffer<std::uint8_t> got(expected.size());
      Buffer<std::uint16_t> back(n);
      CHECK(cast(in.data(), FloatType::kFloat32, got.data(), f.type, false, n).status == Status::kOk, "status");
      CHECK(first_difference(got, expected) == got.size(), "%s, %zu threads", f.name, threads);
      CHECK(cast(got.data(), f.type, back.data(), FloatType::kBfloat16, true, n).status == Status::kOk, "status");
      CHECK(first_difference(back, expected_back) == n, "%s back, %zu threads", f.name, threads);
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("small floats: a tensor of one small type to another equals the way over float32, and a copy clears spare bits") {
  Random random(6);
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{5}, std::size_t{1027}, std::size_t{70001}}) {
    for (const Format& from : kFormats) {
      Buffer<std::uint8_t> in(packed_bytes(from.type, n));
      for (std::size_t i = 0; i < in.size(); i++) in[i] = static_cast<std::uint8_t>(random.bits32());
      Buffer<float> floats(n);
      scalar::kCast.from_small(in.data(), from.type, floats.data(), FloatType::kFloat32, n, false);
      for (const Format& to : kFormats) {
        for (const bool saturate : {true, false}) {
          Buffer<std::uint8_t> got(packed_bytes(to.type, n)), expected(got.size());
          scalar::kCast.to_small(floats.data(), FloatType::kFloat32, expected.data(), to.type, saturate, n, false);
          if (from.type == to.type) {
            std::memcpy(expected.data(), in.data(), in.bytes());
            const std::size_t spare = 8 * in.size() - n * bit_width(from.type);
            if (spare != 0) expected[in.size() - 1] = static_cast<std::uint8_t>(in[in.size() - 1] & (0xff >> spare));
          }
          CHECK(cast(in.data(), from.type, got.data(), to.type, saturate, n).status == Status::kOk, "status");
          CHECK(first_difference(got, expected) == got.size(), "%s to %s, length %zu", from.name, to.name, n);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lowbit::test
