#pragma once

#include <cstddef>

#include "core/status.h"
#include "core/thread_pool.h"

namespace lowbit {

struct RmsNormArguments {
  const float* x;  // [rows][columns]
  std::size_t rows, columns;
  const float* weight;
  float epsilon;
  float* out;  // may be x
};

// The root mean square norm of rows. NaN and infinities come out as NaN.
Outcome rms_norm(const RmsNormArguments& arguments, const CancelFlag* cancel = nullptr);

// Tokens that come to a sequence.
struct AttentionArguments {
  std::size_t rows, past;  // tokens that come, and those that are in the cache
  std::size_t heads, kv_heads, head_dim;
  std::size_t capacity;  // positions that the cache has room for, a multiple of kKeyBlock
  std::size_t window;    // positions that a token attends to, itself included; 0: all before it
  float epsilon;         // of the norms of queries and keys
  float* queries;        // [rows][heads][head_dim]; normalized and rotated in place
  float* new_keys;       // [rows][kv_heads][head_dim], likewise
  const float* new_values;
  const float* query_norm;  // [head_dim], or nullptr for none
  const float* key_norm;
  const float* angles;  // [rows][head_dim]: see DecoderKernels::rotate
  float* keys;          // [kv_heads][capacity / 16][head_dim][16]
  float* values;        // [kv_heads][capacity][head_dim]
  float* out;           // as queries
};

// Normalizes and rotates queries and keys, puts keys and values into the cache, and attends to it, causally. The same
// bits for any number of threads, and however many tokens come together.
Outcome attention(const AttentionArguments& arguments, const CancelFlag* cancel = nullptr);

}  // namespace lowbit
