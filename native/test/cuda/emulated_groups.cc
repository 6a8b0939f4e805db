#include "test/cuda/emulated_groups.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <vector>

#include "core/float_bits.h"
#include "core/small_floats.h"
#include "test/cuda/emulator.h"

namespace lowbit::emulator {
namespace {

constexpr unsigned kBytes = 32;  // of a row in a product

using Bytes = std::vector<unsigned char>;

struct Registers {
  const void* at;
  Bytes contents;
};

// Sums that products under way write: what they are, and what the thread sees of them.
struct Sums {
  void* at;
  Bytes values, spoilt;
  unsigned products;
  bool wrong;
};

struct Product {
  GroupProduct given;
  unsigned group;
  std::array<unsigned, 16> a;  // in registers: of the lane's rows g and g + 8, the words of their sixteen columns
  std::array<unsigned, 4> own;
  Bytes operands;  // when it was begun
  bool wrong;
};

struct State {
  std::vector<Registers> held, fenced;
  std::vector<Sums> sums;
  std::deque<Product> products;
  unsigned group;
};
std::vector<State> states;
bool used = false;  // in this block or one before

State& own_state() {
  used = true;
  return states[current.thread.x];
}

bool is_integer(const GroupProduct& p) { return p.element == GroupElement::kInt8; }
std::size_t bytes_of_sums(const GroupProduct& p) { return p.columns / 2 * std::size_t{4}; }

// Row `row` of a matrix in shared memory. False where it has not been published.
bool read_row(std::uint64_t descriptor, unsigned row, unsigned char* out) {
  if (descriptor >> 62 != 1) {
    std::fprintf(stderr, "A matrix is not swizzled over 128 bytes: descriptor %llx.\n",
                 static_cast<unsigned long long>(descriptor));
    std::abort();
  }
  const std::size_t start = (descriptor & 0x3fffU) << 4, eight_rows = (descriptor >> 32 & 0x3fffU) << 4;
  bool published = true;
  for (std::size_t chunk = 0; chunk < kBytes / 16; chunk++) {
    std::size_t at = start + row % 8 * std::size_t{128} + row / 8 * eight_rows + 16 * chunk;
    at ^= (at >> 7 & 7U) << 4;
    std::memcpy(out + 16 * chunk, shared + at, 16);
    published = published && is_published(at);
  }
  return published;
}

// The rows of A that the lane's sums are of, then those of B. `published` becomes false where some are not.
Bytes operands_of(const Product& p, bool* published) {
  const unsigned columns = p.given.columns / 4, g = current.lane / 4, t = current.lane % 4;
  Bytes all((2 + columns) * kBytes);
  if (p.given.registers != nullptr) {
    std::memcpy(all.data(), p.a.data(), sizeof p.a);
  } else {
    for (unsigned upper = 0; upper < 2; upper++) {
      const unsigned row = current.warp % 4 * 16 + g + 8 * upper;
      if (!read_row(p.given.a, row, all.data() + upper * kBytes)) *published = false;
    }
  }
  for (unsigned i = 0; i < columns; i++) {
    if (!read_row(p.given.b, i / 2 * 8 + 2 * t + i % 2, all.data() + (2 + i) * kBytes)) *published = false;
  }
  return all;
}

unsigned bytes_of(GroupElement element) {
  return element == GroupElement::kFloat16 || element == GroupElement::kBfloat16 ? 2 : 1;
}

float value_of(GroupElement element, unsigned bits) {
  switch (element) {
    case GroupElement::kInt8:
      return static_cast<float>(static_cast<std::int8_t>(bits));
    case GroupElement::kFloat8:
      return float_of_small<SmallFloatType::kFloat8E4m3fn>(static_cast<std::uint8_t>(bits));
    case GroupElement::kFloat16:
      return float_of_float16(static_cast<std::uint16_t>(bits));
    default:
      return float_of_bfloat16(static_cast<std::uint16_t>(bits));
  }
}

// The values of all elements by their bits: there is much to convert.
const std::vector<float>& values_of(GroupElement element) {
  static std::array<std::vector<float>, 4> tables;
  std::vector<float>& table = tables[static_cast<std::size_t>(element)];
  if (table.empty()) {
    table.resize(std::size_t{1} << (8 * bytes_of(element)));
    for (std::size_t bits = 0; bits < table.size(); bits++)
      table[bits] = value_of(element, static_cast<unsigned>(bits));
  }
  return table;
}

void multiply(const Product& p, const Bytes& operands, Bytes& sums) {
  const GroupElement element = p.given.element;
  const unsigned columns = p.given.columns / 4, size = bytes_of(element), elements = kBytes / size;
  const std::vector<float>& table = values_of(element);
  static std::vector<double> values;
  values.resize(operands.size() / size);
  for (std::size_t i = 0; i < values.size(); i++) {
    const unsigned char* const at = operands.data() + i * size;
    values[i] = static_cast<double>(table[size == 1 ? at[0] : at[0] | static_cast<unsigned>(at[1]) << 8]);
  }
  for (unsigned i = 0; i < columns; i++) {
    for (unsigned upper = 0; upper < 2; upper++) {
      std::array<double, kBytes> products{};
      double sum = 0.0;
      for (unsigned e = 0; e < elements; e++) {
        products[e] = values[upper * elements + e] * values[(2 + i) * elements + e];
        sum += products[e];
      }
      unsigned char* const to = sums.data() + 4 * (i / 2 * 4 + 2 * upper + i % 2);
      if (is_integer(p.given)) {
        int before = 0;
        std::memcpy(&before, to, sizeof before);
        const int after = static_cast<int>((p.given.adds ? before : 0) + static_cast<std::int64_t>(sum));
        std::memcpy(to, &after, sizeof after);
      } else {
        float before = 0.0F;
        std::memcpy(&before, to, sizeof before);
        const double begin = p.given.adds ? static_cast<double>(before) : 0.0;
        const auto after = static_cast<float>(
            element == GroupElement::kFloat8 ? cut_sum(begin, products.data(), elements) : begin + sum);
        std::memcpy(to, &after, sizeof after);
      }
    }
  }
}

Bytes spoilt_sums(const GroupProduct& p) {
  Bytes bytes(bytes_of_sums(p), 0x5a);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t i = 0; !is_integer(p) && i < bytes.size(); i += 4) std::memcpy(bytes.data() + i, &nan, sizeof nan);
  return bytes;
}

Registers copy_of(const void* registers, std::size_t bytes) {
  const auto* const from = static_cast<const unsigned char*>(registers);
  return {registers, Bytes(from, from + bytes)};
}

void put(std::vector<Registers>& all, Registers one) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const Registers& other) { return other.at == one.at; });
  if (found != all.end()) {
    *found = std::move(one);
  } else {
    all.push_back(std::move(one));
  }
}

