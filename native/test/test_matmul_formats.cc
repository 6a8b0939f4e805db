// Packed weights of codebooks and GGUF blocks: the parts of blocks against their dequantization, kernels against the
// scalar file, and products against float64 and against plain loops.

#include <cmath>

#include "core/packed_codes.h"
#include "core/thread_pool.h"
#include "ops/blocks/block_parts.h"
#include "ops/codebook/codebook_math.h"
#include "ops/matmul/pack_rows.h"
#include "test/matmul_weights.h"

namespace lowbit::test {
namespace {

constexpr LineFormat kFormats[] = {LineFormat::kBits2,     LineFormat::kBits4,     LineFormat::kTwiceE2m1,
                                   LineFormat::kNonlinear, LineFormat::kNf4,       LineFormat::kFp4,
                                   LineFormat::kE4m3fn,    LineFormat::kE5m2,      LineFormat::kE2m3,
                                   LineFormat::kE3m2,      LineFormat::kSmallBytes};
constexpr Codebook kBooks[] = {Codebook::kNf4,     Codebook::kFp4,   Codebook::kE4m3fn, Codebook::kE5m2,
                               Codebook::kE2m3,    Codebook::kE3m2,  Codebook::kE2m1,   Codebook::kFixed8,
                               Codebook::kTernary, Codebook::kBinary};

struct Compute {
  ComputeType type;
  bool per_token;
};
constexpr Compute kComputes[] = {{ComputeType::kFloat32, false},
                                 {ComputeType::kInt16, false},
                                 {ComputeType::kInt16, true},
                                 {ComputeType::kInt8, false},
                                 {ComputeType::kInt8, true}};

// Blocks of any bytes, but for their scales: those are finite and not far from one another.
Buffer<std::uint8_t> random_blocks(BlockType type, std::size_t count, Random& random) {
  const BlockFormat& format = format_of(type);
  Buffer<std::uint8_t> data(count * format.bytes);
  for (std::size_t i = 0; i < data.size(); i++) data[i] = static_cast<std::uint8_t>(random.bits());
  for (std::size_t b = 0; b < count; b++) {
    std::uint8_t* const block = data.data() + b * format.bytes;
    for (std::size_t s = 0; s < format.scales; s++) {
      const std::uint16_t half = float16_of(random.between(0.01F, 0.05F));
      std::memcpy(block + format.scales_at + 2 * s, &half, sizeof half);
    }
    const float scale = random.between(0.01F, 0.05F);
    if (type == BlockType::kQ8_K) std::memcpy(block, &scale, sizeof scale);
    if (type == BlockType::kMXFP4) block[0] = static_cast<std::uint8_t>(120 + random.below(8));
    if (type == BlockType::kNVFP4) {
      for (std::size_t s = 0; s < 4; s++) block[s] = static_cast<std::uint8_t>(0x30 + random.below(16));
    }
  }
  return data;
}

std::int32_t level_of(BlockLevels levels, std::uint8_t code) {
  return levels == BlockLevels::kTwiceE2m1   ? kTwiceE2m1Levels[code]
         : levels == BlockLevels::kNonlinear ? kNonlinearLevels[code]
                                             : code;
}

TEST("matmul formats: the parts of a block make what dequantizing it makes") {
  Random random(80);
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const auto type = static_cast<BlockType>(t);
    const BlockFormat& format = format_of(type);
    const BlockPartsFormat parts = parts_format_of(type);
    const std::size_t count = 50;
    const Buffer<std::uint8_t> data = random_blocks(type, count, random);
    for (std::size_t b = 0; b < count; b++) {
      std::uint8_t codes[256];
      float scales[16], offsets[16] = {}, expected[256];
      const std::uint8_t* const block = data.data() + b * format.bytes;
      take_apart(type, block, codes, scales, offsets);
      scalar::kBlocks.of(type).dequantize(block, 1, expected, false);
      for (std::size_t i = 0; i < format.length; i++) {
        const std::size_t g = i / parts.group;
        const float scaled = scales[g] * static_cast<float>(level_of(parts.levels, codes[i]) - parts.zero);
        const float value = parts.has_offsets ? scaled + offsets[g] : scaled;
        CHECK(value == expected[i], "type %zu, element %zu: %g, expected %g", t, i, static_cast<double>(value),
              static_cast<double>(expected[i]));
        CHECK(codes[i] < 1 << parts.bits, "type %zu, element %zu: code %d", t, i, codes[i]);
      }
    }
  }
}

TEST("matmul formats: decoding and dequantizing equal the scalar file bit for bit") {
  Random random(81);
  for (const LineFormat format : kFormats) {
    for (std::size_t round = 0; round < (quick() ? 6 : 40); round++) {
      const std::size_t quads = 4 * (1 + random.below(12)), first = 4 * random.below(quads / 4);
      const std::size_t quads_per_group = 4 * (1 + random.below(quads / 4));
      const std::size_t groups = (quads + quads_per_group - 1) / quads_per_group;
      Buffer<std::uint8_t> lines(bytes_of_lines(format, quads));
      for (std::size_t i = 0; i < lines.size(); i++) {
        const bool six = format == LineFormat::kE2m3 || format == LineFormat::kE3m2;
        lines[i] = static_cast<std::uint8_t>(random.bits() & (six ? 63 : 255));
      }
      Buffer<float> scales(16 * groups), offsets(16 * groups);
      for (std::size_t i = 0; i < scales.size(); i++) {
        scales[i] = random.normal();
        offsets[i] = random.normal();
      }
      DequantizeTileArguments a{};
      a.format = format;
      a.codes = lines.data();
      a.first_quad = first;
      a.quads = quads - first;
      a.quads_per_group = quads_per_group;
      a.scale_type = FloatType::kFloat32;
      a.scales = scales.data();
      a.zero_point = 7;
      if (lines_of(format) == format && round % 2 == 0) a.offsets = offsets.data();
      Buffer<float> expected(64 * a.quads), out(64 * a.quads);
      a.out = expected.data();
      scalar::kMatmul.dequantize_tile(a);
      a.out = out.data();
      Buffer<std::uint8_t> expected_bytes(64 * quads), bytes(64 * quads);
      const bool decodes = has_levels(format) || format == LineFormat::kBits2 || format == LineFormat::kBits4;
      if (decodes) scalar::kMatmul.decode(format, lines.data(), quads, expected_bytes.data());
      for (const Kernels* table : supported_kernels()) {
        table->matmul->dequantize_tile(a);
        CHECK(std::memcmp(out.data(), expected.data(), out.bytes()) == 0, "%s, format %d: floats", table->name,
              static_cast<int>(format));
        if (!decodes) continue;
        table->matmul->decode(format, lines.data(), quads, bytes.data());
        CHECK(first_difference(bytes, expected_bytes) == bytes.size(), "%s, format %d: byte %zu", table->name,
              static_cast<int>(format), first_difference(bytes, expected_bytes));
      }
    }
  }
}

// --- products --------------------------------------------------------------------------------------------------------

// W[rows, columns] as floats, and packed.
struct Weight {
  std::size_t n, k;
  std::vector<float> values;
  PackedWeight packed;

