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
  LOWBIT_INLINE void gather(const float* x, std::size_t count) {
    LOWBIT_NO_UNROLL
    for (std::size_t i = 0; i < Count; i += kLanes) {
      F32x16 square[kLanes];
      for (std::size_t g = 0; g < kLanes; g++) square[g] = load16(x + (g < count ? g : count - 1) * Count + i);
      transpose(square);
      for (std::size_t j = 0; j < kLanes; j++) put(i + j, square[j]);
    }
  }
};

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

// clamp(nearest_int(x), lowest, highest) as a float, for |x| < 2^22: there the bits of x + 1.5 · 2^23 are in the order
// of the integers.
class RoundedCodes {
 public:
  LOWBIT_INLINE RoundedCodes(int lowest, int highest)
      : lowest_(broadcast(kRounderBits + lowest)), highest_(broadcast(kRounderBits + highest)) {}

  LOWBIT_INLINE F32x16 operator()(F32x16 x) const {
    const F32x16 rounder = broadcast(kRounder);
    return sub(as_floats(min(max(as_bits(add(x, rounder)), lowest_), highest_)), rounder);
  }
  // Whether all that lies between these is below 2^21 (and a number).
  LOWBIT_INLINE static bool can_tell(F32x16 least, F32x16 greatest) {
    const I32x16 largest = max(magnitude_bits(least), magnitude_bits(greatest));
    return !any(less(broadcast(0x49ffffff), largest));
  }

 private:
  static constexpr float kRounder = 0x1.8p23F;
  static constexpr std::int32_t kRounderBits = 0x4b400000;

  I32x16 lowest_, highest_;
};

// --- fit_line() ---

struct FoundLines {
  F32x16 scale, minimum;
};

// clamp(nearest_int(x), lowest, highest) as a float, whatever x is.
struct AnyCodes {
  int lowest, highest;

  LOWBIT_INLINE F32x16 operator()(F32x16 x) const { return to_float(clamp(nearest_int(x), lowest, highest)); }
  LOWBIT_INLINE static bool can_tell(F32x16 /*least*/, F32x16 /*greatest*/) { return true; }
};

