// Norms, rotary embedding and attention of a decoder, the specification.

#include <cmath>

#include "core/scalar_lane.h"
#include "core/simd/exponential.h"
#include "ops/decoder/decoder_kernels.h"

namespace lowbit::scalar {
namespace {

constexpr std::size_t kSumLanes = 16;

float sum_of(float (&lanes)[kSumLanes]) {
  for (std::size_t half = kSumLanes / 2; half >= 1; half /= 2) {
    for (std::size_t i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

void rms_norm(const float* x, const float* weight, std::size_t n, float epsilon, float* out) {
  float lanes[kSumLanes] = {};
  for (std::size_t i = 0; i < n; i++) lanes[i % kSumLanes] = std::fmaf(x[i], x[i], lanes[i % kSumLanes]);
  const float scale = 1.0F / std::sqrt(sum_of(lanes) / static_cast<float>(n) + epsilon);
  for (std::size_t i = 0; i < n; i++) out[i] = (x[i] * scale) * weight[i];
}

void rotate(float* x, std::size_t heads, std::size_t head_dim, const float* angles) {
  const std::size_t half = head_dim / 2;
  for (std::size_t h = 0; h < heads; h++) {
    float* const head = x + h * head_dim;
    for (std::size_t i = 0; i < half; i++) {
      const float a = head[i], b = head[half + i], cosine = angles[i], sine = angles[half + i];
      head[i] = std::fmaf(-b, sine, a * cosine);
      head[half + i] = std::fmaf(a, sine, b * cosine);
    }
  }
}

void attend(const AttendArguments& a) {
  for (std::size_t h = 0; h < a.heads; h++) {
    const float* const query = a.queries + h * a.head_dim;
    float greatest = -INFINITY;
    for (std::size_t j = a.first; j < a.last; j++) {
      const float* const key = a.keys + j / kKeyBlock * kKeyBlock * a.head_dim + j % kKeyBlock;
      float dot = 0.0F;
      for (std::size_t i = 0; i < a.head_dim; i++) dot = std::fmaf(query[i], key[i * kKeyBlock], dot);
      const float score = dot * a.scale;
      a.scores[j - a.first] = score;
      greatest = score > greatest ? score : greatest;
    }
    float lanes[kSumLanes] = {};
    for (std::size_t j = a.first; j < a.last; j++) {
      const float below = a.scores[j - a.first] - greatest;
      const float power = exponential(below) + (below - below);  // of NaN and infinities NaN
      a.scores[j - a.first] = power;
      lanes[j % kSumLanes] += power;
    }
    const float share = 1.0F / sum_of(lanes);
    for (std::size_t i = 0; i < a.head_dim; i++) {
      float sum = 0.0F;
      for (std::size_t j = a.first; j < a.last; j++) {
        sum = std::fmaf(a.scores[j - a.first], a.values[j * a.head_dim + i], sum);
      }
      a.out[h * a.head_dim + i] = sum * share;
    }
  }
}

}  // namespace

const DecoderKernels kDecoder = {rms_norm, rotate, attend};

}  // namespace lowbit::scalar
