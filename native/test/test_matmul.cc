// The kernels of matrix products: every instruction set against the scalar file, and the scalar file against plain
// arithmetic on codes that this file puts into lines itself.

#include <cmath>
#include <limits>

#include "core/float_bits.h"
#include "test/matmul_weights.h"

namespace lowbit::test {
namespace {

constexpr LineFormat kFormats[] = {LineFormat::kBits2, LineFormat::kBits3, LineFormat::kBits4, LineFormat::kBits8,
                                   LineFormat::kSmallBytes};
constexpr FloatType kTypes[] = {FloatType::kFloat32, FloatType::kFloat16, FloatType::kBfloat16};

std::int32_t highest_code(LineFormat format) {
  switch (format) {
    case LineFormat::kBits2:
      return 3;
    case LineFormat::kBits3:
      return 7;
    case LineFormat::kBits8:
      return 255;
    default:
      return 15;
  }
}

std::size_t bytes_of(LineFormat format, std::size_t quads) {
  switch (format) {
    case LineFormat::kBits2:
      return 64 * (quads / 4);
    case LineFormat::kBits3:
      return 192 * (quads / 8);
    case LineFormat::kBits4:
      return 64 * (quads / 2);
    default:
      return 64 * quads;
  }
}

// Codes of a tile by column and k, and the same as lines.
struct Tile {
  LineFormat format;
  std::size_t quads;
  std::vector<std::int32_t> codes;  // [k][column]

  Tile(LineFormat lines, std::size_t count, Random& random, bool extreme)
      : format(lines), quads(count), codes(count * kQuad * kTileColumns) {
    const std::int32_t highest = highest_code(format);
    for (std::int32_t& code : codes) {
      code = static_cast<std::int32_t>(random.below(static_cast<std::size_t>(highest) + 1));
      if (extreme && random.below(8) != 0) code = random.below(16) == 0 ? 0 : highest;
    }
  }
  std::int32_t at(std::size_t k, std::size_t column) const { return codes[k * kTileColumns + column]; }

  void write(std::uint8_t* lines) const {
    std::memset(lines, 0, bytes_of(format, quads));
    for (std::size_t k = 0; k < quads * kQuad; k++) {
      for (std::size_t column = 0; column < kTileColumns; column++) {
        const std::size_t quad = k / kQuad, byte = 4 * column + k % kQuad;
        const auto put = [&](std::size_t line, std::int32_t bits, std::size_t shift) {
          std::uint8_t& to = lines[64 * line + byte];
          to = static_cast<std::uint8_t>(to | (bits << shift));
        };
        const std::int32_t code = at(k, column);
        if (format == LineFormat::kBits2) put(quad / 4, code, 2 * (quad % 4));
        if (format == LineFormat::kBits4) put(quad / 2, code, 4 * (quad % 2));
        if (format == LineFormat::kBits8 || format == LineFormat::kSmallBytes) put(quad, code, 0);
        if (format == LineFormat::kBits3) {
          put(3 * (quad / 8) + quad % 8 / 4, code & 3, 2 * (quad % 4));
          put(3 * (quad / 8) + 2, code >> 2, quad % 8);
        }
      }
    }
  }
};

// Scales of some type, and what they are as float32.
struct Scales {
  FloatType type;
  std::vector<float> values;
  Buffer<std::uint8_t> stored;

