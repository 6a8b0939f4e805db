#pragma once

#include <atomic>
#include <cstddef>
#include <utility>

namespace lowbit::node {

// A value that lives as long as anyone owns it. std::shared_ptr would do, but with current compilers it ties the addon
// to a C library newer than that of the systems Node still runs on.
template <typename T>
class Shared {
 public:
  Shared() = default;
  static Shared make() { return Shared(new Body); }
  Shared(const Shared& other) : body_(other.body_) {
    if (body_ != nullptr) body_->owners.fetch_add(1, std::memory_order_relaxed);
  }
  Shared(Shared&& other) noexcept : body_(std::exchange(other.body_, nullptr)) {}
  Shared& operator=(Shared other) noexcept {
    std::swap(body_, other.body_);
    return *this;
  }
  ~Shared() { reset(); }

  void reset() {
    Body* const body = std::exchange(body_, nullptr);
    if (body != nullptr && body->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete body;
  }
  explicit operator bool() const { return body_ != nullptr; }
  T& operator*() const { return body_->value; }
  T* operator->() const { return &body_->value; }

 private:
  struct Body {
    std::atomic<std::size_t> owners{1};
    T value;
  };
  explicit Shared(Body* body) : body_(body) {}

  Body* body_ = nullptr;
};

}  // namespace lowbit::node
