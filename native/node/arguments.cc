#include "node/arguments.h"

#include <cmath>

namespace lowbit::node {
namespace {

constexpr double kMaxSafeInteger = 9007199254740991.0;

}  // namespace

Napi::Error error_with_code(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

Napi::Error error_of(Napi::Env env, const Outcome& outcome) {
  const char* code = "CANCELLED";
  if (outcome.status == Status::kNonFinite) code = "NON_FINITE";
  if (outcome.status == Status::kScaleOverflow) code = "SCALE_OVERFLOW";
  Napi::Error error = error_with_code(env, code, code);
  error.Set("index", Napi::Number::New(env, static_cast<double>(outcome.index)));
  return error;
}

void Arguments::fail(const std::string& message) const {
  throw error_with_code(info_.Env(), "INVALID_ARGUMENT", message);
}

void Arguments::check(bool condition, const char* what) const {
  if (!condition) fail(what);
}

Bytes Arguments::array(std::size_t i, const char* name, napi_typedarray_type type) const {
  napi_typedarray_type actual{};
  std::size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(info_.Env(), info_[i], &actual, &length, &data, nullptr, nullptr) != napi_ok ||
      actual != type) {
    fail(std::string("Expected a typed array of the right kind for ") + name + ".");
  }
  std::size_t element = 1;
  if (type == napi_uint16_array) element = 2;
  if (type == napi_float32_array || type == napi_int32_array || type == napi_uint32_array) element = 4;
  if (type == napi_float64_array) element = 8;
  return {static_cast<std::uint8_t*>(data), length * element};
}

Bytes Arguments::floats(std::size_t i, const char* name, FloatType type) const {
  return array(i, name, type == FloatType::kFloat32 ? napi_float32_array : napi_uint16_array);
}

double Arguments::number(std::size_t i, const char* name) const {
  double value = 0.0;
  if (napi_get_value_double(info_.Env(), info_[i], &value) != napi_ok) {
    fail(std::string("Expected a number for ") + name + ".");
  }
  return value;
}

std::int64_t Arguments::integer(std::size_t i, const char* name, std::int64_t lowest, std::int64_t highest) const {
  const double value = number(i, name);
  if (!(value >= static_cast<double>(lowest) && value <= static_cast<double>(highest)) || value != std::floor(value)) {
    fail(std::string("Expected an integer in range for ") + name + ".");
  }
  return static_cast<std::int64_t>(value);
}

std::size_t Arguments::size(std::size_t i, const char* name) const {
  return static_cast<std::size_t>(integer(i, name, 0, static_cast<std::int64_t>(kMaxSafeInteger)));
}

bool Arguments::flag(std::size_t i, const char* name) const {
  bool value = false;
  if (napi_get_value_bool(info_.Env(), info_[i], &value) != napi_ok) {
    fail(std::string("Expected a boolean for ") + name + ".");
  }
  return value;
}

FloatType Arguments::float_type(std::size_t i, const char* name) const {
  return static_cast<FloatType>(integer(i, name, 0, 2));
}

Napi::Function Arguments::function(std::size_t i, const char* name) const {
  if (!info_[i].IsFunction()) fail(std::string("Expected a function for ") + name + ".");
  return info_[i].As<Napi::Function>();
}

std::size_t checked_product(const Arguments& arguments, std::size_t a, std::size_t b) {
  if (b != 0 && a > static_cast<std::size_t>(kMaxSafeInteger) / b) arguments.fail("A size exceeds 2^53 - 1.");
  return a * b;
}

}  // namespace lowbit::node
