#include "ops/fields/fields.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/tiles.h"

namespace lowbit {
namespace {

// Calls body(begin, end) for stretches of rows, on all threads.
template <typename Body>
Outcome for_rows(std::size_t rows, std::size_t columns, const CancelFlag* cancel, const Body& body) {
  if (rows == 0 || columns == 0) return {};
  const std::size_t step = std::max<std::size_t>(1, kTileElements / columns);
  const bool done = ThreadPool::instance().parallel_for(
      ceil_div(rows, step), [&](std::size_t i) { body(i * step, std::min(rows, (i + 1) * step)); }, cancel);
  return done ? Outcome{} : Outcome{Status::kCancelled, -1};
}

// Eight fields of `bits` bits are so many bytes.
std::uint64_t load_eight(const std::uint8_t* in, unsigned bits) {
  std::uint64_t word = 0;
  for (unsigned i = 0; i < bits; i++) word |= std::uint64_t{in[i]} << (8 * i);
  return word;
}

template <unsigned kBits>
void unpack_dense(const std::uint8_t* in, std::size_t columns, std::uint8_t offset, std::uint8_t* out) {
  constexpr unsigned kMask = (1U << kBits) - 1U;
  std::size_t i = 0;
  for (; i + 8 <= columns; i += 8, in += kBits) {
    const std::uint64_t word = load_eight(in, kBits);
    for (unsigned f = 0; f < 8; f++) {
      out[i + f] = static_cast<std::uint8_t>(((word >> (f * kBits)) & kMask) - offset);
    }
  }
  if (i == columns) return;
  const auto rest = static_cast<unsigned>(columns - i);
  const std::uint64_t word = load_eight(in, (rest * kBits + 7) / 8);
  for (unsigned f = 0; f < rest; f++) {
    out[i + f] = static_cast<std::uint8_t>(((word >> (f * kBits)) & kMask) - offset);
  }
}

void unpack_words(const std::uint8_t* in, std::size_t columns, unsigned bits, unsigned per_word, std::uint8_t offset,
                  std::uint8_t* out) {
  const unsigned mask = (1U << bits) - 1U;
  for (std::size_t i = 0; i < columns; i += per_word, in += 4) {
    auto word = static_cast<std::uint32_t>(load_eight(in, 4));
    const std::size_t count = std::min<std::size_t>(per_word, columns - i);
    for (std::size_t f = 0; f < count; f++, word >>= bits)
      out[i + f] = static_cast<std::uint8_t>((word & mask) - offset);
  }
}

using UnpackRow = void (*)(const std::uint8_t*, std::size_t, std::uint8_t, std::uint8_t*);
constexpr UnpackRow kUnpackDense[] = {nullptr,         unpack_dense<1>, unpack_dense<2>,
                                      unpack_dense<3>, unpack_dense<4>, unpack_dense<5>,
                                      unpack_dense<6>, unpack_dense<7>, unpack_dense<8>};

// The inverse of unpack_dense() for fields that fit.
template <unsigned kBits>
void pack_dense(const std::uint8_t* in, std::size_t columns, std::uint8_t* out) {
  for (std::size_t i = 0; i < columns; i += 8, out += kBits) {
    const auto count = static_cast<unsigned>(std::min<std::size_t>(8, columns - i));
    std::uint64_t word = 0;
    for (unsigned f = 0; f < count; f++) word |= std::uint64_t{in[i + f]} << (f * kBits);
    for (unsigned b = 0; b < (count * kBits + 7) / 8; b++) out[b] = static_cast<std::uint8_t>(word >> (8 * b));
  }
}

using PackRow = void (*)(const std::uint8_t*, std::size_t, std::uint8_t*);
constexpr PackRow kPackDense[] = {nullptr,       pack_dense<1>, pack_dense<2>, pack_dense<3>, pack_dense<4>,
                                  pack_dense<5>, pack_dense<6>, pack_dense<7>, pack_dense<8>};

// The top bits of 512 fields: a pattern that repeats after so many bytes, whatever their width.
class TopBits {
 public:
  TopBits(unsigned bits, bool flip) : bytes_(std::size_t{64} * bits) {
    std::memset(mask_, 0, sizeof mask_);
    if (!flip) return;
    for (std::size_t i = 0; i < 512; i++) {
      const std::size_t bit = i * bits + bits - 1;
      mask_[bit / 8] = static_cast<std::uint8_t>(mask_[bit / 8] | (1U << (bit % 8)));
    }
  }