// False if `Code` can't tell a group's codes: then nothing was found.
template <Error Kind, typename Code, std::size_t Count>
LOWBIT_NOINLINE bool find_lines(int limit, const Groups<Count>& x, const Groups<Count>& weights, Steps steps,
                                FoundCodes<Count>& codes, FoundLines& found) {
  const Code code{0, limit};
  F32x16 least = x[0], greatest = x[0], sum_w = weights[0], sum_x = mul(sum_w, x[0]);
  for (std::size_t i = 1; i < Count; i++) {
    least = min(x[i], least);
    greatest = max(x[i], greatest);
    sum_w = add(sum_w, weights[i]);
    sum_x = add(sum_x, mul(weights[i], x[i]));
  }
  least = select(less(zeros(), least), zeros(), least);
  const Mask16 searched = less(least, greatest);
  const auto range = [&](F32x16 lowest) { return select(searched, sub(greatest, lowest), broadcast(1.0F)); };
  const auto add_error = [&](F32x16 error, F32x16 scale, F32x16 offset, F32x16 l, std::size_t i) {
    const F32x16 difference = sub(add(mul(scale, l), offset), x[i]);
    return add(error, mul(weights[i], Kind == Error::kAbsolute ? magnitude(difference) : mul(difference, difference)));
  };
  const auto can_tell = [&](F32x16 inverse, F32x16 lowest) {
    return Code::can_tell(mul(inverse, sub(least, lowest)), mul(inverse, sub(greatest, lowest)));
  };
  F32x16 minimum = least, inverse = div(broadcast(static_cast<float>(limit)), range(minimum));
  if (!can_tell(inverse, minimum)) return false;
  F32x16 scale = div(broadcast(1.0F), inverse), best_inverse = inverse, best_lowest = minimum, best = zeros();
  for (std::size_t i = 0; i < Count; i++) {
    best = add_error(best, scale, minimum, code(mul(inverse, sub(x[i], minimum))), i);
  }
  Groups<Count> tried;
  for (int step = 0; step <= steps.last; step++) {
    inverse =
        div(broadcast(steps.first + steps.step * static_cast<float>(step) + static_cast<float>(limit)), range(minimum));
    if (!can_tell(inverse, minimum)) return false;
    F32x16 sum_l = zeros(), sum_ll = zeros(), sum_xl = zeros();
    for (std::size_t i = 0; i < Count; i++) {
      const F32x16 value = in_register(x[i]), l = code(mul(inverse, sub(value, minimum))), wl = mul(weights[i], l);
      tried.put(i, l);
      sum_l = add(sum_l, wl);
      sum_ll = add(sum_ll, mul(wl, l));
      sum_xl = add(sum_xl, mul(wl, value));
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
    const I32x16 l = truncate_to_int(code(mul(best_inverse, sub(x[i], best_lowest))));
    store_low_bytes(codes.lanes[i], select(searched, l, broadcast(0)));
  }
  found = {select(searched, scale, zeros()), negated(select(searched, minimum, least))};
  return true;
}

template <Error Kind, std::size_t Count>
LOWBIT_INLINE FoundLines fit_lines(int limit, const Groups<Count>& x, const Groups<Count>& weights, Steps steps,
                                   FoundCodes<Count>& codes) {
  FoundLines found;
  if (!find_lines<Kind, RoundedCodes>(limit, x, weights, steps, codes, found)) {
    find_lines<Kind, AnyCodes>(limit, x, weights, steps, codes, found);
  }
  return found;
}

// --- fit_symmetric() ---

struct Projections {
  F32x16 xl, ll;
};

// As many as there are registers for their sums.
constexpr std::size_t kTriesAtOnce = kRegisters >= 32 ? 4 : 1;

template <std::size_t Count>
LOWBIT_NOINLINE F32x16 fit_symmetric_groups(int limit, const Groups<Count>& x, const Groups<Count>& weights,
                                            FoundCodes<Count>& codes) {
  const Extremes extremes = extremes_of(x);
  const Mask16 nothing = less(extremes.largest, broadcast(kNothing));
  const RoundedCodes code_of(-limit, limit - 1);
  Groups<Count> weighted;
  for (std::size_t i = 0; i < Count; i++) weighted.put(i, mul(weights[i], x[i]));
  // For several scales at once, which share what is loaded and do not wait for each other's sums.
  const auto project = [&](const F32x16* inverses, Projections* sums) {
    Projections p[kTriesAtOnce];
    for (auto& sum : p) sum = {zeros(), zeros()};
    LOWBIT_NO_UNROLL
    for (std::size_t i = 0; i < Count; i++) {
      const F32x16 value = in_register(x[i]), weight = in_register(weights[i]), wx = in_register(weighted[i]);
      LOWBIT_UNROLL
      for (std::size_t t = 0; t < kTriesAtOnce; t++) {
        const F32x16 l = code_of(mul(inverses[t], value));
        p[t].xl = add(p[t].xl, mul(wx, l));
        p[t].ll = add(p[t].ll, mul(mul(weight, l), l));
      }
    }
    for (std::size_t t = 0; t < kTriesAtOnce; t++) sums[t] = p[t];
  };
  // The first is the scale that maps the extreme to −limit; then come those near it.
  constexpr int kTries = 19;
  F32x16 inverses[kTries + kTriesAtOnce], inverse = zeros(), scale = zeros(), best = zeros();
  for (int step = -9; step <= 9; step++) {
    const float numerator = -(static_cast<float>(limit) + 0.1F * static_cast<float>(step));
    inverses[step == 0 ? 0 : step < 0 ? step + 10 : step + 9] = div(broadcast(numerator), extremes.value);
  }
  inverses[0] = div(broadcast(static_cast<float>(-limit)), extremes.value);
  for (std::size_t t = kTries; t < kTries + kTriesAtOnce; t++) inverses[t] = inverses[0];
  for (std::size_t t = 0; t < kTries; t += kTriesAtOnce) {
    Projections sums[kTriesAtOnce];
    project(inverses + t, sums);
    for (std::size_t k = 0; k < kTriesAtOnce; k++) {
      const Projections p = sums[k];
      if (t + k == 0) {
        inverse = inverses[0];
        scale = select_zero(p.ll, zeros(), div(p.xl, p.ll));
        best = mul(scale, p.xl);
        continue;
      }
      // Tries past the last repeat the first, which is not better than itself.
      if (t + k >= kTries) break;
      const Mask16 better = both(less(zeros(), p.ll), less(mul(best, p.ll), mul(p.xl, p.xl)));
      inverse = select(better, inverses[t + k], inverse);
      scale = select(better, div(p.xl, p.ll), scale);
      best = select(better, mul(scale, p.xl), best);
    }
  }
  for (std::size_t i = 0; i < Count; i++) {
    const I32x16 code = truncate_to_int(code_of(mul(inverse, x[i])));
    store_low_bytes(codes.lanes[i], select(nothing, broadcast(0), add(code, broadcast(limit))));
  }
  return select(nothing, zeros(), scale);
}

// --- fit_by_moves() ---

// Sixteen groups as they are moved: their elements and codes, and the sums that go with them.
template <std::size_t Count>
struct Moving {
  Groups<Count> x, codes;
  Projections p;

  // One more code of each group: the lanes in which that lowered the error. Where few are left to move, what follows
  // need not wait for that.
  template <bool Seldom>
  LOWBIT_INLINE Mask16 move(int limit, std::size_t i) {
    const F32x16 value = x[i], weight = mul(value, value), wx = mul(weight, value), old = codes[i];
    Projections other = {sub(p.xl, mul(wx, old)), sub(p.ll, mul(mul(weight, old), old))};
    Mask16 moves = less(zeros(), other.xl);
    // Where little else is left, the quotient is anything.
    const F32x16 l = AnyCodes{-limit, limit - 1}(div(mul(value, other.ll), other.xl));
    moves = both(moves, less(zeros(), magnitude(sub(l, old))));
    if constexpr (Seldom) {
      if (!any(moves)) return moves;
    }
    other = {add(other.xl, mul(wx, l)), add(other.ll, mul(mul(weight, l), l))};
    moves = both(moves, less(zeros(), other.ll));
    moves = both(moves, less(mul(mul(p.xl, p.xl), other.ll), mul(mul(other.xl, other.xl), p.ll)));
    codes.put(i, select(moves, l, old));
    p = {select(moves, other.xl, p.xl), select(moves, other.ll, p.ll)};
    return moves;
  }
};

// So many times sixteen groups, because each move waits for the one before.
constexpr std::size_t kBatches = 4, kMostMoving = kBatches * kLanes;

// Four groups of five have found their codes after the first pass. The others go on together, wherever they lie.
template <std::size_t Count>
LOWBIT_NOINLINE void go_on_moving(int limit, const float* const (&x)[kBatches], const I32x16 (&changed)[kBatches],
                                  Moving<Count> (&groups)[kBatches]) {
  std::uint8_t batch[kMostMoving], lane[kMostMoving];
  std::size_t count = 0;
  float xl[kBatches][kLanes], ll[kBatches][kLanes];
  for (std::size_t b = 0; b < kBatches; b++) {
    store_lanes(xl[b], groups[b].p.xl);
    store_lanes(ll[b], groups[b].p.ll);
    const std::uint32_t bits = sign_mask(changed[b]);
    for (std::size_t g = 0; g < kLanes; g++) {
      batch[count] = static_cast<std::uint8_t>(b);
      lane[count] = static_cast<std::uint8_t>(g);
      count += (bits >> g) & 1;
    }
  }
  for (std::size_t first = 0; first < count; first += kLanes) {
    const std::size_t n = count - first < kLanes ? count - first : kLanes;
    Moving<Count> some;
    F32x16 rows[kLanes];
    float some_xl[kLanes], some_ll[kLanes];
    for (std::size_t k = 0; k < kLanes; k++) {
      const std::size_t from = first + (k < n ? k : n - 1), b = batch[from], g = lane[from];
      rows[k] = load16(x[b] + g * Count);
      for (std::size_t i = 0; i < Count; i++) some.codes.lanes[i][k] = groups[b].codes.lanes[i][g];
      some_xl[k] = xl[b][g];
      some_ll[k] = ll[b][g];
    }
    transpose(rows);
    for (std::size_t i = 0; i < Count; i++) some.x.put(i, rows[i]);
    some.p = {load16(some_xl), load16(some_ll)};
    bool moved = true;
    for (int pass = 1; pass < 5 && moved; pass++) {
      moved = false;
      for (std::size_t i = 0; i < Count; i++) moved = any(some.template move<true>(limit, i)) || moved;
    }
    store_lanes(some_xl, some.p.xl);
    store_lanes(some_ll, some.p.ll);
    for (std::size_t k = 0; k < n; k++) {
      const std::size_t b = batch[first + k], g = lane[first + k];
      for (std::size_t i = 0; i < Count; i++) groups[b].codes.lanes[i][g] = some.codes.lanes[i][k];
      xl[b][g] = some_xl[k];
      ll[b][g] = some_ll[k];
    }
  }
  for (std::size_t b = 0; b < kBatches; b++) groups[b].p = {load16(xl[b]), load16(ll[b])};
}

// Sixteen groups from each of these addresses on.
template <std::size_t Count>
LOWBIT_NOINLINE void fit_groups_by_moves(int limit, const float* const (&x)[kBatches],
                                         FoundCodes<Count> (&codes)[kBatches], F32x16 (&scales)[kBatches]) {
  static_assert(Count == kLanes, "a vector holds a group");
  Moving<Count> groups[kBatches];
  Mask16 nothing[kBatches];
  I32x16 changed[kBatches];
  for (std::size_t b = 0; b < kBatches; b++) {
    Groups<Count>& values = groups[b].x;
    values.gather(x[b], kLanes);
    const Extremes extremes = extremes_of(values);
    const RoundedCodes code(-limit, limit - 1);
    const F32x16 inverse = div(broadcast(static_cast<float>(-limit)), extremes.value);
    nothing[b] = less(extremes.largest, broadcast(kNothing));
    changed[b] = broadcast(0);
    Projections p = {zeros(), zeros()};
    for (std::size_t i = 0; i < Count; i++) {
      const F32x16 value = values[i], l = code(mul(inverse, value)), weight = mul(value, value);
      groups[b].codes.put(i, l);
      p.xl = add(p.xl, mul(mul(weight, value), l));
      p.ll = add(p.ll, mul(mul(weight, l), l));
    }
    groups[b].p = p;
  }
  LOWBIT_NO_UNROLL
  for (std::size_t i = 0; i < Count; i++) {
    LOWBIT_UNROLL
    for (std::size_t b = 0; b < kBatches; b++) {
      changed[b] = select(groups[b].template move<false>(limit, i), broadcast(-1), changed[b]);
    }
  }
  go_on_moving(limit, x, changed, groups);
  for (std::size_t b = 0; b < kBatches; b++) {
    for (std::size_t i = 0; i < Count; i++) {
      const I32x16 code = add(truncate_to_int(groups[b].codes[i]), broadcast(limit));
      store_low_bytes(codes[b].lanes[i], select(nothing[b], broadcast(0), code));
    }
    const Projections p = groups[b].p;
    scales[b] = select(nothing[b], zeros(), select(less(zeros(), p.ll), div(p.xl, p.ll), zeros()));
  }
}

}  // namespace
}  // namespace lowbit::LOWBIT_ISA
