#pragma once

// Products of warp groups on the processor, as late as they may be: a product is made when the running thread waits for
// it, of what its operands are then. Until then its sums are spoilt. It gives numbers that nobody could take for sums
// where operands changed between the product and the wait, where sums were touched, where copies had not been
// published, or where registers were written that no begin_products() followed: what was held before it counts.

#include <cstddef>
#include <cstdint>

namespace lowbit::emulator {

enum class GroupElement : std::uint8_t { kInt8, kFloat8, kFloat16, kBfloat16 };

// sums (+)= A · Bᵀ: A[64, 32 bytes], B[columns, 32 bytes]; the sums of a thread as warpgroups.cuh says.
struct GroupProduct {
  GroupElement element;
  unsigned columns;
  bool adds;
  const unsigned* registers;  // of A, four; or nullptr
  std::uint64_t a, b;         // descriptors
  void* sums;                 // columns / 2 of float or int
};

void hold(const void* registers, std::size_t bytes);
void begin_products();
void multiply_group(const GroupProduct& product);
void commit_products();
void wait_for_products(int groups);

// At the beginning of a block.
void begin_groups(unsigned threads);

}  // namespace lowbit::emulator
