#pragma once

#include <cmath>
#include <cstdint>

#include "node/arguments.h"
#include "ops/codebook/codebook_kernels.h"

namespace lowbit::node {

constexpr std::int64_t kMaxIndex = (std::int64_t{1} << 53) - 1;

// Calls with many numbers pass them in one Float64Array: reading seventeen arguments one by one costs more than
// quantizing a row. Read before the call returns, so that lib/ can use one array for all calls.
class Record {
 public:
  Record(const Arguments& a, std::size_t i, std::size_t length)
      : a_(a), numbers_(a.array(i, "record", napi_float64_array)) {
    a.check(numbers_.size == length * sizeof(double), "Expected a record of the right length.");
  }

  double number() { return numbers_.as<const double>()[next_++]; }
  std::int64_t integer(std::int64_t lowest, std::int64_t highest) {
    const double value = number();
    a_.check(
        value >= static_cast<double>(lowest) && value <= static_cast<double>(highest) && value == std::floor(value),
        "Expected an integer in range.");
    return static_cast<std::int64_t>(value);
  }
  std::size_t size(std::int64_t lowest = 0) { return static_cast<std::size_t>(integer(lowest, kMaxIndex)); }
  std::int32_t int32() { return static_cast<std::int32_t>(integer(INT32_MIN, INT32_MAX)); }
  bool flag() { return integer(0, 1) == 1; }
  FloatType float_type() { return static_cast<FloatType>(integer(0, 2)); }
  CodeType code_type() {
    const std::int64_t bits = integer(1, 8);
    a_.check(bits != 5 && bits != 7, "Expected codes of 1, 2, 3, 4, 6 or 8 bits.");
    return {static_cast<std::uint8_t>(bits), flag()};
  }
  // A codebook whose codes have this type.
  Codebook codebook(CodeType code) {
    const auto book = static_cast<Codebook>(integer(0, kCodebooks - 1));
    const CodeType expected = code_type_of(book);
    a_.check(expected.bits == code.bits && expected.is_signed == code.is_signed, "Expected the codebook's code type.");
    return book;
  }

 private:
  const Arguments& a_;
  Bytes numbers_;
  std::size_t next_ = 0;
};

}  // namespace lowbit::node
