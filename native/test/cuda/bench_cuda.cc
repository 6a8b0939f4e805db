// What the CUDA module does in a second on the first device, as tables of Markdown, each beside what the device's
// memory could do. Inputs are larger than the second-level cache, or enough copies of them take turns. Times are
// medians of batches, by the device's own clock.
//
//   lowbit_cuda_bench [--quick] [--peers=<file>] [<part of a section's name>]
//
// --quick: sizes so small that an emulator can try every call. Its times mean nothing.
// --peers: what bench/peers/pytorch.py printed on the same device, to put beside.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/cuda.h"
#include "ops/affine/affine_cuda.h"
#include "ops/blocks/blocks_cuda.h"
#include "ops/cast/cast_cuda.h"
#include "ops/codebook/codebook_cuda.h"
#include "ops/fake_quantize/fake_quantize_cuda.h"
#include "ops/matmul/float8_cuda.h"
#include "ops/matmul/gram_cuda.h"
#include "ops/matmul/integer_cuda.h"
#include "ops/matmul/linear_cuda.h"
#include "peers.h"

namespace lowbit {
namespace {

const CudaApi* api = nullptr;
CudaStream* stream = nullptr;
CudaDeviceInfo device{};
bool quick = false;
double read_limit = 0.0, copy_limit = 0.0;  // bytes per second, of copies read and written ones
double bfloat16_rate = 0.0;                 // operations per second, if it is known
Peers peers;
constexpr std::size_t kSquare = 8192;

void expect(CudaStatus status, const char* what) {
  if (status == CudaStatus::kOk) return;
  std::fprintf(stderr, "%s: status %d, %s\n", what, static_cast<int>(status), api->last_error());
  std::exit(1);
}

class Memory {
 public:
  explicit Memory(std::size_t bytes) : bytes_(bytes) { expect(api->allocate(stream, bytes, &memory_), "allocate"); }
  ~Memory() { api->release(stream, memory_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  template <typename T = unsigned char>
  T* at(std::size_t byte = 0) const {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(memory_) + byte);
  }
  // Repeats some bytes of the host over all of it.
  void fill(const void* bytes, std::size_t count) const {
    const std::size_t first = std::min(count, bytes_);
    expect(api->upload(stream, memory_, bytes, first), "upload");
    for (std::size_t done = first; done < bytes_;) {
      const std::size_t next = std::min(done, bytes_ - done);
      expect(api->copy(stream, at(done), memory_, next), "copy");
      done += next;
    }
    expect(api->synchronize(stream, nullptr), "synchronize");
  }

 private:
  std::size_t bytes_;
  void* memory_ = nullptr;
};

std::uint64_t random_state = 1;
std::uint64_t random_bits() {  // SplitMix64
  std::uint64_t z = (random_state += 0x9e3779b97f4a7c15U);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

constexpr std::size_t kPattern = std::size_t{1} << 20;

// Random bytes; no element of 8 bits is 0x7f or 0xff, nor above E5M2's largest: no NaN of a float of eight bits.
void fill_codes(const Memory& memory) {
  std::vector<std::uint8_t> bytes(kPattern);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random_bits() & 0xbbU);
  memory.fill(bytes.data(), bytes.size());
}
// Numbers between −1 and 1, or between low and high.
void fill_floats(const Memory& memory, FloatType type, float low = -1.0F, float high = 1.0F) {
  std::vector<float> floats(kPattern / 4);
  for (float& x : floats) x = low + (high - low) * (static_cast<float>(random_bits() >> 40) * 0x1p-24F);
  if (type == FloatType::kFloat32) return memory.fill(floats.data(), kPattern);
  const Memory from(kPattern), to(kPattern / 2);
  from.fill(floats.data(), kPattern);
  expect(api->cast->cast(stream, from.at(), FloatType::kFloat32, to.at(), type, false, floats.size()), "cast");
  std::vector<std::uint16_t> halves(floats.size());
  expect(api->download(stream, halves.data(), to.at(), kPattern / 2), "download");
  expect(api->synchronize(stream, nullptr), "synchronize");
  memory.fill(halves.data(), kPattern / 2);
}

// Seconds of one call(i), i in turn from 0 to turns − 1.
double seconds_of(std::size_t turns, const std::function<CudaStatus(std::size_t)>& call) {
  const int batches = quick ? 1 : 21;
  const std::size_t calls = quick ? 1 : std::max<std::size_t>(turns, 4);
  for (std::size_t i = 0; i < std::min<std::size_t>(turns, quick ? 1 : 3); i++) expect(call(i), "a call");
  expect(api->synchronize(stream, nullptr), "synchronize");
  std::vector<double> times;
  for (int b = 0; b < batches; b++) {
    expect(api->start_timer(stream), "start_timer");
    for (std::size_t i = 0; i < calls; i++) expect(call(i % turns), "a call");
    float milliseconds = 0.0F;
    expect(api->stop_timer(stream, &milliseconds), "stop_timer");
    times.push_back(static_cast<double>(milliseconds) * 1e-3 / static_cast<double>(calls));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Copies of so many bytes that take turns past the second-level cache.
std::size_t turns_for(std::size_t bytes) {
  if (quick) return 1;
  return std::max<std::size_t>(2, 3 * static_cast<std::size_t>(device.l2_bytes) / std::max<std::size_t>(bytes, 1) + 1);
}

const char* name_of(FloatType type) {
  return type == FloatType::kFloat32 ? "float32" : type == FloatType::kFloat16 ? "float16" : "bfloat16";
}

// --- memory ---

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

// --- conversions ---

void conversion_row(const char* name, std::size_t count, double bytes, double seconds) {
  std::printf("| %s | %.1f | %.0f | %.0f %% | %s |\n", name, seconds * 1e6, 1e-9 * bytes / seconds,
              100.0 * bytes / seconds / copy_limit, peers.times(name, count, 1, 1, seconds).c_str());
}

void measure_conversions() {
  const std::size_t count = quick ? std::size_t{1} << 12 : std::size_t{1} << 26;  // 256 MiB of float32
  const std::size_t turns = quick ? 1 : 2, columns = quick ? 512 : 4096;
  std::printf("### Conversion of %zu elements\n\n", count);
  std::printf("| | µs | GB/s, read and written | of copying | faster than PyTorch |\n");
  std::printf("| --- | ---: | ---: | ---: | ---: |\n");
  const Memory floats(turns * count * 4), result(turns * count * 4), scales(count), zeros(count), global(256);
  const auto elements = static_cast<double>(count);
  struct Pair {
    const char* name;
    FloatType from;
    AnyFloatType to;
  };
  const Pair pairs[] = {{"float32 → bfloat16", FloatType::kFloat32, FloatType::kBfloat16},
                        {"float32 → float16", FloatType::kFloat32, FloatType::kFloat16},
                        {"bfloat16 → float32", FloatType::kBfloat16, FloatType::kFloat32},
                        {"float32 → E4M3", FloatType::kFloat32, SmallFloatType::kFloat8E4m3fn},
                        {"bfloat16 → E4M3", FloatType::kBfloat16, SmallFloatType::kFloat8E4m3fn}};
  for (const Pair& pair : pairs) {
    fill_floats(floats, pair.from);
    const double bytes = elements * (static_cast<double>(size_of(pair.from)) + static_cast<double>(pair.to.bits()) / 8);
    const double seconds = seconds_of(turns, [&](std::size_t i) {
      return api->cast->cast(stream, floats.at(i * count * 4), pair.from, result.at(i * count * 4), pair.to, true,
                             count);
    });
    conversion_row(pair.name, count, bytes, seconds);
  }
  fill_floats(floats, FloatType::kBfloat16);
  struct Choice {
    const char* name;
    CodeType code;
    bool symmetric;
    std::size_t group;
  };
  const Choice choices[] = {{"int4, groups of 128", {4, true}, true, 128},
                            {"uint4 asymmetric, groups of 128", {4, false}, false, 128},
                            {"int8, groups of 128", {8, true}, true, 128},
                            {"int8, per row", {8, true}, true, columns}};
  for (const Choice& choice : choices) {
    if (api->affine == nullptr) {
      std::printf("| affine quantization | missing | | | |\n");
      break;
    }
    const AffineLayout layout{count / columns, columns, choice.group, 1, columns};
    const AffineScheme scheme{choice.code, choice.symmetric, choice.code.lowest() + (choice.symmetric ? 1 : 0),
                              choice.code.highest(), FloatType::kFloat16};
    const double code_bytes = elements * choice.code.bits / 8,
                 parameters = elements / static_cast<double>(choice.group);
    const double bytes = 2 * elements + code_bytes + parameters * (choice.symmetric ? 4 : 8);
    auto* const zero_points = choice.symmetric ? nullptr : zeros.at<std::int32_t>();
    const double quantize = seconds_of(turns, [&](std::size_t i) {
      return api->affine->quantize(stream, floats.at(i * count * 2), FloatType::kBfloat16, layout, scheme,
                                   {RangeChoice::Method::kMinMax, 0.0}, NonFinite::kThrow, scales.at<float>(),
                                   zero_points, result.at(i * count));
    });
    conversion_row((std::string("bfloat16 → ") + choice.name).c_str(), count, bytes, quantize);
    const double dequantize = seconds_of(turns, [&](std::size_t i) {
      return api->affine->dequantize(stream, result.at(i * count), choice.code, layout, scales.at<float>(), zero_points,
                                     floats.at(i * count * 2), FloatType::kBfloat16);
    });
    conversion_row((std::string(choice.name) + " → bfloat16").c_str(), count, bytes, dequantize);
  }
  if (api->codebook == nullptr) {
    std::printf("| codebooks | missing | | | |\n");
  } else {
    struct Book {
      const char* name;
      CodebookScheme scheme;
      std::size_t group;
    };
    const Book books[] = {
        {"NF4, groups of 64", {Codebook::kNf4, ScaleRule::kAbsmax, FloatType::kFloat32}, 64},
        {"MXFP4, groups of 32", {Codebook::kE2m1, ScaleRule::kPowerOfTwo, FloatType::kFloat32}, 32},
        {"NVFP4, groups of 16, global scale given", {Codebook::kE2m1, ScaleRule::kNvfp4, FloatType::kFloat32}, 16},
        {"E4M3, per row", {Codebook::kE4m3fn, ScaleRule::kLargest, FloatType::kFloat32}, columns}};
    const float global_scale = 2688.0F;
    global.fill(&global_scale, sizeof global_scale);
    for (const Book& book : books) {
      const AffineLayout layout{count / columns, columns, book.group, 1, columns};
      const double bytes =
          elements * (2 + format_of(book.scheme.book).bits / 8.0 + 4.0 / static_cast<double>(book.group));
      fill_floats(floats, FloatType::kBfloat16);
      const double quantize = seconds_of(turns, [&](std::size_t i) {
        return api->codebook->quantize(stream, floats.at(i * count * 2), FloatType::kBfloat16, layout, book.scheme,
                                       {RangeChoice::Method::kMinMax, 0.0}, NonFinite::kThrow, scales.at<float>(),
                                       global.at<float>(), result.at(i * count));
      });
      conversion_row((std::string("bfloat16 → ") + book.name).c_str(), count, bytes, quantize);
      const double dequantize = seconds_of(turns, [&](std::size_t i) {
        return api->codebook->dequantize(stream, result.at(i * count), book.scheme.book, layout, scales.at<float>(),
                                         floats.at(i * count * 2), FloatType::kBfloat16);
      });
      conversion_row((std::string(book.name) + " → bfloat16").c_str(), count, bytes, dequantize);
    }
  }
  struct Block {
    const char* name;
    BlockType type;
    bool quantizes;
  };
  const Block blocks[] = {{"Q4_0", BlockType::kQ4_0, true},
                          {"Q8_0", BlockType::kQ8_0, true},
                          {"Q4_K", BlockType::kQ4_K, false},
                          {"Q6_K", BlockType::kQ6_K, false}};
  for (const Block& block : blocks) {
    const BlockFormat& format = format_of(block.type);
    const double bytes = elements * (4 + static_cast<double>(format.bytes) / format.length);
    if (block.quantizes) {
      fill_floats(floats, FloatType::kFloat32);
      const double quantize = seconds_of(turns, [&](std::size_t i) {
        return api->blocks->quantize(stream, floats.at<float>(i * count * 4), block.type, count / columns, columns,
                                     nullptr, result.at(i * count * 4));
      });
      conversion_row((std::string("float32 → ") + block.name).c_str(), count, bytes, quantize);
    }
    fill_codes(result);
    const double dequantize = seconds_of(turns, [&](std::size_t i) {
      return api->blocks->dequantize(stream, result.at(i * count * 4), block.type, count / format.length,
                                     floats.at<float>(i * count * 4));
    });
    conversion_row((std::string(block.name) + " → float32").c_str(), count, bytes, dequantize);
  }
  fill_floats(floats, FloatType::kFloat32);
  fill_floats(scales, FloatType::kFloat32, 0.007F, 0.009F);
  const Channels channels{1, count / columns, columns};
  const Memory masks(turns * count);
  const double fake = seconds_of(turns, [&](std::size_t i) {
    return api->fake_quantize->integers(stream, floats.at<float>(i * count * 4), channels,
                                        {scales.at<float>(), nullptr, -128, 127}, Rounding::kHalfEven,
                                        result.at<float>(i * count * 4), masks.at(i * count));
  });
  conversion_row("float32 → fake int8 and its mask, per row", count, elements * 9, fake);
  std::printf("\n");
}

// --- linear layers ---

struct WeightKind {
  const char* name;
  CudaWeightKind kind;
  CodeType code;
  Codebook book;
  bool zeros;
  std::size_t group;  // 0: per row
  FloatType x_type;
};

struct Shape {
  std::size_t n, k;
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
    const double seconds = seconds_of(turns, [&](std::size_t i) {
      a.weight = weights.at(i * weight_bytes);
      return api->linear->linear(stream, &a);
    });
    const double bytes = static_cast<double>(weight_bytes + m * k * size_of(kind.x_type) + m * n * 2);
    std::printf("| %s, x %s | %zu × %zu | %zu | %.1f | %.0f | %.0f %% | %.1f | %s | %s |\n", kind.name,
                name_of(kind.x_type), n, k, m, seconds * 1e6, 1e-9 * bytes / seconds,
                100.0 * bytes / seconds / read_limit,
                2e-12 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) / seconds,
                peers.times("bfloat16", m, n, k, seconds).c_str(), peers.times("int4", m, n, k, seconds).c_str());
    std::fflush(stdout);
  }
  std::fprintf(stderr, "%s %zu × %zu: packed in %.1f µs\n", kind.name, n, k, pack * 1e6);
}

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
      quick ? std::vector<std::size_t>{1, 16, 64} : std::vector<std::size_t>{1, 4, 16, 32, 64, 256, 2048};
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

// --- integer and 8-bit float products, Gram matrix ---

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

void measure_bytes() {
  std::printf("### Products of bytes\n\n");
  std::printf("| | M | N × K | µs | TOP/s | of twice bfloat16 | faster than PyTorch |\n");
  std::printf("| --- | ---: | --- | ---: | ---: | ---: | ---: |\n");
  const std::vector<Shape> shapes =
      quick ? std::vector<Shape>{{128, 256}} : std::vector<Shape>{{4096, 4096}, {14336, 4096}, {8192, 28672}};
  const std::vector<std::size_t> tokens =
      quick ? std::vector<std::size_t>{16} : std::vector<std::size_t>{16, 256, 2048, 4096};
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
        calls.push_back({"int8, by warp groups", "int8",
                         [&, with](std::size_t i) { return api->integer->linear_by_groups(stream, with(i)); }});
      }
      if (api->float8 != nullptr) {
        const auto with = [&](std::size_t i) {
          floats.w = w.at(i * n * k);
          return floats;
        };
        calls.push_back(
            {"E4M3", "float8_e4m3fn", [&, with](std::size_t i) { return api->float8->linear(stream, with(i)); }});
        calls.push_back({"E4M3, by warp groups", "float8_e4m3fn",
                         [&, with](std::size_t i) { return api->float8->linear_by_groups(stream, with(i)); }});
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
  expect(api->open_stream(0, &stream), "open_stream");
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
  api->close_stream(stream);
  return 0;
}

}  // namespace
}  // namespace lowbit

int main(int count, char** arguments) { return lowbit::run(count, arguments); }
