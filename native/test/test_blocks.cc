// GGUF blocks: the scalar file against bytes that ggml's reference quantizer wrote (the larger vectors are tested
// through the addon), every instruction set against the scalar file, and the driver.

#include <cmath>

#include "core/float_bits.h"
#include "core/thread_pool.h"
#include "ops/blocks/blocks.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

constexpr const char* kNames[kBlockTypes] = {"q4_0",   "q4_1",  "q5_0",  "q5_1",  "q8_0", "q2_k",
                                             "q3_k",   "q4_k",  "q5_k",  "q6_k",  "q8_k", "iq4_nl",
                                             "iq4_xs", "tq1_0", "tq2_0", "mxfp4", "nvfp4"};

BlockType type_at(std::size_t i) { return static_cast<BlockType>(i); }

void expect_bytes(BlockType type, const float* x, std::size_t blocks, const std::string& hex) {
  Buffer<std::uint8_t> got(blocks * format_of(type).bytes);
  scalar::kBlocks.of(type).quantize(x, blocks, got.data());
  std::string text;
  for (std::size_t i = 0; i < got.size(); i++) text += format("%02x", static_cast<unsigned>(got[i]));
  CHECK(text == hex, "%s: %s instead of %s", kNames[static_cast<std::size_t>(type)], text.c_str(), hex.c_str());
}

TEST("blocks: scalar bytes of a ramp equal those of ggml") {
  Buffer<float> ramp(32);
  for (std::size_t i = 0; i < 32; i++) ramp[i] = -8.0F + 0.5F * static_cast<float>(i);
  expect_bytes(BlockType::kQ4_0, ramp.data(), 1, "003c809191a2a2b3b3c4c4d5d5e6e6f7f7f8");
  expect_bytes(BlockType::kQ4_1, ramp.data(), 1, "223c00c880809191a2a2b3b3c4c4d5d5e6e6f7f7");
  expect_bytes(BlockType::kQ5_0, ramp.data(), 1, "00380000ffff00112233445566778899aabbccddeeff");
  expect_bytes(BlockType::kQ5_1, ramp.data(), 1, "003800c80000ffff00112233445566778899aabbccddeeff");
  expect_bytes(BlockType::kQ8_0, ramp.data(), 1,
               "082c81899199a1a9b1b9c0c8d0d8e0e8f0f8000810182028303840474f575f676f77");
  expect_bytes(BlockType::kMXFP4, ramp.data(), 1, "800e0e1d1d2d2d3c3c4c4b4b5a5a595960");
  expect_bytes(BlockType::kIQ4_NL, ramp.data(), 1, "fa2b809091a1b1b2c2c3d3d4e4e5e5f6f6f7");
}

TEST("blocks: scalar bytes of ternary values equal those of ggml") {
  Buffer<float> x(256);
  std::memset(x.data(), 0, x.bytes());
  for (const std::size_t i : {std::size_t{0}, std::size_t{32}, std::size_t{240}}) x[i] = 0.5F;
  for (const std::size_t i : {std::size_t{1}, std::size_t{160}, std::size_t{255}}) x[i] = -0.5F;
  const auto repeated = [](const char* byte, int count) {
    std::string text;
    for (int i = 0; i < count; i++) text += byte;
    return text;
  };
  expect_bytes(BlockType::kTQ2_0, x.data(), 1,
               "5a54" + repeated("55", 30) + "51" + repeated("55", 15) + "95" + repeated("55", 14) + "15" + "0038");
  expect_bytes(BlockType::kTQ1_0, x.data(), 1,
               "f22b" + repeated("80", 30) + "2b" + repeated("80", 15) + "d47f7f7c" + "0038");
}

