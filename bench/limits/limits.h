#pragma once

#include <napi.h>

namespace lowbit::bench {

// peaks.cc
Napi::Value peak(const Napi::CallbackInfo& info);

// reads.cc
Napi::Value reserve(const Napi::CallbackInfo& info);
Napi::Value release(const Napi::CallbackInfo& info);
Napi::Value read(const Napi::CallbackInfo& info);

}  // namespace lowbit::bench
