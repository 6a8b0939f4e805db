#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <utility>

namespace lowbit::node {

// What work throws to end in a JavaScript error with a code of its own: see RawError in lib/addon/raw.ts.
class Failure : public std::exception {
 public:
  Failure(const char* code, std::string message) : code_(code), message_(std::move(message)) {}

  // What lib/ calls the argument concerned.
  Failure about(const char* argument) && {
    argument_ = argument;
    return std::move(*this);
  }
  // The device concerned, and for one that is out of memory how many bytes were asked for (0: not known).
  Failure on(std::int32_t device, double bytes = 0.0) && {
    device_ = device;
    bytes_ = bytes;
    return std::move(*this);
  }

  const char* what() const noexcept override { return message_.c_str(); }
  const char* code() const { return code_; }
  const char* argument() const { return argument_; }
  std::int32_t device() const { return device_; }
  double bytes() const { return bytes_; }

 private:
  const char* code_;
  std::string message_;
  const char* argument_ = nullptr;
  std::int32_t device_ = -1;
  double bytes_ = 0.0;
};

}  // namespace lowbit::node
