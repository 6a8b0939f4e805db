// Products of integers and floats of eight bits, and the Gram matrix.

#include "bench.h"
#include "ops/matmul/float8_cuda.h"
#include "ops/matmul/gram_cuda.h"
#include "ops/matmul/integer_cuda.h"

namespace lowbit {
namespace {

void product_row(const char* name, std::size_t m, std::size_t n, std::size_t k, double seconds,
                 const std::string& more = "") {
  const double products = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  std::printf("| %s | %zu | %zu × %zu | %.1f | %.1f |%s\n", name, m, n, k, seconds * 1e6, 2e-12 * products / seconds,
              more.c_str());
  std::fflush(stdout);
}

// How much of twice the rate of bfloat16 a product of bytes reaches, and how much faster than PyTorch's it is.
std::string beside_peers(const char* peer, std::size_t m, std::size_t n, std::size_t k, double seconds) {
  const double operations = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  char share[16] = "";
  if (bfloat16_rate != 0.0) {
    std::snprintf(share, sizeof share, "%.0f %%", 100.0 * operations / seconds / (2.0 * bfloat16_rate));
  }
  return std::string(" ") + share + " | " + peers.times(peer, m, n, k, seconds) + " |";
}

}  // namespace

void measure_bytes() {
  std::printf("### Products of bytes\n\n");
  std::printf("| | M | N × K | µs | TOP/s | of twice bfloat16 | faster than PyTorch |\n");
  std::printf("| --- | ---: | --- | ---: | ---: | ---: | ---: |\n");
  const std::vector<Shape> shapes =
      quick ? std::vector<Shape>{{128, 256}} : std::vector<Shape>{{4096, 4096}, {14336, 4096}, {8192, 28672}};
  const std::vector<std::size_t> tokens =
      quick ? std::vector<std::size_t>{16, 70} : std::vector<std::size_t>{16, 256, 2048, 4096};
  for (const Shape shape : shapes) {
    const std::size_t n = shape.n, k = shape.k, turns = turns_for(n * k);
    const Memory w(turns * n * k), w_scales(n * 4);
    fill_codes(w);
    fill_floats(w_scales, FloatType::kFloat32, 0.001F, 0.002F);
    for (const std::size_t m : tokens) {
      const Memory x(m * k), x_scales(m * 4), y(m * n * 2);
      fill_codes(x);
      fill_floats(x_scales, FloatType::kFloat32, 0.001F, 0.002F);
      Int8LinearCuda integers{};
      integers.x = x.at<std::int8_t>();
      integers.x_scales = x_scales.at<float>();
      integers.x_scale_per_row = true;
      integers.w_scales = w_scales.at<float>();
      integers.w_scale_per_row = true;
      integers.m = m, integers.n = n, integers.k = k;
      integers.type = FloatType::kBfloat16;
      integers.y = y.at();
      Float8LinearCuda floats{};
      floats.x = x.at();
      floats.x_scales = x_scales.at<float>();
      floats.x_scale_per_row = true;
      floats.w_scales = w_scales.at<float>();
      floats.w_scale_per_row = true;
      floats.m = m, floats.n = n, floats.k = k;
      floats.type = FloatType::kBfloat16;
      floats.y = y.at();
      struct Call {
        const char *name, *peer;
        std::function<CudaStatus(std::size_t)> call;
      };
      std::vector<Call> calls;
      if (api->integer != nullptr) {
        const auto with = [&](std::size_t i) {
          integers.w = w.at<std::int8_t>(i * n * k);
          return integers;
        };
        calls.push_back({"int8", "int8", [&, with](std::size_t i) { return api->integer->linear(stream, with(i)); }});
      }
      if (api->float8 != nullptr) {
        const auto with = [&](std::size_t i) {
          floats.w = w.at(i * n * k);
          return floats;
        };
        calls.push_back(
            {"E4M3", "float8_e4m3fn", [&, with](std::size_t i) { return api->float8->linear(stream, with(i)); }});
      }
      if (calls.empty()) std::printf("| missing | | | | | | |\n");
      for (const Call& call : calls) {
        const CudaStatus status = call.call(0);
        if (status == CudaStatus::kUnsupported) {
          std::printf("| %s | %zu | %zu × %zu | not supported | | | |\n", call.name, m, n, k);
          continue;
        }
        expect(status, call.name);
        const double seconds = seconds_of(turns, call.call);
        product_row(call.name, m, n, k, seconds, beside_peers(call.peer, m, n, k, seconds));
        if (group_stream == nullptr || m < kRowsForGroups) continue;
        const ByGroups by_groups(true);
        const double of_groups = seconds_of(turns, call.call);
        product_row((std::string(call.name) + ", by warp groups").c_str(), m, n, k, of_groups,
                    beside_peers(call.peer, m, n, k, of_groups));
      }
    }
  }
  std::printf("\n");
}

void measure_gram() {
  std::printf("### Gram matrix\n\n| x | M | K × K | µs | TFLOP/s |\n| --- | ---: | --- | ---: | ---: |\n");
  if (api->gram == nullptr) return void(std::printf("| missing | | | | |\n\n"));
  const std::size_t m = quick ? 32 : 2048;
  for (const std::size_t k : quick ? std::vector<std::size_t>{64} : std::vector<std::size_t>{4096, 14336}) {
    for (const FloatType type : {FloatType::kBfloat16, FloatType::kFloat32}) {
      const Memory x(m * k * size_of(type)), out(k * k * 4);
      fill_floats(x, type);
      const double seconds = seconds_of(
          1, [&](std::size_t) { return api->gram->gram(stream, x.at(), type, m, k, true, out.at<float>()); });
      product_row(name_of(type), m, k, k, seconds);
    }
  }
  std::printf("\nOf a symmetric matrix, half of these operations are computed.\n\n");
}

}  // namespace lowbit
