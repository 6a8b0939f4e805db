#pragma once

#include <napi.h>

#include <new>
#include <string>

#include "node/arguments.h"
#include "node/failure.h"
#include "node/jobs.h"

namespace lowbit::node {

// Reads and checks the arguments of a call that can run now or later, and returns the work.
using Prepare = Work (*)(const Napi::CallbackInfo& info);

// An exception of C++ must not leave the addon.
template <typename Call>
Napi::Value guarded(const Napi::CallbackInfo& info, const Call& call) {
  try {
    return call();
  } catch (const Failure& failure) {
    throw error_of(info.Env(), failure);
  } catch (const std::bad_alloc& error) {
    throw error_with_code(info.Env(), "OUT_OF_MEMORY", error.what());
  }
}

template <Prepare prepare>
Napi::Value run_now(const Napi::CallbackInfo& info) {
  return guarded(info, [&] {
    const Outcome outcome = prepare(info)(nullptr);
    if (outcome.status != Status::kOk) throw error_of(info.Env(), outcome);
    return info.Env().Undefined();
  });
}

template <Prepare prepare>
Napi::Value run_later(const Napi::CallbackInfo& info) {
  return guarded(info, [&] {
    const Napi::Function done = Arguments(info).function(info.Length() - 1, "done");
    return start_job(info, done, prepare(info));
  });
}

// Exports <name> and <name>Async, which takes a callback as its last argument.
template <Prepare prepare>
void register_call(Napi::Env env, Napi::Object exports, const std::string& name) {
  exports.Set(name, Napi::Function::New<run_now<prepare>>(env, name.c_str()));
  exports.Set(name + "Async", Napi::Function::New<run_later<prepare>>(env, (name + "Async").c_str()));
}

void register_bits_calls(Napi::Env env, Napi::Object exports);
void register_compare_calls(Napi::Env env, Napi::Object exports);
void register_decoder_calls(Napi::Env env, Napi::Object exports);
void register_device_calls(Napi::Env env, Napi::Object exports);
void register_device_matmul_calls(Napi::Env env, Napi::Object exports);
void register_device_tensor_calls(Napi::Env env, Napi::Object exports);
void register_fields_calls(Napi::Env env, Napi::Object exports);
void register_file_calls(Napi::Env env, Napi::Object exports);
void register_tensor_calls(Napi::Env env, Napi::Object exports);
void register_matmul_calls(Napi::Env env, Napi::Object exports);
void register_method_calls(Napi::Env env, Napi::Object exports);
void register_repack_calls(Napi::Env env, Napi::Object exports);
void register_safetensors_calls(Napi::Env env, Napi::Object exports);
void register_training_calls(Napi::Env env, Napi::Object exports);

}  // namespace lowbit::node
