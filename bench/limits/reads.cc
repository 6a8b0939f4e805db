// How fast memory and the caches can be read:
//
//   reserve(bytes): memory of this size at least, in huge pages where the system gives them, written once. It is kept
//     until release(), so that the page faults are not measured.
//   read(bytes, partBytes, repeats, streams): reads the first `bytes` of it and computes nothing. The threads of the
//   pool
//     take parts of it and read each `repeats` times, as one stream or as four at once: which is faster depends on the
//     processor.

#include <cstdint>
#include <cstring>
#include <new>

#include "core/macros.h"
#include "core/thread_pool.h"
#include "core/tiles.h"
#include "limits.h"
#include "node/arguments.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define LOWBIT_BENCH_X86 1
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lowbit::bench {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20, kStep = 256;

struct Memory {
  std::uint8_t* data = nullptr;
  std::size_t size = 0;
};
Memory g_memory;

void free_memory() {
  ::operator delete(g_memory.data, std::align_val_t{kHugePage});
  g_memory = {};
}

// Reads four lines at a time, `gap` bytes apart; a short loop, so that each stream is one load instruction's.
using Read = void (*)(const std::uint8_t* data, std::size_t count, std::size_t step, std::size_t gap);

#if defined(LOWBIT_BENCH_X86)

__attribute__((target("avx512f"))) void read_avx512(const std::uint8_t* data, std::size_t count, std::size_t step,
                                                    std::size_t gap) {
  __m512i any[4] = {};
  LOWBIT_NO_UNROLL
  for (std::size_t i = 0; i < count; i++, data += step) {
    any[0] = _mm512_or_si512(any[0], _mm512_load_si512(data));
    any[1] = _mm512_or_si512(any[1], _mm512_load_si512(data + gap));
    any[2] = _mm512_or_si512(any[2], _mm512_load_si512(data + 2 * gap));
    any[3] = _mm512_or_si512(any[3], _mm512_load_si512(data + 3 * gap));
  }
  for (const __m512i& vector : any) asm volatile("" : : "v"(vector));  // the compiler must not drop the reads
}

__attribute__((target("avx2"))) void read_avx2(const std::uint8_t* data, std::size_t count, std::size_t step,
                                               std::size_t gap) {
  __m256i any[8] = {};
  LOWBIT_NO_UNROLL
  for (std::size_t i = 0; i < count; i++, data += step) {
    for (std::size_t line = 0; line < 4; line++) {
      const auto* p = reinterpret_cast<const __m256i*>(data + line * gap);
      any[2 * line] = _mm256_or_si256(any[2 * line], _mm256_load_si256(p));
      any[2 * line + 1] = _mm256_or_si256(any[2 * line + 1], _mm256_load_si256(p + 1));
    }
  }
  for (const __m256i& vector : any) asm volatile("" : : "x"(vector));
}

#endif

void read_words(const std::uint8_t* data, std::size_t count, std::size_t step, std::size_t gap) {
  std::uint64_t any[8] = {};
  for (std::size_t i = 0; i < count; i++, data += step) {
    for (std::size_t line = 0; line < 4; line++) {
      std::uint64_t words[8];
      std::memcpy(words, data + line * gap, sizeof words);
      for (int k = 0; k < 8; k++) any[k] |= words[k];
    }
  }
  for (int k = 1; k < 8; k++) any[0] |= any[k];
  [[maybe_unused]] volatile std::uint64_t used = any[0];
}

Read fastest_read() {
#if defined(LOWBIT_BENCH_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return read_avx512;
  if (__builtin_cpu_supports("avx2")) return read_avx2;
#endif
  return read_words;
}

}  // namespace

Napi::Value reserve(const Napi::CallbackInfo& info) {
  const std::size_t size = ceil_div(node::Arguments(info).size(0, "bytes"), kHugePage) * kHugePage;
  if (size > g_memory.size) {
    free_memory();
    g_memory.data = static_cast<std::uint8_t*>(::operator new(size, std::align_val_t{kHugePage}));
    g_memory.size = size;
#if defined(__linux__)
    madvise(g_memory.data, size, MADV_HUGEPAGE);
#endif
    std::memset(g_memory.data, 1, size);
  }
  return info.Env().Undefined();
}

Napi::Value release(const Napi::CallbackInfo& info) {
  free_memory();
  return info.Env().Undefined();
}

Napi::Value read(const Napi::CallbackInfo& info) {
  const node::Arguments a(info);
  const std::size_t bytes = a.size(0, "bytes"), part = a.size(1, "partBytes"), repeats = a.size(2, "repeats");
  const std::size_t streams = a.size(3, "streams");
  a.check(bytes <= g_memory.size, "Expected no more bytes than were reserved.");
  a.check(part > 0 && part % kStep == 0 && bytes % part == 0, "Expected whole parts of a multiple of 256 bytes.");
  a.check(streams == 1 || streams == 4, "Expected one stream or four.");
  const Read run = fastest_read();
  const std::size_t step = kStep / streams, gap = streams == 1 ? kStep / 4 : part / 4;
  ThreadPool::instance().parallel_for(bytes / part, [&](std::size_t i) {
    for (std::size_t r = 0; r < repeats; r++) run(g_memory.data + i * part, part / kStep, step, gap);
  });
  return info.Env().Undefined();
}

}  // namespace lowbit::bench
