// Fake quantization: a thread takes four elements. Sums of gradients are in the order of fake_quantize.cc.

#include "cuda/workspace.cuh"
#include "ops/affine/ranges_cuda.h"
#include "ops/fake_quantize/fake_quantize_cuda.h"
#include "ops/fake_quantize/fake_quantize_math.h"

namespace lowbit {
namespace {

constexpr unsigned kThreads = 256;

bool is_aligned(const void* a, const void* b, const void* mask) {
  const auto address = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
  return (address(a) | address(b)) % 16 == 0 && address(mask) % 4 == 0;
}

// --- four elements ---

struct Four {
  std::size_t first;
  unsigned count;
  bool whole;  // four, and aligned
};

__device__ inline Four four_at(std::size_t f, std::size_t elements, bool aligned) {
  const std::size_t left = elements - 4 * f;
  return {4 * f, left < 4 ? static_cast<unsigned>(left) : 4U, aligned && left >= 4};
}

__device__ inline void load(const float* in, const Four& four, float (&x)[4]) {
  if (four.whole) {
    const float4 all = __ldg(reinterpret_cast<const float4*>(in + four.first));
    x[0] = all.x, x[1] = all.y, x[2] = all.z, x[3] = all.w;
    return;
  }
#pragma unroll
  for (unsigned i = 0; i < 4; i++) x[i] = i < four.count ? in[four.first + i] : 0.0F;
}

__device__ inline void store(float* out, const Four& four, const float (&x)[4]) {
  if (four.whole) {
    *reinterpret_cast<float4*>(out + four.first) = make_float4(x[0], x[1], x[2], x[3]);
    return;
  }
#pragma unroll
  for (unsigned i = 0; i < 4; i++) {
    if (i < four.count) out[four.first + i] = x[i];
  }
}

__device__ inline void store_mask(std::uint8_t* mask, const Four& four, const bool (&inside)[4]) {
  if (four.whole) {
    unsigned word = 0;
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
      const unsigned passes = inside[i] ? 1 : 0;
      word |= passes << (8 * i);
    }
    *reinterpret_cast<unsigned*>(mask + four.first) = word;
    return;
  }
#pragma unroll
  for (unsigned i = 0; i < 4; i++) {
    if (i < four.count) mask[four.first + i] = inside[i] ? 1 : 0;
  }
}

// --- channels ---

struct ChannelGrid {
  std::size_t elements, count, inner;
  bool aligned, uniform;  // four elements have the same channel
  Divisor inner_fours, channels;

  static ChannelGrid of(const Channels& c, bool aligned) {
    ChannelGrid grid{c.element_count(), c.count, c.inner, aligned, false, {}, {}};
    if (c.count == 1) grid.inner = grid.elements;
    grid.uniform =
        grid.elements != 0 && (c.count == 1 || grid.inner % 4 == 0) && grid.elements / 4 < (std::size_t{1} << 31) - 1;
    if (!grid.uniform) return grid;
    // One channel is one stretch: every quotient is 0.
    grid.inner_fours = Divisor::of(c.count == 1 ? std::size_t{1} << 31 : grid.inner / 4);
    grid.channels = Divisor::of(c.count);
    return grid;
  }
  __device__ std::size_t channel_of_four(std::size_t f) const {
    const unsigned stretch = inner_fours.quotient(static_cast<unsigned>(f));
    return stretch - channels.quotient(stretch) * channels.divisor;
  }
};

// Body::Parameters of(channel), and body(x, parameters, out, inside).
template <typename Body>
__global__ void __launch_bounds__(kThreads)
    each_element(const float* x, ChannelGrid grid, Body body, float* out, std::uint8_t* mask) {
  const std::size_t fours = (grid.elements + 3) / 4;
  for (std::size_t f = grid_thread(); f < fours; f += grid_threads()) {
    const Four four = four_at(f, grid.elements, grid.aligned);
    float v[4], y[4];
    bool inside[4];
    load(x, four, v);
    if (grid.uniform) {
      const typename Body::Parameters parameters = body.of(grid.channel_of_four(f));
#pragma unroll
      for (unsigned i = 0; i < 4; i++) body(v[i], parameters, y[i], inside[i]);
    } else {
      const std::size_t stretch = four.first / grid.inner;
      std::size_t channel = stretch % grid.count, left = grid.inner - (four.first - stretch * grid.inner);
#pragma unroll
      for (unsigned i = 0; i < 4; i++) {
        if (left == 0) {
          left = grid.inner;
          channel = channel + 1 == grid.count ? 0 : channel + 1;
        }
        left--;
        body(v[i], body.of(channel), y[i], inside[i]);
      }
    }
    store(out, four, y);
    store_mask(mask, four, inside);
  }
}

template <typename Body>
CudaStatus start(const CudaStream& stream, const float* x, const Channels& channels, const Body& body, float* out,
                 std::uint8_t* mask) {
  const ChannelGrid grid = ChannelGrid::of(channels, is_aligned(x, out, mask));
  return launch(stream, each_element<Body>, dim3(many_blocks_for(stream, ceil_div(grid.elements, 4), kThreads)),
                kThreads, 0, x, grid, body, out, mask);
}

// --- integers ---

// What becomes of one channel. `shifted`: the zero point is added before rounding.
struct ChannelStep {
  float inverse, scale, shift, low, high;
};
__device__ inline ChannelStep channel_step(const IntegerQuantizer& q, std::size_t channel, bool shifted) {
  const int zero_point = q.zero_points != nullptr ? __ldg(q.zero_points + channel) : 0;
  const float scale = __ldg(q.scales + channel);
  return {1.0F / scale, scale, shifted ? static_cast<float>(zero_point) : 0.0F,
          static_cast<float>(shifted ? q.lowest : q.lowest - zero_point),
          static_cast<float>(shifted ? q.highest : q.highest - zero_point)};
}

struct Integers {
  IntegerQuantizer quantizer;
  Rounding rounding;

