#include "parse/safetensors_header.h"

#include <algorithm>
#include <functional>
#include <set>
#include <string_view>
#include <tuple>

#include "parse/json_reader.h"

namespace lowbit {
namespace {

struct DtypeName {
  std::string_view name;
  SafetensorsDtype dtype;
  std::uint8_t bits;
};

constexpr DtypeName kDtypes[] = {
    {"BOOL", SafetensorsDtype::kBool, 8},
    {"F4", SafetensorsDtype::kF4, 4},
    {"F6_E2M3", SafetensorsDtype::kF6E2M3, 6},
    {"F6_E3M2", SafetensorsDtype::kF6E3M2, 6},
    {"U8", SafetensorsDtype::kU8, 8},
    {"I8", SafetensorsDtype::kI8, 8},
    {"F8_E5M2", SafetensorsDtype::kF8E5M2, 8},
    {"F8_E4M3", SafetensorsDtype::kF8E4M3, 8},
    {"F8_E8M0", SafetensorsDtype::kF8E8M0, 8},
    {"F8_E4M3FNUZ", SafetensorsDtype::kF8E4M3Fnuz, 8},
    {"F8_E5M2FNUZ", SafetensorsDtype::kF8E5M2Fnuz, 8},
    {"I16", SafetensorsDtype::kI16, 16},
    {"U16", SafetensorsDtype::kU16, 16},
    {"F16", SafetensorsDtype::kF16, 16},
    {"BF16", SafetensorsDtype::kBF16, 16},
    {"I32", SafetensorsDtype::kI32, 32},
    {"U32", SafetensorsDtype::kU32, 32},
    {"F32", SafetensorsDtype::kF32, 32},
    {"C64", SafetensorsDtype::kC64, 64},
    {"F64", SafetensorsDtype::kF64, 64},
    {"I64", SafetensorsDtype::kI64, 64},
    {"U64", SafetensorsDtype::kU64, 64},
};

unsigned bits_of_dtype(SafetensorsDtype dtype) { return kDtypes[static_cast<std::size_t>(dtype)].bits; }

// What JavaScript counts exactly.
constexpr std::uint64_t kMaxSize = (std::uint64_t{1} << 53) - 1;

class HeaderParser {
 public:
  HeaderParser(const char* text, std::size_t length, SafetensorsHeader& header)
      : json_(text, length), header_(header) {}

  SafetensorsProblem parse() {
    const bool complete =
        json_.object([&](const std::string& name) { return name == "__metadata__" ? metadata() : tensor(name); });
    if (problem_.fault == SafetensorsFault::kNone && (!complete || !json_.at_end())) {
      fail(SafetensorsFault::kInvalidJson, current_);
    }
    return problem_;
  }

 private:
  // Keeps the first problem; always false.
  bool fail(SafetensorsFault fault, const std::string& tensor) {
    if (problem_.fault == SafetensorsFault::kNone) problem_ = {fault, tensor, json_.position()};
    return false;
  }
  // The same after a value of the wrong kind, which is a problem of syntax if it can't even be skipped.
  bool fail_value(SafetensorsFault fault) { return json_.skip() && fail(fault, current_); }

  bool metadata() {
    if (has_metadata_) return fail(SafetensorsFault::kDuplicateKey, "__metadata__");
    has_metadata_ = true;
    if (json_.peek() != '{') return fail_value(SafetensorsFault::kInvalidMetadata);
    std::set<std::string> keys;  // ordered: no keys make it slow, as some would a hash table
    return json_.object([&](const std::string& key) {
      if (!keys.insert(key).second) return fail(SafetensorsFault::kDuplicateKey, key);
      if (json_.peek() != '"') return fail(SafetensorsFault::kInvalidMetadata, key);
      std::string value;
      if (!json_.string(value)) return false;
      header_.metadata.emplace_back(key, std::move(value));
      return true;
    });
  }

  bool tensor(const std::string& name) {
    current_ = name;
    if (json_.peek() != '{') return fail_value(SafetensorsFault::kMissingField);
    SafetensorsTensor tensor;
    tensor.first_name_byte = header_.names.size();
    tensor.name_bytes = name.size();
    header_.names += name;
    bool has_dtype = false, has_shape = false, has_offsets = false;
    std::set<std::string> others;
    const bool complete = json_.object([&](const std::string& field) {
      if (field == "dtype") return once(has_dtype) && dtype(tensor);
      if (field == "shape") return once(has_shape) && shape(tensor);
      if (field == "data_offsets") return once(has_offsets) && offsets(tensor);
      return (others.insert(field).second || fail(SafetensorsFault::kDuplicateKey, current_)) && json_.skip();
    });
    if (!complete) return false;
    if (!has_dtype || !has_shape || !has_offsets) return fail(SafetensorsFault::kMissingField, current_);
    header_.tensors.push_back(tensor);
    current_.clear();
    return true;
  }

  bool once(bool& seen) {
    if (seen) return fail(SafetensorsFault::kDuplicateKey, current_);
    return seen = true;
  }

  bool dtype(SafetensorsTensor& tensor) {
    if (json_.peek() != '"') return fail_value(SafetensorsFault::kUnknownDtype);
    if (!json_.string(text_)) return false;
    for (const DtypeName& known : kDtypes) {
      if (known.name == text_) {
        tensor.dtype = known.dtype;
        return true;
      }
    }
    return fail(SafetensorsFault::kUnknownDtype, current_);
  }

  bool shape(SafetensorsTensor& tensor) {
    tensor.first_dim = header_.dims.size();
    return integers(SafetensorsFault::kInvalidShape, [&](std::uint64_t dim) {
      header_.dims.push_back(dim);
      tensor.rank++;
    });
  }

