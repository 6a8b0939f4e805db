#pragma once

#include <napi.h>

#include "node/jobs.h"

namespace lowbit::node {

// Reads and checks the arguments of a call that can run now or later, and returns the work.
using Prepare = Work (*)(const Napi::CallbackInfo& info);

void register_tensor_calls(Napi::Env env, Napi::Object exports);
void register_safetensors_calls(Napi::Env env, Napi::Object exports);

}  // namespace lowbit::node
