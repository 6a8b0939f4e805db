// y = x·Wᵀ: activations are quantized and interleaved in strips of rows, columns are divided among threads, and for
// each panel of columns all strips are computed while its weights are in the cache.

#include <atomic>
#include <cstring>

#include "core/kernels.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/strips.h"

namespace lowbit {
namespace {

std::size_t aligned(std::size_t bytes) { return ceil_div(bytes, kLineBytes) * kLineBytes; }

// --- activations
// ------------------------------------------------------------------------------------------------------

// Whether dot() is given kBits8 lines.
bool reads_wide_lines(LineFormat format) { return format == LineFormat::kBits8 || has_levels(format); }

// The activations of one linear layer as its kernels read them.
class IntegerActivations {
 public:
  IntegerActivations(const LinearArguments& a, const PackedWeight& weight, Scratch slot)
      : layout_(weight.layout),
        planes_(a.compute == ComputeType::kInt16 ? 2 : 1),
        per_token_(a.per_token),
        strips_(a.m, kernels().matmul->dot_rows / planes_) {
    const std::size_t k = layout_.quads() * kQuad, segments = static_cast<std::size_t>(layout_.segments);
    quad_bytes_ = k * planes_;
    start_bytes_ = segments * planes_ * sizeof(std::int32_t);
    scale_bytes_ = (per_token_ ? 1 : segments) * sizeof(float);
    sum_bytes_ = layout_.offsets ? layout_.groups() * sizeof(float) : 0;
    strip_stride_ = aligned(quad_bytes_ * strips_.longest()) + aligned(start_bytes_ * strips_.longest()) +
                    aligned(scale_bytes_ * strips_.longest()) + aligned(sum_bytes_ * strips_.longest());
    memory_ = scratch(slot, strip_stride_ * strips_.count);
  }

  const Strips& strips() const { return strips_; }
  std::size_t planes() const { return planes_; }

  // Strip i from a segment on.
  ActivationStrip strip(std::size_t i, std::size_t segment = 0) const {
    const std::size_t rows = strips_.size(i) * planes_;
    const std::uint8_t* const quads = memory_ + i * strip_stride_;
    const std::uint8_t* const starts = quads + aligned(quad_bytes_ * strips_.longest());
    const std::uint8_t* const scales = starts + aligned(start_bytes_ * strips_.longest());
    return {rows,
            planes_ == 2,
            per_token_,
            reinterpret_cast<const std::int32_t*>(quads + segment * static_cast<std::size_t>(layout_.segment) * rows),
            reinterpret_cast<const std::int32_t*>(starts) + segment * rows,
            reinterpret_cast<const float*>(scales) + (per_token_ ? 0 : segment * strips_.size(i))};
  }

  // Sums of the quantized activations of strip i, as floats: [group][row]. For weights with offsets.
  float* group_sums(std::size_t i) const {
    return reinterpret_cast<float*>(memory_ + (i + 1) * strip_stride_ - aligned(sum_bytes_ * strips_.longest()));
  }

  // Fills strip i; the index in x of an element that is not finite, or -1.
  std::ptrdiff_t fill(std::size_t i, const float* x) const;

 private:
  void interleave(std::size_t rows, std::size_t row, const std::int8_t* codes, std::uint8_t* quads) const;
  void add_group_sums(std::size_t i, std::size_t row, const std::int32_t* sums, const float* scales) const;

