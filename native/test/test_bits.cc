// Bits and ternary digits: every instruction set against the scalar file, whole tensors against plain loops and for
// every number of threads, and the sums that scale binary and ternary weights.

#include <cmath>

#include "ops/bits/bits.h"
#include "ops/bits/magnitudes.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

Buffer<std::uint8_t> random_bytes(Random& random, std::size_t count) {
  Buffer<std::uint8_t> bytes(count);
  for (std::size_t i = 0; i < count; i++) bytes[i] = static_cast<std::uint8_t>(random.bits());
  return bytes;
}

TEST("bits: counts of differing bits equal the scalar file on every instruction set") {
  Random random(1);
  for (const Kernels* k : supported_kernels()) {
    for (std::size_t round = 0; round < (quick() ? 60U : 400U); round++) {
      const std::size_t rows = 1 + random.below(10), columns = 1 + random.below(11);
      const std::size_t line_bytes = kBitLine * random.below(20), padding = random.below(3);
      const bool tails = random.below(2) == 0;
      // A row's last byte is the block's last one.
      const auto rows_of = [&](std::size_t count) {
        return random_bytes(random, count * (line_bytes + padding) - padding);
      };
      const Buffer<std::uint8_t> a = rows_of(rows), b = rows_of(columns);
      const Buffer<std::uint8_t> a_tails = random_bytes(random, rows * kBitLine);
      const Buffer<std::uint8_t> b_tails = random_bytes(random, columns * kBitLine);
      const std::size_t stride = columns + random.below(3);
      Buffer<std::int32_t> out((rows - 1) * stride + columns), expected(out.size());
      XorCountArguments arguments{{a.data(), line_bytes + padding, tails ? a_tails.data() : nullptr},
                                  {b.data(), line_bytes + padding, tails ? b_tails.data() : nullptr},
                                  rows,
                                  columns,
                                  line_bytes,
                                  static_cast<std::int32_t>(random.bits32()),
                                  static_cast<std::int32_t>(random.below(7)) - 3,
                                  out.data(),
                                  stride};
      k->bits->xor_counts(arguments);
      arguments.out = expected.data();
      scalar::kBits.xor_counts(arguments);
      const std::size_t at = first_difference(out, expected);
      CHECK(at == out.size(), "%s: [%zu, %zu] of %zu bytes%s: element %zu is %d, expected %d", k->name, rows, columns,
            line_bytes, tails ? " and tails" : "", at, out[at], expected[at]);
      if (failed()) return;
    }
  }
}

bool bit_of(const std::uint8_t* bits, std::size_t i) { return ((bits[i / 8] >> (i % 8)) & 1) != 0; }

// The product of rows of signs, from its definition.
std::int32_t sign_product(const std::uint8_t* a, const std::uint8_t* b, std::size_t columns) {
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < columns; i++) sum += (bit_of(a, i) ? 1 : -1) * (bit_of(b, i) ? 1 : -1);
  return sum;
}

void check_products(std::size_t m, std::size_t n, std::size_t columns, Random& random) {
  const std::size_t row_bytes = packed_bit_bytes(columns);
  // What follows the bits of a row in its last byte is random, too.
  const Buffer<std::uint8_t> a = random_bytes(random, m * row_bytes), b = random_bytes(random, n * row_bytes);
  Buffer<std::int32_t> out(m * n), distances(m * n), pairs(std::min(m, n));
  const auto k = static_cast<std::int32_t>(columns);
  CHECK(xor_counts({a.data(), b.data(), m, n, columns, k, -2, out.data()}).status == Status::kOk, "status");
  CHECK(xor_counts({a.data(), b.data(), m, n, columns, 0, 1, distances.data()}).status == Status::kOk, "status");
  CHECK(xor_counts_of_rows({a.data(), b.data(), pairs.size(), 0, columns, 0, 1, pairs.data()}).status == Status::kOk,
        "status");
  for (std::size_t r = 0; r < m; r++) {
    for (std::size_t c = 0; c < n; c++) {
      const std::int32_t expected = sign_product(a.data() + r * row_bytes, b.data() + c * row_bytes, columns);
      const std::size_t at = r * n + c;
      CHECK(out[at] == expected && 2 * distances[at] == k - expected,
            "[%zu, %zu] · %zu bits, row %zu, column %zu: %d and %d, expected %d", m, n, columns, r, c, out[at],
            distances[at], expected);
      if (r == c) CHECK(pairs[r] == distances[at], "row %zu: %d, expected %d", r, pairs[r], distances[at]);
      if (failed()) return;
    }
  }
}

