// The linear layer against plain loops: bit for bit where activations are quantized (so that every instruction set has
// the same bits), within the rounding errors of float32 where they are not.

#include "core/thread_pool.h"
#include "test/matmul_weights.h"

namespace lowbit::test {
namespace {

constexpr CodeType kCodeTypes[] = {{8, true}, {8, false}, {4, true}, {4, false},
                                   {3, true}, {3, false}, {2, true}, {2, false}};
constexpr FloatType kTypes[] = {FloatType::kFloat32, FloatType::kFloat16, FloatType::kBfloat16};
constexpr Zeros kZeros[] = {Zeros::kMiddle, Zeros::kAlike, Zeros::kVarying};
constexpr std::size_t kOneGroup = 1000000;  // larger than any row here: a scale for each

struct Compute {
  ComputeType type;
  bool per_token;
};
constexpr Compute kComputes[] = {{ComputeType::kFloat32, false},
                                 {ComputeType::kInt16, false},
                                 {ComputeType::kInt16, true},
                                 {ComputeType::kInt8, false},
                                 {ComputeType::kInt8, true}};

// Floats as weights.
class FloatWeight {
 public:
  FloatWeight(FloatType type, std::size_t rows, std::size_t columns, Random& random)
      : rows_(rows), columns_(columns), values_(rows * columns), stored_(rows * columns * size_of(type)) {
    auto* const halves = reinterpret_cast<std::uint16_t*>(stored_.data());
    for (std::size_t i = 0; i < values_.size(); i++) {
      values_[i] = random.normal();
      if (type == FloatType::kFloat32) continue;
      halves[i] = type == FloatType::kFloat16 ? float16_of(values_[i]) : bfloat16_of(values_[i]);
      values_[i] = type == FloatType::kFloat16 ? float_of_float16(halves[i]) : float_of_bfloat16(halves[i]);
    }
    if (type == FloatType::kFloat32) std::memcpy(stored_.data(), values_.data(), stored_.bytes());
    packed_ = pack_floats(stored_.data(), type, rows, columns);
  }
  const PackedWeight& packed() const { return packed_; }
  std::size_t rows() const { return rows_; }
  std::size_t columns() const { return columns_; }
  double value(std::size_t r, std::size_t k) const { return static_cast<double>(values_[r * columns_ + k]); }

