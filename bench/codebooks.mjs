/**
 * How fast are the codebooks (NF4, FP4, FP8, microscaling, NVFP4, ternary, binary), against what the memory of this machine
 * allows and against the peers that have one of them?
 *
 * `npm run bench:codebooks -- [--quick] [--only=nf4,mxfp4] [--threads=1,2] [--write]` measures a part; LOWBIT_ISA=avx2
 * measures lowbit without AVX-512.
 *
 * Every dtype is quantized from float32 and dequantized to it, in memory far larger than the last-level cache and in cache,
 * beside a loop that only moves the same bytes; MXFP4 and NVFP4 beside ggml's functions for its own forms of them, FP8 beside
 * ONNX Runtime's QuantizeLinear and DequantizeLinear.
 */
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';
import lowbit from '../dist/index.js';
import { medians, normal } from './support/measure.mjs';
import { peer } from './support/peer.mjs';
import { gigabytes, markdownTable, publish, time } from './support/report.mjs';

const require = createRequire(import.meta.url);
const limits = require('../build-bench/lowbit_limits.node');
const ggml = await peer('ggml');

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    threads: { type: 'string' },
    write: { type: 'boolean', default: false },
  },
});

const { threads: ALL } = lowbit.capabilities();
const COLUMNS = 4096;
const MIB = 2 ** 20;

/** Bits of a code, how the tensor is quantized, and ggml's type of the same kind. */
const DTYPES = {
  nf4: { bits: 4 },
  fp4: { bits: 4 },
  float8_e4m3fn: { bits: 8, how: { granularity: 'per-channel' } },
  float8_e5m2: { bits: 8, how: { granularity: 'per-channel' } },
  mxfp8_e4m3: { bits: 8 },
  mxfp8_e5m2: { bits: 8 },
  mxfp6_e2m3: { bits: 6 },
  mxfp6_e3m2: { bits: 6 },
  mxfp4: { bits: 4, ggml: 'mxfp4' },
  mxint8: { bits: 8 },
  nvfp4: { bits: 4, ggml: 'nvfp4' },
  ternary: { bits: 2, how: { granularity: 'per-channel' } },
  binary: { bits: 1, how: { granularity: 'per-channel' } },
};
const wanted = options.only?.split(',') ?? Object.keys(DTYPES);
for (const dtype of wanted) {
  if (DTYPES[dtype] === undefined)
    throw new Error(`--only takes some of ${Object.keys(DTYPES).join(',')}, not ${dtype}`);
}
const THREADS = options.threads?.split(',').map(Number) ?? (ALL > 1 ? [1, ALL] : [1]);
const ROUNDS = options.quick ? { rounds: 5, budget: 1 } : { rounds: 15, budget: 4 };
const PLACES = { memory: options.quick ? 64 * MIB : 256 * MIB, cache: 128 * 1024 };

/** What quantizing reads and writes: codes and one float32 scale for each group. */
function traffic(q) {
  return q.data.byteLength + q.scales.byteLength;
}

/** A loop that moves the same bytes, through the caches and around them. */
function trafficCases(readBytes, writeBytes, unit) {
  const input = new Uint8Array(readBytes).fill(1); // memory that was never written is one shared page of zeros
  const output = new Uint8Array(writeBytes + 4096);
  return {
    through: () => limits.traffic(input, output, ...unit, false),
    around: () => limits.traffic(input, output, ...unit, true),
  };
}

async function measure(dtype, quantizes, floatBytes, x, threads) {
  const { bits, how = {}, ggml: block } = DTYPES[dtype];
  const rows = x.length / COLUMNS;
  const shape = [rows, COLUMNS];
  const out = lowbit.quantizeTensor(x, { dtype, shape, ...how });
  const reused = { dtype, shape, ...how, out };
  const y = new Float32Array(x.length);
  const codes = (x.length * bits) / 8;
  const unit = [1024, 32 * bits]; // of float32, of codes
  const cases = {
    ...trafficCases(...(quantizes ? [floatBytes, codes, unit] : [codes, floatBytes, [...unit].reverse()])),
    ours: quantizes ? () => lowbit.quantizeTensor(x, reused) : () => lowbit.dequantizeTensor(out, { out: y }),
  };
  if (ggml !== null && block !== undefined && threads === 1) {
    const blocks = lowbit.quantizeBlocks(x, { type: block, rowLength: COLUMNS });
    cases.ggml = quantizes
      ? () => ggml.quantize(block, x, blocks, rows, COLUMNS)
      : () => ggml.dequantize[block](blocks, y, x.length);
  }
  const seconds = await medians(cases, { ...ROUNDS, seconds: 0.004, warm: threads > 1 ? 0.015 : 0 });
  const limit = Math.min(seconds.through, seconds.around);
  return [
    `${quantizes ? 'quantize' : 'dequantize'} ${dtype}`,
    ((8 * traffic(out)) / x.length).toFixed(2),
    time(seconds.ours),
    gigabytes(floatBytes, seconds.ours),
    gigabytes(floatBytes, limit),
    `${((100 * limit) / seconds.ours).toFixed(0)} %`,
    seconds.ggml === undefined ? '' : `${(seconds.ggml / seconds.ours).toFixed(1)}×`,
  ];
}

const HEAD = ['operation', 'bits', 'time', 'GB/s', 'limit', 'of the limit', 'faster than ggml'];
const sections = [];
for (const [place, floatBytes] of Object.entries(PLACES)) {
  const x = normal(floatBytes / 4);
  for (const threads of place === 'memory' ? THREADS : THREADS.slice(0, 1)) {
    lowbit.setNumThreads(threads);
    limits.setThreads(threads);
    const table = [];
    for (const quantizes of [true, false]) {
      for (const dtype of wanted) {
        table.push(await measure(dtype, quantizes, floatBytes, x, threads));
        console.error(`${place}, ${threads} threads: ${table.at(-1).join(' | ')}`);
        globalThis.gc?.();
      }
    }
    const where =
      place === 'memory'
        ? `${floatBytes / MIB} MiB of float32, far past the caches`
        : `${floatBytes / 1024} KiB of float32, in cache`;
    const title = `${where}, ${threads === 1 ? 'one thread' : `${threads} threads`}`;
    const body = markdownTable(HEAD, table);
    sections.push(
      sections.length === 0
        ? `### ${title}\n\n${body}`
        : `<details>\n<summary>${title}</summary>\n\n${body}\n\n</details>`,
    );
  }
}
lowbit.setNumThreads(ALL);
const flags = process.argv.slice(2).filter((flag) => flag !== '--write');
const set = process.env.LOWBIT_ISA ? `LOWBIT_ISA=${process.env.LOWBIT_ISA} ` : '';
const command = [`${set}npm run bench:codebooks`, ...(flags.length > 0 ? ['--', ...flags] : [])].join(' ');
publish('Codebooks', command, sections.join('\n\n'));
