// The thread pool: every task once, whoever calls, however often, and cancelled in time.

#include <atomic>
#include <chrono>
#include <new>
#include <thread>

#include "core/thread_pool.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

void run_and_count(std::size_t count) {
  std::vector<std::atomic<int>> seen(count);
  const bool done = ThreadPool::instance().parallel_for(count, [&](std::size_t i) { seen[i]++; });
  bool once = done;
  for (const auto& n : seen) once = once && n == 1;
  CHECK(once, "%zu tasks were not all run once", count);
}

TEST("thread pool: every task runs exactly once for every number of threads") {
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    for (const int count : {0, 1, 2, 3, 15, 16, 17, 1000}) run_and_count(static_cast<std::size_t>(count));
  }
  for (int i = 0; i < 5000; i++) run_and_count(static_cast<std::size_t>(i % 9));
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("thread pool: work nests, and many callers at once all finish") {
  ThreadPool::instance().set_thread_count(4);
  std::atomic<int> total{0};
  ThreadPool::instance().parallel_for(
      8, [&](std::size_t) { ThreadPool::instance().parallel_for(8, [&](std::size_t) { total++; }); });
  CHECK(total == 64, "nested tasks: %d of 64", total.load());
  std::vector<std::thread> callers;
  callers.reserve(6);
  for (int c = 0; c < 6; c++) {
    callers.emplace_back([&] {
      for (int i = 0; i < 500; i++) ThreadPool::instance().parallel_for(10, [&](std::size_t) { total++; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(total == 64 + 6 * 500 * 10, "tasks of several callers: %d", total.load());
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("thread pool: memory that is missing on any thread is missing for the caller, and the pool goes on") {
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    for (std::size_t thrower = 0; thrower < 40; thrower += 13) {
      bool thrown = false;
      try {
        ThreadPool::instance().parallel_for(40, [&](std::size_t i) {
          if (i == thrower) throw std::bad_alloc();
        });
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      CHECK(thrown, "task %zu, %zu threads", thrower, threads);
      run_and_count(40);
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("thread pool: parked threads wake up again, and cancelling stops the work") {
  ThreadPool::instance().set_thread_count(3);
  run_and_count(100);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  run_and_count(100);
  CancelFlag cancel{false};
  std::atomic<std::size_t> ran{0};
  const bool done = ThreadPool::instance().parallel_for(
      1000000,
      [&](std::size_t) {
        if (ran++ == 100) cancel = true;
      },
      &cancel);
  CHECK(!done && ran < 1000000, "ran %zu tasks", ran.load());
  ThreadPool::instance().set_thread_count(default_thread_count());
}

}  // namespace
}  // namespace lowbit::test
