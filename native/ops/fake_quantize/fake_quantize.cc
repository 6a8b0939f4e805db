#include "ops/fake_quantize/fake_quantize.h"

#include <cmath>
#include <vector>

#include "core/kernels.h"

namespace lowbit {
namespace {

// Runs shorter than this are not written around the caches: what orders such stores waits for memory.
constexpr std::size_t kStreamRun = 4096;

Outcome outcome_of(bool done) { return {done ? Status::kOk : Status::kCancelled, -1}; }

// What the kernels need to know of a quantizer. `shifted`: the zero point is added before rounding.
struct Step {
  float inverse, scale, shift, low, high;

  Step(const IntegerQuantizer& q, std::size_t channel, bool shifted) {
    const int zero_point = q.zero_points != nullptr ? q.zero_points[channel] : 0;
    scale = q.scales[channel];
    inverse = 1.0F / scale;
    shift = shifted ? static_cast<float>(zero_point) : 0.0F;
    low = static_cast<float>(shifted ? q.lowest : q.lowest - zero_point);
    high = static_cast<float>(shifted ? q.highest : q.highest - zero_point);
  }
  QuantizerSteps steps() const { return {&inverse, &scale, &shift, &low, &high, false}; }
};

// The same for every element of a strip.
struct StripSteps {
  float inverse[ChannelTiles::kStrip], scale[ChannelTiles::kStrip], shift[ChannelTiles::kStrip],
      low[ChannelTiles::kStrip], high[ChannelTiles::kStrip];

  StripSteps(const IntegerQuantizer& q, const ChannelTiles::Strip& strip, std::size_t inner, bool shifted) {
    for (std::size_t c = 0, i = 0; c < strip.channels; c++) {
      const Step step(q, strip.first_channel + c, shifted);
      for (const std::size_t end = i + inner; i < end; i++) {
        inverse[i] = step.inverse;
        scale[i] = step.scale;
        shift[i] = step.shift;
        low[i] = step.low;
        high[i] = step.high;
      }
    }
  }
  QuantizerSteps steps() const { return {inverse, scale, shift, low, high, true}; }
};

template <typename Body>
bool for_each_tile(const ChannelTiles& tiles, const CancelFlag* cancel, const Body& body) {
  return ThreadPool::instance().parallel_for(tiles.tile_count(), body, cancel);
}

// Calls body(offset, count) for the elements of a strip in each of its blocks.
template <typename Body>
void for_each_block(const ChannelTiles::Strip& strip, const Body& body) {
  for (std::size_t block = strip.first_block, offset = strip.offset; block < strip.end_block; block++) {
    body(offset, strip.width);
    offset += strip.stride;
  }
}

bool streams(std::size_t elements) { return elements * sizeof(float) >= kStreamBytes; }

// Σ over the channels of what gradients() adds for one stretch or strip.
struct Sums {
  std::vector<double> scale, zero_point;

