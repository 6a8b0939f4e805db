/**
 * How long do the methods take for one layer, against the multiply-adds that they need and against plain loops?
 *
 * `npm run bench:gptq -- [--quick] [--write]`
 */
import { parseArgs } from 'node:util';
import lowbit from '../dist/index.js';
import { multiplyLimit, setThreads } from './support/limits.mjs';
import { medians, normal } from './support/measure.mjs';
import { markdownTable, publish, time } from './support/report.mjs';

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, write: { type: 'boolean', default: false } },
});
const { isa, threads: ALL } = lowbit.capabilities();
const THREADS = ALL > 1 ? [1, ALL] : [1];
const SHAPES = options.quick
  ? [[1024, 1024]]
  : [
      [1024, 1024],
      [4096, 4096],
      [1024, 4096],
    ];
const TOKENS = 2048;
const PLAIN = 256; // rows and columns of what the plain loops are timed with
const GROUP = 128;

/** Inputs whose neighbouring columns depend on each other. */
function inputs(rows, columns) {
  const x = normal(rows * columns, 2);
  for (let i = 0; i < x.length; i++) if (i % columns > 0) x[i] += 0.6 * x[i - 1];
  return x;
}

function statisticsOf(x, k) {
  const gram = lowbit.gram(x, { k });
  return {
    columns: k,
    rows: x.length / k,
    gram,
    sumOfSquares: Float64Array.from({ length: k }, (_, i) => gram[i * k + i]),
  };
}

/**
 * GPTQ as one would write it down: Cholesky, inverse, Cholesky of the inverse, and column after column, in float32 arrays.
 * Symmetric, four bits, the scales of `scales` [n, groups].
 */
function plainGptq(weight, gram, n, k, scales) {
  const h = Float64Array.from(gram);
  let mean = 0;
  for (let i = 0; i < k; i++) mean += h[i * k + i] / k;
  for (let i = 0; i < k; i++) h[i * k + i] += 0.01 * mean;
  const lower = cholesky(h, k);
  const inverse = new Float64Array(k * k);
  for (let c = 0; c < k; c++) {
    const y = new Float64Array(k);
    for (let i = c; i < k; i++) {
      let sum = i === c ? 1 : 0;
      for (let j = c; j < i; j++) sum -= lower[i * k + j] * y[j];
      y[i] = sum / lower[i * k + i];
    }
    for (let i = k - 1; i >= 0; i--) {
      let sum = y[i];
      for (let j = i + 1; j < k; j++) sum -= lower[j * k + i] * inverse[j * k + c];
      inverse[i * k + c] = sum / lower[i * k + i];
    }
  }
  const upper = Float32Array.from(cholesky(inverse, k)); // its transpose is what GPTQ reads
  const w = weight.slice();
  const codes = new Int8Array(n * k);
  const groups = k / GROUP;
  for (let row = 0; row < n; row++) {
    for (let i = 0; i < k; i++) {
      const scale = scales[row * groups + Math.floor(i / GROUP)];
      const q = Math.max(-8, Math.min(7, Math.round(w[row * k + i] / scale)));
      codes[row * k + i] = q;
      const error = (w[row * k + i] - q * scale) / upper[i * k + i];
      for (let j = i; j < k; j++) w[row * k + j] -= error * upper[j * k + i];
    }
  }
  return codes;
}

/** The lower factor. */
function cholesky(a, k) {
  const l = new Float64Array(k * k);
  for (let j = 0; j < k; j++) {
    for (let i = j; i < k; i++) {
      let sum = a[i * k + j];
      for (let p = 0; p < j; p++) sum -= l[i * k + p] * l[j * k + p];
      l[i * k + j] = i === j ? Math.sqrt(sum) : sum / l[j * k + j];
    }
  }
  return l;
}

async function layer(threads, n, k) {
  const statistics = statisticsOf(inputs(TOKENS, k), k);
  const weight = normal(n * k, 1);
  const x = inputs(512, k);
  const out = new Float32Array(k * k);
  const target = { dtype: 'uint4', scheme: 'symmetric', groupSize: GROUP };
  const small = statisticsOf(inputs(TOKENS, PLAIN), PLAIN);
  const part = normal(PLAIN * PLAIN, 1);
  const { scales } = (await lowbit.rtn(part, { ...target, shape: [PLAIN, PLAIN] })).tensor;
  const limit = multiplyLimit({ isa, threads });
  const seconds = await medians(
    {
      minmax: () => lowbit.gptq(weight, statistics, { ...target, range: 'minmax' }),
      mse: () => lowbit.gptq(weight, statistics, { ...target, range: 'mse' }),
      rtn: () => lowbit.rtn(weight, { ...target, statistics, range: 'mse' }),
      hqq: () => lowbit.hqq(weight, { shape: [n, k], dtype: 'uint4', groupSize: GROUP }),
      gram: () => lowbit.gram(x, { k, out }),
      plain: () => plainGptq(part, small.gram, PLAIN, PLAIN, scales),
      limit: limit.run,
    },
    options.quick ? { rounds: 3 } : { rounds: 7, budget: 60 },
  );
  const peak = limit.operations / seconds.limit;
  const needed = k ** 3 / 3 + n * k * k; // the factorization, and what errors do to later columns
  const plain = (seconds.plain * (k ** 3 + n * k * k)) / (2 * PLAIN ** 3);
  const share = (least, real) => `${((100 * least) / real).toFixed(0)} %`;
  return [
    `${n}×${k}`,
    threads,
    time(seconds.minmax),
    time(needed / peak),
    share(needed / peak, seconds.minmax),
    `${(plain / seconds.minmax).toFixed(0)}×`,
    time(seconds.mse),
    time(seconds.rtn),
    time(seconds.hqq),
    share((512 * k * k) / peak, seconds.gram),
  ];
}

const rows = [];
for (const threads of THREADS) {
  lowbit.setNumThreads(threads);
  setThreads(threads);
  for (const [n, k] of SHAPES) rows.push(await layer(threads, n, k));
}
publish(
  'GPTQ',
  'npm run bench:gptq',
  [
    `One layer [outputs × inputs], 4 bits, groups of ${GROUP}, statistics given. The least is the time of the multiply-adds of the`,
    'factorization (K³/3 operations) and of the errors (N·K²) at the peak of the machine. Plain loops in JavaScript, which also',
    `invert the matrix, are timed at ${PLAIN}×${PLAIN} and scaled by their operations. gram: the share of the peak that \`gram\` reaches.\n`,
    markdownTable(
      ['layer', 'threads', 'GPTQ', 'least', 'share', 'against loops', 'GPTQ, mse', 'RTN, mse', 'HQQ', 'gram'],
      rows,
    ),
  ].join('\n'),
);