  Scales(FloatType storage, std::size_t count, Random& random)
      : type(storage), values(count), stored(count * size_of(storage)) {
    for (std::size_t i = 0; i < count; i++) {
      values[i] = random.between(0.001F, 0.1F);
      const bool half = type == FloatType::kFloat16;
      const std::uint16_t narrow = half ? float16_of(values[i]) : bfloat16_of(values[i]);
      if (type != FloatType::kFloat32) values[i] = half ? float_of_float16(narrow) : float_of_bfloat16(narrow);
      const void* const bytes = type == FloatType::kFloat32 ? static_cast<const void*>(&values[i]) : &narrow;
      std::memcpy(stored.data() + i * size_of(type), bytes, size_of(type));
    }
  }
};

// --- dot -------------------------------------------------------------------------------------------------------------

struct DotCase {
  LineFormat format;
  std::size_t rows, tiles, segments, quads_per_segment, segments_per_group;
  bool two_planes, per_token, column_zeros, extreme;
  FloatType scale_type;
};

std::string describe(const DotCase& c) {
  return format("format %d, %zu rows%s%s%s, %zu tiles, %zu segments of %zu quads, %zu a group, type %d%s",
                static_cast<int>(c.format), c.rows, c.two_planes ? " in two planes" : "",
                c.per_token ? ", per token" : "", c.column_zeros ? ", zeros by column" : "", c.tiles, c.segments,
                c.quads_per_segment, c.segments_per_group, static_cast<int>(c.scale_type),
                c.extreme ? ", extreme" : "");
}

// One product with all that it reads in blocks of exactly their size.
class DotProblem {
 public:
  DotProblem(const DotCase& c, Random& random)
      : c_(c),
        k_(c.segments * c.quads_per_segment * kQuad),
        groups_((c.segments + c.segments_per_group - 1) / c.segments_per_group),
        tile_bytes_(bytes_of(c.format, k_ / kQuad) + 64 * random.below(3)),
        codes_((c.tiles - 1) * tile_bytes_ + bytes_of(c.format, k_ / kQuad)),
        zeros_(c.tiles * groups_ * kTileColumns),
        zero_(c.column_zeros ? 0 : static_cast<std::int32_t>(random.below(zero_limit()))),
        scales_(c.scale_type, c.tiles * groups_ * kTileColumns, random),
        quads_(k_ / kQuad * c.rows),
        activations_(k_ * c.rows),
        row_scales_((c.per_token ? 1 : c.segments) * rows_out()) {
    for (std::size_t t = 0; t < c.tiles; t++) {
      tiles_.emplace_back(c.format, k_ / kQuad, random, c.extreme);
      tiles_.back().write(codes_.data() + t * tile_bytes_);
    }
    for (std::size_t i = 0; i < zeros_.size(); i++) zeros_[i] = static_cast<std::uint8_t>(random.below(zero_limit()));
    for (std::size_t i = 0; i < row_scales_.size(); i++) row_scales_[i] = random.between(0.001F, 0.1F);
    std::memset(quads_.data(), 0, quads_.bytes());
    auto* const bytes = reinterpret_cast<std::uint8_t*>(quads_.data());
    for (std::size_t k = 0; k < k_; k++) {
      for (std::size_t r = 0; r < c.rows; r++) {
        const bool low = c.two_planes && r % 2 == 1;
        std::int32_t a = low ? static_cast<std::int32_t>(random.below(128)) - 64
                             : static_cast<std::int32_t>(random.below(255)) - 127;
        if (c.extreme) a = low ? (r % 4 == 1 ? -64 : 63) : (r % 3 == 0 ? -127 : 127);
        activations_[k * c.rows + r] = a;
        bytes[4 * (k / kQuad * c.rows + r) + k % kQuad] = static_cast<std::uint8_t>(a);
      }
    }
  }