  PackedLayout layout_;
  std::size_t planes_;
  bool per_token_;
  Strips strips_;
  std::size_t quad_bytes_ = 0, start_bytes_ = 0, scale_bytes_ = 0, sum_bytes_ = 0, strip_stride_ = 0;
  std::uint8_t* memory_ = nullptr;
};

void IntegerActivations::interleave(std::size_t rows, std::size_t row, const std::int8_t* codes,
                                    std::uint8_t* quads) const {
  std::uint8_t* out = quads + kQuad * row;
  for (std::size_t q = 0; q < layout_.quads(); q++) {
    std::memcpy(out, codes + kQuad * q, kQuad);
    out += kQuad * rows;
  }
}

void IntegerActivations::add_group_sums(std::size_t i, std::size_t row, const std::int32_t* sums,
                                        const float* scales) const {
  const auto per_group = static_cast<std::size_t>(layout_.segments_per_group);
  for (std::size_t g = 0; g < layout_.groups(); g++) {
    float sum = 0.0F;
    for (std::size_t s = g * per_group; s < (g + 1) * per_group; s++) {
      sum += static_cast<float>(sums[s]) * scales[per_token_ ? 0 : s];
    }
    group_sums(i)[g * strips_.size(i) + row] = sum;
  }
}

std::ptrdiff_t IntegerActivations::fill(std::size_t i, const float* x) const {
  const std::size_t columns = static_cast<std::size_t>(layout_.columns);
  const std::size_t segments = static_cast<std::size_t>(layout_.segments), k = layout_.quads() * kQuad;
  const ActivationStrip strip = this->strip(i);
  auto* const quads = const_cast<std::uint8_t*>(reinterpret_cast<const std::uint8_t*>(strip.quads));
  auto* const starts = const_cast<std::int32_t*>(strip.starts);
  auto* const scales = const_cast<float*>(strip.scales);
  const std::size_t rows = strips_.size(i);
  std::uint8_t* const room = scratch(Scratch::kRow, 2 * k + 8 * segments);
  auto* const row_scales = reinterpret_cast<float*>(room);
  auto* const row_sums = reinterpret_cast<std::int32_t*>(room + 4 * segments);
  auto* const high = reinterpret_cast<std::int8_t*>(room + 8 * segments);
  std::int8_t* const low = high + k;
  const std::int32_t offset = reads_wide_lines(layout_.format) ? kernels().matmul->byte_offset : 0;
  for (std::size_t r = 0; r < rows; r++) {
    const std::size_t begin = (strips_.begin(i) + r) * columns;
    const std::ptrdiff_t bad =
        kernels().matmul->quantize_row({x + begin, columns, static_cast<std::size_t>(layout_.segment), segments,
                                        planes_ == 2, per_token_, high, low, row_scales, row_sums});
    if (bad >= 0) return static_cast<std::ptrdiff_t>(begin) + bad;
    interleave(strip.rows, planes_ * r, high, quads);
    if (planes_ == 2) interleave(strip.rows, 2 * r + 1, low, quads);
    for (std::size_t s = 0; s < segments; s++) {
      std::int32_t* const start = starts + s * strip.rows + planes_ * r;
      const std::int32_t correction =
          layout_.column_zeros ? pair_of(-row_sums[s]) : (offset - layout_.zero) * row_sums[s];
      start[planes_ - 1] = correction;
      if (planes_ == 2) start[0] = 0;
    }
    if (layout_.offsets) add_group_sums(i, r, row_sums, row_scales);
    if (per_token_) {
      scales[r] = row_scales[0];
    } else {
      for (std::size_t s = 0; s < segments; s++) scales[s * rows + r] = row_scales[s];
    }
  }
  return -1;
}

// Whether two weights read the same quantized activations.
bool same_activations(const PackedLayout& a, const PackedLayout& b) {
  return a.segment == b.segment && a.segments == b.segments && a.zero == b.zero && a.column_zeros == b.column_zeros &&
         a.offsets == b.offsets && a.segments_per_group == b.segments_per_group &&
         reads_wide_lines(a.format) == reads_wide_lines(b.format);
}

// Rows of floats as [k][row].
void interleave_floats(const float* x, std::size_t stride, std::size_t rows, std::size_t count, float* out) {
  for (std::size_t r = 0; r < rows; r++) {
    for (std::size_t k = 0; k < count; k++) out[k * rows + r] = x[r * stride + k];
  }
}

// --- a panel of columns times some strips of rows
// ---------------------------------------------------------------------

constexpr std::size_t kPartQuads = 2048;

struct Panel {
  std::size_t first_tile, tiles, first_strip, last_strip;
};

// Where the product of a panel goes: row 0 is the first row of its first strip.
struct Target {
  float* out;
  std::size_t stride;
};

// The offsets of a group times the sum of its activations.
void add_offsets(const PackedWeight& weight, const IntegerActivations& activations, Panel p, Target target) {
  const PackedLayout& l = weight.layout;
  const Strips& strips = activations.strips();
  FloatArguments a{};
  a.tiles = p.tiles;
  a.type = FloatType::kFloat32;
  a.weights = weight.offsets() + p.first_tile * l.parameters();
  a.tile_stride = l.parameters();
  a.count = l.groups();
  a.out_stride = target.stride;
  for (std::size_t s = p.first_strip; s < p.last_strip; s++) {
    a.rows = strips.size(s);
    a.activations = activations.group_sums(s);
    a.out = target.out + (strips.begin(s) - strips.begin(p.first_strip)) * target.stride;
    kernels().matmul->float_dot(a);
  }
}

void integer_panel(const PackedWeight& weight, const IntegerActivations& activations, Panel p, Target target) {
  const MatmulKernels& k = *kernels().matmul;
  const PackedLayout& l = weight.layout;
  const Strips& strips = activations.strips();
  const std::size_t rows = strips.rows * activations.planes();
  const bool decodes = has_levels(l.format) || (l.format != LineFormat::kBits8 && rows >= k.decode_rows);
  const std::size_t parameter = p.first_tile * l.parameters();
  const std::uint8_t* const zeros = weight.zero_points();
  const std::size_t segments = static_cast<std::size_t>(l.segments);
  const std::size_t quads_per_segment = static_cast<std::size_t>(l.segment) / kQuad;
  // What is decoded, and where many strips meet the same weights, so many of them at a time as stay in the first-level
  // cache.
  const std::size_t part =
      rows < k.decode_rows && !decodes ? segments : std::max<std::size_t>(1, kPartQuads / quads_per_segment);
  DotArguments a{};
  a.format = has_levels(l.format) ? LineFormat::kBits8 : decodes ? LineFormat::kSmallBytes : l.format;
  a.tiles = p.tiles;
  a.tile_bytes = decodes ? part * quads_per_segment * kLineBytes : l.tile_bytes();
  a.quads_per_segment = quads_per_segment;
  a.segments_per_group = static_cast<std::size_t>(l.segments_per_group);
  a.scale_type = l.type;
  a.parameters = l.parameters();
  a.out_stride = target.stride;
  for (std::size_t begin = 0; begin < segments; begin += part) {
    a.segments = std::min(part, segments - begin);
    a.first = begin == 0;
    a.last = begin + part >= segments;
    a.left_of_group = a.segments_per_group - begin % a.segments_per_group;
    a.codes = weight.codes() + p.first_tile * l.tile_bytes() + bytes_of_lines(l.format, begin * quads_per_segment);
    if (decodes) {
      std::uint8_t* const decoded = scratch(Scratch::kPanel, p.tiles * a.tile_bytes);
      for (std::size_t t = 0; t < p.tiles; t++) {
        k.decode(l.format, a.codes + t * l.tile_bytes(), a.segments * quads_per_segment, decoded + t * a.tile_bytes);
      }
      a.codes = decoded;
    }
    const std::size_t first_parameter = parameter + begin / a.segments_per_group * kTileColumns;
    a.scales = weight.scales() + first_parameter * size_of(l.type);
    a.zero_points = zeros == nullptr ? nullptr : zeros + first_parameter;
    for (std::size_t s = p.first_strip; s < p.last_strip; s++) {
      a.strip = activations.strip(s, begin);
      a.out = target.out + (strips.begin(s) - strips.begin(p.first_strip)) * target.stride;
      k.dot(a);
    }
  }
  if (l.offsets) add_offsets(weight, activations, p, target);
}

// `activations` holds [k][row] of every strip, one after the other.
void float_panel(const PackedWeight& weight, const Strips& strips, const float* activations, Panel p, Target target) {
  // So many k at a time stay in the cache for all strips; quantized weights become floats there, for few rows in the
  // first-level cache.
  const std::size_t block = strips.rows <= 4 ? 64 : 512;
  const MatmulKernels& kernel = *kernels().matmul;
  const PackedLayout& l = weight.layout;
  const std::size_t columns = static_cast<std::size_t>(l.columns);
  const bool quantized = l.kind == WeightKind::kCodes;
  FloatArguments a{};
  a.tiles = p.tiles;
  a.type = quantized ? FloatType::kFloat32 : l.type;
  a.tile_stride = (quantized ? block : columns) * kTileColumns;
  a.out_stride = target.stride;
  float* const dequantized =
      quantized ? reinterpret_cast<float*>(scratch(Scratch::kPanel, p.tiles * a.tile_stride * sizeof(float))) : nullptr;
  for (std::size_t k = 0; k < columns || k == 0; k += block) {
    a.count = std::min(block, columns - k);
    a.first = k == 0;
    a.weights = dequantized;
    if (!quantized) a.weights = weight.codes() + p.first_tile * l.tile_bytes() + k * kTileColumns * size_of(l.type);
    for (std::size_t t = 0; quantized && t < p.tiles; t++) {
      const std::size_t tile = p.first_tile + t, parameter = tile * l.parameters();
      const std::uint8_t* const zeros = weight.zero_points();
      DequantizeTileArguments d{};
      d.format = l.format;
      d.codes = weight.codes() + tile * l.tile_bytes();
      d.first_quad = k / kQuad;
      d.quads = std::min(block / kQuad, l.quads() - d.first_quad);
      d.quads_per_group = static_cast<std::size_t>(l.segment * l.segments_per_group) / kQuad;
      d.scale_type = l.type;
      d.scales = weight.scales() + parameter * size_of(l.type);
      d.zero_points = zeros == nullptr ? nullptr : zeros + parameter;
      d.zero_point = l.zero;
      d.offsets = weight.offsets() == nullptr ? nullptr : weight.offsets() + parameter;
      d.out = dequantized + t * a.tile_stride;
      kernel.dequantize_tile(d);
    }
    for (std::size_t s = p.first_strip; s < p.last_strip; s++) {
      a.rows = strips.size(s);
      a.activations = activations + strips.begin(s) * columns + k * a.rows;
      a.out = target.out + (strips.begin(s) - strips.begin(p.first_strip)) * target.stride;
      kernel.float_dot(a);
    }
  }
}

// Whether products with a weight are computed in float32 whatever was asked for.
bool needs_floats(const PackedWeight* weight) {
  return weight != nullptr && (weight->layout.kind == WeightKind::kFloats || has_float_values(weight->layout.format));
}

// --- the whole product
// ------------------------------------------------------------------------------------------------

class Linear {
 public:
  explicit Linear(const LinearArguments& a)
      : a_(a),
        floats_(a.compute == ComputeType::kFloat32 || needs_floats(a.weight) || needs_floats(a.gate)),
        columns_(static_cast<std::size_t>(a.weight->layout.columns)),
        rows_(static_cast<std::size_t>(a.weight->layout.rows)),
        strips_(a.m, floats_ ? kernels().matmul->float_rows
                             : kernels().matmul->dot_rows / (a.compute == ComputeType::kInt16 ? 2 : 1)) {}