TEST("bits, tensor: products of signs are those of their definition, for any number of threads") {
  Random random(2);
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    for (std::size_t columns = threads % 4; columns <= 70; columns += quick() ? 7 : 1) {
      check_products(1 + random.below(6), 1 + random.below(9), columns, random);
    }
    for (const std::size_t columns : {511U, 512U, 513U, 1024U, 4099U}) check_products(70, 67, columns, random);
    check_products(1, 1030, 768, random);
    check_products(130, 2, 2049, random);
    check_products(0, 3, 10, random);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

template <typename T>
void check_pack(const Kernels* k, FloatType type, std::size_t n, Random& random) {
  Buffer<T> x(n, n % 5);
  for (std::size_t i = 0; i < n; i++) {
    if constexpr (sizeof(T) == 4) {
      x[i] = random.below(8) == 0 ? -0.0F : random.normal();
    } else {
      x[i] = static_cast<T>(random.bits() & (type == FloatType::kFloat16 ? 0xbbffU : 0xbf7fU));  // finite
    }
  }
  Buffer<std::uint8_t> bits(packed_bit_bytes(n)), expected(bits.size());
  const bool numbers = k->bits->pack_signs(x.data(), type, n, bits.data());
  scalar::kBits.pack_signs(x.data(), type, n, expected.data());
  CHECK(numbers && first_difference(bits, expected) == bits.size(), "%s: %zu of type %d", k->name, n,
        static_cast<int>(type));
  if (n == 0) return;
  x[random.below(n)] = static_cast<T>(sizeof(T) == 4 ? NAN : static_cast<T>(0x7fc1));
  CHECK(!k->bits->pack_signs(x.data(), type, n, bits.data()), "%s: a NaN among %zu of type %d", k->name, n,
        static_cast<int>(type));
}

TEST("bits: packing and unpacking equal the scalar file on every instruction set") {
  Random random(3);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t n : ragged_lengths()) {
      check_pack<float>(k, FloatType::kFloat32, n, random);
      check_pack<std::uint16_t>(k, FloatType::kFloat16, n, random);
      check_pack<std::uint16_t>(k, FloatType::kBfloat16, n, random);

      const Buffer<std::uint8_t> bytes = random_bytes(random, n);
      const auto* const numbers = reinterpret_cast<const std::int8_t*>(bytes.data());
      Buffer<std::uint8_t> bits(packed_bit_bytes(n)), expected_bits(bits.size());
      k->bits->pack_byte_signs(numbers, n, bits.data());
      scalar::kBits.pack_byte_signs(numbers, n, expected_bits.data());
      CHECK(first_difference(bits, expected_bits) == bits.size(), "%s: signs of %zu bytes", k->name, n);

      const Buffer<std::uint8_t> source = random_bytes(random, bits.size());
      Buffer<std::int8_t> out(n), expected(n);
      k->bits->unpack_signs(source.data(), n, out.data());
      scalar::kBits.unpack_signs(source.data(), n, expected.data());
      CHECK(first_difference(out, expected) == n, "%s: %zu signs", k->name, n);

      Buffer<float> floats(n, n % 3), expected_floats(n);
      k->bits->unpack_float_signs(source.data(), n, 0.3F, floats.data());
      scalar::kBits.unpack_float_signs(source.data(), n, 0.3F, expected_floats.data());
      CHECK(first_difference(floats, expected_floats) == n, "%s: %zu signs as floats", k->name, n);

      const Buffer<std::uint8_t> codes = random_bytes(random, (n + 3) / 4);
      k->bits->unpack_two_bits(codes.data(), n, out.data());
      scalar::kBits.unpack_two_bits(codes.data(), n, expected.data());
      CHECK(first_difference(out, expected) == n, "%s: %zu digits of two bits", k->name, n);

      Buffer<std::uint8_t> base3(packed_base3_bytes(n));
      for (std::size_t i = 0; i < base3.size(); i++) base3[i] = static_cast<std::uint8_t>(random.below(243));
      k->bits->unpack_base3(base3.data(), n, out.data());
      scalar::kBits.unpack_base3(base3.data(), n, expected.data());
      CHECK(first_difference(out, expected) == n, "%s: %zu digits from base 3", k->name, n);
    }
  }
}

