// Float conversion on a device against the scalar file: every pattern of every narrower type, sweeps over float32,
// ragged lengths.

#include "core/float_bits.h"
#include "ops/cast/cast.h"
#include "ops/cast/cast_cuda.h"
#include "test/cuda/device.h"

namespace lowbit::test {
namespace {

AnyFloatType type_of(int number) {
  if (number < 3) return static_cast<FloatType>(number);
  return static_cast<SmallFloatType>(number);
}

// The specification, whatever LOWBIT_ISA says.
void expected_cast(const std::uint8_t* in, AnyFloatType from, std::uint8_t* out, AnyFloatType to, bool saturate,
                   std::size_t count) {
  const CastKernels& s = scalar::kCast;
  if (from == to) {
    const std::size_t bytes = to.packed_bytes(count), spare_bits = bytes * 8 - count * to.bits();
    std::memcpy(out, in, bytes);
    if (spare_bits != 0) out[bytes - 1] = static_cast<std::uint8_t>(out[bytes - 1] & (0xff >> spare_bits));
    return;
  }
  std::vector<float> floats(count);
  if (from.is_small()) {
    s.from_small(in, from.small(), floats.data(), FloatType::kFloat32, count, false);
  } else if (from == FloatType::kFloat16) {
    s.float16_to_float32(reinterpret_cast<const std::uint16_t*>(in), floats.data(), count, false);
  } else if (from == FloatType::kBfloat16) {
    s.bfloat16_to_float32(reinterpret_cast<const std::uint16_t*>(in), floats.data(), count, false);
  } else if (count != 0) {
    std::memcpy(floats.data(), in, count * 4);
  }
  if (to.is_small()) {
    s.to_small(floats.data(), FloatType::kFloat32, out, to.small(), saturate, count, false);
  } else if (to == FloatType::kFloat16) {
    s.float32_to_float16(floats.data(), reinterpret_cast<std::uint16_t*>(out), count, false);
  } else if (to == FloatType::kBfloat16) {
    s.float32_to_bfloat16(floats.data(), reinterpret_cast<std::uint16_t*>(out), count, false);
  } else if (count != 0) {
    std::memcpy(out, floats.data(), count * 4);
  }
}

void expect_same(const Device& device, const Buffer<std::uint8_t>& in, AnyFloatType from, AnyFloatType to,
                 bool saturate, std::size_t count, const char* what) {
  Buffer<std::uint8_t> expected(to.packed_bytes(count));
  expected_cast(in.data(), from, expected.data(), to, saturate, count);
  const DeviceBuffer<std::uint8_t> on_device(device, in);
  const DeviceBuffer<std::uint8_t> out(device, expected.size());
  device.expect_ok(device.api->cast->cast(device.stream, on_device.data(), from, out.data(), to, saturate, count),
                   "cast");
  const Outcome outcome = device.synchronize();
  CHECK(outcome.status == Status::kOk, "outcome %d", static_cast<int>(outcome.status));
  const Buffer<std::uint8_t> got = out.host();
  const std::size_t i = first_difference(got, expected);
  CHECK(i == expected.size(), "%s: %zu bits → %zu bits, saturate %d, %zu elements, differs at byte %zu: %02x, not %02x",
        what, from.bits(), to.bits(), saturate ? 1 : 0, count, i, got[i], expected[i]);
}

TEST("cuda cast: all patterns of narrow types, and a sweep of float32, between all types") {
  const Device device;
  if (!device) return;
  Random random(1);
  for (int f = 0; f < AnyFloatType::kCount; f++) {
    const AnyFloatType from = type_of(f);
    const std::size_t count = from.bits() == 32 ? 70001 : from.bits() == 16 ? 65536 : 256;
    Buffer<std::uint8_t> in(from.packed_bytes(count));
    for (std::size_t i = 0; i < in.size(); i++) in[i] = static_cast<std::uint8_t>(random.bits());
    if (from.bits() == 16) {
      for (std::size_t i = 0; i < count; i++)
        reinterpret_cast<std::uint16_t*>(in.data())[i] = static_cast<std::uint16_t>(i);
    } else if (from.bits() == 8) {
      for (std::size_t i = 0; i < count; i++) in[i] = static_cast<std::uint8_t>(i);
    } else if (from.bits() == 32) {
      // Half of them near what narrow floats hold, a few mantissa bits long: ties.
      auto* words = reinterpret_cast<std::uint32_t*>(in.data());
      for (std::size_t i = 0; i < count; i += 2) {
        const std::uint32_t exponent = 90 + static_cast<std::uint32_t>(random.below(60));
        words[i] = (random.bits32() & 0x80000000U) | exponent << 23 |
                   (random.bits32() & (0x7f0000U << random.below(2)) & 0x7fffffU);
      }
    }
    for (int t = 0; t < AnyFloatType::kCount; t++) {
      for (const bool saturate : {true, false}) expect_same(device, in, from, type_of(t), saturate, count, "patterns");
    }
  }
}

TEST("cuda cast: ragged lengths between all types write as many bytes as they need and no more") {
  const Device device;
  if (!device) return;
  Random random(2);
  for (const std::size_t count : Sizes{0, 1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 33, 1023, 4099}) {
    for (int f = 0; f < AnyFloatType::kCount; f++) {
      const AnyFloatType from = type_of(f);
      Buffer<std::uint8_t> in(from.packed_bytes(count));
      for (std::size_t i = 0; i < in.size(); i++) in[i] = static_cast<std::uint8_t>(random.bits());
      for (int t = 0; t < AnyFloatType::kCount; t++) {
        expect_same(device, in, from, type_of(t), true, count, "ragged");
      }
    }
  }
}

}  // namespace
}  // namespace lowbit::test
