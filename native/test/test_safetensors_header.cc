// The safetensors header parser: what it accepts, and that each lie gets its own answer.

#include <algorithm>
#include <functional>

#include "parse/safetensors_header.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

SafetensorsProblem parse(const std::string& text, std::uint64_t data_bytes, SafetensorsHeader* out = nullptr) {
  Buffer<char> exact(text.size());
  std::memcpy(exact.data(), text.data(), text.size());
  SafetensorsHeader header;
  const SafetensorsProblem problem = parse_safetensors_header(exact.data(), exact.size(), data_bytes, header);
  if (out != nullptr) *out = header;
  return problem;
}

TEST("safetensors header: a valid one gives names, shapes and offsets in the order of the data") {
  SafetensorsHeader header;
  const std::string text =
      R"({"b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},"__metadata__":{"format":"pt"},)"
      R"( "\u00e4\ud83d\ude00":{"shape":[],"extra":[{"x":null}],"data_offsets":[0,4],"dtype":"F32"},)"
      R"("empty":{"dtype":"I64","shape":[0,7],"data_offsets":[16,16]}}   )";
  const SafetensorsProblem problem = parse(text, 16, &header);
  CHECK(problem.fault == SafetensorsFault::kNone, "fault %d", static_cast<int>(problem.fault));
  CHECK(header.tensors.size() == 3 && header.name_of(header.tensors[0]) == "\xc3\xa4\xf0\x9f\x98\x80", "first name");
  CHECK(header.name_of(header.tensors[1]) == "b" && header.tensors[1].rank == 2 &&
            header.dims[header.tensors[1].first_dim + 1] == 3,
        "second");
  CHECK(header.name_of(header.tensors[2]) == "empty" && header.tensors[2].begin == 16, "third");
  CHECK(header.metadata.size() == 1 && header.metadata[0].second == "pt", "metadata");
}

TEST("safetensors header: every lie has its own fault") {
  struct Lie {
    const char* text;
    std::uint64_t data_bytes;
    SafetensorsFault fault;
  };
  const std::string deep = R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":)" + std::string(100, '[');
  const Lie lies[] = {
      {"", 0, SafetensorsFault::kHeaderStart},
      {" {}", 0, SafetensorsFault::kHeaderStart},
      {"[]", 0, SafetensorsFault::kHeaderStart},
      {"{\"\xff\":1}", 0, SafetensorsFault::kInvalidUtf8},
      {"{\"\xed\xa0\x80\":1}", 0, SafetensorsFault::kInvalidUtf8},
      {"{\"\xc0\xaf\":1}", 0, SafetensorsFault::kInvalidUtf8},
      {"{", 0, SafetensorsFault::kInvalidJson},
      {"{}x", 0, SafetensorsFault::kInvalidJson},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},})", 1, SafetensorsFault::kInvalidJson},
      {R"({"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}})", 1, SafetensorsFault::kInvalidJson},
      {R"({"\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, SafetensorsFault::kInvalidJson},
      {deep.c_str(), 0, SafetensorsFault::kInvalidJson},
      {R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
       0, SafetensorsFault::kDuplicateKey},
      {R"({"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}})", 0, SafetensorsFault::kDuplicateKey},
      {R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"\u0064type":"I8"}})", 0,
       SafetensorsFault::kDuplicateKey},
      {R"({"__metadata__":{"k":"1","k":"2"}})", 0, SafetensorsFault::kDuplicateKey},
      {R"({"a":{"dtype":"U8","shape":[0]}})", 0, SafetensorsFault::kMissingField},
      {R"({"a":3})", 0, SafetensorsFault::kMissingField},
      {R"({"a":{"dtype":"Q4","shape":[0],"data_offsets":[0,0]}})", 0, SafetensorsFault::kUnknownDtype},
      {R"({"a":{"dtype":8,"shape":[0],"data_offsets":[0,0]}})", 0, SafetensorsFault::kUnknownDtype},
      {R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}})", 0, SafetensorsFault::kInvalidShape},
      {R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1, SafetensorsFault::kInvalidShape},
      {R"({"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}})", 1, SafetensorsFault::kInvalidShape},
      {R"({"a":{"dtype":"U8","shape":"1","data_offsets":[0,1]}})", 1, SafetensorsFault::kInvalidShape},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1, SafetensorsFault::kInvalidOffsets},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})", 1, SafetensorsFault::kInvalidOffsets},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,-1]}})", 1, SafetensorsFault::kInvalidOffsets},
      {R"({"__metadata__":[]})", 0, SafetensorsFault::kInvalidMetadata},
      {R"({"__metadata__":{"k":1}})", 0, SafetensorsFault::kInvalidMetadata},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1, SafetensorsFault::kReversedOffsets},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2, SafetensorsFault::kHole},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       2, SafetensorsFault::kOverlap},
      {R"({"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       SafetensorsFault::kSizeOverflow},
      {R"({"a":{"dtype":"U8","shape":[99999999999999999999999],"data_offsets":[0,0]}})", 0,
       SafetensorsFault::kSizeOverflow},
      {R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1, SafetensorsFault::kMisaligned},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, SafetensorsFault::kSizeMismatch},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 2, SafetensorsFault::kTruncated},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 4, SafetensorsFault::kTrailingData},
  };
  for (const Lie& lie : lies) {
    const SafetensorsProblem problem = parse(lie.text, lie.data_bytes);
    CHECK(problem.fault == lie.fault, "%.80s gave fault %d, expected %d", lie.text, static_cast<int>(problem.fault),
          static_cast<int>(lie.fault));
  }
}