TEST("bits: every byte of base 3 is five digits, the first the lowest") {
  for (const Kernels* k : supported_kernels()) {
    Buffer<std::uint8_t> bytes(243);
    for (std::size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<std::uint8_t>(i);
    Buffer<std::int8_t> digits(5 * bytes.size());
    k->bits->unpack_base3(bytes.data(), digits.size(), digits.data());
    for (std::size_t i = 0; i < bytes.size(); i++) {
      const std::int8_t* const d = digits.data() + 5 * i;
      const int value = d[0] + 1 + 3 * (d[1] + 1) + 9 * (d[2] + 1) + 27 * (d[3] + 1) + 81 * (d[4] + 1);
      CHECK(value == static_cast<int>(i), "%s: byte %zu has the value %d", k->name, i, value);
    }
  }
}

TEST("bits, tensor: tensors survive packing, in every form and for any number of threads") {
  Random random(4);
  constexpr std::size_t kShapes[][2] = {{1, 1}, {3, 7}, {70, 67}, {0, 9}, {2, 100003}, {4000, 33}};
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    for (const auto& [rows, columns] : kShapes) {
      const std::size_t count = rows * columns;
      Buffer<std::int8_t> digits(count), signs(count), out(count);
      Buffer<float> floats(count), unpacked(count);
      for (std::size_t i = 0; i < count; i++) {
        digits[i] = static_cast<std::int8_t>(static_cast<int>(random.below(3)) - 1);
        signs[i] = random.below(2) == 0 ? 1 : -1;
        floats[i] = static_cast<float>(signs[i]);
      }
      Buffer<std::uint8_t> bits(rows * packed_bit_bytes(columns)), float_bits(bits.size());
      pack_byte_signs(signs.data(), rows, columns, bits.data());
      unpack_signs(bits.data(), rows, columns, out.data());
      CHECK(first_difference(out, signs) == count, "signs of [%zu, %zu]", rows, columns);
      pack_signs(floats.data(), FloatType::kFloat32, rows, columns, float_bits.data());
      unpack_float_signs(bits.data(), rows, columns, unpacked.data());
      CHECK(first_difference(bits, float_bits) == bits.size(), "signs of floats [%zu, %zu]", rows, columns);
      CHECK(first_difference(unpacked, floats) == count, "signs to floats [%zu, %zu]", rows, columns);
      for (const TernaryPacking packing : {TernaryPacking::kTwoBits, TernaryPacking::kBase3}) {
        Buffer<std::uint8_t> packed(rows * packed_ternary_bytes(packing, columns));
        CHECK(pack_ternary(digits.data(), packing, rows, columns, packed.data()).status == Status::kOk, "status");
        CHECK(unpack_ternary(packed.data(), packing, rows, columns, out.data()).status == Status::kOk, "status");
        CHECK(first_difference(out, digits) == count, "digits of [%zu, %zu]", rows, columns);
      }
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("bits, tensor: what is no sign and no digit is named") {
  Buffer<float> x(300);
  for (std::size_t i = 0; i < 300; i++) x[i] = 1.0F;
  x[297] = x[211] = NAN;
  Buffer<std::uint8_t> bits(300);
  Outcome outcome = pack_signs(x.data(), FloatType::kFloat32, 3, 100, bits.data());
  CHECK(outcome.status == Status::kNonFinite && outcome.index == 211, "NaN at %lld", (long long)outcome.index);

  Buffer<std::int8_t> digits(300);
  for (std::size_t i = 0; i < 300; i++) digits[i] = 0;
  digits[205] = -2;
  digits[299] = 2;
  for (const TernaryPacking packing : {TernaryPacking::kTwoBits, TernaryPacking::kBase3}) {
    outcome = pack_ternary(digits.data(), packing, 3, 100, bits.data());
    CHECK(outcome.status == Status::kInvalidCode && outcome.index == 205, "digit %lld", (long long)outcome.index);
  }
  std::memset(bits.data(), 0, bits.size());
  bits[25 + 3] = 0x80;  // row 1, element 15 is −2
  outcome = unpack_ternary(bits.data(), TernaryPacking::kTwoBits, 3, 100, digits.data());
  CHECK(outcome.status == Status::kInvalidCode && outcome.index == 115, "code %lld", (long long)outcome.index);
  bits[20 + 4] = 243;  // row 1, elements 20 to 24
  outcome = unpack_ternary(bits.data(), TernaryPacking::kBase3, 3, 100, digits.data());
  CHECK(outcome.status == Status::kInvalidCode && outcome.index == 120, "byte %lld", (long long)outcome.index);
}

// --- sums of magnitudes ----------------------------------------------------------------------------------------------

template <typename T>
void check_sums(const Kernels* k, FloatType type, std::size_t n, std::size_t group, Random& random) {
  Buffer<T> x(n, n % 3);
  for (std::size_t i = 0; i < n; i++) {
    if constexpr (sizeof(T) == 4) {
      x[i] = random.normal() * std::ldexp(1.0F, static_cast<int>(random.below(60)) - 30);
    } else {
      x[i] = static_cast<T>(random.bits() & (type == FloatType::kFloat16 ? 0xbbffU : 0xbf7fU));
    }
  }
  const std::size_t groups = (n + group - 1) / group;
  Buffer<double> sums(groups), expected(groups);
  const bool finite = k->bits->abs_sums(x.data(), type, n, group, sums.data());
  scalar::kBits.abs_sums(x.data(), type, n, group, expected.data());
  CHECK(finite && first_difference(sums, expected) == groups, "%s: Σ|x| of %zu in groups of %zu, type %d", k->name, n,
        group, static_cast<int>(type));
  Buffer<float> thresholds(groups);
  for (std::size_t g = 0; g < groups; g++) {
    thresholds[g] = g % 3 == 0 ? 0.0F : static_cast<float>(0.7 * expected[g] / static_cast<double>(group));
  }
  Buffer<std::uint32_t> counts(groups), expected_counts(groups);
  k->bits->sums_above(x.data(), type, n, group, thresholds.data(), sums.data(), counts.data());
  scalar::kBits.sums_above(x.data(), type, n, group, thresholds.data(), expected.data(), expected_counts.data());
  CHECK(first_difference(sums, expected) == groups && first_difference(counts, expected_counts) == groups,
        "%s: sums above of %zu in groups of %zu, type %d", k->name, n, group, static_cast<int>(type));
  if (n == 0) return;
  const bool infinity = random.below(2) == 0;
  x[random.below(n)] = static_cast<T>(
      sizeof(T) == 4 ? (infinity ? -INFINITY : NAN)
                     : static_cast<T>(type == FloatType::kFloat16 ? 0xfc00U + !infinity : 0xff80U + !infinity));
  CHECK(!k->bits->abs_sums(x.data(), type, n, group, sums.data()), "%s: not finite, %zu of type %d", k->name, n,
        static_cast<int>(type));
}

TEST("bits: sums of magnitudes equal the scalar file bit for bit on every instruction set") {
  Random random(5);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t n : ragged_lengths()) {
      for (const std::size_t group : {std::size_t{1}, std::size_t{7}, std::size_t{32}, n + 1}) {
        check_sums<float>(k, FloatType::kFloat32, n, group, random);
        check_sums<std::uint16_t>(k, FloatType::kFloat16, n, group, random);
        check_sums<std::uint16_t>(k, FloatType::kBfloat16, n, group, random);
      }
    }
  }
}

// The parameter set of an element, as ops/affine/affine.h describes it.
std::size_t set_of(const AffineLayout& l, std::size_t i) {
  return i / l.block_size / l.blocks_alike * l.groups_per_block() + i % l.block_size / l.group_size;
}

void check_scales(const AffineLayout& layout, Random& random) {
  const std::size_t count = layout.element_count(), sets = layout.parameter_count();
  Buffer<float> x(count);
  for (std::size_t i = 0; i < count; i++) x[i] = random.normal();
  std::vector<double> sums(sets), above(sets);
  std::vector<std::uint64_t> counts(sets), counts_above(sets);
  for (std::size_t i = 0; i < count; i++) {
    sums[set_of(layout, i)] += std::fabs(static_cast<double>(x[i]));
    counts[set_of(layout, i)]++;
  }
  Buffer<float> thresholds(sets), ternary(sets), binary(sets), absmean(sets);
  CHECK(
      binary_scales(x.data(), FloatType::kFloat32, layout, FloatType::kFloat32, binary.data()).status == Status::kOk &&
          ternary_scales(x.data(), FloatType::kFloat32, layout, FloatType::kFloat32, thresholds.data(), ternary.data())
                  .status == Status::kOk &&
          absmean_scales(x.data(), FloatType::kFloat32, layout, FloatType::kFloat16, absmean.data()).status ==
              Status::kOk,
      "status");
  for (std::size_t i = 0; i < count; i++) {
    const std::size_t s = set_of(layout, i);
    if (!(std::fabs(x[i]) > thresholds[s])) continue;
    above[s] += std::fabs(static_cast<double>(x[i]));
    counts_above[s]++;
  }
  std::vector<std::uint64_t> element_count(sets);
  element_counts(layout, element_count.data());
  Buffer<double> same_sums(sets);
  std::vector<std::uint64_t> same_counts(sets);
  sums_above(x.data(), FloatType::kFloat32, layout, thresholds.data(), same_sums.data(), same_counts.data());
  const auto near = [](float value, double exact, double bound) {
    return std::fabs(static_cast<double>(value) - exact) <= bound * exact;
  };
  for (std::size_t s = 0; s < sets; s++) {
    const double mean = sums[s] / static_cast<double>(counts[s]);
    CHECK(element_count[s] == counts[s] && same_counts[s] == counts_above[s], "set %zu: counts", s);
    // One rounding to float32 (2^-24), or float16; sums of float64 lose far less.
    CHECK(near(binary[s], mean, 0x1.01p-24) && near(absmean[s], mean, 0x1.01p-11), "set %zu: α = %g, γ = %g, mean %g",
          s, static_cast<double>(binary[s]), static_cast<double>(absmean[s]), mean);
    CHECK(near(thresholds[s], 0.7 * mean, 0x1.01p-24), "set %zu: Δ", s);
    if (counts_above[s] != 0) {
      CHECK(near(ternary[s], above[s] / static_cast<double>(counts_above[s]), 0x1.01p-24), "set %zu: α of TWN", s);
    }
  }
}

TEST("bits, tensor: scales of binary and ternary weights are the means of their definition") {
  Random random(6);
  const AffineLayout layouts[] = {
      {1, 100003, 100003, 1, 1000},          // per tensor
      {1, std::size_t{77} * 90, 90, 1, 90},  // per channel of axis 0
      {50, 60, 1, 50, 60},                   // of the last axis
      {7, std::size_t{12} * 33, 33, 7, 33},  // of an axis between
      {300, 130, 32, 1, 130},                // per group, the last shorter
      {300, 130, 32, 128, 130},              // per block
      {3, 90000, 40000, 1, 90000},           // long groups
  };
  for (const AffineLayout& layout : layouts) check_scales(layout, random);
}

TEST("bits, tensor: sums of magnitudes have the same bits for any number of threads") {
  Random random(7);
  const AffineLayout layout{1, 300007, 300007, 1, 300007};
  Buffer<float> x(layout.element_count());
  for (std::size_t i = 0; i < x.size(); i++) x[i] = random.normal();
  double first = 0.0;
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    double sum = 0.0;
    abs_sums(x.data(), FloatType::kFloat32, layout, &sum);
    if (threads == 1) first = sum;
    CHECK(std::memcmp(&sum, &first, sizeof sum) == 0, "%zu threads: %.17g, expected %.17g", threads, sum, first);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
  x[200001] = INFINITY;
  x[299999] = NAN;
  double sum = 0.0;
  const Outcome outcome = abs_sums(x.data(), FloatType::kFloat32, layout, &sum);
  CHECK(outcome.status == Status::kNonFinite && outcome.index == 200001, "index %lld", (long long)outcome.index);
}

TEST("bits, tensor: scales of nothing, of zeros and of what is too large") {
  const AffineLayout layout{2, 4, 4, 1, 4};
  Buffer<float> x(8), scales(2), thresholds(2);
  for (std::size_t i = 0; i < 8; i++) x[i] = i < 4 ? 0.0F : 1e-7F;
  binary_scales(x.data(), FloatType::kFloat32, layout, FloatType::kFloat32, scales.data());
  CHECK(scales[0] == 0.0F && scales[1] == 1e-7F, "binary: %g, %g", static_cast<double>(scales[0]),
        static_cast<double>(scales[1]));
  absmean_scales(x.data(), FloatType::kFloat32, layout, FloatType::kFloat32, scales.data());
  CHECK(scales[0] == 1e-5F && scales[1] == 1e-5F, "absmean");
  ternary_scales(x.data(), FloatType::kFloat32, layout, FloatType::kFloat32, thresholds.data(), scales.data());
  CHECK(scales[0] == 1.0F && thresholds[0] == 0.0F && scales[1] == 1e-7F, "ternary");
  x[5] = 3e6F;
  const Outcome outcome = binary_scales(x.data(), FloatType::kFloat32, layout, FloatType::kFloat16, scales.data());
  CHECK(outcome.status == Status::kScaleOverflow && outcome.index == 1, "index %lld", (long long)outcome.index);
  CHECK(
      binary_scales(nullptr, FloatType::kFloat32, {0, 0, 1, 1, 0}, FloatType::kFloat32, nullptr).status == Status::kOk,
      "nothing");
}

}  // namespace
}  // namespace lowbit::test
