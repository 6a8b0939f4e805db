/** ggml in this process, through FFI: the shared libraries of the node-llama-cpp binary package. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';

const folder = join(import.meta.dirname, 'node_modules', '@node-llama-cpp', 'linux-x64', 'bins', 'linux-x64');

/** The library that ggml itself would choose for this processor. */
function cpuVariant() {
  const flags = new Set((/^flags\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? '').split(' '));
  if (flags.has('avx512_bf16')) return 'zen4';
  if (flags.has('avx512_vnni')) return 'icelake';
  if (flags.has('avx512f')) return 'skylakex';
  return flags.has('avx2') ? 'haswell' : 'x64';
}

export const base = koffi.load(join(folder, 'libggml-base.so'));
export const cpu = koffi.load(join(folder, `libggml-cpu-${cpuVariant()}.so`));

const quantizeChunk = base.func(
  'size_t ggml_quantize_chunk(int type, const float* src, void* dst, int64_t start, int64_t nrows, int64_t n_per_row, const float* imatrix)',
);

export const name = 'ggml';
export const TYPES = { f32: 0, q4_0: 2, q8_0: 8, q4_k: 12, tq2_0: 35 };

/** What llama-quantize does to a tensor. */
export const quantize = (type, input, output, rows, columns) =>
  quantizeChunk(TYPES[type], input, output, 0, rows, columns, null);

const row = (library, symbol, from, to) => library.func(`void ${symbol}(const ${from}* x, ${to}* y, int64_t k)`);

export const dequantize = {
  q4_0: row(base, 'dequantize_row_q4_0', 'void', 'float'),
  q8_0: row(base, 'dequantize_row_q8_0', 'void', 'float'),
  q4_k: row(base, 'dequantize_row_q4_K', 'void', 'float'),
  tq2_0: row(base, 'dequantize_row_tq2_0', 'void', 'float'),
};

/** The vectorized conversions that inference uses. */
export const cast = {
  float32_to_float16: row(cpu, 'ggml_cpu_fp32_to_fp16', 'float', 'void'),
  float16_to_float32: row(cpu, 'ggml_cpu_fp16_to_fp32', 'void', 'float'),
  float32_to_bfloat16: row(cpu, 'ggml_cpu_fp32_to_bf16', 'float', 'void'),
  bfloat16_to_float32: row(cpu, 'ggml_cpu_bf16_to_fp32', 'void', 'float'),
};
