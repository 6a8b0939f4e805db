#pragma once

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <pthread.h>
#endif

namespace lowbit {

// A mutex and the condition that goes with it, straight from the system. std::condition_variable would do, but with
// current compilers it ties the addon to a libstdc++ newer than that of the systems Node still runs on.
// Works with std::lock_guard and std::unique_lock.
class Monitor {
 public:
  Monitor() = default;
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

#if defined(_WIN32)
  void lock() { AcquireSRWLockExclusive(&mutex_); }
  void unlock() { ReleaseSRWLockExclusive(&mutex_); }
  void notify_all() { WakeAllConditionVariable(&condition_); }
#else
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }
  void notify_all() { pthread_cond_broadcast(&condition_); }
#endif

  // Waits, with the lock held on entry and return, until done() holds. Whoever changes what done() reads holds the lock
  // and then calls notify_all().
  template <typename Done>
  void wait_until(const Done& done) {
    while (!done()) wait();
  }

 private:
#if defined(_WIN32)
  void wait() { SleepConditionVariableSRW(&condition_, &mutex_, INFINITE, 0); }
  SRWLOCK mutex_ = SRWLOCK_INIT;
  CONDITION_VARIABLE condition_ = CONDITION_VARIABLE_INIT;
#else
  void wait() { pthread_cond_wait(&condition_, &mutex_); }
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition_ = PTHREAD_COND_INITIALIZER;
#endif
};

}  // namespace lowbit
