// Codes in the words of GPTQ and AWQ: every instruction set against the scalar file, that against the definition code
// by code, and whole strips for every number of threads.

#include "core/packed_codes.h"
#include "ops/repack/repack.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

Buffer<std::uint32_t> random_words(Random& random, std::size_t count, std::size_t misalignment = 0) {
  Buffer<std::uint32_t> words(count, misalignment);
  for (std::size_t i = 0; i < count; i++) words[i] = random.bits32();
  return words;
}

std::vector<std::int32_t> shuffled(Random& random, std::size_t count) {
  std::vector<std::int32_t> order(count);
  for (std::size_t i = 0; i < count; i++) order[i] = static_cast<std::int32_t>(i);
  for (std::size_t i = count; i > 1; i--) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

int code_of(const std::uint32_t* row, unsigned bits, std::size_t i) {
  return code_at(reinterpret_cast<const std::uint8_t*>(row), {static_cast<std::uint8_t>(bits), false}, i);
}

// Words of a matrix whose last row ends with the block.
std::size_t words_of(std::size_t rows, std::size_t columns, std::size_t stride) {
  return rows == 0 ? 0 : (rows - 1) * stride + columns;
}

TEST("repack: the words of GPTQ hold code k of channel n where its documentation says") {
  Random random(1);
  for (const unsigned bits : {2U, 3U, 4U, 8U}) {
    const std::size_t n = 5, k = 96, k_words = k * bits / 32;
    const Buffer<std::uint32_t> words = random_words(random, k_words * n);
    Buffer<std::uint32_t> rows(n * k_words);
    scalar::kRepack.transpose({words.data(), n}, k_words, n, {rows.data(), k_words});
    for (std::size_t row = 0; row < n; row++) {
      for (std::size_t i = 0; i < k; i++) {
        int expected = 0;  // bit b of code i is bit (i · bits + b) mod 32 of word (i · bits + b) / 32
        for (unsigned b = 0; b < bits; b++) {
          const std::size_t bit = i * bits + b;
          expected |= static_cast<int>((words[bit / 32 * n + row] >> (bit % 32)) & 1U) << b;
        }
        CHECK(code_of(rows.data() + row * k_words, bits, i) == expected, "%u bits, row %zu, code %zu", bits, row, i);
      }
    }
  }
}

TEST("repack: the words of AWQ hold channels in its order") {
  Random random(2);
  const std::size_t k_words = 3, columns = 2;
  const Buffer<std::uint32_t> words = random_words(random, 8 * k_words * columns);
  Buffer<std::uint32_t> rows(words.size()), back(words.size());
  scalar::kRepack.awq_to_rows({words.data(), columns}, k_words, columns, {rows.data(), k_words});
  scalar::kRepack.rows_to_awq({rows.data(), k_words}, k_words, columns, {back.data(), columns});
  constexpr std::size_t kReverse[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  for (std::size_t n = 0; n < 8 * columns; n++) {
    for (std::size_t k = 0; k < 8 * k_words; k++) {
      const int expected = static_cast<int>((words[k * columns + n / 8] >> (4 * kReverse[n % 8])) & 15U);
      CHECK(code_of(rows.data() + n * k_words, 4, k) == expected, "channel %zu, code %zu", n, k);
    }
  }
  CHECK(first_difference(back, words) == words.size(), "and back");
}

TEST("repack: selected codes are those that the order names") {
  Random random(3);
  for (const unsigned bits : {2U, 3U, 4U, 8U}) {
    const std::size_t count = 64, columns = 3, k_words = count * bits / 32;
    const Buffer<std::uint32_t> words = random_words(random, k_words * columns);
    const std::vector<std::int32_t> order = shuffled(random, count);
    Buffer<std::uint32_t> out(words.size()), rows(words.size()), selected(words.size());
    scalar::kRepack.select_codes({words.data(), columns}, bits, order.data(), count, columns, {out.data(), columns});
    scalar::kRepack.transpose({words.data(), columns}, k_words, columns, {rows.data(), k_words});
    scalar::kRepack.transpose({out.data(), columns}, k_words, columns, {selected.data(), k_words});
    for (std::size_t c = 0; c < columns; c++) {
      for (std::size_t i = 0; i < count; i++) {
        const int expected = code_of(rows.data() + c * k_words, bits, static_cast<std::size_t>(order[i]));
        CHECK(code_of(selected.data() + c * k_words, bits, i) == expected, "%u bits, column %zu, code %zu", bits, c, i);
      }
    }
  }
}

TEST("repack: every instruction set equals the scalar file") {
  Random random(4);
  for (const Kernels* k : supported_kernels()) {
    for (std::size_t round = 0; round < (quick() ? 40U : 300U); round++) {
      const std::size_t rows = random.below(50), columns = random.below(50), shift = random.below(4);
      const std::size_t in_stride = columns + random.below(5), out_stride = rows + random.below(5);
      const Buffer<std::uint32_t> in = random_words(random, words_of(rows, columns, in_stride), shift);
      Buffer<std::uint32_t> out(words_of(columns, rows, out_stride), random.below(4)), expected(out.size());
      k->repack->transpose({in.data(), in_stride}, rows, columns, {out.data(), out_stride});
      scalar::kRepack.transpose({in.data(), in_stride}, rows, columns, {expected.data(), out_stride});
      CHECK(first_difference(out, expected) == out.size(), "%s: transpose [%zu, %zu]", k->name, rows, columns);

      const Buffer<std::uint32_t> awq = random_words(random, words_of(8 * rows, columns, in_stride), shift);
      Buffer<std::uint32_t> awq_rows(words_of(8 * columns, rows, out_stride)), awq_expected(awq_rows.size());
      k->repack->awq_to_rows({awq.data(), in_stride}, rows, columns, {awq_rows.data(), out_stride});
      scalar::kRepack.awq_to_rows({awq.data(), in_stride}, rows, columns, {awq_expected.data(), out_stride});
      CHECK(first_difference(awq_rows, awq_expected) == awq_rows.size(), "%s: AWQ to rows [%zu, %zu]", k->name, rows,
            columns);
      Buffer<std::uint32_t> words(awq.size()), words_expected(awq.size());
      k->repack->rows_to_awq({awq_rows.data(), out_stride}, rows, columns, {words.data(), in_stride});
      scalar::kRepack.rows_to_awq({awq_rows.data(), out_stride}, rows, columns, {words_expected.data(), in_stride});
      CHECK(first_difference(words, words_expected) == words.size(), "%s: rows to AWQ [%zu, %zu]", k->name, rows,
            columns);

      constexpr unsigned kWidths[] = {2, 3, 4, 8};
      const unsigned bits = kWidths[random.below(4)];
      const std::size_t count = 32 * random.below(5), k_words = count * bits / 32;
      const std::vector<std::int32_t> order = shuffled(random, count);
      const Buffer<std::uint32_t> codes = random_words(random, words_of(k_words, columns, in_stride), shift);
      Buffer<std::uint32_t> selected(codes.size()), selected_expected(codes.size());
      k->repack->select_codes({codes.data(), in_stride}, bits, order.data(), count, columns,
                              {selected.data(), in_stride});
      scalar::kRepack.select_codes({codes.data(), in_stride}, bits, order.data(), count, columns,
                                   {selected_expected.data(), in_stride});
      CHECK(first_difference(selected, selected_expected) == selected.size(), "%s: select %zu codes of %u bits, %zu",
            k->name, count, bits, columns);
      if (failed()) return;
    }
  }
}

TEST("repack: whole strips, on any number of threads") {
  Random random(5);
  const std::size_t rows = 600, columns = 203, awq_words = 70, awq_columns = 133, count = 256;
  const Buffer<std::uint32_t> in = random_words(random, rows * columns);
  const Buffer<std::uint32_t> awq = random_words(random, 8 * awq_words * awq_columns);
  const std::vector<std::int32_t> order = shuffled(random, count);
  Buffer<std::uint32_t> expected(in.size()), awq_expected(awq.size()), selected(count / 8 * columns);
  scalar::kRepack.transpose({in.data(), columns}, rows, columns, {expected.data(), rows});
  scalar::kRepack.awq_to_rows({awq.data(), awq_columns}, awq_words, awq_columns, {awq_expected.data(), awq_words});
  scalar::kRepack.select_codes({in.data(), columns}, 4, order.data(), count, columns, {selected.data(), columns});
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    Buffer<std::uint32_t> out(in.size()), awq_rows(awq.size()), back(awq.size()), codes(selected.size());
    CHECK(transpose_words({in.data(), columns}, rows, columns, {out.data(), rows}).status == Status::kOk, "status");
    CHECK(first_difference(out, expected) == out.size(), "transpose on %zu threads", threads);
    awq_to_rows({awq.data(), awq_columns}, awq_words, awq_columns, {awq_rows.data(), awq_words});
    CHECK(first_difference(awq_rows, awq_expected) == awq.size(), "AWQ to rows on %zu threads", threads);
    rows_to_awq({awq_rows.data(), awq_words}, awq_words, awq_columns, {back.data(), awq_columns});
    CHECK(first_difference(back, awq) == awq.size(), "rows to AWQ on %zu threads", threads);
    select_codes({in.data(), columns}, 4, order.data(), count, columns, {codes.data(), columns});
    CHECK(first_difference(codes, selected) == codes.size(), "select on %zu threads", threads);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
  const CancelFlag cancel{true};
  Buffer<std::uint32_t> out(in.size());
  CHECK(transpose_words({in.data(), columns}, rows, columns, {out.data(), rows}, &cancel).status == Status::kCancelled,
        "a cancelled strip");
}

}  // namespace
}  // namespace lowbit::test
