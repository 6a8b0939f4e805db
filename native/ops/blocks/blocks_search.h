#pragma once

// GGUF blocks: the searches for the scale (and minimum) of a group with the least weighted squared error. They differ
// in what they try; the order of every float operation is part of the format's reference.

#include "ops/blocks/blocks_math.h"

namespace lowbit {
namespace {

constexpr std::size_t kMostInGroup = 32;

// Least squares for x ≈ scale · code so far: scale = xl / ll, error Σw·x² − xl² / ll.
struct Projection {
  float xl = 0.0F, ll = 0.0F;

  void add(float weight, float x, int code) {
    const float l = static_cast<float>(code);
    xl += weight * x * l;
    ll += weight * l * l;
  }
  void remove(float weight, float x, int code) {
    const float l = static_cast<float>(code);
    xl -= weight * x * l;
    ll -= weight * l * l;
  }
  float scale() const { return ll != 0.0F ? xl / ll : 0.0F; }
};

// Codes −limit … limit − 1, stored + limit, of a group whose extreme takes code −limit: that scale, and eighteen near
// it. Weights default to x².
inline float fit_symmetric(std::size_t count, int limit, const float* x, const float* weights, std::uint8_t* codes) {
  const float extreme = extreme_of(x, count);
  if (std::fabs(extreme) < kNothing) {
    std::memset(codes, 0, count);
    return 0.0F;
  }
  const auto code_of = [=](float inverse, float value) {
    return clamp(nearest_int(inverse * value), -limit, limit - 1);
  };
  const auto project = [=](float inverse) {
    Projection p;
    for (std::size_t i = 0; i < count; i++) {
      p.add(weights != nullptr ? weights[i] : x[i] * x[i], x[i], code_of(inverse, x[i]));
    }
    return p;
  };
  float inverse = static_cast<float>(-limit) / extreme;
  const Projection first = project(inverse);
  float scale = first.scale(), best = scale * first.xl;
  for (int step = -9; step <= 9; step++) {
    if (step == 0) continue;
    const float tried = -(static_cast<float>(limit) + 0.1F * static_cast<float>(step)) / extreme;
    const Projection p = project(tried);
    if (p.ll > 0.0F && p.xl * p.xl > best * p.ll) {
      inverse = tried;
      scale = p.xl / p.ll;
      best = scale * p.xl;
    }
  }
  for (std::size_t i = 0; i < count; i++) codes[i] = static_cast<std::uint8_t>(code_of(inverse, x[i]) + limit);
  return scale;
}

// The same codes, moved one at a time while that lowers the error. Weights are x².
inline float fit_by_moves(std::size_t count, int limit, const float* x, std::uint8_t* codes) {
  const float extreme = extreme_of(x, count);
  if (std::fabs(extreme) < kNothing) {
    std::memset(codes, 0, count);
    return 0.0F;
  }
  const float inverse = static_cast<float>(-limit) / extreme;
  int moved[kMostInGroup];
  Projection p;
  for (std::size_t i = 0; i < count; i++) {
    moved[i] = clamp(nearest_int(inverse * x[i]), -limit, limit - 1);
    p.add(x[i] * x[i], x[i], moved[i]);
  }
  bool changed = true;
  for (int pass = 0; pass < 5 && changed; pass++) {
    changed = false;
    for (std::size_t i = 0; i < count; i++) {
      const float weight = x[i] * x[i];
      Projection other = p;
      other.remove(weight, x[i], moved[i]);
      if (!(other.xl > 0.0F)) continue;
      const int code = clamp(nearest_int(x[i] * other.ll / other.xl), -limit, limit - 1);
      if (code == moved[i]) continue;
      other.add(weight, x[i], code);
      if (other.ll > 0.0F && other.xl * other.xl * p.ll > p.xl * p.xl * other.ll) {
        moved[i] = code;
        p = other;
        changed = true;
      }
    }
  }
  for (std::size_t i = 0; i < count; i++) codes[i] = static_cast<std::uint8_t>(moved[i] + limit);
  return p.ll > 0.0F ? p.xl / p.ll : 0.0F;
}

// Non-negative codes 0 … limit of values that are scales or minimums themselves: nine scales are tried, then codes are
// moved one at a time while that lowers the error.
inline float fit_scales(std::size_t count, int limit, const float* x, const float* weights, std::uint8_t* codes) {
  float largest = 0.0F;
  for (std::size_t i = 0; i < count; i++) largest = largest > x[i] ? largest : x[i];
  if (largest < kNothing) {
    std::memset(codes, 0, count);
    return 0.0F;
  }
  const float limit_float = static_cast<float>(limit);
  float inverse = limit_float / largest, best = 0.0F;
  {
    const float scale = 1.0F / inverse;
    for (std::size_t i = 0; i < count; i++) {
      codes[i] = static_cast<std::uint8_t>(nearest_int(inverse * x[i]));
      const float difference = x[i] - scale * static_cast<float>(codes[i]);
      best += weights[i] * difference * difference;
    }
  }
  for (int step = -4; step <= 4; step++) {
    if (step == 0) continue;
    const float tried = (0.1F * static_cast<float>(step) + limit_float) / largest, scale = 1.0F / tried;
    float error = 0.0F;
    for (std::size_t i = 0; i < count; i++) {
      const int code = nearest_int(tried * x[i]);
      const float difference = x[i] - scale * static_cast<float>(code < limit ? code : limit);
      error += weights[i] * difference * difference;
    }
    if (error < best) {
      best = error;
      inverse = tried;
    }
  }
  Projection p;
  for (std::size_t i = 0; i < count; i++) {
    const int code = nearest_int(inverse * x[i]);
    codes[i] = static_cast<std::uint8_t>(code < limit ? code : limit);
    p.add(weights[i], x[i], code < limit ? code : limit);
  }
  bool changed = true;
  for (int pass = 0; pass < 5 && changed; pass++) {
    changed = false;
    for (std::size_t i = 0; i < count; i++) {
      Projection other = p;
      other.remove(weights[i], x[i], codes[i]);
      if (!(other.xl > 0.0F && other.ll > 0.0F)) continue;
      int code = nearest_int(x[i] * other.ll / other.xl);
      if (code > limit) code = limit;
      if (code == codes[i]) continue;
      other.add(weights[i], x[i], code);
      if (other.xl * other.xl * p.ll > p.xl * p.xl * other.ll) {
        codes[i] = static_cast<std::uint8_t>(code);
        p = other;
        changed = true;
      }
    }
  }
  return p.ll > 0.0F ? p.xl / p.ll : 0.0F;
}

// How fit_line() looks around the first scale, which maps [minimum, maximum] to [0, limit]: it tries
// (limit + first + step · i) / (maximum − minimum) for i in 0 … last.
struct Steps {
  float first, step;
  int last;
};
enum class Error : std::uint8_t { kSquared, kAbsolute };

struct Line {
  float scale, minimum;  // x ≈ scale · code − minimum; the minimum is not negative
};

// Codes 0 … limit with a scale and a minimum: for each set of codes that is tried, the line by weighted least squares.
template <Error Kind = Error::kSquared>
inline Line fit_line(std::size_t count, int limit, const float* x, const float* weights, Steps steps,
                     std::uint8_t* codes) {
  float minimum = x[0], maximum = x[0], sum_w = weights[0], sum_x = sum_w * x[0];
  for (std::size_t i = 1; i < count; i++) {
    if (x[i] < minimum) minimum = x[i];
    if (x[i] > maximum) maximum = x[i];
    sum_w += weights[i];
    sum_x += weights[i] * x[i];
  }
  if (minimum > 0.0F) minimum = 0.0F;
  if (maximum == minimum) {
    std::memset(codes, 0, count);
    return {0.0F, -minimum};
  }
  const float limit_float = static_cast<float>(limit);
  const auto error_of = [=](float scale, float offset, const std::uint8_t* tried) {
    float error = 0.0F;
    for (std::size_t i = 0; i < count; i++) {
      const float difference = scale * static_cast<float>(tried[i]) + offset - x[i];
      error += weights[i] * (Kind == Error::kAbsolute ? std::fabs(difference) : difference * difference);
    }
    return error;
  };
  const auto code_all = [=, &minimum](float inverse, std::uint8_t* out) {
    for (std::size_t i = 0; i < count; i++) {
      out[i] = static_cast<std::uint8_t>(clamp(nearest_int(inverse * (x[i] - minimum)), 0, limit));
    }
  };
  float inverse = limit_float / (maximum - minimum), scale = 1.0F / inverse;
  code_all(inverse, codes);
  float best = error_of(scale, minimum, codes);
  std::uint8_t tried[kMostInGroup];
  for (int step = 0; step <= steps.last; step++) {
    inverse = (steps.first + steps.step * static_cast<float>(step) + limit_float) / (maximum - minimum);
    code_all(inverse, tried);
    float sum_l = 0.0F, sum_ll = 0.0F, sum_xl = 0.0F;
    for (std::size_t i = 0; i < count; i++) {
      const float l = static_cast<float>(tried[i]);
      sum_l += weights[i] * l;
      sum_ll += weights[i] * l * l;
      sum_xl += weights[i] * l * x[i];
    }
    const float determinant = sum_w * sum_ll - sum_l * sum_l;
    if (!(determinant > 0.0F)) continue;
    float slope = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    float offset = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
    if (offset > 0.0F) {
      offset = 0.0F;
      slope = sum_xl / sum_ll;
    }
    const float error = error_of(slope, offset, tried);
    if (error < best) {
      std::memcpy(codes, tried, count);
      best = error;
      scale = slope;
      minimum = offset;
    }
  }
  return {scale, -minimum};
}

}  // namespace
}  // namespace lowbit