  explicit Sums(std::size_t count) : scale(count), zero_point(count) {}
};

}  // namespace

Outcome fake_quantize_integers(const float* x, const Channels& channels, const IntegerQuantizer& quantizer,
                               Rounding rounding, float* out, std::uint8_t* mask, const CancelFlag* cancel) {
  const FakeQuantizeKernels& k = *kernels().fake_quantize;
  const ChannelTiles tiles(channels);
  const bool stream = streams(channels.element_count()), shifted = rounding == Rounding::kHalfAway;
  return outcome_of(for_each_tile(tiles, cancel, [&](std::size_t t) {
    const auto run = [&](std::size_t at, std::size_t count, const QuantizerSteps& steps) {
      k.integers(x + at, count, steps, rounding, stream && count >= kStreamRun, out + at, mask + at);
    };
    if (tiles.wide()) {
      tiles.for_each_stretch(t, [&](const ChannelTiles::Stretch& s) {
        const Step step(quantizer, s.channel, shifted);
        run(s.offset, s.count, step.steps());
      });
    } else {
      const ChannelTiles::Strip strip = tiles.strip(t);
      const StripSteps steps(quantizer, strip, channels.inner, shifted);
      for_each_block(strip, [&](std::size_t at, std::size_t count) { run(at, count, steps.steps()); });
    }
  }));
}

Outcome fake_quantize_scaled(const float* x, const Channels& channels, ElementType type, const float* scales,
                             float* out, std::uint8_t* mask, const CancelFlag* cancel) {
  const FakeQuantizeKernels& k = *kernels().fake_quantize;
  const ChannelTiles tiles(channels);
  const bool stream = streams(channels.element_count());
  return outcome_of(for_each_tile(tiles, cancel, [&](std::size_t t) {
    const auto run = [&](std::size_t at, std::size_t count, const float* scale, bool each) {
      k.scaled(x + at, count, type, scale, each, stream && count >= kStreamRun, out + at, mask + at);
    };
    if (tiles.wide()) {
      tiles.for_each_stretch(
          t, [&](const ChannelTiles::Stretch& s) { run(s.offset, s.count, scales + s.channel, false); });
    } else {
      const ChannelTiles::Strip strip = tiles.strip(t);
      float each[ChannelTiles::kStrip];
      for (std::size_t i = 0; i < strip.width; i++) each[i] = scales[strip.first_channel + i / channels.inner];
      for_each_block(strip, [&](std::size_t at, std::size_t count) { run(at, count, each, true); });
    }
  }));
}

Outcome fake_quantize_blocks(const float* x, std::size_t rows, std::size_t columns, std::size_t length,
                             ElementType type, BlockScale scale, float* out, std::uint8_t* mask,
                             const CancelFlag* cancel) {
  const std::size_t count = rows * columns;
  if (count == 0) return {};
  ThreadPool& pool = ThreadPool::instance();
  if (!scale.power_of_two && scale.global == 0.0F) {
    std::vector<float> largest(ceil_div(count, kTileElements));
    const auto tile = [&](std::size_t t) {
      const std::size_t n = std::min(kTileElements, count - t * kTileElements);
      kernels().affine->absmax(x + t * kTileElements, FloatType::kFloat32, n, n, &largest[t]);
    };
    if (!pool.parallel_for(largest.size(), tile, cancel)) return outcome_of(false);
    float absmax = 0.0F;
    for (const float m : largest) absmax = std::isfinite(m) ? std::max(absmax, m) : INFINITY;
    if (!std::isfinite(absmax)) {
      for (std::size_t i = 0; i < count; i++) {
        if (!std::isfinite(x[i])) return {Status::kNonFinite, static_cast<std::int64_t>(i)};
      }
    }
    const float global = 448.0F * element_format(type).largest / absmax;
    scale.global = absmax > 0.0F && std::isfinite(global) ? global : 1.0F;  // so small a tensor rounds to zeros
  }
  // Rows of whole blocks are one long row.
  const bool whole = columns % length == 0;
  const std::size_t row = whole ? count : columns, row_count = count / row;
  const std::size_t pieces = ceil_div(row, kTileElements),
                    rows_per_tile = std::max<std::size_t>(1, kTileElements / row);
  static_assert(kTileElements % 32 == 0, "tiles start with a block");
  const bool stream = streams(count);
  const FakeQuantizeKernels& k = *kernels().fake_quantize;
  const auto tile = [&](std::size_t t) {
    const std::size_t end = std::min(row_count * pieces, (t + 1) * rows_per_tile);
    for (std::size_t piece = t * rows_per_tile; piece < end; piece++) {
      const std::size_t begin = piece % pieces * kTileElements, at = piece / pieces * row + begin;
      const std::size_t n = std::min(kTileElements, row - begin);
      k.blocks(x + at, n, length, type, scale, stream && n >= kStreamRun, out + at, mask + at);
    }
  };
  return outcome_of(pool.parallel_for(ceil_div(row_count * pieces, rows_per_tile), tile, cancel));
}

Outcome straight_through(const float* dy, const std::uint8_t* mask, std::size_t count, float* dx,
                         const CancelFlag* cancel) {
  const FakeQuantizeKernels& k = *kernels().fake_quantize;
  const auto tile = [&](std::size_t t) {
    const std::size_t at = t * kTileElements;
    k.straight_through(dy + at, mask + at, std::min(kTileElements, count - at), streams(count), dx + at);
  };
  return outcome_of(ThreadPool::instance().parallel_for(ceil_div(count, kTileElements), tile, cancel));
}

Outcome fake_quantize_gradients(const float* dy, const float* x, const Channels& channels,
                                const IntegerQuantizer& quantizer, double factor, const QuantizerGradients& out,
                                const CancelFlag* cancel) {
  const FakeQuantizeKernels& k = *kernels().fake_quantize;
  const ChannelTiles tiles(channels);
  const bool stream = streams(channels.element_count());
  // One sum for each stretch, or for each channel in each chunk of blocks; added up in their order.
  Sums parts(tiles.wide() ? tiles.stretch_count() : tiles.chunk_count() * channels.count), sums(channels.count);
  const bool done = for_each_tile(tiles, cancel, [&](std::size_t t) {
    const auto run = [&](std::size_t at, std::size_t count, const QuantizerSteps& steps, double* scale,
                         double* zero_point) {
      k.gradients(dy + at, x + at, count, steps, stream && count >= kStreamRun, out.x + at, scale, zero_point);
    };
    if (tiles.wide()) {
      tiles.for_each_stretch(t, [&](const ChannelTiles::Stretch& s) {
        const Step step(quantizer, s.channel, true);
        run(s.offset, s.count, step.steps(), &parts.scale[s.index], &parts.zero_point[s.index]);
      });
      return;
    }
    const ChannelTiles::Strip strip = tiles.strip(t);
    const StripSteps steps(quantizer, strip, channels.inner, true);
    double scale[ChannelTiles::kStrip] = {}, zero_point[ChannelTiles::kStrip] = {};
    for_each_block(strip, [&](std::size_t at, std::size_t count) { run(at, count, steps.steps(), scale, zero_point); });
    const std::size_t first = strip.chunk * channels.count + strip.first_channel;
    for (std::size_t i = 0; i < strip.width; i++) {
      parts.scale[first + i / channels.inner] += scale[i];
      parts.zero_point[first + i / channels.inner] += zero_point[i];
    }
  });
  if (!done) return outcome_of(false);
  for (std::size_t i = 0; i < parts.scale.size(); i++) {
    const std::size_t channel = tiles.wide() ? tiles.stretch(i).channel : i % channels.count;
    sums.scale[channel] += parts.scale[i];
    sums.zero_point[channel] += parts.zero_point[i];
  }
  for (std::size_t c = 0; c < channels.count; c++) {
    out.scales[c] = static_cast<float>(sums.scale[c] * factor);
    out.zero_points[c] = static_cast<float>(-sums.zero_point[c] * static_cast<double>(quantizer.scales[c]) * factor);
  }
  return {};
}

}  // namespace lowbit
