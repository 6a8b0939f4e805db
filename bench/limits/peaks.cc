// peak(recipe, tasks): what the arithmetic units can do at best. Every task repeats one multiply-add recipe on
// registers alone, in more independent chains than its latency needs, for some ten
// microseconds; all threads of the
// pool share the tasks. Returns the number of operations done (a multiplication and an addition are two), or null where
// the processor does not have the instructions.

#include <cstdint>
#include <string>

#include "core/thread_pool.h"
#include "limits.h"
#include "node/arguments.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define LOWBIT_BENCH_X86 1
#include <immintrin.h>
#endif

namespace lowbit::bench {
namespace {

constexpr std::size_t kTaskOperations = 6'000'000;

struct Recipe {
  const char* name;
  bool available;
  std::size_t operations;  // of one step
  void (*run)(std::size_t steps);
};

#if defined(LOWBIT_BENCH_X86)

// The value changes as far as the compiler knows: it can neither hoist nor merge what is computed of it.
#define LOWBIT_OPAQUE(x) asm volatile("" : "+v"(x))
#define LOWBIT_OPAQUE_AVX2(x) asm volatile("" : "+x"(x))
// A result that the compiler must not drop.
#define LOWBIT_USED(x) asm volatile("" : : "v"(x))
#define LOWBIT_USED_AVX2(x) asm volatile("" : : "x"(x))

__attribute__((target("avx512f,avx512vnni"))) void dot_vnni_zmm(std::size_t steps) {
  __m512i sums[12] = {}, x = _mm512_set1_epi8(1), y = x;
  for (__m512i& sum : sums) LOWBIT_OPAQUE(sum);
  for (std::size_t s = 0; s < steps; s++) {
    LOWBIT_OPAQUE(x);
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, x, y);
  }
  for (const __m512i& sum : sums) LOWBIT_USED(sum);
}

__attribute__((target("avx2,avxvnni"))) void dot_vnni_ymm(std::size_t steps) {
  __m256i sums[12] = {}, x = _mm256_set1_epi8(1), y = x;
  for (__m256i& sum : sums) LOWBIT_OPAQUE_AVX2(sum);
  for (std::size_t s = 0; s < steps; s++) {
    LOWBIT_OPAQUE_AVX2(x);
    for (__m256i& sum : sums) sum = _mm256_dpbusd_avx_epi32(sum, x, y);
  }
  for (const __m256i& sum : sums) LOWBIT_USED_AVX2(sum);
}

// Two products of bytes added in int16, then pairs of those in int32: seven bits on one side, or both sides small.
__attribute__((target("avx2"))) void dot_maddubs_2(std::size_t steps) {
  __m256i sums[4] = {}, x = _mm256_set1_epi8(1), y = x;
  const __m256i ones = _mm256_set1_epi16(1);
  for (__m256i& sum : sums) LOWBIT_OPAQUE_AVX2(sum);
  for (std::size_t s = 0; s < steps; s++) {
    for (__m256i& sum : sums) {
      LOWBIT_OPAQUE_AVX2(x);
      LOWBIT_OPAQUE_AVX2(y);
      const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(x, y), _mm256_maddubs_epi16(y, x));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    }
  }
  for (const __m256i& sum : sums) LOWBIT_USED_AVX2(sum);
}

// Eight products of four-bit numbers with bytes fit in int16: 8 · 2 · 15 · 127 < 2^15.
__attribute__((target("avx2"))) void dot_maddubs_8(std::size_t steps) {
  __m256i sums[4] = {}, x = _mm256_set1_epi8(1), y = x;
  const __m256i ones = _mm256_set1_epi16(1);
  for (__m256i& sum : sums) LOWBIT_OPAQUE_AVX2(sum);
  for (std::size_t s = 0; s < steps; s++) {
    __m256i pairs[4] = {};
    for (int i = 0; i < 8; i++) {
      for (__m256i& pair : pairs) {
        LOWBIT_OPAQUE_AVX2(x);
        pair = _mm256_add_epi16(pair, _mm256_maddubs_epi16(x, y));
        LOWBIT_OPAQUE_AVX2(pair);  // or the additions are regrouped until registers run out
      }
    }
    for (int c = 0; c < 4; c++) sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(pairs[c], ones));
  }
  for (const __m256i& sum : sums) LOWBIT_USED_AVX2(sum);
}

