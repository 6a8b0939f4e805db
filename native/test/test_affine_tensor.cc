// Quantizing whole tensors: every layout against a plain loop over its elements, for every number of threads.

#include <algorithm>
#include <cmath>

#include "core/thread_pool.h"
#include "core/tiles.h"
#include "ops/affine/affine.h"
#include "ops/affine/affine_math.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

struct Case {
  const char* name;
  std::size_t rows, columns;
  AffineLayout layout;
};

AffineLayout per_tensor(std::size_t rows, std::size_t columns) {
  return {1, rows * columns, std::max<std::size_t>(1, rows * columns), 1, columns};
}
// [outer, channels, inner], where inner covers whole rows, or is 1 when the channels are the columns.
AffineLayout per_channel(std::size_t outer, std::size_t channels, std::size_t inner, std::size_t columns) {
  return {outer, channels * inner, inner, outer, columns};
}
AffineLayout per_group(std::size_t rows, std::size_t columns, std::size_t group_size) {
  return {rows, columns, std::min(group_size, columns), 1, columns};
}
// Blocks of block_rows × block_columns elements.
AffineLayout per_block(std::size_t rows, std::size_t columns, std::size_t block_rows, std::size_t block_columns) {
  return {rows, columns, std::min(block_columns, columns), block_rows, columns};
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [rows, columns] : std::vector<std::pair<std::size_t, std::size_t>>{{1, 1},
                                                                                      {1, 7},
                                                                                      {3, 5},
                                                                                      {5, 16},
                                                                                      {7, 33},
                                                                                      {4, 100},
                                                                                      {64, 96},
                                                                                      {1, 100001},
                                                                                      {3, 70001},
                                                                                      {300, 257},
                                                                                      {129, 512}}) {
    all.push_back({"per-tensor", rows, columns, per_tensor(rows, columns)});
    all.push_back({"per-channel, axis 0", rows, columns, per_channel(1, rows, columns, columns)});
    all.push_back({"per-channel, last axis", rows, columns, per_channel(rows, columns, 1, columns)});
    for (const std::size_t g :
         {std::size_t{1}, std::size_t{3}, std::size_t{32}, std::size_t{50}, std::size_t{128}, std::size_t{40000}}) {
      all.push_back({"per-group", rows, columns, per_group(rows, columns, g)});
    }
    all.push_back({"per-block, 128 x 128", rows, columns, per_block(rows, columns, 128, 128)});
    all.push_back({"per-block, 3 x 5", rows, columns, per_block(rows, columns, 3, 5)});
  }
  // Axis 1 of [4, 6, 5, 7], of [3, 2, 9, 8] and of [2, 3, 400, 128].
  all.push_back({"per-channel, middle axis", 120, 7, per_channel(4, 6, 35, 7)});
  all.push_back({"per-channel, middle axis", 54, 8, per_channel(3, 2, 72, 8)});
  all.push_back({"per-channel, long middle axis", 2400, 128, per_channel(2, 3, 51200, 128)});
  return all;
}

std::size_t parameter_of(const AffineLayout& layout, std::size_t element) {
  const std::size_t block = element / layout.block_size, in_block = element % layout.block_size;
  return block / layout.blocks_alike * layout.groups_per_block() + in_block / layout.group_size;
}

