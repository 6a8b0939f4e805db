/**
 * What computing in integers costs in accuracy: linear() in each computeDtype against a float64 product of the same
 * dequantized weights, for activations that are normally distributed, and for ones of which one channel is a thousand times
 * larger, as some channels of language models are.
 */
import lowbit from '../dist/index.js';
import { normal } from './support/measure.mjs';
import { markdownTable, publish } from './support/report.mjs';

const [N, K, M] = [512, 4096, 16];
const OUTLIER = 1234;

const WEIGHTS = [
  ['int4, groups of 32', { dtype: 'int4', granularity: 'per-group', groupSize: 32, scaleDtype: 'float16' }],
  ['int4, groups of 128', { dtype: 'int4', granularity: 'per-group', groupSize: 128, scaleDtype: 'float16' }],
  ['int8, per channel', { dtype: 'int8', granularity: 'per-channel' }],
];
const WAYS = [
  ['float32', { computeDtype: 'float32' }],
  ['int16', { computeDtype: 'int16' }],
  ['int16, per token', { computeDtype: 'int16', activationGranularity: 'per-token' }],
  ['int8', { computeDtype: 'int8' }],
  ['int8, per token', { computeDtype: 'int8', activationGranularity: 'per-token' }],
];

function exactProduct(x, w) {
  const y = new Float64Array(M * N);
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) {
      let sum = 0;
      for (let k = 0; k < K; k++) sum += x[m * K + k] * w[n * K + k];
      y[m * N + n] = sum;
    }
  }
  return y;
}

/** Norm of the error relative to the norm of the result. */
function relativeError(exact, y) {
  let error = 0;
  let power = 0;
  for (let i = 0; i < exact.length; i++) {
    error += (exact[i] - y[i]) ** 2;
    power += exact[i] ** 2;
  }
  return Math.sqrt(error / power);
}

const plain = normal(M * K, 2);
const outliers = plain.map((value, i) => (i % K === OUTLIER ? 1000 * value : value));
const rows = [];
for (const [name, options] of WEIGHTS) {
  const weights = normal(N * K, 3);
  const q = lowbit.quantizeTensor(weights, { shape: [N, K], ...options });
  const dequantized = lowbit.dequantizeTensor(q);
  // With zero weights for the large channel, what is left is what it does to the others.
  const silenced = weights.map((value, i) => (i % K === OUTLIER ? 0 : value));
  const quiet = lowbit.quantizeTensor(silenced, { shape: [N, K], ...options });
  const cases = [
    [plain, q, dequantized],
    [outliers, q, dequantized],
    [outliers, quiet, lowbit.dequantizeTensor(quiet)],
  ].map(([x, tensor, values]) => ({ x, packed: lowbit.prepack(tensor), exact: exactProduct(x, values) }));
  for (const [way, how] of WAYS) {
    const errors = cases.map(({ x, packed, exact }) => relativeError(exact, lowbit.linear(x, packed, how)));
    rows.push([name, way, ...errors.map((error) => error.toExponential(1))]);
  }
}
publish(
  'Accuracy',
  'npm run bench -- accuracy',
  markdownTable(
    ['weights', 'computeDtype', 'normal activations', 'one channel × 1000', 'that channel with zero weights'],
    rows,
  ),
);
