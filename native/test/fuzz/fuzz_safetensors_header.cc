// libFuzzer target: the first byte chooses how much data follows the header, the rest is the header.

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "parse/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  lowbit::SafetensorsHeader header;
  const auto problem = lowbit::parse_safetensors_header(reinterpret_cast<const char*>(data + 1), size - 1,
                                                        std::uint64_t{data[0]}, header);
  if (problem.fault != lowbit::SafetensorsFault::kNone) return 0;
  // What is accepted covers the data exactly once.
  std::uint64_t covered = 0;
  for (const lowbit::SafetensorsTensor& tensor : header.tensors) {
    if (tensor.begin != covered || tensor.end < tensor.begin) std::abort();
    covered = tensor.end;
  }
  if (covered != data[0]) std::abort();
  return 0;
}
