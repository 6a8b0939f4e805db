// compareRows…: how far rows are from what was made of them, without writing that down; and checksums of bytes. The
// order of the arguments is that of lib/addon/raw.ts.

#include "node/arguments.h"
#include "node/calls.h"
#include "node/record.h"
#include "ops/affine/affine.h"
#include "ops/blocks/blocks.h"
#include "ops/codebook/codebook.h"
#include "ops/compare/compare_rows.h"

namespace lowbit::node {
namespace {

static_assert(sizeof(CompareSums) == 5 * sizeof(double), "sums are passed as five numbers for each row");

// What every call begins with: record, reference, sums; the record holds referenceType, rows, columns, groupSize,
// rowsAlike. Sums are Σr², Σo², Σr·o, Σ(r−o)², max|r−o| of each row.
struct Rows {
  FloatType type;
  RowGrid grid;
  Bytes reference, sums;
};

constexpr std::size_t kRowsNumbers = 5;

Rows read_rows(const Arguments& a, Record& record) {
  Rows rows{};
  rows.type = record.float_type();
  rows.grid.rows = record.size();
  rows.grid.columns = record.size();
  rows.grid.group = record.size(1);
  rows.grid.rows_alike = record.size(1);
  rows.reference = a.floats(1, "reference", rows.type);
  rows.sums = a.array(2, "sums", napi_float64_array);
  const std::size_t count = checked_product(a, rows.grid.rows, rows.grid.columns);
  checked_product(a, count, 8);
  checked_product(a, rows.grid.group, 8);
  a.check(rows.reference.size == count * size_of(rows.type), "Expected a reference with as many elements as the rows.");
  a.check(rows.sums.size == checked_product(a, rows.grid.rows, sizeof(CompareSums)), "Expected room for all sums.");
  a.check(!rows.sums.overlaps(rows.reference), "Expected sums not to overlap the reference.");
  return rows;
}

template <typename Make>
Work comparison(const Rows& rows, const Make& make) {
  return [=](const CancelFlag* cancel) {
    return compare_rows(rows.reference.data, rows.type, rows.grid, make, rows.sums.as<CompareSums>(), cancel);
  };
}

// compareRowsFloats(record, reference, sums, other), where the record ends with otherType.
Work prepare_floats(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, kRowsNumbers + 1);
  const Rows rows = read_rows(a, record);
  const FloatType type = record.float_type();
  const Bytes other = a.floats(3, "other", type);
  const std::size_t all = rows.grid.columns;
  a.check(other.size == rows.grid.rows * all * size_of(type), "Expected both tensors to have as many elements.");
  a.check(!rows.sums.overlaps(other), "Expected sums not to overlap other.");
  return comparison(rows, [=](std::size_t row, std::size_t count, std::size_t column, std::size_t columns, float* out) {
    cast(other.data + (row * all + column) * size_of(type), type, out, FloatType::kFloat32, true, count * columns);
  });
}

struct Codes {
  CodeType type;
  Bytes data, scales;
};

// data, scales; the next numbers of the record are bits, signed.
Codes read_codes(const Arguments& a, Record& record, const Rows& rows) {
  Codes codes{};
  codes.type = record.code_type();
  codes.data = a.array(3, "data", napi_uint8_array);
  codes.scales = a.array(4, "scales", napi_float32_array);
  const RowGrid& grid = rows.grid;
  a.check(codes.data.size == grid.rows * codes.type.packed_bytes(grid.columns),
          "Expected data to be as long as the packed codes.");
  a.check(codes.scales.size == 4 * grid.parameter_count(), "Expected as many scales as parameter sets.");
  a.check(!rows.sums.overlaps(codes.data) && !rows.sums.overlaps(codes.scales), "Expected sums not to overlap codes.");
  check_scales(a, "q.scales", codes.scales.as<const float>(), grid.parameter_count(), false);
  return codes;
}

// Some rows, or a part of one, as a tensor of their own.
AffineLayout layout_of(const RowGrid& grid, std::size_t rows, std::size_t columns) {
  return {rows, columns, std::min(grid.group, columns), rows == 1 ? 1 : grid.rows_alike, columns};
}

// compareRowsAffine(record, reference, sums, data, scales, zeroPoints | null)
Work prepare_affine(const Napi::CallbackInfo& info) {
  constexpr int kZeroPointLimit = 1 << 20;  // as for dequantizeAffine
  const Arguments a(info);
  Record record(a, 0, kRowsNumbers + 2);
  const Rows rows = read_rows(a, record);
  const Codes codes = read_codes(a, record, rows);
  a.check(codes.type.bits != 1 && codes.type.bits != 6, "Expected codes of 2, 3, 4 or 8 bits.");
  const RowGrid grid = rows.grid;
  const Bytes zero_points = a.optional_array(5, "zeroPoints", napi_int32_array, grid.parameter_count());
  a.check(!rows.sums.overlaps(zero_points), "Expected sums not to overlap zeroPoints.");
  check_zero_points(a, "q.zeroPoints", zero_points.as<const std::int32_t>(), grid.parameter_count(), -kZeroPointLimit,
                    kZeroPointLimit);
  const std::size_t row_bytes = codes.type.packed_bytes(grid.columns);
  return comparison(rows, [=](std::size_t row, std::size_t count, std::size_t column, std::size_t columns, float* out) {
    const std::size_t p = grid.parameter_of(row, column);
    dequantize_affine(codes.data.data + row * row_bytes + column * codes.type.bits / 8, codes.type,
                      layout_of(grid, count, columns), codes.scales.as<const float>() + p,
                      zero_points.data == nullptr ? nullptr : zero_points.as<const std::int32_t>() + p, out,
                      FloatType::kFloat32);
  });
}

// compareRowsCodebook(record, reference, sums, data, scales), where the record ends with book.
Work prepare_codebook(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, kRowsNumbers + 3);
  const Rows rows = read_rows(a, record);
  const Codes codes = read_codes(a, record, rows);
  const Codebook book = record.codebook(codes.type);
  const RowGrid grid = rows.grid;
  const std::size_t row_bytes = codes.type.packed_bytes(grid.columns);
  return comparison(rows, [=](std::size_t row, std::size_t count, std::size_t column, std::size_t columns, float* out) {
    dequantize_codebook(codes.data.data + row * row_bytes + column * codes.type.bits / 8, book,
                        layout_of(grid, count, columns),
                        codes.scales.as<const float>() + grid.parameter_of(row, column), out, FloatType::kFloat32);
  });
}

