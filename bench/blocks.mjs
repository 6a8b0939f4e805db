/**
 * How fast are the GGUF block formats, against what the memory of this machine allows and against ggml, whose bytes they are?
 *
 * `npm run bench:blocks -- [--quick] [--only=q4_k,tq2_0] [--threads=1,2] [--write]` measures a part; LOWBIT_ISA=avx2 measures
 * lowbit without AVX-512.
 *
 * Every type is quantized and dequantized from and to memory far larger than the last-level cache, and in cache, beside a
 * loop that only moves the same bytes and beside ggml's own functions, which know one thread.
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

/** Elements and bytes of a block; whether quantizing searches for scales, which no memory is too slow for. */
const TYPES = {
  q4_0: { length: 32, bytes: 18 },
  q4_1: { length: 32, bytes: 20 },
  q5_0: { length: 32, bytes: 22 },
  q5_1: { length: 32, bytes: 24 },
  q8_0: { length: 32, bytes: 34 },
  q2_k: { length: 256, bytes: 84, searches: true },
  q3_k: { length: 256, bytes: 110, searches: true },
  q4_k: { length: 256, bytes: 144, searches: true },
  q5_k: { length: 256, bytes: 176, searches: true },
  q6_k: { length: 256, bytes: 210, searches: true },
  q8_k: { length: 256, bytes: 292 },
  iq4_nl: { length: 32, bytes: 18, searches: true },
  iq4_xs: { length: 256, bytes: 136, searches: true },
  tq1_0: { length: 256, bytes: 54 },
  tq2_0: { length: 256, bytes: 66 },
  mxfp4: { length: 32, bytes: 17 },
  nvfp4: { length: 64, bytes: 36 },
};
const wanted = options.only?.split(',') ?? Object.keys(TYPES);
for (const type of wanted) {
  if (TYPES[type] === undefined) throw new Error(`--only takes some of ${Object.keys(TYPES).join(',')}, not ${type}`);
}
const THREADS = options.threads?.split(',').map(Number) ?? (ALL > 1 ? [1, ALL] : [1]);
if (!THREADS.every((n) => Number.isInteger(n) && n > 0)) throw new Error(`Not counts: ${options.threads}`);
const ROUNDS = options.quick ? { rounds: 5, budget: 1 } : { rounds: 15, budget: 4 };

/** Bytes of float32. Searches take long, and past the caches is past the caches. */
const PLACES = {
  memory: (type) => (TYPES[type].searches || options.quick ? 64 * MIB : 256 * MIB),
  cache: () => 128 * 1024,
};
// ggml's searches take seconds for that much; their time does not depend on where the floats are.
const SEARCHED_BY_GGML = 256 * 1024;

/** A loop that moves the same bytes, through the caches and around them: a multiple of 32 bytes on each side. */
function trafficCases(readBytes, writeBytes, { length, bytes }, quantizes) {
  const input = new Uint8Array(readBytes).fill(1); // memory that was never written is one shared page of zeros
  const output = new Uint8Array(writeBytes + 4096);
  // The loop goes in steps of 32 bytes: as few blocks as are a multiple of that.
  let count = 1;
  while ((count * bytes) % 32 !== 0) count *= 2;
  const [blocks, floats] = [count * bytes, count * length * 4];
  const unit = quantizes ? [floats, blocks] : [blocks, floats];
  return {
    through: () => limits.traffic(input, output, ...unit, false),
    around: () => limits.traffic(input, output, ...unit, true),
  };
}

async function measure(type, quantizes, floatBytes, x, threads) {
  const format = TYPES[type];
  const elements = floatBytes / 4;
  const rows = elements / COLUMNS;
  const blockBytes = (elements / format.length) * format.bytes;
  const blocks = lowbit.quantizeBlocks(x, { type, rowLength: COLUMNS });
  const floats = new Float32Array(elements);
  const part = quantizes && format.searches ? Math.min(elements, SEARCHED_BY_GGML / 4) : elements;
  const cases = {
    ...trafficCases(quantizes ? floatBytes : blockBytes, quantizes ? blockBytes : floatBytes, format, quantizes),
    ours: quantizes
      ? () => lowbit.quantizeBlocks(x, { type, rowLength: COLUMNS, out: blocks })
      : () => lowbit.dequantizeBlocks(blocks, { type, rowLength: COLUMNS, out: floats }),
  };
  if (ggml !== null && threads === 1) {
    cases.ggml = quantizes
      ? () => ggml.quantize(type, x, blocks, (rows * part) / elements, COLUMNS)
      : () => ggml.dequantize[type](blocks, floats, elements);
  }
  const seconds = await medians(cases, { ...ROUNDS, seconds: 0.004, warm: threads > 1 ? 0.015 : 0 });
  const limit = Math.min(seconds.through, seconds.around);
  const theirs = seconds.ggml === undefined ? undefined : (seconds.ggml * elements) / part;
  return [
    `${quantizes ? 'quantize' : 'dequantize'} ${type}`,
    time(seconds.ours),
    gigabytes2(floatBytes, seconds.ours),
    gigabytes(floatBytes, limit),
    `${((100 * limit) / seconds.ours).toFixed(0)} %`,
    theirs === undefined ? '' : gigabytes2(floatBytes, theirs),
    theirs === undefined ? '' : `${(theirs / seconds.ours).toFixed(1)}×`,
  ];
}

/** Searches run at a fraction of a gigabyte. */
const gigabytes2 = (bytes, seconds) =>
  bytes / seconds < 1e10 ? (bytes / seconds / 1e9).toFixed(2) : gigabytes(bytes, seconds);

const HEAD = ['operation', 'time', 'GB/s', 'limit', 'of the limit', 'ggml', 'faster than ggml'];
const sections = [];
for (const [place, size] of Object.entries(PLACES)) {
  for (const threads of place === 'memory' ? THREADS : THREADS.slice(0, 1)) {
    lowbit.setNumThreads(threads);
    limits.setThreads(threads);
    const table = [];
    for (const quantizes of [true, false]) {
      for (const type of wanted) {
        table.push(await measure(type, quantizes, size(type), normal(size(type) / 4), threads));
        console.error(`${place}, ${threads} threads: ${table.at(-1).join(' | ')}`);
        globalThis.gc?.();
      }
    }
    const where = place === 'memory' ? 'far past the caches' : `${PLACES.cache() / 1024} KiB of float32, in cache`;
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
const command = [`${set}npm run bench:blocks`, ...(flags.length > 0 ? ['--', ...flags] : [])].join(' ');
publish('Blocks', command, sections.join('\n\n'));
