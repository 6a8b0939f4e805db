// Runs every registered test, or those whose name contains the first argument.

#include <chrono>
#include <cmath>
#include <cstdarg>

#include "core/cpu.h"
#include "test/check.h"

#if LOWBIT_HAVE_AVXVNNI_STAND_IN
namespace lowbit::avxvnni_stand_in {
extern const MatmulKernels kMatmul;
}
#endif

namespace lowbit::test {
namespace {

constexpr int kShownFailures = 5;
int failures = 0;
std::string skipped;

}  // namespace

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

void fail(const char* file, int line, const std::string& message) {
  if (failures++ < kShownFailures) std::printf("    %s:%d: %s\n", file, line, message.c_str());
}

bool failed() { return failures != 0; }

void skip(const std::string& reason) { skipped = reason; }

std::string format(const char* pattern, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> tables;
#if LOWBIT_HAVE_AVXVNNI_STAND_IN
  static Kernels stand_in = *find_kernels("avx2");
  stand_in.name = "AVX-VNNI by AVX-512";
  stand_in.matmul = &avxvnni_stand_in::kMatmul;
  if (cpu_features().avx512vnni && !cpu_features().avxvnni) tables.push_back(&stand_in);
#endif
  for (std::size_t i = 0; i < kAllKernelsCount; i++) {
    if (kAllKernels[i]->supported()) tables.push_back(kAllKernels[i]);
  }
  return tables;
}

std::uint64_t Random::bits() {
  std::uint64_t z = (state_ += 0x9e3779b97f4a7c15U);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

float Random::normal() {
  const double u = static_cast<double>((bits() >> 11) + 1) * 0x1p-53, v = static_cast<double>(bits() >> 11) * 0x1p-53;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
}

bool quick() {
  const char* value = std::getenv("LOWBIT_TEST_QUICK");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

std::vector<std::size_t> ragged_lengths() {
  std::vector<std::size_t> lengths;
  if (quick()) return {0, 1, 2, 5, 7, 8, 15, 16, 17, 31, 33, 47, 64, 65, 100, 511, 513, 4111};
  for (std::size_t n = 0; n <= 300; n++) lengths.push_back(n);
  lengths.insert(lengths.end(), {511, 512, 513, 1023, 4095, 4096, 4097, 4111, 9001});
  return lengths;
}

namespace {

int run_all(const char* filter) {
  std::string names;
  for (std::size_t i = 0; i < kAllKernelsCount; i++) {
    names += std::string(names.empty() ? "" : ", ") + kAllKernels[i]->name +
             (kAllKernels[i]->supported() ? "" : " (not supported here: SKIPPED)");
  }
  std::printf("instruction sets: %s; in use: %s%s\n", names.c_str(), kernels().name, quick() ? "; quick run" : "");
  int passed = 0, failed_tests = 0, skipped_tests = 0;
  for (const Test& test : tests()) {
    if (filter != nullptr && std::strstr(test.name, filter) == nullptr) continue;
    failures = 0;
    skipped.clear();
    const auto start = std::chrono::steady_clock::now();
    test.run();
    const auto ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start).count();
    if (failures != 0) {
      failed_tests++;
      std::printf("FAIL  %s (%d failures)\n", test.name, failures);
    } else if (!skipped.empty()) {
      skipped_tests++;
      std::printf("SKIP  %s: %s\n", test.name, skipped.c_str());
    } else {
      passed++;
      std::printf("ok    %s (%lld ms)\n", test.name, static_cast<long long>(ms));
    }
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed_tests, skipped_tests);
  return failed_tests != 0 || passed == 0 ? 1 : 0;
}

}  // namespace
}  // namespace lowbit::test

int main(int argc, char** argv) { return lowbit::test::run_all(argc > 1 ? argv[1] : nullptr); }