// Numbers of sixteen bits.
__attribute__((target("avx2"))) void dot_madd(std::size_t steps) {
  __m256i sums[8] = {}, x = _mm256_set1_epi16(1), y = x;
  for (__m256i& sum : sums) LOWBIT_OPAQUE_AVX2(sum);
  for (std::size_t s = 0; s < steps; s++) {
    for (__m256i& sum : sums) {
      LOWBIT_OPAQUE_AVX2(x);
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, y));
    }
  }
  for (const __m256i& sum : sums) LOWBIT_USED_AVX2(sum);
}

// Exclusive or, count, add: 512 products of signs, and their sum.
__attribute__((target("avx512f,avx512vpopcntdq"))) void count_zmm(std::size_t steps) {
  __m512i sums[12] = {}, x = _mm512_set1_epi8(1), y = x;
  for (__m512i& sum : sums) LOWBIT_OPAQUE(sum);
  for (std::size_t s = 0; s < steps; s++) {
    for (__m512i& sum : sums) {
      LOWBIT_OPAQUE(x);
      sum = _mm512_add_epi32(sum, _mm512_popcnt_epi32(_mm512_xor_si512(x, y)));
    }
  }
  for (const __m512i& sum : sums) LOWBIT_USED(sum);
}

// The same, 64 at a time: what needs no vectors.
__attribute__((target("popcnt"))) void count_words(std::size_t steps) {
  std::uint64_t sums[8] = {}, x = 1, y = 3;
  for (std::size_t s = 0; s < steps; s++) {
    for (std::uint64_t& sum : sums) {
      asm volatile("" : "+r"(x));
      sum += static_cast<std::uint64_t>(__builtin_popcountll(x ^ y));
    }
  }
  for (const std::uint64_t& sum : sums) asm volatile("" : : "r"(sum));
}

__attribute__((target("avx512f"))) void fma_zmm(std::size_t steps) {
  __m512 sums[12] = {}, x = _mm512_set1_ps(1), y = x;
  for (__m512& sum : sums) LOWBIT_OPAQUE(sum);
  for (std::size_t s = 0; s < steps; s++) {
    LOWBIT_OPAQUE(x);
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(x, y, sum);
  }
  for (const __m512& sum : sums) LOWBIT_USED(sum);
}

__attribute__((target("avx2,fma"))) void fma_ymm(std::size_t steps) {
  __m256 sums[12] = {}, x = _mm256_set1_ps(1), y = x;
  for (__m256& sum : sums) LOWBIT_OPAQUE_AVX2(sum);
  for (std::size_t s = 0; s < steps; s++) {
    LOWBIT_OPAQUE_AVX2(x);
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(x, y, sum);
  }
  for (const __m256& sum : sums) LOWBIT_USED_AVX2(sum);
}

Recipe find(const std::string& name) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") != 0, avx512 = __builtin_cpu_supports("avx512f") != 0;
  const Recipe recipes[] = {
      {"vpdpbusd zmm", avx512 && __builtin_cpu_supports("avx512vnni") != 0, std::size_t{12} * 128, dot_vnni_zmm},
      {"vpdpbusd ymm", avx2 && __builtin_cpu_supports("avxvnni") != 0, std::size_t{12} * 64, dot_vnni_ymm},
      {"2 maddubs", avx2, std::size_t{4} * 2 * 64, dot_maddubs_2},
      {"8 maddubs", avx2, std::size_t{4} * 8 * 64, dot_maddubs_8},
      {"madd", avx2, std::size_t{8} * 32, dot_madd},
      {"vpopcntd zmm", avx512 && __builtin_cpu_supports("avx512vpopcntdq") != 0, std::size_t{12} * 1024, count_zmm},
      {"popcnt", __builtin_cpu_supports("popcnt") != 0, std::size_t{8} * 128, count_words},
      {"fma zmm", avx512, std::size_t{12} * 32, fma_zmm},
      {"fma ymm", avx2 && __builtin_cpu_supports("fma") != 0, std::size_t{12} * 16, fma_ymm},
  };
  for (const Recipe& recipe : recipes) {
    if (name == recipe.name) return recipe;
  }
  return {"", false, 0, nullptr};
}

#else

Recipe find(const std::string&) { return {"", false, 0, nullptr}; }

#endif

}  // namespace

Napi::Value peak(const Napi::CallbackInfo& info) {
  const node::Arguments a(info);
  const std::size_t tasks = a.size(1, "tasks");
  const Recipe recipe = find(info[0].ToString().Utf8Value());
  if (!recipe.available) return info.Env().Null();
  const std::size_t steps = kTaskOperations / recipe.operations;
  ThreadPool::instance().parallel_for(tasks, [&](std::size_t) { recipe.run(steps); });
  return Napi::Number::New(info.Env(), static_cast<double>(tasks * steps * recipe.operations));
}

}  // namespace lowbit::bench
