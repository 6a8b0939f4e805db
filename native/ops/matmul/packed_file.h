#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "ops/matmul/packed_weight.h"

// A packed weight on disk: a page that says how it lies, then its memory as it is, so that a server maps the file and
// starts. The layout is that of every instruction set; `version` changes when it does.

namespace lowbit {

constexpr std::size_t kPackedHeaderBytes = 4096;

enum class PackedFault : std::uint8_t {
  kNone = 0,
  kUnreadable = 1,      // `detail` has the words of the system
  kNotPacked = 2,       // no packed weight at all
  kVersion = 3,         // of another version of lowbit
  kDamagedHeader = 4,   // its checksum or its numbers are wrong
  kSize = 5,            // shorter or longer than its header says
  kDamagedWeights = 6,  // their checksum is wrong
};

struct PackedProblem {
  PackedFault fault = PackedFault::kNone;
  std::string detail;
};

// The first kPackedHeaderBytes of the file; weight.codes() … + layout.bytes() follow.
void write_packed_header(const PackedWeight& weight, std::uint8_t* out);
// The same of any numbers: `bytes` follow, with this checksum.
void write_packed_header(const PackedLayout& layout, std::uint64_t bytes, std::uint64_t checksum, std::uint8_t* out);
std::uint64_t packed_checksum(const std::uint8_t* data, std::size_t size);

// Maps a file. The checksum of the weights is computed only to `verify`: that reads all of them.
PackedProblem map_packed(const std::string& path, bool verify, PackedWeight& weight);
// The same of what was mapped. Whatever the file holds, a weight that is taken is read within it.
PackedProblem take_packed(Pages file, bool verify, PackedWeight& weight);

}  // namespace lowbit