TEST("blocks: the scale of mxfp4 is that of a logarithm rounded to float32") {
  Buffer<float> x(32);
  std::memset(x.data(), 0, x.bytes());
  for (std::uint32_t exponent = 2; exponent < 255; exponent++) {
    for (std::uint32_t m = 0; m < 60; m++) {
      x[7] = float_of((exponent << 23) | (0x7fffffU - m));
      std::uint8_t block[17];
      scalar::kBlocks.of(BlockType::kMXFP4).quantize(x.data(), 1, block);
      const auto logarithm = static_cast<float>(std::log2(static_cast<double>(x[7])));
      CHECK(block[0] == static_cast<int>(std::floor(logarithm)) + 125, "%a gave %d", static_cast<double>(x[7]),
            block[0]);
    }
  }
}

// Groups of every kind: normal, heavy-tailed, one-sided, zero, constant, sparse, ties, tiny, huge.
void fill(Random& random, float* x, std::size_t count) {
  // Whole superblocks of one kind, and mixed ones.
  std::size_t kind = 0;
  bool mixed = true;
  for (std::size_t i = 0; i < count; i += 32) {
    if (i % 256 == 0) {
      kind = random.below(22);
      mixed = random.below(4) != 0;
    }
    if (mixed) kind = random.below(22);
    const float size = std::ldexp(1.0F, static_cast<int>(random.below(24)) - 12), base = random.normal() * size;
    for (std::size_t j = i; j < i + 32; j++) {
      const float normal = random.normal();
      switch (kind) {
        case 0:
          x[j] = 0.0F;
          break;
        case 1:
          x[j] = base;
          break;
        case 2:
          x[j] = std::fabs(normal) * size;
          break;
        case 3:
          x[j] = -std::fabs(normal) * size;
          break;
        case 4:
          x[j] = random.below(10) == 0 ? normal * size : 0.0F;
          break;
        case 5:
          x[j] = static_cast<float>(static_cast<int>(random.below(17)) - 8) * size;
          break;
        case 6:
          x[j] = static_cast<float>(static_cast<int>(random.below(255)) - 127) * 0.5F * size;
          break;
        case 7:
          x[j] = normal * normal * normal * size;
          break;
        case 8:
          x[j] = base + 0.01F * normal * size;
          break;
        case 9:
          x[j] = normal * 1e-20F;
          break;
        case 10:
          x[j] = float_of(random.bits32() & 0x80ffffffU);
          break;  // subnormal or just above
        case 11:
          x[j] = random.below(2) == 0 ? -0.0F : 0.0F;
          break;
        case 12:
          x[j] = normal * 1e6F;
          break;
        case 13:
          x[j] = j % 32 < 16 ? 0.0F : normal * size;
          break;
        case 14:
          x[j] = random.below(2) == 0 ? size : -size;
          break;
        case 15:  // the values of E2M1, what lies between them, and one step of float32 to either side
          x[j] = std::nextafterf(0.5F * static_cast<float>(random.below(25)) * size * 0.5F,
                                 random.below(3) == 0 ? 0.0F : 1e30F * static_cast<float>(random.below(2)));
          if (random.below(2) == 0) x[j] = -x[j];
          break;
        case 16:
          x[j] = j % 32 == 7 ? base * 1000.0F : 0.01F * normal * size;
          break;
        case 17:  // subnormal, all of one sign
          x[j] = float_of(random.bits32() & 0x007fffffU);
          break;
        case 18:
          x[j] = base + (random.below(2) == 0 ? 0.0F : std::fabs(base) * 0x1p-23F);
          break;
        case 19:
          x[j] = normal * 0x1p27F;
          break;
        default:
          x[j] = normal * size;
          break;
      }
    }
  }
}

// Importances of every kind: as they are, some zero, all zero, one alone, very large and very small ones.
void fill_importance(Random& random, float* importance, std::size_t count) {
  const std::size_t kind = random.below(8);
  const std::size_t alone = random.below(32);
  for (std::size_t i = 0; i < count; i++) {
    const float uniform = random.uniform();
    importance[i] = kind == 0   ? 0.0F
                    : kind == 1 ? (i % 32 == alone ? uniform : 0.0F)
                    : kind == 2 ? uniform * (random.below(3) == 0 ? 1e30F : 1e-30F)
                    : kind == 3 ? 1.0F
                    : kind == 4 ? std::exp(10.0F * random.normal())
                                : (random.below(9) == 0 ? 0.0F : uniform);
  }
}

