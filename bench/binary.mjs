/**
 * How fast are products of signs, of ternary weights and of LLM.int8(), against what counting bits allows and against products
 * of bytes?
 *
 * `npm run bench:binary -- [--quick] [--write]`
 */
import { parseArgs } from 'node:util';
import lowbit from '../dist/index.js';
import { countingLimit, MEMORY_BYTES, setThreads } from './support/limits.mjs';
import { medians, normal } from './support/measure.mjs';
import { markdownTable, publish, time } from './support/report.mjs';

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, write: { type: 'boolean', default: false } },
});
const { isa, threads: ALL } = lowbit.capabilities();
const THREADS = ALL > 1 ? [1, ALL] : [1];
const ROUNDS = options.quick ? { rounds: 5, budget: 0.5 } : { rounds: 15, budget: 1.5 };
const [N, K] = [4096, 4096];

function useThreads(threads) {
  lowbit.setNumThreads(threads);
  setThreads(threads);
}

const bytes = (count, seed) => Int8Array.from(normal(count, seed), (v) => Math.max(-127, Math.min(127, 40 * v)));
const digits = (count, seed) => Int8Array.from(normal(count, seed), (v) => (v > 0.5 ? 1 : v < -0.5 ? -1 : 0));
const billions = (operations, seconds) => (operations / seconds / 1e9).toFixed(0);

/** Copies of a weight that no cache holds, in turn. */
function cycled(make, size) {
  const copies = Array.from({ length: Math.max(1, Math.ceil(MEMORY_BYTES / size)) }, make);
  let next = 0;
  return { copies, take: () => copies[next++ % copies.length] };
}

async function signs(threads, m, k) {
  const a = lowbit.packBits(bytes(m * k, 1), { shape: [m, k] });
  const b = lowbit.packBits(bytes(N * k, 2), { shape: [N, k] });
  const w = lowbit.prepackInteger(new Int8Array(k * N).fill(1), { k, n: N });
  const left = new Int8Array(m * k).fill(1);
  const out = new Int32Array(m * N);
  const limit = countingLimit({ isa, threads });
  const cases = {
    binary: () => lowbit.binaryMatmul(a, b, { m, n: N, k, out }),
    int8: () => lowbit.matmulInteger(left, w, { m, n: N, k, out }),
    ...(limit === null ? {} : { limit: limit.run }),
  };
  const seconds = await medians(cases, ROUNDS);
  w.dispose();
  const operations = 2 * m * N * k;
  const most = limit === null ? null : limit.operations / seconds.limit;
  const share = most === null ? '–' : `${((100 * operations) / seconds.binary / most).toFixed(0)} %`;
  return [
    `${m}×${N}×${k}`,
    threads,
    time(seconds.binary),
    billions(operations, seconds.binary),
    most === null ? '–' : (most / 1e9).toFixed(0),
    share,
    billions(operations, seconds.int8),
    `${(seconds.int8 / seconds.binary).toFixed(1)}×`,
  ];
}

async function ternary(threads, m) {
  const data = lowbit.packTernary(digits(N * K, 1), { shape: [N, K] });
  const size = { m, n: N, k: K };
  const twoBits = cycled(() => lowbit.prepackTernary(data, { n: N, k: K }), (N * K) / 4);
  const wide = new Int8Array(K * N).fill(1);
  const int8 = cycled(() => lowbit.prepackInteger(wide, { n: N, k: K }), N * K);
  const a = bytes(m * K, 3);
  const out = new Int32Array(m * N);
  const seconds = await medians(
    {
      ternary: () => lowbit.ternaryMatmul(a, twoBits.take(), { ...size, out }),
      int8: () => lowbit.matmulInteger(a, int8.take(), { ...size, out }),
    },
    ROUNDS,
  );
  for (const w of [...twoBits.copies, ...int8.copies]) w.dispose();
  const operations = 2 * m * N * K;
  return [
    m,
    threads,
    time(seconds.ternary),
    time(seconds.int8),
    billions(operations, seconds.ternary),
    `${(seconds.int8 / seconds.ternary).toFixed(2)}×`,
  ];
}

async function llmInt8(threads, m) {
  const weights = normal(N * K, 1);
  const x = normal(m * K, 2).map((v) => 0.9 * v); // below the threshold of 6
  const outliers = x.slice();
  for (const column of [5, 700, 1900, 4000]) for (let row = 0; row < m; row++) outliers[row * K + column] = 30 + row;
  const llm = cycled(() => lowbit.prepackLlmInt8(lowbit.quantizeLlmInt8(weights, { shape: [N, K] })), N * K);
  const q = lowbit.quantizeTensor(weights, { dtype: 'int8', shape: [N, K], granularity: 'per-channel' });
  const plain = cycled(() => lowbit.prepack(q), N * K);
  const out = new Float32Array(m * N);
  const int8 = { computeDtype: 'int8', activationGranularity: 'per-token', out };
  const seconds = await medians(
    {
      none: () => lowbit.llmInt8Linear(x, llm.take(), { out }),
      four: () => lowbit.llmInt8Linear(outliers, llm.take(), { out }),
      linear: () => lowbit.linear(x, plain.take(), int8),
    },
    ROUNDS,
  );
  for (const w of [...llm.copies, ...plain.copies]) w.dispose();
  return [
    m,
    threads,
    time(seconds.none),
    time(seconds.four),
    time(seconds.linear),
    `${(seconds.linear / seconds.none).toFixed(2)}×`,
    `${(seconds.linear / seconds.four).toFixed(2)}×`,
  ];
}

const rows = { signs: [], ternary: [], llmInt8: [] };
for (const threads of THREADS) {
  useThreads(threads);
  for (const m of [1, 16, 256]) {
    for (const k of options.quick ? [4096] : [1024, 4096]) rows.signs.push(await signs(threads, m, k));
    rows.ternary.push(await ternary(threads, m));
    rows.llmInt8.push(await llmInt8(threads, m));
  }
}
publish(
  'Binary',
  'npm run bench:binary',
  [
    '`binaryMatmul`, in billions of products and additions of signs a second, in the caches; the most is exclusive or, count and',
    'add in registers. int8 is `matmulInteger` on packed bytes of the same shape.\n',
    markdownTable(['m×n×k', 'threads', 'time', 'Gop/s', 'most', 'share', 'int8 Gop/s', 'against int8'], rows.signs),
    `\n\`ternaryMatmul\`, m×${N}×${K}, weights from memory, against \`matmulInteger\` with the same digits as bytes.\n`,
    markdownTable(['m', 'threads', 'ternary', 'int8', 'Gop/s', 'against int8'], rows.ternary),
    `\n\`llmInt8Linear\`, m×${N}×${K}, weights from memory, without outliers and with four columns of them, against \`linear\` with`,
    '`int8` per token.\n',
    markdownTable(
      ['m', 'threads', 'none', 'four', 'linear int8', 'none against linear', 'four against linear'],
      rows.llmInt8,
    ),
  ].join('\n'),
);
