#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

#include "core/dtype.h"
#include "core/status.h"
#include "node/failure.h"

namespace lowbit::node {

// A view of a JavaScript typed array. The memory is JavaScript's: it must not be kept past the call unless a reference
// to the array is held and nothing can detach its buffer.
struct Bytes {
  std::uint8_t* data = nullptr;
  std::size_t size = 0;

  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
  bool overlaps(const Bytes& other) const {
    return size != 0 && other.size != 0 && data < other.data + other.size && other.data < data + size;
  }
};

// Reads and checks the arguments of one call from lib/addon.ts. TypeScript has checked them already, with better words;
// this is the line of defence that keeps a mistake there, or an array that changed in between, from touching memory.
// Throws a JavaScript Error with the code INVALID_ARGUMENT.
class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info) {}

  // A typed array of this element type.
  Bytes array(std::size_t i, const char* name, napi_typedarray_type type) const;
  // A typed array of any element type.
  Bytes any_array(std::size_t i, const char* name) const;
  // Null, which gives no data, or a typed array of so many elements.
  Bytes optional_array(std::size_t i, const char* name, napi_typedarray_type type, std::size_t count) const;
  // An Int8Array or a Uint8Array.
  Bytes bytes(std::size_t i, const char* name, bool& is_signed) const;
  // Float elements: a Float32Array for float32, else a Uint16Array.
  Bytes floats(std::size_t i, const char* name, FloatType type) const;
  // `count` float elements of any type: small ones in a Uint8Array.
  Bytes any_floats(std::size_t i, const char* name, AnyFloatType type, std::size_t count) const;
  bool is_null(std::size_t i) const { return info_[i].IsNull(); }
  // An integer in [lowest, highest].
  std::int64_t integer(std::size_t i, const char* name, std::int64_t lowest, std::int64_t highest) const;
  std::size_t size(std::size_t i, const char* name) const;
  double number(std::size_t i, const char* name) const;
  bool flag(std::size_t i, const char* name) const;
  FloatType float_type(std::size_t i, const char* name) const;
  AnyFloatType any_float_type(std::size_t i, const char* name) const;
  std::string string(std::size_t i, const char* name) const;
  Napi::Function function(std::size_t i, const char* name) const;

  Napi::Env env() const { return info_.Env(); }
  const Napi::CallbackInfo& info() const { return info_; }

  // `argument` is what lib/ calls the one concerned, if the error is about one.
  [[noreturn]] void fail(const std::string& message, const char* argument = nullptr) const;
  void check(bool condition, const char* what) const;

 private:
  const Napi::CallbackInfo& info_;
};

// Errors about the elements of an array carry its name.
void check_scales(const Arguments& a, const char* name, const float* scales, std::size_t count, bool positive);
// Null is accepted.
void check_zero_points(const Arguments& a, const char* name, const std::int32_t* zero_points, std::size_t count,
                       int lowest, int highest);

// a · b, or an error if it does not fit.
std::size_t checked_product(const Arguments& arguments, std::size_t a, std::size_t b);

// The JavaScript error for an outcome other than kOk: its code says which, `index` where.
Napi::Error error_of(Napi::Env env, const Outcome& outcome);
Napi::Error error_of(Napi::Env env, const Failure& failure);

Napi::Error error_with_code(Napi::Env env, const char* code, const std::string& message);

}  // namespace lowbit::node