// compareRowsBlocks(record, reference, sums, data), where the record ends with type; groupSize is that of its blocks.
Work prepare_blocks(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  Record record(a, 0, kRowsNumbers + 1);
  const Rows rows = read_rows(a, record);
  const auto type = static_cast<BlockType>(record.integer(0, kBlockTypes - 1));
  const BlockFormat& format = format_of(type);
  const Bytes data = a.array(3, "data", napi_uint8_array);
  const RowGrid grid = rows.grid;
  a.check(grid.group == format.length && grid.columns % format.length == 0, "Expected rows of whole blocks.");
  const std::size_t row_bytes = grid.columns / format.length * format.bytes;
  a.check(data.size == grid.rows * row_bytes, "Expected as many blocks as the rows have.");
  a.check(!rows.sums.overlaps(data), "Expected sums not to overlap data.");
  return comparison(rows, [=](std::size_t row, std::size_t count, std::size_t column, std::size_t columns, float* out) {
    const BlockFormat& f = format_of(type);
    dequantize_blocks(data.data + row * row_bytes + column / f.length * f.bytes, type, count * columns / f.length, out);
  });
}

// checksum(data, state): state is a BigUint64Array of four, zeros at first. Fletcher's sums of the fourth order over
// little-endian words of 32 bits, as ZFS has them; what is left over at the end counts as a word with zeros. Parts of
// a file are added one after the other, all but the last of whole words.
Napi::Value checksum(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  const Bytes data = a.array(0, "data", napi_uint8_array), state = a.array(1, "state", napi_biguint64_array);
  a.check(state.size == 4 * sizeof(std::uint64_t), "Expected four sums.");
  auto* const sums = state.as<std::uint64_t>();
  std::uint64_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
  const auto add = [&](std::uint32_t word) {
    s0 += word;
    s1 += s0;
    s2 += s1;
    s3 += s2;
  };
  const auto word_at = [&](std::size_t i) {
    std::uint32_t word = 0;
    for (std::size_t b = 0; b < 4 && i + b < data.size; b++) word |= std::uint32_t{data.data[i + b]} << (8 * b);
    return word;
  };
  std::size_t i = 0;
  for (; i + 4 <= data.size; i += 4) {  // compilers make one load of this
    const std::uint8_t* p = data.data + i;
    add(p[0] | std::uint32_t{p[1]} << 8 | std::uint32_t{p[2]} << 16 | std::uint32_t{p[3]} << 24);
  }
  if (i < data.size) add(word_at(i));
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
  return info.Env().Undefined();
}

}  // namespace

void register_compare_calls(Napi::Env env, Napi::Object exports) {
  register_call<prepare_floats>(env, exports, "compareRowsFloats");
  register_call<prepare_affine>(env, exports, "compareRowsAffine");
  register_call<prepare_codebook>(env, exports, "compareRowsCodebook");
  register_call<prepare_blocks>(env, exports, "compareRowsBlocks");
  exports.Set("checksum", Napi::Function::New<checksum>(env, "checksum"));
}

}  // namespace lowbit::node