  using Parameters = ChannelStep;
  __device__ Parameters of(std::size_t channel) const {
    return channel_step(quantizer, channel, rounding == Rounding::kHalfAway);
  }
  __device__ void operator()(float x, const Parameters& p, float& out, bool& inside) const {
    const Step step = step_of(x * p.inverse + p.shift, p.low, p.high, p.shift, rounding);
    out = step.steps * p.scale;
    inside = step.inside;
  }
};

CudaStatus integers(CudaStream* stream, const float* x, const Channels& channels, const IntegerQuantizer& quantizer,
                    Rounding rounding, float* out, std::uint8_t* mask) {
  return start(*stream, x, channels, Integers{quantizer, rounding}, out, mask);
}

// --- element formats ---

// Rounds to an element format by value. Let 2^e be the power of two at or below |x|, or the smallest normal number if
// that is greater, and C = 2^(e + 23 − M) for a mantissa of M bits: the last bit of |x| + C is worth 2^(e − M), so that
// the addition rounds, and the subtraction of C leaves the result.
struct ToElement {
  float largest, past;
  unsigned lowest, raise;

  static ToElement of(ElementType type) {
    const ElementFormat f = element_format(type);
    return {f.largest, power_of_two(f.highest_exponent + 1), static_cast<unsigned>(f.lowest_exponent + 127) << 23,
            static_cast<unsigned>(23 - f.mantissa_bits) << 23};
  }
  __device__ Rounded operator()(float x) const {
    const float magnitude = fminf(fabsf(x), past);  // a NaN becomes what is past the largest
    const unsigned bits = __float_as_uint(magnitude), exponent = (bits > lowest ? bits : lowest) & 0x7f800000U;
    const float raised = __uint_as_float(exponent + raise), rounded = (magnitude + raised) - raised;
    const float clamped = fminf(rounded, largest);
    return {__uint_as_float(__float_as_uint(clamped) | (__float_as_uint(x) & 0x80000000U)), rounded <= largest};
  }
};

struct Scaled {
  const float* scales;
  ToElement round;

