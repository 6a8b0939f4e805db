// GGUF blocks: the searches of blocks_search.h for sixteen groups side by side, one in each lane, so that every group
// sees the float operations of the specification in its order. Part of blocks_vector.h.
//
// Elements are transposed: vector i holds element i of the sixteen groups. A group that is done, or has nothing to
// search, goes on in its lane without effect.

#pragma once

#include "ops/blocks/blocks_search.h"
#include "ops/blocks/blocks_vector_quantize.h"

namespace lowbit::LOWBIT_ISA {
namespace {

// `Count` elements of each of sixteen groups.
template <std::size_t Count>
struct Groups {
  float lanes[Count][kLanes];

  LOWBIT_INLINE F32x16 operator[](std::size_t i) const { return load16(lanes[i]); }
  LOWBIT_INLINE void put(std::size_t i, F32x16 v) { store_lanes(lanes[i], v); }

  // The first `count` groups of an array; the last of them again and again where there are fewer than sixteen.
  void gather(const float* x, std::size_t count) {
    for (std::size_t g = 0; g < kLanes; g++) {
      const float* group = x + (g < count ? g : count - 1) * Count;
      for (std::size_t i = 0; i < Count; i++) lanes[i][g] = group[i];
    }
  }
};

LOWBIT_INLINE F32x16 magnitude(F32x16 x) { return as_floats(magnitude_bits(x)); }
LOWBIT_INLINE F32x16 zeros() { return broadcast(0.0F); }

// extreme_of(), and its magnitude.
struct Extremes {
  F32x16 value, largest;
};
template <std::size_t Count>
LOWBIT_INLINE Extremes extremes_of(const Groups<Count>& x) {
  Extremes e = {zeros(), zeros()};
  for (std::size_t i = 0; i < Count; i++) {
    const F32x16 m = magnitude(x[i]);
    const Mask16 greater = less(e.largest, m);
    e.largest = select(greater, m, e.largest);
    e.value = select(greater, x[i], e.value);
  }
  return e;
}

// Codes of all elements, as the search left them: one byte each.
template <std::size_t Count>
struct FoundCodes {
  std::uint8_t lanes[Count][kLanes];
};

// weight_of() in lanes.
template <std::size_t Count>
LOWBIT_INLINE void weigh(const Groups<Count>& x, F32x16 mean_squares, Groups<Count>& importance) {
  for (std::size_t i = 0; i < Count; i++) {
    importance.put(i, mul(importance[i], square_root(add(mean_squares, mul(x[i], x[i])))));
  }
}

template <std::size_t Count>
LOWBIT_INLINE F32x16 sums_of_squares(const Groups<Count>& x) {
  F32x16 sum = zeros();
  for (std::size_t i = 0; i < Count; i++) sum = add(sum, mul(x[i], x[i]));
  return sum;
}

template <std::size_t Count>
LOWBIT_INLINE F32x16 sums_of(const Groups<Count>& x) {
  F32x16 sum = zeros();
  for (std::size_t i = 0; i < Count; i++) sum = add(sum, x[i]);
  return sum;
}

// --- fit_line() ---

struct FoundLines {
  F32x16 scale, minimum;
};

template <Error Kind, std::size_t Count>
LOWBIT_NOINLINE FoundLines fit_lines(int limit, const Groups<Count>& x, const Groups<Count>& weights, Steps steps,
                                     FoundCodes<Count>& codes) {
  F32x16 minimum = x[0], maximum = x[0], sum_w = weights[0], sum_x = mul(sum_w, x[0]);
  for (std::size_t i = 1; i < Count; i++) {
    minimum = min(x[i], minimum);
    maximum = max(x[i], maximum);
    sum_w = add(sum_w, weights[i]);
    sum_x = add(sum_x, mul(weights[i], x[i]));
  }
  minimum = select(less(zeros(), minimum), zeros(), minimum);
  const Mask16 searched = less(minimum, maximum);
  const F32x16 limits = broadcast(static_cast<float>(limit));
  const auto code_of = [&](F32x16 inverse, F32x16 lowest, std::size_t i) {
    return clamp(nearest_int(mul(inverse, sub(x[i], lowest))), 0, limit);
  };
  const auto add_error = [&](F32x16 error, F32x16 scale, F32x16 offset, F32x16 code, std::size_t i) {
    const F32x16 difference = sub(add(mul(scale, code), offset), x[i]);
    return add(error, mul(weights[i], Kind == Error::kAbsolute ? magnitude(difference) : mul(difference, difference)));
  };
  F32x16 inverse = div(limits, sub(maximum, minimum)), scale = div(broadcast(1.0F), inverse);
  F32x16 best_inverse = inverse, best_lowest = minimum, best = zeros();
  for (std::size_t i = 0; i < Count; i++) {
    best = add_error(best, scale, minimum, to_float(code_of(inverse, minimum, i)), i);
  }
  Groups<Count> tried;
  for (int step = 0; step <= steps.last; step++) {
    const F32x16 numerator = broadcast(steps.first + steps.step * static_cast<float>(step) + static_cast<float>(limit));
    inverse = div(numerator, sub(maximum, minimum));
    F32x16 sum_l = zeros(), sum_ll = zeros(), sum_xl = zeros();
    for (std::size_t i = 0; i < Count; i++) {
      const F32x16 l = to_float(code_of(inverse, minimum, i));
      tried.put(i, l);
      const F32x16 wl = mul(weights[i], l);
      sum_l = add(sum_l, wl);
      sum_ll = add(sum_ll, mul(wl, l));
      sum_xl = add(sum_xl, mul(wl, x[i]));
    }
    const F32x16 determinant = sub(mul(sum_w, sum_ll), mul(sum_l, sum_l));
    F32x16 slope = div(sub(mul(sum_w, sum_xl), mul(sum_x, sum_l)), determinant);
    F32x16 offset = div(sub(mul(sum_ll, sum_x), mul(sum_l, sum_xl)), determinant);
    const Mask16 positive = less(zeros(), offset);
    slope = select(positive, div(sum_xl, sum_ll), slope);
    offset = select(positive, zeros(), offset);
    F32x16 error = zeros();
    for (std::size_t i = 0; i < Count; i++) error = add_error(error, slope, offset, tried[i], i);
    const Mask16 better = both(less(zeros(), determinant), less(error, best));
    best = select(better, error, best);
    best_inverse = select(better, inverse, best_inverse);
    best_lowest = select(better, minimum, best_lowest);
    scale = select(better, slope, scale);
    minimum = select(better, offset, minimum);
  }
  for (std::size_t i = 0; i < Count; i++) {
    store_low_bytes(codes.lanes[i], select(searched, code_of(best_inverse, best_lowest, i), broadcast(0)));
  }
  const F32x16 minus_zero = broadcast(-0.0F);
  return {select(searched, scale, zeros()), as_floats(bit_xor(as_bits(minimum), as_bits(minus_zero)))};
}

// --- fit_symmetric() ---

struct Projections {
  F32x16 xl, ll;
};

template <std::size_t Count>
LOWBIT_NOINLINE F32x16 fit_symmetric_groups(int limit, const Groups<Count>& x, const Groups<Count>& weights,
                                            FoundCodes<Count>& codes) {
  const Extremes extremes = extremes_of(x);
  const Mask16 nothing = less(extremes.largest, broadcast(kNothing));
  const auto code_of = [&](F32x16 inverse, std::size_t i) {
    return clamp(nearest_int(mul(inverse, x[i])), -limit, limit - 1);
  };
  const auto project = [&](F32x16 inverse) {
    Projections p = {zeros(), zeros()};
    for (std::size_t i = 0; i < Count; i++) {
      const F32x16 l = to_float(code_of(inverse, i));
      p.xl = add(p.xl, mul(mul(weights[i], x[i]), l));
      p.ll = add(p.ll, mul(mul(weights[i], l), l));
    }
    return p;
  };
  F32x16 inverse = div(broadcast(static_cast<float>(-limit)), extremes.value);
  const Projections first = project(inverse);
  F32x16 scale = select_zero(first.ll, zeros(), div(first.xl, first.ll)), best = mul(scale, first.xl);
  for (int step = -9; step <= 9; step++) {
    if (step == 0) continue;
    const float numerator = -(static_cast<float>(limit) + 0.1F * static_cast<float>(step));
    const F32x16 tried = div(broadcast(numerator), extremes.value);
    const Projections p = project(tried);
    const Mask16 better = both(less(zeros(), p.ll), less(mul(best, p.ll), mul(p.xl, p.xl)));
    inverse = select(better, tried, inverse);
    scale = select(better, div(p.xl, p.ll), scale);
    best = select(better, mul(scale, p.xl), best);
  }
  for (std::size_t i = 0; i < Count; i++) {
    store_low_bytes(codes.lanes[i], select(nothing, broadcast(0), add(code_of(inverse, i), broadcast(limit))));
  }
  return select(nothing, zeros(), scale);
}

// --- fit_by_moves() ---

template <std::size_t Count>
LOWBIT_NOINLINE F32x16 fit_groups_by_moves(int limit, const Groups<Count>& x, FoundCodes<Count>& codes) {
  const Extremes extremes = extremes_of(x);
  const Mask16 nothing = less(extremes.largest, broadcast(kNothing));
  const F32x16 inverse = div(broadcast(static_cast<float>(-limit)), extremes.value);
  Groups<Count> moved;
  Projections p = {zeros(), zeros()};
  for (std::size_t i = 0; i < Count; i++) {
    const F32x16 l = to_float(clamp(nearest_int(mul(inverse, x[i])), -limit, limit - 1)), weight = mul(x[i], x[i]);
    moved.put(i, l);
    p.xl = add(p.xl, mul(mul(weight, x[i]), l));
    p.ll = add(p.ll, mul(mul(weight, l), l));
  }
  bool changed = true;
  for (int pass = 0; pass < 5 && changed; pass++) {
    changed = false;
    for (std::size_t i = 0; i < Count; i++) {
      const F32x16 weight = mul(x[i], x[i]), wx = mul(weight, x[i]), old = moved[i];
      Projections other = {sub(p.xl, mul(wx, old)), sub(p.ll, mul(mul(weight, old), old))};
      Mask16 moves = less(zeros(), other.xl);
      const F32x16 l = to_float(clamp(nearest_int(div(mul(x[i], other.ll), other.xl)), -limit, limit - 1));
      moves = both(moves, less(zeros(), magnitude(sub(l, old))));
      other = {add(other.xl, mul(wx, l)), add(other.ll, mul(mul(weight, l), l))};
      moves = both(moves, less(zeros(), other.ll));
      moves = both(moves, less(mul(mul(p.xl, p.xl), other.ll), mul(mul(other.xl, other.xl), p.ll)));
      if (!any(moves)) continue;
      changed = true;
      moved.put(i, select(moves, l, old));
      p = {select(moves, other.xl, p.xl), select(moves, other.ll, p.ll)};
    }
  }
  for (std::size_t i = 0; i < Count; i++) {
    const I32x16 code = add(truncate_to_int(moved[i]), broadcast(limit));
    store_low_bytes(codes.lanes[i], select(nothing, broadcast(0), code));
  }
  return select(nothing, zeros(), select(less(zeros(), p.ll), div(p.xl, p.ll), zeros()));
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
