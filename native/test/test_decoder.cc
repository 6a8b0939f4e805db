// Norms, rotary embedding and attention: every instruction set against the scalar file bit for bit, and against
// float64; whole operations for every number of threads, and for tokens that come together or one by one.

#include <cmath>

#include "ops/decoder/decoder.h"
#include "ops/decoder/decoder_kernels.h"
#include "test/check.h"

namespace lowbit::test {
namespace {

void fill(Buffer<float>& x, Random& random, float scale = 1.0F) {
  for (std::size_t i = 0; i < x.size(); i++) x[i] = scale * random.normal();
}

TEST("decoder: norms of every instruction set equal the scalar file bit for bit, and float64") {
  Random random(1);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t n : ragged_lengths()) {
      if (n == 0) continue;
      Buffer<float> x(n, n % 5), weight(n, n % 3), out(n, n % 7), expected(n);
      fill(x, random, std::ldexp(1.0F, static_cast<int>(random.below(20)) - 10));
      fill(weight, random);
      k->decoder->rms_norm(x.data(), weight.data(), n, 1e-5F, out.data());
      scalar::kDecoder.rms_norm(x.data(), weight.data(), n, 1e-5F, expected.data());
      const std::size_t at = first_difference(out, expected);
      CHECK(at == n, "%s, length %zu: element %zu", k->name, n, at);
      double sum = 0.0;
      for (std::size_t i = 0; i < n; i++) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      const double scale = 1.0 / std::sqrt(sum / static_cast<double>(n) + static_cast<double>(1e-5F));
      for (std::size_t i = 0; i < n; i++) {
        const double exact = static_cast<double>(x[i]) * scale * static_cast<double>(weight[i]);
        CHECK(std::fabs(static_cast<double>(out[i]) - exact) <= 1e-6 * std::fabs(exact), "%s, length %zu", k->name, n);
      }
      k->decoder->rms_norm(x.data(), weight.data(), n, 1e-5F, x.data());
      CHECK(first_difference(x, expected) == n, "%s, length %zu, in place", k->name, n);
    }
  }
}

TEST("decoder: rotations of every instruction set equal the scalar file bit for bit, and float64") {
  Random random(2);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t head_dim : std::vector<std::size_t>{2, 6, 16, 32, 34, 64, 80, 128, 130}) {
      for (const std::size_t heads : std::vector<std::size_t>{1, 3, 8}) {
        const std::size_t n = heads * head_dim, half = head_dim / 2;
        Buffer<float> x(n, n % 5), same(n), angles(head_dim, n % 3);
        fill(x, random);
        fill(angles, random);
        std::vector<double> exact(n);
        for (std::size_t i = 0; i < n; i++) {
          const std::size_t pair = i % head_dim, turn = pair % half;
          const double other = static_cast<double>(x[pair < half ? i + half : i - half]);
          const double sine = static_cast<double>(angles[half + turn]) * (pair < half ? -1.0 : 1.0);
          exact[i] = static_cast<double>(x[i]) * static_cast<double>(angles[turn]) + other * sine;
        }
        std::memcpy(same.data(), x.data(), x.bytes());
        k->decoder->rotate(x.data(), heads, head_dim, angles.data());
        scalar::kDecoder.rotate(same.data(), heads, head_dim, angles.data());
        CHECK(first_difference(x, same) == n, "%s, %zu heads of %zu", k->name, heads, head_dim);
        for (std::size_t i = 0; i < n; i++) {
          CHECK(std::fabs(static_cast<double>(x[i]) - exact[i]) < 2e-6, "%s, %zu of %zu", k->name, i, head_dim);
        }
      }
    }
  }
}

struct Attend {
  Buffer<float> queries, keys, values, scores, out;
  AttendArguments arguments{};

