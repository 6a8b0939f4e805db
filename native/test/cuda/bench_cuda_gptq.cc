// How long GPTQ and its factorization take on the first device, as a table of Markdown. Times are medians by the clock
// of the device, with what the host does in between.
//
//   lowbit_cuda_gptq_bench [--quick]
//
// --quick: sizes so small that an emulator can try every call. Its times mean nothing.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/cuda.h"
#include "ops/linalg/gptq_cuda.h"
#include "ops/matmul/gram_cuda.h"

namespace lowbit {
namespace {

const CudaApi* api = nullptr;
CudaStream* stream = nullptr;

void expect(CudaStatus status, const char* what) {
  if (status == CudaStatus::kOk) return;
  std::fprintf(stderr, "%s: status %d, %s\n", what, static_cast<int>(status), api->last_error());
  std::exit(1);
}
void expect(const Outcome& outcome, const char* what) {
  if (outcome.status == Status::kOk) return;
  std::fprintf(stderr, "%s: outcome %d\n", what, static_cast<int>(outcome.status));
  std::exit(1);
}

struct Memory {
  explicit Memory(std::size_t bytes) { expect(api->allocate(stream, bytes, &data), "allocate"); }
  ~Memory() { api->release(stream, data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  float* floats() const { return static_cast<float*>(data); }
  void* data = nullptr;
};

// Sums of uniform numbers, from −2 to 2 (SplitMix64).
void fill(const Memory& memory, std::size_t count) {
  std::vector<float> values(count);
  std::uint64_t state = 1;
  for (float& value : values) {
    std::uint64_t z = (state += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    z ^= z >> 31;
    value = static_cast<float>((z & 0xffffU) + (z >> 16 & 0xffffU) + (z >> 32 & 0xffffU) + (z >> 48)) * 0x1p-16F - 2.0F;
  }
  expect(api->upload(stream, memory.data, values.data(), count * sizeof(float)), "upload");
  expect(api->synchronize(stream, nullptr), "synchronize");
}

template <typename Call>
double milliseconds_of(int times, const Call& call) {
  std::vector<float> measured;
  for (int i = 0; i <= times; i++) {
    float milliseconds = 0.0F;
    expect(api->start_timer(stream), "start_timer");
    call();
    expect(api->stop_timer(stream, &milliseconds), "stop_timer");
    if (i != 0) measured.push_back(milliseconds);  // the first loads kernels
  }
  std::sort(measured.begin(), measured.end());
  return static_cast<double>(measured[measured.size() / 2]);
}

void row(const char* name, std::size_t rows, std::size_t columns, double milliseconds) {
  std::printf("| %s | %zu × %zu | %.2f |\n", name, rows, columns, milliseconds);
  std::fflush(stdout);
}

void measure(std::size_t rows, std::size_t columns, int times) {
  const std::size_t tokens = columns + 64, group_size = 32;
  const Memory weight(rows * columns * sizeof(float)), gram(columns * columns * sizeof(float));
  const Memory scales(rows * (columns / group_size) * sizeof(float)), codes(rows * columns / 2);
  {
    const Memory x(tokens * columns * sizeof(float));
    fill(x, tokens * columns);
    expect(api->gram->gram(stream, x.data, FloatType::kFloat32, tokens, columns, true, gram.floats()), "gram");
    expect(api->synchronize(stream, nullptr), "synchronize");
  }
  fill(weight, rows * columns);
  std::vector<std::int32_t> groups(columns);
  for (std::size_t j = 0; j < columns; j++) groups[j] = static_cast<std::int32_t>(j / group_size);
  std::vector<float> factors(20);
  for (std::size_t i = 0; i < factors.size(); i++) factors[i] = 1.0F - static_cast<float>(i) / 40.0F;
  double loss = 0.0, damp = 0.0;
  GptqArguments a{};
  a.weight = weight.floats();
  a.rows = rows;
  a.columns = columns;
  a.gram = gram.floats();
  a.groups = groups.data();
  a.group_count = columns / group_size;
  a.passes = 1;
  a.block = 128;
  a.damp = 0.01;
  a.code = {4, true};
  a.lowest = -8;
  a.highest = 7;
  a.symmetric = true;
  a.steps = 7.5F;
  a.factors = factors.data();
  a.importance = Importance::kFactor;
  a.scales = scales.floats();
  a.codes = static_cast<std::uint8_t*>(codes.data);
  a.loss = &loss;
  a.damp_used = &damp;
  Outcome outcome;
  const auto run = [&](const float* sums, std::size_t factor_count) {
    a.gram = sums;
    a.factor_count = factor_count;
    return milliseconds_of(times, [&] {
      expect(api->gptq->gptq(stream, a, &outcome), "gptq");
      expect(outcome, "gptq");
    });
  };
  {
    const Memory factor(columns * columns * sizeof(float)), diagonal(columns * sizeof(float));
    row("factorization", columns, columns, milliseconds_of(times, [&] {
          expect(api->gptq->factorize(stream, gram.floats(), columns, nullptr, 1.0, factor.floats(), diagonal.floats(),
                                      &outcome),
                 "factorize");
          expect(outcome, "factorize");
        }));
  }
  row("rounding, whole ranges", rows, columns, run(nullptr, 1));
  row("GPTQ, whole ranges", rows, columns, run(gram.floats(), 1));
  row("GPTQ, 20 ranges tried", rows, columns, run(gram.floats(), factors.size()));
}

int run(bool quick) {
  const CudaModule& module = cuda_module();
  if (module.api == nullptr) {
    std::fprintf(stderr, "%s\n", module.reason);
    return 1;
  }
  api = module.api;
  expect(api->open_stream(0, &stream), "open_stream");
  std::printf("### GPTQ, int4 in groups of 32\n\n| | rows × columns | ms |\n| --- | --- | ---: |\n");
  if (quick) {
    measure(16, 192, 1);
  } else {
    measure(4096, 4096, 5);
    measure(14336, 4096, 5);
    measure(4096, 14336, 3);
  }
  api->close_stream(stream);
  return 0;
}

}  // namespace
}  // namespace lowbit

int main(int count, char** arguments) { return lowbit::run(count > 1 && std::strcmp(arguments[1], "--quick") == 0); }
