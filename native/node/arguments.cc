#include "node/arguments.h"

#include <cmath>

namespace lowbit::node {
namespace {

constexpr double kMaxSafeInteger = 9007199254740991.0;

// As JavaScript says it.
std::string text_of(float value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0.0F ? "-Infinity" : "Infinity";
  return std::to_string(value);
}

std::size_t element_size(napi_typedarray_type type) {
  switch (type) {
    case napi_float64_array:
    case napi_biguint64_array:
      return 8;
    case napi_float32_array:
    case napi_int32_array:
    case napi_uint32_array:
      return 4;
    case napi_uint16_array:
      return 2;
    default:
      return 1;
  }
}

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
  if (outcome.status == Status::kInvalidCode) code = "INVALID_CODE";
  if (outcome.status == Status::kNotPositive) code = "NOT_POSITIVE_DEFINITE";
  Napi::Error error = error_with_code(env, code, code);
  error.Set("index", Napi::Number::New(env, static_cast<double>(outcome.index)));
  return error;
}

Napi::Error error_of(Napi::Env env, const Failure& failure) {
  Napi::Error error = error_with_code(env, failure.code(), failure.what());
  if (failure.argument() != nullptr) error.Set("argument", Napi::String::New(env, failure.argument()));
  if (failure.device() >= 0) {
    error.Set("device", Napi::Number::New(env, failure.device()));
    error.Set("bytes", Napi::Number::New(env, failure.bytes()));
  }
  return error;
}

void Arguments::fail(const std::string& message, const char* argument) const {
  Napi::Error error = error_with_code(info_.Env(), "INVALID_ARGUMENT", message);
  if (argument != nullptr) error.Set("argument", Napi::String::New(info_.Env(), argument));
  throw error;
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
  return {static_cast<std::uint8_t*>(data), length * element_size(type)};
}

Bytes Arguments::any_array(std::size_t i, const char* name) const {
  napi_typedarray_type type{};
  if (napi_get_typedarray_info(info_.Env(), info_[i], &type, nullptr, nullptr, nullptr, nullptr) != napi_ok) {
    fail(std::string("Expected a typed array for ") + name + ".");
  }
  return array(i, name, type);
}

Bytes Arguments::optional_array(std::size_t i, const char* name, napi_typedarray_type type, std::size_t count) const {
  if (is_null(i)) return {};
  const Bytes bytes = array(i, name, type);
  if (bytes.size != count * element_size(type)) {
    fail(std::string("Expected ") + std::to_string(count) + " elements for " + name + ".", name);
  }
  return bytes;
}

Bytes Arguments::bytes(std::size_t i, const char* name, bool& is_signed) const {
  is_signed = info_[i].IsTypedArray() && info_[i].As<Napi::TypedArray>().TypedArrayType() == napi_int8_array;
  return array(i, name, is_signed ? napi_int8_array : napi_uint8_array);
}

Bytes Arguments::floats(std::size_t i, const char* name, FloatType type) const {
  return array(i, name, type == FloatType::kFloat32 ? napi_float32_array : napi_uint16_array);
}

Bytes Arguments::any_floats(std::size_t i, const char* name, AnyFloatType type, std::size_t count) const {
  const Bytes bytes = type.is_small() ? array(i, name, napi_uint8_array) : floats(i, name, type.large());
  // The product of a count and the bits of an element fits 64 bits: a count is less than 2^53.
  if (bytes.size != type.packed_bytes(count)) {
    fail(std::string("Expected ") + name + " to hold " + std::to_string(count) + " elements.", name);
  }
  return bytes;
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

AnyFloatType Arguments::any_float_type(std::size_t i, const char* name) const {
  const std::int64_t number = integer(i, name, 0, AnyFloatType::kCount - 1);
  if (number <= static_cast<std::int64_t>(FloatType::kBfloat16)) return static_cast<FloatType>(number);
  return static_cast<SmallFloatType>(number);
}

std::string Arguments::string(std::size_t i, const char* name) const {
  if (!info_[i].IsString()) fail(std::string("Expected a string for ") + name + ".");
  return info_[i].As<Napi::String>().Utf8Value();
}

Napi::Function Arguments::function(std::size_t i, const char* name) const {
  if (!info_[i].IsFunction()) fail(std::string("Expected a function for ") + name + ".");
  return info_[i].As<Napi::Function>();
}

void check_scales(const Arguments& a, const char* name, const float* scales, std::size_t count, bool positive) {
  for (std::size_t i = 0; i < count; i++) {
    if (!std::isfinite(scales[i]) || (positive && !(scales[i] > 0.0F))) {
      a.fail(std::string("Expected ") + name + " to be finite" + (positive ? " and greater than 0" : "") +
                 " but received " + text_of(scales[i]) + " at index " + std::to_string(i) + ".",
             name);
    }
  }
}

void check_zero_points(const Arguments& a, const char* name, const std::int32_t* zero_points, std::size_t count,
                       int lowest, int highest) {
  if (zero_points == nullptr) return;
  for (std::size_t i = 0; i < count; i++) {
    if (zero_points[i] < lowest || zero_points[i] > highest) {
      a.fail(std::string("Expected ") + name + " to lie in [" + std::to_string(lowest) + ", " +
                 std::to_string(highest) + "] but received " + std::to_string(zero_points[i]) + " at index " +
                 std::to_string(i) + ".",
             name);
    }
  }
}

std::size_t checked_product(const Arguments& arguments, std::size_t a, std::size_t b) {
  if (b != 0 && a > static_cast<std::size_t>(kMaxSafeInteger) / b) arguments.fail("A size exceeds 2^53 - 1.");
  return a * b;
}

}  // namespace lowbit::node
