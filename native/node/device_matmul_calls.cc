// Matrix products on a device, and what packs weights for them: arguments in, work out.

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/cuda.h"
#include "core/float_bits.h"
#include "node/arguments.h"
#include "node/calls.h"
#include "node/codes.h"
#include "node/device.h"
#include "node/record.h"
#include "node/weights.h"
#include "ops/matmul/float8_cuda.h"
#include "ops/matmul/gram_cuda.h"
#include "ops/matmul/integer_cuda.h"
#include "ops/matmul/linear_cuda.h"

namespace lowbit::node {
namespace {

CudaWeightSource source_of(const CodesSource& codes) {
  CudaWeightSource source{};
  source.kind = CudaWeightKind::kCodes;
  source.code = codes.type;
  source.rows = codes.rows;
  source.columns = codes.columns;
  source.rows_alike = 1;
  source.row_stride = codes.row_stride;
  source.group_size = codes.group_size;
  source.scale_type = FloatType::kFloat32;
  return source;
}

CudaWeightSource source_of(const CodebookSource& codes) {
  CudaWeightSource source{};
  source.kind = CudaWeightKind::kCodebook;
  source.book = codes.book;
  source.rows = codes.rows;
  source.columns = codes.columns;
  source.rows_alike = codes.rows_alike;
  source.row_stride = codes.row_stride;
  source.group_size = codes.group_size;
  source.scale_type = FloatType::kFloat32;
  return source;
}

// Scales that float16 holds as they are take half the memory.
FloatType type_of_scales(const std::vector<float>& scales) {
  for (const float scale : scales) {
    if (float_of_float16(float16_of(scale)) != scale) return FloatType::kFloat32;
  }
  return FloatType::kFloat16;
}

// Parameters that are on the device already are looked at here: they are few, and packed weights rely on them.
template <typename T>
std::vector<T> host_copy(const Device& on, const MemorySlot& memory) {
  std::vector<T> values(memory.bytes() / sizeof(T));
  if (!values.empty()) {
    on.check(on.api().download(on.stream(), values.data(), memory.read<void>(), memory.bytes()));
    on.check(on.api().synchronize(on.stream(), nullptr));
  }
  return values;
}

void check_values(const std::vector<float>& scales) {
  for (std::size_t i = 0; i < scales.size(); i++) {
    if (!std::isfinite(scales[i])) {
      throw Failure("INVALID_ARGUMENT",
                    "Expected q.scales to be finite but the one at index " + std::to_string(i) + " is not.")
          .about("q.scales");
    }
  }
}

void check_values(const std::vector<std::int32_t>& zero_points, CodeType code) {
  for (std::size_t i = 0; i < zero_points.size(); i++) {
    if (zero_points[i] < code.lowest() || zero_points[i] > code.highest()) {
      throw Failure("INVALID_ARGUMENT", "Expected q.zeroPoints to lie in [" + std::to_string(code.lowest()) + ", " +
                                            std::to_string(code.highest()) + "] but received " +
                                            std::to_string(zero_points[i]) + " at index " + std::to_string(i) + ".")
          .about("q.zeroPoints");
    }
  }
}

// Lays the source out, packs it, and fills the slot unless something was found in it.
Outcome pack(std::int32_t device, const CancelFlag* cancel, const WeightSlot& slot, CudaWeightSource source,
             WeightKind kind, const MemorySlot& data, const MemorySlot& scales, const MemorySlot& zero_points) {
  DeviceWeight weight;
  const Outcome outcome = on_device(device, cancel, [&](const Device& on) {
    if (scales) {
      const std::vector<float> values = host_copy<float>(on, scales);
      check_values(values);
      source.scale_type = type_of_scales(values);
    }
    if (zero_points) check_values(host_copy<std::int32_t>(on, zero_points), source.code);
    source.data = data.read<void>();
    source.scales = scales.read<float>();
    source.zero_points = zero_points.read<std::int32_t>();
    on.check(on.api().linear->layout(&source, &weight.layout));
    weight.memory = MemorySlot::make(device, static_cast<std::size_t>(weight.layout.bytes));
    weight.kind = kind;
    weight.rows = static_cast<std::size_t>(source.rows);
    weight.columns = static_cast<std::size_t>(source.columns);
    void* const memory = weight.memory.write<void>(on);
    on.check(on.api().linear->prepack(on.stream(), &source, &weight.layout, memory));
  });
  if (outcome.status == Status::kOk) slot->fill(std::move(weight));
  return outcome;
}

// deviceCanPack(record, codebook): whether a device packs such codes, whose record is that of packCodes() or
// packCodebook(), as they are.
Napi::Value can_pack(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const CudaApi* const api = cuda_module().api;
  if (api == nullptr) throw error_of(info.Env(), Failure("NO_DEVICE", cuda_module().reason).on(0));
  CudaPackedLayout layout{};
  const CudaWeightSource source =
      a.flag(1, "codebook") ? source_of(read_codebook_source(a, 0)) : source_of(read_codes_source(a, 0));
  return Napi::Boolean::New(info.Env(), api->linear->layout(&source, &layout) == CudaStatus::kOk);
}

// devicePackCodes(record, handle, data, scales, zeroPoints | null)
Work prepare_pack_codes(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const CodesSource codes = read_codes_source(a, 0);
  const std::size_t parameters = parameter_count(a, codes);
  DeviceArguments d(a);
  const MemorySlot data = d.input(2, "data", codes.rows * codes.type.packed_bytes(codes.columns));
  const MemorySlot scales = d.input(3, "scales", parameters * sizeof(float));
  const MemorySlot zero_points = d.optional_input(4, "zeroPoints", parameters * sizeof(std::int32_t));
  return [=, source = source_of(codes), slot = slot_at(a, 1)](const CancelFlag* cancel) {
    return pack(data.device(), cancel, slot, source, WeightKind::kCodes, data, scales, zero_points);
  };
}

// devicePackCodebook(record, handle, data, scales)
Work prepare_pack_codebook(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const CodebookSource codes = read_codebook_source(a, 0);
  DeviceArguments d(a);
  const MemorySlot data = d.input(2, "data", codes.rows * code_type_of(codes.book).packed_bytes(codes.columns));
  const MemorySlot scales = d.input(3, "scales", parameter_count(a, codes) * sizeof(float));
  return [=, source = source_of(codes), slot = slot_at(a, 1)](const CancelFlag* cancel) {
    return pack(data.device(), cancel, slot, source, WeightKind::kCodes, data, scales, MemorySlot());
  };
}

// devicePackFloats(handle, weights, type, rows, columns)
Work prepare_pack_floats(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  CudaWeightSource source{};
  source.kind = CudaWeightKind::kFloats;
  source.float_type = a.float_type(2, "type");
  source.rows = a.size(3, "rows");
  source.columns = a.size(4, "columns");
  DeviceArguments d(a);
  const std::size_t count = checked_product(a, a.size(3, "rows"), a.size(4, "columns"));
  const MemorySlot weights = d.input(1, "weights", checked_product(a, count, size_of(source.float_type)));
  return [=, slot = slot_at(a, 0)](const CancelFlag* cancel) {
    return pack(weights.device(), cancel, slot, source, WeightKind::kFloats, weights, MemorySlot(), MemorySlot());
  };
}

// devicePackIntegers(handle, b, signed, k, n)
Work prepare_pack_integers(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const bool is_signed = a.flag(2, "signed");
  const std::size_t k = a.size(3, "k"), n = a.size(4, "n");
  DeviceArguments d(a);
  const MemorySlot b = d.input(1, "b", checked_product(a, k, n));
  return [=, slot = slot_at(a, 0)](const CancelFlag* cancel) {
    DeviceWeight weight;
    const Outcome outcome = on_device(b.device(), cancel, [&](const Device& on) {
      weight.memory = MemorySlot::make(b.device(), on.api().integer->packed_bytes(k, n));
      weight.kind = WeightKind::kIntegers;
      weight.rows = n;
      weight.columns = k;
      weight.is_signed = is_signed;
      void* const memory = weight.memory.write<void>(on);
      on.check(on.api().integer->pack(on.stream(), b.read<std::uint8_t>(), is_signed, k, n, memory));
    });
    if (outcome.status == Status::kOk) slot->fill(std::move(weight));
    return outcome;
  };
}

// A weight with scales; its device goes with those of the other arguments.
WeightSlot linear_weight_at(const Arguments& a, DeviceArguments& d, std::size_t i, const char* name) {
  WeightSlot slot = device_weight_at(a, i);
  a.check(slot->on_device.kind != WeightKind::kIntegers, "Expected a weight with scales.");
  d.on(slot->on_device.memory.device(), name);
  return slot;
}

// deviceLinear(record, x, weight, bias | null, gate | null, gateBias | null, out), where the record holds the types of
// x and out, and the activation.
Work prepare_linear(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 3);
  CudaLinearArguments l{};
  l.x_type = record.float_type();
  l.y_type = record.float_type();
  l.activation = static_cast<Activation>(record.integer(0, 3));
  l.check_finite = true;
  DeviceArguments d(a);
  const WeightSlot weight = linear_weight_at(a, d, 2, "w");
  const WeightSlot gate = a.is_null(4) ? WeightSlot() : linear_weight_at(a, d, 4, "gate");
  const std::size_t rows = weight->on_device.rows, columns = weight->on_device.columns;
  const MemorySlot x = d.input(1, "x");
  const MemorySlot bias = d.optional_input(3, "bias", rows * sizeof(float));
  const MemorySlot gate_bias = d.optional_input(5, "gateBias", rows * sizeof(float));
  a.check(static_cast<bool>(gate) || !gate_bias, "Expected no bias for a gate that is not there.");
  if (gate) {
    a.check(gate->on_device.rows == rows && gate->on_device.columns == columns,
            "Expected a gate of the same shape as the weight.");
  }
  const std::size_t count = x.bytes() / size_of(l.x_type), m = columns == 0 ? 0 : count / columns;
  a.check(x.bytes() == m * columns * size_of(l.x_type), "Expected whole rows of x.");
  const MemorySlot out = d.output(6, "out", checked_product(a, checked_product(a, m, rows), size_of(l.y_type)));
  l.m = m;
  return [=](const CancelFlag* cancel) {
    return on_device(x.device(), cancel, [&](const Device& on) {
      CudaLinearArguments call = l;
      call.x = x.read<void>();
      call.layout = &weight->on_device.layout;
      call.weight = weight->on_device.memory.read<void>();
      call.bias = bias.read<float>();
      if (gate) {
        call.gate_layout = &gate->on_device.layout;
        call.gate = gate->on_device.memory.read<void>();
        call.gate_bias = gate_bias.read<float>();
      }
      call.y = out.write<void>(on);
      on.check(on.api().linear->linear(on.stream(), &call));
    });
  };
}

// deviceMatmulInteger(record, a, b, aZeroPoints | null, bZeroPoints | null, out), where b is the handle of a weight or
// of memory, and the record holds m, n, k, and whether a and b are signed. Zero points are one, or as many as rows of a
// or columns of b.
Work prepare_matmul_integer(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 5);
  IntegerMatmulCuda product{};
  product.m = record.size();
  product.n = record.size();
  product.k = record.size();
  product.a_signed = record.flag();
  product.b_signed = record.flag();
  product.result = IntegerResult::kInt32;
  DeviceArguments d(a);
  const MemorySlot bytes = d.input(1, "a", checked_product(a, product.m, product.k));
  WeightSlot packed;
  MemorySlot b;
  if (d.is_memory(2)) {
    b = d.input(2, "b", checked_product(a, product.k, product.n));
  } else {
    packed = device_weight_at(a, 2);
    const DeviceWeight& w = packed->on_device;
    d.on(w.memory.device(), "b");
    a.check(w.kind == WeightKind::kIntegers && w.rows == product.n && w.columns == product.k &&
                w.is_signed == product.b_signed,
            "Expected b to be k × n packed integers.");
  }
  const auto zeros_at = [&](std::size_t i, const char* name, std::size_t count, bool& each) {
    if (a.is_null(i)) return MemorySlot();
    const MemorySlot zeros = d.input(i, name);
    each = zeros.bytes() != sizeof(std::int32_t);
    a.check(!each || zeros.bytes() == count * sizeof(std::int32_t), "Expected one zero point, or one for each.");
    return zeros;
  };
  const MemorySlot a_zeros = zeros_at(3, "aZeroPoint", product.m, product.a_zero_per_row);
  const MemorySlot b_zeros = zeros_at(4, "bZeroPoint", product.n, product.b_zero_per_column);
  const MemorySlot out =
      d.output(5, "out", checked_product(a, checked_product(a, product.m, product.n), sizeof(std::int32_t)));
  return [=](const CancelFlag* cancel) {
    MemorySlot packed_here;  // until the stream has been waited for
    return on_device(bytes.device(), cancel, [&](const Device& on) {
      const IntegerCuda& integer = *on.api().integer;
      IntegerMatmulCuda p = product;
      p.a = bytes.read<std::uint8_t>();
      p.a_zeros = a_zeros.read<std::int32_t>();
      p.b_zeros = b_zeros.read<std::int32_t>();
      p.c = out.write<void>(on);
      if (packed) {
        p.b = packed->on_device.memory.read<void>();
      } else {
        packed_here = MemorySlot::make(bytes.device(), integer.packed_bytes(p.k, p.n));
        void* const memory = packed_here.write<void>(on);
        on.check(integer.pack(on.stream(), b.read<std::uint8_t>(), p.b_signed, p.k, p.n, memory));
        p.b = memory;
      }
      on.check(integer.matmul(on.stream(), p));
    });
  };
}