  std::size_t rows() const { return n; }
  std::size_t columns() const { return k; }
  double value(std::size_t r, std::size_t c) const { return static_cast<double>(values[r * k + c]); }
};

Weight codebook_weight(Codebook book, std::size_t n, std::size_t k, std::size_t group_size, Random& random) {
  const CodeType code{code_type_of(book).bits, false};
  const std::size_t row_bytes = code.packed_bytes(k), groups = (k + group_size - 1) / group_size;
  Buffer<std::uint8_t> data(n * row_bytes);
  Buffer<float> scales(n * groups);
  for (std::size_t i = 0; i < scales.size(); i++) {
    scales[i] = i % 3 == 0 ? 0.25F : random.between(0.01F, 0.1F);
    scales[i] = float_of_float16(float16_of(scales[i]));
  }
  std::memset(data.data(), 0, data.bytes());
  Weight weight{n, k, std::vector<float>(n * k), {}};
  for (std::size_t r = 0; r < n; r++) {
    for (std::size_t c = 0; c < k; c++) {
      const float scale = scales[r * groups + c / group_size];
      const std::uint8_t bits = code_of(book, random.normal() * scale * format_of(book).largest * 0.4F, scale);
      set_code(data.data() + r * row_bytes, code, c, bits);
      weight.values[r * k + c] = value_of(book, bits) * scale;
    }
  }
  weight.packed = pack_codebook({data.data(), book, n, k, scales.data(), 1, groups, group_size});
  return weight;
}

Weight blocks_weight(BlockType type, std::size_t n, std::size_t k, const Buffer<std::uint8_t>& data) {
  Weight weight{n, k, std::vector<float>(n * k), {}};
  scalar::kBlocks.of(type).dequantize(data.data(), n * k / format_of(type).length, weight.values.data(), false);
  weight.packed = pack_blocks({data.data(), type, n, k});
  return weight;
}

Buffer<float> normal_floats(std::size_t count, Random& random) {
  Buffer<float> x(count);
  for (std::size_t i = 0; i < count; i++) x[i] = random.normal();
  return x;
}

Buffer<float> product(const Buffer<float>& x, std::size_t m, const Weight& weight, Compute compute) {
  Buffer<float> y(m * weight.n);
  LinearArguments a{};
  a.x = x.data();
  a.m = m;
  a.weight = &weight.packed;
  a.compute = compute.type;
  a.per_token = compute.per_token;
  a.y = y.data();
  CHECK(linear(a).status == Status::kOk, "status");
  return y;
}

void check_products(const Weight& weight, std::size_t m, const std::string& what, Random& random) {
  const Buffer<float> x = normal_floats(m * weight.k, random);
  const std::vector<Element> exact = exact_product(x, m, weight);
  for (const Compute compute : kComputes) {
    const Buffer<float> y = product(x, m, weight, compute);
    const bool floats = compute.type == ComputeType::kFloat32 || has_float_values(weight.packed.layout.format);
    const double steps = compute.type == ComputeType::kInt8 ? 127.0 : 127.0 * 128.0;
    for (std::size_t i = 0; i < y.size(); i++) {
      // Every activation is at most half a step away from its code; a step is no larger than that of the whole row.
      double largest = 0.0, weights = 0.0;
      for (std::size_t k = 0; k < weight.k; k++) {
        largest = std::fmax(largest, std::fabs(static_cast<double>(x[i / weight.n * weight.k + k])));
        weights += std::fabs(weight.value(i % weight.n, k));
      }
      const double rounding = floats ? 0.0 : 0.5001 * largest / steps * weights;
      const double found = static_cast<double>(y[i]), bound = exact[i].error + rounding;
      CHECK(std::fabs(found - exact[i].value) <= bound, "%s, compute %d%s: element %zu is %.9g, expected %.9g ± %g",
            what.c_str(), static_cast<int>(compute.type), compute.per_token ? " per token" : "", i, found,
            exact[i].value, bound);
    }
  }
}

TEST("matmul tensor formats: codebooks of every group and ragged shape equal float64") {
  Random random(82);
  for (const Codebook book : kBooks) {
    for (const std::size_t group_size : {std::size_t{16}, std::size_t{32}, std::size_t{64}, std::size_t{100000}}) {
      for (std::size_t i = 0; i < (quick() ? 1 : 4); i++) {
        const std::size_t m = i == 0 ? 1 : 1 + random.below(30), n = 1 + random.below(70);
        const std::size_t k = i == 3 ? 1100 : 1 + random.below(300);
        const Weight weight = codebook_weight(book, n, k, std::min(group_size, k), random);
        check_products(weight, m,
                       format("codebook %d, groups of %zu, [%zu, %zu] · [%zu, %zu]ᵀ", static_cast<int>(book),
                              group_size, m, k, n, k),
                       random);
      }
      if (failed()) return;
    }
  }
}

TEST("matmul tensor formats: GGUF blocks equal float64") {
  Random random(83);
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const auto type = static_cast<BlockType>(t);
    for (std::size_t i = 0; i < (quick() ? 1 : 4); i++) {
      const std::size_t m = i == 0 ? 1 : 1 + random.below(30), n = 1 + random.below(40);
      const std::size_t k = format_of(type).length * (1 + random.below(5));
      const Buffer<std::uint8_t> data = random_blocks(type, n * k / format_of(type).length, random);
      const Weight weight = blocks_weight(type, n, k, data);
      check_products(weight, m, format("type %zu, [%zu, %zu] · [%zu, %zu]ᵀ", t, m, k, n, k), random);
      if (failed()) return;
    }
  }
}

