// The entry point: what lib/addon/raw.ts types as RawAddon.

#include <napi.h>

#include "core/kernels.h"
#include "core/thread_pool.h"
#include "node/arguments.h"
#include "node/calls.h"

namespace lowbit::node {
namespace {

// configuration(): { isa, isas, error? }; error says why LOWBIT_ISA or LOWBIT_NUM_THREADS can't be obeyed.
Napi::Value configuration(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  Napi::Array isas = Napi::Array::New(env);
  for (std::size_t i = 0; i < kAllKernelsCount; i++) {
    if (kAllKernels[i]->supported()) isas.Set(isas.Length(), Napi::String::New(env, kAllKernels[i]->name));
  }
  result.Set("isa", Napi::String::New(env, kernels().name));
  result.Set("isas", isas);
  const char* error = kernels_error() != nullptr ? kernels_error() : thread_count_error();
  if (error != nullptr) result.Set("error", Napi::String::New(env, error));
  return result;
}

Napi::Value threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(ThreadPool::instance().thread_count()));
}

Napi::Value set_threads(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const std::int64_t count = a.integer(0, "n", 1, static_cast<std::int64_t>(ThreadPool::kMaxThreads));
  ThreadPool::instance().set_thread_count(static_cast<std::size_t>(count));
  return info.Env().Undefined();
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  cancel_job(info.Env(), Arguments(info).number(0, "job"));
  return info.Env().Undefined();
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  exports.Set("configuration", Napi::Function::New<configuration>(env, "configuration"));
  exports.Set("threads", Napi::Function::New<threads>(env, "threads"));
  exports.Set("setThreads", Napi::Function::New<set_threads>(env, "setThreads"));
  exports.Set("cancel", Napi::Function::New<cancel>(env, "cancel"));
  register_bits_calls(env, exports);
  register_compare_calls(env, exports);
  register_decoder_calls(env, exports);
  register_device_calls(env, exports);
  register_fields_calls(env, exports);
  register_file_calls(env, exports);
  register_tensor_calls(env, exports);
  register_matmul_calls(env, exports);
  register_repack_calls(env, exports);
  register_safetensors_calls(env, exports);
  register_training_calls(env, exports);
  register_method_calls(env, exports);
  return exports;
}

}  // namespace
}  // namespace lowbit::node

static Napi::Object initialize_lowbit(Napi::Env env, Napi::Object exports) {
  return lowbit::node::initialize(env, exports);
}

NODE_API_MODULE(lowbit, initialize_lowbit)