TEST("safetensors header: any prefix and any one-byte change of a valid header is answered, not crashed on") {
  const std::string text =
      R"({"__metadata__":{"a":"\n"},"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},"v":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}})";
  for (std::size_t n = 0; n < text.size(); n++) {
    CHECK(parse(text.substr(0, n), 9).fault != SafetensorsFault::kNone, "prefix of %zu", n);
    std::string changed = text;
    for (int byte = 0; byte < 256; byte++) {
      changed[n] = static_cast<char>(byte);
      parse(changed, 9);
    }
  }
}

TEST("safetensors header: of several duplicate names, the first in the file is reported") {
  std::string text = "{";
  for (int i = 0; i < 2000; i++) {
    const int name = i == 1200 ? 700 : i == 1500 || i == 1501 ? 3 : i == 1900 ? 1 : i;
    text += (i == 0 ? "\"t" : ",\"t") + std::to_string(name) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  }
  const SafetensorsProblem problem = parse(text + "}", 0);
  CHECK(problem.fault == SafetensorsFault::kDuplicateKey && problem.tensor == "t700", "fault %d at %s",
        static_cast<int>(problem.fault), problem.tensor.c_str());
}

// The names that a hash table of twice the size would keep in a sixteenth of its slots. A parser that lets them make it
// quadratic takes a quarter of an hour over this; it is not timed here, but nobody can miss it.
TEST("safetensors header: a million names chosen to collide in a hash table") {
  const std::size_t count = quick() ? 10000 : 1000000;
  std::size_t slots = 16;
  while (slots < 2 * count) slots *= 2;
  std::string text = "{";
  for (std::size_t number = 0, found = 0; found < count; number++) {
    const std::string name = std::to_string(number);
    if ((std::hash<std::string_view>{}(name) & (slots - 1)) >= slots / 16) continue;
    text += found++ == 0 ? "\"" : ",\"";
    text += name;
    text += R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  }
  text += "}";
  CHECK(parse(text, 0).fault == SafetensorsFault::kNone, "a valid header of %zu tensors is refused", count);
}

TEST("safetensors header: a million tensors") {
  const int count = quick() ? 10000 : 1000000;
  std::string text = "{";
  for (int i = 0; i < count; i++) {
    const std::string at = std::to_string(i), next = std::to_string(i + 1);
    for (const std::string_view part :
         {std::string_view(i == 0 ? "" : ","), std::string_view("\"t"), std::string_view(at),
          std::string_view(R"(":{"dtype":"U8","shape":[1],"data_offsets":[)"), std::string_view(at),
          std::string_view(","), std::string_view(next), std::string_view("]}")}) {
      text += part;
    }
  }
  text += "}";
  SafetensorsHeader header;
  CHECK(parse(text, static_cast<std::uint64_t>(count), &header).fault == SafetensorsFault::kNone, "parse");
  CHECK(header.tensors.size() == static_cast<std::size_t>(count), "count");
}

}  // namespace
}  // namespace lowbit::test
