/**
 * How fast are products with packed weights, against what the arithmetic units and the memory of this machine allow and
 * against peers?
 *
 * `npm run bench:matmul -- [--quick] [--shape=4096x4096] [--m=1,16] [--threads=1] [--only=int4] [--write]` measures a part;
 * LOWBIT_ISA=avx2 measures lowbit without AVX-512, and against that limit.
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import lowbit from '../dist/index.js';
import { lineChart } from './support/chart.mjs';
import { limitsOf, MEMORY_BYTES, setThreads } from './support/limits.mjs';
import { FORMATS, inputOf, Matrix, verify } from './support/matmul-formats.mjs';
import { medians, normal } from './support/measure.mjs';
import { gigabytes, markdownTable, publish, time } from './support/report.mjs';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    shape: { type: 'string' },
    m: { type: 'string' },
    threads: { type: 'string' },
    only: { type: 'string', default: '' },
    write: { type: 'boolean', default: false },
  },
});
const { isa, threads: ALL } = lowbit.capabilities();
function list(text, otherwise) {
  if (text === undefined) return otherwise;
  const numbers = text.split(',').map(Number);
  if (!numbers.every((number) => Number.isInteger(number) && number > 0)) throw new Error(`Not counts: ${text}`);
  return numbers;
}
const ROWS = list(options.m, [1, 4, 16, 64, 256, 512]);
const THREADS = list(options.threads, ALL > 1 ? [1, ALL] : [1]);
// With more rows the weights are used so often that it does not matter where they come from.
const CYCLED_ROWS = 16;
const ROUNDS = options.quick ? { rounds: 5, budget: 0.5 } : { rounds: 15, budget: 1.2 };
const CHARTED = { N: 4096, K: 4096, place: 'memory' };

const ALL_SHAPES = [
  { ...CHARTED },
  { N: 2048, K: 2048, place: 'memory' },
  { N: 2048, K: 2048, place: 'cache' },
  { N: 11008, K: 4096, place: 'memory' },
  { N: 4096, K: 11008, place: 'memory' },
  { N: 14336, K: 4096, place: 'memory' },
];
function wantedShapes() {
  const wanted = options.shape ?? (options.quick ? '4096x4096' : undefined);
  if (wanted === undefined) return ALL_SHAPES;
  return wanted.split(',').flatMap((text) => {
    const known = ALL_SHAPES.filter(({ N, K }) => `${N}x${K}` === text);
    const [N, K] = list(text.replace('x', ','));
    return known.length > 0 ? known : [{ N, K, place: 'memory' }];
  });
}

/** Whether lowbit multiplies right, or an error; and the peers of a format that are there and do. */
async function verifiedPeers(format) {
  const matrix = new Matrix(64, 512);
  const check = async (name, product, arithmetic) => {
    for (const M of [1, 5, 40]) await verify(name, product, arithmetic, inputOf(format, M, matrix.K), matrix, ALL);
  };
  const { packed, rows } = format.own(matrix, 0);
  for (const { label, product, arithmetic } of rows) await check(label, product, arithmetic);
  for (const weights of packed) weights.dispose();
  const good = [];
  for (const [name, peer] of Object.entries(format.peers)) {
    if (!peer.make) continue;
    try {
      const product = peer.make(matrix, 1);
      await check(name, product, peer.arithmetic);
      await product.release();
      good.push([name, peer]);
    } catch (error) {
      console.error(`peer left out of ${format.key}: ${error.message}`);
    }
  }
  return good;
}

/** The medians of one format's products and limits for M rows, in seconds for one copy of the weights. */
async function measure(limits, products, x, M, { threads, used, place }) {
  const cases = { ...limits.cases };
  const prepared = [];
  for (const { name, product } of products) {
    cases[name] = await product.prepare(x, M, { threads, used });
    prepared.push(cases[name]);
  }
  const least = place === 'cache' ? 0.01 : 0.004;
  const seconds = await medians(cases, { ...ROUNDS, seconds: least, warm: threads > 1 ? 0.015 : 0 });
  for (const ready of prepared) ready.release();
  for (const { name } of products) seconds[name] /= used;
  return seconds;
}

const HEAD = ['weights × rows of x', 'M', 'time', 'GOP/s', 'weights GB/s', 'limit', 'of the limit', 'faster than'];
const gigaops = (operations, seconds) => operations / seconds / 1e9;

function tableRow({ label, arithmetic, against }, M, { N, K, bytes, seconds, limits }) {
  const operations = 2 * M * N * K;
  const own = seconds[label];
  const least = limits.least(seconds, arithmetic, operations);
  const ratios = against
    .filter((name) => seconds[name] !== undefined)
    .map((name) => `${name} ${(seconds[name] / own).toFixed(2)}×`);
  return [
    label,
    M,
    time(own),
    gigaops(operations, own).toFixed(1),
    gigabytes(bytes, own),
    least === null ? '–' : least.bound,
    least === null ? '–' : `${((100 * least.seconds) / own).toFixed(0)} %`,
    ratios.join(', '),
  ];
}

const sections = new Map(); // title → rows of its table
const chart = { curves: new Map(), limit: [] };

function keepForChart(products, M, { N, K, seconds, limits }) {
  const operations = 2 * M * N * K;
  for (const { name } of products) {
    const curve = name.replace('int4 groups of 32 ×', 'lowbit');
    if (!chart.curves.has(curve)) chart.curves.set(curve, []);
    chart.curves.get(curve).push([M, gigaops(operations, seconds[name])]);
  }
  const least = limits.least(seconds, 'int8', operations);
  if (least !== null) chart.limit.push([M, gigaops(operations, least.seconds)]);
}

