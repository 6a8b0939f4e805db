// From rows of packed codes or floats to the tiles of linear_cuda_decode.cuh: a thread gathers a unit.

#include "ops/matmul/linear_cuda_kernels.cuh"

namespace lowbit {
namespace {

constexpr unsigned kThreads = 256;

// What is stored of a code, and which codes stand for no finite number.
enum class Recode : std::uint8_t {
  kNone,
  kShift,    // codes are less than they are stored as: signed integers, one in two's complement
  kTernary,  // two bits in two's complement, less −8
  kBinary,   // 0 and 1 are −1 and 1, less −8
  kE2m3,     // to E4M3
  kE3m2,     // to E5M2
  kE4m3,
  kE5m2,
};

struct Source {
  const std::uint8_t* data;
  unsigned bits;
  unsigned flip;  // what codes are xor-ed with
  Recode recode;
  FloatType float_type;  // of kFloats
  bool floats;
  std::size_t rows, columns, row_bytes;
  const float* scales;
  const std::int32_t* zero_points;
  int zero_shift;  // is added to zero points
  std::size_t rows_alike, row_stride, group_size;
};

__device__ inline unsigned code_of(const Source& s, std::size_t row, std::size_t column) {
  const std::size_t bit = column * s.bits;
  const std::uint8_t* const byte = s.data + row * s.row_bytes + bit / 8;
  const unsigned shift = bit % 8;
  unsigned value = *byte;
  if (shift + s.bits > 8) value |= static_cast<unsigned>(byte[1]) << 8;
  return (value >> shift & ((1U << s.bits) - 1U)) ^ s.flip;
}

__device__ inline unsigned stored_code(const Source& s, std::size_t row, std::size_t column, CudaFinding* finding) {
  const unsigned code = code_of(s, row, column);
  bool finite = true;
  unsigned stored = code;
  switch (s.recode) {
    case Recode::kTernary:
      stored = (code ^ 2U) + 6U;
      break;
    case Recode::kBinary:
      stored = 2 * code + 7;
      break;
    case Recode::kE2m3:
      stored = small_float_of<SmallFloatType::kFloat8E4m3fn>(
          float_of_small<SmallFloatType::kFloat6E2m3fn>(static_cast<std::uint8_t>(code)), true);
      break;
    case Recode::kE3m2:
      stored = small_float_of<SmallFloatType::kFloat8E5m2>(
          float_of_small<SmallFloatType::kFloat6E3m2fn>(static_cast<std::uint8_t>(code)), true);
      break;
    case Recode::kE4m3:
      finite = (code & 0x7fU) != 0x7fU;
      break;
    case Recode::kE5m2:
      finite = (code & 0x7cU) != 0x7cU;
      break;
    default:
      break;
  }
  if (!finite) note(finding, Status::kNonFinite, row * s.columns + column);
  return stored;
}

// A block of one warp for each row: the scale of row r of floats.
__global__ void scales_of_rows(Source s, float* scales, CudaFinding* finding) {
  const std::size_t row = blockIdx.x;
  float largest = 0.0F;
  for (std::size_t k = threadIdx.x; row < s.rows && k < s.columns; k += kWarp) {
    const float value = element(s.data, s.float_type, row * s.columns + k);
    const float magnitude = fabsf(value);
    if (!(magnitude < INFINITY)) {
      note(finding, Status::kNonFinite, row * s.columns + k);
    } else if (magnitude > largest) {
      largest = magnitude;
    }
  }
  largest = warp_reduce(largest, [](float a, float b) { return a > b ? a : b; });
  if (threadIdx.x == 0) {
    scales[row / kRowsOfTile * kRowsOfTile + row % 8 * 2 + row / 8 % 2] = row < s.rows ? power_below(largest) : 0.0F;
  }
}

__global__ void __launch_bounds__(kThreads)
    pack_units(Source s, CudaPackedLayout layout, std::uint32_t* out, const float* row_scales, CudaFinding* finding) {
  const int words = words_of(layout.format), units = units_of(layout.format);
  const std::size_t per_tile = layout.blocks * static_cast<std::size_t>(units) * kWarp;
  for (std::size_t i = grid_thread(); i < layout.tiles * per_tile; i += grid_threads()) {
    const std::size_t tile = i / per_tile, block = i % per_tile / (static_cast<std::size_t>(units) * kWarp);
    const auto unit = static_cast<int>(i / kWarp % static_cast<std::size_t>(units));
    const unsigned lane = i % kWarp, g = lane / 4, t = lane % 4;
    uint4 result;
    unsigned four[4];
    for (int w = 0; w < 4; w++) {
      const int word = unit * 4 + w, step = word / (2 * words), upper = word / words % 2, part = word % words;
      const std::size_t row = tile * kRowsOfTile + g + 8 * static_cast<unsigned>(upper);
      const std::size_t first = block * kColumnsOfBlock + static_cast<unsigned>(step) * kColumnsOfStep + 8 * t;
      unsigned value = 0;
      const int count = 8 / words;
      for (int c = 0; c < count; c++) {
        const std::size_t column = first + static_cast<unsigned>(part * count + c);
        if (row >= s.rows || column >= s.columns) continue;
        unsigned stored;
        if (s.floats) {
          const float scale = row_scales[tile * kRowsOfTile + row % 8 * 2 + row / 8 % 2];
          stored = float16_of(element(s.data, s.float_type, row * s.columns + column) / scale);
        } else {
          stored = stored_code(s, row, column, finding);
        }
        const int place = layout.format == CudaWeightFormat::kBits4 ? c / 2 + c % 2 * 4 : c;
        value |= stored << (32 / count * place);
      }
      four[w] = value;
    }
    result = make_uint4(four[0], four[1], four[2], four[3]);
    reinterpret_cast<uint4*>(out)[i] = result;
  }
}

// Scales and zero points, a thread for each.
__global__ void __launch_bounds__(kThreads) pack_parameters(Source s, CudaPackedLayout layout, unsigned scales_of_block,
                                                            std::size_t sets, unsigned char* memory) {
  const std::size_t per_set = kRowsOfTile * scales_of_block;
  for (std::size_t i = grid_thread(); i < layout.tiles * sets * per_set; i += grid_threads()) {
    const std::size_t tile = i / (sets * per_set), set = i / per_set % sets;
    const auto of_set = static_cast<unsigned>(i % per_set), g = of_set / (2 * scales_of_block),
               group = of_set / 2 % scales_of_block;
    const std::size_t row = tile * kRowsOfTile + g + of_set % 2 * 8;
    const std::size_t column = (set * scales_of_block + group) * layout.group;
    const bool there = row < s.rows && column < s.columns;
    std::size_t from = 0;
    if (there) from = row / s.rows_alike * s.row_stride + (s.row_stride > 1 ? column / s.group_size : 0);
    const float scale = there ? s.scales[from] : 0.0F;
    if (layout.scale_type == FloatType::kFloat16) {
      reinterpret_cast<std::uint16_t*>(memory + layout.scales_at)[i] = float16_of(scale);
    } else {
      reinterpret_cast<float*>(memory + layout.scales_at)[i] = scale;
    }
    if (layout.has_zeros) {
      memory[layout.zeros_at + i] = static_cast<std::uint8_t>(there ? s.zero_points[from] + s.zero_shift : 0);
    }
  }
}

Source source_of(const CudaWeightSource& given) {
  Source s{};
  s.data = static_cast<const std::uint8_t*>(given.data);
  s.rows = given.rows;
  s.columns = given.columns;
  s.scales = given.scales;
  s.rows_alike = given.rows_alike < 1 ? 1 : given.rows_alike;
  s.row_stride = given.row_stride;
  s.group_size = given.group_size < 1 ? 1 : given.group_size;
  if (given.kind == CudaWeightKind::kFloats) {
    s.floats = true;
    s.float_type = given.float_type;
    return s;
  }
  if (given.kind == CudaWeightKind::kCodes) {
    s.bits = given.code.bits;
    s.flip = given.code.is_signed ? 1U << (given.code.bits - 1) : 0;
    s.zero_points = given.zero_points;
    s.zero_shift = given.code.is_signed ? 1 << (given.code.bits - 1) : 0;
  } else {
    s.bits = format_of(given.book).bits;
    switch (given.book) {
      case Codebook::kFixed8:
        s.flip = 0x80;
        break;
      case Codebook::kTernary:
        s.recode = Recode::kTernary;
        break;
      case Codebook::kBinary:
        s.recode = Recode::kBinary;
        break;
      case Codebook::kE2m3:
        s.recode = Recode::kE2m3;
        break;
      case Codebook::kE3m2:
        s.recode = Recode::kE3m2;
        break;
      case Codebook::kE4m3fn:
        s.recode = Recode::kE4m3;
        break;
      case Codebook::kE5m2:
        s.recode = Recode::kE5m2;
        break;
      default:
        break;
    }
  }
  s.row_bytes = (s.columns * s.bits + 7) / 8;
  return s;
}

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

CudaStatus cuda_weight_layout(const CudaWeightSource* source, CudaPackedLayout* layout) {
  CudaPackedLayout l{};
  l.rows = source->rows;
  l.columns = source->columns;
  l.tiles = (l.rows + kRowsOfTile - 1) / kRowsOfTile;
  l.blocks = (l.columns + kColumnsOfBlock - 1) / kColumnsOfBlock;
  l.factor = 1.0F;
  l.scale_type = source->scale_type == FloatType::kFloat16 ? FloatType::kFloat16 : FloatType::kFloat32;
  if (source->kind == CudaWeightKind::kFloats) {
    l.format = CudaWeightFormat::kFloat16;
    l.scale_type = FloatType::kFloat32;
  } else if (source->kind == CudaWeightKind::kCodes) {
    l.format = source->code.bits == 8 ? CudaWeightFormat::kBits8 : CudaWeightFormat::kBits4;
    l.has_zeros = source->zero_points != nullptr;
    l.zero = 1 << (source->code.bits - 1);
  } else {
    switch (source->book) {
      case Codebook::kNf4:
      case Codebook::kFp4:
      case Codebook::kE2m1:
        l.format = CudaWeightFormat::kTable4;
        l.table = source->book;
        break;
      case Codebook::kE4m3fn:
      case Codebook::kE2m3:
        l.format = CudaWeightFormat::kFloat8E4m3fn;
        break;
      case Codebook::kE5m2:
      case Codebook::kE3m2:
        l.format = CudaWeightFormat::kFloat8E5m2;
        break;
      case Codebook::kFixed8:
        l.format = CudaWeightFormat::kBits8;
        l.zero = 128;
        l.factor = 0x1p-6F;
        break;
      default:  // kTernary, kBinary
        l.format = CudaWeightFormat::kBits4;
        l.zero = 8;
    }
  }
  const std::uint64_t padded = (l.blocks < 1 ? 1 : l.blocks) * kColumnsOfBlock;
  l.group = padded;
  if (source->kind != CudaWeightKind::kFloats && source->row_stride > 1 && source->group_size < l.columns) {
    const std::uint64_t size = source->group_size;
    if (size % kColumnsOfStep != 0) return CudaStatus::kUnsupported;
    // Kernels find scales by shifts: of other sizes, the largest power of two that divides them.
    l.group = size & (~size + 1);
    if (l.group > padded) l.group = padded;
  }
  const std::uint64_t units = static_cast<std::uint64_t>(units_of(l.format));
  l.scales_at = aligned(l.tiles * l.blocks * units * kWarp * 16);
  const std::uint64_t scales = l.tiles * kRowsOfTile * ((padded + l.group - 1) / l.group);
  l.zeros_at = aligned(l.scales_at + scales * size_of(l.scale_type));
  l.bytes = aligned(l.zeros_at + (l.has_zeros ? scales : 0));
  *layout = l;
  return CudaStatus::kOk;
}

CudaStatus cuda_prepack(CudaStream* stream, const CudaWeightSource* source, const CudaPackedLayout* layout,
                        void* memory) {
  auto* const bytes = static_cast<unsigned char*>(memory);
  const Source s = source_of(*source);
  if (layout->tiles == 0) return CudaStatus::kOk;
  if (s.floats) {
    if (layout->tiles * kRowsOfTile > 0x7fffffffU) return CudaStatus::kUnsupported;
    LOWBIT_TRY(launch(*stream, scales_of_rows, dim3(static_cast<unsigned>(layout->tiles * kRowsOfTile)), kWarp, 0, s,
                      reinterpret_cast<float*>(bytes + layout->scales_at), stream->finding));
  } else {
    const unsigned scales = cuda_scales_of_block(*layout);
    const std::size_t sets = cuda_scale_sets(*layout);
    LOWBIT_TRY(launch(*stream, pack_parameters,
                      dim3(blocks_for(*stream, layout->tiles * sets * scales * kRowsOfTile, kThreads)), kThreads, 0, s,
                      *layout, scales, sets, bytes));
  }
  const std::size_t units = layout->tiles * layout->blocks * static_cast<std::size_t>(units_of(layout->format)) * kWarp;
  return launch(*stream, pack_units, dim3(blocks_for(*stream, units, kThreads)), kThreads, 0, s, *layout,
                reinterpret_cast<std::uint32_t*>(bytes), reinterpret_cast<const float*>(bytes + layout->scales_at),
                stream->finding);
}

}  // namespace lowbit
