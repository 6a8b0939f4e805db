// What the machine can do at best, measured in the process that measures lowbit: an addon of its own that only
// benchmarks load.
//
//   traffic(input, output, readBytes, writeBytes, around): moves through the arrays once, for every `readBytes` read
//   writing `writeBytes`, around the caches or not. It computes nothing: no conversion with the same traffic is faster.
//   setThreads(n): of the pool that this addon has for itself
//   peak: peaks.cc
//   reserve, release, read: reads.cc

#include "limits.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/cpu.h"
#include "core/thread_pool.h"
#include "core/tiles.h"
#include "node/arguments.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lowbit::bench {
namespace {

constexpr std::size_t kLine = 64;

#if defined(__x86_64__)

__attribute__((target("avx2"))) std::uint64_t move(const std::uint8_t* in, std::uint8_t* out, std::size_t steps,
                                                   std::size_t read, std::size_t write, bool around) {
  __m256i any = _mm256_setzero_si256();
  for (std::size_t s = 0; s < steps; s++) {
    for (std::size_t i = 0; i < read; i += 32) {
      any = _mm256_or_si256(any, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i)));
    }
    const __m128i value = _mm256_castsi256_si128(any);
    if (around) {
      for (std::size_t i = 0; i < write; i += 16) _mm_stream_si128(reinterpret_cast<__m128i*>(out + i), value);
    } else {
      for (std::size_t i = 0; i < write; i += 32) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), any);
    }
    in += read;
    out += write;
  }
  if (around) _mm_sfence();
  return static_cast<std::uint64_t>(_mm256_extract_epi64(any, 0));
}

#else

std::uint64_t move(const std::uint8_t* in, std::uint8_t* out, std::size_t steps, std::size_t read, std::size_t write,
                   bool) {
  std::uint64_t any[4] = {};
  for (std::size_t s = 0; s < steps; s++) {
    for (std::size_t i = 0; i < read; i += 32) {
      std::uint64_t words[4];
      std::memcpy(words, in + i, 32);
      for (int k = 0; k < 4; k++) any[k] |= words[k];
    }
    for (std::size_t i = 0; i < write; i += 32) std::memcpy(out + i, any, 32);
    in += read;
    out += write;
  }
  return any[0];
}

#endif

Napi::Value traffic(const Napi::CallbackInfo& info) {
  const node::Arguments a(info);
  const node::Bytes input = a.array(0, "input", napi_uint8_array), output = a.array(1, "output", napi_uint8_array);
  const std::size_t read = a.size(2, "readBytes"), write = a.size(3, "writeBytes");
  const bool around = a.flag(4, "around") && reinterpret_cast<std::uintptr_t>(output.data) % 16 == 0;
  a.check(read % 32 == 0 && write % 32 == 0 && read + write > 0, "Expected multiples of 32 bytes.");
  // Steps of at least a cache line on either side, tiles of about the size that lowbit uses.
  std::size_t scale = 1;
  while (scale * (read > write ? read : write) < 4 * kLine) scale++;
  const std::size_t step_read = scale * read, step_write = scale * write;
  const std::size_t steps = step_read != 0 ? input.size / step_read : output.size / step_write;
  a.check(output.size >= steps * step_write, "Expected an output that is long enough.");
  const std::size_t per_tile = ceil_div(4 * kTileElements, std::max(step_read, step_write));
  std::uint64_t sink = 0;
  ThreadPool::instance().parallel_for(ceil_div(steps, per_tile), [&](std::size_t t) {
    const std::size_t begin = t * per_tile, count = steps - begin < per_tile ? steps - begin : per_tile;
    const std::uint64_t any =
        move(input.data + begin * step_read, output.data + begin * step_write, count, step_read, step_write, around);
    if (any == 0x123456789abcdef0U) sink = any;  // the compiler must not drop the reads
  });
  return Napi::Number::New(info.Env(), static_cast<double>(sink));
}

Napi::Value set_threads(const Napi::CallbackInfo& info) {
  ThreadPool::instance().set_thread_count(node::Arguments(info).size(0, "n"));
  return info.Env().Undefined();
}

}  // namespace
}  // namespace lowbit::bench

static Napi::Object initialize_limits(Napi::Env env, Napi::Object exports) {
  exports.Set("traffic", Napi::Function::New<lowbit::bench::traffic>(env, "traffic"));
  exports.Set("setThreads", Napi::Function::New<lowbit::bench::set_threads>(env, "setThreads"));
  exports.Set("peak", Napi::Function::New<lowbit::bench::peak>(env, "peak"));
  exports.Set("reserve", Napi::Function::New<lowbit::bench::reserve>(env, "reserve"));
  exports.Set("release", Napi::Function::New<lowbit::bench::release>(env, "release"));
  exports.Set("read", Napi::Function::New<lowbit::bench::read>(env, "read"));
  return exports;
}

NODE_API_MODULE(lowbit_limits, initialize_limits)
