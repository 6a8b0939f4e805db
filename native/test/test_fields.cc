// Bit fields against plain loops over bits, for every width, shape and number of threads.

#include <algorithm>

#include "ops/fields/fields.h"
#include "test/check.h"
#include "test/values.h"

namespace lowbit::test {
namespace {

bool bit_of(const std::uint8_t* row, std::size_t i) { return ((row[i / 8] >> (i % 8)) & 1) != 0; }

// Field i of a row: bits from `at` on.
unsigned field_at(const std::uint8_t* row, std::size_t at, unsigned bits) {
  unsigned value = 0;
  for (unsigned b = 0; b < bits; b++) value |= (bit_of(row, at + b) ? 1U : 0U) << b;
  return value;
}

// Where field i of a row begins.
std::size_t position(std::size_t i, unsigned bits, unsigned per_word) {
  return per_word == 0 ? i * bits : i / per_word * 32 + i % per_word * bits;
}

void fill(Random& random, Buffer<std::uint8_t>& buffer) {
  for (std::size_t i = 0; i < buffer.size(); i++) buffer[i] = static_cast<std::uint8_t>(random.bits());
}

struct Shape {
  std::size_t rows, columns;
};

Shape shape(Random& random, std::size_t round) {
  if (round % 16 == 0) return {1 + random.below(3), 30000 + random.below(9000)};  // several stretches
  return {random.below(9), random.below(80)};
}

const std::size_t kRounds = quick() ? 200 : 2000;

TEST("fields: moved and flipped rows equal a loop over bits") {
  Random random(1);
  for (std::size_t round = 0; round < kRounds; round++) {
    const auto [rows, columns] = shape(random, round);
    const unsigned bits = 1 + static_cast<unsigned>(random.below(8));
    const bool flip = random.below(2) == 0;
    const std::size_t bytes = field_bytes(columns, bits), in_stride = bytes + random.below(5),
                      out_stride = bytes + random.below(5);
    Buffer<std::uint8_t> in(rows * in_stride), out(rows * out_stride);
    fill(random, in);
    fill(random, out);
    move_fields({in.data(), in_stride, out.data(), out_stride, rows, columns, bits, flip});
    for (std::size_t r = 0; r < rows && columns > 0; r++) {
      const std::uint8_t *from = in.data() + r * in_stride, *to = out.data() + r * out_stride;
      for (std::size_t i = 0; i < columns; i++) {
        const unsigned expected = field_at(from, i * bits, bits) ^ (flip ? 1U << (bits - 1) : 0U);
        CHECK(field_at(to, i * bits, bits) == expected, "%u bits, field %zu of row %zu", bits, i, r);
      }
      for (std::size_t b = columns * bits; b < 8 * out_stride; b++) CHECK(!bit_of(to, b), "bit %zu of row %zu", b, r);
    }
    if (failed()) return;
  }
}

TEST("fields: unpacked bytes equal a loop over bits, without gaps and word by word") {
  Random random(2);
  for (std::size_t round = 0; round < kRounds; round++) {
    const auto [rows, columns] = shape(random, round);
    const unsigned bits = 1 + static_cast<unsigned>(random.below(8));
    const unsigned per_word = random.below(2) == 0 ? 0 : 32 / bits;
    const auto offset = static_cast<std::uint8_t>(random.below(2) == 0 ? 0 : 1U << (bits - 1));
    const std::size_t words = per_word == 0 ? 0 : (columns + per_word - 1) / per_word;
    const std::size_t stride = (per_word == 0 ? field_bytes(columns, bits) : 4 * words) + random.below(5);
    Buffer<std::uint8_t> in(rows * stride), out(rows * columns);
    fill(random, in);
    unpack_fields({in.data(), stride, out.data(), rows, columns, bits, per_word, offset});
    for (std::size_t r = 0; r < rows; r++) {
      for (std::size_t i = 0; i < columns; i++) {
        const unsigned field = field_at(in.data() + r * stride, position(i, bits, per_word), bits);
        CHECK(out[r * columns + i] == static_cast<std::uint8_t>(field - offset),
              "%u bits, %u per word: field %zu of %zu", bits, per_word, i, r);
      }
    }
    if (failed()) return;
  }
}

TEST("fields: gathered columns equal a loop over bits") {
  Random random(3);
  for (std::size_t round = 0; round < kRounds; round++) {
    const auto [rows, columns] = shape(random, round);
    const unsigned bits = 1 + static_cast<unsigned>(random.below(8));
    const std::size_t bytes = field_bytes(columns, bits);
    Buffer<std::uint8_t> in(rows * bytes), out(rows * bytes);
    Buffer<std::int32_t> order(columns);
    fill(random, in);
    fill(random, out);
    for (std::size_t i = 0; i < columns; i++) order[i] = static_cast<std::int32_t>(random.below(columns));
    gather_fields({in.data(), order.data(), out.data(), rows, columns, bits});
    for (std::size_t r = 0; r < rows; r++) {
      const std::uint8_t *from = in.data() + r * bytes, *to = out.data() + r * bytes;
      for (std::size_t i = 0; i < columns; i++) {
        const unsigned expected = field_at(from, static_cast<std::size_t>(order[i]) * bits, bits);
        CHECK(field_at(to, i * bits, bits) == expected, "%u bits, field %zu of row %zu", bits, i, r);
      }
      for (std::size_t b = columns * bits; b < 8 * bytes; b++) CHECK(!bit_of(to, b), "bit %zu of row %zu", b, r);
    }
    if (failed()) return;
  }
}

TEST("fields: halves of bytes change places, in place as well") {
  Random random(4);
  for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{255}, std::size_t{100001}}) {
    Buffer<std::uint8_t> in(count), out(count);
    fill(random, in);
    swap_nibbles(in.data(), out.data(), count);
    for (std::size_t i = 0; i < count; i++) CHECK(out[i] == (in[i] % 16) * 16 + in[i] / 16, "byte %zu", i);
    swap_nibbles(out.data(), out.data(), count);
    CHECK(std::equal(in.data(), in.data() + count, out.data()), "%zu bytes, twice", count);
  }
}

TEST("fields: LLM.int8() weights are two products, each rounded") {
  Random random(5);
  const std::size_t rows = 7, columns = 9001;
  Buffer<std::int8_t> codes(rows * columns);
  Buffer<float> absmax(rows), out(rows * columns);
  for (std::size_t i = 0; i < codes.size(); i++) codes[i] = static_cast<std::int8_t>(random.bits());
  for (std::size_t r = 0; r < rows; r++) absmax[r] = random.between(1e-3F, 10.0F);
  dequantize_llm_int8(codes.data(), absmax.data(), rows, columns, out.data());
  for (std::size_t i = 0; i < out.size(); i++) {
    const auto first = static_cast<float>(static_cast<double>(codes[i]) * static_cast<double>(absmax[i / columns]));
    const auto expected = static_cast<float>(static_cast<double>(first) * static_cast<double>(7.874015718698502e-3F));
    CHECK(out[i] == expected, "element %zu is %g, expected %g", i, static_cast<double>(out[i]),
          static_cast<double>(expected));
  }
}

TEST("fields: a cancelled call says so") {
  Buffer<std::uint8_t> bytes(64);
  std::fill(bytes.data(), bytes.data() + 64, std::uint8_t{0});
  const CancelFlag cancel(true);
  CHECK(swap_nibbles(bytes.data(), bytes.data(), 64, &cancel).status == Status::kCancelled, "not cancelled");
}

}  // namespace
}  // namespace lowbit::test