// deviceMatmulFloat8(record, a, b, aScales, bScales, bias | null, out), where the record holds m, n, k and the type of
// out. Scales are one, or as many as rows of a or b.
Work prepare_matmul_float8(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 4);
  Float8LinearCuda product{};
  product.m = record.size();
  product.n = record.size();
  product.k = record.size();
  product.type = record.float_type();
  DeviceArguments d(a);
  const MemorySlot x = d.input(1, "a", checked_product(a, product.m, product.k));
  const MemorySlot w = d.input(2, "b", checked_product(a, product.n, product.k));
  const auto scales_at = [&](std::size_t i, const char* name, std::size_t count, bool& each) {
    const MemorySlot scales = d.input(i, name);
    each = scales.bytes() != sizeof(float);
    a.check(!each || scales.bytes() == count * sizeof(float), "Expected one scale, or one for each row.");
    return scales;
  };
  const MemorySlot x_scales = scales_at(3, "aScale", product.m, product.x_scale_per_row);
  const MemorySlot w_scales = scales_at(4, "bScale", product.n, product.w_scale_per_row);
  const MemorySlot bias = d.optional_input(5, "bias", product.n * sizeof(float));
  const MemorySlot out =
      d.output(6, "out", checked_product(a, checked_product(a, product.m, product.n), size_of(product.type)));
  return [=](const CancelFlag* cancel) {
    return on_device(out.device(), cancel, [&](const Device& on) {
      Float8LinearCuda p = product;
      p.x = x.read<std::uint8_t>();
      p.x_scales = x_scales.read<float>();
      p.w = w.read<std::uint8_t>();
      p.w_scales = w_scales.read<float>();
      p.bias = bias.read<float>();
      p.y = out.write<void>(on);
      on.check(on.api().float8->linear(on.stream(), p));
    });
  };
}