TEST("blocks: every instruction set quantizes as the scalar file does, with and without an importance") {
  Random random(11);
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const BlockFormat& f = kBlockFormats[t];
    const BlockKernels& reference = scalar::kBlocks.types[t];
    // All numbers of blocks up to more than two vectors of them.
    const std::size_t rounds = quick() ? 24 : 160, most = f.length == 32 ? 40 : 20;
    for (std::size_t round = 0; round < rounds; round++) {
      const std::size_t blocks = round % most, misalignment = random.below(16);
      Buffer<float> x(blocks * f.length, misalignment), importance(blocks * f.length, 15 - misalignment);
      fill(random, x.data(), x.size());
      // Types without float16 scales take anything that is finite.
      const float size = f.scales == 0 && round % 3 == 0 ? std::ldexp(1.0F, static_cast<int>(random.below(90))) : 1.0F;
      for (std::size_t i = 0; i < x.size(); i++) x[i] *= size;
      fill_importance(random, importance.data(), importance.size());
      const float mean_square = random.below(8) == 0 ? 0.0F : random.uniform();
      Buffer<std::uint8_t> expected(blocks * f.bytes), expected_weighted(blocks * f.bytes);
      reference.quantize(x.data(), blocks, expected.data());
      CHECK((reference.quantize_weighted != nullptr) == f.takes_importance, "%s", kNames[t]);
      if (f.takes_importance) {
        reference.quantize_weighted(x.data(), blocks, importance.data(), mean_square, expected_weighted.data());
      }
      for (const Kernels* k : supported_kernels()) {
        const BlockKernels& kernels = k->blocks->types[t];
        Buffer<std::uint8_t> got(blocks * f.bytes, misalignment);
        kernels.quantize(x.data(), blocks, got.data());
        std::size_t i = first_difference(got, expected);
        CHECK(i == got.size(), "%s %s: byte %zu of block %zu", k->name, kNames[t], i % f.bytes, i / f.bytes);
        if (!f.takes_importance) continue;
        kernels.quantize_weighted(x.data(), blocks, importance.data(), mean_square, got.data());
        i = first_difference(got, expected_weighted);
        CHECK(i == got.size(), "%s %s weighted: byte %zu of block %zu", k->name, kNames[t], i % f.bytes, i / f.bytes);
      }
    }
  }
}

bool same(float a, float b) { return std::isnan(a) ? std::isnan(b) : bits_of(a) == bits_of(b); }

TEST("blocks: every instruction set dequantizes any bytes as the scalar file does") {
  Random random(12);
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const BlockFormat& f = kBlockFormats[t];
    for (std::size_t blocks = 0; blocks < (quick() ? 20U : 80U); blocks++) {
      const std::size_t misalignment = random.below(16);
      Buffer<std::uint8_t> in(blocks * f.bytes, misalignment);
      for (std::size_t i = 0; i < in.size(); i++) in[i] = static_cast<std::uint8_t>(random.bits32());
      Buffer<float> expected(blocks * f.length);
      scalar::kBlocks.types[t].dequantize(in.data(), blocks, expected.data(), false);
      for (const Kernels* k : supported_kernels()) {
        for (const bool stream : {false, true}) {
          Buffer<float> got(blocks * f.length, stream ? 4 * (misalignment % 4) : misalignment);
          k->blocks->types[t].dequantize(in.data(), blocks, got.data(), stream);
          std::size_t i = 0;
          while (i < got.size() && same(got[i], expected[i])) i++;
          CHECK(i == got.size(), "%s %s: element %zu of %zu blocks", k->name, kNames[t], i, blocks);
        }
      }
    }
  }
}

