/**
 * How fast are the codebooks (NF4, FP4, FP8, microscaling, NVFP4, ternary, binary), against what the memory of this machine
 * allows and against the peers that have one of them?
 *
 * `npm run bench:codebooks -- [--quick] [--only=nf4,mxfp4] [--threads=1,2] [--write]` measures a part; LOWBIT_ISA=avx2
 * measures lowbit without AVX-512.
 *
 * Every dtype is quantized from float32 and dequantized to it, in memory far larger than the last-level cache and in cache,
 * beside a loop that only moves the same bytes; MXFP4 and NVFP4 beside ggml's functions for its own forms of them. (FP8 beside
 * ONNX Runtime's Cast: bench/conversions.mjs.)
 */
import lowbit from '../dist/index.js';
import { medians, normal } from './support/measure.mjs';
import { commandOf, folded, partToMeasure, trafficCases, useThreads } from './support/parts.mjs';
import { peer } from './support/peer.mjs';
import { gigabytes, markdownTable, publish, time } from './support/report.mjs';

const ggml = await peer('ggml');

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
const part = partToMeasure(Object.keys(DTYPES));
const PLACES = { memory: part.quick ? 64 * MIB : 256 * MIB, cache: 128 * 1024 };

/** What quantizing reads and writes: codes and one float32 scale for each group. */
function traffic(q) {
  return q.data.byteLength + q.scales.byteLength;
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
  const seconds = await medians(cases, { ...part.rounds, seconds: 0.004, warm: threads > 1 ? 0.015 : 0 });
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
  for (const threads of place === 'memory' ? part.threads : part.threads.slice(0, 1)) {
    useThreads(threads);
    const table = [];
    for (const quantizes of [true, false]) {
      for (const dtype of part.wanted) {
        table.push(await measure(dtype, quantizes, floatBytes, x, threads));
        console.error(`${place}, ${threads} threads: ${table.at(-1).join(' | ')}`);
        globalThis.gc?.();
      }
    }
    const where =
      place === 'memory'
        ? `${floatBytes / MIB} MiB of float32, far past the caches`
        : `${floatBytes / 1024} KiB of float32, in cache`;
    sections.push([`${where}, ${threads === 1 ? 'one thread' : `${threads} threads`}`, markdownTable(HEAD, table)]);
  }
}
useThreads(part.all);
publish('Codebooks', commandOf('bench:codebooks'), folded(sections));
