#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace lowbit {

// Set from any thread to make work stop between two tasks.
using CancelFlag = std::atomic<bool>;

// Which of the pool's threads a caller wants. Waking one that is parked takes some 40 µs, for the caller as well; those
// that have just finished other work look out for more for a while, and cost nothing.
enum class Helpers : std::uint8_t { kAll, kAwake };

// One process-wide pool. Threads start when they are first needed, park when idle, and live until the process ends: the
// pool is never destroyed and the library is never unloaded (see pin_library() in thread_pool.cc), so that a worker
// thread of Node can come and go at any moment.
//
// A second caller at the same time runs its tasks alone on its own thread instead of waiting.
class ThreadPool {
 public:
  static ThreadPool& instance();

  std::size_t thread_count() const { return thread_count_.load(std::memory_order_relaxed); }
  // At least 1, the calling thread; at most kMaxThreads.
  void set_thread_count(std::size_t count);

  static constexpr std::size_t kMaxThreads = 1024;

  // Calls task(i) for every i in [0, count), in no particular order, on the calling thread and the pool's. Returns
  // false if `cancel` was set before all had run. A task may throw std::bad_alloc, nothing else: others are not begun
  // then, and the call throws it.
  template <typename Task>
  bool parallel_for(std::size_t count, const Task& task, const CancelFlag* cancel = nullptr,
                    Helpers helpers = Helpers::kAll) {
    return run(
        count, [](const void* context, std::size_t i) { (*static_cast<const Task*>(context))(i); }, &task, cancel,
        helpers);
  }

 private:
  using Call = void (*)(const void* context, std::size_t index);
  struct Shared;

  ThreadPool();
  bool run(std::size_t count, Call call, const void* context, const CancelFlag* cancel, Helpers wanted);

  std::atomic<std::size_t> thread_count_;
  Shared* shared_;
};

// The number of threads that the process may use at once: processors in its affinity mask, no more than its cgroup's
// CPU quota; LOWBIT_NUM_THREADS overrides it.
std::size_t default_thread_count();

// Why LOWBIT_NUM_THREADS can't be obeyed (a whole sentence), or nullptr.
const char* thread_count_error();

}  // namespace lowbit
