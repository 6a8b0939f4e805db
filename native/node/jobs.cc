#include "node/jobs.h"

#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/monitor.h"
#include "node/arguments.h"
#include "node/failure.h"

namespace lowbit::node {
namespace {

class Environment;

struct Job {
  Environment* environment;
  double number;
  Work work;
  std::vector<napi_ref> kept;  // the callback first, then the arguments
  CancelFlag cancel{false};
  Outcome outcome;
  std::optional<Failure> failure;  // if the work threw
};

// The queue and its thread, for the whole process; never destroyed, like the thread pool.
class Dispatcher {
 public:
  static Dispatcher& instance() {
    static Dispatcher* const dispatcher = new Dispatcher;
    return *dispatcher;
  }

  void submit(std::unique_ptr<Job> job) {
    const std::lock_guard<Monitor> lock(changed_);
    if (!started_) {
      std::thread([this] { run(); }).detach();
      started_ = true;
    }
    queue_.push_back(std::move(job));
    changed_.notify_all();
  }

  void cancel(const Environment* environment, double number) {
    const std::lock_guard<Monitor> lock(changed_);
    const auto cancel_if = [&](Job* job) {
      if (job != nullptr && job->environment == environment && job->number == number) job->cancel = true;
    };
    cancel_if(running_);
    for (const auto& job : queue_) cancel_if(job.get());
  }

  // Drops the queued jobs of an environment and waits for the running one to stop.
  void abandon(const Environment* environment) {
    std::unique_lock<Monitor> lock(changed_);
    for (auto it = queue_.begin(); it != queue_.end();)
      it = (*it)->environment == environment ? queue_.erase(it) : it + 1;
    if (running_ != nullptr && running_->environment == environment) running_->cancel = true;
    changed_.wait_until([&] { return running_ == nullptr || running_->environment != environment; });
  }

 private:
  void run();

  Monitor changed_;
  std::deque<std::unique_ptr<Job>> queue_;
  Job* running_ = nullptr;
  bool started_ = false;
};

// The jobs of one Node environment (the main thread or a worker).
class Environment {
 public:
  static Environment* of(Napi::Env env) {
    auto* existing = env.GetInstanceData<Environment>();
    if (existing != nullptr) return existing;
    auto* created = new Environment(env);
    env.SetInstanceData<Environment>(created);
    return created;
  }

  double next_number() { return ++last_number_; }

  void add_pending(Napi::Env env) {
    if (pending_++ == 0) napi_ref_threadsafe_function(env, finish_);
  }

  // From the dispatcher thread.
  void post(std::unique_ptr<Job> job) {
    Job* const posted = job.release();  // finish() may own it before this call returns
    if (napi_call_threadsafe_function(finish_, posted, napi_tsfn_nonblocking) != napi_ok) delete posted;
  }

 private:
  explicit Environment(Napi::Env env) {
    napi_value name = Napi::String::New(env, "lowbit");
    napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, &Environment::finish,
                                    &finish_);
    napi_unref_threadsafe_function(env, finish_);
    // Hooks run in reverse order: this one before the one with which Node closes the threadsafe function.
    napi_add_env_cleanup_hook(
        env, [](void* self) { Dispatcher::instance().abandon(static_cast<Environment*>(self)); }, this);
  }

  // On the JavaScript thread, with the environment; or without one while it is torn down, when references are gone.
  static void finish(napi_env raw_env, napi_value, void* context, void* data) {
    const std::unique_ptr<Job> job(static_cast<Job*>(data));
    if (raw_env == nullptr) return;
    const Napi::Env env(raw_env);
    const Napi::HandleScope scope(env);
    auto* self = static_cast<Environment*>(context);
    if (--self->pending_ == 0) napi_unref_threadsafe_function(env, self->finish_);
    napi_value callback = nullptr;
    napi_get_reference_value(env, job->kept.front(), &callback);
    for (napi_ref reference : job->kept) napi_delete_reference(env, reference);
    // In an environment that is going down (a worker thread that was terminated) no error can be made, and nobody waits
    // for it.
    try {
      napi_value argument = env.Undefined();
      const std::optional<Failure>& failure = job->failure;
      if (failure.has_value()) {
        argument = error_of(env, *failure).Value();
      } else if (job->outcome.status != Status::kOk) {
        argument = error_of(env, job->outcome).Value();
      }
      napi_value result = nullptr;
      napi_call_function(env, env.Undefined(), callback, 1, &argument, &result);
    } catch (const Napi::Error&) {
    }
  }

  napi_threadsafe_function finish_ = nullptr;
  std::size_t pending_ = 0;
  double last_number_ = 0;
};

void Dispatcher::run() {
  std::unique_lock<Monitor> lock(changed_);
  for (;;) {
    changed_.wait_until([&] { return !queue_.empty(); });
    std::unique_ptr<Job> job = std::move(queue_.front());
    queue_.pop_front();
    running_ = job.get();
    lock.unlock();
    try {
      job->outcome = job->work(&job->cancel);
    } catch (const Failure& failure) {
      job->failure = failure;
    } catch (const std::bad_alloc& error) {
      job->failure = Failure("OUT_OF_MEMORY", error.what());
    } catch (const std::exception& error) {
      job->failure = Failure("INTERNAL", error.what());
    }
    lock.lock();
    running_ = nullptr;
    // Posted under the lock: abandon() returns only when no job of its environment will be posted any more.
    Environment* const environment = job->environment;
    environment->post(std::move(job));
    changed_.notify_all();
  }
}

}  // namespace

Napi::Value start_job(const Napi::CallbackInfo& info, const Napi::Function& done, Work work) {
  const Napi::Env env = info.Env();
  Environment* environment = Environment::of(env);
  auto job = std::make_unique<Job>();
  job->environment = environment;
  job->number = environment->next_number();
  job->work = std::move(work);
  const auto keep = [&](napi_value value) {
    napi_ref reference = nullptr;
    if (napi_create_reference(env, value, 1, &reference) == napi_ok) job->kept.push_back(reference);
  };
  keep(done);
  for (std::size_t i = 0; i < info.Length(); i++) {
    if (info[i].IsTypedArray()) keep(info[i]);
  }
  environment->add_pending(env);
  const double number = job->number;
  Dispatcher::instance().submit(std::move(job));
  return Napi::Number::New(env, number);
}

void cancel_job(Napi::Env env, double number) { Dispatcher::instance().cancel(Environment::of(env), number); }

}  // namespace lowbit::node
