#include "ops/observe/observe.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "core/float_bits.h"
#include "core/kernels.h"

namespace lowbit {
namespace {

constexpr float kNothing = std::numeric_limits<float>::infinity();

Outcome first_non_finite(const float* x, std::size_t count) {
  for (std::size_t i = 0; i < count; i++) {
    if (!is_finite(x[i])) return {Status::kNonFinite, static_cast<std::int64_t>(i)};
  }
  return {};
}

float per_unit(std::size_t half, int exponent) { return std::ldexp(static_cast<float>(half), -exponent); }

// Counts of a histogram, moved to a grid whose exponent is greater by `steps`.
template <typename T>
void fold(T* counts, std::size_t half, int steps) {
  if (steps == 0) return;
  const int by = std::min(steps, 31);
  for (const int side : {0, -1}) {
    T* const first = counts + half + side;
    const std::ptrdiff_t stride = side == 0 ? 1 : -1;
    for (std::size_t m = 0; m < half; m++) {
      T& from = first[static_cast<std::ptrdiff_t>(m) * stride];
      const T moved = from;
      from = T{};
      first[static_cast<std::ptrdiff_t>(m >> by) * stride] += moved;
    }
  }
}

// Equal bins in close succession would wait for each other: neighbours count in tables of their own. More than two
// would not fit the first-level cache.
constexpr std::size_t kTables = 2, kTogether = 8, kBatch = 1024;

class Tables {
 public:
  explicit Tables(std::size_t half) : half_(half), counts_(kTables * 2 * half) {}

  void add(const std::int32_t* bins, std::size_t count) {
    std::uint32_t* const table = counts_.data();
    const std::size_t size = 2 * half_;
    std::size_t i = 0;
    for (; i + kTogether <= count; i += kTogether) {
      for (std::size_t t = 0; t < kTogether; t++) {
        table[t % kTables * size + static_cast<std::size_t>(bins[i + t])]++;
      }
    }
    for (; i < count; i++) table[static_cast<std::size_t>(bins[i])]++;
  }
  void grow(int steps) {
    for (std::size_t t = 0; t < kTables; t++) fold(counts_.data() + t * 2 * half_, half_, steps);
  }
  // Adds all to a histogram, and starts anew.
  void move_to(double* counts) {
    for (std::size_t t = 0; t < kTables; t++) {
      std::uint32_t* const table = counts_.data() + t * 2 * half_;
      for (std::size_t b = 0; b < 2 * half_; b++) {
        counts[b] += static_cast<double>(table[b]);
        table[b] = 0;
      }
    }
  }

