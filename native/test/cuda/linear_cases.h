#pragma once

// Weights of every kind for products on a device, and what these are in float64 over the dequantized weights.

#include <cmath>
#include <initializer_list>

#include "core/float_bits.h"
#include "core/packed_codes.h"
#include "ops/codebook/codebook_math.h"
#include "ops/matmul/linear_cuda.h"
#include "test/cuda/device.h"

namespace lowbit::test {

using Sizes = std::initializer_list<std::size_t>;

// A weight on the host: what is packed, and its values.
struct Weight {
  CudaWeightSource source{};
  std::vector<std::uint8_t> data;
  std::vector<float> scales;
  std::vector<std::int32_t> zeros;
  std::vector<double> values;
};

struct Kind {
  const char* name;
  CudaWeightKind kind;
  CodeType code;
  Codebook book;
  bool zeros;
  FloatType type;
};

constexpr Kind kKinds[] = {
    {"uint4", CudaWeightKind::kCodes, {4, false}, {}, false, {}},
    {"int4", CudaWeightKind::kCodes, {4, true}, {}, false, {}},
    {"uint4 with zero points", CudaWeightKind::kCodes, {4, false}, {}, true, {}},
    {"int4 with zero points", CudaWeightKind::kCodes, {4, true}, {}, true, {}},
    {"uint2 with zero points", CudaWeightKind::kCodes, {2, false}, {}, true, {}},
    {"int3", CudaWeightKind::kCodes, {3, true}, {}, false, {}},
    {"uint3 with zero points", CudaWeightKind::kCodes, {3, false}, {}, true, {}},
    {"int8", CudaWeightKind::kCodes, {8, true}, {}, false, {}},
    {"uint8 with zero points", CudaWeightKind::kCodes, {8, false}, {}, true, {}},
    {"int8 with zero points", CudaWeightKind::kCodes, {8, true}, {}, true, {}},
    {"nf4", CudaWeightKind::kCodebook, {}, Codebook::kNf4, false, {}},
    {"fp4", CudaWeightKind::kCodebook, {}, Codebook::kFp4, false, {}},
    {"e2m1", CudaWeightKind::kCodebook, {}, Codebook::kE2m1, false, {}},
    {"e4m3", CudaWeightKind::kCodebook, {}, Codebook::kE4m3fn, false, {}},
    {"e5m2", CudaWeightKind::kCodebook, {}, Codebook::kE5m2, false, {}},
    {"e2m3", CudaWeightKind::kCodebook, {}, Codebook::kE2m3, false, {}},
    {"e3m2", CudaWeightKind::kCodebook, {}, Codebook::kE3m2, false, {}},
    {"mxint8", CudaWeightKind::kCodebook, {}, Codebook::kFixed8, false, {}},
    {"ternary", CudaWeightKind::kCodebook, {}, Codebook::kTernary, false, {}},
    {"binary", CudaWeightKind::kCodebook, {}, Codebook::kBinary, false, {}},
    {"float32", CudaWeightKind::kFloats, {}, {}, false, FloatType::kFloat32},
    {"bfloat16", CudaWeightKind::kFloats, {}, {}, false, FloatType::kBfloat16},
};

inline double value_of_code(Codebook book, unsigned code) {
  switch (book) {
    case Codebook::kFixed8:
      return static_cast<std::int8_t>(code) / 64.0;
    case Codebook::kTernary:
      return code == 3 ? -1.0 : code;
    case Codebook::kBinary:
      return code == 0 ? -1.0 : 1.0;
    default:
      return static_cast<double>(value_of(book, static_cast<std::uint8_t>(code)));
  }
}

// Groups of `group` columns; 0: a scale for each row; −1: one for all.
inline Weight random_weight(const Kind& kind, std::size_t rows, std::size_t columns, int group, FloatType scale_type,
                            Random& random, std::size_t rows_alike = 1) {
  Weight w;
  w.source.kind = kind.kind;
  w.source.rows = rows;
  w.source.columns = columns;
  w.values.resize(rows * columns);
  if (kind.kind == CudaWeightKind::kFloats) {
    w.source.float_type = kind.type;
    w.data.resize(rows * columns * size_of(kind.type));
    for (std::size_t i = 0; i < rows * columns; i++) {
      // Rows of all magnitudes.
      const float value = random.normal() * std::exp2(static_cast<float>(static_cast<int>(i / columns % 200) - 100));
      set_element(w.data.data(), kind.type, i, value);
      w.values[i] = static_cast<double>(element(w.data.data(), kind.type, i));
    }
    return w;
  }
  const CodeType code = kind.kind == CudaWeightKind::kCodes ? kind.code : CodeType{format_of(kind.book).bits, false};
  w.source.code = kind.code;
  w.source.book = kind.book;
  w.source.scale_type = scale_type;
  w.source.rows_alike = rows_alike;
  w.source.group_size = group > 0 ? static_cast<std::size_t>(group) : columns;
  const std::size_t groups = group > 0 ? (columns + w.source.group_size - 1) / w.source.group_size : 1;
  w.source.row_stride = group < 0 ? 0 : groups;
  const std::size_t sets = group < 0 ? 1 : (rows + rows_alike - 1) / rows_alike * groups;
  for (std::size_t i = 0; i < sets; i++) {
    const float scale = random.between(0.01F, 0.2F);
    w.scales.push_back(scale_type == FloatType::kFloat16 ? float_of_float16(float16_of(scale)) : scale);
    if (kind.zeros) {
      w.zeros.push_back(code.lowest() + static_cast<int>(random.below(std::size_t{1} << code.bits)));
    }
  }
  const std::size_t row_bytes = code.packed_bytes(columns);
  w.data.resize(rows * row_bytes);
  for (std::size_t r = 0; r < rows; r++) {
    for (std::size_t k = 0; k < columns; k++) {
      int value = code.lowest() + static_cast<int>(random.below(std::size_t{1} << code.bits));
      const auto of = [&] { return static_cast<unsigned>(value); };
      if (kind.kind == CudaWeightKind::kCodebook) {
        if (kind.book == Codebook::kE4m3fn && (of() & 0x7fU) == 0x7fU) value = 0;
        if (kind.book == Codebook::kE5m2 && (of() & 0x7cU) == 0x7cU) value = 0;
        if (kind.book == Codebook::kTernary && value == 2) value = 1;
      }
      set_code(w.data.data() + r * row_bytes, code, k, value);
      const std::size_t set = group < 0 ? 0 : r / rows_alike * groups + (groups > 1 ? k / w.source.group_size : 0);
      double exact = 0.0;
      if (kind.kind == CudaWeightKind::kCodebook) {
        exact = value_of_code(kind.book, of());
      } else {
        const int zero = kind.zeros ? w.zeros[set] : code.is_signed ? 0 : 1 << (code.bits - 1);
        exact = value - zero;
      }
      w.values[r * columns + k] = exact * static_cast<double>(w.scales[set]);
    }
  }
  return w;
}

// A weight on the device.
struct Packed {
  CudaPackedLayout layout{};
  DeviceBuffer<std::uint8_t> memory;