  using Parameters = float;
  __device__ float of(std::size_t channel) const { return __ldg(scales + channel); }
  __device__ void operator()(float x, float scale, float& out, bool& inside) const {
    const Rounded rounded = round(x / scale);
    out = x != x ? x : rounded.value * scale;
    inside = rounded.inside;
  }
};

CudaStatus scaled(CudaStream* stream, const float* x, const Channels& channels, ElementType type, const float* scales,
                  float* out, std::uint8_t* mask) {
  return start(*stream, x, channels, Scaled{scales, ToElement::of(type)}, out, mask);
}

// --- blocks ---

// `lanes` neighbouring lanes share a block.
__global__ void __launch_bounds__(kThreads)
    each_block(const float* x, std::size_t blocks, std::size_t columns, unsigned blocks_per_row, unsigned lanes,
               bool aligned, ToElement round, ElementFormat format, BlockScale scale, const float* absmax, float* out,
               std::uint8_t* mask) {
  if (absmax != nullptr) {
    const float global = 448.0F * format.largest / *absmax;
    scale.global = *absmax > 0.0F && is_finite(global) ? global : 1.0F;  // so small a tensor rounds to zeros
  }
  const unsigned lane = threadIdx.x % kWarp, part = lane & (lanes - 1), per_warp = kWarp / lanes;
  const std::size_t stride = grid_threads() / kWarp * per_warp;
  for (std::size_t base = grid_thread() / kWarp * per_warp; base < blocks; base += stride) {
    const std::size_t block = base + lane / lanes;
    const std::size_t row = block / blocks_per_row, begin = block % blocks_per_row * (4 * lanes) + 4 * part;
    const std::size_t left = block < blocks && begin < columns ? columns - begin : 0;
    const Four four = {row * columns + begin, left < 4 ? static_cast<unsigned>(left) : 4U, aligned && left >= 4};
    float v[4];
    load(x, four, v);
    unsigned largest = 0;
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
      const unsigned magnitude = __float_as_uint(v[i]) & 0x7fffffffU;
      largest = magnitude > largest ? magnitude : largest;
    }
    for (unsigned step = lanes / 2; step != 0; step /= 2) {
      const unsigned other = __shfl_xor_sync(kAllLanes, largest, step);
      largest = other > largest ? other : largest;
    }
    if (four.count == 0) continue;
    const bool finite = largest < kInfinity32;
    const float unit = finite ? block_scale(scale, format, __uint_as_float(largest)) : 1.0F;
    float y[4];
    bool inside[4];
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
      const Rounded rounded = round(v[i] / unit);
      y[i] = finite ? rounded.value * unit : __uint_as_float(kNan32);
      inside[i] = finite && rounded.inside;
    }
    store(out, four, y);
    store_mask(mask, four, inside);
  }
}

CudaStatus blocks(CudaStream* stream, const float* x, std::size_t rows, std::size_t columns, std::size_t length,
                  ElementType type, BlockScale scale, float* out, std::uint8_t* mask) {
  const std::size_t count = rows * columns;
  if (count == 0) return CudaStatus::kOk;
  Workspace absmax(*stream);
  if (!scale.power_of_two && scale.global == 0.0F) {
    LOWBIT_TRY(absmax.reserve(sizeof(float)));
    LOWBIT_TRY(cuda_status(cudaMemsetAsync(absmax.as<float>(), 0, sizeof(float), stream->stream)));
    const AffineLayout whole = {1, count, count, 1, count};
    LOWBIT_TRY(find_largest(*stream, x, FloatType::kFloat32, UnitGrid::of(whole, {8, true}, x, nullptr),
                            NonFinite::kThrow, nullptr, absmax.as<unsigned>()));
  }
  const std::size_t blocks_per_row = ceil_div(columns, length), all = rows * blocks_per_row;
  const bool aligned = columns % 4 == 0 && is_aligned(x, out, mask);
  const unsigned lanes = static_cast<unsigned>(length / 4);
  return launch(*stream, each_block, dim3(many_blocks_for(*stream, all * lanes, kThreads)), kThreads, 0, x, all,
                columns, static_cast<unsigned>(blocks_per_row), lanes, aligned, ToElement::of(type),
                element_format(type), scale, static_cast<const float*>(absmax.as<float>()), out, mask);
}

// --- gradients ---

// dy · mask. A NaN keeps its bits, but for becoming quiet, as processors have it.
__device__ inline float passed(float dy, bool inside) {
  if (dy != dy) return __uint_as_float(__float_as_uint(dy) | 0x400000U);
  return dy * (inside ? 1.0F : 0.0F);
}