  // The product by a table, its segments in parts that begin at `begins`.
  Buffer<float> run(const MatmulKernels& kernels, const std::vector<std::size_t>& begins) const {
    const std::int32_t offset = c_.format == LineFormat::kBits8 ? kernels.byte_offset : 0;
    const std::size_t planes = c_.two_planes ? 2 : 1, stride = c_.tiles * kTileColumns + 3;
    Buffer<std::int32_t> starts(c_.segments * c_.rows);
    for (std::size_t s = 0; s < c_.segments; s++) {
      for (std::size_t r = 0; r < rows_out(); r++) {
        const std::int32_t sum = activation_sum(s, r);
        if (planes == 2) starts[s * c_.rows + 2 * r] = 0;
        starts[s * c_.rows + planes * r + planes - 1] = c_.column_zeros ? pair_of(-sum) : (offset - zero_) * sum;
      }
    }
    Buffer<float> out((rows_out() - 1) * stride + c_.tiles * kTileColumns);
    for (std::size_t i = 0; i < out.size(); i++) out[i] = NAN;  // must be ignored
    for (std::size_t part = 0; part < begins.size(); part++) {
      const std::size_t begin = begins[part], end = part + 1 < begins.size() ? begins[part + 1] : c_.segments;
      const std::size_t parameter = begin / c_.segments_per_group * kTileColumns;
      DotArguments a{};
      a.format = c_.format;
      a.tiles = c_.tiles;
      a.codes = codes_.data() + bytes_of(c_.format, begin * c_.quads_per_segment);
      a.tile_bytes = tile_bytes_;
      a.segments = end - begin;
      a.quads_per_segment = c_.quads_per_segment;
      a.segments_per_group = c_.segments_per_group;
      a.left_of_group = c_.segments_per_group - begin % c_.segments_per_group;
      a.first = part == 0;
      a.last = part + 1 == begins.size();
      a.scale_type = c_.scale_type;
      a.scales = scales_.stored.data() + parameter * size_of(c_.scale_type);
      a.zero_points = c_.column_zeros ? zeros_.data() + parameter : nullptr;
      a.parameters = groups_ * kTileColumns;
      a.strip = {c_.rows,
                 c_.two_planes,
                 c_.per_token,
                 quads_.data() + begin * c_.quads_per_segment * c_.rows,
                 starts.data() + begin * c_.rows,
                 row_scales_.data() + (c_.per_token ? 0 : begin * rows_out())};
      a.out = out.data();
      a.out_stride = stride;
      kernels.dot(a);
    }
    return out;
  }

  // Σ scale · row scale · (code − zero) · activation in float64, against what a table found.
  void check(const Buffer<float>& out, const std::string& what) const {
    for (std::size_t r = 0; r < rows_out(); r++) {
      for (std::size_t column = 0; column < c_.tiles * kTileColumns; column++) {
        double sum = 0.0, magnitude = 0.0;
        for (std::size_t k = 0; k < k_; k++) {
          const std::size_t s = k / (c_.quads_per_segment * kQuad);
          const std::size_t t = column / kTileColumns, c = column % kTileColumns;
          const std::size_t parameter = (t * groups_ + s / c_.segments_per_group) * kTileColumns + c;
          const std::int32_t zero = c_.column_zeros ? zeros_[parameter] : zero_;
          const double scale = static_cast<double>(scales_.values[parameter]) *
                               static_cast<double>(row_scales_[c_.per_token ? r : s * rows_out() + r]);
          const double term = scale * (tiles_[t].at(k, c) - zero) * activation(k, r);
          sum += term;
          magnitude += std::fabs(term);
        }
        const double found = static_cast<double>(out[r * (c_.tiles * kTileColumns + 3) + column]);
        CHECK(std::fabs(found - sum) <= magnitude * static_cast<double>(c_.segments + 3) * 0x1p-24,
              "%s: [%zu, %zu] is %g, expected %g", what.c_str(), r, column, found, sum);
      }
    }
  }

 private:
  std::size_t zero_limit() const { return static_cast<std::size_t>(highest_code(c_.format)) + 1; }
  std::size_t rows_out() const { return c_.two_planes ? c_.rows / 2 : c_.rows; }
  std::int32_t activation(std::size_t k, std::size_t row) const {
    if (!c_.two_planes) return activations_[k * c_.rows + row];
    return 128 * activations_[k * c_.rows + 2 * row] + activations_[k * c_.rows + 2 * row + 1];
  }
  std::int32_t activation_sum(std::size_t segment, std::size_t row) const {
    const std::size_t length = c_.quads_per_segment * kQuad;
    std::int32_t sum = 0;
    for (std::size_t k = segment * length; k < (segment + 1) * length; k++) sum += activation(k, row);
    return sum;
  }

