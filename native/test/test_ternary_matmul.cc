// Products of bytes and ternary digits: every instruction set's kernels (through the one in use) against plain loops.

#include "ops/bits/bits.h"
#include "ops/matmul/ternary_matmul.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

void check_product(std::size_t m, std::size_t n, std::size_t k, bool extreme, Random& random) {
  Buffer<std::int8_t> a(m * k), digits(n * k);
  for (std::size_t i = 0; i < a.size(); i++) a[i] = extreme ? -128 : static_cast<std::int8_t>(random.bits());
  for (std::size_t i = 0; i < digits.size(); i++) {
    digits[i] = extreme ? -1 : static_cast<std::int8_t>(static_cast<int>(random.below(3)) - 1);
  }
  Buffer<std::uint8_t> packed(n * packed_ternary_bytes(TernaryPacking::kTwoBits, k));
  pack_ternary(digits.data(), TernaryPacking::kTwoBits, n, k, packed.data());
  PackedWeight weight;
  CHECK(pack_ternary_weight(packed.data(), n, k, weight).status == Status::kOk, "status");
  CHECK(is_ternary_weight(weight), "[%zu, %zu] is ternary", n, k);
  Buffer<std::int32_t> c(m * n);
  CHECK(ternary_matmul(a.data(), m, weight, c.data()).status == Status::kOk, "status");
  for (std::size_t r = 0; r < m; r++) {
    for (std::size_t col = 0; col < n; col++) {
      std::int32_t expected = 0;
      for (std::size_t i = 0; i < k; i++) expected += a[r * k + i] * digits[col * k + i];
      CHECK(c[r * n + col] == expected, "[%zu, %zu] · [%zu], row %zu, column %zu: %d, expected %d", m, n, k, r, col,
            c[r * n + col], expected);
      if (failed()) return;
    }
  }
}

TEST("ternary matmul, tensor: exact, for ragged shapes and any number of threads") {
  Random random(1);
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    for (std::size_t k = threads % 3; k <= 70; k += quick() ? 9 : 2) {
      check_product(1 + random.below(9), 1 + random.below(40), k, false, random);
    }
    check_product(3, 70, 1031, false, random);
    check_product(0, 3, 5, false, random);
    check_product(3, 0, 5, false, random);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
  if (!quick()) check_product(700, 33, 300, false, random);  // codes are decoded first
}

TEST("ternary matmul, tensor: exact where float32 could not hold the sums") {
  Random random(2);
  check_product(2, 3, 140001, true, random);
  check_product(1, 2, 200003, false, random);
}

TEST("ternary matmul, tensor: other weights are refused") {
  const std::uint8_t codes[] = {0x11, 0x92};  // two rows of three digits; the last of the second is 1, then junk of −2
  PackedWeight weight;
  Outcome outcome = pack_ternary_weight(codes, 2, 3, weight);
  CHECK(outcome.status == Status::kInvalidCode && outcome.index == 3, "index %lld", (long long)outcome.index);
  const std::uint8_t good[] = {0x11, 0x93};
  CHECK(pack_ternary_weight(good, 2, 3, weight).status == Status::kOk && is_ternary_weight(weight), "junk is ignored");
  const float scales[] = {1.0F, 0.5F};
  CHECK(!is_ternary_weight(pack_codes({good, CodeType{2, true}, 2, 3, scales, nullptr, 1, 3})), "other scales");
  CHECK(!is_ternary_weight(pack_integers(good, false, 1, 2)), "integers");
}

}  // namespace
}  // namespace lowbit::test