// Σ over segments, and then over the offsets of groups, one fused operation after the other.
float product_in_steps(const float* x, BlockType type, const std::uint8_t* row, const PackedLayout& layout) {
  const BlockFormat& format = format_of(type);
  const BlockPartsFormat parts = parts_format_of(type);
  const auto k = static_cast<std::size_t>(layout.columns), segment = static_cast<std::size_t>(layout.segment);
  std::vector<std::uint8_t> codes(k);
  std::vector<float> scales(k / parts.group), offsets(k / parts.group);
  for (std::size_t b = 0; b < k / format.length; b++) {
    const std::size_t g = b * format.length / parts.group;
    take_apart(type, row + b * format.bytes, codes.data() + b * format.length, scales.data() + g, offsets.data() + g);
  }
  float total = 0.0F;
  std::vector<float> sums(scales.size(), 0.0F);
  for (std::size_t begin = 0; begin < k; begin += segment) {
    float largest = 0.0F;
    for (std::size_t i = begin; i < begin + segment; i++) largest = std::max(largest, std::fabs(x[i]));
    const float factor = 127.0F / largest, scale = largest / 127.0F;
    std::int32_t sum = 0, activations = 0;
    for (std::size_t i = begin; i < begin + segment; i++) {
      const auto q = static_cast<std::int32_t>(std::nearbyint(x[i] * factor));
      sum += q * (level_of(parts.levels, codes[i]) - parts.zero);
      activations += q;
    }
    total = std::fma(static_cast<float>(sum), scales[begin / parts.group] * scale, total);
    sums[begin / parts.group] += static_cast<float>(activations) * scale;
  }
  for (std::size_t g = 0; parts.has_offsets && g < sums.size(); g++) total = std::fma(offsets[g], sums[g], total);
  return total;
}