__global__ void __launch_bounds__(kThreads)
    pass_through(const float* dy, const std::uint8_t* mask, std::size_t count, bool aligned, float* dx) {
  const std::size_t fours = (count + 3) / 4;
  for (std::size_t f = grid_thread(); f < fours; f += grid_threads()) {
    const Four four = four_at(f, count, aligned);
    float v[4];
    load(dy, four, v);
    unsigned word = 0;
    if (four.whole) {
      word = __ldg(reinterpret_cast<const unsigned*>(mask + four.first));
    } else {
#pragma unroll
      for (unsigned i = 0; i < 4; i++)
        word |= i < four.count ? static_cast<unsigned>(mask[four.first + i]) << (8 * i) : 0;
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++) v[i] = passed(v[i], (word >> (8 * i) & 0xffU) != 0);
    store(dx, four, v);
  }
}

CudaStatus pass_gradients(CudaStream* stream, const float* dy, const std::uint8_t* mask, std::size_t count, float* dx) {
  return launch(*stream, pass_through, dim3(many_blocks_for(*stream, ceil_div(count, 4), kThreads)), kThreads, 0, dy,
                mask, count, is_aligned(dy, dx, mask), dx);
}

// What one element adds to the sums.
struct Slope {
  float dy, slope, clipped;
};
__device__ inline Slope slope_of(float dy, float x, const ChannelStep& p, float* dx) {
  const Step step = step_of(__fmaf_rn(x, p.inverse, p.shift), p.low, p.high, p.shift, Rounding::kHalfEven);
  *dx = passed(dy, step.inside);
  return {dy, step.inside ? __fmaf_rn(step.steps, p.scale, -x) * p.inverse : step.steps, step.inside ? 0.0F : dy};
}

struct GradientSums {
  double *scales, *zero_points;
};

// A warp for a stretch of one channel: `pieces` of kTileElements to a run of `inner`. Element i is added in lane i mod
// 8, one after the other; then the lanes pairwise.
__global__ void __launch_bounds__(kThreads)
    stretch_gradients(const float* dy, const float* x, std::size_t stretches, std::size_t pieces, std::size_t inner,
                      std::size_t count, IntegerQuantizer quantizer, float* dx, GradientSums parts) {
  constexpr unsigned kSumLanes = 8;
  const unsigned lane = threadIdx.x % kWarp;
  for (std::size_t s = grid_thread() / kWarp; s < stretches; s += grid_threads() / kWarp) {
    const std::size_t whole = s / pieces, begin = s % pieces * kTileElements;
    const std::size_t offset = whole * inner + begin, left = inner - begin;
    const std::size_t length = left < kTileElements ? left : kTileElements;
    const ChannelStep step = channel_step(quantizer, whole % count, true);
    double scale_sum = 0.0, zero_point_sum = 0.0;
#pragma unroll 4
    for (std::size_t i = 0; i < length; i += kWarp) {
      Slope own = {0.0F, 0.0F, 0.0F};
      if (i + lane < length) own = slope_of(dy[offset + i + lane], x[offset + i + lane], step, dx + offset + i + lane);
#pragma unroll
      for (unsigned k = 0; k < kWarp / kSumLanes; k++) {
        const unsigned from = k * kSumLanes + lane % kSumLanes;
        const float dy_k = __shfl_sync(kAllLanes, own.dy, from), slope_k = __shfl_sync(kAllLanes, own.slope, from);
        const float clipped_k = __shfl_sync(kAllLanes, own.clipped, from);
        if (i + from >= length) continue;
        scale_sum += static_cast<double>(dy_k) * static_cast<double>(slope_k);
        zero_point_sum += static_cast<double>(clipped_k);
      }
    }
#pragma unroll
    for (unsigned half = kSumLanes / 2; half != 0; half /= 2) {
      scale_sum += __shfl_down_sync(kAllLanes, scale_sum, half);
      zero_point_sum += __shfl_down_sync(kAllLanes, zero_point_sum, half);
    }
    if (lane == 0) {
      parts.scales[s] = 0.0 + scale_sum;
      parts.zero_points[s] = 0.0 + zero_point_sum;
    }
  }
}