// The same by definition: one element after the other.
void quantize_plainly(const float* x, const AffineLayout& layout, const AffineScheme& scheme, Buffer<float>& scales,
                      Buffer<std::int32_t>& zero_points, Buffer<std::uint8_t>& codes) {
  const std::size_t n = layout.element_count();
  std::vector<float> low(layout.parameter_count()), high(layout.parameter_count());
  for (std::size_t i = 0; i < n; i++) {
    const std::size_t p = parameter_of(layout, i);
    low[p] = std::min(low[p], x[i]);
    high[p] = std::max(high[p], scheme.symmetric ? std::fabs(x[i]) : x[i]);
  }
  for (std::size_t p = 0; p < scales.size(); p++) {
    if (scheme.symmetric) {
      scales[p] = symmetric_scale(high[p], (1 << (scheme.code.bits - 1)) - 1, scheme.scale_type);
      zero_points[p] = scheme.symmetric_zero_point();
    } else {
      scales[p] = asymmetric_scale(low[p], high[p], scheme.lowest, scheme.highest, scheme.scale_type);
      zero_points[p] = zero_point_of(low[p], scales[p], scheme.lowest, scheme.highest);
    }
  }
  std::fill_n(codes.data(), codes.size(), std::uint8_t{0});
  const std::size_t row_bytes = scheme.code.packed_bytes(layout.columns);
  for (std::size_t i = 0; i < n; i++) {
    const std::size_t p = parameter_of(layout, i);
    const int code = quantize_one(x[i], scales[p], zero_points[p], scheme.lowest, scheme.highest);
    const std::size_t row = i / layout.columns, first_bit = i % layout.columns * scheme.code.bits;
    for (unsigned b = 0; b < scheme.code.bits; b++) {
      const std::size_t bit = first_bit + b;
      codes[row * row_bytes + bit / 8] |= static_cast<std::uint8_t>(((code >> b) & 1) << (bit % 8));
    }
  }
}

