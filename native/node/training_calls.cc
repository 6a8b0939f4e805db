// Fake quantization and observers: arguments in, work out. The order of the arguments is that of lib/addon/raw.ts.
// Calls on a device take memory where others take arrays, and look at no parameters; records are the same.

#include <cmath>

#include "node/arguments.h"
#include "node/calls.h"
#include "node/device.h"
#include "node/record.h"
#include "ops/fake_quantize/fake_quantize.h"
#include "ops/fake_quantize/fake_quantize_cuda.h"
#include "ops/observe/observe.h"

namespace lowbit::node {
namespace {

constexpr int kStepLimit = 1 << 20;

// blocks, count, inner
Channels read_channels(const Arguments& a, Record& record) {
  Channels channels{};
  channels.blocks = record.size();
  channels.count = record.size(1);
  channels.inner = record.size();
  checked_product(a, checked_product(a, checked_product(a, channels.blocks, channels.count), channels.inner), 8);
  return channels;
}

Bytes elements(const Arguments& a, std::size_t i, const char* name, std::size_t count) {
  const Bytes bytes = a.array(i, name, napi_float32_array);
  a.check(bytes.size == count * sizeof(float), "Expected tensors to have as many elements as the shape says.");
  return bytes;
}

Bytes mask_at(const Arguments& a, std::size_t i, std::size_t count) {
  const Bytes mask = a.array(i, "mask", napi_uint8_array);
  a.check(mask.size == count, "Expected the mask to have as many elements as the tensor.");
  return mask;
}

Bytes scales_at(const Arguments& a, std::size_t i, std::size_t count) {
  const Bytes scales = a.array(i, "scales", napi_float32_array);
  a.check(scales.size == count * sizeof(float), "Expected as many scales as channels.");
  check_scales(a, "scales", scales.as<const float>(), count, true);
  return scales;
}

// No output may overlap an input or another output.
void check_apart(const Arguments& a, std::initializer_list<Bytes> outputs, std::initializer_list<Bytes> inputs) {
  for (const Bytes* out = outputs.begin(); out != outputs.end(); out++) {
    for (const Bytes& in : inputs) a.check(!out->overlaps(in), "Expected out not to overlap the input.");
    for (const Bytes* other = outputs.begin(); other != out; other++) {
      a.check(!out->overlaps(*other), "Expected the arrays of out not to overlap each other.");
    }
  }
}

struct Integers {
  Channels channels;
  IntegerQuantizer quantizer;
  Bytes scales, zero_points;
};

// The numbers of the channels, then lowest, highest.
Integers read_steps(const Arguments& a, Record& record) {
  Integers q{};
  q.channels = read_channels(a, record);
  q.quantizer.lowest = static_cast<int>(record.integer(-kStepLimit, kStepLimit));
  q.quantizer.highest = static_cast<int>(record.integer(q.quantizer.lowest, kStepLimit));
  return q;
}

// The same, then scales at `i`, zero points (or null) at i + 1.
Integers read_integers(const Arguments& a, Record& record, std::size_t i) {
  Integers q = read_steps(a, record);
  q.scales = scales_at(a, i, q.channels.count);
  q.quantizer.scales = q.scales.as<const float>();
  for (std::size_t c = 0; c < q.channels.count; c++) {
    if (std::isfinite(1.0F / q.quantizer.scales[c])) continue;
    a.fail("Expected scales with finite reciprocals, greater than 2^-128, but received one that is smaller at index " +
               std::to_string(c) + ".",
           "scales");
  }
  q.zero_points = a.optional_array(i + 1, "zeroPoints", napi_int32_array, q.channels.count);
  q.quantizer.zero_points = q.zero_points.as<const std::int32_t>();
  check_zero_points(a, "zeroPoints", q.quantizer.zero_points, q.channels.count, q.quantizer.lowest,
                    q.quantizer.highest);
  return q;
}

// fakeQuantizeIntegers(record, input, scales, zeroPoints | null, out, mask); the record: blocks, count, inner, lowest,
// highest, rounding.
Work prepare_integers(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 6);
  const Integers q = read_integers(a, record, 2);
  const auto rounding = static_cast<Rounding>(record.integer(0, 1));
  const std::size_t count = q.channels.element_count();
  const Bytes input = elements(a, 1, "input", count), out = elements(a, 4, "out", count), mask = mask_at(a, 5, count);
  check_apart(a, {out, mask}, {input, q.scales, q.zero_points});
  return [=](const CancelFlag* cancel) {
    return fake_quantize_integers(input.as<const float>(), q.channels, q.quantizer, rounding, out.as<float>(),
                                  mask.data, cancel);
  };
}

// fakeQuantizeScaled(record, input, scales, out, mask); the record: blocks, count, inner, element type.
Work prepare_scaled(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 4);
  const Channels channels = read_channels(a, record);
  const auto type = static_cast<ElementType>(record.integer(0, kElementTypes - 1));
  const std::size_t count = channels.element_count();
  const Bytes input = elements(a, 1, "input", count), scales = scales_at(a, 2, channels.count);
  const Bytes out = elements(a, 3, "out", count), mask = mask_at(a, 4, count);
  check_apart(a, {out, mask}, {input, scales});
  return [=](const CancelFlag* cancel) {
    return fake_quantize_scaled(input.as<const float>(), channels, type, scales.as<const float>(), out.as<float>(),
                                mask.data, cancel);
  };
}