  static CudaPackedLayout layout_of(const Device& device, const Weight& w) {
    CudaPackedLayout layout{};
    CudaWeightSource source = w.source;
    source.zero_points = w.zeros.empty() ? nullptr : w.zeros.data();
    device.expect_ok(device.api->linear->layout(&source, &layout), "layout");
    return layout;
  }
  Packed(const Device& device, const Weight& w) : layout(layout_of(device, w)), memory(device, layout.bytes) {
    const DeviceBuffer<std::uint8_t> data(device, w.data);
    const DeviceBuffer<float> scales(device, w.scales);
    const DeviceBuffer<std::int32_t> zeros(device, w.zeros);
    CudaWeightSource source = w.source;
    source.data = data.data();
    source.scales = scales.data();
    source.zero_points = w.zeros.empty() ? nullptr : zeros.data();
    device.expect_ok(device.api->linear->prepack(device.stream, &source, &layout, memory.data()), "prepack");
    const Outcome outcome = device.synchronize();
    CHECK(outcome.status == Status::kOk, "prepack: outcome %d at %lld", static_cast<int>(outcome.status),
          static_cast<long long>(outcome.index));
  }
};

struct Input {
  std::vector<std::uint8_t> bytes;
  std::vector<double> values;
};
inline Input random_input(std::size_t m, std::size_t k, FloatType type, Random& random) {
  Input x;
  x.bytes.resize(m * k * size_of(type));
  x.values.resize(m * k);
  for (std::size_t i = 0; i < m * k; i++) {
    set_element(x.bytes.data(), type, i, random.normal());
    x.values[i] = static_cast<double>(element(x.bytes.data(), type, i));
  }
  return x;
}

inline double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    default:
      return x;
  }
}

