// Linear layers of quantized weights, beside reading as many bytes and PyTorch's products.

#include "bench.h"
#include "ops/matmul/linear_cuda.h"

namespace lowbit {
namespace {

struct WeightKind {
  const char* name;
  CudaWeightKind kind;
  CodeType code;
  Codebook book;
  bool zeros;
  std::size_t group;  // 0: per row
  FloatType x_type;
};

void linear_rows(const WeightKind& kind, Shape shape, const std::vector<std::size_t>& tokens) {
  const std::size_t n = shape.n, k = shape.k, group = kind.group == 0 ? k : kind.group;
  const std::size_t bits = kind.kind == CudaWeightKind::kFloats  ? 16
                           : kind.kind == CudaWeightKind::kCodes ? kind.code.bits
                                                                 : format_of(kind.book).bits;
  const Memory data(n * k * bits / 8), scales(n * (k / group) * 4), zeros(n * (k / group) * 4);
  if (kind.kind == CudaWeightKind::kFloats) {
    fill_floats(data, FloatType::kFloat16);
  } else {
    fill_codes(data);
  }
  // Powers of two, which are float16 numbers.
  std::vector<float> powers(kPattern / 4);
  for (float& scale : powers) scale = (random_bits() & 1U) != 0 ? 0x1p-6F : 0x1p-7F;
  scales.fill(powers.data(), kPattern);
  expect(api->fill(stream, zeros.at(), 0, n * (k / group) * 4), "fill");
  CudaWeightSource source{};
  source.kind = kind.kind;
  source.code = kind.code;
  source.book = kind.book;
  source.float_type = FloatType::kFloat16;
  source.data = data.at();
  source.rows = n;
  source.columns = k;
  source.scales = scales.at<float>();
  source.zero_points = kind.zeros ? zeros.at<std::int32_t>() : nullptr;
  source.rows_alike = 1;
  source.row_stride = k / group;
  source.group_size = group;
  source.scale_type = FloatType::kFloat16;
  CudaPackedLayout layout{};
  expect(api->linear->layout(&source, &layout), "layout");
  const std::size_t weight_bytes = static_cast<std::size_t>(layout.bytes), turns = turns_for(weight_bytes);
  const Memory weights(turns * weight_bytes);
  const double pack =
      seconds_of(1, [&](std::size_t) { return api->linear->prepack(stream, &source, &layout, weights.at()); });
  for (std::size_t i = 1; i < turns; i++) {
    expect(api->copy(stream, weights.at(i * weight_bytes), weights.at(), weight_bytes), "copy");
  }
  for (const std::size_t m : tokens) {
    const Memory x(m * k * size_of(kind.x_type)), y(m * n * 2);
    fill_floats(x, kind.x_type);
    CudaLinearArguments a{};
    a.x = x.at();
    a.x_type = kind.x_type;
    a.m = m;
    a.layout = &layout;
    a.y = y.at();
    a.y_type = kind.x_type == FloatType::kFloat32 ? FloatType::kFloat16 : kind.x_type;
    const double bytes = static_cast<double>(weight_bytes + m * k * size_of(kind.x_type) + m * n * 2);
    for (const bool groups : {false, true}) {
      if (groups && (group_stream == nullptr || m < kRowsForGroups)) continue;
      const ByGroups by_groups(groups);
      const double seconds = seconds_of(turns, [&](std::size_t i) {
        a.weight = weights.at(i * weight_bytes);
        return api->linear->linear(stream, &a);
      });
      std::printf("| %s, x %s%s | %zu × %zu | %zu | %.1f | %.0f | %.0f %% | %.1f | %s | %s |\n", kind.name,
                  name_of(kind.x_type), groups ? ", by warp groups" : "", n, k, m, seconds * 1e6,
                  1e-9 * bytes / seconds, 100.0 * bytes / seconds / read_limit,
                  2e-12 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) / seconds,
                  peers.times("bfloat16", m, n, k, seconds).c_str(), peers.times("int4", m, n, k, seconds).c_str());
    }
    std::fflush(stdout);
  }
  std::fprintf(stderr, "%s %zu × %zu: packed in %.1f µs\n", kind.name, n, k, pack * 1e6);
}

}  // namespace

void measure_linear() {
  std::printf("### Linear layers, quantized weights\n\n");
  if (api->linear == nullptr) return void(std::printf("Missing.\n\n"));
  std::printf("Faster than PyTorch: than its products of bfloat16 (cuBLAS), and of bfloat16 with int4 weights.\n\n");
  std::printf("| weight | N × K | M | µs | GB/s | of reading | TFLOP/s | than bfloat16 | than int4 |\n");
  std::printf("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  constexpr FloatType kBfloat16 = FloatType::kBfloat16, kFloat16 = FloatType::kFloat16;
  const WeightKind int4 = {"int4, groups of 128", CudaWeightKind::kCodes, {4, true}, {}, false, 128, kBfloat16};
  const std::vector<Shape> shapes = quick
                                        ? std::vector<Shape>{{256, 512}}
                                        : std::vector<Shape>{{4096, 4096}, {14336, 4096}, {28672, 8192}, {8192, 28672}};
  const std::vector<std::size_t> tokens =
      quick ? std::vector<std::size_t>{1, 16, 70} : std::vector<std::size_t>{1, 4, 16, 32, 64, 128, 256, 2048};
  for (const Shape shape : shapes) linear_rows(int4, shape, tokens);
  const WeightKind others[] = {
      {"int4, groups of 128", CudaWeightKind::kCodes, {4, true}, {}, false, 128, kFloat16},
      {"int4, groups of 128", CudaWeightKind::kCodes, {4, true}, {}, false, 128, FloatType::kFloat32},
      {"uint4 with zero points, groups of 128", CudaWeightKind::kCodes, {4, false}, {}, true, 128, kBfloat16},
      {"int4, groups of 32", CudaWeightKind::kCodes, {4, true}, {}, false, 32, kBfloat16},
      {"NF4, groups of 64", CudaWeightKind::kCodebook, {}, Codebook::kNf4, false, 64, kBfloat16},
      {"MXFP4, groups of 32", CudaWeightKind::kCodebook, {}, Codebook::kE2m1, false, 32, kBfloat16},
      {"int8, per row", CudaWeightKind::kCodes, {8, true}, {}, false, 0, kBfloat16},
      {"E4M3, per row", CudaWeightKind::kCodebook, {}, Codebook::kE4m3fn, false, 0, kBfloat16},
      {"E5M2, per row", CudaWeightKind::kCodebook, {}, Codebook::kE5m2, false, 0, kFloat16},
      {"float16", CudaWeightKind::kFloats, {}, {}, false, 0, kFloat16},
  };
  const Shape shape = quick ? shapes[0] : shapes[1];
  const std::vector<std::size_t> fewer = quick ? tokens : std::vector<std::size_t>{1, 16, 64, 256, 2048};
  for (const WeightKind& kind : others) linear_rows(kind, shape, fewer);
  std::printf("\n");
}

}  // namespace lowbit
