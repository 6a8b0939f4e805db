/**
 * How fast are fake quantization, its gradients and observers, against what the memory of this machine allows?
 *
 * Every operation is timed side by side with a loop that only moves the same bytes; in memory far larger than the last-level
 * cache and in cache; on one thread and on all.
 */
import { createRequire } from 'node:module';
import lowbit from '../dist/index.js';
import { medians, normal } from './support/measure.mjs';
import { gigabytes, markdownTable, publish, time } from './support/report.mjs';

const require = createRequire(import.meta.url);
const limits = require('../build-bench/lowbit_limits.node');

const COLUMNS = 4096;
const SIZES = [
  ['memory', 32 << 20],
  ['cache', 32 << 10],
];
const ALL = lowbit.capabilities().threads;

/** One row: `read` and `write` bytes per element, and how those of many elements come in lines. */
async function measure(label, run, elements, read, write, unit) {
  const input = new Uint8Array(read * elements).fill(1); // memory that was never written is one shared page of zeros
  const output = new Uint8Array(write * elements + 4096).fill(1);
  const cases = {
    ours: run,
    through: () => limits.traffic(input, output, ...unit, false),
    around: () => limits.traffic(input, output, ...unit, true),
  };
  const seconds = await medians(cases, { rounds: elements > 1 << 20 ? 9 : 41 });
  const limit = Math.min(seconds.through, seconds.around);
  const traffic = (read + write) * elements;
  process.stderr.write('.');
  return [
    label,
    time(seconds.ours),
    gigabytes(4 * elements, seconds.ours),
    gigabytes(traffic, seconds.ours),
    gigabytes(traffic, limit),
    `${((100 * limit) / seconds.ours).toFixed(0)} %`,
  ];
}

function forwardCases(x, shape) {
  const rows = x.length / COLUMNS;
  const out = { output: new Float32Array(x.length), mask: new Uint8Array(x.length) };
  const scales = (count) => new Float32Array(count).fill(0.03);
  return [
    ['int8, per tensor', { dtype: 'int8', scales: scales(1) }],
    ['int4, per channel of 4096', { dtype: 'int4', scales: scales(rows), granularity: 'per-channel', shape }],
    ['int4, per column', { dtype: 'int4', scales: scales(COLUMNS), granularity: 'per-channel', axis: 1, shape }],
    ['float8_e4m3fn, per tensor', { dtype: 'float8_e4m3fn', scales: scales(1) }],
    ['mxfp4', { dtype: 'mxfp4', shape }],
    ['mxfp8_e4m3', { dtype: 'mxfp8_e4m3', shape }],
    ['nvfp4, scale of the tensor given', { dtype: 'nvfp4', globalScale: 500, shape }],
  ].map(([name, options]) => [
    `fake quantize ${name}`,
    () => lowbit.fakeQuantize(x, { ...options, out }),
    4,
    5,
    [128, 160],
  ]);
}

function backwardCases(x, shape) {
  const rows = x.length / COLUMNS;
  const dy = normal(x.length, 2);
  const { mask } = lowbit.fakeQuantize(x, { dtype: 'int8', scales: new Float32Array([0.02]) });
  const dx = new Float32Array(x.length);
  const learned = (count, options) => {
    const scales = new Float32Array(count).fill(0.02);
    const out = { input: dx, scales: new Float32Array(count), zeroPoints: new Float32Array(count) };
    return () => lowbit.learnedQuantizeBackward(dy, { input: x, dtype: 'int8', scales, ...options, out });
  };
  const perChannel = (axis) => ({ shape, granularity: 'per-channel', axis });
  return [
    ['backward', () => lowbit.fakeQuantizeBackward(dy, { mask, out: dx }), 5, 4, [160, 128]],
    ['learned backward, per tensor', learned(1, {}), 8, 4, [128, 64]],
    ['learned backward, per channel of 4096', learned(rows, perChannel(0)), 8, 4, [128, 64]],
    ['learned backward, per column', learned(COLUMNS, perChannel(1)), 8, 4, [128, 64]],
  ];
}

function observerCases(x, shape) {
  return [
    ['minmax, per tensor', { method: 'minmax' }],
    ['minmax, per channel of 4096', { method: 'minmax', granularity: 'per-channel' }],
    ['minmax, per column', { method: 'minmax', granularity: 'per-channel', axis: 1 }],
    ['histogram, per tensor', { method: 'entropy' }],
    ['histogram, per channel of 4096', { method: 'entropy', granularity: 'per-channel' }],
    ['histogram, per column', { method: 'entropy', granularity: 'per-channel', axis: 1 }],
  ].map(([name, options]) => {
    const observer = new lowbit.Observer(options);
    return [`observe ${name}`, () => observer.observe(x, { shape }), 4, 0, [128, 0]];
  });
}

const HEAD = ['operation', 'time', 'float GB/s', 'traffic GB/s', 'limit GB/s', 'of the limit'];
const sections = [];
for (const [place, elements] of SIZES) {
  const x = normal(elements);
  const shape = [elements / COLUMNS, COLUMNS];
  for (const threads of place === 'memory' ? [1, ALL] : [1]) {
    lowbit.setNumThreads(threads);
    limits.setThreads(threads);
    const rows = [];
    for (const cases of [forwardCases, backwardCases, observerCases]) {
      for (const [label, run, read, write, unit] of cases(x, shape)) {
        rows.push(await measure(label, run, elements, read, write, unit));
      }
    }
    const where =
      place === 'memory'
        ? `${(4 * elements) / 2 ** 20} MiB of float32, far past the caches`
        : `${(4 * elements) / 1024} KiB of float32, in cache`;
    const count = threads === 1 ? 'one thread' : `${threads} threads`;
    sections.push(`### ${where}, ${count}\n\n${markdownTable(HEAD, rows)}`);
    console.error(`\n${sections.at(-1)}`);
  }
}
lowbit.setNumThreads(ALL);
publish('Training', 'npm run bench:training', sections.join('\n\n'));
