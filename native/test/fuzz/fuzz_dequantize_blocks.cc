// libFuzzer target: the first byte chooses the block type and whether stores go around the caches, the second the
// alignment, the rest are blocks. Whatever the bytes, every instruction set decodes them to the same floats, and
// neither reads nor writes outside arrays of exactly that size.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/float_bits.h"
#include "core/kernels.h"

namespace {

struct Free {
  void operator()(void* block) const { std::free(block); }
};

// The last element is the last of its heap block, so that the address sanitizer sees what is past it.
template <typename T>
class Exact {
 public:
  Exact(std::size_t count, std::size_t misalignment)
      : block_(std::malloc((count + misalignment) * sizeof(T) + (count + misalignment == 0 ? 1 : 0))),
        data_(static_cast<T*>(block_.get()) + misalignment) {
    if (block_ == nullptr) std::abort();
  }
  T* data() { return data_; }

 private:
  std::unique_ptr<void, Free> block_;
  T* data_;
};

bool same(float a, float b) { return (a != a && b != b) || lowbit::bits_of(a) == lowbit::bits_of(b); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::size_t type = data[0] % lowbit::kBlockTypes;
  const bool stream = data[0] >= 128;
  const lowbit::BlockFormat& format = lowbit::kBlockFormats[type];
  const std::size_t blocks = (size - 2) / format.bytes, elements = blocks * format.length;
  Exact<std::uint8_t> in(blocks * format.bytes, data[1] % 16);
  if (blocks != 0) std::memcpy(in.data(), data + 2, blocks * format.bytes);
  Exact<float> expected(elements, 0), got(elements, data[1] / 16);
  lowbit::scalar::kBlocks.types[type].dequantize(in.data(), blocks, expected.data(), false);
  for (std::size_t k = 0; k < lowbit::kAllKernelsCount; k++) {
    const lowbit::Kernels& kernels = *lowbit::kAllKernels[k];
    if (!kernels.supported()) continue;
    kernels.blocks->types[type].dequantize(in.data(), blocks, got.data(), stream);
    for (std::size_t i = 0; i < elements; i++) {
      if (!same(got.data()[i], expected.data()[i])) std::abort();
    }
  }
  return 0;
}