TEST("blocks tensor: the same bytes for 1, 2, 3, 7 and 16 threads") {
  constexpr std::size_t kColumns = 2560;
  const std::size_t rows = quick() ? 14 : 37;
  Random random(13);
  Buffer<float> x(rows * kColumns), importance(kColumns);
  for (std::size_t i = 0; i < x.size(); i++) x[i] = random.normal();
  for (std::size_t i = 0; i < kColumns; i++) importance[i] = random.uniform();
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const BlockFormat& f = kBlockFormats[t];
    const BlockKernels& k = kernels().blocks->types[t];
    const std::size_t row_blocks = kColumns / f.length, row_bytes = row_blocks * f.bytes;
    for (const bool weighted : {false, true}) {
      if (weighted && !f.takes_importance) continue;
      Buffer<std::uint8_t> expected(rows * row_bytes), got(rows * row_bytes);
      for (std::size_t r = 0; r < rows; r++) {
        const float* row = x.data() + r * kColumns;
        float squares = 0.0F;
        for (std::size_t c = 0; c < kColumns; c++) squares += row[c] * row[c];
        std::uint8_t* out = expected.data() + r * row_bytes;
        if (weighted) {
          k.quantize_weighted(row, row_blocks, importance.data(), squares / static_cast<float>(kColumns), out);
        } else {
          k.quantize(row, row_blocks, out);
        }
      }
      Buffer<float> floats(x.size()), expected_floats(x.size());
      k.dequantize(expected.data(), rows * row_blocks, expected_floats.data(), false);
      for (const std::size_t threads : kThreadCounts) {
        ThreadPool::instance().set_thread_count(threads);
        const Outcome quantized =
            quantize_blocks(x.data(), type_at(t), rows, kColumns, weighted ? importance.data() : nullptr, got.data());
        CHECK(quantized.status == Status::kOk, "%s", kNames[t]);
        CHECK(first_difference(got, expected) == got.size(), "%s, %zu threads", kNames[t], threads);
        CHECK(dequantize_blocks(got.data(), type_at(t), rows * row_blocks, floats.data()).status == Status::kOk, "%s",
              kNames[t]);
        CHECK(first_difference(floats, expected_floats) == floats.size(), "%s, %zu threads", kNames[t], threads);
      }
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("blocks tensor: the first element that is not finite, and the first scale that is too large, are named") {
  constexpr std::size_t kRows = 50, kColumns = 1024;
  Buffer<float> x(kRows * kColumns);
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const BlockFormat& f = kBlockFormats[t];
    Buffer<std::uint8_t> out(x.size() / f.length * f.bytes);
    const auto run = [&] { return quantize_blocks(x.data(), type_at(t), kRows, kColumns, nullptr, out.data()); };
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (std::size_t i = 0; i < x.size(); i++) x[i] = 1.0F;
      x[45000] = x[40001] = x[50000] = bad;
      const Outcome outcome = run();
      CHECK(outcome.status == Status::kNonFinite && outcome.index == 40001, "%s: %d at %lld", kNames[t],
            static_cast<int>(outcome.status), static_cast<long long>(outcome.index));
    }
    for (const float large : {3e8F, 3e9F, 3e38F}) {
      for (std::size_t i = 0; i < x.size(); i++) x[i] = 1.0F;
      x[45000] = x[40001] = -large;
      const Outcome outcome = run();
      const BlockType type = type_at(t);
      const bool fits =
          type == BlockType::kQ8_K || type == BlockType::kMXFP4 || (type == BlockType::kNVFP4 && large < 1e9F);
      if (fits) {
        CHECK(outcome.status == Status::kOk, "%s", kNames[t]);
      } else {
        CHECK(outcome.status == Status::kScaleOverflow && outcome.index == static_cast<std::int64_t>(40001 / f.length),
              "%s, %g: %d at %lld", kNames[t], static_cast<double>(large), static_cast<int>(outcome.status),
              static_cast<long long>(outcome.index));
      }
    }
  }
}

}  // namespace
}  // namespace lowbit::test