struct Blocks {
  std::size_t rows, columns, count, length;
  ElementType type;
  BlockScale scale;
};

Blocks read_blocks(const Arguments& a) {
  Record record(a, 0, 6);
  Blocks b{};
  b.rows = record.size();
  b.columns = record.size();
  b.count = checked_product(a, b.rows, b.columns);
  b.length = record.size();
  b.type = static_cast<ElementType>(record.integer(0, kElementTypes - 1));
  b.scale.power_of_two = record.flag();
  b.scale.global = static_cast<float>(record.number());
  a.check(b.length == 16 || b.length == 32, "Expected blocks of 16 or 32 elements.");
  a.check(b.scale.global >= 0.0F && std::isfinite(b.scale.global), "Expected a scale that is finite and not negative.");
  return b;
}

// fakeQuantizeBlocks(record, input, out, mask); the record: rows, columns, length, element type, power of two, global.
Work prepare_blocks(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Blocks b = read_blocks(a);
  const Bytes input = elements(a, 1, "input", b.count), out = elements(a, 2, "out", b.count);
  const Bytes mask = mask_at(a, 3, b.count);
  check_apart(a, {out, mask}, {input});
  return [=](const CancelFlag* cancel) {
    return fake_quantize_blocks(input.as<const float>(), b.rows, b.columns, b.length, b.type, b.scale, out.as<float>(),
                                mask.data, cancel);
  };
}

// straightThrough(gradient, mask, out)
Work prepare_straight_through(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes gradient = a.array(0, "gradient", napi_float32_array);
  const std::size_t count = gradient.size / sizeof(float);
  const Bytes mask = mask_at(a, 1, count), out = elements(a, 2, "out", count);
  check_apart(a, {out}, {gradient, mask});
  return [=](const CancelFlag* cancel) {
    return straight_through(gradient.as<const float>(), mask.data, count, out.as<float>(), cancel);
  };
}

// fakeQuantizeGradients(record, gradient, input, scales, zeroPoints | null, out, outScales, outZeroPoints); the record:
// blocks, count, inner, lowest, highest, factor.
Work prepare_gradients(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 6);
  const Integers q = read_integers(a, record, 3);
  const double factor = record.number();
  const std::size_t count = q.channels.element_count();
  const Bytes gradient = elements(a, 1, "gradient", count), input = elements(a, 2, "input", count);
  const Bytes out = elements(a, 5, "out.input", count);
  const Bytes scales = elements(a, 6, "out.scales", q.channels.count);
  const Bytes zero_points = elements(a, 7, "out.zeroPoints", q.channels.count);
  check_apart(a, {out, scales, zero_points}, {gradient, input, q.scales, q.zero_points});
  return [=](const CancelFlag* cancel) {
    return fake_quantize_gradients(gradient.as<const float>(), input.as<const float>(), q.channels, q.quantizer, factor,
                                   {out.as<float>(), scales.as<float>(), zero_points.as<float>()}, cancel);
  };
}

// --- on a device ---

MemorySlot device_floats(DeviceArguments& d, std::size_t i, const char* name, std::size_t count) {
  return d.input(i, name, count * sizeof(float));
}

