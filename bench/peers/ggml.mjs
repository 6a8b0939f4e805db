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
export const TYPES = {
  f32: 0,
  q4_0: 2,
  q4_1: 3,
  q5_0: 6,
  q5_1: 7,
  q8_0: 8,
  q2_k: 10,
  q3_k: 11,
  q4_k: 12,
  q5_k: 13,
  q6_k: 14,
  iq4_nl: 20,
  iq4_xs: 23,
  tq1_0: 34,
  tq2_0: 35,
  mxfp4: 39,
  nvfp4: 40,
};

const row = (library, symbol, from, to) => library.func(`void ${symbol}(const ${from}* x, ${to}* y, int64_t k)`);
const rowOf = (verb, type) => {
  const name = type.replace('_k', '_K');
  return verb === 'quantize'
    ? row(base, `quantize_row_${name}_ref`, 'float', 'void')
    : row(base, `dequantize_row_${name}`, 'void', 'float');
};

// A type for activations, which ggml_quantize_chunk does not know.
const quantizeQ8K = rowOf('quantize', 'q8_k');

/** What llama-quantize does to a tensor. */
export const quantize = (type, input, output, rows, columns) =>
  type === 'q8_k'
    ? quantizeQ8K(input, output, rows * columns)
    : quantizeChunk(TYPES[type], input, output, 0, rows, columns, null);

export const dequantize = Object.fromEntries(
  [...Object.keys(TYPES).slice(1), 'q8_k'].map((type) => [type, rowOf('dequantize', type)]),
);

/** The vectorized conversions that inference uses. */
export const cast = {
  float32_to_float16: row(cpu, 'ggml_cpu_fp32_to_fp16', 'float', 'void'),
  float16_to_float32: row(cpu, 'ggml_cpu_fp16_to_fp32', 'void', 'float'),
  float32_to_bfloat16: row(cpu, 'ggml_cpu_fp32_to_bf16', 'float', 'void'),
  bfloat16_to_float32: row(cpu, 'ggml_cpu_bf16_to_fp32', 'void', 'float'),
};
