// Operations on tensors in memory of a device: arguments in, work out. Where host calls take arrays, these take handles
// of memory; records are the same. What is written is allocated by the call unless it has been written before.

#include "core/cuda.h"
#include "node/arguments.h"
#include "node/calls.h"
#include "node/codes.h"
#include "node/device.h"
#include "ops/affine/affine_cuda.h"
#include "ops/blocks/blocks_cuda.h"
#include "ops/cast/cast_cuda.h"
#include "ops/codebook/codebook_cuda.h"
#include "ops/codebook/nested_scales.h"

namespace lowbit::node {
namespace {

// deviceCast(input, from, output, to, count, saturate)
Work prepare_cast(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const AnyFloatType from = a.any_float_type(1, "from"), to = a.any_float_type(3, "to");
  const std::size_t count = a.size(4, "count");
  DeviceArguments d(a);
  const MemorySlot input = d.input(0, "input", from.packed_bytes(count));
  const MemorySlot output = d.output(2, "out", to.packed_bytes(count));
  const bool saturate = a.flag(5, "saturate");
  return [=](const CancelFlag* cancel) {
    return on_device(input.device(), cancel, [&](const Device& on) {
      void* const out = output.write<void>(on);
      on.check(on.api().cast->cast(on.stream(), input.read<void>(), from, out, to, saturate, count));
    });
  };
}

// deviceQuantizeAffine(record, input, scales, zeroPoints | null, codes)
Work prepare_quantize(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const AffineQuantization q = read_affine_quantization(a, 0);
  const std::size_t parameters = q.codes.layout.parameter_count();
  DeviceArguments d(a);
  const MemorySlot input = d.input(1, "input", q.codes.count * size_of(q.type));
  const MemorySlot scales = d.updated(2, "scales", parameters * sizeof(float));
  const MemorySlot zero_points = d.optional_output(3, "zeroPoints", parameters * sizeof(std::int32_t));
  const MemorySlot codes = d.output(4, "out", q.codes.bytes());
  a.check(q.given() || q.scheme.symmetric || zero_points, "Expected zeroPoints for an asymmetric scheme.");
  a.check(!q.given() || (scales.is_written() && (!zero_points || zero_points.is_written())),
          "Expected parameters that have been written.");
  return [=](const CancelFlag* cancel) {
    return on_device(input.device(), cancel, [&](const Device& on) {
      auto* const s = scales.write<float>(on);
      auto* const z = zero_points.write<std::int32_t>(on);
      auto* const out = codes.write<std::uint8_t>(on);
      on.check(on.api().affine->quantize(on.stream(), input.read<void>(), q.type, q.codes.layout, q.scheme, q.range,
                                         q.non_finite, s, z, out));
    });
  };
}

// deviceDequantizeAffine(record, codes, scales, zeroPoints | null, output)
Work prepare_dequantize(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Dequantization q = read_affine_dequantization(a, 0);
  const std::size_t parameters = q.codes.layout.parameter_count();
  DeviceArguments d(a);
  const MemorySlot codes = d.input(1, "data", q.codes.bytes());
  const MemorySlot scales = d.input(2, "scales", parameters * sizeof(float));
  const MemorySlot zero_points = d.optional_input(3, "zeroPoints", parameters * sizeof(std::int32_t));
  const MemorySlot output = d.output(4, "out", q.codes.count * size_of(q.type));
  return [=](const CancelFlag* cancel) {
    return on_device(codes.device(), cancel, [&](const Device& on) {
      void* const out = output.write<void>(on);
      on.check(on.api().affine->dequantize(on.stream(), codes.read<std::uint8_t>(), q.codes.type, q.codes.layout,
                                           scales.read<float>(), zero_points.read<std::int32_t>(), out, q.type));
    });
  };
}

// deviceQuantizeCodebook(record, input, scales, globalScale, codes)
Work prepare_quantize_codebook(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const CodebookQuantization q = read_codebook_quantization(a, 0);
  const std::size_t parameters = q.codes.layout.parameter_count();
  DeviceArguments d(a);
  const MemorySlot input = d.input(1, "input", q.codes.count * size_of(q.type));
  const MemorySlot scales = d.updated(2, "scales", parameters * sizeof(float));
  const MemorySlot global_scale = d.updated(3, "globalScale", sizeof(float));
  const MemorySlot codes = d.output(4, "out", q.codes.bytes());
  a.check(q.range.method != RangeChoice::Method::kGiven || scales.is_written(),
          "Expected scales that have been written.");
  a.check(global_scale.is_written(), "Expected a global scale, or 0.");
  return [=](const CancelFlag* cancel) {
    return on_device(input.device(), cancel, [&](const Device& on) {
      auto* const s = scales.write<float>(on);
      auto* const g = global_scale.write<float>(on);
      auto* const out = codes.write<std::uint8_t>(on);
      on.check(on.api().codebook->quantize(on.stream(), input.read<void>(), q.type, q.codes.layout, q.scheme, q.range,
                                           q.non_finite, s, g, out));
    });
  };
}

// deviceDequantizeCodebook(record, codes, scales, output)
Work prepare_dequantize_codebook(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Dequantization q = read_codebook_dequantization(a, 0);
  DeviceArguments d(a);
  const MemorySlot codes = d.input(1, "data", q.codes.bytes());
  const MemorySlot scales = d.input(2, "scales", q.codes.layout.parameter_count() * sizeof(float));
  const MemorySlot output = d.output(3, "out", q.codes.count * size_of(q.type));
  return [=](const CancelFlag* cancel) {
    return on_device(codes.device(), cancel, [&](const Device& on) {
      void* const out = output.write<void>(on);
      on.check(on.api().codebook->dequantize(on.stream(), codes.read<std::uint8_t>(), q.book, q.codes.layout,
                                             scales.read<float>(), out, q.type));
    });
  };
}

// deviceNestScales(scales, codes, absmax, offset): replaces the scales; offset is one number.
Work prepare_nest_scales(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  DeviceArguments d(a);
  const MemorySlot scales = d.input(0, "scales");
  const std::size_t count = scales.bytes() / sizeof(float);
  const MemorySlot codes = d.output(1, "codes", count);
  const MemorySlot absmax = d.output(2, "absmax", sizeof(float) * ceil_div(count, kNestedBlock));
  const MemorySlot offset = d.output(3, "offset", sizeof(float));
  return [=](const CancelFlag* cancel) {
    return on_device(scales.device(), cancel, [&](const Device& on) {
      auto* const c = codes.write<std::uint8_t>(on);
      auto* const m = absmax.write<float>(on);
      auto* const o = offset.write<float>(on);
      on.check(on.api().codebook->nest_scales(on.stream(), scales.write<float>(on), count, c, m, o));
    });
  };
}

// deviceQuantizeBlocks(input, type, rowLength, importance | null, out)
Work prepare_quantize_blocks(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  DeviceArguments d(a);
  const MemorySlot input = d.input(0, "input");
  const auto type = static_cast<BlockType>(a.integer(1, "type", 0, kBlockTypes - 1));
  const BlockFormat& format = format_of(type);
  const std::size_t columns = a.size(2, "rowLength"), count = input.bytes() / sizeof(float);
  a.check(columns != 0 && columns % format.length == 0, "Expected rowLength to be a multiple of the block length.");
  a.check(count % columns == 0, "Expected the input to have whole rows.");
  const MemorySlot importance = d.optional_input(3, "importance", columns * sizeof(float));
  const MemorySlot output = d.output(4, "out", count / format.length * format.bytes);
  return [=](const CancelFlag* cancel) {
    return on_device(input.device(), cancel, [&](const Device& on) {
      auto* const out = output.write<std::uint8_t>(on);
      on.check(on.api().blocks->quantize(on.stream(), input.read<float>(), type, count / columns, columns,
                                         importance.read<float>(), out));
    });
  };
}

// deviceDequantizeBlocks(data, type, out)
Work prepare_dequantize_blocks(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  DeviceArguments d(a);
  const MemorySlot data = d.input(0, "data");
  const auto type = static_cast<BlockType>(a.integer(1, "type", 0, kBlockTypes - 1));
  const BlockFormat& format = format_of(type);
  const std::size_t blocks = data.bytes() / format.bytes;
  a.check(data.bytes() % format.bytes == 0, "Expected data to be whole blocks.");
  const MemorySlot output = d.output(2, "out", checked_product(a, blocks, format.length * sizeof(float)));
  return [=](const CancelFlag* cancel) {
    return on_device(data.device(), cancel, [&](const Device& on) {
      auto* const out = output.write<float>(on);
      on.check(on.api().blocks->dequantize(on.stream(), data.read<std::uint8_t>(), type, blocks, out));
    });
  };
}

}  // namespace

void register_device_tensor_calls(Napi::Env env, Napi::Object exports) {
  register_call<prepare_cast>(env, exports, "deviceCast");
  register_call<prepare_quantize>(env, exports, "deviceQuantizeAffine");
  register_call<prepare_dequantize>(env, exports, "deviceDequantizeAffine");
  register_call<prepare_quantize_codebook>(env, exports, "deviceQuantizeCodebook");
  register_call<prepare_dequantize_codebook>(env, exports, "deviceDequantizeCodebook");
  register_call<prepare_nest_scales>(env, exports, "deviceNestScales");
  register_call<prepare_quantize_blocks>(env, exports, "deviceQuantizeBlocks");
  register_call<prepare_dequantize_blocks>(env, exports, "deviceDequantizeBlocks");
}

}  // namespace lowbit::node