bool is_fenced(const State& state, const void* registers, std::size_t bytes) {
  for (const Registers& r : state.fenced) {
    if (r.at == registers) return r.contents.size() == bytes && std::memcmp(registers, r.contents.data(), bytes) == 0;
  }
  return false;
}

}  // namespace

void hold(const void* registers, std::size_t bytes) { put(own_state().held, copy_of(registers, bytes)); }

void begin_products() {
  State& state = own_state();
  for (Registers& r : state.held) put(state.fenced, std::move(r));
  state.held.clear();
}

void multiply_group(const GroupProduct& given) {
  State& state = own_state();
  Product p{given, state.group, {}, {}, {}, false};
  if (given.registers != nullptr) {
    p.wrong = !is_fenced(state, given.registers, sizeof p.own);
    std::memcpy(p.own.data(), given.registers, sizeof p.own);
    std::memcpy(exchange(current.lane), given.registers, sizeof p.own);
    wait_for_warp(0xffffffffU);
    for (unsigned t = 0; t < 4; t++) {
      unsigned of_lane[4];
      std::memcpy(of_lane, exchange(current.lane / 4 * 4 + t), sizeof of_lane);
      for (unsigned i = 0; i < 4; i++) p.a[i % 2 * 8 + i / 2 * 4 + t] = of_lane[i];
    }
    wait_for_warp(0xffffffffU);
  }
  bool published = true;
  p.operands = operands_of(p, &published);
  if (!published) p.wrong = true;
  const auto found =
      std::find_if(state.sums.begin(), state.sums.end(), [&](const Sums& s) { return s.at == given.sums; });
  if (found != state.sums.end()) {
    found->products++;
  } else {
    const std::size_t bytes = bytes_of_sums(given);
    const auto* const from = static_cast<const unsigned char*>(given.sums);
    state.sums.push_back(
        {given.sums, Bytes(from, from + bytes), spoilt_sums(given), 1, !is_fenced(state, given.sums, bytes)});
    std::memcpy(given.sums, state.sums.back().spoilt.data(), bytes);
  }
  state.products.push_back(std::move(p));
}

void commit_products() { own_state().group++; }

void wait_for_products(int groups) {
  State& state = own_state();
  while (!state.products.empty() && state.products.front().group + static_cast<unsigned>(groups) < state.group) {
    Product& p = state.products.front();
    const auto found =
        std::find_if(state.sums.begin(), state.sums.end(), [&](const Sums& s) { return s.at == p.given.sums; });
    Sums& sums = *found;
    bool published = true;
    const Bytes operands = operands_of(p, &published);
    const bool same = operands == p.operands && std::memcmp(sums.at, sums.spoilt.data(), sums.spoilt.size()) == 0 &&
                      (p.given.registers == nullptr || std::memcmp(p.given.registers, p.own.data(), sizeof p.own) == 0);
    if (p.wrong || !same) sums.wrong = true;
    multiply(p, operands, sums.values);
    if (--sums.products == 0) {
      std::memcpy(sums.at, sums.wrong ? sums.spoilt.data() : sums.values.data(), sums.values.size());
      put(state.fenced, copy_of(sums.at, sums.values.size()));  // as long as nobody writes them
      state.sums.erase(found);
    }
    state.products.pop_front();
  }
}

void begin_groups(unsigned threads) {
  if (!used && states.size() >= threads) return;
  states.clear();
  states.resize(threads);
  used = false;
}

}  // namespace lowbit::emulator
