// GGUF blocks on a device against the driver of the processor, bit for bit.

#include "ops/blocks/blocks.h"
#include "ops/blocks/blocks_cuda.h"
#include "test/cuda/layouts.h"

namespace lowbit::test {
namespace {

constexpr const char* kNames[kBlockTypes] = {"q4_0",   "q4_1",  "q5_0",  "q5_1",  "q8_0", "q2_k",
                                             "q3_k",   "q4_k",  "q5_k",  "q6_k",  "q8_k", "iq4_nl",
                                             "iq4_xs", "tq1_0", "tq2_0", "mxfp4", "nvfp4"};

bool is_searched(BlockType type) {
  return (type >= BlockType::kQ2_K && type <= BlockType::kQ6_K) || type == BlockType::kIQ4_NL ||
         type == BlockType::kIQ4_XS;
}

// The bits of NaN are the processor's own.
std::uint32_t bits_but_of_nan(float x) { return x != x ? 0x7fc00000U : bits_of(x); }

void expect_same_values(const Device& device, BlockType type, const Buffer<std::uint8_t>& bytes, std::size_t blocks) {
  Buffer<float> expected(blocks * format_of(type).length);
  const DeviceBuffer<std::uint8_t> device_bytes(device, bytes);
  const DeviceBuffer<float> out(device, expected.size());
  device.expect_ok(device.api->blocks->dequantize(device.stream, device_bytes.data(), type, blocks, out.data()),
                   "dequantize");
  dequantize_blocks(bytes.data(), type, blocks, expected.data());
  const Buffer<float> got = out.host();
  for (std::size_t i = 0; i < expected.size(); i++) {
    if (bits_but_of_nan(got[i]) == bits_but_of_nan(expected[i])) continue;
    CHECK(false, "%s, %zu blocks: element %zu is %.9g, not %.9g", kNames[static_cast<int>(type)], blocks, i,
          static_cast<double>(got[i]), static_cast<double>(expected[i]));
    return;
  }
}

TEST("cuda blocks: any bytes of every type back to floats") {
  const Device device;
  if (!device) return;
  Random random(1);
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const auto type = static_cast<BlockType>(t);
    const BlockFormat& format = format_of(type);
    for (const std::size_t blocks : Sizes{0, 1, 3, 37}) {
      for (const bool any : {true, false}) {
        Buffer<std::uint8_t> bytes(blocks * format.bytes);
        for (std::size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<std::uint8_t>(random.bits());
        for (std::size_t b = 0; !any && b < blocks; b++) {
          for (std::size_t s = 0; s < format.scales; s++) {  // ordinary ones
            const std::uint16_t half = float16_of(random.normal());
            std::memcpy(&bytes[b * format.bytes + format.scales_at + 2 * s], &half, 2);
          }
        }
        expect_same_values(device, type, bytes, blocks);
      }
    }
  }
}

void expect_same_blocks(const Device& device, BlockType type, const Buffer<float>& x, std::size_t rows,
                        std::size_t columns, const char* data) {
  Buffer<std::uint8_t> expected(rows * columns / format_of(type).length * format_of(type).bytes);
  const DeviceBuffer<float> device_x(device, x);
  const DeviceBuffer<std::uint8_t> out(device, expected.size());
  device.expect_ok(
      device.api->blocks->quantize(device.stream, device_x.data(), type, rows, columns, nullptr, out.data()),
      "quantize");
  const Outcome outcome = device.synchronize();
  const Outcome wanted = quantize_blocks(x.data(), type, rows, columns, nullptr, expected.data());
  const std::string name = format("%s, %zu × %zu, %s", kNames[static_cast<int>(type)], rows, columns, data);
  CHECK(outcome.status == wanted.status && outcome.index == wanted.index, "%s: outcome %d at %lld, not %d at %lld",
        name.c_str(), static_cast<int>(outcome.status), static_cast<long long>(outcome.index),
        static_cast<int>(wanted.status), static_cast<long long>(wanted.index));
  if (wanted.status == Status::kOk) expect_equal(out.host(), expected, "byte", name);
}

TEST("cuda blocks: floats to every type that needs no search, of every kind of data") {
  const Device device;
  if (!device) return;
  Random random(2);
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const auto type = static_cast<BlockType>(t);
    if (is_searched(type)) continue;
    const std::size_t length = format_of(type).length;
    for (const Data data : kAllData) {
      for (const std::size_t blocks : Sizes{0, 1, 3, 35}) {
        if (blocks > 3 && (length > 64 || data == Data::kZeros)) continue;  // more than a chunk
        Buffer<float> x(2 * blocks * length);
        for (std::size_t i = 0; i < x.size(); i++) {
          x[i] = sample(data, random);
          if (i / length % 3 == 1) x[i] = std::fabs(x[i]);  // minimums of zero, among others
          if (i / length % 7 == 2) x[i] *= 0x1p-12F;
        }
        // One alone: which of several the processor names depends on how it divides the work.
        const bool is_special = data == Data::kNonFinite || data == Data::kHuge;
        for (std::size_t i = 0; is_special && i < x.size(); i++) {
          if (i != x.size() / 2) x[i] = random.normal();
        }
        expect_same_blocks(device, type, x, 2, blocks * length, format("data %d", static_cast<int>(data)).c_str());
        if (failed()) return;
      }
    }
  }
}

TEST("cuda blocks: halves between codes, and scales at the ends of float16") {
  const Device device;
  if (!device) return;
  Random random(3);
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const auto type = static_cast<BlockType>(t);
    if (is_searched(type)) continue;
    const std::size_t length = format_of(type).length, count = 40 * length;
    Buffer<float> x(count);
    for (std::size_t b = 0; b < 40; b++) {
      const unsigned exponent = 100U + static_cast<unsigned>(random.below(40));
      const float unit = float_of(exponent << 23) * (b % 2 == 0 ? 1.0F : 1.1F);
      for (std::size_t i = 0; i < length; i++) {
        const float halves = static_cast<float>(static_cast<int>(random.below(33)) - 16) * 0.5F;
        const unsigned past = i % 2 == 0 ? 0U : static_cast<unsigned>(random.below(3));
        x[b * length + i] = float_of(bits_of(halves * unit) + past);
      }
      x[b * length + random.below(length)] = (random.below(2) == 0 ? -8.0F : 8.0F) * unit;
    }
    expect_same_blocks(device, type, x, 1, count, "halves");
    for (const float scale : {0x1p-140F, 0x1p-24F, 60000.0F, 0x1p20F}) {
      Buffer<float> y(count);
      for (std::size_t i = 0; i < count; i++) y[i] = random.normal() * scale;
      expect_same_blocks(device, type, y, 1, count, "ends");
    }
    if (failed()) return;
  }
}

