// Conversions, beside copying as many bytes.

#include "bench.h"
#include "ops/affine/affine_cuda.h"
#include "ops/blocks/blocks_cuda.h"
#include "ops/codebook/codebook_cuda.h"
#include "ops/fake_quantize/fake_quantize_cuda.h"

namespace lowbit {
namespace {

void conversion_row(const char* name, std::size_t count, double bytes, double seconds) {
  std::printf("| %s | %.1f | %.0f | %.0f %% | %s |\n", name, seconds * 1e6, 1e-9 * bytes / seconds,
              100.0 * bytes / seconds / copy_limit, peers.times(name, count, 1, 1, seconds).c_str());
}

}  // namespace

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

}  // namespace lowbit