TEST("affine tensor: every layout, type and number of threads equals a loop over the elements, and comes back") {
  Random random(20);
  for (const Case& c : cases()) {
    const std::size_t n = c.rows * c.columns;
    if (quick() && n > 40000) continue;
    Buffer<float> x(n);
    for (std::size_t i = 0; i < n; i++) x[i] = random.normal() + 0.3F;
    for (const CodeType code : {CodeType{8, true}, CodeType{8, false}, CodeType{4, true}, CodeType{4, false},
                                CodeType{3, true}, CodeType{2, false}}) {
      for (const bool symmetric : {true, false}) {
        const int lowest = symmetric && code.is_signed ? code.lowest() + 1 : code.lowest();
        const AffineScheme scheme{code, symmetric, lowest, code.highest(), FloatType::kFloat16};
        const std::size_t parameters = c.layout.parameter_count(), bytes = c.rows * code.packed_bytes(c.columns);
        Buffer<float> scales(parameters), expected_scales(parameters), back(n);
        Buffer<std::int32_t> zero_points(parameters), expected_zero_points(parameters);
        Buffer<std::uint8_t> codes(bytes), expected(bytes);
        quantize_plainly(x.data(), c.layout, scheme, expected_scales, expected_zero_points, expected);
        for (const std::size_t threads : kThreadCounts) {
          ThreadPool::instance().set_thread_count(threads);
          const Outcome outcome =
              quantize_affine(x.data(), FloatType::kFloat32, c.layout, scheme, {RangeChoice::Method::kMinMax, 0.0},
                              NonFinite::kThrow, scales.data(), zero_points.data(), codes.data());
          CHECK(outcome.status == Status::kOk, "status");
          CHECK(first_difference(scales, expected_scales) == parameters, "%s [%zu, %zu] %d bits: scales, %zu threads",
                c.name, c.rows, c.columns, code.bits, threads);
          CHECK(first_difference(zero_points, expected_zero_points) == parameters, "%s zero points", c.name);
          CHECK(first_difference(codes, expected) == bytes, "%s [%zu, %zu] group %zu, %d bits: codes, %zu threads",
                c.name, c.rows, c.columns, c.layout.group_size, code.bits, threads);
          dequantize_affine(codes.data(), code, c.layout, scales.data(), zero_points.data(), back.data(),
                            FloatType::kFloat32);
          for (std::size_t i = 0; i < n; i++) {
            const float scale = scales[parameter_of(c.layout, i)];
            if (scale < 0x1p-14F) continue;  // a subnormal float16 scale clips what its rounding loses
            // Half a step, and what the zero point or the rounded scale (2^-11) takes from the outermost codes.
            CHECK(std::fabs(back[i] - x[i]) <= scale * (symmetric ? 0.6F : 1.1F), "%s element %zu", c.name, i);
          }
        }
        if (failed()) return;
      }
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("affine tensor: codes that go around the caches are the same for any number of threads") {
  Random random(24);
  constexpr std::size_t kRows = 4100, kColumns = 4096, kCount = kRows * kColumns, kBlock = 1 << 16;
  Buffer<float> x(kCount);
  for (std::size_t i = 0; i < kCount; i++) x[i] = i < kBlock ? random.normal() : x[i - kBlock];
  for (const CodeType code : {CodeType{8, true}, CodeType{4, false}}) {
    const AffineScheme scheme{code, code.is_signed, code.lowest(), code.highest(), FloatType::kFloat32};
    const AffineLayout layout = per_group(kRows, kColumns, 32);
    const std::size_t bytes = kRows * code.packed_bytes(kColumns);
    CHECK(bytes >= kStreamBytes, "%zu bytes stay in the caches", bytes);
    Buffer<float> scales(layout.parameter_count());
    Buffer<std::int32_t> zero_points(layout.parameter_count());
    Buffer<std::uint8_t> codes(bytes), alone(bytes);
    for (const std::size_t threads : kThreadCounts) {  // one thread, the first, stores through the caches
      ThreadPool::instance().set_thread_count(threads);
      std::uint8_t* out = threads == 1 ? alone.data() : codes.data();
      quantize_affine(x.data(), FloatType::kFloat32, layout, scheme, {RangeChoice::Method::kMinMax, 0.0},
                      NonFinite::kThrow, scales.data(), zero_points.data(), out);
      if (threads > 1) CHECK(first_difference(codes, alone) == bytes, "%d bits, %zu threads", code.bits, threads);
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("affine tensor: a searched range does not depend on the number of threads, and costs no more than the full one") {
  Random random(21);
  for (const Case& c : cases()) {
    const std::size_t n = c.rows * c.columns;
    if (c.layout.parameter_count() > (quick() ? 100 : 1000) || n > (quick() ? 20000 : 250000)) continue;
    Buffer<float> x(n);
    for (std::size_t i = 0; i < n; i++) x[i] = random.normal() * random.normal() * random.normal();
    for (const bool symmetric : {true, false}) {
      const CodeType code{4, true};
      const AffineScheme scheme{code, symmetric, symmetric ? -7 : -8, 7, FloatType::kFloat32};
      const std::size_t parameters = c.layout.parameter_count(), bytes = c.rows * code.packed_bytes(c.columns);
      std::vector<double> errors;
      for (const RangeChoice range :
           {RangeChoice{RangeChoice::Method::kMinMax, 0.0}, RangeChoice{RangeChoice::Method::kMse, 0.0},
            RangeChoice{RangeChoice::Method::kPercentile, 99.0}}) {
        Buffer<float> scales(parameters), first_scales(parameters), back(n);
        Buffer<std::int32_t> zero_points(parameters);
        Buffer<std::uint8_t> codes(bytes), first_codes(bytes);
        for (const std::size_t threads : kThreadCounts) {
          ThreadPool::instance().set_thread_count(threads);
          quantize_affine(x.data(), FloatType::kFloat32, c.layout, scheme, range, NonFinite::kThrow, scales.data(),
                          zero_points.data(), codes.data());
          if (threads == 1) {
            std::memcpy(first_scales.data(), scales.data(), scales.bytes());
            std::memcpy(first_codes.data(), codes.data(), codes.bytes());
          }
          CHECK(first_difference(scales, first_scales) == parameters && first_difference(codes, first_codes) == bytes,
                "%s [%zu, %zu], %zu threads", c.name, c.rows, c.columns, threads);
        }
        dequantize_affine(codes.data(), code, c.layout, scales.data(), zero_points.data(), back.data(),
                          FloatType::kFloat32);
        double error = 0.0;
        for (std::size_t i = 0; i < n; i++)
          error += std::pow(static_cast<double>(back[i]) - static_cast<double>(x[i]), 2);
        errors.push_back(error);
      }
      CHECK(errors[1] <= errors[0] * (1.0 + 1e-5), "%s [%zu, %zu]: mse costs %g, min-max %g", c.name, c.rows, c.columns,
            errors[1], errors[0]);
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("affine tensor: percentile ranges equal linear interpolation between sorted elements, small and large") {
  Random random(22);
  for (const std::size_t n :
       {std::size_t{1}, std::size_t{2}, std::size_t{33}, std::size_t{1000}, std::size_t{200003}}) {
    Buffer<float> x(n);
    for (std::size_t i = 0; i < n; i++) x[i] = random.normal();
    for (const double percentile : {51.0, 90.0, 99.9, 100.0}) {
      const auto interpolated = [&](std::vector<float> sorted, double p) {
        std::sort(sorted.begin(), sorted.end());
        const double position = static_cast<double>(n - 1) * (p / 100.0);
        const auto below = static_cast<std::size_t>(position);
        const double fraction = position - static_cast<double>(below);
        const double low = static_cast<double>(sorted[below]),
                     high = static_cast<double>(sorted[std::min(below + 1, n - 1)]);
        return static_cast<float>(low + (high - low) * fraction);
      };
      std::vector<float> values(x.data(), x.data() + n), magnitudes(values);
      for (float& v : magnitudes) v = std::fabs(v);
      Buffer<float> scale(1);
      Buffer<std::int32_t> zero_point(1);
      Buffer<std::uint8_t> codes(n);
      const RangeChoice range{RangeChoice::Method::kPercentile, percentile};
      quantize_affine(x.data(), FloatType::kFloat32, per_tensor(1, n),
                      {{8, true}, true, -127, 127, FloatType::kFloat32}, range, NonFinite::kThrow, scale.data(),
                      nullptr, codes.data());
      CHECK(scale[0] == symmetric_scale(interpolated(magnitudes, percentile), 127, FloatType::kFloat32),
            "symmetric, n %zu, p %g", n, percentile);
      quantize_affine(x.data(), FloatType::kFloat32, per_tensor(1, n), {{8, false}, false, 0, 255, FloatType::kFloat32},
                      range, NonFinite::kThrow, scale.data(), zero_point.data(), codes.data());
      const float low = std::min(0.0F, interpolated(values, 100.0 - percentile));
      const float high = std::max(0.0F, interpolated(values, percentile));
      CHECK(scale[0] == asymmetric_scale(low, high, 0, 255, FloatType::kFloat32), "asymmetric, n %zu, p %g", n,
            percentile);
    }
  }
}

TEST("affine tensor: the first NaN or infinity is named, or left out of the range on request") {
  for (const AffineLayout& layout :
       {per_tensor(40, 100), per_channel(1, 40, 100, 100), per_channel(40, 100, 1, 100), per_group(40, 100, 32)}) {
    for (const RangeChoice::Method method : {RangeChoice::Method::kMinMax, RangeChoice::Method::kMse,
                                             RangeChoice::Method::kPercentile, RangeChoice::Method::kGiven}) {
      Buffer<float> x(4000), scales(layout.parameter_count());
      Buffer<std::uint8_t> codes(4000);
      for (std::size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 7) - 3.0F;
      for (std::size_t p = 0; p < scales.size(); p++) scales[p] = 0.1F;
      x[1234] = NAN;
      x[1235] = INFINITY;
      x[3999] = -INFINITY;
      const AffineScheme scheme{{8, true}, true, -127, 127, FloatType::kFloat32};
      const RangeChoice range{method, 100.0};
      const Outcome thrown = quantize_affine(x.data(), FloatType::kFloat32, layout, scheme, range, NonFinite::kThrow,
                                             scales.data(), nullptr, codes.data());
      CHECK(thrown.status == Status::kNonFinite && thrown.index == 1234, "index %lld",
            static_cast<long long>(thrown.index));
      for (std::size_t p = 0; p < scales.size(); p++) scales[p] = 0.1F;
      const Outcome kept = quantize_affine(x.data(), FloatType::kFloat32, layout, scheme, range, NonFinite::kSaturate,
                                           scales.data(), nullptr, codes.data());
      CHECK(kept.status == Status::kOk, "saturate");
      CHECK(codes[1234] == 0x81 && codes[1235] == 127 && codes[3999] == 0x81, "codes %d %d %d", codes[1234],
            codes[1235], codes[3999]);
      for (std::size_t p = 0; p < scales.size(); p++) {
        CHECK(scales[p] > 0.0F && scales[p] <= 0.1F, "scale %g", static_cast<double>(scales[p]));
      }
    }
  }
}

TEST("affine tensor: a scale that its type can't hold is reported with its parameter set") {
  Buffer<float> x(64), scales(2);
  Buffer<std::uint8_t> codes(64);
  for (std::size_t i = 0; i < 64; i++) x[i] = i < 32 ? 1.0F : 1e9F;
  const Outcome outcome = quantize_affine(
      x.data(), FloatType::kFloat32, per_group(1, 64, 32), {{8, true}, true, -127, 127, FloatType::kFloat16},
      {RangeChoice::Method::kMinMax, 0.0}, NonFinite::kThrow, scales.data(), nullptr, codes.data());
  CHECK(outcome.status == Status::kScaleOverflow && outcome.index == 1, "index %lld",
        static_cast<long long>(outcome.index));
}

TEST("affine tensor: empty tensors and cancelled work") {
  Buffer<float> scales(1), x((std::size_t{1} << 20));
  Buffer<std::uint8_t> codes(std::size_t{1} << 20);
  for (std::size_t i = 0; i < x.size(); i++) x[i] = 1.0F;
  const AffineScheme scheme{{8, true}, true, -127, 127, FloatType::kFloat32};
  const RangeChoice range{RangeChoice::Method::kMinMax, 0.0};
  const AffineLayout empty{1, 0, 1, 1, 0};
  CHECK(quantize_affine(x.data(), FloatType::kFloat32, empty, scheme, range, NonFinite::kThrow, scales.data(), nullptr,
                        codes.data())
                .status == Status::kOk,
        "empty");
  const CancelFlag cancel{true};
  CHECK(quantize_affine(x.data(), FloatType::kFloat32, per_tensor(1024, 1024), scheme, range, NonFinite::kThrow,
                        scales.data(), nullptr, codes.data(), &cancel)
                .status == Status::kCancelled,
        "cancelled");
}

TEST("affine tensor: unpacked codes are the codes") {
  Random random(23);
  for (const CodeType code : {CodeType{8, true}, CodeType{8, false}, CodeType{4, true}, CodeType{4, false},
                              CodeType{3, true}, CodeType{3, false}, CodeType{2, true}, CodeType{2, false}}) {
    const std::size_t rows = 5, columns = 37;
    Buffer<std::uint8_t> packed(rows * code.packed_bytes(columns)), out(rows * columns);
    std::memset(packed.data(), 0, packed.size());
    std::vector<int> expected;
    for (std::size_t r = 0; r < rows; r++) {
      for (std::size_t c = 0; c < columns; c++) {
        const int value = code.lowest() + static_cast<int>(random.below(std::size_t{1} << code.bits));
        expected.push_back(value);
        for (unsigned b = 0; b < code.bits; b++) {
          const std::size_t bit = c * code.bits + b;
          packed[r * code.packed_bytes(columns) + bit / 8] |=
              static_cast<std::uint8_t>(((value >> b) & 1) << (bit % 8));
        }
      }
    }
    unpack_codes(packed.data(), code, rows, columns, out.data());
    for (std::size_t i = 0; i < expected.size(); i++) {
      const int got = code.is_signed ? static_cast<std::int8_t>(out[i]) : out[i];
      CHECK(got == expected[i], "%d bits, element %zu", code.bits, i);
    }
  }
}

}  // namespace
}  // namespace lowbit::test