// deviceFakeQuantizeIntegers(record, input, scales, zeroPoints | null, out, mask)
Work prepare_device_integers(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 6);
  const Integers q = read_steps(a, record);
  const auto rounding = static_cast<Rounding>(record.integer(0, 1));
  const std::size_t count = q.channels.element_count();
  DeviceArguments d(a);
  const MemorySlot input = device_floats(d, 1, "input", count),
                   scales = device_floats(d, 2, "scales", q.channels.count);
  const MemorySlot zero_points = d.optional_input(3, "zeroPoints", q.channels.count * sizeof(std::int32_t));
  const MemorySlot out = d.output(4, "out.output", count * sizeof(float)), mask = d.output(5, "out.mask", count);
  return [=](const CancelFlag* cancel) {
    return on_device(input.device(), cancel, [&](const Device& on) {
      IntegerQuantizer quantizer = q.quantizer;
      quantizer.scales = scales.read<float>();
      quantizer.zero_points = zero_points.read<std::int32_t>();
      auto* const y = out.write<float>(on);
      auto* const m = mask.write<std::uint8_t>(on);
      on.check(
          on.api().fake_quantize->integers(on.stream(), input.read<float>(), q.channels, quantizer, rounding, y, m));
    });
  };
}

// deviceFakeQuantizeScaled(record, input, scales, out, mask)
Work prepare_device_scaled(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 4);
  const Channels channels = read_channels(a, record);
  const auto type = static_cast<ElementType>(record.integer(0, kElementTypes - 1));
  const std::size_t count = channels.element_count();
  DeviceArguments d(a);
  const MemorySlot input = device_floats(d, 1, "input", count), scales = device_floats(d, 2, "scales", channels.count);
  const MemorySlot out = d.output(3, "out.output", count * sizeof(float)), mask = d.output(4, "out.mask", count);
  return [=](const CancelFlag* cancel) {
    return on_device(input.device(), cancel, [&](const Device& on) {
      auto* const y = out.write<float>(on);
      auto* const m = mask.write<std::uint8_t>(on);
      on.check(
          on.api().fake_quantize->scaled(on.stream(), input.read<float>(), channels, type, scales.read<float>(), y, m));
    });
  };
}

// deviceFakeQuantizeBlocks(record, input, out, mask)
Work prepare_device_blocks(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Blocks b = read_blocks(a);
  DeviceArguments d(a);
  const MemorySlot input = device_floats(d, 1, "input", b.count);
  const MemorySlot out = d.output(2, "out.output", b.count * sizeof(float)), mask = d.output(3, "out.mask", b.count);
  return [=](const CancelFlag* cancel) {
    return on_device(input.device(), cancel, [&](const Device& on) {
      auto* const y = out.write<float>(on);
      auto* const m = mask.write<std::uint8_t>(on);
      on.check(on.api().fake_quantize->blocks(on.stream(), input.read<float>(), b.rows, b.columns, b.length, b.type,
                                              b.scale, y, m));
    });
  };
}

// deviceStraightThrough(gradient, mask, out)
Work prepare_device_straight_through(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  DeviceArguments d(a);
  const MemorySlot mask = d.input(1, "mask");
  const std::size_t count = mask.bytes();
  const MemorySlot gradient = device_floats(d, 0, "gradient", count), out = d.output(2, "out", count * sizeof(float));
  return [=](const CancelFlag* cancel) {
    return on_device(gradient.device(), cancel, [&](const Device& on) {
      auto* const dx = out.write<float>(on);
      on.check(on.api().fake_quantize->straight_through(on.stream(), gradient.read<float>(), mask.read<std::uint8_t>(),
                                                        count, dx));
    });
  };
}

// deviceFakeQuantizeGradients(record, gradient, input, scales, zeroPoints | null, out, outScales, outZeroPoints)
Work prepare_device_gradients(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 6);
  const Integers q = read_steps(a, record);
  const double factor = record.number();
  const std::size_t count = q.channels.element_count(), channels = q.channels.count;
  DeviceArguments d(a);
  const MemorySlot gradient = device_floats(d, 1, "gradient", count), input = device_floats(d, 2, "input", count);
  const MemorySlot scales = device_floats(d, 3, "scales", channels);
  const MemorySlot zero_points = d.optional_input(4, "zeroPoints", channels * sizeof(std::int32_t));
  const MemorySlot out = d.output(5, "out.input", count * sizeof(float));
  const MemorySlot out_scales = d.output(6, "out.scales", channels * sizeof(float));
  const MemorySlot out_zero_points = d.output(7, "out.zeroPoints", channels * sizeof(float));
  return [=](const CancelFlag* cancel) {
    return on_device(gradient.device(), cancel, [&](const Device& on) {
      IntegerQuantizer quantizer = q.quantizer;
      quantizer.scales = scales.read<float>();
      quantizer.zero_points = zero_points.read<std::int32_t>();
      auto* const dx = out.write<float>(on);
      auto* const ds = out_scales.write<float>(on);
      auto* const dz = out_zero_points.write<float>(on);
      on.check(on.api().fake_quantize->gradients(on.stream(), gradient.read<float>(), input.read<float>(), q.channels,
                                                 quantizer, factor, {dx, ds, dz}));
    });
  };
}

