// The affine kernels: the scalar file against arithmetic in float64, and every instruction set against the scalar file,
// bit for bit, on random and on adversarial data.

#include <algorithm>
#include <cmath>

#include "ops/affine/affine_kernels.h"
#include "ops/affine/affine_math.h"
#include "test/values.h"

namespace lowbit::test {
namespace {

constexpr CodeType kCodeTypes[] = {{8, true}, {8, false}, {4, true}, {4, false},
                                   {3, true}, {3, false}, {2, true}, {2, false}};
std::string code_name(CodeType code) { return (code.is_signed ? "int" : "uint") + std::to_string(code.bits); }

TEST("affine: one element equals float64 arithmetic with round-half-to-even and exact float32 division") {
  Random random(10);
  for (int i = 0; i < 2000000; i++) {
    const float scale = std::fabs(sample(i % 2 == 0 ? Data::kMixed : Data::kNormal, random)) + 0x1p-149F;
    const float x = i % 3 == 0 ? scale * (static_cast<float>(random.below(300)) + 0.5F) : sample(Data::kMixed, random);
    const int zero_point = static_cast<int>(random.below(256)) - 128;
    const volatile float quotient = x / scale;  // rounded once to float32
    const double steps = std::nearbyint(static_cast<double>(quotient)) + zero_point;
    const int expected = static_cast<int>(std::fmin(std::fmax(steps, -128.0), 127.0));
    const int got = quantize_one(x, scale, zero_point, -128, 127);
    CHECK(got == expected, "x %a, scale %a, zero point %d: %d, expected %d", static_cast<double>(x),
          static_cast<double>(scale), zero_point, got, expected);
  }
}

TEST("affine: the worked examples of the literature") {
  const float x[] = {0.1F, 0.2F, 1.2F, 3.0F, 2.1F, -2.1F, -3.5F};
  const int symmetric[] = {0, 0, 2, 6, 4, -4, -7}, asymmetric[] = {8, 8, 11, 15, 13, 3, 0};
  const float s = symmetric_scale(3.5F, 7, FloatType::kFloat32);
  CHECK(s == 0.5F, "symmetric scale %g", static_cast<double>(s));
  const float a = asymmetric_scale(-3.5F, 3.0F, 0, 15, FloatType::kFloat32);
  CHECK(a == 6.5F / 15.0F && zero_point_of(-3.5F, a, 0, 15) == 8, "asymmetric parameters");
  for (int i = 0; i < 7; i++) {
    CHECK(quantize_one(x[i], s, 0, -7, 7) == symmetric[i], "symmetric element %d", i);
    CHECK(quantize_one(x[i], a, 8, 0, 15) == asymmetric[i], "asymmetric element %d", i);
  }
}

TEST("affine: ranges, every instruction set equals the scalar file") {
  Random random(11);
  for (const Kernels* k : supported_kernels()) {
    for (const FloatType type : kFloatTypes) {
      for (const Data data : kAllData) {
        for (const std::size_t n : ragged_lengths()) {
          const std::size_t group = kGroupSizes[random.below(std::size(kGroupSizes))];
          const Values x(type, n, n % 7, data, random);
          const std::size_t groups = (n + group - 1) / group;
          Buffer<float> got(groups), expected(groups), got_low(groups), expected_low(groups);
          const bool finite = scalar::kAffine.absmax(x.bytes.data(), type, n, group, expected.data());
          CHECK(k->affine->absmax(x.bytes.data(), type, n, group, got.data()) == finite, "absmax finite");
          CHECK(!finite || first_difference(got, expected) == groups, "%s absmax %s n %zu group %zu", k->name,
                name_of(type), n, group);
          scalar::kAffine.minmax(x.bytes.data(), type, n, group, expected_low.data(), expected.data());
          CHECK(k->affine->minmax(x.bytes.data(), type, n, group, got_low.data(), got.data()) == finite,
                "minmax finite");
          for (std::size_t g = 0; finite && g < groups; g++) {  // −0 and +0 are the same range
            CHECK(got[g] == expected[g] && got_low[g] == expected_low[g], "%s minmax %s n %zu group %zu", k->name,
                  name_of(type), n, group);
          }
        }
      }
    }
  }
}

TEST("affine: parameters, every instruction set equals the scalar file") {
  Random random(12);
  for (const Kernels* k : supported_kernels()) {
    for (const FloatType scale_type : kFloatTypes) {
      for (const Data data : {Data::kNormal, Data::kZeros, Data::kTies, Data::kTiny, Data::kHuge, Data::kMixed}) {
        for (std::size_t n = 0; n < 70; n++) {
          Buffer<float> low(n), high(n);
          for (std::size_t i = 0; i < n; i++) {
            high[i] = std::fabs(sample(data, random));
            low[i] = -std::fabs(sample(data, random));
          }
          for (const CodeType code : kCodeTypes) {
            Buffer<float> got(n), expected(n);
            Buffer<std::int32_t> got_zero(n), expected_zero(n);
            const int highest = (1 << (code.bits - 1)) - 1;
            const bool ok = scalar::kAffine.symmetric_scales(high.data(), n, highest, scale_type, expected.data());
            CHECK(k->affine->symmetric_scales(high.data(), n, highest, scale_type, got.data()) == ok, "status");
            CHECK(first_difference(got, expected) == n, "%s symmetric, %s scales", k->name, name_of(scale_type));
            const bool ok2 =
                scalar::kAffine.asymmetric_parameters(low.data(), high.data(), n, code.lowest(), code.highest(),
                                                      scale_type, expected.data(), expected_zero.data());
            CHECK(k->affine->asymmetric_parameters(low.data(), high.data(), n, code.lowest(), code.highest(),
                                                   scale_type, got.data(), got_zero.data()) == ok2,
                  "status");
            const std::size_t i = first_difference(got, expected);
            CHECK(i == n, "%s asymmetric, %s scales: [%a, %a] gives %a, expected %a", k->name, name_of(scale_type),
                  static_cast<double>(low[i]), static_cast<double>(high[i]), static_cast<double>(got[i]),
                  static_cast<double>(expected[i]));
            CHECK(first_difference(got_zero, expected_zero) == n, "%s zero points", k->name);
          }
        }
      }
    }
  }
}

TEST("affine: scales are positive and keep the range, whatever the range and type") {
  Random random(13);
  for (int i = 0; i < 300000; i++) {
    const float high = std::fabs(sample(Data::kMixed, random)), low = -std::fabs(sample(Data::kMixed, random));
    const float s = symmetric_scale(high, 127, FloatType::kFloat32);
    CHECK(s > 0.0F && is_finite(s), "symmetric scale %a of %a", static_cast<double>(s), static_cast<double>(high));
    const float a = asymmetric_scale(low, high, -128, 127, FloatType::kFloat32);
    CHECK(a > 0.0F && is_finite(a), "asymmetric scale %a", static_cast<double>(a));
    // The extremes round to codes in range up to half a step beyond, which clamping takes.
    CHECK(std::fabs(static_cast<double>(high) / static_cast<double>(s)) <= 127.0 * (1.0 + 0x1p-23) || high < 0x1p-120F,
          "range of %a", static_cast<double>(high));
  }
}

TEST("affine: codes, every instruction set equals the scalar file for every type, group size, length and alignment") {
  Random random(14);
  for (const Kernels* k : supported_kernels()) {
    for (const FloatType type : kFloatTypes) {
      for (const CodeType code : kCodeTypes) {
        for (const Data data : kAllData) {
          for (const std::size_t n : ragged_lengths()) {
            const std::size_t group = kGroupSizes[random.below(std::size(kGroupSizes))];
            const std::size_t groups = (n + group - 1) / group;
            const Values x(type, n, n % 16, data, random);
            Buffer<float> scales(groups);
            Buffer<std::int32_t> zero_points(groups);
            for (std::size_t g = 0; g < groups; g++) {
              // Scales that match the data, powers of two (ties), and any others, down to subnormal.
              const float any = std::fabs(sample(Data::kMixed, random)) + 0x1p-149F;
              scales[g] = random.below(4) == 0
                              ? any
                              : std::ldexp(random.below(2) == 0 ? 1.0F : 0.7F, -static_cast<int>(random.below(5)));
              zero_points[g] = code.lowest() + static_cast<int>(random.below(std::size_t{1} << code.bits));
            }
            const std::int32_t* zeros = random.below(3) == 0 ? nullptr : zero_points.data();
            const int lowest = code.is_signed && zeros == nullptr ? code.lowest() + 1 : code.lowest();
            const std::size_t bytes = code.packed_bytes(n);
            Buffer<std::uint8_t> got(bytes, n % 3), expected(bytes);
            // Half of the runs keep the promise of within_range: no step overflows.
            const bool within_range = data != Data::kNonFinite && random.below(2) == 0;
            if (within_range) {
              for (std::size_t g = 0; g < groups; g++) {
                float largest = 0.0F;
                scalar::kAffine.absmax(x.bytes.data() + g * group * size_of(type), type, std::min(group, n - g * group),
                                       group, &largest);
                scales[g] =
                    largest == 0.0F ? 1.0F : std::max(0x1p-149F, largest / static_cast<float>(1 + random.below(200)));
              }
            }
            scalar::kAffine.quantize(x.bytes.data(), type, n, group, scales.data(), zeros, code, lowest, code.highest(),
                                     within_range, false, expected.data());
            for (const bool stream : {false, true}) {
              k->affine->quantize(x.bytes.data(), type, n, group, scales.data(), zeros, code, lowest, code.highest(),
                                  within_range, stream, got.data());
              k->affine->finish_stream();
              CHECK(first_difference(got, expected) == bytes, "%s %s → %s, n %zu, group %zu, data %d, stream %d",
                    k->name, name_of(type), code_name(code).c_str(), n, group, static_cast<int>(data),
                    static_cast<int>(stream));
              std::fill(got.data(), got.data() + bytes, std::uint8_t{0xa5});
            }

            for (const bool stream : {false, true}) {
              Buffer<std::uint8_t> back(n * size_of(type), (n % 5) * size_of(type)), same(n * size_of(type));
              scalar::kAffine.dequantize(expected.data(), code, n, group, scales.data(), zeros, type, same.data(),
                                         false);
              k->affine->dequantize(expected.data(), code, n, group, scales.data(), zeros, type, back.data(), stream);
              CHECK(first_difference(back, same) == back.size(), "%s %s → %s, n %zu, group %zu", k->name,
                    code_name(code).c_str(), name_of(type), n, group);
            }
          }
        }
      }
    }
  }
}

TEST("affine: division by way of the reciprocal is exact: random pairs, ties and quotients next to ties") {
  Random random(15);
  constexpr std::size_t kCount = 4096;
  Buffer<float> x(kCount);
  Buffer<std::uint8_t> got(kCount), expected(kCount);
  for (const Kernels* k : supported_kernels()) {
    if (k->affine == &scalar::kAffine) continue;
    for (int round = 0; round < (quick() ? 60 : 1500); round++) {
      // A random scale; elements at (m + ½)·scale and up to three units in the last place from it, where a quotient
      // that is off by one unit rounds to another integer.
      const float scale = float_of(0x20000000U + (random.bits32() & 0x3fffffffU));
      for (std::size_t i = 0; i < kCount; i++) {
        const float near_tie = (static_cast<float>(random.below(256)) - 127.5F) * scale;
        x[i] = float_of(bits_of(near_tie) + static_cast<std::uint32_t>(random.below(7)) - 3U);
      }
      scalar::kAffine.quantize(x.data(), FloatType::kFloat32, kCount, kCount, &scale, nullptr, {8, true}, -128, 127,
                               true, false, expected.data());
      k->affine->quantize(x.data(), FloatType::kFloat32, kCount, kCount, &scale, nullptr, {8, true}, -128, 127,
                          round % 2 == 0, false, got.data());
      const std::size_t i = first_difference(got, expected);
      CHECK(i == kCount, "%s: %a / %a", k->name, static_cast<double>(x[i]), static_cast<double>(scale));
    }
  }
}

TEST("affine: squared error, every instruction set equals the scalar file bit for bit") {
  Random random(16);
  for (const Kernels* k : supported_kernels()) {
    for (const Data data : {Data::kNormal, Data::kZeros, Data::kTies, Data::kTiny, Data::kMixed}) {
      for (const std::size_t n : ragged_lengths()) {
        const Values x(FloatType::kFloat32, n, n % 3, data, random);
        const auto* floats = reinterpret_cast<const float*>(x.bytes.data());
        const float scale = random.below(5) == 0 ? 0x1p-120F : 0.01F + random.uniform();
        const int zero_point = static_cast<int>(random.below(16)) - 8;
        const double expected = scalar::kAffine.squared_error(floats, n, scale, zero_point, -8, 7);
        const double got = k->affine->squared_error(floats, n, scale, zero_point, -8, 7);
        CHECK(std::memcmp(&got, &expected, sizeof got) == 0, "%s n %zu: %.17g, expected %.17g", k->name, n, got,
              expected);
      }
    }
  }
}

}  // namespace
}  // namespace lowbit::test
