// Products of bytes on a device against matmul_integer(), and linear layers of int8 against their definition and
// linear().

#include <cmath>
#include <initializer_list>

#include "core/float_bits.h"
#include "ops/matmul/integer_cuda.h"
#include "ops/matmul/matmul.h"
#include "test/cuda/device.h"

namespace lowbit::test {
namespace {

struct Shape {
  std::size_t m, n, k;
};

template <typename T>
void fill_bits(Random& random, Buffer<T>& values) {
  for (std::size_t i = 0; i < values.bytes(); i++) {
    reinterpret_cast<std::uint8_t*>(values.data())[i] = static_cast<std::uint8_t>(random.bits() >> 24);
  }
}

// All choices of one product, by bits of `choice`.
void expect_product(const Device& device, Random& random, Shape s, unsigned choice) {
  const bool a_signed = (choice & 1) != 0, b_signed = (choice & 2) != 0;
  const auto result = static_cast<IntegerResult>(choice >> 2 & 3);
  const bool per_row = (choice & 16) != 0, per_column = (choice & 32) != 0, has_bias = (choice & 64) != 0;
  const bool no_zeros = (choice & 128) != 0, from_rows = (choice & 256) != 0;
  Buffer<std::uint8_t> a(s.m * s.k), b(s.k * s.n), b_rows(s.k * s.n);
  fill_bits(random, a);
  fill_bits(random, b);
  for (std::size_t k = 0; k < s.k; k++) {
    for (std::size_t n = 0; n < s.n; n++) b_rows[n * s.k + k] = b[k * s.n + n];
  }
  Buffer<std::int32_t> a_zeros(per_row ? s.m : 1), b_zeros(per_column ? s.n : 1);
  for (std::size_t i = 0; i < a_zeros.size(); i++) {
    a_zeros[i] = no_zeros ? 0 : static_cast<std::int32_t>(random.below(256)) - (a_signed ? 128 : 0);
  }
  for (std::size_t i = 0; i < b_zeros.size(); i++) {
    b_zeros[i] = no_zeros ? 0 : static_cast<std::int32_t>(random.below(256)) - (b_signed ? 128 : 0);
  }
  Buffer<float> scales(per_column ? s.n : 1), bias(s.n);
  for (std::size_t i = 0; i < scales.size(); i++) {
    scales[i] = random.between(0.0F, 1.0F) / (128.0F * std::sqrt(static_cast<float>(s.k) + 1.0F));
  }
  for (std::size_t i = 0; i < bias.size(); i++) bias[i] = random.normal();

  const PackedWeight packed = pack_integers(b.data(), b_signed, s.k, s.n);
  const std::size_t size = s.m * s.n * (result == IntegerResult::kInt32 || result == IntegerResult::kFloats ? 4 : 1);
  Buffer<std::uint8_t> expected(size);
  const std::int32_t zero_point = result == IntegerResult::kInt8 ? -3 : 130;
  const bool with_bias = has_bias && result == IntegerResult::kFloats;
  matmul_integer({a.data(), a_signed, s.m, &packed, a_zeros.data(), per_row, b_zeros.data(), per_column, result,
                  scales.data(), per_column, with_bias ? bias.data() : nullptr, zero_point, expected.data()});

  const IntegerCuda& integer = *device.api->integer;
  const DeviceBuffer<std::uint8_t> on_a(device, a), on_b(device, from_rows ? b_rows : b);
  const DeviceBuffer<std::uint8_t> on_packed(device, integer.packed_bytes(s.k, s.n)), out(device, size);
  const DeviceBuffer<std::int32_t> on_a_zeros(device, a_zeros), on_b_zeros(device, b_zeros);
  const DeviceBuffer<float> on_scales(device, scales), on_bias(device, bias);
  device.expect_ok(
      (from_rows ? integer.pack_rows : integer.pack)(device.stream, on_b.data(), b_signed, s.k, s.n, on_packed.data()),
      "pack");
  device.expect_ok(
      integer.matmul(device.stream, {on_a.data(), a_signed, s.m, s.n, s.k, on_packed.data(), b_signed,
                                     no_zeros ? nullptr : on_a_zeros.data(), per_row,
                                     no_zeros ? nullptr : on_b_zeros.data(), per_column, result, on_scales.data(),
                                     per_column, with_bias ? on_bias.data() : nullptr, zero_point, out.data()}),
      "matmul");
  device.synchronize();
  const Buffer<std::uint8_t> got = out.host();
  const std::size_t i = first_difference(got, expected);
  CHECK(i == size, "[%zu, %zu] · [%zu, %zu], choice %u: byte %zu is %02x, not %02x", s.m, s.k, s.k, s.n, choice, i,
        got[i], expected[i]);
}

TEST("cuda integer: products of bytes have the bits of the processor's, whatever the shape") {
  const Device device;
  if (!device) return;
  Random random(1);
  // One row and a few, flat tiles, small ones, wide ones; ragged and whole; nothing.
  const Shape shapes[] = {{1, 1, 1},     {1, 5, 3},     {1, 33, 512},  {2, 7, 40},     {3, 17, 640},
                          {5, 9, 17},    {8, 12, 1030}, {9, 65, 64},   {16, 31, 33},   {17, 20, 50},
                          {33, 70, 130}, {64, 64, 64},  {70, 66, 257}, {260, 200, 80}, {257, 259, 33},
                          {0, 4, 4},     {4, 0, 4},     {4, 5, 0},     {12, 3, 0}};
  unsigned choice = 0;
  for (const Shape& s : shapes) {
    const unsigned rounds = s.m * s.n * s.k > 1000000 ? 2 : 9;
    for (unsigned round = 0; round < rounds; round++) expect_product(device, random, s, choice += 37);
  }
  for (unsigned all = 0; all < 512; all += 3) expect_product(device, random, {1 + all % 19, 6 + all % 5, 37}, all);
}

TEST("cuda integer: sums wrap as int32 does") {
  const Device device;
  if (!device) return;
  constexpr std::size_t kColumns = 33100;  // times 255 · 255
  for (const std::size_t rows : std::initializer_list<std::size_t>{1, 9}) {
    Buffer<std::uint8_t> a(rows * kColumns), b(kColumns);
    std::memset(a.data(), 0xff, a.size());
    std::memset(b.data(), 0xff, b.size());
    const PackedWeight packed = pack_integers(b.data(), false, kColumns, 1);
    const std::int32_t zero = 0;
    Buffer<std::int32_t> expected(rows);
    matmul_integer({a.data(), false, rows, &packed, &zero, false, &zero, false, IntegerResult::kInt32, nullptr, false,
                    nullptr, 0, expected.data()});
    const DeviceBuffer<std::uint8_t> on_a(device, a), on_b(device, b);
    const DeviceBuffer<std::uint8_t> on_packed(device, device.api->integer->packed_bytes(kColumns, 1));
    const DeviceBuffer<std::int32_t> out(device, rows);
    device.expect_ok(device.api->integer->pack(device.stream, on_b.data(), false, kColumns, 1, on_packed.data()),
                     "pack");
    device.expect_ok(
        device.api->integer->matmul(
            device.stream, {on_a.data(), false, rows, 1, kColumns, on_packed.data(), false, nullptr, false, nullptr,
                            false, IntegerResult::kInt32, nullptr, false, nullptr, 0, out.data()}),
        "matmul");
    const Buffer<std::int32_t> got = out.host();
    CHECK(first_difference(got, expected) == rows, "%zu rows: %d, not %d", rows, got[0], expected[0]);
    CHECK(expected[0] < 0, "the sum has to pass the largest int32");
  }
}

TEST("cuda integer: memory may begin anywhere") {
  const Device device;
  if (!device) return;
  Random random(2);
  const Shape s{20, 7, 32};
  // Everything starts one element past where it would be aligned.
  Buffer<std::uint8_t> a(1 + s.m * s.k), b(1 + s.n * s.k);
  Buffer<float> scales(1 + s.m);
  fill_bits(random, a);
  fill_bits(random, b);
  for (std::size_t i = 0; i < scales.size(); i++) scales[i] = 1.0F + static_cast<float>(i);
  const DeviceBuffer<std::uint8_t> on_a(device, a), on_b(device, b);
  const DeviceBuffer<std::uint8_t> packed(device, device.api->integer->packed_bytes(s.k, s.n));
  const DeviceBuffer<std::int32_t> c(device, 1 + s.m * s.n);
  const DeviceBuffer<float> on_scales(device, scales);
  const DeviceBuffer<std::uint16_t> y(device, 1 + s.m * s.n);
  device.expect_ok(device.api->integer->pack_rows(device.stream, on_b.data() + 1, true, s.k, s.n, packed.data()),
                   "pack_rows");
  device.expect_ok(
      device.api->integer->matmul(
          device.stream, {on_a.data() + 1, true, s.m, s.n, s.k, packed.data(), true, nullptr, false, nullptr, false,
                          IntegerResult::kInt32, nullptr, false, nullptr, 0, c.data() + 1}),
      "matmul");
  device.expect_ok(device.api->integer->linear(
                       device.stream, {reinterpret_cast<const std::int8_t*>(on_a.data() + 1), on_scales.data() + 1,
                                       true, reinterpret_cast<const std::int8_t*>(on_b.data() + 1), on_scales.data(),
                                       false, s.m, s.n, s.k, nullptr, FloatType::kBfloat16, y.data() + 1}),
                   "linear");
  const Buffer<std::int32_t> sums = c.host();
  const Buffer<std::uint16_t> results = y.host();
  for (std::size_t m = 0; m < s.m; m++) {
    for (std::size_t n = 0; n < s.n; n++) {
      std::int32_t sum = 0;
      for (std::size_t k = 0; k < s.k; k++) {
        sum += static_cast<std::int8_t>(a[1 + m * s.k + k]) * static_cast<std::int8_t>(b[1 + n * s.k + k]);
      }
      const std::size_t at = 1 + m * s.n + n;
      CHECK(sums[at] == sum, "row %zu, column %zu: %d, not %d", m, n, sums[at], sum);
      CHECK(results[at] == bfloat16_of(static_cast<float>(sum) * scales[1 + m]), "row %zu, column %zu", m, n);
    }
  }
}

Buffer<std::uint16_t> halves_of(const Buffer<float>& x, FloatType type) {
  Buffer<std::uint16_t> halves(x.size());
  for (std::size_t i = 0; i < x.size(); i++) {
    halves[i] = type == FloatType::kFloat16 ? float16_of(x[i]) : bfloat16_of(x[i]);
  }
  return halves;
}
float float_of_half(std::uint16_t half, FloatType type) {
  return type == FloatType::kFloat16 ? float_of_float16(half) : float_of_bfloat16(half);
}

TEST("cuda integer: activations of every float type are quantized per token with the bits of the scalar file") {
  const Device device;
  if (!device) return;
  Random random(3);
  for (const std::size_t k : std::initializer_list<std::size_t>{0, 1, 7, 64, 200, 2056, 4100}) {
    for (int t = 0; t < 3; t++) {
      const auto type = static_cast<FloatType>(t);
      const std::size_t m = 5, count = m * k;
      Buffer<float> x(count);
      for (std::size_t i = 0; i < count; i++) {
        const std::size_t row = i / k;
        x[i] = row == 1 ? 0.0F : row == 2 ? random.normal() * 0x1p-118F : random.normal() * 3.0F;
      }
      const Buffer<std::uint16_t> halves = halves_of(x, type);
      for (std::size_t i = 0; t != 0 && i < count; i++) x[i] = float_of_half(halves[i], type);
      Buffer<std::int8_t> expected(count);
      Buffer<float> expected_scales(m);
      std::int32_t sum = 0;
      for (std::size_t row = 0; row < m; row++) {
        const std::size_t at = row * k;
        scalar::kMatmul.quantize_row(
            {x.data() + at, k, k, 1, false, true, expected.data() + at, nullptr, &expected_scales[row], &sum});
      }
      const DeviceBuffer<float> floats(device, x);
      const DeviceBuffer<std::uint16_t> on_halves(device, halves);
      const DeviceBuffer<std::int8_t> codes(device, count);
      const DeviceBuffer<float> scales(device, m);
      const void* in = t == 0 ? static_cast<const void*>(floats.data()) : on_halves.data();
      device.expect_ok(device.api->integer->quantize_tokens(device.stream, in, type, m, k, codes.data(), scales.data()),
                       "quantize_tokens");
      CHECK(device.synchronize().status == Status::kOk, "outcome");
      CHECK(first_difference(codes.host(), expected) == count, "codes, type %d, k %zu", t, k);
      CHECK(first_difference(scales.host(), expected_scales) == m, "scales, type %d, k %zu", t, k);
    }
  }
}

TEST("cuda integer: the first activation that is not finite is named") {
  const Device device;
  if (!device) return;
  for (const std::size_t k : std::initializer_list<std::size_t>{70, 72}) {
    Buffer<float> x(4 * k);
    for (std::size_t i = 0; i < x.size(); i++) x[i] = 1.0F;
    x[2 * k + 3] = NAN;
    x[k + 69] = -INFINITY;
    const DeviceBuffer<float> in(device, x), scales(device, 4);
    const DeviceBuffer<std::int8_t> codes(device, x.size());
    device.expect_ok(device.api->integer->quantize_tokens(device.stream, in.data(), FloatType::kFloat32, 4, k,
                                                          codes.data(), scales.data()),
                     "quantize_tokens");
    const Outcome outcome = device.synchronize();
    CHECK(outcome.status == Status::kNonFinite && outcome.index == static_cast<std::int64_t>(k) + 69,
          "status %d at %ld", static_cast<int>(outcome.status), static_cast<long>(outcome.index));
    CHECK(device.synchronize().status == Status::kOk, "a finding is told once");
  }
}

void expect_layer(const Device& device, Random& random, Shape s, FloatType type, unsigned choice) {
  const bool per_token = (choice & 1) != 0, per_channel = (choice & 2) != 0, has_bias = (choice & 4) != 0;
  Buffer<std::int8_t> x(s.m * s.k), w(s.n * s.k);
  fill_bits(random, x);
  fill_bits(random, w);
  Buffer<float> x_scales(per_token ? s.m : 1), w_scales(per_channel ? s.n : 1), bias(s.n);
  for (std::size_t i = 0; i < x_scales.size(); i++) x_scales[i] = random.between(0.01F, 0.1F);
  for (std::size_t i = 0; i < w_scales.size(); i++) w_scales[i] = random.between(0.001F, 0.01F);
  for (std::size_t i = 0; i < s.n; i++) bias[i] = random.normal();
  const std::size_t size = s.m * s.n, bytes = size * size_of(type);
  Buffer<std::uint8_t> expected(bytes);
  for (std::size_t m = 0; m < s.m; m++) {
    for (std::size_t n = 0; n < s.n; n++) {
      std::int32_t sum = 0;
      for (std::size_t k = 0; k < s.k; k++) sum += x[m * s.k + k] * w[n * s.k + k];
      float y = static_cast<float>(sum) * w_scales[per_channel ? n : 0];
      y *= x_scales[per_token ? m : 0];
      if (has_bias) y += bias[n];
      const std::size_t at = m * s.n + n;
      if (type == FloatType::kFloat32) {
        std::memcpy(expected.data() + 4 * at, &y, 4);
      } else {
        const std::uint16_t half = type == FloatType::kFloat16 ? float16_of(y) : bfloat16_of(y);
        std::memcpy(expected.data() + 2 * at, &half, 2);
      }
    }
  }
  const DeviceBuffer<std::int8_t> on_x(device, x), on_w(device, w);
  const DeviceBuffer<float> on_x_scales(device, x_scales), on_w_scales(device, w_scales), on_bias(device, bias);
  const DeviceBuffer<std::uint8_t> y(device, bytes);
  device.expect_ok(device.api->integer->linear(device.stream, {on_x.data(), on_x_scales.data(), per_token, on_w.data(),
                                                               on_w_scales.data(), per_channel, s.m, s.n, s.k,
                                                               has_bias ? on_bias.data() : nullptr, type, y.data()}),
                   "linear");
  const Buffer<std::uint8_t> got = y.host();
  const std::size_t i = first_difference(got, expected);
  CHECK(i == bytes, "[%zu, %zu, %zu], type %d, choice %u: byte %zu", s.m, s.n, s.k, static_cast<int>(type), choice, i);
}

TEST("cuda integer: linear layers of int8 have the bits of their definition") {
  const Setting tiles("LOWBIT_CUDA_WARPGROUPS", "0");
  const Device device;
  if (!device) return;
  Random random(4);
  unsigned choice = 0;
  for (const Shape& s : std::initializer_list<Shape>{{1, 18, 64},
                                                     {2, 7, 100},
                                                     {7, 40, 528},
                                                     {13, 66, 96},
                                                     {40, 37, 200},
                                                     {130, 150, 128},
                                                     {0, 3, 8},
                                                     {5, 0, 8},
                                                     {3, 6, 0}}) {
    for (int type = 0; type < 3; type++) expect_layer(device, random, s, static_cast<FloatType>(type), choice++);
  }
  const IntegerCuda& integer = *device.api->integer;
  Int8LinearCuda wide{};
  wide.k = kMostInt8Columns + 1;
  CHECK(integer.linear(device.stream, wide) == CudaStatus::kUnsupported, "sums of so many columns can overflow");
}

TEST("cuda integer: warp groups give the same bits") {
  const WarpGroups groups;
  const Device device;
  if (!groups.of(device)) return;
  Random random(6);
  unsigned choice = 0;
  for (const Shape& s : std::initializer_list<Shape>{{65, 5, 16},
                                                     {65, 256, 128},
                                                     {130, 300, 256},
                                                     {200, 257, 1000},
                                                     {257, 100, 144},
                                                     {70, 40, 2064},
                                                     {65, 6, 0}}) {
    for (int type = 0; type < 3; type++) {
      expect_layer(device, random, s, static_cast<FloatType>(type), choice++);
    }
  }
}

TEST("cuda integer: quantized and multiplied, activations give what linear() gives per token") {
  const Device device;
  if (!device) return;
  Random random(5);
  const Shape s{19, 35, 720};
  Buffer<float> x(s.m * s.k), scales(s.n), bias(s.n), expected(s.m * s.n);
  Buffer<std::int8_t> w(s.n * s.k);
  fill_bits(random, w);
  for (std::size_t i = 0; i < x.size(); i++) x[i] = random.normal();
  for (std::size_t i = 0; i < s.n; i++) {
    scales[i] = random.between(0.001F, 0.01F);
    bias[i] = random.normal();
  }
  const PackedWeight packed = pack_codes(
      {reinterpret_cast<const std::uint8_t*>(w.data()), CodeType{8, true}, s.n, s.k, scales.data(), nullptr, 1, s.k});
  linear({x.data(), s.m, &packed, bias.data(), nullptr, nullptr, Activation::kNone, ComputeType::kInt8, true,
          expected.data()});
  const DeviceBuffer<float> on_x(device, x), on_scales(device, scales), on_bias(device, bias);
  const DeviceBuffer<std::int8_t> on_w(device, w), codes(device, x.size());
  const DeviceBuffer<float> x_scales(device, s.m), y(device, s.m * s.n);
  device.expect_ok(device.api->integer->quantize_tokens(device.stream, on_x.data(), FloatType::kFloat32, s.m, s.k,
                                                        codes.data(), x_scales.data()),
                   "quantize_tokens");
  device.expect_ok(
      device.api->integer->linear(device.stream, {codes.data(), x_scales.data(), true, on_w.data(), on_scales.data(),
                                                  true, s.m, s.n, s.k, on_bias.data(), FloatType::kFloat32, y.data()}),
      "linear");
  const Buffer<float> got = y.host(), token_scales = x_scales.host();
  const Buffer<std::int8_t> tokens = codes.host();
  for (std::size_t m = 0; m < s.m; m++) {
    for (std::size_t n = 0; n < s.n; n++) {
      // linear() rounds the sum of each of its few segments; both add the bias.
      double magnitude = 0.0;
      for (std::size_t k = 0; k < s.k; k++) magnitude += std::abs(tokens[m * s.k + k] * w[n * s.k + k]);
      magnitude = magnitude * static_cast<double>(scales[n]) * static_cast<double>(token_scales[m]) +
                  std::fabs(static_cast<double>(bias[n]));
      const std::size_t at = m * s.n + n;
      const double off = std::fabs(static_cast<double>(got[at]) - static_cast<double>(expected[at]));
      CHECK(off <= 0x1p-21 * magnitude, "row %zu, column %zu: %g, not %g", m, n, static_cast<double>(got[at]),
            static_cast<double>(expected[at]));
    }
  }
}

}  // namespace
}  // namespace lowbit::test