// What may be lost of a product: float32 sums (tensor cores truncate) of K terms, tables and x as halves.
struct Sums {
  std::vector<double> sum, magnitude;  // Σ w·x, Σ |w·x|
};
inline Sums reference(const Weight& w, const Input& x, std::size_t m) {
  const auto n = static_cast<std::size_t>(w.source.rows), k = static_cast<std::size_t>(w.source.columns);
  Sums result{std::vector<double>(m * n), std::vector<double>(m * n)};
  for (std::size_t i = 0; i < m; i++) {
    for (std::size_t j = 0; j < n; j++) {
      double sum = 0.0, magnitude = 0.0;
      for (std::size_t c = 0; c < k; c++) {
        const double product = w.values[j * k + c] * x.values[i * k + c];
        sum += product;
        magnitude += std::fabs(product);
      }
      result.sum[i * n + j] = sum;
      result.magnitude[i * n + j] = magnitude;
    }
  }
  return result;
}

// The bound of one term, relative: how x and tables are rounded.
inline double term_error(const Kind& kind, FloatType x_type, bool turing) {
  double error = 0.0;
  const bool float16 = x_type != FloatType::kBfloat16 || turing || kind.kind == CudaWeightKind::kFloats;
  if (x_type == FloatType::kFloat32) error += 0x1p-11;
  if (kind.kind == CudaWeightKind::kFloats && kind.type == FloatType::kFloat32) error += 0x1p-11;
  if (kind.kind == CudaWeightKind::kCodebook && kind.book == Codebook::kNf4) error += float16 ? 0x1p-11 : 0x1p-8;
  return error;
}

inline bool is_turing(const Device& device) {
  CudaDeviceInfo info{};
  device.expect_ok(device.api->device_info(0, &info), "device_info");
  return info.major < 8;
}

struct Case {
  std::size_t m, n, k;
  int group;
  FloatType x_type, scale_type;
};

inline std::size_t bytes_of(FloatType type, std::size_t count) { return count * size_of(type); }

