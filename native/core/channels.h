#pragma once

#include <algorithm>
#include <cstddef>

#include "core/host_device.h"
#include "core/tiles.h"

namespace lowbit {

// A tensor in row-major order, seen along one axis: `blocks` (the axes before it) × `count` (the axis) × `inner` (the
// axes after it). A tensor without channels is one block of one channel.
struct Channels {
  std::size_t blocks, count, inner;

  std::size_t element_count() const { return blocks * count * inner; }
};

// Divides a tensor with channels into tiles that threads take, never depending on the number of threads.
//
// Stretches of a channel that are long enough are worked on one by one, with one parameter set each ("wide"). Shorter
// ones are put together to strips of whole channels, in which every element has parameters of its own; a tile is the
// same strip in several blocks ("narrow").
class ChannelTiles {
 public:
  static constexpr std::size_t kWide = 64, kStrip = 512, kMostChunks = 64;

  explicit ChannelTiles(const Channels& channels)
      : channels_(channels), wide_(channels.count == 1 || channels.inner >= kWide) {
    if (channels.element_count() == 0) return;
    if (wide_) {
      if (channels.count == 1) channels_ = {1, 1, channels.element_count()};
      pieces_ = ceil_div(channels_.inner, kTileElements);
      per_tile_ = std::max<std::size_t>(1, kTileElements / channels_.inner);
      tile_count_ = ceil_div(stretch_count(), per_tile_);
      return;
    }
    strip_channels_ = std::min(channels.count, kStrip / channels.inner);
    strips_ = ceil_div(channels.count, strip_channels_);
    chunk_blocks_ = std::max(ceil_div(kTileElements, strip_channels_ * channels.inner),  //
                             ceil_div(channels.blocks, kMostChunks));
    chunks_ = ceil_div(channels.blocks, chunk_blocks_);
    tile_count_ = strips_ * chunks_;
  }

  bool wide() const { return wide_; }
  std::size_t tile_count() const { return tile_count_; }
  LOWBIT_HOST_DEVICE const Channels& channels() const { return channels_; }

  // Wide: stretches in the order of the elements.
  struct Stretch {
    std::size_t index, offset, count, channel;
  };
  std::size_t stretch_count() const { return channels_.blocks * channels_.count * pieces_; }
  Stretch stretch(std::size_t index) const {
    const std::size_t whole = index / pieces_, begin = index % pieces_ * kTileElements;
    return {index, whole * channels_.inner + begin, std::min(kTileElements, channels_.inner - begin),
            whole % channels_.count};
  }
  template <typename Body>
  void for_each_stretch(std::size_t tile, const Body& body) const {
    const std::size_t end = std::min(stretch_count(), (tile + 1) * per_tile_);
    for (std::size_t i = tile * per_tile_; i < end; i++) body(stretch(i));
  }

  // Narrow: `width` elements of consecutive channels, in blocks first_block … end_block, `stride` elements apart.
  struct Strip {
    std::size_t chunk, first_channel, channels, width, first_block, end_block, offset, stride;
  };
  std::size_t chunk_count() const { return chunks_; }
  LOWBIT_HOST_DEVICE Strip strip(std::size_t tile) const {
    const std::size_t chunk = tile / strips_, channel = tile % strips_ * strip_channels_;
    const std::size_t count = std::min(strip_channels_, channels_.count - channel);
    const std::size_t block = chunk * chunk_blocks_, stride = channels_.count * channels_.inner;
    return {chunk,
            channel,
            count,
            count * channels_.inner,
            block,
            std::min(channels_.blocks, block + chunk_blocks_),
            block * stride + channel * channels_.inner,
            stride};
  }

 private:
  Channels channels_;
  bool wide_;
  std::size_t tile_count_ = 0;
  std::size_t pieces_ = 1, per_tile_ = 1;                                        // wide
  std::size_t strip_channels_ = 1, strips_ = 1, chunk_blocks_ = 1, chunks_ = 0;  // narrow
};

}  // namespace lowbit