 private:
  std::size_t half_;
  std::vector<std::uint32_t> counts_;
};

// Of the next rows of a matrix, which no hardware foresees.
inline void prefetch(const float* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#else
  (void)p;
#endif
}
constexpr std::size_t kRowsAhead = 16;

// What a thread counts of a tensor: tables are shorter than 2^31 elements, so that no count overflows.
constexpr std::size_t kLeastPart = 131072, kMostPart = std::size_t{1} << 31;

}  // namespace

int grid_exponent(float absmax) {
  if (!(absmax > 0.0F)) return kLowestGridExponent;
  int exponent = 0;
  std::frexp(absmax, &exponent);
  return std::max(kLowestGridExponent, exponent);
}

Outcome observe_ranges(const float* x, const Channels& channels, float* min, float* max, const CancelFlag* cancel) {
  const ObserveKernels& k = *kernels().observe;
  const ChannelTiles tiles(channels);
  const std::size_t part_count = tiles.wide() ? tiles.stretch_count() : tiles.chunk_count() * channels.count;
  std::vector<float> least(part_count, kNothing), greatest(part_count, -kNothing);
  std::atomic<bool> finite{true};
  const auto tile = [&](std::size_t t) {
    bool good = true;
    if (tiles.wide()) {
      tiles.for_each_stretch(t, [&](const ChannelTiles::Stretch& s) {
        good = k.range(x + s.offset, s.count, &least[s.index], &greatest[s.index]) && good;
      });
    } else {
      const ChannelTiles::Strip strip = tiles.strip(t);
      float low[ChannelTiles::kStrip], high[ChannelTiles::kStrip];
      std::fill_n(low, strip.width, kNothing);
      std::fill_n(high, strip.width, -kNothing);
      for (std::size_t b = strip.first_block, at = strip.offset; b < strip.end_block; b++, at += strip.stride) {
        good = k.ranges(x + at, strip.width, low, high) && good;
      }
      const std::size_t first = strip.chunk * channels.count + strip.first_channel;
      for (std::size_t i = 0; i < strip.width; i++) {
        const std::size_t p = first + i / channels.inner;
        least[p] = std::min(least[p], low[i]);
        greatest[p] = std::max(greatest[p], high[i]);
      }
    }
    if (!good) finite.store(false, std::memory_order_relaxed);
  };
  if (!ThreadPool::instance().parallel_for(tiles.tile_count(), tile, cancel)) return {Status::kCancelled, -1};
  if (!finite) return first_non_finite(x, channels.element_count());
  std::fill_n(min, channels.count, kNothing);
  std::fill_n(max, channels.count, -kNothing);
  for (std::size_t p = 0; p < part_count; p++) {
    const std::size_t channel = tiles.wide() ? tiles.stretch(p).channel : p % channels.count;
    min[channel] = std::min(min[channel], least[p]);
    max[channel] = std::max(max[channel], greatest[p]);
  }
  return {};
}

Outcome observe_histogram(const float* x, std::size_t count, std::size_t half, float* min, float* max,
                          std::int32_t* exponent, double* counts, const CancelFlag* cancel) {
  const ObserveKernels& k = *kernels().observe;
  ThreadPool& pool = ThreadPool::instance();
  // The parts may follow from the number of threads: counts are the same however they are divided.
  const std::size_t wanted = std::min(ceil_div(count, kLeastPart), 4 * pool.thread_count());
  const std::size_t parts = std::max(wanted, ceil_div(count, kMostPart));
  const std::size_t part_size = parts == 0 ? 0 : ceil_div(ceil_div(count, parts), kBatch) * kBatch;
  std::mutex mutex;
  std::atomic<bool> finite{true};
  *min = kNothing;
  *max = -kNothing;
  *exponent = kLowestGridExponent;
  std::fill_n(counts, 2 * half, 0.0);
  const auto part = [&](std::size_t p) {
    Tables tables(half);
    int own = kLowestGridExponent;
    float least = kNothing, greatest = -kNothing, unit = per_unit(half, own);
    std::int32_t bins[kBatch];
    const std::size_t end = std::min(count, (p + 1) * part_size);
    for (std::size_t i = p * part_size; i < end && finite.load(std::memory_order_relaxed); i += kBatch) {
      const std::size_t n = std::min(kBatch, end - i);
      if (!k.range(x + i, n, &least, &greatest)) {
        finite.store(false, std::memory_order_relaxed);
        return;
      }
      const int needed = grid_exponent(std::max(-least, greatest));
      if (needed > own) {
        tables.grow(needed - own);
        own = needed;
        unit = per_unit(half, own);
      }
      k.bins(x + i, n, &unit, false, static_cast<std::int32_t>(half), bins);
      tables.add(bins, n);
    }
    const std::lock_guard<std::mutex> lock(mutex);
    if (own > *exponent) {
      fold(counts, half, own - *exponent);
      *exponent = own;
    } else {
      tables.grow(*exponent - own);
    }
    tables.move_to(counts);
    *min = std::min(*min, least);
    *max = std::max(*max, greatest);
  };
  if (!pool.parallel_for(parts, part, cancel)) return {Status::kCancelled, -1};
  return finite ? Outcome{} : first_non_finite(x, count);
}

Outcome observe_counts(const float* x, const Channels& channels, std::size_t half, const std::int32_t* exponents,
                       double* counts, const CancelFlag* cancel) {
  if (channels.element_count() == 0) return {};
  const ObserveKernels& k = *kernels().observe;
  const std::size_t size = 2 * half, stride = channels.count * channels.inner;
  // Threads take whole channels, so that no two write to one histogram: as many as fill two cache lines of a row, if
  // rows have that many elements, else as many as make a task worth handing out.
  constexpr std::size_t kLine = 32;
  const std::size_t per_channel = channels.blocks * channels.inner;
  const std::size_t together = std::max<std::size_t>(1, kLine / channels.inner);
  const std::size_t per_task =
      channels.inner >= kLine ? std::max<std::size_t>(1, kTileElements / per_channel) : together;
  const auto half_bins = static_cast<std::int32_t>(half);
  const auto wide = [&](std::size_t channel) {
    const float unit = per_unit(half, exponents[channel]);
    double* const own = counts + channel * size;
    const bool many = per_channel >= 2 * kTables * size;  // else its tables cost more than they save
    Tables tables(many ? half : 0);
    std::int32_t bins[kBatch];
    for (std::size_t b = 0, since = 0; b < channels.blocks; b++) {
      const float* const stretch = x + b * stride + channel * channels.inner;
      for (std::size_t i = 0; i < channels.inner; i += kBatch) {
        const std::size_t n = std::min(kBatch, channels.inner - i);
        k.bins(stretch + i, n, &unit, false, half_bins, bins);
        if (many) {
          tables.add(bins, n);
        } else {
          for (std::size_t j = 0; j < n; j++) own[bins[j]] += 1.0;
        }
        since += n;
        if (many && since >= kMostPart) {
          tables.move_to(own);
          since = 0;
        }
      }
    }
    if (many) tables.move_to(own);
  };
  const auto narrow = [&](std::size_t first, std::size_t last) {
    float units[kLine];
    double* tables[kLine];
    std::int32_t bins[kLine];
    const std::size_t width = (last - first) * channels.inner;
    for (std::size_t i = 0; i < width; i++) {
      const std::size_t channel = first + i / channels.inner;
      units[i] = per_unit(half, exponents[channel]);
      tables[i] = counts + channel * size;
    }
    for (std::size_t b = 0; b < channels.blocks; b++) {
      const float* const row = x + b * stride + first * channels.inner;
      if (b + kRowsAhead < channels.blocks) {
        prefetch(row + kRowsAhead * stride);
        prefetch(row + kRowsAhead * stride + width - 1);
      }
      k.bins(row, width, units, true, half_bins, bins);
      for (std::size_t i = 0; i < width; i++) tables[i][bins[i]] += 1.0;
    }
  };
  const auto task = [&](std::size_t t) {
    const std::size_t first = t * per_task, last = std::min(channels.count, first + per_task);
    if (channels.inner < kLine) return narrow(first, last);
    for (std::size_t c = first; c < last; c++) wide(c);
  };
  const bool done = ThreadPool::instance().parallel_for(ceil_div(channels.count, per_task), task, cancel);
  return {done ? Status::kOk : Status::kCancelled, -1};
}

}  // namespace lowbit