  Attend(std::size_t heads, std::size_t head_dim, std::size_t first, std::size_t last, Random& random)
      : queries(heads * head_dim, last % 5),
        keys((last + kKeyBlock - 1) / kKeyBlock * kKeyBlock * head_dim, last % 3),
        values(last * head_dim, last % 7),
        scores(heads * ((last + kKeyBlock - 1) / kKeyBlock - first / kKeyBlock) * kKeyBlock),
        out(heads * head_dim) {
    fill(queries, random, 2.0F);
    fill(keys, random);
    fill(values, random);
    arguments = {queries.data(), heads,     head_dim, keys.data(),
                 values.data(),  first,     last,     1.0F / std::sqrt(static_cast<float>(head_dim)),
                 scores.data(),  out.data()};
  }
  float key(std::size_t position, std::size_t i) const {
    return keys[(position / kKeyBlock * arguments.head_dim + i) * kKeyBlock + position % kKeyBlock];
  }
};

TEST("decoder: attention of every instruction set equals the scalar file bit for bit, and float64") {
  Random random(3);
  for (const Kernels* k : supported_kernels()) {
    for (const std::size_t head_dim : std::vector<std::size_t>{2, 8, 16, 24, 64, 80, 128}) {
      for (const std::size_t heads : quick() ? std::vector<std::size_t>{7} : std::vector<std::size_t>{1, 2, 3, 4, 7}) {
        for (const std::size_t last : std::vector<std::size_t>{1, 2, 15, 16, 17, 40, 100}) {
          const std::size_t first = random.below(2) == 0 ? 0 : random.below(last);
          Attend a(heads, head_dim, first, last, random);
          k->decoder->attend(a.arguments);
          Buffer<float> got(a.out.size());
          std::memcpy(got.data(), a.out.data(), got.bytes());
          scalar::kDecoder.attend(a.arguments);
          CHECK(first_difference(got, a.out) == got.size(), "%s, %zu heads of %zu, positions %zu to %zu", k->name,
                heads, head_dim, first, last);
          for (std::size_t h = 0; h < heads; h++) {
            std::vector<double> powers(last - first);
            double sum = 0.0;
            for (std::size_t j = first; j < last; j++) {
              double dot = 0.0;
              for (std::size_t i = 0; i < head_dim; i++) {
                dot += static_cast<double>(a.queries[h * head_dim + i]) * static_cast<double>(a.key(j, i));
              }
              powers[j - first] = std::exp(dot / std::sqrt(static_cast<double>(head_dim)));
              sum += powers[j - first];
            }
            for (std::size_t i = 0; i < head_dim; i++) {
              double exact = 0.0;
              for (std::size_t j = first; j < last; j++) {
                exact += powers[j - first] / sum * static_cast<double>(a.values[j * head_dim + i]);
              }
              CHECK(std::fabs(static_cast<double>(got[h * head_dim + i]) - exact) < 1e-5,
                    "%s, head %zu of %zu: %g, not %g", k->name, h, heads, static_cast<double>(got[h * head_dim + i]),
                    exact);
            }
          }
        }
      }
    }
  }
}

TEST("decoder: scores far apart, and what is not finite") {
  Random random(4);
  for (const Kernels* k : supported_kernels()) {
    Attend far(1, 16, 0, 20, random);
    for (std::size_t i = 0; i < 16; i++) far.queries[i] = 0.0F;
    far.queries[0] = 1e4F;
    for (std::size_t j = 0; j < 32; j++)
      far.keys[j / kKeyBlock * 16 * kKeyBlock + j % kKeyBlock] = static_cast<float>(j);
    k->decoder->attend(far.arguments);
    for (std::size_t i = 0; i < 16; i++)
      CHECK(far.out[i] == far.values[std::size_t{19} * 16 + i], "%s: the last has it all", k->name);
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      Attend a(1, 16, 0, 20, random);
      a.keys[17 % kKeyBlock + 16 * kKeyBlock] = bad;  // position 17
      k->decoder->attend(a.arguments);
      for (std::size_t i = 0; i < 16; i++) CHECK(std::isnan(a.out[i]), "%s: %g gives %g", k->name, bad, a.out[i]);
      Attend masked(1, 16, 0, 17, random);
      masked.keys[17 % kKeyBlock + 16 * kKeyBlock] = bad;  // past the last one
      k->decoder->attend(masked.arguments);
      for (std::size_t i = 0; i < 16; i++) CHECK(std::isfinite(masked.out[i]), "%s: what is masked counts", k->name);
    }
  }
}

