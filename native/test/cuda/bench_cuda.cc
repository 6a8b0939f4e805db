// What the CUDA module does in a second on the first device, as tables of Markdown, each beside what the device's
// memory could do. Inputs are larger than the second-level cache, or enough copies of them take turns. Times are
// medians of batches, by the device's own clock.
//
// Products that can be made by whole warp groups are timed both ways, one after the other, unless the environment
// variable LOWBIT_CUDA_WARPGROUPS is 0.
//
//   lowbit_cuda_bench [--quick] [--peers=<file>] [<part of a section's name>]
//
// --quick: sizes so small that an emulator can try every call. Its times mean nothing.
// --peers: what bench/peers/pytorch.py printed on the same device, to put beside.

#include <cstring>

#include "bench.h"

namespace lowbit {

// Calls are recorded where the device can, and replayed.
double seconds_of(std::size_t turns, const std::function<CudaStatus(std::size_t)>& call) {
  const int batches = quick ? 1 : 21;
  const std::size_t calls = quick ? 1 : std::max<std::size_t>(turns, 4);
  for (std::size_t i = 0; i < std::min<std::size_t>(turns, quick ? 1 : 3); i++) expect(call(i), "a call");
  expect(api->synchronize(stream, nullptr), "synchronize");
  const auto all = [&] {
    CudaStatus status = CudaStatus::kOk;
    for (std::size_t i = 0; i < calls && status == CudaStatus::kOk; i++) status = call(i % turns);
    return status;
  };
  CudaRecording* recording = nullptr;
  if (api->begin_recording(stream) == CudaStatus::kOk) {
    const CudaStatus queued = all(), ended = api->end_recording(stream, &recording);
    if (queued != CudaStatus::kOk || ended != CudaStatus::kOk) {
      std::fprintf(stderr, "Not recorded, so with the time that calls take: %s\n", api->last_error());
      if (recording != nullptr) api->forget(recording);
      recording = nullptr;
    }
  }
  std::vector<double> times;
  for (int b = 0; b < batches; b++) {
    expect(api->start_timer(stream), "start_timer");
    expect(recording != nullptr ? api->replay(stream, recording) : all(), "a call");
    float milliseconds = 0.0F;
    expect(api->stop_timer(stream, &milliseconds), "stop_timer");
    times.push_back(static_cast<double>(milliseconds) * 1e-3 / static_cast<double>(calls));
  }
  if (recording != nullptr) api->forget(recording);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

namespace {

constexpr std::size_t kSquare = 8192;

void measure_memory() {
  const std::size_t bytes = quick ? std::size_t{1} << 16 : std::size_t{1} << 30;
  const Memory a(bytes), b(bytes);
  fill_codes(a);
  const double copy = seconds_of(1, [&](std::size_t) { return api->copy(stream, b.at(), a.at(), bytes); });
  const double read = seconds_of(1, [&](std::size_t) { return api->read(stream, a.at(), bytes); });
  read_limit = static_cast<double>(bytes) / read;
  copy_limit = 2.0 * static_cast<double>(bytes) / copy;
  std::printf("### Memory, %zu MiB\n\n| | GB/s |\n| --- | ---: |\n", bytes >> 20);
  std::printf("| copy (read and written) | %.0f |\n| read | %.0f |\n\n", 1e-9 * copy_limit, 1e-9 * read_limit);
  const double product = peers.seconds("bfloat16", kSquare, kSquare, kSquare);
  if (product == 0.0) return;
  bfloat16_rate = 2.0 * kSquare * kSquare * kSquare / product;
  std::printf("PyTorch multiplies %zu × %zu matrices of bfloat16 at %.0f TFLOP/s.\n\n", kSquare, kSquare,
              1e-12 * bfloat16_rate);
}

CudaStream* open(const char* warp_groups) {
#if defined(_WIN32)
  static_cast<void>(_putenv_s("LOWBIT_CUDA_WARPGROUPS", warp_groups));
#else
  static_cast<void>(setenv("LOWBIT_CUDA_WARPGROUPS", warp_groups, 1));
#endif
  CudaStream* opened = nullptr;
  expect(api->open_stream(0, &opened), "open_stream");
  return opened;
}

void open_streams() {
  const char* const said = std::getenv("LOWBIT_CUDA_WARPGROUPS");
  const bool without = said != nullptr && std::strcmp(said, "0") == 0;
  tile_stream = stream = open("0");
  if (without) return;
  group_stream = open("1");
  if (api->uses_warp_groups(group_stream)) return;
  api->close_stream(group_stream);
  group_stream = nullptr;
}

int run(int count, char** arguments) {
  std::string part;
  for (int i = 1; i < count; i++) {
    if (std::strcmp(arguments[i], "--quick") == 0) {
      quick = true;
    } else if (std::strncmp(arguments[i], "--peers=", 8) == 0) {
      if (!peers.load(arguments[i] + 8)) std::fprintf(stderr, "%s has no times\n", arguments[i] + 8);
    } else {
      part = arguments[i];
    }
  }
  const CudaModule& module = cuda_module();
  if (module.api == nullptr) {
    std::fprintf(stderr, "%s\n", module.reason);
    return 1;
  }
  api = module.api;
  open_streams();
  expect(api->device_info(0, &device), "device_info");
  std::printf("%s, compute capability %d.%d, %d multiprocessors, %.0f GiB, L2 %.0f MiB.\n\n", device.name, device.major,
              device.minor, device.multiprocessors, static_cast<double>(device.total_bytes) / (1 << 30),
              static_cast<double>(device.l2_bytes) / (1 << 20));
  measure_memory();
  struct Section {
    const char* name;
    void (*measure)();
  };
  const Section sections[] = {{"linear", measure_linear},
                              {"conversions", measure_conversions},
                              {"bytes", measure_bytes},
                              {"gram", measure_gram}};
  for (const Section& section : sections) {
    if (std::string(section.name).find(part) != std::string::npos) section.measure();
    std::fflush(stdout);
  }
  api->close_stream(group_stream);
  api->close_stream(tile_stream);
  return 0;
}

}  // namespace
}  // namespace lowbit

int main(int count, char** arguments) { return lowbit::run(count, arguments); }