  DotCase c_;
  std::size_t k_, groups_, tile_bytes_;
  Buffer<std::uint8_t> codes_, zeros_;
  std::int32_t zero_;
  Scales scales_;
  Buffer<std::int32_t> quads_;
  std::vector<std::int32_t> activations_;
  Buffer<float> row_scales_;
  std::vector<Tile> tiles_;
};

TEST("matmul dot: every format, scheme and shape equals the scalar file bit for bit, and plain arithmetic") {
  Random random(30);
  std::size_t round = 0;
  for (const Kernels* table : supported_kernels()) {
    const MatmulKernels& k = *table->matmul;
    for (const LineFormat line_format : kFormats) {
      for (std::size_t rows = 1; rows <= k.dot_rows; rows++) {
        for (unsigned scheme = 0; scheme < 8; scheme++) {
          const bool two_planes = (scheme & 1) != 0;
          if (two_planes && rows % 2 != 0) continue;
          const std::size_t tiles = k.dot_tiles(rows);
          CHECK(tiles >= 1, "%s: no tiles for %zu rows", table->name, rows);
          for (std::size_t i = 0; i < (quick() ? 2 : 10); i++, round++) {
            constexpr std::size_t kSegments[] = {4, 8, 12, 16, 64}, kSegmentsOf3[] = {8, 16, 24, 64};
            DotCase c{};
            c.format = line_format;
            c.rows = rows;
            c.tiles = 1 + random.below(2 * tiles + 1);
            c.quads_per_segment = line_format == LineFormat::kBits3 ? kSegmentsOf3[round % 4] : kSegments[round % 5];
            c.segments = 1 + random.below(quick() ? 3 : 6);
            c.segments_per_group = 1 + random.below(c.segments + 1);
            c.two_planes = two_planes;
            c.per_token = (scheme & 2) != 0;
            c.column_zeros = (scheme & 4) != 0;
            c.extreme = i % 2 == 1;
            c.scale_type = kTypes[round % 3];
            const DotProblem problem(c, random);
            const std::string what = std::string(table->name) + ", " + describe(c);
            const Buffer<float> expected = problem.run(scalar::kMatmul, {0});
            if (table->matmul == &scalar::kMatmul) problem.check(expected, what);
            std::vector<std::size_t> parts = {0};
            for (std::size_t s = 1; s < c.segments; s++) {
              if (random.below(3) == 0) parts.push_back(s);
            }
            for (const auto& begins : {std::vector<std::size_t>{0}, parts}) {
              const Buffer<float> out = problem.run(k, begins);
              CHECK(first_difference(out, expected) == out.size(), "%s, %zu parts: element %zu", what.c_str(),
                    begins.size(), first_difference(out, expected));
            }
            if (failed()) return;
          }
        }
      }
    }
  }
}

// --- exact integers --------------------------------------------------------------------------------------------------

TEST("matmul integer dot: exact modulo 2^32, extreme values included") {
  Random random(31);
  for (const Kernels* table : supported_kernels()) {
    const MatmulKernels& kernels = *table->matmul;
    for (std::size_t rows = 1; rows <= kernels.dot_rows; rows++) {
      for (std::size_t i = 0; i < (quick() ? 6 : 40); i++) {
        const std::size_t tiles = 1 + random.below(2 * kernels.dot_tiles(rows) + 1), k = 16 * (1 + random.below(20));
        const std::size_t stride = tiles * kTileColumns + i % 3;
        const auto pick = [&](std::int32_t low, std::int32_t high) {
          if (i % 2 == 0) return random.below(2) == 0 ? low : high;
          return low + static_cast<std::int32_t>(random.below(static_cast<std::size_t>(high - low) + 1));
        };
        const std::int32_t everywhere = i % 6 == 0 ? 0 : i % 6 == 2 ? 255 : -1;
        Buffer<std::uint8_t> codes(tiles * 16 * k);
        for (std::size_t b = 0; b < codes.size(); b++) {
          codes[b] = static_cast<std::uint8_t>(everywhere >= 0 ? everywhere : pick(0, 255));
        }
        Buffer<std::int32_t> quads(k / 4 * rows), zeros(rows), sums(rows), terms(16 * tiles), column_zeros(16 * tiles);
        Buffer<std::int32_t> out((rows - 1) * stride + 16 * tiles);
        for (Buffer<std::int32_t>* integers : {&zeros, &sums, &terms, &column_zeros}) {
          for (std::size_t j = 0; j < integers->size(); j++)
            (*integers)[j] = static_cast<std::int32_t>(random.bits32());
        }
        auto* const bytes = reinterpret_cast<std::uint8_t*>(quads.data());
        for (std::size_t b = 0; b < quads.bytes(); b++) {
          bytes[b] = static_cast<std::uint8_t>(everywhere >= 0 ? -128 : pick(-128, 127));
        }
        kernels.integer_dot({tiles, codes.data(), 16 * k, k / 4, rows, quads.data(), zeros.data(), sums.data(),
                             terms.data(), column_zeros.data(), out.data(), stride});
        for (std::size_t r = 0; r < rows; r++) {
          for (std::size_t c = 0; c < 16 * tiles; c++) {
            std::int64_t sum = 0;
            for (std::size_t j = 0; j < k; j++) {
              const std::int64_t code = codes[c / 16 * 16 * k + 64 * (j / 4) + 4 * (c % 16) + j % 4];
              sum += (code - kernels.byte_offset) * static_cast<std::int8_t>(bytes[4 * (j / 4 * rows + r) + j % 4]);
            }
            const auto product = [](std::int32_t x, std::int32_t y) {
              return static_cast<std::uint32_t>(x) * static_cast<std::uint32_t>(y);
            };
            const std::uint32_t expected =
                static_cast<std::uint32_t>(sum) - product(zeros[r], terms[c]) - product(column_zeros[c], sums[r]);
            CHECK(static_cast<std::uint32_t>(out[r * stride + c]) == expected,
                  "%s, %zu rows, %zu tiles, k %zu: [%zu, %zu]", table->name, rows, tiles, k, r, c);
          }
        }
      }
    }
  }
}

// --- floats ----------------------------------------------------------------------------------------------------------

TEST("matmul float dot: one rounding for each k, in order, on every instruction set") {
  Random random(32);
  for (const Kernels* table : supported_kernels()) {
    const MatmulKernels& kernels = *table->matmul;
    for (const FloatType type : kTypes) {
      for (std::size_t rows = 1; rows <= kernels.float_rows; rows++) {
        for (std::size_t i = 0; i < (quick() ? 3 : 12); i++) {
          const std::size_t tiles = 1 + random.below(2 * kernels.float_tiles(rows) + 1),
                            count = i == 0 ? 0 : random.below(70);
          const std::size_t tile_stride = count * 16 + 16 * (i % 2), stride = 16 * tiles + i % 3;
          const Scales weights(type, (tiles - 1) * tile_stride + 16 * count, random);
          Buffer<float> activations(count * rows), out((rows - 1) * stride + 16 * tiles);
          for (std::size_t j = 0; j < activations.size(); j++) activations[j] = random.normal();
          for (const bool first : {true, false}) {
            std::vector<float> before(out.size());
            for (std::size_t j = 0; j < out.size(); j++) before[j] = out[j] = first ? NAN : random.normal();
            kernels.float_dot({tiles, type, weights.stored.data(), tile_stride, count, rows, activations.data(), first,
                               out.data(), stride});
            for (std::size_t r = 0; r < rows; r++) {
              for (std::size_t c = 0; c < 16 * tiles; c++) {
                float sum = first ? 0.0F : before[r * stride + c];
                for (std::size_t k = 0; k < count; k++) {
                  sum =
                      std::fma(weights.values[c / 16 * tile_stride + 16 * k + c % 16], activations[k * rows + r], sum);
                }
                CHECK(std::memcmp(&sum, &out[r * stride + c], sizeof sum) == 0,
                      "%s, type %d, %zu rows, %zu tiles, %zu k: [%zu, %zu]", table->name, static_cast<int>(type), rows,
                      tiles, count, r, c);
              }
            }
          }
        }
      }
    }
  }
}

// --- codes to bytes and to floats ------------------------------------------------------------------------------------

TEST("matmul decode and dequantize: every format gives its codes back") {
  Random random(33);
  std::size_t round = 0;
  for (const Kernels* table : supported_kernels()) {
    for (const LineFormat line_format : kFormats) {
      for (std::size_t i = 0; i < (quick() ? 6 : 30); i++, round++) {
        const std::size_t unit = line_format == LineFormat::kBits3 ? 8 : 4, quads = unit * (1 + random.below(12));
        const Tile tile(line_format, quads, random, false);
        Buffer<std::uint8_t> lines(bytes_of(line_format, quads));
        tile.write(lines.data());
        if (highest_code(line_format) < 16 && line_format != LineFormat::kSmallBytes) {
          Buffer<std::uint8_t> bytes(64 * quads);
          table->matmul->decode(line_format, lines.data(), quads, bytes.data());
          for (std::size_t b = 0; b < bytes.size(); b++) {
            CHECK(bytes[b] == tile.at(b / 64 * 4 + b % 4, b % 64 / 4), "%s, format %d: byte %zu of %zu", table->name,
                  static_cast<int>(line_format), b, bytes.size());
          }
        }
        const std::size_t quads_per_group = unit * (1 + random.below(quads / unit)),
                          first = unit * random.below(quads / unit);
        const std::size_t groups = (quads + quads_per_group - 1) / quads_per_group;
        const Scales scales(kTypes[round % 3], groups * 16, random);
        const bool column_zeros = i % 2 == 0;
        Buffer<std::uint8_t> zeros(groups * 16);
        const auto zero_limit = static_cast<std::size_t>(highest_code(line_format)) + 1;
        for (std::size_t z = 0; z < zeros.size(); z++) zeros[z] = static_cast<std::uint8_t>(random.below(zero_limit));
        DequantizeTileArguments a{};
        a.format = line_format;
        a.codes = lines.data();
        a.first_quad = first;
        a.quads = quads - first;
        a.quads_per_group = quads_per_group;
        a.scale_type = scales.type;
        a.scales = scales.stored.data();
        a.zero_points = column_zeros ? zeros.data() : nullptr;
        a.zero_point = static_cast<std::int32_t>(random.below(zero_limit));
        Buffer<float> out((quads - first) * 64);
        a.out = out.data();
        table->matmul->dequantize_tile(a);
        for (std::size_t j = 0; j < out.size(); j++) {
          const std::size_t k = 4 * first + j / 16, parameter = k / (4 * quads_per_group) * 16 + j % 16;
          const std::int32_t zero = column_zeros ? zeros[parameter] : a.zero_point;
          const float expected = static_cast<float>(tile.at(k, j % 16) - zero) * scales.values[parameter];
          CHECK(out[j] == expected, "%s, format %d, %zu quads from %zu: element %zu is %g, expected %g", table->name,
                static_cast<int>(line_format), quads, first, j, static_cast<double>(out[j]),
                static_cast<double>(expected));
        }
      }
    }
  }
}

// --- activations -----------------------------------------------------------------------------------------------------

struct Quantized {
  std::ptrdiff_t result;
  Buffer<std::int8_t> high, low;
  Buffer<float> scales;
  Buffer<std::int32_t> sums;
};

Quantized quantize(const MatmulKernels& kernels, const Buffer<float>& x, std::size_t segment, std::size_t segments,
                   bool two_planes, bool per_token) {
  const std::size_t k = segment * segments;
  Quantized q{0, Buffer<std::int8_t>(k), Buffer<std::int8_t>(two_planes ? k : 0),
              Buffer<float>(per_token ? 1 : segments), Buffer<std::int32_t>(segments)};
  q.result = kernels.quantize_row({x.data(), x.size(), segment, segments, two_planes, per_token, q.high.data(),
                                   two_planes ? q.low.data() : nullptr, q.scales.data(), q.sums.data()});
  return q;
}

// What the contract says, in float64 where it does not matter how.
void check_quantized(const Quantized& q, const Buffer<float>& x, std::size_t segment, bool two_planes,
                     const std::string& what) {
  const double steps = two_planes ? 127.0 * 128.0 : 127.0;
  for (std::size_t s = 0; s < q.sums.size(); s++) {
    const double scale = static_cast<double>(q.scales[q.scales.size() == 1 ? 0 : s]);
    std::int64_t sum = 0;
    double largest = 0.0;
    for (std::size_t k = s * segment; k < (s + 1) * segment; k++) {
      const int code = two_planes ? 128 * q.high[k] + q.low[k] : q.high[k];
      if (two_planes) CHECK(q.low[k] >= -64 && q.low[k] <= 63, "%s: low part %d", what.c_str(), q.low[k]);
      CHECK(q.high[k] >= -127, "%s: code %d", what.c_str(), q.high[k]);
      sum += code;
      const double value = k < x.size() ? static_cast<double>(x[k]) : 0.0;
      largest = std::fmax(largest, std::fabs(value));
      const double slack = scale == 0.0 ? 0x1p-110 : scale * (0.5 + std::fabs(static_cast<double>(code)) * 0x1p-22);
      CHECK(std::fabs(value - scale * code) <= slack, "%s: k %zu is %g · %d, expected %g", what.c_str(), k, scale, code,
            value);
    }
    CHECK(sum == q.sums[s], "%s: sum of segment %zu", what.c_str(), s);
    if (q.scales.size() == q.sums.size() && largest >= 0x1p-110) {
      CHECK(std::fabs(scale * steps / largest - 1.0) < 1e-6, "%s: scale %g of segment %zu", what.c_str(), scale, s);
    }
  }
}

TEST("matmul quantize: rows of activations equal the scalar file bit for bit, and what the contract says") {
  Random random(34);
  for (const Kernels* table : supported_kernels()) {
    constexpr std::size_t kSegments[] = {16, 32, 48, 64, 208, 256};
    for (const std::size_t segment : kSegments) {
      for (std::size_t i = 0; i < (quick() ? 8 : 64); i++) {
        const std::size_t segments = 1 + random.below(4);
        const std::size_t count = i % 4 == 0 ? segment * segments : random.below(segment * segments + 1);
        const float magnitude = std::ldexp(1.0F, static_cast<int>(random.below(230)) - 125);
        Buffer<float> x(count);
        for (std::size_t k = 0; k < count; k++) {
          x[k] = random.normal() * magnitude;
          if (i % 3 == 1 && k / segment == 0) x[k] = random.below(2) == 0 ? 0.0F : -0.0F;
          if (i % 3 == 2)
            x[k] = std::ldexp(random.normal(), static_cast<int>(random.below(40)) - 130);  // subnormal too
        }
        for (const bool two_planes : {false, true}) {
          for (const bool per_token : {false, true}) {
            const std::string what = format("%s, %zu elements, segments of %zu%s%s", table->name, count, segment,
                                            two_planes ? ", two planes" : "", per_token ? ", per token" : "");
            const Quantized q = quantize(*table->matmul, x, segment, segments, two_planes, per_token);
            const Quantized expected = quantize(scalar::kMatmul, x, segment, segments, two_planes, per_token);
            CHECK(q.result == -1, "%s: result %td", what.c_str(), q.result);
            CHECK(first_difference(q.high, expected.high) == q.high.size() &&
                      first_difference(q.low, expected.low) == q.low.size() &&
                      first_difference(q.scales, expected.scales) == q.scales.size() &&
                      first_difference(q.sums, expected.sums) == q.sums.size(),
                  "%s: not as the scalar file", what.c_str());
            check_quantized(q, x, segment, two_planes, what);
          }
        }
      }
    }
  }
}

TEST("matmul quantize: names the first NaN or infinity, wherever it is") {
  Random random(35);
  constexpr std::size_t kCount = 75;
  for (const Kernels* table : supported_kernels()) {
    for (std::size_t bad = 0; bad < kCount; bad++) {
      for (const float value : {NAN, -NAN, INFINITY, -INFINITY}) {
        Buffer<float> x(kCount);
        for (std::size_t k = 0; k < kCount; k++) x[k] = random.normal();
        x[bad] = value;
        x[bad + random.below(kCount - bad)] = value;
        for (unsigned mode = 0; mode < 4; mode++) {
          const Quantized q = quantize(*table->matmul, x, 16, 5, (mode & 1) != 0, (mode & 2) != 0);
          CHECK(q.result == static_cast<std::ptrdiff_t>(bad), "%s: result %td, expected %zu", table->name, q.result,
                bad);
        }
      }
    }
  }
}

// --- results ---------------------------------------------------------------------------------------------------------

TEST("matmul finish: bias, activation and factor equal the scalar file bit for bit") {
  Random random(36);
  for (const Kernels* table : supported_kernels()) {
    for (const std::size_t n : ragged_lengths()) {
      if (n > 600) continue;
      Buffer<float> y(n), expected(n), bias(n), factor(n);
      for (const Activation activation : kActivations) {
        for (unsigned mode = 0; mode < 4; mode++) {
          for (std::size_t i = 0; i < n; i++) {
            y[i] = expected[i] = random.normal() * 4.0F;
            bias[i] = random.normal();
            factor[i] = random.normal();
          }
          const float* const b = (mode & 1) != 0 ? bias.data() : nullptr;
          const float* const f = (mode & 2) != 0 ? factor.data() : nullptr;
          scalar::kMatmul.finish(expected.data(), b, activation, f, n);
          table->matmul->finish(y.data(), b, activation, f, n);
          CHECK(first_difference(y, expected) == n, "%s, activation %d, mode %u, length %zu: element %zu", table->name,
                static_cast<int>(activation), mode, n, first_difference(y, expected));
        }
      }
    }
  }
}

TEST("matmul finish: activations are those of float64") {
  std::vector<float> values = {0.0F,
                               -0.0F,
                               1e-30F,
                               -1e-30F,
                               1e4F,
                               -1e4F,
                               1e20F,
                               -1e20F,
                               -1e33F,
                               std::numeric_limits<float>::max(),
                               std::numeric_limits<float>::lowest()};
  const int fine = quick() ? 100 : 1000;
  for (int i = -30 * fine; i <= 30 * fine; i++) values.push_back(static_cast<float>(i) / static_cast<float>(fine));
  for (int i = -1200; i <= 1200; i++) values.push_back(static_cast<float>(i) * 0.1F);
  Buffer<float> y(values.size());
  for (const Kernels* table : supported_kernels()) {
    for (const Activation activation : kActivations) {
      std::memcpy(y.data(), values.data(), y.bytes());
      table->matmul->finish(y.data(), nullptr, activation, nullptr, y.size());
      for (std::size_t i = 0; i < y.size(); i++) {
        const double expected = activated(activation, static_cast<double>(values[i])),
                     found = static_cast<double>(y[i]);
        CHECK(std::fabs(found - expected) <= 2e-6 * std::fmax(1.0, std::fabs(expected)),
              "%s, activation %d of %.9g: %.9g, expected %.9g", table->name, static_cast<int>(activation),
              static_cast<double>(values[i]), found, expected);
      }
    }
  }
}

TEST("matmul finish: activations of infinities are their limits, of a NaN a NaN") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const Kernels* table : supported_kernels()) {
    for (const Activation activation : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
      float y[] = {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()};
      table->matmul->finish(y, nullptr, activation, nullptr, 3);
      CHECK(y[0] == kInfinity && std::fabs(y[1]) <= 1e-30F && std::isnan(y[2]), "%s, activation %d: %g %g %g",
            table->name, static_cast<int>(activation), static_cast<double>(y[0]), static_cast<double>(y[1]),
            static_cast<double>(y[2]));
    }
  }
}

}  // namespace
}  // namespace lowbit::test
