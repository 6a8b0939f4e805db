#include "parse/json_reader.h"

namespace lowbit {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(std::string& out, std::uint32_t code) {
  const auto byte = [&](std::uint32_t value) { out.push_back(static_cast<char>(value)); };
  if (code < 0x80) {
    byte(code);
  } else if (code < 0x800) {
    byte(0xc0 | (code >> 6));
    byte(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    byte(0xe0 | (code >> 12));
    byte(0x80 | ((code >> 6) & 0x3f));
    byte(0x80 | (code & 0x3f));
  } else {
    byte(0xf0 | (code >> 18));
    byte(0x80 | ((code >> 12) & 0x3f));
    byte(0x80 | ((code >> 6) & 0x3f));
    byte(0x80 | (code & 0x3f));
  }
}

}  // namespace

bool JsonReader::hex4(std::uint32_t& out) {
  out = 0;
  for (int i = 0; i < 4; i++, at_++) {
    if (at_ == end_) return false;
    const char c = *at_;
    std::uint32_t digit = 0;
    if (is_digit(c)) {
      digit = static_cast<std::uint32_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<std::uint32_t>(c - 'a' + 10);
    } else if (c >= 'A' && c <= 'F') {
      digit = static_cast<std::uint32_t>(c - 'A' + 10);
    } else {
      return false;
    }
    out = out * 16 + digit;
  }
  return true;
}

bool JsonReader::escape(std::string& out) {
  if (at_ == end_) return false;
  switch (*at_++) {
    case '"':
      out.push_back('"');
      return true;
    case '\\':
      out.push_back('\\');
      return true;
    case '/':
      out.push_back('/');
      return true;
    case 'b':
      out.push_back('\b');
      return true;
    case 'f':
      out.push_back('\f');
      return true;
    case 'n':
      out.push_back('\n');
      return true;
    case 'r':
      out.push_back('\r');
      return true;
    case 't':
      out.push_back('\t');
      return true;
    case 'u':
      break;
    default:
      at_--;
      return false;
  }
  std::uint32_t code = 0;
  if (!hex4(code)) return false;
  if (code >= 0xdc00 && code < 0xe000) return false;
  if (code >= 0xd800 && code < 0xdc00) {
    std::uint32_t low = 0;
    if (end_ - at_ < 2 || at_[0] != '\\' || at_[1] != 'u') return false;
    at_ += 2;
    if (!hex4(low) || low < 0xdc00 || low >= 0xe000) return false;
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  append_utf8(out, code);
  return true;
}

bool JsonReader::string(std::string& out) {
  out.clear();
  if (!take('"')) return false;
  while (at_ < end_) {
    const char* plain = at_;
    while (at_ < end_ && *at_ != '"' && *at_ != '\\' && static_cast<unsigned char>(*at_) >= 0x20) at_++;
    out.append(plain, static_cast<std::size_t>(at_ - plain));
    if (at_ == end_) return false;
    if (*at_ == '"') {
      at_++;
      return true;
    }
    if (*at_ != '\\') return false;
    at_++;
    if (!escape(out)) return false;
  }
  return false;
}

bool JsonReader::skip_number() {
  if (at_ < end_ && *at_ == '-') at_++;
  const auto digits = [&] {
    const char* first = at_;
    while (at_ < end_ && is_digit(*at_)) at_++;
    return at_ != first;
  };
  const char* integer_part = at_;
  if (!digits()) return false;
  if (*integer_part == '0' && at_ - integer_part > 1) return false;
  if (at_ < end_ && *at_ == '.') {
    at_++;
    if (!digits()) return false;
  }
  if (at_ < end_ && (*at_ == 'e' || *at_ == 'E')) {
    at_++;
    if (at_ < end_ && (*at_ == '+' || *at_ == '-')) at_++;
    if (!digits()) return false;
  }
  return true;
}

bool JsonReader::literal(const char* word) {
  for (; *word != '\0'; word++, at_++) {
    if (at_ == end_ || *at_ != *word) return false;
  }
  return true;
}

bool JsonReader::skip_nested(int depth) {
  if (depth > kMaxDepth) return false;
  std::string ignored;
  switch (peek()) {
    case '{':
      return object([&](const std::string&) { return skip_nested(depth + 1); });
    case '[':
      return array([&] { return skip_nested(depth + 1); });
    case '"':
      return string(ignored);
    case 't':
      return literal("true");
    case 'f':
      return literal("false");
    case 'n':
      return literal("null");
    default:
      return skip_number();
  }
}

JsonReader::Integer JsonReader::integer(std::uint64_t& out) {
  const char first = peek();
  const char* start = at_;
  if (!skip()) return Integer::kSyntaxError;
  if (!is_digit(first)) return Integer::kOther;
  out = 0;
  for (const char* c = start; c < at_; c++) {
    if (!is_digit(*c)) return Integer::kOther;
    const auto digit = static_cast<std::uint64_t>(*c - '0');
    if (out > (UINT64_MAX - digit) / 10) return Integer::kTooLarge;
    out = out * 10 + digit;
  }
  return Integer::kValue;
}

bool is_valid_utf8(const char* text, std::size_t length) {
  const auto* at = reinterpret_cast<const unsigned char*>(text);
  const unsigned char* end = at + length;
  while (at < end) {
    const unsigned char lead = *at;
    if (lead < 0x80) {
      at++;
      continue;
    }
    std::ptrdiff_t size = 0;
    unsigned low = 0x80,
             high = 0xbf;  // the bounds of the second byte exclude overlong forms, surrogates and > U+10FFFF
    if (lead >= 0xc2 && lead <= 0xdf) {
      size = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
      size = 3;
      if (lead == 0xe0) low = 0xa0;
      if (lead == 0xed) high = 0x9f;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
      size = 4;
      if (lead == 0xf0) low = 0x90;
      if (lead == 0xf4) high = 0x8f;
    } else {
      return false;
    }
    if (end - at < size || at[1] < low || at[1] > high) return false;
    for (std::ptrdiff_t i = 2; i < size; i++) {
      if (at[i] < 0x80 || at[i] > 0xbf) return false;
    }
    at += size;
  }
  return true;
}

}  // namespace lowbit