TEST("matmul tensor formats: blocks with int8 activations equal plain loops bit for bit, for any number of threads") {
  Random random(84);
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const auto type = static_cast<BlockType>(t);
    const std::size_t m = 1 + random.below(20), n = 40, k = 512;
    const Buffer<std::uint8_t> data = random_blocks(type, n * k / format_of(type).length, random);
    const Buffer<float> x = normal_floats(m * k, random);
    const std::size_t row_bytes = data.size() / n;
    for (const std::size_t threads : {std::size_t{1}, std::size_t{3}}) {
      ThreadPool::instance().set_thread_count(threads);
      const Weight weight = blocks_weight(type, n, k, data);
      const Buffer<float> y = product(x, m, weight, {ComputeType::kInt8, false});
      for (std::size_t i = 0; i < y.size(); i++) {
        const float expected =
            product_in_steps(x.data() + i / n * k, type, data.data() + i % n * row_bytes, weight.packed.layout);
        CHECK(y[i] == expected, "type %zu, element %zu is %.9g, expected %.9g", t, i, static_cast<double>(y[i]),
              static_cast<double>(expected));
      }
      if (failed()) return;
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("matmul tensor formats: quantized activations cost what they may") {
  Random random(87);
  const std::size_t m = 16, n = 64, k = 512;
  const Buffer<std::uint8_t> data = random_blocks(BlockType::kQ4_K, n * k / 256, random);
  for (const Weight& weight :
       {codebook_weight(Codebook::kE2m1, n, k, 32, random), codebook_weight(Codebook::kTernary, n, k, k, random),
        blocks_weight(BlockType::kQ4_K, n, k, data)}) {
    const Buffer<float> x = normal_floats(m * k, random);
    const std::vector<Element> exact = exact_product(x, m, weight);
    for (const Compute compute : kComputes) {
      const Buffer<float> y = product(x, m, weight, compute);
      double error = 0.0, power = 0.0;
      for (std::size_t i = 0; i < y.size(); i++) {
        error += std::pow(static_cast<double>(y[i]) - exact[i].value, 2);
        power += exact[i].value * exact[i].value;
      }
      const double allowed = compute.type == ComputeType::kInt8    ? 5e-4
                             : compute.type == ComputeType::kInt16 ? 1e-8
                                                                   : 1e-12;
      CHECK(error <= allowed * power, "format %d, compute %d%s: error %g of the power",
            static_cast<int>(weight.packed.layout.format), static_cast<int>(compute.type),
            compute.per_token ? " per token" : "", error / power);
    }
  }
}

TEST("matmul tensor formats: a gate with other codes than the weight") {
  Random random(85);
  const std::size_t m = 5, n = 33, k = 256;
  const Buffer<std::uint8_t> data = random_blocks(BlockType::kQ4_K, n, random);
  const Weight gate = blocks_weight(BlockType::kQ4_K, n, k, data);
  const Weight weight = codebook_weight(Codebook::kE2m1, n, k, 32, random);
  const Buffer<float> x = normal_floats(m * k, random);
  for (const Compute compute : {Compute{ComputeType::kInt8, false}, Compute{ComputeType::kInt16, true}}) {
    const Buffer<float> a = product(x, m, weight, compute), b = product(x, m, gate, compute);
    Buffer<float> y(m * n);
    LinearArguments arguments{};
    arguments.x = x.data();
    arguments.m = m;
    arguments.weight = &weight.packed;
    arguments.gate = &gate.packed;
    arguments.compute = compute.type;
    arguments.per_token = compute.per_token;
    arguments.y = y.data();
    CHECK(linear(arguments).status == Status::kOk, "status");
    for (std::size_t i = 0; i < y.size(); i++) {
      CHECK(y[i] == a[i] * b[i], "element %zu is %g, expected %g", i, static_cast<double>(y[i]),
            static_cast<double>(a[i] * b[i]));
    }
  }
}

TEST("matmul formats: a block with a scale that is no number is named") {
  Random random(86);
  Buffer<std::uint8_t> data = random_blocks(BlockType::kQ8_0, 8, random);
  const BlocksSource source{data.data(), BlockType::kQ8_0, 2, 128};
  CHECK(first_bad_block(source) == -1, "finite scales");
  std::uint8_t* const fifth = data.data() + std::size_t{5} * 34;
  fifth[0] = 0x01;
  fifth[1] = 0x7c;
  CHECK(first_bad_block(source) == 5, "block %td", first_bad_block(source));
}

}  // namespace
}  // namespace lowbit::test