TEST("cuda blocks: more than a grid holds at once") {
  const Device device;
  if (!device) return;
  Random random(4);
  for (const BlockType type : {BlockType::kQ8_0, BlockType::kTQ2_0}) {
    Buffer<float> x(type == BlockType::kQ8_0 ? 270016 : 525056);
    for (std::size_t i = 0; i < x.size(); i++) x[i] = random.between(-2.0F, 2.0F);
    expect_same_blocks(device, type, x, 1, x.size(), "many");
  }
  Buffer<std::uint8_t> bytes(std::size_t{525056} / 32 * 18);
  for (std::size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<std::uint8_t>(random.bits());
  expect_same_values(device, BlockType::kQ4_0, bytes, 525056 / 32);
}

TEST("cuda blocks: searches, importances and odd places are refused") {
  const Device device;
  if (!device) return;
  const DeviceBuffer<float> x(device, 256), importance(device, 256);
  const DeviceBuffer<std::uint8_t> out(device, 512);
  for (std::size_t t = 0; t < kBlockTypes; t++) {
    const auto type = static_cast<BlockType>(t);
    const CudaStatus status = device.api->blocks->quantize(device.stream, x.data(), type, 1, 256,
                                                           is_searched(type) ? nullptr : importance.data(), out.data());
    const bool refuses = format_of(type).takes_importance || is_searched(type);
    CHECK((status == CudaStatus::kUnsupported) == refuses, "%s: status %d", kNames[t], static_cast<int>(status));
  }
  device.synchronize();
  CHECK(device.api->blocks->quantize(device.stream, x.data() + 1, BlockType::kQ8_0, 1, 32, nullptr, out.data()) ==
            CudaStatus::kUnsupported,
        "floats at an odd place");
  CHECK(device.api->blocks->dequantize(device.stream, out.data() + 2, BlockType::kQ8_0, 1, x.data()) ==
            CudaStatus::kUnsupported,
        "blocks at an odd place");
}

}  // namespace
}  // namespace lowbit::test
