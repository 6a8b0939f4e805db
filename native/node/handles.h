#pragma once

#include <napi.h>

#include <cstdint>
#include <utility>

#include "node/arguments.h"
#include "node/shared.h"

// What JavaScript holds without being able to look inside: an object that only native code can make, with a type tag
// that tells it from every other. Jobs share what it refers to, which therefore lives until they end, whatever
// JavaScript does meanwhile.

namespace lowbit::node {

// Handle::kTag is the tag, Handle::kName what errors call it.
template <typename Held, typename Handle>
class Handles {
 public:
  static Napi::Value make(Napi::Env env, Shared<Held> slot) {
    Napi::Object object = Napi::Object::New(env);
    auto* const body = new Body{std::move(slot)};
    if (napi_wrap(env, object, body, &finalize, nullptr, nullptr) != napi_ok) {
      delete body;
      throw Napi::Error::New(env);
    }
    if (napi_type_tag_object(env, object, &Handle::kTag) != napi_ok) throw Napi::Error::New(env);
    return object;
  }

  static bool is_at(const Arguments& a, std::size_t i) { return body_at(a, i) != nullptr; }

  static Shared<Held> at(const Arguments& a, std::size_t i) {
    Body* const body = body_at(a, i);
    if (body == nullptr) a.fail(std::string("Expected ") + Handle::kName + ".");
    a.check(static_cast<bool>(body->slot), "Expected a handle that has not been disposed.");
    return body->slot;
  }

  // Tells the garbage collector how much memory the handle keeps alive.
  static void report(const Arguments& a, std::size_t i, std::size_t bytes) {
    if (Body* const body = body_at(a, i); body != nullptr) report(a.env(), *body, static_cast<std::int64_t>(bytes));
  }

  // Lets go of what it refers to.
  static void dispose(const Arguments& a, std::size_t i) {
    Body* const body = body_at(a, i);
    if (body == nullptr) a.fail(std::string("Expected ") + Handle::kName + ".");
    report(a.env(), *body, 0);
    body->slot.reset();
  }

 private:
  struct Body {
    Shared<Held> slot;
    std::int64_t reported = 0;  // bytes that the garbage collector knows of
  };

  static Body* body_at(const Arguments& a, std::size_t i) {
    bool tagged = false;
    void* data = nullptr;
    const napi_value value = a.info()[i];
    if (!a.info()[i].IsObject() || napi_check_object_type_tag(a.env(), value, &Handle::kTag, &tagged) != napi_ok ||
        !tagged || napi_unwrap(a.env(), value, &data) != napi_ok) {
      return nullptr;
    }
    return static_cast<Body*>(data);
  }

  static void report(napi_env env, Body& body, std::int64_t bytes) {
    std::int64_t total = 0;
    napi_adjust_external_memory(env, bytes - body.reported, &total);
    body.reported = bytes;
  }

  static void finalize(napi_env env, void* data, void*) {
    auto* const body = static_cast<Body*>(data);
    report(env, *body, 0);
    delete body;
  }
};

}  // namespace lowbit::node
