// Codes in the words of GPTQ and AWQ: arguments in, work out. The order of the arguments is that of lib/addon/raw.ts.

#include <vector>

#include "node/arguments.h"
#include "node/calls.h"
#include "node/record.h"
#include "ops/repack/repack.h"

namespace lowbit::node {
namespace {

constexpr std::size_t kWordBytes = sizeof(std::uint32_t);

// Whether a matrix of words lies inside an array.
void check_matrix(const Arguments& a, const Bytes& array, std::size_t rows, std::size_t columns, std::size_t begin,
                  std::size_t stride, const char* what) {
  if (rows == 0 || columns == 0) return;
  const std::size_t words = array.size / kWordBytes;
  const std::size_t end = checked_product(a, rows - 1, stride);
  a.check(stride >= columns && begin <= words && end <= words - begin && columns <= words - begin - end, what);
}

// transposeWords(record, input, out), where the record holds rows, columns, and where `input` and `out` begin and how
// far apart their rows lie: inputBegin, inputStride, outBegin, outStride, in words.
Work prepare_transpose(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 6);
  const std::size_t rows = record.size(), columns = record.size();
  const std::size_t in_begin = record.size(), in_stride = record.size();
  const std::size_t out_begin = record.size(), out_stride = record.size();
  const Bytes in = a.array(1, "input", napi_uint32_array), out = a.array(2, "out", napi_uint32_array);
  check_matrix(a, in, rows, columns, in_begin, in_stride, "Expected the input to hold the matrix.");
  check_matrix(a, out, columns, rows, out_begin, out_stride, "Expected out to hold the transposed matrix.");
  a.check(!in.overlaps(out), "Expected out not to overlap the input.");
  return [=](const CancelFlag* cancel) {
    if (rows == 0 || columns == 0) return Outcome{};
    return transpose_words({in.as<const std::uint32_t>() + in_begin, in_stride}, rows, columns,
                           {out.as<std::uint32_t>() + out_begin, out_stride}, cancel);
  };
}

// awqToRows(record, input, out), rowsToAwq(record, input, out), where the record holds kWords and columns: words
// [8 · kWords, columns] on the side of AWQ, [8 · columns, kWords] on that of the rows.
template <bool ToRows>
Work prepare_awq(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 2);
  const std::size_t k_words = record.size(), columns = record.size();
  const Bytes in = a.array(1, "input", napi_uint32_array), out = a.array(2, "out", napi_uint32_array);
  const std::size_t bytes = checked_product(a, checked_product(a, k_words, columns), 8 * kWordBytes);
  a.check(in.size == bytes && out.size == bytes, "Expected input and out to be as long as the words.");
  a.check(!in.overlaps(out), "Expected out not to overlap the input.");
  return [=](const CancelFlag* cancel) {
    const auto* const from = in.as<const std::uint32_t>();
    auto* const to = out.as<std::uint32_t>();
    return ToRows ? awq_to_rows({from, columns}, k_words, columns, {to, k_words}, cancel)
                  : rows_to_awq({from, k_words}, k_words, columns, {to, columns}, cancel);
  };
}

// selectCodes(record, input, order, out), where the record holds bits and columns: words [order.length · bits / 32,
// columns] on both sides.
Work prepare_select(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, 2);
  const auto bits = static_cast<unsigned>(record.integer(2, 8));
  a.check(bits <= 4 || bits == 8, "Expected codes of 2, 3, 4 or 8 bits.");
  const std::size_t columns = record.size();
  const Bytes in = a.array(1, "input", napi_uint32_array), out = a.array(3, "out", napi_uint32_array);
  const Bytes places = a.array(2, "order", napi_int32_array);
  const std::size_t count = places.size / sizeof(std::int32_t);
  a.check(checked_product(a, count, bits) % 32 == 0, "Expected codes that fill whole words.");
  const std::size_t bytes = checked_product(a, checked_product(a, count * bits / 32, columns), kWordBytes);
  a.check(in.size == bytes && out.size == bytes, "Expected input and out to be as long as the words.");
  a.check(!in.overlaps(out) && !out.overlaps(places), "Expected out not to overlap what is read.");
  // Copied: an array in shared memory may change.
  const std::vector<std::int32_t> order(places.as<const std::int32_t>(), places.as<const std::int32_t>() + count);
  for (const std::int32_t place : order) {
    a.check(place >= 0 && static_cast<std::size_t>(place) < count, "Expected order to name codes.");
  }
  return [=](const CancelFlag* cancel) {
    return select_codes({in.as<const std::uint32_t>(), columns}, bits, order.data(), count, columns,
                        {out.as<std::uint32_t>(), columns}, cancel);
  };
}

}  // namespace

void register_repack_calls(Napi::Env env, Napi::Object exports) {
  register_call<prepare_transpose>(env, exports, "transposeWords");
  register_call<prepare_awq<true>>(env, exports, "awqToRows");
  register_call<prepare_awq<false>>(env, exports, "rowsToAwq");
  register_call<prepare_select>(env, exports, "selectCodes");
}

}  // namespace lowbit::node
