// libFuzzer target: files of packed weights. The first byte says whether the rest is a file as it is, or numbers of a
// layout, whose checksums are then right, and contents that are repeated as often as the layout needs. What is taken is
// multiplied with: no product reads outside the file.

#include <sanitizer/asan_interface.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "ops/matmul/matmul.h"
#include "ops/matmul/packed_file.h"

namespace {

using lowbit::FloatType;
using lowbit::LineFormat;
using lowbit::PackedLayout;
using lowbit::PackedWeight;
using lowbit::WeightKind;

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  std::uint8_t byte() { return at_ < size_ ? data_[at_++] : 0; }
  // Mostly small, sometimes close to a power of two.
  std::uint64_t number() {
    const std::uint8_t kind = byte();
    if (kind < 0xe0) return kind;
    const std::uint64_t power = std::uint64_t{1} << (byte() % 64);
    return kind < 0xf0 ? power : power + byte() - 128;
  }
  const std::uint8_t* rest() const { return data_ + at_; }
  std::size_t left() const { return size_ - at_; }

 private:
  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
};

constexpr std::size_t kMostBytes = 1 << 16;

// A file in memory of its own, past whose end nothing may be read.
lowbit::Pages pages_of(const std::vector<std::uint8_t>& bytes) {
  lowbit::Pages pages(bytes.size());
  if (!bytes.empty()) std::memcpy(pages.data(), bytes.data(), bytes.size());
  return pages;
}

std::vector<std::uint8_t> file_of(Input& in) {
  PackedLayout l{};
  l.kind = static_cast<WeightKind>(in.byte() % 4);
  l.format = static_cast<LineFormat>(in.byte() % 16);
  l.type = static_cast<FloatType>(in.byte() % 4);
  const std::uint8_t flags = in.byte();
  l.column_zeros = (flags & 1) != 0;
  l.offsets = (flags & 2) != 0;
  l.zero = in.byte();
  l.rows = in.number();
  l.columns = in.number();
  l.segment = in.number() * ((flags & 4) != 0 ? 1 : 16);
  l.segments = in.number();
  l.segments_per_group = in.number();
  if ((flags & 8) == 0 && l.segment != 0) l.segments = (l.columns + l.segment - 1) / l.segment;
  if (l.segments_per_group == 0) l.segments_per_group = 1;
  const std::size_t bytes = l.segments == 0 && l.kind != WeightKind::kFloats ? 0 : l.bytes();
  const std::size_t there = bytes > kMostBytes ? 0 : bytes;
  std::vector<std::uint8_t> file(lowbit::kPackedHeaderBytes + there);
  for (std::size_t i = 0; i < there && in.left() > 0; i++) {
    file[lowbit::kPackedHeaderBytes + i] = in.rest()[i % in.left()];
  }
  const std::uint64_t checksum = lowbit::packed_checksum(file.data() + lowbit::kPackedHeaderBytes, there);
  const std::uint64_t claimed = (flags & 16) != 0 ? bytes + 1 : bytes;
  lowbit::write_packed_header(l, claimed, (flags & 32) != 0 ? checksum + 1 : checksum, file.data());
  if ((flags & 64) != 0) file.resize(file.size() - 1 - flags % 8);
  return file;
}

void multiply(const PackedWeight& weight, std::size_t m) {
  const std::size_t rows = weight.layout.rows, columns = weight.layout.columns;
  if (rows > kMostBytes || columns > kMostBytes || rows * columns > kMostBytes) return;
  if (weight.layout.kind == WeightKind::kIntegers) {
    const std::vector<std::uint8_t> a(m * columns, 0x81);
    std::vector<std::int32_t> c(m * rows);
    const std::int32_t zero = 3;
    lowbit::IntegerMatmulArguments arguments{};
    arguments.a = a.data();
    arguments.m = m;
    arguments.b = &weight;
    arguments.a_zeros = &zero;
    arguments.b_zeros = &zero;
    arguments.result = lowbit::IntegerResult::kInt32;
    arguments.c = c.data();
    lowbit::matmul_integer(arguments);
    return;
  }
  const std::vector<float> x(m * columns, 0.5F);
  std::vector<float> y(m * rows);
  for (const lowbit::ComputeType compute :
       {lowbit::ComputeType::kFloat32, lowbit::ComputeType::kInt16, lowbit::ComputeType::kInt8}) {
    lowbit::LinearArguments arguments{};
    arguments.x = x.data();
    arguments.m = m;
    arguments.weight = &weight;
    arguments.compute = compute;
    arguments.y = y.data();
    lowbit::linear(arguments);
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  lowbit::ThreadPool::instance().set_thread_count(1);  // waking others takes longer than what is computed here
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  Input in(data, size);
  const std::uint8_t how = in.byte();
  const bool verify = (how & 1) != 0;
  const std::vector<std::uint8_t> file =
      (how & 6) == 0 ? std::vector<std::uint8_t>(in.rest(), in.rest() + in.left()) : file_of(in);
  lowbit::Pages pages = pages_of(file);
  std::uint8_t* const end = pages.data() + file.size();
  const std::size_t padding = (4096 - file.size() % 4096) % 4096;
  if (!file.empty()) ASAN_POISON_MEMORY_REGION(end, padding);
  {
    PackedWeight weight;
    const lowbit::PackedProblem problem = lowbit::take_packed(std::move(pages), verify, weight);
    if (problem.fault == lowbit::PackedFault::kNone) {
      if (lowbit::kPackedHeaderBytes + weight.layout.bytes() != file.size()) std::abort();
      multiply(weight, 1 + how / 64);
    }
    // The pages are given back with `weight` or were already: either way nobody finds them poisoned.
    if (!file.empty()) ASAN_UNPOISON_MEMORY_REGION(end, padding);
  }
  return 0;
}