// --- observers ---

// observeRanges(record, input, min, max); the record: blocks, count, inner.
Work prepare_ranges(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 3);
  const Channels channels = read_channels(a, record);
  const Bytes input = elements(a, 1, "input", channels.element_count());
  const Bytes min = elements(a, 2, "min", channels.count), max = elements(a, 3, "max", channels.count);
  check_apart(a, {min, max}, {input});
  return [=](const CancelFlag* cancel) {
    return observe_ranges(input.as<const float>(), channels, min.as<float>(), max.as<float>(), cancel);
  };
}

// Half the bins of `tables` histograms that lie one after the other.
std::size_t half_bins(const Arguments& a, const Bytes& counts, std::size_t tables) {
  const std::size_t half = counts.size / sizeof(double) / 2 / tables;
  a.check(half >= kLeastHalfBins && half <= kMostHalfBins && (half & (half - 1)) == 0 &&
              counts.size == tables * half * 2 * sizeof(double),
          "Expected histograms of a power of two of bins.");
  return half;
}

// observeHistogram(input, range, exponent, counts): range receives min and max.
Work prepare_histogram(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes input = a.array(0, "input", napi_float32_array);
  const Bytes range = elements(a, 1, "range", 2), exponent = a.array(2, "exponent", napi_int32_array);
  const Bytes counts = a.array(3, "counts", napi_float64_array);
  const std::size_t half = half_bins(a, counts, 1);
  a.check(exponent.size == sizeof(std::int32_t), "Expected room for one exponent.");
  check_apart(a, {range, exponent, counts}, {input});
  return [=](const CancelFlag* cancel) {
    auto* const ends = range.as<float>();
    return observe_histogram(input.as<const float>(), input.size / sizeof(float), half, ends, ends + 1,
                             exponent.as<std::int32_t>(), counts.as<double>(), cancel);
  };
}

// observeCounts(record, input, exponents, counts); the record: blocks, count, inner.
Work prepare_counts(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 3);
  const Channels channels = read_channels(a, record);
  const Bytes input = elements(a, 1, "input", channels.element_count());
  const Bytes exponents = a.array(2, "exponents", napi_int32_array), counts = a.array(3, "counts", napi_float64_array);
  a.check(exponents.size == channels.count * sizeof(std::int32_t), "Expected as many exponents as channels.");
  const std::size_t half = half_bins(a, counts, channels.count);
  for (std::size_t c = 0; c < channels.count; c++) {
    const std::int32_t e = exponents.as<const std::int32_t>()[c];
    a.check(e >= kLowestGridExponent && e <= kHighestGridExponent, "Expected exponents in range.");
  }
  check_apart(a, {counts}, {input, exponents});
  return [=](const CancelFlag* cancel) {
    return observe_counts(input.as<const float>(), channels, half, exponents.as<const std::int32_t>(),
                          counts.as<double>(), cancel);
  };
}

}  // namespace

void register_training_calls(Napi::Env env, Napi::Object exports) {
  register_call<prepare_integers>(env, exports, "fakeQuantizeIntegers");
  register_call<prepare_scaled>(env, exports, "fakeQuantizeScaled");
  register_call<prepare_blocks>(env, exports, "fakeQuantizeBlocks");
  register_call<prepare_straight_through>(env, exports, "straightThrough");
  register_call<prepare_gradients>(env, exports, "fakeQuantizeGradients");
  register_call<prepare_device_integers>(env, exports, "deviceFakeQuantizeIntegers");
  register_call<prepare_device_scaled>(env, exports, "deviceFakeQuantizeScaled");
  register_call<prepare_device_blocks>(env, exports, "deviceFakeQuantizeBlocks");
  register_call<prepare_device_straight_through>(env, exports, "deviceStraightThrough");
  register_call<prepare_device_gradients>(env, exports, "deviceFakeQuantizeGradients");
  register_call<prepare_ranges>(env, exports, "observeRanges");
  register_call<prepare_histogram>(env, exports, "observeHistogram");
  register_call<prepare_counts>(env, exports, "observeCounts");
}

}  // namespace lowbit::node
