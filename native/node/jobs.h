#pragma once

#include <napi.h>

#include <functional>

#include "core/status.h"
#include "core/thread_pool.h"

namespace lowbit::node {

using Work = std::function<Outcome(const CancelFlag*)>;

// Runs work off the event loop: one dispatcher thread for the process takes jobs in order and lets each use the whole
// thread pool; libuv's threads stay free for files and sockets.
//
// `info` holds the arguments of the call: every array among them is kept alive until the job ends. When it has ended,
// `done` is called on the JavaScript thread with an Error or undefined. Returns the job's number for cancel_job().
//
// A Node environment that ends (a worker thread that is terminated) cancels its jobs and waits for the running one
// before its memory goes.
Napi::Value start_job(const Napi::CallbackInfo& info, const Napi::Function& done, Work work);

// Stops a job between two tiles; it ends with the code CANCELLED. A number that is not running is ignored.
void cancel_job(Napi::Env env, double number);

}  // namespace lowbit::node