  bool offsets(SafetensorsTensor& tensor) {
    std::size_t count = 0;
    const bool complete = integers(SafetensorsFault::kInvalidOffsets, [&](std::uint64_t offset) {
      (count == 0 ? tensor.begin : tensor.end) = offset;
      count++;
    });
    return complete && (count == 2 || fail(SafetensorsFault::kInvalidOffsets, current_));
  }

  template <typename Take>
  bool integers(SafetensorsFault fault, const Take& take) {
    if (json_.peek() != '[') return fail_value(fault);
    return json_.array([&] {
      std::uint64_t value = 0;
      const JsonReader::Integer kind = json_.integer(value);
      if (kind == JsonReader::Integer::kSyntaxError) return false;
      if (kind == JsonReader::Integer::kOther) return fail(fault, current_);
      if (kind == JsonReader::Integer::kTooLarge || value > kMaxSize) {
        return fail(SafetensorsFault::kSizeOverflow, current_);
      }
      take(value);
      return true;
    });
  }

  JsonReader json_;
  SafetensorsHeader& header_;
  SafetensorsProblem problem_;
  bool has_metadata_ = false;
  std::string current_;  // the tensor being read
  std::string text_;     // reused
};

// The first name in the file that an earlier tensor has too, or nothing. The names are sorted by hash, not put into a
// hash table: a file whose names were chosen to collide there must not take quadratic time.
SafetensorsProblem check_names(const SafetensorsHeader& header) {
  struct Entry {
    std::size_t hash, index;
  };
  std::vector<Entry> entries(header.tensors.size());
  const auto name_of = [&](const Entry& entry) { return header.name_of(header.tensors[entry.index]); };
  for (std::size_t i = 0; i < entries.size(); i++) {
    entries[i].index = i;
    entries[i].hash = std::hash<std::string_view>{}(name_of(entries[i]));
  }
  std::sort(entries.begin(), entries.end(), [&](const Entry& a, const Entry& b) {
    if (a.hash != b.hash) return a.hash < b.hash;
    const int order = name_of(a).compare(name_of(b));
    return order != 0 ? order < 0 : a.index < b.index;
  });
  std::size_t first = header.tensors.size();
  for (std::size_t i = 1; i < entries.size(); i++) {
    if (entries[i].hash == entries[i - 1].hash && name_of(entries[i]) == name_of(entries[i - 1])) {
      first = std::min(first, entries[i].index);
    }
  }
  if (first == header.tensors.size()) return {};
  return {SafetensorsFault::kDuplicateKey, std::string(header.name_of(header.tensors[first])), 0};
}

// The size of a tensor in bytes.
SafetensorsFault byte_size(const SafetensorsHeader& header, const SafetensorsTensor& tensor, std::uint64_t& bytes) {
  std::uint64_t bits = bits_of_dtype(tensor.dtype);
  for (std::size_t d = 0; d < tensor.rank; d++) {
    const std::uint64_t dim = header.dims[tensor.first_dim + d];
    if (dim != 0 && bits > kMaxSize * 8 / dim) return SafetensorsFault::kSizeOverflow;
    bits *= dim;
  }
  bytes = bits / 8;
  return bits % 8 == 0 ? SafetensorsFault::kNone : SafetensorsFault::kMisaligned;
}

// Whether the tensors, in the order of their offsets, cover the data without hole or overlap and are as long as their
// shapes say.
SafetensorsProblem check_layout(SafetensorsHeader& header, std::uint64_t data_bytes) {
  const auto before = [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    // Empty tensors share their place: they keep the order of the file, in which the names lie.
    return std::tie(a.begin, a.end, a.first_name_byte) < std::tie(b.begin, b.end, b.first_name_byte);
  };
  if (!std::is_sorted(header.tensors.begin(), header.tensors.end(), before)) {
    std::sort(header.tensors.begin(), header.tensors.end(), before);
  }
  const auto problem = [&](SafetensorsFault fault, const SafetensorsTensor& tensor) {
    return SafetensorsProblem{fault, std::string(header.name_of(tensor)), 0};
  };
  std::uint64_t covered = 0;
  for (const SafetensorsTensor& tensor : header.tensors) {
    if (tensor.end < tensor.begin) return problem(SafetensorsFault::kReversedOffsets, tensor);
    if (tensor.begin > covered) return problem(SafetensorsFault::kHole, tensor);
    if (tensor.begin < covered) return problem(SafetensorsFault::kOverlap, tensor);
    covered = tensor.end;
    std::uint64_t bytes = 0;
    const SafetensorsFault fault = byte_size(header, tensor, bytes);
    if (fault != SafetensorsFault::kNone) return problem(fault, tensor);
    if (bytes != tensor.end - tensor.begin) return problem(SafetensorsFault::kSizeMismatch, tensor);
  }
  if (covered > data_bytes) return problem(SafetensorsFault::kTruncated, header.tensors.back());
  if (covered < data_bytes) return {SafetensorsFault::kTrailingData, "", 0};
  return {};
}

}  // namespace

SafetensorsProblem parse_safetensors_header(const char* text, std::size_t length, std::uint64_t data_bytes,
                                            SafetensorsHeader& header) {
  header = {};
  if (length == 0 || text[0] != '{') return {SafetensorsFault::kHeaderStart, "", 0};
  if (!is_valid_utf8(text, length)) return {SafetensorsFault::kInvalidUtf8, "", 0};
  SafetensorsProblem problem = HeaderParser(text, length, header).parse();
  if (problem.fault == SafetensorsFault::kNone) problem = check_names(header);
  if (problem.fault == SafetensorsFault::kNone) problem = check_layout(header, data_bytes);
  return problem;
}

}  // namespace lowbit
