#include "node/codes.h"

#include "core/tiles.h"

namespace lowbit::node {
namespace {

Codes read_codes(const Arguments& a, Record& record) {
  Codes codes{};
  codes.layout.blocks = record.size();
  codes.layout.block_size = record.size();
  codes.layout.group_size = record.size(1);
  codes.layout.blocks_alike = record.size(1);
  codes.layout.columns = record.size();
  codes.type = record.code_type();
  codes.count = checked_product(a, codes.layout.blocks, codes.layout.block_size);
  if (codes.count == 0) return codes;
  a.check(codes.layout.columns != 0 && codes.count % codes.layout.columns == 0, "Expected whole rows.");
  codes.rows = codes.count / codes.layout.columns;
  checked_product(a, codes.count, 8);
  return codes;
}

// Integer codes: those that the affine kernels know.
Codes read_integer_codes(const Arguments& a, Record& record) {
  const Codes codes = read_codes(a, record);
  a.check(codes.type.bits != 1 && codes.type.bits != 6, "Expected codes of 2, 3, 4 or 8 bits.");
  return codes;
}

RangeChoice read_range(const Arguments& a, Record& record) {
  const auto method = static_cast<RangeChoice::Method>(record.integer(0, 3));
  const RangeChoice range{method, record.number()};
  a.check(range.percentile > 50.0 && range.percentile <= 100.0, "Expected a percentile in (50, 100].");
  return range;
}

}  // namespace

AffineQuantization read_affine_quantization(const Arguments& a, std::size_t i) {
  Record record(a, i, kCodesNumbers + 8);
  AffineQuantization q{};
  q.codes = read_integer_codes(a, record);
  q.type = record.float_type();
  const CodeType code = q.codes.type;
  q.scheme.code = code;
  q.scheme.symmetric = record.flag();
  q.scheme.lowest = static_cast<int>(record.integer(code.lowest(), code.highest()));
  q.scheme.highest = static_cast<int>(record.integer(q.scheme.lowest, code.highest()));
  q.scheme.scale_type = record.float_type();
  q.range = read_range(a, record);
  q.non_finite = record.flag() ? NonFinite::kSaturate : NonFinite::kThrow;
  return q;
}

Dequantization read_affine_dequantization(const Arguments& a, std::size_t i) {
  Record record(a, i, kCodesNumbers + 1);
  Dequantization d{};
  d.codes = read_integer_codes(a, record);
  d.type = record.float_type();
  return d;
}

CodebookQuantization read_codebook_quantization(const Arguments& a, std::size_t i) {
  Record record(a, i, kCodesNumbers + 7);
  CodebookQuantization q{};
  q.codes = read_codes(a, record);
  q.scheme.book = record.codebook(q.codes.type);
  q.scheme.rule = static_cast<ScaleRule>(record.integer(0, kScaleRules - 1));
  q.type = record.float_type();
  q.scheme.scale_type = record.float_type();
  q.range = read_range(a, record);
  q.non_finite = record.flag() ? NonFinite::kSaturate : NonFinite::kThrow;
  a.check(q.range.method != RangeChoice::Method::kMse, "Expected another range method.");
  return q;
}

Dequantization read_codebook_dequantization(const Arguments& a, std::size_t i) {
  Record record(a, i, kCodesNumbers + 2);
  Dequantization d{};
  d.codes = read_codes(a, record);
  d.book = record.codebook(d.codes.type);
  d.type = record.float_type();
  return d;
}

CodesSource read_codes_source(const Arguments& a, std::size_t i) {
  Record record(a, i, 6);
  CodesSource source{};
  source.type = record.code_type();
  source.rows = record.size();
  source.columns = record.size();
  source.group_size = record.size(1);
  source.row_stride = record.size();
  const std::size_t groups = ceil_div(source.columns, source.group_size);
  a.check(source.row_stride == groups || (groups <= 1 && source.row_stride <= 1),
          "Expected as many parameter sets as groups.");
  checked_product(a, checked_product(a, source.rows, source.columns), 8);
  return source;
}

std::size_t parameter_count(const Arguments& a, const CodesSource& source) {
  return source.row_stride == 0 ? 1 : checked_product(a, source.rows, source.row_stride);
}

CodebookSource read_codebook_source(const Arguments& a, std::size_t i) {
  Record record(a, i, 8);
  const CodeType code = record.code_type();
  CodebookSource source{};
  source.book = record.codebook(code);
  source.rows = record.size();
  source.columns = record.size();
  source.group_size = record.size(1);
  source.rows_alike = record.size(1);
  source.row_stride = record.size();
  const std::size_t groups = ceil_div(source.columns, source.group_size);
  a.check(source.row_stride == groups || (groups <= 1 && source.row_stride <= 1), "Expected as many scales as groups.");
  checked_product(a, checked_product(a, source.rows, source.columns), 8);
  return source;
}

std::size_t parameter_count(const Arguments& a, const CodebookSource& source) {
  return source.row_stride == 0 ? 1 : checked_product(a, ceil_div(source.rows, source.rows_alike), source.row_stride);
}

}  // namespace lowbit::node
