#include "core/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <thread>

#include "core/monitor.h"

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#elif defined(__APPLE__)
#include <dlfcn.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace lowbit {
namespace {

void pause_briefly() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Pool threads outlive every Node environment, so the code they run must never be unloaded: Node closes an addon's
// library when the last worker thread that loaded it ends. On Linux the linker flag -z nodelete says the same.
void pin_library() {
#if defined(_WIN32)
  HMODULE module;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                     reinterpret_cast<LPCWSTR>(&pin_library), &module);
#elif defined(__APPLE__)
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&pin_library), &info) != 0)
    dlopen(info.dli_fname, RTLD_LAZY | RTLD_NODELETE);
#endif
}

std::size_t processors_of_affinity() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<std::size_t>(CPU_COUNT(&set));
#endif
  return std::thread::hardware_concurrency();
}

// The CPU quota of the process's control group in whole processors (at least 1), or 0 where there is none.
std::size_t processors_of_quota() {
#if defined(__linux__)
  double quota = 0.0, period = 0.0;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2 >> quota >> period) {
    // "max 100000" fails to parse as a number: no quota
  } else {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  if (quota > 0.0 && period > 0.0) return std::max<std::size_t>(1, static_cast<std::size_t>(quota / period));
#endif
  return 0;
}

struct Wanted {
  std::size_t count;
  std::string error;
};

Wanted wanted_threads() {
  std::size_t available = std::max<std::size_t>(1, processors_of_affinity());
  if (const std::size_t quota = processors_of_quota(); quota != 0) available = std::min(available, quota);
  available = std::min(available, ThreadPool::kMaxThreads);
  const char* text = std::getenv("LOWBIT_NUM_THREADS");
  if (text == nullptr || *text == '\0') return {available, ""};
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*end == '\0' && value >= 1 && value <= static_cast<long>(ThreadPool::kMaxThreads)) {
    return {static_cast<std::size_t>(value), ""};
  }
  return {available, "Expected LOWBIT_NUM_THREADS to be an integer from 1 to " +
                         std::to_string(ThreadPool::kMaxThreads) + " but received \"" + text + "\"."};
}

const Wanted& wanted() {
  static const Wanted value = wanted_threads();
  return value;
}

// A worker looks for more work for this long before it parks, and the caller for a straggler before it blocks: waking a
// parked thread costs about as much.
constexpr std::chrono::nanoseconds kSpinTime = std::chrono::microseconds(50);

std::int64_t nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

template <typename Done>
bool spin_until(const Done& done) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 64; i++) {
      if (done()) return true;
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

}  // namespace

struct ThreadPool::Shared {
  // One parallel_for call. It lives on its caller's stack until every pool thread that joined it has left.
  struct Job {
    std::size_t count;
    Call call;
    const void* context;
    const CancelFlag* cancel;
    std::size_t places;      // how many pool threads may still join; guarded by `published`
    std::size_t joined = 0;  // guarded by `published`
    alignas(128) std::atomic<std::size_t> next{0};
    alignas(128) std::atomic<std::size_t> left{0};

    std::atomic<bool> out_of_memory{false};

    bool cancelled() const { return cancel != nullptr && cancel->load(std::memory_order_relaxed); }

    void work() {
      try {
        while (!cancelled() && !out_of_memory.load(std::memory_order_relaxed)) {
          const std::size_t i = next.fetch_add(1, std::memory_order_relaxed);
          if (i >= count) return;
          call(context, i);
        }
      } catch (const std::bad_alloc&) {
        out_of_memory.store(true, std::memory_order_relaxed);
      }
    }

    // What the caller of parallel_for learns once nobody works any more.
    bool result() const {
      if (out_of_memory.load(std::memory_order_relaxed)) throw std::bad_alloc();
      return !cancelled();
    }
  };

  std::atomic<bool> busy{false};  // a job is running
  Monitor published;              // for pool threads: epoch has changed
  Monitor finished;               // for the caller: a pool thread has left
  std::atomic<std::uint64_t> epoch{0};
  Job* job = nullptr;                     // guarded by `published`
  std::atomic<std::size_t> started{0};    // changed under `published`
  std::atomic<std::size_t> awake{0};      // pool threads that are looking for work
  std::atomic<std::int64_t> last_end{0};  // of a job that could be divided, in nanoseconds