  Outcome run(const CancelFlag* cancel);

 private:
  void panel(Panel p, const IntegerActivations* activations, const IntegerActivations* gate_activations) const;
  void product(const PackedWeight& weight, const IntegerActivations* activations, Panel p, Target target) const {
    if (floats_) return float_panel(weight, strips_, activations_, p, target);
    integer_panel(weight, *activations, p, target);
  }
  bool multiply(const IntegerActivations* activations, const IntegerActivations* gate_activations,
                const CancelFlag* cancel) const;
  template <typename Fill>
  Outcome fill(const Fill& fill_strip, const CancelFlag* cancel) const;

  const LinearArguments& a_;
  bool floats_;
  std::size_t columns_, rows_;
  Strips strips_;
  const float* activations_ = nullptr;
};

// Elements of x that take about as long to quantize as a thread to wake up.
constexpr std::size_t kWorthWakingElements = std::size_t{1} << 18;

// Fills all strips; reports the first element that is not finite.
template <typename Fill>
Outcome Linear::fill(const Fill& fill_strip, const CancelFlag* cancel) const {
  constexpr std::ptrdiff_t kNone = PTRDIFF_MAX;
  std::atomic<std::ptrdiff_t> first{kNone};
  const bool finished = ThreadPool::instance().parallel_for(
      strips_.count,
      [&](std::size_t i) {
        const std::ptrdiff_t bad = fill_strip(i);
        std::ptrdiff_t seen = first.load();
        while (bad >= 0 && bad < seen && !first.compare_exchange_weak(seen, bad)) {
        }
      },
      cancel, a_.m * columns_ >= kWorthWakingElements ? Helpers::kAll : Helpers::kAwake);
  if (!finished) return {Status::kCancelled, -1};
  if (first != kNone) return {Status::kNonFinite, first};
  return {};
}

void Linear::panel(Panel p, const IntegerActivations* activations, const IntegerActivations* gate_activations) const {
  const std::size_t begin = p.first_tile * kTileColumns, width = p.tiles * kTileColumns;
  const std::size_t columns = std::min(width, rows_ - begin);
  const std::size_t first_row = strips_.begin(p.first_strip), rows = strips_.begin(p.last_strip) - first_row;
  float* const y = a_.y + first_row * rows_ + begin;
  // The last tile may be wider than the output; the gate has to wait for the weight.
  const bool ragged = columns < width;
  const std::size_t room = rows * width;
  float* const result = ragged || a_.gate != nullptr
                            ? reinterpret_cast<float*>(scratch(Scratch::kResult, 2 * room * sizeof(float)))
                            : nullptr;
  const Target target = ragged ? Target{result, width} : Target{y, rows_};
  product(*a_.weight, activations, p, target);
  float* const gate = a_.gate == nullptr ? nullptr : result + room;
  if (a_.gate != nullptr) product(*a_.gate, gate_activations, p, {gate, width});

  const MatmulKernels& k = *kernels().matmul;
  const Activation own = a_.gate == nullptr ? a_.activation : Activation::kNone;
  for (std::size_t r = 0; r < rows; r++) {
    const float* factor = nullptr;
    if (a_.gate != nullptr) {
      const float* const gate_bias = a_.gate_bias == nullptr ? nullptr : a_.gate_bias + begin;
      k.finish(gate + r * width, gate_bias, a_.activation, nullptr, columns);
      factor = gate + r * width;
    }
    float* const row = target.out + r * target.stride;
    if (a_.bias != nullptr || own != Activation::kNone || factor != nullptr) {
      k.finish(row, a_.bias == nullptr ? nullptr : a_.bias + begin, own, factor, columns);
    }
    if (ragged) std::memcpy(y + r * rows_, row, columns * sizeof(float));
  }
}

bool Linear::multiply(const IntegerActivations* activations, const IntegerActivations* gate_activations,
                      const CancelFlag* cancel) const {
  const MatmulKernels& k = *kernels().matmul;
  const std::size_t planes = !floats_ && a_.compute == ComputeType::kInt16 ? 2 : 1;
  const std::size_t unit = floats_ ? k.float_tiles(strips_.longest()) : k.dot_tiles(strips_.longest() * planes);
  const double weights = a_.gate == nullptr ? 1.0 : 2.0;
  const PackedLayout& l = a_.weight->layout;
  const double products = static_cast<double>(a_.m) * static_cast<double>(rows_) * static_cast<double>(columns_);
  const Grid grid =
      divide(l.tiles(), unit, strips_.count, weights * static_cast<double>(l.bytes()), weights * products);
  return ThreadPool::instance().parallel_for(
      grid.count(),
      [&](std::size_t task) {
        const GridTask t = grid.task(task);
        for (std::size_t tile = t.first_tile; tile < t.last_tile; tile += unit) {
          const Panel p{tile, std::min(unit, t.last_tile - tile), t.first_strip, t.last_strip};
          panel(p, activations, gate_activations);
        }
      },
      cancel, grid.helpers);
}

Outcome Linear::run(const CancelFlag* cancel) {
  if (a_.m == 0 || rows_ == 0) return {};
  if (floats_) {
    const std::ptrdiff_t bad = first_not_finite(a_.x, a_.m * columns_);
    if (bad >= 0) return {Status::kNonFinite, bad};
    auto* const strips =
        reinterpret_cast<float*>(scratch(Scratch::kActivations, a_.m * columns_ * sizeof(float) + kLineBytes));
    const Outcome filled = fill(
        [&](std::size_t i) {
          const std::size_t begin = strips_.begin(i) * columns_;
          interleave_floats(a_.x + begin, columns_, strips_.size(i), columns_, strips + begin);
          return std::ptrdiff_t{-1};
        },
        cancel);
    if (filled.status != Status::kOk) return filled;
    activations_ = strips;
    return multiply(nullptr, nullptr, cancel) ? Outcome{} : Outcome{Status::kCancelled, -1};
  }
  const IntegerActivations activations(a_, *a_.weight, Scratch::kActivations);
  Outcome filled = fill([&](std::size_t i) { return activations.fill(i, a_.x); }, cancel);
  if (filled.status != Status::kOk) return filled;
  if (a_.gate == nullptr || same_activations(a_.weight->layout, a_.gate->layout)) {
    return multiply(&activations, &activations, cancel) ? Outcome{} : Outcome{Status::kCancelled, -1};
  }
  const IntegerActivations gate_activations(a_, *a_.gate, Scratch::kGateActivations);
  filled = fill([&](std::size_t i) { return gate_activations.fill(i, a_.x); }, cancel);
  if (filled.status != Status::kOk) return filled;
  return multiply(&activations, &gate_activations, cancel) ? Outcome{} : Outcome{Status::kCancelled, -1};
}

}  // namespace

Outcome linear(const LinearArguments& arguments, const CancelFlag* cancel) { return Linear(arguments).run(cancel); }

}  // namespace lowbit