// A block of threads for a strip of short channels, a thread for each of its elements.
__global__ void __launch_bounds__(ChannelTiles::kStrip)
    strip_gradients(const float* dy, const float* x, ChannelTiles tiles, std::size_t tile_count,
                    IntegerQuantizer quantizer, float* dx, GradientSums parts) {
  __shared__ double scale_sums[ChannelTiles::kStrip], zero_point_sums[ChannelTiles::kStrip];
  const std::size_t inner = tiles.channels().inner, count = tiles.channels().count;
  for (std::size_t tile = blockIdx.x; tile < tile_count; tile += gridDim.x) {
    const ChannelTiles::Strip strip = tiles.strip(tile);
    const unsigned i = threadIdx.x;
    if (i < strip.width) {
      const ChannelStep step = channel_step(quantizer, strip.first_channel + i / inner, true);
      double scale_sum = 0.0, zero_point_sum = 0.0;
      std::size_t at = strip.offset + i;
#pragma unroll 4
      for (std::size_t block = strip.first_block; block < strip.end_block; block++, at += strip.stride) {
        const Slope slope = slope_of(dy[at], x[at], step, dx + at);
        scale_sum += static_cast<double>(slope.dy) * static_cast<double>(slope.slope);
        zero_point_sum += static_cast<double>(slope.clipped);
      }
      scale_sums[i] = scale_sum;
      zero_point_sums[i] = zero_point_sum;
    }
    __syncthreads();
    if (i < strip.channels) {
      double scale_sum = 0.0, zero_point_sum = 0.0;
      for (std::size_t j = i * inner; j < (i + 1) * inner; j++) {
        scale_sum += scale_sums[j];
        zero_point_sum += zero_point_sums[j];
      }
      parts.scales[strip.chunk * count + strip.first_channel + i] = scale_sum;
      parts.zero_points[strip.chunk * count + strip.first_channel + i] = zero_point_sum;
    }
    __syncthreads();
  }
}

// Parts lie as [rounds][count][pieces].
__global__ void __launch_bounds__(kThreads)
    finish_gradients(GradientSums parts, std::size_t rounds, std::size_t count, std::size_t pieces, const float* scales,
                     double factor, float* scale_gradients, float* zero_point_gradients) {
  const std::size_t channel = grid_thread();
  if (channel >= count) return;
  double scale_sum = 0.0, zero_point_sum = 0.0;
  for (std::size_t round = 0; round < rounds; round++) {
    for (std::size_t piece = 0; piece < pieces; piece++) {
      const std::size_t i = (round * count + channel) * pieces + piece;
      scale_sum += parts.scales[i];
      zero_point_sum += parts.zero_points[i];
    }
  }
  scale_gradients[channel] = static_cast<float>(scale_sum * factor);
  zero_point_gradients[channel] = static_cast<float>(-zero_point_sum * static_cast<double>(scales[channel]) * factor);
}

CudaStatus gradients(CudaStream* stream, const float* dy, const float* x, const Channels& channels,
                     const IntegerQuantizer& quantizer, double factor, const QuantizerGradients& out) {
  const ChannelTiles tiles(channels);
  const Channels& seen = tiles.channels();
  const std::size_t stretches = tiles.tile_count() == 0 || !tiles.wide() ? 0 : tiles.stretch_count();
  const std::size_t parts = tiles.wide() ? stretches : tiles.chunk_count() * seen.count;
  Workspace memory(*stream);
  GradientSums sums{};
  if (parts != 0) {
    LOWBIT_TRY(memory.reserve(2 * parts * sizeof(double)));
    sums = {memory.as<double>(), memory.as<double>() + parts};
  }
  std::size_t rounds = 0, pieces = 1;
  if (tiles.wide()) {
    pieces = ceil_div(seen.inner, kTileElements);
    rounds = stretches == 0 ? 0 : seen.blocks;
    LOWBIT_TRY(launch(*stream, stretch_gradients, dim3(many_blocks_for(*stream, stretches * kWarp, kThreads)), kThreads,
                      0, dy, x, stretches, pieces, seen.inner, seen.count, quantizer, out.x, sums));
  } else {
    rounds = tiles.chunk_count();
    LOWBIT_TRY(launch(*stream, strip_gradients, dim3(many_blocks_for(*stream, tiles.tile_count(), 1)),
                      static_cast<unsigned>(ChannelTiles::kStrip), 0, dy, x, tiles, tiles.tile_count(), quantizer,
                      out.x, sums));
  }
  return launch(*stream, finish_gradients, dim3(static_cast<unsigned>(ceil_div(channels.count, kThreads))), kThreads, 0,
                sums, rounds, channels.count, pieces, quantizer.scales, factor, out.scales, out.zero_points);
}

}  // namespace

const FakeQuantizeCuda kFakeQuantizeCuda = {integers, scaled, blocks, pass_gradients, gradients};

}  // namespace lowbit
