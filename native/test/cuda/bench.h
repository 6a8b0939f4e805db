#pragma once

// What benchmarks of the CUDA module share: memory of the device, what fills it, and the clock.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "core/cuda.h"
#include "ops/cast/cast_cuda.h"
#include "peers.h"

namespace lowbit {

inline const CudaApi* api = nullptr;
inline CudaStream* stream = nullptr;  // that work is queued on: one of these
inline CudaStream *tile_stream = nullptr, *group_stream = nullptr;
constexpr std::size_t kRowsForGroups = 65;  // from so many on, the second may do otherwise
inline CudaDeviceInfo device{};
inline bool quick = false;
inline double read_limit = 0.0, copy_limit = 0.0;  // bytes per second, of copies read and written ones
inline double bfloat16_rate = 0.0;                 // operations per second, if it is known
inline Peers peers;

inline void expect(CudaStatus status, const char* what) {
  if (status == CudaStatus::kOk) return;
  std::fprintf(stderr, "%s: status %d, %s\n", what, static_cast<int>(status), api->last_error());
  std::exit(1);
}

// The stream of products of whole warp groups for as long as this exists, if there is one.
class ByGroups {
 public:
  explicit ByGroups(bool groups) { stream = groups ? group_stream : tile_stream; }
  ~ByGroups() { stream = tile_stream; }
  ByGroups(const ByGroups&) = delete;
  ByGroups& operator=(const ByGroups&) = delete;
};

class Memory {
 public:
  explicit Memory(std::size_t bytes) : bytes_(bytes) { expect(api->allocate(stream, bytes, &memory_), "allocate"); }
  ~Memory() { api->release(stream, memory_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  template <typename T = unsigned char>
  T* at(std::size_t byte = 0) const {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(memory_) + byte);
  }
  // Repeats some bytes of the host over all of it.
  void fill(const void* bytes, std::size_t count) const {
    const std::size_t first = std::min(count, bytes_);
    expect(api->upload(stream, memory_, bytes, first), "upload");
    for (std::size_t done = first; done < bytes_;) {
      const std::size_t next = std::min(done, bytes_ - done);
      expect(api->copy(stream, at(done), memory_, next), "copy");
      done += next;
    }
    expect(api->synchronize(stream, nullptr), "synchronize");
  }

 private:
  std::size_t bytes_;
  void* memory_ = nullptr;
};

inline std::uint64_t random_state = 1;
inline std::uint64_t random_bits() {  // SplitMix64
  std::uint64_t z = (random_state += 0x9e3779b97f4a7c15U);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

constexpr std::size_t kPattern = std::size_t{1} << 20;

// Random bytes; no element of 8 bits is 0x7f or 0xff, nor above E5M2's largest: no NaN of a float of eight bits.
inline void fill_codes(const Memory& memory) {
  std::vector<std::uint8_t> bytes(kPattern);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random_bits() & 0xbbU);
  memory.fill(bytes.data(), bytes.size());
}
// Numbers between −1 and 1, or between low and high.
inline void fill_floats(const Memory& memory, FloatType type, float low = -1.0F, float high = 1.0F) {
  std::vector<float> floats(kPattern / 4);
  for (float& x : floats) x = low + (high - low) * (static_cast<float>(random_bits() >> 40) * 0x1p-24F);
  if (type == FloatType::kFloat32) return memory.fill(floats.data(), kPattern);
  const Memory from(kPattern), to(kPattern / 2);
  from.fill(floats.data(), kPattern);
  expect(api->cast->cast(stream, from.at(), FloatType::kFloat32, to.at(), type, false, floats.size()), "cast");
  std::vector<std::uint16_t> halves(floats.size());
  expect(api->download(stream, halves.data(), to.at(), kPattern / 2), "download");
  expect(api->synchronize(stream, nullptr), "synchronize");
  memory.fill(halves.data(), kPattern / 2);
}

// Seconds of one call(i), i in turn from 0 to turns − 1.
double seconds_of(std::size_t turns, const std::function<CudaStatus(std::size_t)>& call);

// Copies of so many bytes that take turns past the second-level cache.
inline std::size_t turns_for(std::size_t bytes) {
  if (quick) return 1;
  return std::max<std::size_t>(2, 3 * static_cast<std::size_t>(device.l2_bytes) / std::max<std::size_t>(bytes, 1) + 1);
}

inline const char* name_of(FloatType type) {
  return type == FloatType::kFloat32 ? "float32" : type == FloatType::kFloat16 ? "float16" : "bfloat16";
}

struct Shape {
  std::size_t n, k;
};

// Sections of the benchmark: tables on standard output.
void measure_conversions();
void measure_linear();
void measure_bytes();
void measure_gram();

}  // namespace lowbit
