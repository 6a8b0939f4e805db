#pragma once

// A test harness small enough to build wherever the addon builds. Buffers are exact-size heap blocks, so that the
// address sanitizer sees every byte read or written outside them.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/kernels.h"

namespace lowbit::test {

struct Test {
  const char* name;
  void (*run)();
};
std::vector<Test>& tests();

struct Registration {
  Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

// Fails the running test with a sentence; after a few failures a test stays quiet.
void fail(const char* file, int line, const std::string& message);
bool failed();  // the running test so far
// Marks the running test as skipped, with the reason.
void skip(const std::string& reason);

std::string format(const char* pattern, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 1, 2)))
#endif
    ;

#define LOWBIT_CONCAT_(a, b) a##b
#define LOWBIT_CONCAT(a, b) LOWBIT_CONCAT_(a, b)
#define TEST(name)                                                                                                \
  static void LOWBIT_CONCAT(test_, __LINE__)();                                                                   \
  static const ::lowbit::test::Registration LOWBIT_CONCAT(registered_, __LINE__)(name,                            \
                                                                                 LOWBIT_CONCAT(test_, __LINE__)); \
  static void LOWBIT_CONCAT(test_, __LINE__)()
#define CHECK(condition, ...)                                                                        \
  do {                                                                                               \
    if (!(condition)) ::lowbit::test::fail(__FILE__, __LINE__, ::lowbit::test::format(__VA_ARGS__)); \
  } while (false)

// The tables that this processor can run, scalar among them.
std::vector<const Kernels*> supported_kernels();

// The same numbers on every machine (SplitMix64).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits();
  std::uint32_t bits32() { return static_cast<std::uint32_t>(bits() >> 32); }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(bits() % n); }
  float uniform() { return static_cast<float>(bits() >> 40) * 0x1p-24F; }
  float between(float low, float high) { return low + (high - low) * uniform(); }
  float normal();  // mean 0, deviation 1

 private:
  std::uint64_t state_;
};

// `count` elements in a heap block of exactly that size, starting `misalignment` elements past a 64-byte boundary.
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::size_t count, std::size_t misalignment = 0) : count_(count) {
    const std::size_t bytes = (count + misalignment) * sizeof(T);
    // The block ends with the last element: over-reads at the end are always seen. Its start is aligned by malloc, and
    // misalignment moves the first element.
    block_.reset(static_cast<T*>(std::malloc(bytes == 0 ? 1 : bytes)));
    data_ = block_.get() + misalignment;
    std::memset(static_cast<void*>(block_.get()), 0xa5, bytes);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  std::size_t bytes() const { return count_ * sizeof(T); }

 private:
  struct Free {
    void operator()(T* block) const { std::free(block); }
  };
  std::unique_ptr<T, Free> block_;
  T* data_;
  std::size_t count_;
};

// Index of the first differing element, or the count.
template <typename T>
std::size_t first_difference(const Buffer<T>& a, const Buffer<T>& b) {
  for (std::size_t i = 0; i < a.size(); i++) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0) return i;
  }
  return a.size();
}

// Results must not depend on the number of threads.
constexpr std::size_t kThreadCounts[] = {1, 2, 3, 7, 16};

// LOWBIT_TEST_QUICK=1 asks for a shorter run, for emulators: fewer random rounds and lengths, every path.
bool quick();

// Lengths that meet every tail: 0 to 300 (quick: a selection), and some around larger powers of two.
std::vector<std::size_t> ragged_lengths();

}  // namespace lowbit::test
