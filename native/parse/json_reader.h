#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lowbit {

// A strict JSON reader (RFC 8259) that walks a text once without building a tree: headers with a million entries stay
// cheap, and the caller sees every key, also one that comes twice.
//
// Every function returns false on a syntax error and leaves position() at it.
class JsonReader {
 public:
  JsonReader(const char* text, std::size_t length) : begin_(text), at_(text), end_(text + length) {}

  std::size_t position() const { return static_cast<std::size_t>(at_ - begin_); }

  // The next character after white space, or '\0' at the end of the text.
  char peek() {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) at_++;
    return at_ < end_ ? *at_ : '\0';
  }

  bool at_end() { return peek() == '\0' && at_ == end_; }

  // Takes this character (after white space), if it is the next.
  bool take(char expected) {
    if (peek() != expected || at_ == end_) return false;
    at_++;
    return true;
  }

  // A string, its escapes decoded to UTF-8. The text must be valid UTF-8; lone surrogates are refused.
  bool string(std::string& out);

  enum class Integer : std::uint8_t { kValue, kTooLarge, kOther, kSyntaxError };
  // A value that should be a non-negative integer: kTooLarge past 2^64 − 1, kOther for any other well-formed value.
  Integer integer(std::uint64_t& out);

  // Any value.
  bool skip() { return skip_nested(0); }

  // Calls member(key) for each member of an object; it must consume the value and returns whether to go on.
  template <typename Member>
  bool object(const Member& member) {
    if (!take('{')) return false;
    if (take('}')) return true;
    std::string key;
    do {
      if (peek() != '"' || !string(key) || !take(':') || !member(key)) return false;
    } while (take(','));
    return take('}');
  }

  // Calls element() for each element of an array; as above.
  template <typename Element>
  bool array(const Element& element) {
    if (!take('[')) return false;
    if (take(']')) return true;
    do {
      if (!element()) return false;
    } while (take(','));
    return take(']');
  }

 private:
  static constexpr int kMaxDepth = 64;

  bool skip_nested(int depth);
  bool skip_number();
  bool literal(const char* word);
  bool escape(std::string& out);
  bool hex4(std::uint32_t& out);

  const char* begin_;
  const char* at_;
  const char* end_;
};

bool is_valid_utf8(const char* text, std::size_t length);

}  // namespace lowbit
