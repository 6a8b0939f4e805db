/**
 * How fast are the GGUF block formats, against what the memory of this machine allows and against ggml, whose bytes they are?
 *
 * `npm run bench:blocks -- [--quick] [--only=q4_k,tq2_0] [--threads=1,2] [--write]` measures a part; LOWBIT_ISA=avx2 measures
 * lowbit without AVX-512.
 *
 * Every type is quantized and dequantized from and to memory far larger than the last-level cache, and in cache, beside a
 * loop that only moves the same bytes and beside ggml's own functions, which know one thread.
 */
import lowbit from '../dist/index.js';
import { medians, normal } from './support/measure.mjs';
import { commandOf, folded, partToMeasure, trafficCases, useThreads } from './support/parts.mjs';
import { peer } from './support/peer.mjs';
import { gigabytes, markdownTable, publish, time } from './support/report.mjs';

const ggml = await peer('ggml');

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
const part = partToMeasure(Object.keys(TYPES));

/** Bytes of float32. Searches take long, and past the caches is past the caches. */
const PLACES = {
  memory: (type) => (TYPES[type].searches || part.quick ? 64 * MIB : 256 * MIB),
  cache: () => 128 * 1024,
};
// ggml's searches take seconds for that much; their time does not depend on where the floats are.
const SEARCHED_BY_GGML = 256 * 1024;

/** The bytes of whole blocks, as few as are a multiple of 32, and of their floats. */
function unitOf({ length, bytes }) {
  let count = 1;
  while ((count * bytes) % 32 !== 0) count *= 2;
  return [count * length * 4, count * bytes];
}

async function measure(type, quantizes, floatBytes, x, threads) {
  const format = TYPES[type];
  const elements = floatBytes / 4;
  const rows = elements / COLUMNS;
  const blockBytes = (elements / format.length) * format.bytes;
  const blocks = lowbit.quantizeBlocks(x, { type, rowLength: COLUMNS });
  const floats = new Float32Array(elements);
  const measured = quantizes && format.searches ? Math.min(elements, SEARCHED_BY_GGML / 4) : elements;
  const cases = {
    ...(quantizes
      ? trafficCases(floatBytes, blockBytes, unitOf(format))
      : trafficCases(blockBytes, floatBytes, unitOf(format).reverse())),
    ours: quantizes
      ? () => lowbit.quantizeBlocks(x, { type, rowLength: COLUMNS, out: blocks })
      : () => lowbit.dequantizeBlocks(blocks, { type, rowLength: COLUMNS, out: floats }),
  };
  if (ggml !== null && threads === 1) {
    cases.ggml = quantizes
      ? () => ggml.quantize(type, x, blocks, (rows * measured) / elements, COLUMNS)
      : () => ggml.dequantize[type](blocks, floats, elements);
  }
  const seconds = await medians(cases, { ...part.rounds, seconds: 0.004, warm: threads > 1 ? 0.015 : 0 });
  const limit = Math.min(seconds.through, seconds.around);
  const theirs = seconds.ggml === undefined ? undefined : (seconds.ggml * elements) / measured;
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
  for (const threads of place === 'memory' ? part.threads : part.threads.slice(0, 1)) {
    useThreads(threads);
    const table = [];
    for (const quantizes of [true, false]) {
      for (const type of part.wanted) {
        table.push(await measure(type, quantizes, size(type), normal(size(type) / 4), threads));
        console.error(`${place}, ${threads} threads: ${table.at(-1).join(' | ')}`);
        globalThis.gc?.();
      }
    }
    const where = place === 'memory' ? 'far past the caches' : `${PLACES.cache() / 1024} KiB of float32, in cache`;
    sections.push([`${where}, ${threads === 1 ? 'one thread' : `${threads} threads`}`, markdownTable(HEAD, table)]);
  }
}
useThreads(part.all);
publish('Blocks', commandOf('bench:blocks'), folded(sections));