 private:
  std::size_t rows_, columns_;
  Buffer<float> values_;
  Buffer<std::uint8_t> stored_;
  PackedWeight packed_;
};

Buffer<float> normal_floats(std::size_t count, Random& random) {
  Buffer<float> x(count);
  for (std::size_t i = 0; i < count; i++) x[i] = random.normal();
  return x;
}

std::vector<Element> expected_product(const Buffer<float>& x, std::size_t m, const RandomWeight& weight, Compute c) {
  if (c.type == ComputeType::kFloat32) return exact_product(x, m, weight);
  return quantized_product(x, m, weight, c.type == ComputeType::kInt16 ? 127.0F * 128.0F : 127.0F, c.per_token);
}

// A product without anything after it.
void check_product(const Buffer<float>& x, std::size_t m, const RandomWeight& weight, Compute c,
                   const std::string& what) {
  const std::size_t n = weight.rows();
  Buffer<float> y(m * n);
  LinearArguments a{};
  a.x = x.data();
  a.m = m;
  a.weight = &weight.packed();
  a.compute = c.type;
  a.per_token = c.per_token;
  a.y = y.data();
  CHECK(linear(a).status == Status::kOk, "%s: status", what.c_str());
  const std::vector<Element> expected = expected_product(x, m, weight, c);
  for (std::size_t i = 0; i < y.size(); i++) {
    const double found = static_cast<double>(y[i]);
    CHECK(std::fabs(found - expected[i].value) <= expected[i].error,
          "%s, compute %d%s: [%zu, %zu] is %.9g, expected %.9g ± %g", what.c_str(), static_cast<int>(c.type),
          c.per_token ? " per token" : "", i / n, i % n, found, expected[i].value, expected[i].error);
  }
}

std::string describe(CodeType type, std::size_t group_size, Zeros zeros, std::size_t m, std::size_t n, std::size_t k) {
  return format("%s%d, groups of %zu, zeros %d, [%zu, %zu] · [%zu, %zu]ᵀ", type.is_signed ? "int" : "uint", type.bits,
                group_size, static_cast<int>(zeros), m, k, n, k);
}

TEST("matmul tensor: every type, group, zero point and ragged shape equals plain loops") {
  Random random(40);
  std::size_t round = 0;
  for (const CodeType type : kCodeTypes) {
    for (const std::size_t group_size : {std::size_t{0}, kOneGroup, std::size_t{16}, std::size_t{32}, std::size_t{48},
                                         std::size_t{64}, std::size_t{128}}) {
      for (const Zeros zeros : kZeros) {
        for (std::size_t i = 0; i < (quick() ? 1 : 6); i++, round++) {
          const std::size_t m = 1 + random.below(quick() ? 12 : 70), n = 1 + random.below(70), k = 1 + random.below(70);
          const RandomWeight weight(type, n, k, group_size, zeros, kTypes[round % 3], random);
          const Buffer<float> x = normal_floats(m * k, random);
          const std::string what = describe(type, group_size, zeros, m, n, k);
          for (const Compute compute : kComputes) check_product(x, m, weight, compute, what);
          if (failed()) return;
        }
      }
    }
  }
}

TEST("matmul tensor: long rows, of several segments, groups and blocks, equal plain loops") {
  Random random(41);
  for (std::size_t i = 0; i < (quick() ? 16 : 160); i++) {
    constexpr std::size_t kColumns[] = {128, 255, 256, 257, 272, 384, 511, 512, 513, 700, 1024, 1100};
    constexpr std::size_t kGroups[] = {0, kOneGroup, 16, 32, 80, 96, 128, 208, 256, 272, 512, 1024};
    const CodeType type = kCodeTypes[i % 8];
    const std::size_t k = kColumns[random.below(12)], group_size = kGroups[random.below(12)];
    const std::size_t m = 1 + random.below(20), n = 1 + random.below(quick() ? 40 : 140);
    const Zeros zeros = kZeros[random.below(3)];
    const RandomWeight weight(type, n, k, group_size, zeros, kTypes[random.below(3)], random);
    const Buffer<float> x = normal_floats(m * k, random);
    for (const Compute compute : kComputes) {
      check_product(x, m, weight, compute, describe(type, group_size, zeros, m, n, k));
    }
    if (failed()) return;
  }
}

TEST("matmul tensor: many rows, for which codes are decoded and long rows divided, equal plain loops") {
  Random random(42);
  struct Shape {
    CodeType type;
    std::size_t n, k, group_size;
  };
  // Long rows are divided after 8192 columns: within their one group, between groups, within a group of several
  // segments.
  for (const Shape& shape :
       {Shape{{4, false}, 33, 200, 96}, Shape{{3, true}, 33, 200, kOneGroup}, Shape{{2, false}, 33, 200, 96},
        Shape{{8, true}, 33, 200, kOneGroup}, Shape{{4, false}, 3, 8800, 768}, Shape{{3, true}, 3, 8400, kOneGroup},
        Shape{{2, false}, 3, 8400, 96}, Shape{{8, true}, 3, 8800, 768}}) {
    const auto [type, n, k, group_size] = shape;
    if (quick() && k > 200 && type.bits != 4) continue;
    const RandomWeight weight(type, n, k, group_size, Zeros::kVarying, FloatType::kFloat16, random);
    for (const Compute compute : {Compute{ComputeType::kInt8, false}, Compute{ComputeType::kInt16, true}}) {
      const std::size_t rows = kernels().matmul->decode_rows + 1;
      const std::size_t m = compute.type == ComputeType::kInt16 ? (rows + 1) / 2 : rows;
      const Buffer<float> x = normal_floats(m * k, random);
      check_product(x, m, weight, compute, describe(type, group_size, Zeros::kVarying, m, n, k));
    }
    if (failed()) return;
  }
}

// --- accuracy --------------------------------------------------------------------------------------------------------

TEST("matmul tensor: quantized activations cost what they may") {
  Random random(43);
  const std::size_t m = quick() ? 4 : 16, n = 64, k = 512;
  for (const CodeType type : {CodeType{8, true}, CodeType{4, false}, CodeType{3, false}, CodeType{2, true}}) {
    for (const std::size_t group_size : {kOneGroup, std::size_t{32}, std::size_t{128}}) {
      const RandomWeight weight(type, n, k, group_size, Zeros::kMiddle, FloatType::kFloat16, random);
      const Buffer<float> x = normal_floats(m * k, random);
      const std::vector<Element> expected = exact_product(x, m, weight);
      for (const Compute compute : kComputes) {
        Buffer<float> y(m * n);
        LinearArguments a{};
        a.x = x.data();
        a.m = m;
        a.weight = &weight.packed();
        a.compute = compute.type;
        a.per_token = compute.per_token;
        a.y = y.data();
        linear(a);
        double error = 0.0, power = 0.0;
        for (std::size_t i = 0; i < y.size(); i++) {
          error += std::pow(static_cast<double>(y[i]) - expected[i].value, 2);
          power += expected[i].value * expected[i].value;
        }
        const double allowed = compute.type == ComputeType::kInt8    ? 5e-4
                               : compute.type == ComputeType::kInt16 ? 1e-8
                                                                     : 1e-12;
        CHECK(error <= allowed * power, "%d bits, groups of %zu, compute %d%s: error %g of the power", type.bits,
              group_size, static_cast<int>(compute.type), compute.per_token ? " per token" : "", error / power);
      }
    }
  }
}

// --- what follows the product ----------------------------------------------------------------------------------------

Element plus(Element a, const Buffer<float>* bias, std::size_t column) {
  if (bias == nullptr) return a;
  // In float32, as it is computed: exact where the product is.
  const double sum = static_cast<double>(static_cast<float>(a.value) + (*bias)[column]);
  return {sum, a.error == 0.0 ? 0.0 : a.error + std::fabs(a.value) * 0x1p-23 + std::fabs(sum) * 0x1p-23};
}
Element after(Activation activation, Element a) {
  if (activation == Activation::kNone) return a;
  const double value = activated(activation, a.value);
  return {value, 1.2 * a.error + 2e-6 * std::fmax(1.0, std::fabs(value))};
}
Element times(Element a, Element factor) {
  const double value = a.value * factor.value;
  return {value, std::fabs(a.value) * factor.error + std::fabs(factor.value) * a.error + a.error * factor.error +
                     std::fabs(value) * 0x1p-23};
}

// activation(x·Gᵀ + gate_bias) ⊙ (x·Wᵀ + bias), or without the gate activation(x·Wᵀ + bias).
void check_layer(const Buffer<float>& x, std::size_t m, const RandomWeight& weight, const Buffer<float>* bias,
                 const RandomWeight* gate, const Buffer<float>* gate_bias, Activation activation, Compute c,
                 const std::string& what) {
  const std::size_t n = weight.rows();
  Buffer<float> y(m * n);
  LinearArguments a{};
  a.x = x.data();
  a.m = m;
  a.weight = &weight.packed();
  a.bias = bias == nullptr ? nullptr : bias->data();
  a.gate = gate == nullptr ? nullptr : &gate->packed();
  a.gate_bias = gate_bias == nullptr ? nullptr : gate_bias->data();
  a.activation = activation;
  a.compute = c.type;
  a.per_token = c.per_token;
  a.y = y.data();
  CHECK(linear(a).status == Status::kOk, "%s: status", what.c_str());
  const std::vector<Element> product = expected_product(x, m, weight, c);
  const std::vector<Element> gates = gate == nullptr ? product : expected_product(x, m, *gate, c);
  for (std::size_t i = 0; i < y.size(); i++) {
    Element expected = plus(product[i], bias, i % n);
    expected = gate == nullptr ? after(activation, expected)
                               : times(expected, after(activation, plus(gates[i], gate_bias, i % n)));
    const double found = static_cast<double>(y[i]);
    CHECK(std::fabs(found - expected.value) <= expected.error,
          "%s, activation %d, compute %d: [%zu, %zu] is %.9g, expected %.9g ± %g", what.c_str(),
          static_cast<int>(activation), static_cast<int>(c.type), i / n, i % n, found, expected.value, expected.error);
  }
}

TEST("matmul tensor: bias, activation and gate") {
  Random random(44);
  for (std::size_t i = 0; i < (quick() ? 16 : 120); i++) {
    const std::size_t m = 1 + random.below(20), n = 1 + random.below(50), k = 1 + random.below(300);
    const CodeType type = kCodeTypes[random.below(8)], other = kCodeTypes[random.below(8)];
    const std::size_t group_size = i % 2 == 0 ? kOneGroup : 32;
    const RandomWeight weight(type, n, k, group_size, kZeros[i % 3], FloatType::kFloat16, random);
    // The same layout, and another type, grouping and kind of zero points.
    const RandomWeight gate(type, n, k, group_size, kZeros[i % 3], FloatType::kFloat32, random);
    const RandomWeight strange(other, n, k, i % 4 == 0 ? 64 : kOneGroup, kZeros[random.below(3)], FloatType::kBfloat16,
                               random);
    // Segments of another length than those of four bits, and nothing else that differs.
    const RandomWeight fours({4, true}, n, k, kOneGroup, Zeros::kVarying, FloatType::kFloat16, random);
    const RandomWeight threes({3, true}, n, k, kOneGroup, Zeros::kVarying, FloatType::kFloat16, random);
    const Buffer<float> x = normal_floats(m * k, random), bias = normal_floats(n, random);
    const Buffer<float> gate_bias = normal_floats(n, random);
    const Activation activation = kActivations[i % 4];
    const std::string what = describe(type, group_size, kZeros[i % 3], m, n, k);
    for (const Compute compute : kComputes) {
      check_layer(x, m, weight, &bias, nullptr, nullptr, activation, compute, what + ", bias");
      check_layer(x, m, weight, nullptr, nullptr, nullptr, activation, compute, what);
      check_layer(x, m, weight, nullptr, &gate, nullptr, activation, compute, what + ", gate");
      check_layer(x, m, weight, &bias, &gate, &gate_bias, activation, compute, what + ", gate and biases");
      check_layer(x, m, weight, nullptr, &strange, &gate_bias, activation, compute, what + ", another gate");
      check_layer(x, m, fours, nullptr, &threes, nullptr, activation, compute, what + ", four bits and three");
    }
    if (failed()) return;
  }
}

TEST("matmul tensor: weights that are floats, of each type, alone and as a gate") {
  Random random(45);
  for (std::size_t i = 0; i < (quick() ? 12 : 90); i++) {
    const std::size_t m = 1 + random.below(20), n = 1 + random.below(70), k = 1 + random.below(i % 5 == 0 ? 1100 : 70);
    const FloatWeight weight(kTypes[i % 3], n, k, random);
    const RandomWeight codes({4, true}, n, k, 32, Zeros::kMiddle, FloatType::kFloat16, random);
    const Buffer<float> x = normal_floats(m * k, random), bias = normal_floats(n, random);
    const std::vector<Element> product = exact_product(x, m, weight), gates = exact_product(x, m, codes);
    for (const bool gated : {false, true}) {
      Buffer<float> y(m * n);
      LinearArguments a{};
      a.x = x.data();
      a.m = m;
      a.weight = gated ? &codes.packed() : &weight.packed();
      a.bias = bias.data();
      a.gate = gated ? &weight.packed() : nullptr;
      a.compute = kComputes[i % 5].type;  // float32 all the same
      a.y = y.data();
      CHECK(linear(a).status == Status::kOk, "status");
      for (std::size_t j = 0; j < y.size(); j++) {
        const Element expected =
            gated ? times(plus(gates[j], &bias, j % n), product[j]) : plus(product[j], &bias, j % n);
        CHECK(std::fabs(static_cast<double>(y[j]) - expected.value) <= expected.error,
              "type %d, [%zu, %zu] · [%zu, %zu]ᵀ%s: element %zu is %g, expected %g", i % 3 == 0 ? 0 : 1, m, k, n, k,
              gated ? ", gate" : "", j, static_cast<double>(y[j]), expected.value);
      }
    }
    if (failed()) return;
  }
}

// --- threads, errors, nothing ----------------------------------------------------------------------------------------

TEST("matmul tensor: the same bits for any number of threads") {
  Random random(46);
  struct Shape {
    std::size_t m, n, k;
  };
  for (const Shape shape : {Shape{33, 300, 520}, Shape{1, 2100, 1024}, Shape{300, 20, 520}}) {
    for (const CodeType type : {CodeType{4, false}, CodeType{8, true}, CodeType{3, true}}) {
      const auto [m, n, k] = shape;
      if (quick() && (type.bits != 4 || m == 300)) continue;
      ThreadPool::instance().set_thread_count(1);
      const RandomWeight weight(type, n, k, 32, Zeros::kVarying, FloatType::kFloat16, random);
      const RandomWeight gate(type, n, k, 128, Zeros::kMiddle, FloatType::kFloat16, random);
      const FloatWeight floats(FloatType::kBfloat16, n, k, random);
      const Buffer<float> x = normal_floats(m * k, random), bias = normal_floats(n, random);
      for (const Compute compute : kComputes) {
        Buffer<float> alone(m * n), y(m * n);
        for (const std::size_t threads : kThreadCounts) {
          ThreadPool::instance().set_thread_count(threads);
          LinearArguments a{};
          a.x = x.data();
          a.m = m;
          a.weight = &weight.packed();
          a.bias = bias.data();
          a.gate = compute.per_token                       ? &gate.packed()
                   : compute.type == ComputeType::kFloat32 ? &floats.packed()
                                                           : nullptr;
          a.activation = Activation::kSilu;
          a.compute = compute.type;
          a.per_token = compute.per_token;
          a.y = threads == 1 ? alone.data() : y.data();
          CHECK(linear(a).status == Status::kOk, "status");
          if (threads == 1) continue;
          CHECK(first_difference(y, alone) == y.size(),
                "%d bits, [%zu, %zu] · [%zu, %zu]ᵀ, compute %d, %zu threads: %zu", type.bits, m, k, n, k,
                static_cast<int>(compute.type), threads, first_difference(y, alone));
        }
      }
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("matmul tensor: packed weights are the same for any number of threads") {
  for (const CodeType type : kCodeTypes) {
    std::vector<std::uint8_t> alone;
    for (const std::size_t threads : kThreadCounts) {
      ThreadPool::instance().set_thread_count(threads);
      Random random(47);
      const RandomWeight weight(type, 70, 200, 32, Zeros::kVarying, FloatType::kFloat16, random);
      const std::uint8_t* const codes = weight.packed().codes();
      const std::vector<std::uint8_t> bytes(codes, codes + weight.packed().layout.bytes());
      if (threads == 1) alone = bytes;
      CHECK(bytes == alone, "%d bits, %zu threads", type.bits, threads);
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("matmul tensor: the first NaN or infinity of the activations is named") {
  Random random(48);
  const std::size_t m = 23, n = 20, k = 75;
  const RandomWeight weight({4, true}, n, k, 32, Zeros::kMiddle, FloatType::kFloat16, random);
  const RandomWeight gate({4, true}, n, k, kOneGroup, Zeros::kMiddle, FloatType::kFloat16, random);
  const FloatWeight floats(FloatType::kFloat16, n, k, random);
  for (std::size_t i = 0; i < (quick() ? 40 : 400); i++) {
    Buffer<float> x = normal_floats(m * k, random), y(m * n);
    const std::size_t bad = i < 4 ? (i < 2 ? i : x.size() - i + 1) : random.below(x.size());
    x[bad] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    for (int more = 0; more < 3; more++) x[bad + random.below(x.size() - bad)] = NAN;
    for (const Compute compute : kComputes) {
      LinearArguments a{};
      a.x = x.data();
      a.m = m;
      a.weight = i % 4 == 0 ? &floats.packed() : &weight.packed();
      a.gate = i % 4 == 1 ? &gate.packed() : nullptr;
      a.compute = compute.type;
      a.per_token = compute.per_token;
      a.y = y.data();
      const Outcome outcome = linear(a);
      CHECK(outcome.status == Status::kNonFinite && outcome.index == static_cast<std::int64_t>(bad),
            "compute %d: status %d, index %lld, expected %zu", static_cast<int>(compute.type),
            static_cast<int>(outcome.status), static_cast<long long>(outcome.index), bad);
    }
  }
}

TEST("matmul tensor: no rows, no columns, nothing to add up, and cancelled work") {
  Random random(49);
  const Buffer<float> nothing(0);
  for (const std::size_t group_size : {std::size_t{0}, kOneGroup}) {
    for (const Compute compute : kComputes) {
      const RandomWeight weight({4, true}, 20, 40, group_size, Zeros::kVarying, FloatType::kFloat16, random);
      check_product(nothing, 0, weight, compute, "no rows");
      const RandomWeight no_columns({4, true}, 0, 40, group_size, Zeros::kVarying, FloatType::kFloat16, random);
      check_product(normal_floats(std::size_t{3} * 40, random), 3, no_columns, compute, "no columns");
      const RandomWeight empty({4, true}, 20, 0, group_size, Zeros::kVarying, FloatType::kFloat16, random);
      const Buffer<float> bias = normal_floats(20, random);
      check_product(nothing, 3, empty, compute, "nothing to add up");
      check_layer(nothing, 3, empty, &bias, nullptr, nullptr, Activation::kSilu, compute, "nothing to add up");
    }
  }
  const RandomWeight weight({4, true}, 200, 400, 32, Zeros::kVarying, FloatType::kFloat16, random);
  const FloatWeight floats(FloatType::kFloat32, 20, 0, random);
  const Buffer<float> x = normal_floats(std::size_t{100} * 400, random);
  for (const Compute compute : kComputes) {
    Buffer<float> y(std::size_t{100} * 200);
    LinearArguments a{};
    a.x = x.data();
    a.m = 100;
    a.weight = &weight.packed();
    a.compute = compute.type;
    a.y = y.data();
    const CancelFlag cancel{true};
    CHECK(linear(a, &cancel).status == Status::kCancelled, "cancelled");
    a.weight = &floats.packed();
    CHECK(linear(a).status == Status::kOk && y[0] == 0.0F && y[1999] == 0.0F, "floats, nothing to add up");
  }
}

TEST("matmul tensor: activations that are zero, tiny or large") {
  Random random(50);
  for (const float magnitude : {0.0F, 1e-40F, 1e-34F, 1e-33F, 1e-20F, 1e20F, 1e30F}) {
    for (const CodeType type : {CodeType{8, true}, CodeType{4, false}}) {
      const std::size_t m = 5, n = 20, k = 70;
      const RandomWeight weight(type, n, k, 32, Zeros::kVarying, FloatType::kFloat16, random);
      Buffer<float> x = normal_floats(m * k, random);
      for (std::size_t i = 0; i < x.size(); i++) x[i] *= i % k < 32 ? magnitude : 1.0F;
      for (const Compute compute : kComputes) {
        if (compute.type == ComputeType::kFloat32) continue;  // subnormal products have another error
        check_product(x, m, weight, compute, format("magnitude %g", static_cast<double>(magnitude)));
      }
    }
  }
}

}  // namespace
}  // namespace lowbit::test
