// Bit fields of files: arguments in, work out. The order of the arguments is that of lib/addon/raw.ts.

#include <limits>
#include <vector>

#include "node/arguments.h"
#include "node/calls.h"
#include "ops/fields/fields.h"

namespace lowbit::node {
namespace {

struct Matrix {
  std::size_t rows, columns, count;
};

Matrix matrix_at(const Arguments& a, std::size_t i) {
  const std::size_t rows = a.size(i, "rows"), columns = a.size(i + 1, "columns");
  return {rows, columns, checked_product(a, checked_product(a, rows, columns), 8) / 8};
}

unsigned bits_at(const Arguments& a, std::size_t i) { return static_cast<unsigned>(a.integer(i, "bits", 1, 8)); }

// moveFields(data, inStride, out, outStride, rows, columns, bits, flip)
Work prepare_move_fields(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes in = a.array(0, "data", napi_uint8_array), out = a.array(2, "out", napi_uint8_array);
  const std::size_t in_stride = a.size(1, "inStride"), out_stride = a.size(3, "outStride");
  const Matrix m = matrix_at(a, 4);
  const unsigned bits = bits_at(a, 6);
  const bool flip = a.flag(7, "flip");
  const std::size_t bytes = field_bytes(m.columns, bits);
  a.check(in_stride >= bytes && out_stride >= bytes, "Expected strides of at least the bytes of a row.");
  a.check(in.size == checked_product(a, m.rows, in_stride), "Expected rows of data inStride bytes apart.");
  a.check(out.size == checked_product(a, m.rows, out_stride), "Expected rows of out outStride bytes apart.");
  a.check(!out.overlaps(in), "Expected out not to overlap data.");
  const MoveFields work{in.data, in_stride, out.data, out_stride, m.rows, m.columns, bits, flip};
  return [work](const CancelFlag* cancel) { return move_fields(work, cancel); };
}

// unpackFields(data, inStride, rows, columns, bits, perWord, offset, out)
Work prepare_unpack_fields(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes in = a.array(0, "data", napi_uint8_array), out = a.array(7, "out", napi_uint8_array);
  const std::size_t in_stride = a.size(1, "inStride");
  const Matrix m = matrix_at(a, 2);
  const unsigned bits = bits_at(a, 4);
  const auto per_word = static_cast<unsigned>(a.integer(5, "perWord", 0, 32 / bits));
  const auto offset = static_cast<std::uint8_t>(a.integer(6, "offset", 0, 255));
  const std::size_t words = per_word == 0 ? 0 : m.columns / per_word + (m.columns % per_word != 0 ? 1 : 0);
  const std::size_t bytes = per_word == 0 ? field_bytes(m.columns, bits) : checked_product(a, words, 4);
  a.check(in_stride >= bytes, "Expected a stride of at least the bytes of a row.");
  a.check(in.size == checked_product(a, m.rows, in_stride), "Expected rows of data inStride bytes apart.");
  a.check(out.size == m.count, "Expected out to have a byte for each field.");
  a.check(!out.overlaps(in), "Expected out not to overlap data.");
  const UnpackFields work{in.data, in_stride, out.data, m.rows, m.columns, bits, per_word, offset};
  return [work](const CancelFlag* cancel) { return unpack_fields(work, cancel); };
}

// gatherFields(data, rows, columns, bits, order, out)
Work prepare_gather_fields(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes in = a.array(0, "data", napi_uint8_array), out = a.array(5, "out", napi_uint8_array);
  const Matrix m = matrix_at(a, 1);
  const unsigned bits = bits_at(a, 3);
  const Bytes order = a.array(4, "order", napi_int32_array);
  const std::size_t bytes = checked_product(a, m.rows, field_bytes(m.columns, bits));
  a.check(m.columns <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()), "Expected fewer columns.");
  a.check(in.size == bytes && out.size == bytes, "Expected rows of data and out without gaps.");
  a.check(order.size == 4 * m.columns, "Expected order to have an element for each column.");
  a.check(!out.overlaps(in) && !out.overlaps(order), "Expected out not to overlap data or order.");
  const auto* const indices = order.as<const std::int32_t>();
  for (std::size_t i = 0; i < m.columns; i++) {
    a.check(indices[i] >= 0 && static_cast<std::size_t>(indices[i]) < m.columns, "Expected order to name columns.");
  }
  // The order is copied: an array in shared memory may change.
  return
      [in, out, m, bits, copied = std::vector<std::int32_t>(indices, indices + m.columns)](const CancelFlag* cancel) {
        return gather_fields({in.data, copied.data(), out.data, m.rows, m.columns, bits}, cancel);
      };
}

// swapNibbles(data, out): out may be data.
Work prepare_swap_nibbles(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes in = a.array(0, "data", napi_uint8_array), out = a.array(1, "out", napi_uint8_array);
  a.check(in.size == out.size, "Expected out to be as long as data.");
  a.check(in.data == out.data || !out.overlaps(in), "Expected out to be data, or not to overlap it.");
  return [in, out](const CancelFlag* cancel) { return swap_nibbles(in.data, out.data, in.size, cancel); };
}

// dequantizeLlmInt8(codes, absmax, rows, columns, out)
Work prepare_dequantize_llm_int8(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes codes = a.array(0, "codes", napi_uint8_array), absmax = a.array(1, "absmax", napi_float32_array);
  const Matrix m = matrix_at(a, 2);
  const Bytes out = a.array(4, "out", napi_float32_array);
  a.check(codes.size == m.count, "Expected as many codes as the shape says.");
  a.check(absmax.size == 4 * m.rows, "Expected absmax to have an element for each row.");
  a.check(out.size == 4 * m.count, "Expected out to have as many elements as codes.");
  a.check(!out.overlaps(codes) && !out.overlaps(absmax), "Expected out not to overlap what is read.");
  return [=](const CancelFlag* cancel) {
    return dequantize_llm_int8(codes.as<const std::int8_t>(), absmax.as<const float>(), m.rows, m.columns,
                               out.as<float>(), cancel);
  };
}

}  // namespace

void register_fields_calls(Napi::Env env, Napi::Object exports) {
  register_call<prepare_move_fields>(env, exports, "moveFields");
  register_call<prepare_unpack_fields>(env, exports, "unpackFields");
  register_call<prepare_gather_fields>(env, exports, "gatherFields");
  register_call<prepare_swap_nibbles>(env, exports, "swapNibbles");
  register_call<prepare_dequantize_llm_int8>(env, exports, "dequantizeLlmInt8");
}

}  // namespace lowbit::node