struct Sequence {
  std::size_t rows, heads, kv_heads, head_dim, capacity, window;
  Buffer<float> queries, new_keys, new_values, norm, angles, keys, values, out;

  Sequence(std::size_t row_count, std::size_t window_length)
      : rows(row_count),
        heads(6),
        kv_heads(2),
        head_dim(24),
        capacity((row_count + kKeyBlock) / kKeyBlock * kKeyBlock),
        window(window_length),
        queries(rows * heads * head_dim),
        new_keys(rows * kv_heads * head_dim),
        new_values(rows * kv_heads * head_dim),
        norm(head_dim),
        angles(rows * head_dim),
        keys(kv_heads * capacity * head_dim),
        values(kv_heads * capacity * head_dim),
        out(rows * heads * head_dim) {
    Random random(5);
    for (Buffer<float>* x : {&queries, &new_keys, &new_values, &norm, &angles}) fill(*x, random);
    for (std::size_t i = 0; i < keys.size(); i++) keys[i] = values[i] = 0.0F;
  }
  // Rows [begin, end) come to those before them.
  void run(std::size_t begin, std::size_t end) {
    const std::size_t row = heads * head_dim, kv_row = kv_heads * head_dim;
    const AttentionArguments a = {end - begin,
                                  begin,
                                  heads,
                                  kv_heads,
                                  head_dim,
                                  capacity,
                                  window,
                                  1e-6F,
                                  queries.data() + begin * row,
                                  new_keys.data() + begin * kv_row,
                                  new_values.data() + begin * kv_row,
                                  norm.data(),
                                  norm.data(),
                                  angles.data() + begin * head_dim,
                                  keys.data(),
                                  values.data(),
                                  out.data() + begin * row};
    CHECK(attention(a).status == Status::kOk, "status");
  }
};

TEST("decoder: attention has the same bits for any number of threads, and for tokens one by one") {
  for (const std::size_t window : quick() ? std::vector<std::size_t>{8} : std::vector<std::size_t>{0, 1, 8, 100}) {
    Sequence expected(70, window);
    ThreadPool::instance().set_thread_count(1);
    expected.run(0, 70);
    for (const std::size_t threads : kThreadCounts) {
      ThreadPool::instance().set_thread_count(threads);
      Sequence together(70, window), single(70, window), parts(70, window);
      together.run(0, 70);
      for (std::size_t i = 0; i < 70; i++) single.run(i, i + 1);
      parts.run(0, 33);
      parts.run(33, 70);
      for (const Sequence* s : {&together, &single, &parts}) {
        CHECK(first_difference(s->out, expected.out) == expected.out.size(), "%zu threads, window %zu", threads,
              window);
        CHECK(first_difference(s->keys, expected.keys) == expected.keys.size(), "keys, %zu threads", threads);
        CHECK(first_difference(s->values, expected.values) == expected.values.size(), "values, %zu threads", threads);
      }
    }
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

TEST("decoder: a window of one token gives its own value") {
  Sequence s(20, 1);
  s.run(0, 20);
  for (std::size_t row = 0; row < 20; row++) {
    for (std::size_t i = 0; i < std::size_t{6} * 24; i++) {
      const float expected = s.new_values[row * 2 * 24 + i / 72 * 24 + i % 24];
      CHECK(s.out[row * 6 * 24 + i] == expected, "row %zu, element %zu", row, i);
    }
  }
}

TEST("decoder: norms of many rows have the same bits for any number of threads") {
  Random random(6);
  Buffer<float> x(std::size_t{301} * 333), weight(333), first(std::size_t{301} * 333);
  fill(x, random);
  fill(weight, random);
  for (const std::size_t threads : kThreadCounts) {
    ThreadPool::instance().set_thread_count(threads);
    Buffer<float> out(x.size());
    CHECK(rms_norm({x.data(), 301, 333, weight.data(), 1e-5F, out.data()}).status == Status::kOk, "status");
    if (threads == 1) std::memcpy(first.data(), out.data(), out.bytes());
    CHECK(first_difference(out, first) == out.size(), "%zu threads", threads);
  }
  ThreadPool::instance().set_thread_count(default_thread_count());
}

}  // namespace
}  // namespace lowbit::test
