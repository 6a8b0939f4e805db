#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lowbit {

// Element types of the safetensors format. The numbers are the raw surface between native/node and lib/addon/raw.ts.
enum class SafetensorsDtype : std::uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64
};

// Every way in which a header can lie. lib/checkpoint gives each a code and a sentence.
enum class SafetensorsFault : std::uint8_t {
  kNone,
  kHeaderStart,  // does not begin with {
  kInvalidUtf8,
  kInvalidJson,
  kDuplicateKey,  // a name or a field twice: readers would disagree on which counts
  kMissingField,  // dtype, shape or data_offsets
  kUnknownDtype,
  kInvalidShape,     // not an array of non-negative integers
  kInvalidOffsets,   // not an array of two non-negative integers
  kInvalidMetadata,  // not an object of strings
  kReversedOffsets,  // end before begin
  kHole,             // bytes between two tensors that belong to neither
  kOverlap,
  kSizeOverflow,  // shape · bits does not fit 2^53 − 1 bytes
  kMisaligned,    // sub-byte elements that do not fill whole bytes
  kSizeMismatch,  // data_offsets disagree with dtype and shape
  kTruncated,     // the file ends before the last tensor does
  kTrailingData,  // bytes after the last tensor
};

struct SafetensorsTensor {
  std::uint64_t begin = 0, end = 0;  // of its data, relative to the end of the header
  std::size_t first_name_byte = 0, name_bytes = 0;
  std::size_t first_dim = 0, rank = 0;
  SafetensorsDtype dtype = SafetensorsDtype::kBool;
};

// Names and shapes lie one after the other in two blocks: a million tensors need no million allocations.
struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;  // in the order of their data
  std::string names;
  std::vector<std::uint64_t> dims;
  std::vector<std::pair<std::string, std::string>> metadata;

  std::string_view name_of(const SafetensorsTensor& tensor) const {
    return std::string_view(names).substr(tensor.first_name_byte, tensor.name_bytes);
  }
};

struct SafetensorsProblem {
  SafetensorsFault fault = SafetensorsFault::kNone;
  std::string tensor;        // the name concerned, or empty
  std::size_t position = 0;  // in the header, for syntax
};

// Parses the JSON text of a header (without its length prefix) and checks everything that the reference reader checks
// (huggingface/safetensors, safetensors/src/tensor.rs) and that no name or field comes twice. `data_bytes` is what the
// file holds after the header. Never reads outside the text; allocates in proportion to its length.
SafetensorsProblem parse_safetensors_header(const char* text, std::size_t length, std::uint64_t data_bytes,
                                            SafetensorsHeader& header);

}  // namespace lowbit
