// parseSafetensorsHeader(header, dataBytes): the header of a safetensors file as plain arrays.

#include <string>

#include "node/arguments.h"
#include "node/calls.h"
#include "parse/safetensors_header.h"

namespace lowbit::node {
namespace {

Napi::Value parse_header(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Napi::Env env = info.Env();
  const Bytes text = a.array(0, "header", napi_uint8_array);
  const std::size_t data_bytes = a.size(1, "dataBytes");
  SafetensorsHeader header;
  const SafetensorsProblem problem =
      parse_safetensors_header(text.as<const char>(), text.size, std::uint64_t{data_bytes}, header);
  Napi::Object result = Napi::Object::New(env);
  result.Set("fault", Napi::Number::New(env, static_cast<double>(problem.fault)));
  if (problem.fault != SafetensorsFault::kNone) {
    result.Set("tensor", Napi::String::New(env, problem.tensor));
    result.Set("position", Napi::Number::New(env, static_cast<double>(problem.position)));
    return result;
  }
  const std::size_t count = header.tensors.size();
  Napi::Array names = Napi::Array::New(env, count);
  Napi::Uint8Array dtypes = Napi::Uint8Array::New(env, count);
  Napi::Uint32Array ranks = Napi::Uint32Array::New(env, count);
  Napi::Float64Array dims = Napi::Float64Array::New(env, header.dims.size());
  Napi::Float64Array offsets = Napi::Float64Array::New(env, 2 * count);
  std::size_t next_dim = 0;
  for (std::size_t i = 0; i < count; i++) {
    const Napi::HandleScope scope(env);
    const SafetensorsTensor& tensor = header.tensors[i];
    const std::string_view name = header.name_of(tensor);
    // As a plain value: a Napi::String would be read, and made once more.
    const napi_value value = Napi::String::New(env, name.data(), name.size());
    names.Set(static_cast<std::uint32_t>(i), value);
    dtypes[i] = static_cast<std::uint8_t>(tensor.dtype);
    ranks[i] = static_cast<std::uint32_t>(tensor.rank);
    for (std::size_t d = 0; d < tensor.rank; d++) {
      dims[next_dim++] = static_cast<double>(header.dims[tensor.first_dim + d]);
    }
    offsets[2 * i] = static_cast<double>(tensor.begin);
    offsets[2 * i + 1] = static_cast<double>(tensor.end);
  }
  Napi::Array metadata = Napi::Array::New(env, 2 * header.metadata.size());
  std::uint32_t next = 0;
  for (const auto& [key, value] : header.metadata) {
    metadata.Set(next++, Napi::String::New(env, key));
    metadata.Set(next++, Napi::String::New(env, value));
  }
  result.Set("names", names);
  result.Set("dtypes", dtypes);
  result.Set("ranks", ranks);
  result.Set("dims", dims);
  result.Set("offsets", offsets);
  result.Set("metadata", metadata);
  return result;
}

}  // namespace

void register_safetensors_calls(Napi::Env env, Napi::Object exports) {
  exports.Set("parseSafetensorsHeader", Napi::Function::New<parse_header>(env, "parseSafetensorsHeader"));
}

}  // namespace lowbit::node
