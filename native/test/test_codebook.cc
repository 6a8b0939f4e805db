// The codebook kernels: the scalar file against float64, every instruction set against the scalar file, bit for bit,
// and whole tensors against a loop over their elements.

#include <algorithm>
#include <cmath>

#include "core/thread_pool.h"
#include "ops/codebook/codebook.h"
#include "ops/codebook/codebook_math.h"
#include "test/values.h"

namespace lowbit::test {
namespace {

constexpr Codebook kBooks[] = {Codebook::kNf4,     Codebook::kFp4,   Codebook::kE4m3fn, Codebook::kE5m2,
                               Codebook::kE2m3,    Codebook::kE3m2,  Codebook::kE2m1,   Codebook::kFixed8,
                               Codebook::kTernary, Codebook::kBinary};

// Codes that stand for no finite number, or for none that quantizing gives.
bool is_special(Codebook book, unsigned code) {
  switch (book) {
    case Codebook::kE4m3fn:
      return (code & 0x7fU) == 0x7fU;
    case Codebook::kE5m2:
      return (code & 0x7fU) >= 0x7cU;
    case Codebook::kFixed8:
      return code == 0x80U;
    case Codebook::kTernary:
      return code == 2;
    default:
      return false;
  }
}

TEST("codebook: the code of an element is that of the nearest value, the even one in the middle") {
  Random random(70);
  for (const Codebook book : kBooks) {
    const unsigned codes = 1U << format_of(book).bits;
    for (int i = 0; i < (quick() ? 20000 : 200000); i++) {
      const float scale = book == Codebook::kFixed8 || i % 2 == 0
                              ? std::ldexp(1.0F, static_cast<int>(random.below(40)) - 20)
                              : random.between(0.001F, 100.0F);
      const float x = random.normal() * scale * format_of(book).largest * (i % 3 == 0 ? 1.0F : 0.3F);
      const auto code = code_of(book, x, scale);
      const double quotient = static_cast<double>(x) / static_cast<double>(scale);
      const auto distance = [&](unsigned c) {
        return std::fabs(static_cast<double>(value_of(book, static_cast<std::uint8_t>(c))) - quotient);
      };
      if (book == Codebook::kBinary) {
        CHECK((code == 1) == (x >= 0.0F), "binary, %g: %d", static_cast<double>(x), code);
        continue;
      }
      double nearest = INFINITY;
      for (unsigned c = 0; c < codes; c++) nearest = is_special(book, c) ? nearest : std::min(nearest, distance(c));
      // A quotient that is rounded to float32 may pass a middle between two values by as much.
      CHECK(distance(code) <= nearest + 4e-7 * std::fabs(quotient) + 1e-9, "codebook %d, %.9g / %.9g: code %d",
            static_cast<int>(book), static_cast<double>(x), static_cast<double>(scale), code);
    }
  }
}

TEST("codebook: values in the middle, negative zero, NaN and infinities") {
  struct Expected {
    Codebook book;
    float x;
    unsigned code;
  };
  for (const Expected& e :
       {Expected{Codebook::kE2m1, 0.25F, 0},       Expected{Codebook::kE2m1, 0.75F, 2},
        Expected{Codebook::kE2m1, -5.0F, 14},      Expected{Codebook::kE2m1, 100.0F, 7},
        Expected{Codebook::kE4m3fn, 464.0F, 0x7e}, Expected{Codebook::kE4m3fn, -INFINITY, 0xfe},
        Expected{Codebook::kE4m3fn, NAN, 0x7f},    Expected{Codebook::kE5m2, 1e9F, 0x7b},
        Expected{Codebook::kFixed8, 0.5F / 64, 0}, Expected{Codebook::kFixed8, 1.5F / 64, 2},
        Expected{Codebook::kFixed8, -2.0F, 0x81},  Expected{Codebook::kFixed8, NAN, 0x81},
        Expected{Codebook::kTernary, 0.5F, 0},     Expected{Codebook::kTernary, -0.6F, 3},
        Expected{Codebook::kTernary, NAN, 3},      Expected{Codebook::kBinary, -0.0F, 1},
        Expected{Codebook::kBinary, NAN, 0},       Expected{Codebook::kNf4, 0.0F, 7},
        Expected{Codebook::kNf4, 1.0F, 15},        Expected{Codebook::kNf4, -INFINITY, 0},
        Expected{Codebook::kNf4, NAN, 0},          Expected{Codebook::kNf4, 0.8614784181118011F, 14},
        Expected{Codebook::kFp4, 1.0F, 3},         Expected{Codebook::kFp4, -0.25F, 15},
        Expected{Codebook::kFp4, -0.001F, 8},      Expected{Codebook::kFp4, -0.0F, 0}}) {
    for (const Kernels* table : supported_kernels()) {
      const float scale = 1.0F;
      std::uint8_t code = 0;
      table->codebook->quantize(&e.x, FloatType::kFloat32, 1, 1, &scale, e.book, false, &code);
      CHECK(code == e.code, "%s, codebook %d, %g: code %d, expected %u", table->name, static_cast<int>(e.book),
            static_cast<double>(e.x), code, e.code);
    }
  }
}

// Scales as they come from data, as powers of two, and of every size.
Buffer<float> scales_for(std::size_t count, int kind, Random& random) {
  Buffer<float> scales(count);
  for (std::size_t g = 0; g < count; g++) {
    const float any = std::fabs(sample(Data::kMixed, random));
    scales[g] = kind == 0   ? random.between(0.01F, 2.0F)
                : kind == 1 ? std::ldexp(1.0F, static_cast<int>(random.below(20)) - 10)
                : kind == 2 ? std::ldexp(1.0F, static_cast<int>(random.below(253)) - 126)
                            : any + 0x1p-149F;
  }
  return scales;
}

TEST("codebook: codes, every instruction set equals the scalar file for every type, group size, length and alignment") {
  Random random(71);
  std::size_t round = 0;
  for (const Codebook book : kBooks) {
    for (const std::size_t group_size : kGroupSizes) {
      for (const std::size_t count : ragged_lengths()) {
        if (count > 1100 || (quick() && round % 5 != 0 && count > 40)) {
          round++;
          continue;
        }
        const FloatType type = kFloatTypes[round % 3];
        const Data data = kAllData[round % 7];
        const std::size_t misalignment = round % 4;
        const Values x(type, count, misalignment, data, random);
        const Buffer<float> scales = scales_for(count / group_size + 1, static_cast<int>(round % 4), random);
        const std::size_t bytes = code_type_of(book).packed_bytes(count);
        Buffer<std::uint8_t> expected(bytes), codes(bytes, misalignment);
        scalar::kCodebook.quantize(x.bytes.data(), type, count, group_size, scales.data(), book, false,
                                   expected.data());
        for (const Kernels* table : supported_kernels()) {
          for (const bool stream : {false, true}) {
            table->codebook->quantize(x.bytes.data(), type, count, group_size, scales.data(), book, stream,
                                      codes.data());
            table->affine->finish_stream();
            CHECK(first_difference(codes, expected) == bytes,
                  "%s, codebook %d, %s, data %d, %zu elements in groups of %zu: byte %zu", table->name,
                  static_cast<int>(book), name_of(type), static_cast<int>(data), count, group_size,
                  first_difference(codes, expected));
          }
        }
        round++;
      }
    }
    if (failed()) return;
  }
}

TEST("codebook: values, every instruction set equals the scalar file for any bytes") {
  Random random(72);
  std::size_t round = 0;
  for (const Codebook book : kBooks) {
    for (const std::size_t group_size : kGroupSizes) {
      for (const std::size_t count : ragged_lengths()) {
        if (count > 1100 || (quick() && round % 5 != 0 && count > 40)) {
          round++;
          continue;
        }
        const FloatType type = kFloatTypes[round % 3];
        Buffer<std::uint8_t> codes(code_type_of(book).packed_bytes(count), round % 3);
        for (std::size_t i = 0; i < codes.size(); i++) codes[i] = static_cast<std::uint8_t>(random.bits32());
        const Buffer<float> scales = scales_for(count / group_size + 1, static_cast<int>(round % 4), random);
        Buffer<std::uint8_t> expected(count * size_of(type)), out(count * size_of(type));
        scalar::kCodebook.dequantize(codes.data(), book, count, group_size, scales.data(), type, expected.data(),
                                     false);
        for (const Kernels* table : supported_kernels()) {
          for (const bool stream : {false, true}) {
            table->codebook->dequantize(codes.data(), book, count, group_size, scales.data(), type, out.data(), stream);
            CHECK(first_difference(out, expected) == out.size(),
                  "%s, codebook %d, %s, %zu elements in groups of %zu: byte %zu", table->name, static_cast<int>(book),
                  name_of(type), count, group_size, first_difference(out, expected));
          }
        }
        round++;
      }
    }
    if (failed()) return;
  }
}

TEST("codebook: scales, every instruction set equals the scalar file") {
  Random random(74);
  for (const ScaleRule rule : {ScaleRule::kAbsmax, ScaleRule::kLargest, ScaleRule::kPowerOfTwo, ScaleRule::kNvfp4}) {
    for (const Codebook book : kBooks) {
      for (const FloatType type : kFloatTypes) {
        for (const std::size_t count : {std::size_t{1}, std::size_t{16}, std::size_t{37}, std::size_t{200}}) {
          Buffer<float> largest(count), expected(count), scales(count);
          for (std::size_t g = 0; g < count; g++) {
            largest[g] = std::fabs(sample(kAllData[random.below(6)], random));
          }
          const float global = random.below(2) == 0 ? random.between(1.0F, 1000.0F) : 3e38F;
          const bool finite =
              scalar::kCodebook.scales(largest.data(), count, book, rule, type, global, expected.data());
          for (const Kernels* table : supported_kernels()) {
            const bool same =
                table->codebook->scales(largest.data(), count, book, rule, type, global, scales.data()) == finite;
            CHECK(same && first_difference(scales, expected) == count, "%s, codebook %d, rule %d: scale %zu of %zu",
                  table->name, static_cast<int>(book), static_cast<int>(rule), first_difference(scales, expected),
                  count);
          }
        }
      }
    }
  }
}

// --- tensors ---------------------------------------------------------------------------------------------------------

struct Case {
  std::size_t rows, columns;
  AffineLayout layout;
};

std::size_t parameter_of(const AffineLayout& layout, std::size_t element) {
  const std::size_t block = element / layout.block_size, in_block = element % layout.block_size;
  return block / layout.blocks_alike * layout.groups_per_block() + in_block / layout.group_size;
}

// The scale that a rule gives, in float64 where that is exact enough.
double expected_scale(const CodebookScheme& scheme, float largest, float global) {
  const double value = static_cast<double>(largest);
  switch (scheme.rule) {
    case ScaleRule::kAbsmax:
      return value;
    case ScaleRule::kLargest:
      return value == 0.0 ? 1.0 : static_cast<double>(largest / format_of(scheme.book).largest);
    case ScaleRule::kPowerOfTwo:
      return value == 0.0
                 ? std::ldexp(1.0, std::max(-126 - format_of(scheme.book).largest_exponent, -127))
                 : std::ldexp(1.0, std::max(std::ilogb(value) - format_of(scheme.book).largest_exponent, -127));
    default: {  // kNvfp4
      const float wanted = global * largest / 6.0F;
      const float code = value_of(Codebook::kE4m3fn, code_of(Codebook::kE4m3fn, wanted, 1.0F));
      return static_cast<double>((code == 0.0F ? 0.125F : code) / global);
    }
  }
}

TEST("codebook tensor: every layout, codebook and number of threads equals a loop over the elements, and comes back") {
  Random random(73);
  std::vector<Case> cases;
  for (const auto& [rows, columns] : std::vector<std::pair<std::size_t, std::size_t>>{
           {1, 1}, {1, 7}, {3, 5}, {5, 16}, {7, 33}, {64, 96}, {1, 100001}, {300, 257}, {129, 512}}) {
    cases.push_back({rows, columns, {1, rows * columns, rows * columns, 1, columns}});
    cases.push_back({rows, columns, {1, rows * columns, columns, 1, columns}});
    for (const std::size_t g :
         {std::size_t{16}, std::size_t{32}, std::size_t{64}, std::size_t{50}, std::size_t{4096}}) {
      cases.push_back({rows, columns, {rows, columns, std::min(g, columns), 1, columns}});
    }
    cases.push_back({rows, columns, {rows, columns, std::min<std::size_t>(128, columns), 128, columns}});
    cases.push_back({rows, columns, {rows, columns, std::min<std::size_t>(5, columns), 3, columns}});
  }
  constexpr CodebookScheme kSchemes[] = {{Codebook::kNf4, ScaleRule::kAbsmax, FloatType::kFloat32},
                                         {Codebook::kFp4, ScaleRule::kAbsmax, FloatType::kFloat32},
                                         {Codebook::kE4m3fn, ScaleRule::kLargest, FloatType::kFloat32},
                                         {Codebook::kE5m2, ScaleRule::kLargest, FloatType::kFloat32},
                                         {Codebook::kE4m3fn, ScaleRule::kPowerOfTwo, FloatType::kFloat32},
                                         {Codebook::kE2m3, ScaleRule::kPowerOfTwo, FloatType::kFloat32},
                                         {Codebook::kE2m1, ScaleRule::kPowerOfTwo, FloatType::kFloat32},
                                         {Codebook::kFixed8, ScaleRule::kPowerOfTwo, FloatType::kFloat32},
                                         {Codebook::kE2m1, ScaleRule::kNvfp4, FloatType::kFloat32}};
  std::size_t round = 0;
  for (const Case& c : cases) {
    for (const CodebookScheme& scheme : kSchemes) {
      if (quick() && round++ % 5 != 0) continue;
      const std::size_t count = c.rows * c.columns, parameters = c.layout.parameter_count();
      Buffer<float> x(count);
      for (std::size_t i = 0; i < count; i++) x[i] = random.normal() * (i % 97 == 0 ? 20.0F : 1.0F);
      if (round % 4 == 0) std::fill_n(x.data(), std::min<std::size_t>(count, 64), 0.0F);
      std::vector<float> largest(parameters, 0.0F);
      for (std::size_t i = 0; i < count; i++) {
        float& m = largest[parameter_of(c.layout, i)];
        m = std::max(m, std::fabs(x[i]));
      }
      const CodeType code = code_type_of(scheme.book);
      const std::size_t row_bytes = code.packed_bytes(c.columns);
      for (const std::size_t threads : {std::size_t{1}, std::size_t{3}}) {
        ThreadPool::instance().set_thread_count(threads);
        Buffer<float> scales(parameters), back(count);
        Buffer<std::uint8_t> codes(c.rows * row_bytes), expected(c.rows * row_bytes);
        float global = 0.0F;
        const Outcome outcome =
            quantize_codebook(x.data(), FloatType::kFloat32, c.layout, scheme, {RangeChoice::Method::kMinMax, 100.0},
                              NonFinite::kThrow, scales.data(), &global, codes.data());
        CHECK(outcome.status == Status::kOk, "status");
        for (std::size_t p = 0; p < parameters; p++) {
          CHECK(static_cast<double>(scales[p]) == expected_scale(scheme, largest[p], global),
                "rule %d: scale %zu of [%zu, %zu] is %g", static_cast<int>(scheme.rule), p, c.rows, c.columns,
                static_cast<double>(scales[p]));
        }
        std::memset(expected.data(), 0, expected.bytes());
        for (std::size_t i = 0; i < count; i++) {
          const unsigned value = code_of(scheme.book, x[i], scales[parameter_of(c.layout, i)]);
          const std::size_t bit = i % c.columns * code.bits;
          std::uint8_t* const row = expected.data() + i / c.columns * row_bytes;
          row[bit / 8] = static_cast<std::uint8_t>(row[bit / 8] | value << (bit % 8));
          if (bit % 8 + code.bits > 8) {
            row[bit / 8 + 1] = static_cast<std::uint8_t>(row[bit / 8 + 1] | value >> (8 - bit % 8));
          }
        }
        CHECK(first_difference(codes, expected) == codes.size(), "codebook %d, [%zu, %zu], groups of %zu: byte %zu",
              static_cast<int>(scheme.book), c.rows, c.columns, c.layout.group_size, first_difference(codes, expected));
        CHECK(dequantize_codebook(codes.data(), scheme.book, c.layout, scales.data(), back.data(), FloatType::kFloat32)
                      .status == Status::kOk,
              "status");
        for (std::size_t i = 0; i < count; i++) {
          const float scale = scales[parameter_of(c.layout, i)];
          const float value = value_of(scheme.book, code_of(scheme.book, x[i], scale)) * scale;
          if (back[i] == value) continue;
          CHECK(false, "codebook %d: element %zu is %g, expected %g", static_cast<int>(scheme.book), i,
                static_cast<double>(back[i]), static_cast<double>(value));
          break;
        }
      }
      if (failed()) return;
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("codebook tensor: the first NaN or infinity is named, or saturates on request") {
  constexpr CodebookScheme kScheme{Codebook::kE4m3fn, ScaleRule::kLargest, FloatType::kFloat32};
  Buffer<float> x(70000);
  for (std::size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 449);
  x[69000] = INFINITY;
  x[40000] = NAN;
  const AffineLayout layout{1, x.size(), x.size(), 1, x.size()};
  float scale = 0.0F, global = 0.0F;
  Buffer<std::uint8_t> codes(x.size());
  const Outcome outcome =
      quantize_codebook(x.data(), FloatType::kFloat32, layout, kScheme, {RangeChoice::Method::kMinMax, 100.0},
                        NonFinite::kThrow, &scale, &global, codes.data());
  CHECK(outcome.status == Status::kNonFinite && outcome.index == 40000, "index %td", outcome.index);
  const Outcome saturated =
      quantize_codebook(x.data(), FloatType::kFloat32, layout, kScheme, {RangeChoice::Method::kMinMax, 100.0},
                        NonFinite::kSaturate, &scale, &global, codes.data());
  CHECK(saturated.status == Status::kOk && scale == 1.0F && codes[69000] == 0x7e && codes[40000] == 0x7f,
        "scale %g, codes %d %d", static_cast<double>(scale), codes[69000], codes[40000]);
}

}  // namespace
}  // namespace lowbit::test
