#include "ops/matmul/packed_file.h"

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace lowbit {
namespace {

constexpr char kMagic[8] = {'l', 'o', 'w', 'b', 'i', 't', 'p', 'w'};
constexpr std::uint64_t kVersion = 2;

// What the first page holds, then zeros. Numbers are little-endian, as on every processor that lowbit supports.
struct Header {
  char magic[8];
  std::uint64_t version;
  std::uint64_t kind, format, type, column_zeros, zero, offsets;
  std::uint64_t rows, columns, segment, segments, segments_per_group;
  std::uint64_t bytes, checksum;  // of the memory that follows
  std::uint64_t header_checksum;  // of all above
};

std::uint64_t mixed(std::uint64_t sum, std::uint64_t word) {
  sum = (sum ^ word) * 0x9e3779b97f4a7c15U;
  return sum ^ (sum >> 29);
}

std::uint64_t checksum_of(const Header& header) {
  return packed_checksum(reinterpret_cast<const std::uint8_t*>(&header), offsetof(Header, header_checksum));
}

// Numbers that no packed weight has would be read out of bounds.
bool plausible(const PackedLayout& l) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 40;
  if (l.kind > WeightKind::kIntegers || l.format > LineFormat::kE3m2 || l.format == LineFormat::kSmallBytes ||
      l.type > FloatType::kBfloat16)
    return false;
  if (l.rows > kMost || l.columns > kMost || l.columns + 1 > kMost / (l.rows + 1)) return false;
  if (l.kind == WeightKind::kFloats) return l.segments_per_group == 1;
  if (l.segment == 0 || l.segment % 16 != 0 || l.segments == 0 || l.segment > kMost || l.segments > kMost) return false;
  if (l.segments_per_group == 0 || l.segments % l.segments_per_group != 0) return false;
  // Padding is less than a group, or than the longest segment of a row: more could make a size overflow.
  if (l.segment * l.segments < l.columns || l.segment * l.segments > 2 * l.columns + 2 * kLongestSegment) return false;
  if (l.offsets && (l.kind != WeightKind::kCodes || lines_of(l.format) != l.format)) return false;
  if (l.kind == WeightKind::kIntegers) return l.format == LineFormat::kBits8 && l.segments == 1;
  return l.segment <= kLongestSegment && (l.format != LineFormat::kBits3 || l.segment % 32 == 0);
}

}  // namespace

// Four lanes, so that the multiplications overlap. Every changed bit changes its lane.
std::uint64_t packed_checksum(const std::uint8_t* data, std::size_t size) {
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  std::size_t i = 0;
  for (; i + 32 <= size; i += 32) {
    std::uint64_t words[4];
    std::memcpy(words, data + i, sizeof words);
    for (int lane = 0; lane < 4; lane++) lanes[lane] = mixed(lanes[lane], words[lane]);
  }
  std::uint64_t sum = size;
  for (; i < size; i++) sum = mixed(sum, data[i]);
  for (const std::uint64_t lane : lanes) sum = mixed(sum, lane);
  return sum;
}

void write_packed_header(const PackedWeight& weight, std::uint8_t* out) {
  const std::size_t bytes = weight.layout.bytes();
  write_packed_header(weight.layout, bytes, packed_checksum(weight.codes(), bytes), out);
}

void write_packed_header(const PackedLayout& l, std::uint64_t bytes, std::uint64_t checksum, std::uint8_t* out) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.kind = static_cast<std::uint64_t>(l.kind);
  header.format = static_cast<std::uint64_t>(l.format);
  header.type = static_cast<std::uint64_t>(l.type);
  header.column_zeros = l.column_zeros ? 1 : 0;
  header.zero = static_cast<std::uint64_t>(l.zero);
  header.offsets = l.offsets ? 1 : 0;
  header.rows = l.rows;
  header.columns = l.columns;
  header.segment = l.segment;
  header.segments = l.segments;
  header.segments_per_group = l.segments_per_group;
  header.bytes = bytes;
  header.checksum = checksum;
  header.header_checksum = checksum_of(header);
  std::memset(out, 0, kPackedHeaderBytes);
  std::memcpy(out, &header, sizeof header);
}

PackedProblem map_packed(const std::string& path, bool verify, PackedWeight& weight) {
  Pages file;
  try {
    file = Pages::map_file(path);
  } catch (const std::runtime_error& error) {
    return {PackedFault::kUnreadable, error.what()};
  }
  return take_packed(std::move(file), verify, weight);
}

PackedProblem take_packed(Pages file, bool verify, PackedWeight& weight) {
  Header header{};
  if (file.size() < sizeof kMagic || std::memcmp(file.data(), kMagic, sizeof kMagic) != 0) {
    return {PackedFault::kNotPacked, ""};
  }
  if (file.size() < kPackedHeaderBytes) return {PackedFault::kSize, std::to_string(kPackedHeaderBytes)};
  std::memcpy(&header, file.data(), sizeof header);
  if (header.version != kVersion) return {PackedFault::kVersion, std::to_string(header.version)};
  if (header.header_checksum != checksum_of(header)) return {PackedFault::kDamagedHeader, ""};
  PackedLayout l{};
  if (header.kind > 255 || header.format > 255 || header.type > 255 || header.zero > 255) {
    return {PackedFault::kDamagedHeader, ""};
  }
  l.kind = static_cast<WeightKind>(header.kind);
  l.format = static_cast<LineFormat>(header.format);
  l.type = static_cast<FloatType>(header.type);
  l.column_zeros = header.column_zeros != 0;
  l.zero = static_cast<std::int32_t>(header.zero);
  l.offsets = header.offsets != 0;
  l.rows = header.rows;
  l.columns = header.columns;
  l.segment = header.segment;
  l.segments = header.segments;
  l.segments_per_group = header.segments_per_group;
  if (!plausible(l) || header.bytes != l.bytes()) return {PackedFault::kDamagedHeader, ""};
  for (std::size_t i = sizeof header; i < kPackedHeaderBytes; i++) {
    if (file.data()[i] != 0) return {PackedFault::kDamagedHeader, ""};
  }
  if (file.size() != kPackedHeaderBytes + header.bytes) {
    return {PackedFault::kSize, std::to_string(kPackedHeaderBytes + header.bytes)};
  }
  if (verify && packed_checksum(file.data() + kPackedHeaderBytes, l.bytes()) != header.checksum) {
    return {PackedFault::kDamagedWeights, ""};
  }
  weight.layout = l;
  weight.memory = std::move(file);
  weight.begin = kPackedHeaderBytes;
  return {};
}

}  // namespace lowbit