/** All measurements of one format and shape. */
async function measureFormat(format, peers, matrix, shape) {
  const { N, K, place } = shape;
  const { packed, rows } = format.own(matrix, place === 'memory' ? MEMORY_BYTES : 0);
  const bytes = packed[0].nbytes;
  const products = rows.map(({ label, product }) => ({ name: label, product }));
  for (const [name, { make }] of peers) products.push({ name, product: make(matrix, packed.length) });
  for (const threads of THREADS) {
    lowbit.setNumThreads(threads);
    setThreads(threads);
    const arithmetics = [...new Set(rows.map(({ arithmetic }) => arithmetic))];
    const limits = limitsOf({ isa, threads, place, bytes, bits: format.bits, arithmetics });
    const where = place === 'memory' ? 'weights from memory' : 'weights in cache';
    const title = `${N}×${K}, ${where}, ${threads === 1 ? 'one thread' : `${threads} threads`}`;
    if (!sections.has(title)) sections.set(title, []);
    for (const M of ROWS) {
      const used = M <= CYCLED_ROWS ? packed.length : 1;
      const x = inputOf(format, M, K);
      const seconds = await measure(limits, products, x, M, { threads, used, place });
      const measured = { N, K, bytes, seconds, limits };
      for (const row of rows) {
        const cells = tableRow(row, M, measured);
        sections.get(title).push(cells);
        console.error(`${title}: ${cells.join(' | ')}`);
      }
      const charted = threads === 1 && N === CHARTED.N && K === CHARTED.K && place === CHARTED.place;
      if (charted && format.key === 'int4-g32') keepForChart(products, M, measured);
    }
  }
  for (const { product } of products) await product.release?.();
  for (const weights of packed) weights.dispose();
}

/** What a call costs besides its arithmetic, and how fast weights are packed. */
async function smallThings() {
  lowbit.setNumThreads(1);
  const tiny = { x: normal(16), weights: normal(256), out: new Float32Array(16) };
  const packed = lowbit.prepack(tiny.weights, { shape: [16, 16] });
  const call = { out: tiny.out };
  const { N, K } = CHARTED;
  const weights = normal(N * K);
  const grouped = { dtype: 'int4', shape: [N, K], granularity: 'per-group', groupSize: 32, scaleDtype: 'float16' };
  const perChannel = { dtype: 'int8', shape: [N, K], granularity: 'per-channel' };
  const [int4, int8] = [lowbit.quantizeTensor(weights, grouped), lowbit.quantizeTensor(weights, perChannel)];
  const pack = (...args) => lowbit.prepack(...args).dispose();
  const seconds = await medians({
    call: () => lowbit.linear(tiny.x, packed, call),
    int4: () => pack(int4),
    int8: () => pack(int8),
    float32: () => pack(weights, { shape: [N, K] }),
  });
  packed.dispose();
  const rows = [['linear of a 16×16 float32 matrix and one row: the call', time(seconds.call), '']];
  for (const [label, name, bytes] of [
    ['prepack int4, groups of 32', 'int4', int4.data.byteLength + int4.scales.byteLength],
    ['prepack int8, per channel', 'int8', int8.data.byteLength + int8.scales.byteLength],
    ['prepack float32', 'float32', weights.byteLength],
  ]) {
    rows.push([`${label}, ${N}×${K}`, time(seconds[name]), gigabytes(bytes, seconds[name])]);
  }
  return `### Calls and packing, one thread\n\n${markdownTable(['', 'time', 'GB/s of input'], rows)}`;
}

const formats = FORMATS.filter(({ key }) => key.startsWith(options.only));
if (formats.length === 0) throw new Error(`--only takes the beginning of ${FORMATS.map(({ key }) => key).join(', ')}`);
const peers = new Map();
for (const format of formats) peers.set(format.key, await verifiedPeers(format));
for (const shape of wantedShapes()) {
  const matrix = new Matrix(shape.N, shape.K);
  for (const format of formats) {
    await measureFormat(format, peers.get(format.key), matrix, shape);
    matrix.clear();
    globalThis.gc?.();
  }
}
const details = [...sections].map(([title, rows], i) => {
  const table = markdownTable(HEAD, rows);
  return i === 0 ? `### ${title}\n\n${table}` : `<details>\n<summary>${title}</summary>\n\n${table}\n\n</details>`;
});
details.push(await smallThings());
lowbit.setNumThreads(ALL);

if (chart.curves.size > 0) {
  const title = `GOP/s by the rows of x: ${CHARTED.N}×${CHARTED.K} int4 weights in groups of 32, one thread`;
  const svg = lineChart({
    title,
    x: 'rows of x (M)',
    y: 'GOP/s',
    curves: chart.curves,
    limit: chart.limit,
    strong: (name) => name.startsWith('lowbit'),
  });
  if (options.write) writeFileSync(fileURLToPath(new URL('matmul.svg', import.meta.url)), svg);
  details.unshift(`![${title}](matmul.svg)`);
}
const flags = process.argv.slice(2).filter((flag) => flag !== '--write');
const set = process.env.LOWBIT_ISA ? `LOWBIT_ISA=${process.env.LOWBIT_ISA} ` : '';
const command = [`${set}npm run bench:matmul`, ...(flags.length > 0 ? ['--', ...flags] : [])].join(' ');
publish('Matmul', command, details.join('\n\n'));
