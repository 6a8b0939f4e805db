#include "ops/decoder/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/kernels.h"
#include "core/tiles.h"

namespace lowbit {
namespace {

// Elements, or products, that one thread computes in about the time that it takes to wake another.
constexpr std::size_t kWorthWakingElements = std::size_t{1} << 18, kWorthWakingProducts = std::size_t{1} << 21;

Helpers helpers_for(std::size_t work, std::size_t worth) { return work >= worth ? Helpers::kAll : Helpers::kAwake; }

void put_into_cache(const AttentionArguments& a, std::size_t row) {
  const std::size_t position = a.past + row;
  for (std::size_t h = 0; h < a.kv_heads; h++) {
    const std::size_t from = (row * a.kv_heads + h) * a.head_dim;
    std::memcpy(a.values + (h * a.capacity + position) * a.head_dim, a.new_values + from, a.head_dim * sizeof(float));
    float* const key = a.keys + (h * a.capacity + position / kKeyBlock * kKeyBlock) * a.head_dim + position % kKeyBlock;
    for (std::size_t i = 0; i < a.head_dim; i++) key[i * kKeyBlock] = a.new_keys[from + i];
  }
}

void normalize(float* x, std::size_t heads, std::size_t head_dim, const float* weight, float epsilon) {
  if (weight == nullptr) return;
  for (std::size_t h = 0; h < heads; h++) {
    kernels().decoder->rms_norm(x + h * head_dim, weight, head_dim, epsilon, x + h * head_dim);
  }
}

void prepare(const AttentionArguments& a, std::size_t row) {
  float* const query = a.queries + row * a.heads * a.head_dim;
  float* const key = a.new_keys + row * a.kv_heads * a.head_dim;
  const float* const angles = a.angles + row * a.head_dim;
  normalize(query, a.heads, a.head_dim, a.query_norm, a.epsilon);
  normalize(key, a.kv_heads, a.head_dim, a.key_norm, a.epsilon);
  kernels().decoder->rotate(query, a.heads, a.head_dim, angles);
  kernels().decoder->rotate(key, a.kv_heads, a.head_dim, angles);
  put_into_cache(a, row);
}

// Scores of the calling thread.
float* room_for_scores(std::size_t count) {
  thread_local std::vector<float> room;
  if (room.size() < count) room.resize(count);
  return room.data();
}

void attend(const AttentionArguments& a, std::size_t row, std::size_t kv_head) {
  const std::size_t group = a.heads / a.kv_heads, last = a.past + row + 1;
  const std::size_t at = (row * a.heads + kv_head * group) * a.head_dim;
  AttendArguments one{};
  one.queries = a.queries + at;
  one.heads = group;
  one.head_dim = a.head_dim;
  one.keys = a.keys + kv_head * a.capacity * a.head_dim;
  one.values = a.values + kv_head * a.capacity * a.head_dim;
  one.first = a.window != 0 && last > a.window ? last - a.window : 0;
  one.last = last;
  one.scale = 1.0F / std::sqrt(static_cast<float>(a.head_dim));
  const std::size_t blocks = ceil_div(last, kKeyBlock) - one.first / kKeyBlock;
  one.scores = room_for_scores(group * blocks * kKeyBlock);
  one.out = a.out + at;
  kernels().decoder->attend(one);
}

}  // namespace

Outcome rms_norm(const RmsNormArguments& a, const CancelFlag* cancel) {
  const std::size_t rows_per_task = std::max<std::size_t>(1, kTileElements / std::max<std::size_t>(a.columns, 1));
  const bool finished = ThreadPool::instance().parallel_for(
      ceil_div(a.rows, rows_per_task),
      [&](std::size_t task) {
        for (std::size_t row = task * rows_per_task; row < std::min(a.rows, (task + 1) * rows_per_task); row++) {
          const std::size_t at = row * a.columns;
          kernels().decoder->rms_norm(a.x + at, a.weight, a.columns, a.epsilon, a.out + at);
        }
      },
      cancel, helpers_for(a.rows * a.columns, kWorthWakingElements));
  return finished ? Outcome{} : Outcome{Status::kCancelled, -1};
}

Outcome attention(const AttentionArguments& a, const CancelFlag* cancel) {
  ThreadPool& pool = ThreadPool::instance();
  const std::size_t row_elements = (a.heads + 2 * a.kv_heads) * a.head_dim;
  const std::size_t prepared_together =
      std::max<std::size_t>(1, kTileElements / std::max<std::size_t>(row_elements, 1));
  const bool prepared = pool.parallel_for(
      ceil_div(a.rows, prepared_together),
      [&](std::size_t task) {
        const std::size_t begin = task * prepared_together, end = std::min(a.rows, begin + prepared_together);
        for (std::size_t row = begin; row < end; row++) prepare(a, row);
      },
      cancel, helpers_for(a.rows * row_elements, kWorthWakingElements));
  if (!prepared) return {Status::kCancelled, -1};
  // Tasks of one head of keys and some tokens, which read the same keys and values.
  constexpr std::size_t kTogether = 16;
  const std::size_t parts = ceil_div(a.rows, kTogether);
  const std::size_t products = 2 * a.rows * a.heads * a.head_dim * (a.past + a.rows);
  const bool attended = pool.parallel_for(
      parts * a.kv_heads,
      [&](std::size_t task) {
        // The last tokens, which attend to most, first: no thread waits long for another at the end.
        const std::size_t kv_head = task % a.kv_heads, begin = (parts - 1 - task / a.kv_heads) * kTogether;
        for (std::size_t row = begin; row < std::min(a.rows, begin + kTogether); row++) attend(a, row, kv_head);
      },
      cancel, helpers_for(products, kWorthWakingProducts));
  return attended ? Outcome{} : Outcome{Status::kCancelled, -1};
}

}  // namespace lowbit