  void apply(const std::uint8_t* in, std::size_t count, std::uint8_t* out) const {
    for (; count >= bytes_; count -= bytes_, in += bytes_, out += bytes_) {
      for (std::size_t i = 0; i < bytes_; i += sizeof(std::uint64_t)) {
        std::uint64_t fields, mask;
        std::memcpy(&fields, in + i, sizeof fields);
        std::memcpy(&mask, mask_ + i, sizeof mask);
        fields ^= mask;
        std::memcpy(out + i, &fields, sizeof fields);
      }
    }
    for (std::size_t i = 0; i < count; i++) out[i] = in[i] ^ mask_[i];
  }

 private:
  std::size_t bytes_;
  std::uint8_t mask_[512];
};

}  // namespace

Outcome move_fields(const MoveFields& w, const CancelFlag* cancel) {
  const TopBits top(w.bits, w.flip);
  const std::size_t bytes = field_bytes(w.columns, w.bits);
  const auto used = static_cast<unsigned>(w.columns % 8 * w.bits % 8);
  return for_rows(w.rows, w.columns, cancel, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; row++) {
      std::uint8_t* const out = w.out + row * w.out_stride;
      top.apply(w.in + row * w.in_stride, bytes, out);
      if (used != 0) out[bytes - 1] = static_cast<std::uint8_t>(out[bytes - 1] & ((1U << used) - 1U));
      std::memset(out + bytes, 0, w.out_stride - bytes);
    }
  });
}

Outcome unpack_fields(const UnpackFields& w, const CancelFlag* cancel) {
  return for_rows(w.rows, w.columns, cancel, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; row++) {
      const std::uint8_t* const in = w.in + row * w.in_stride;
      std::uint8_t* const out = w.out + row * w.columns;
      if (w.per_word == 0) {
        kUnpackDense[w.bits](in, w.columns, w.offset, out);
      } else {
        unpack_words(in, w.columns, w.bits, w.per_word, w.offset, out);
      }
    }
  });
}

Outcome gather_fields(const GatherFields& w, const CancelFlag* cancel) {
  const std::size_t bytes = field_bytes(w.columns, w.bits);
  return for_rows(w.rows, w.columns, cancel, [&](std::size_t begin, std::size_t end) {
    std::vector<std::uint8_t> fields(2 * w.columns);
    std::uint8_t* const ordered = fields.data() + w.columns;
    for (std::size_t row = begin; row < end; row++) {
      kUnpackDense[w.bits](w.in + row * bytes, w.columns, 0, fields.data());
      for (std::size_t i = 0; i < w.columns; i++) ordered[i] = fields[static_cast<std::size_t>(w.order[i])];
      kPackDense[w.bits](ordered, w.columns, w.out + row * bytes);
    }
  });
}

Outcome swap_nibbles(const std::uint8_t* in, std::uint8_t* out, std::size_t count, const CancelFlag* cancel) {
  return for_rows(count, 1, cancel, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; i++) out[i] = static_cast<std::uint8_t>((in[i] >> 4) | (in[i] << 4));
  });
}

Outcome dequantize_llm_int8(const std::int8_t* codes, const float* absmax, std::size_t rows, std::size_t columns,
                            float* out, const CancelFlag* cancel) {
  constexpr float kInverse = 7.874015718698502e-3F;  // as the reference writes 1/127
  return for_rows(rows, columns, cancel, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; row++) {
      const float scale = absmax[row];
      for (std::size_t i = row * columns; i < (row + 1) * columns; i++) {
        out[i] = static_cast<float>(codes[i]) * scale * kInverse;
      }
    }
  });
}

}  // namespace lowbit