// deviceGram(x, type, k, adds, out)
Work prepare_gram(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  DeviceArguments d(a);
  const FloatType type = a.float_type(1, "type");
  const std::size_t k = a.size(2, "k");
  const bool adds = a.flag(3, "adds");
  const MemorySlot x = d.input(0, "x");
  const std::size_t m = k == 0 ? 0 : x.bytes() / size_of(type) / k;
  a.check(x.bytes() == m * k * size_of(type), "Expected whole rows of x.");
  const MemorySlot out = d.updated(4, "out", checked_product(a, checked_product(a, k, k), sizeof(float)));
  a.check(!adds || out.is_written(), "Expected out to have been written.");
  return [=](const CancelFlag* cancel) {
    return on_device(x.device(), cancel, [&](const Device& on) {
      auto* const sums = out.write<float>(on);
      on.check(on.api().gram->gram(on.stream(), x.read<void>(), type, m, k, !adds, sums));
    });
  };
}

}  // namespace

void register_device_matmul_calls(Napi::Env env, Napi::Object exports) {
  exports.Set("deviceCanPack", Napi::Function::New<can_pack>(env, "deviceCanPack"));
  register_call<prepare_pack_codes>(env, exports, "devicePackCodes");
  register_call<prepare_pack_codebook>(env, exports, "devicePackCodebook");
  register_call<prepare_pack_floats>(env, exports, "devicePackFloats");
  register_call<prepare_pack_integers>(env, exports, "devicePackIntegers");
  register_call<prepare_linear>(env, exports, "deviceLinear");
  register_call<prepare_matmul_integer>(env, exports, "deviceMatmulInteger");
  register_call<prepare_matmul_float8>(env, exports, "deviceMatmulFloat8");
  register_call<prepare_gram>(env, exports, "deviceGram");
}

}  // namespace lowbit::node