inline void expect_product(const Device& device, const Kind& kind, const Case& c, Random& random,
                           std::size_t rows_alike = 1) {
  const Weight w = random_weight(kind, c.n, c.k, c.group, c.scale_type, random, rows_alike);
  const Packed packed(device, w);
  const Input x = random_input(c.m, c.k, c.x_type, random);
  const DeviceBuffer<std::uint8_t> x_device(device, x.bytes);
  const DeviceBuffer<float> y(device, c.m * c.n);
  CudaLinearArguments a{};
  a.x = x_device.data();
  a.x_type = c.x_type;
  a.m = c.m;
  a.layout = &packed.layout;
  a.weight = packed.memory.data();
  a.y = y.data();
  a.y_type = FloatType::kFloat32;
  a.check_finite = true;
  device.expect_ok(device.api->linear->linear(device.stream, &a), "linear");
  const Outcome outcome = device.synchronize();
  CHECK(outcome.status == Status::kOk, "outcome %d", static_cast<int>(outcome.status));
  const Buffer<float> got = y.host();
  const Sums expected = reference(w, x, c.m);
  const double per_term =
      term_error(kind, c.x_type, is_turing(device)) + 0x1p-23 * (16.0 + static_cast<double>(c.k) / 64.0);
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < c.m * c.n; i++) {
    const double difference = std::fabs(static_cast<double>(got[i]) - expected.sum[i]);
    CHECK(difference <= per_term * expected.magnitude[i],
          "%s, M %zu, N %zu, K %zu, group %d, x %d: y[%zu] is %g, not %g", kind.name, c.m, c.n, c.k, c.group,
          static_cast<int>(c.x_type), i, static_cast<double>(got[i]), expected.sum[i]);
    if (failed()) return;
    // Rows of floats have magnitudes of their own.
    if (expected.magnitude[i] == 0.0) continue;
    error += difference / expected.magnitude[i];
    size += std::fabs(expected.sum[i]) / expected.magnitude[i];
  }
  CHECK(error <= 1e-3 * size, "%s, M %zu, N %zu, K %zu, group %d, x %d: mean relative error %g", kind.name, c.m, c.n,
        c.k, c.group, static_cast<int>(c.x_type), error / size);
}

constexpr FloatType kTypes[] = {FloatType::kFloat16, FloatType::kBfloat16, FloatType::kFloat32};