  void start_threads(std::size_t wanted);
  void thread_main(std::uint64_t seen);
};

void ThreadPool::Shared::start_threads(std::size_t wanted) {
  const std::lock_guard<Monitor> lock(published);
  if (started < wanted) pin_library();
  while (started < wanted) {
    try {
      std::thread([this, seen = epoch.load()] { thread_main(seen); }).detach();
    } catch (const std::system_error&) {
      return;  // the system gives no more threads: fewer do the same work
    }
    started++;
  }
}

void ThreadPool::Shared::thread_main(std::uint64_t seen) {
  for (;;) {
    awake.fetch_add(1, std::memory_order_relaxed);
    spin_until([&] { return epoch.load(std::memory_order_acquire) != seen; });
    awake.fetch_sub(1, std::memory_order_relaxed);
    std::unique_lock<Monitor> lock(published);
    published.wait_until([&] { return epoch.load(std::memory_order_relaxed) != seen; });
    seen = epoch.load(std::memory_order_relaxed);
    Job* const mine = job;
    if (mine == nullptr || mine->places == 0) continue;
    mine->places--;
    mine->joined++;
    lock.unlock();
    mine->work();
    const std::lock_guard<Monitor> leaving(finished);
    mine->left.fetch_add(1, std::memory_order_release);  // the job may be gone after this
    finished.notify_all();
  }
}

ThreadPool::ThreadPool() : thread_count_(default_thread_count()), shared_(new Shared) {}

ThreadPool& ThreadPool::instance() {
  static ThreadPool* const pool = new ThreadPool;  // never destroyed: its threads use it until the process ends
  return *pool;
}

void ThreadPool::set_thread_count(std::size_t count) {
  thread_count_.store(std::clamp<std::size_t>(count, 1, kMaxThreads), std::memory_order_relaxed);
}

bool ThreadPool::run(std::size_t count, Call call, const void* context, const CancelFlag* cancel, Helpers wanted) {
  Shared& shared = *shared_;
  Shared::Job job{count, call, context, cancel, 0};
  std::size_t helpers = std::min(thread_count(), count) - (count == 0 ? 0 : 1);
  if (helpers != 0 && wanted == Helpers::kAwake && shared.awake.load(std::memory_order_relaxed) < helpers) {
    // Calls that follow each other closely are worth a thread that stays awake between them.
    if (nanoseconds() - shared.last_end.load(std::memory_order_relaxed) < kSpinTime.count()) {
      wanted = Helpers::kAll;
    } else {
      helpers = shared.awake.load(std::memory_order_relaxed);
    }
  }
  if (helpers == 0 || shared.busy.exchange(true, std::memory_order_acquire)) {
    job.work();
    if (wanted == Helpers::kAwake) shared.last_end.store(nanoseconds(), std::memory_order_relaxed);
    return job.result();
  }
  shared.start_threads(helpers);
  {
    const std::lock_guard<Monitor> lock(shared.published);
    job.places = helpers;
    shared.job = &job;
    shared.epoch.fetch_add(1, std::memory_order_release);
    if (wanted == Helpers::kAll) shared.published.notify_all();
  }
  job.work();
  std::size_t joined = 0;
  {
    const std::lock_guard<Monitor> lock(shared.published);
    shared.job = nullptr;  // nobody joins any more
    joined = job.joined;
  }
  const auto all_left = [&] { return job.left.load(std::memory_order_acquire) == joined; };
  if (!spin_until(all_left)) {
    const std::lock_guard<Monitor> lock(shared.finished);
    shared.finished.wait_until(all_left);
  }
  shared.last_end.store(nanoseconds(), std::memory_order_relaxed);
  shared.busy.store(false, std::memory_order_release);
  return job.result();
}

std::size_t default_thread_count() { return wanted().count; }

const char* thread_count_error() { return wanted().error.empty() ? nullptr : wanted().error.c_str(); }

}  // namespace lowbit