inline void expect_results(const Device& device, std::initializer_list<std::size_t> rows, std::size_t n) {
  Random random(6);
  const std::size_t k = 160;
  for (const std::size_t m : rows) {
    const Weight w = random_weight(kKinds[2], n, k, 32, FloatType::kFloat16, random);
    const Weight gate = random_weight(kKinds[7], n, k, 0, FloatType::kFloat32, random);
    const Packed packed(device, w), packed_gate(device, gate);
    const Input x = random_input(m, k, FloatType::kFloat16, random);
    const DeviceBuffer<std::uint8_t> x_device(device, x.bytes);
    std::vector<float> bias(n), gate_bias(n);
    for (std::size_t i = 0; i < n; i++) bias[i] = random.normal(), gate_bias[i] = random.normal();
    const DeviceBuffer<float> bias_device(device, bias), gate_bias_device(device, gate_bias);
    const Sums sums = reference(w, x, m), gate_sums = reference(gate, x, m);
    for (const bool has_bias : {false, true}) {
      for (const bool has_gate : {false, true}) {
        for (const Activation activation :
             {Activation::kNone, Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
          for (const FloatType y_type : kTypes) {
            const DeviceBuffer<std::uint8_t> y(device, bytes_of(y_type, m * n));
            CudaLinearArguments a{};
            a.x = x_device.data();
            a.x_type = FloatType::kFloat16;
            a.m = m;
            a.layout = &packed.layout;
            a.weight = packed.memory.data();
            a.activation = activation;
            a.y = y.data();
            a.y_type = y_type;
            if (has_bias) a.bias = bias_device.data();
            if (has_gate) {
              a.gate_layout = &packed_gate.layout;
              a.gate = packed_gate.memory.data();
              if (has_bias) a.gate_bias = gate_bias_device.data();
            }
            device.expect_ok(device.api->linear->linear(device.stream, &a), "linear");
            device.synchronize();
            const Buffer<std::uint8_t> got = y.host();
            const double rounding = y_type == FloatType::kFloat32   ? 0.0
                                    : y_type == FloatType::kFloat16 ? 0x1p-11
                                                                    : 0x1p-8;
            for (std::size_t i = 0; i < m * n; i++) {
              const double own = sums.sum[i] + (has_bias ? static_cast<double>(bias[i % n]) : 0.0);
              const double of_gate = gate_sums.sum[i] + (has_bias ? static_cast<double>(gate_bias[i % n]) : 0.0);
              const double expected = has_gate ? activated(activation, of_gate) * own : activated(activation, own);
              // No activation has a slope of more than 1.2.
              const double loss = 0x1p-23 * 24.0;
              const double bound =
                  (has_gate ? (std::fabs(activated(activation, of_gate)) + 1.0) * (sums.magnitude[i] + 1.0) +
                                  1.2 * gate_sums.magnitude[i] * (std::fabs(own) + 1.0)
                            : 1.2 * sums.magnitude[i] + 1.0) *
                      loss +
                  rounding * std::fabs(expected);
              const double value = static_cast<double>(element(got.data(), y_type, i));
              CHECK(std::fabs(value - expected) <= bound + 1e-7,
                    "M %zu, bias %d, gate %d, activation %d, y %d: y[%zu] is %g, not %g", m, has_bias, has_gate,
                    static_cast<int>(activation), static_cast<int>(y_type), i, value, expected);
              if (failed()) return;
            }
          }
        }
      }
    }
  }
}

inline void expect_magnitudes(const Device& device, std::size_t m) {
  Random random(7);
  const std::size_t n = 20, k = 130;
  const Weight w = random_weight(kKinds[0], n, k, 0, FloatType::kFloat32, random);
  const Packed packed(device, w);
  Input x = random_input(m, k, FloatType::kFloat32, random);
  const float powers[3] = {0x1p-120F, 0x1p+110F, 0.0F};
  for (std::size_t i = 0; i < m * k; i++) {
    const float value = static_cast<float>(x.values[i]) * powers[i / k % 3];
    std::memcpy(x.bytes.data() + 4 * i, &value, 4);
    x.values[i] = static_cast<double>(value);
  }
  const DeviceBuffer<std::uint8_t> x_device(device, x.bytes);
  const DeviceBuffer<float> y(device, m * n);
  CudaLinearArguments a{};
  a.x = x_device.data();
  a.m = m;
  a.layout = &packed.layout;
  a.weight = packed.memory.data();
  a.y = y.data();
  device.expect_ok(device.api->linear->linear(device.stream, &a), "linear");
  device.synchronize();
  const Buffer<float> got = y.host();
  const Sums expected = reference(w, x, m);
  for (std::size_t i = 0; i < m * n; i++) {
    CHECK(std::fabs(static_cast<double>(got[i]) - expected.sum[i]) <= 0x1p-10 * expected.magnitude[i],
          "y[%zu] is %g, not %g", i, static_cast<double>(got[i]), expected.sum[i]);
  }
}

inline void expect_findings(const Device& device, std::size_t m) {
  Random random(9);
  const std::size_t n = 5, k = 128;
  const DeviceBuffer<float> y(device, m * n);
  for (const FloatType type : kTypes) {
    for (const std::size_t columns : {k, k - 3}) {
      const Weight ragged = random_weight(kKinds[0], n, columns, 0, FloatType::kFloat32, random);
      const Packed packed_ragged(device, ragged);
      Input x = random_input(m, columns, type, random);
      set_element(x.bytes.data(), type, columns + 7, INFINITY);
      set_element(x.bytes.data(), type, columns + 9, NAN);
      const DeviceBuffer<std::uint8_t> x_device(device, x.bytes);
      CudaLinearArguments a{};
      a.x = x_device.data();
      a.x_type = type;
      a.m = m;
      a.layout = &packed_ragged.layout;
      a.weight = packed_ragged.memory.data();
      a.y = y.data();
      a.check_finite = true;
      device.expect_ok(device.api->linear->linear(device.stream, &a), "linear");
      const Outcome outcome = device.synchronize();
      CHECK(outcome.status == Status::kNonFinite && outcome.index == static_cast<std::int64_t>(columns + 7),
            "type %d: outcome %d at %lld", static_cast<int>(type), static_cast<int>(outcome.status),
            static_cast<long long>(outcome.index));
    }
  }
}

}  // namespace lowbit::test
