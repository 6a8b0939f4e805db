/**
 * How fast are quantize, dequantize and cast, against what the memory of this machine allows and against peers?
 *
 * Every operation is timed side by side with a loop that only moves the same bytes, and with the peers that have it; in
 * memory far larger than the last-level cache and in cache; on one thread and on all.
 */
import { createRequire } from 'node:module';
import lowbit from '../dist/index.js';
import { medians, normal } from './support/measure.mjs';
import { peer } from './support/peer.mjs';
import { gigabytes, markdownTable, publish, time } from './support/report.mjs';

const require = createRequire(import.meta.url);
const limits = require('../build-bench/lowbit_limits.node');

const ggml = await peer('ggml');
const onnxruntime = await peer('onnxruntime');

const COLUMNS = 4096;
const FLOAT8 = 'float8_e4m3fn';
const SIZES = [
  ['memory', 64 << 20],
  ['cache', 32 << 10],
];
const ALL = lowbit.capabilities().threads;

function quantizeCase(dtype, groupSize, x, bits) {
  const shape = [x.length / COLUMNS, COLUMNS];
  const where = groupSize === null ? { granularity: 'per-channel' } : { granularity: 'per-group', groupSize };
  const options = { dtype, shape, ...where };
  const out = lowbit.quantizeTensor(x, options);
  const reused = { ...options, out };
  const y = new Float32Array(x.length);
  return {
    quantize: () => lowbit.quantizeTensor(x, reused),
    dequantize: () => lowbit.dequantizeTensor(out, { out: y }),
    codeBytes: (x.length * bits) / 8,
    out,
  };
}

async function ortCases(x, threads) {
  if (onnxruntime === null) return {};
  const dims = [x.length / COLUMNS, COLUMNS];
  const common = { threads };
  const scalar = (value) => [new Float32Array([value]), []];
  const codes = [new Int8Array(x.length), dims];
  const quantized = { x: 'float32', s: 'float32', z: 'int8' };
  const feeds = { x: [x, dims], s: scalar(0.03), z: [new Int8Array(1), []] };
  const floats = () => [new Float32Array(x.length), dims];
  return {
    int8: await onnxruntime.operator('QuantizeLinear', {
      ...common,
      inputs: quantized,
      outputs: { y: 'int8' },
      feeds,
      fetches: { y: codes },
    }),
    dynamic: await onnxruntime.operator('DynamicQuantizeLinear', {
      ...common,
      inputs: { x: 'float32' },
      outputs: { y: 'uint8', s: 'float32', z: 'uint8' },
      feeds: { x: [x, dims] },
      fetches: { y: [new Uint8Array(x.length), dims], s: scalar(0), z: [new Uint8Array(1), []] },
    }),
    dequantize: await onnxruntime.operator('DequantizeLinear', {
      ...common,
      inputs: { x: 'int8', s: 'float32', z: 'int8' },
      outputs: { y: 'float32' },
      feeds: { ...feeds, x: codes },
      fetches: { y: floats() },
    }),
    toFloat16: await onnxruntime.operator('Cast', {
      ...common,
      inputs: { x: 'float32' },
      outputs: { y: 'float16' },
      attributes: { to: 10 },
      feeds: { x: [x, dims] },
      fetches: { y: [new Uint16Array(x.length), dims] },
    }),
    fromFloat16: await onnxruntime.operator('Cast', {
      ...common,
      inputs: { x: 'float16' },
      outputs: { y: 'float32' },
      attributes: { to: 1 },
      feeds: { x: [new Uint16Array(x.length), dims] },
      fetches: { y: floats() },
    }),
    toFloat8: await onnxruntime.castToFloat8([x, dims], threads),
    fromFloat8: await onnxruntime.castFromFloat8(
      lowbit.castTensor(x, { from: 'float32', to: FLOAT8 }),
      floats(),
      threads,
    ),
  };
}

/** One row: ours, the limit of the same traffic (the faster of both ways to store), and the peers. */
async function measure(label, run, readBytes, writeBytes, unit, peers, elements) {
  const input = new Uint8Array(readBytes).fill(1); // memory that was never written is one shared page of zeros
  const output = new Uint8Array(writeBytes + 4096);
  const cases = {
    ours: run,
    through: () => limits.traffic(input, output, ...unit, false),
    around: () => limits.traffic(input, output, ...unit, true),
    ...peers,
  };
  const seconds = await medians(cases, { rounds: elements > 1 << 20 ? 9 : 41 });
  const limit = Math.min(seconds.through, seconds.around);
  const traffic = readBytes + writeBytes;
  const best = Object.entries(peers)
    .map(([name]) => [name, seconds[name] / seconds.ours])
    .map(([name, ratio]) => `${name} ${ratio.toFixed(1)}×`)
    .join(', ');
  return [
    label,
    time(seconds.ours),
    gigabytes(4 * elements, seconds.ours),
    gigabytes(traffic, seconds.ours),
    gigabytes(traffic, limit),
    `${((100 * limit) / seconds.ours).toFixed(0)} %`,
    best,
  ];
}

const HEAD = ['operation', 'time', 'float GB/s', 'traffic GB/s', 'limit GB/s', 'of the limit', 'faster than'];
const sections = [];
for (const [place, elements] of SIZES) {
  const x = normal(elements);
  const half = lowbit.castTensor(x, { from: 'float32', to: 'float16' });
  const brain = lowbit.castTensor(x, { from: 'float32', to: 'bfloat16' });
  const eightBits = lowbit.castTensor(x, { from: 'float32', to: FLOAT8 });
  const out8 = new Uint8Array(elements);
  const out16 = new Uint16Array(elements);
  const out32 = new Float32Array(elements);
  const blocks = new Uint8Array((elements / 32) * 34);
  const rows = elements / COLUMNS;
  for (const threads of place === 'memory' ? [1, ALL] : [1]) {
    lowbit.setNumThreads(threads);
    limits.setThreads(threads);
    const ort = await ortCases(x, threads);
    const only = (name, run) => (run === undefined || (threads > 1 && name.startsWith('ggml')) ? {} : { [name]: run });
    const q40 = only('ggml q4_0', ggml && (() => ggml.quantize('q4_0', x, blocks, rows, COLUMNS)));
    const rowsOut = [];
    const row = async (...args) => {
      rowsOut.push(await measure(...args, elements));
      process.stderr.write('.');
    };
    for (const [dtype, groupSize, bits, unit] of [
      ['int8', 32, 8, [128, 32]],
      ['int8', 128, 8, [128, 32]],
      ['uint8', 128, 8, [128, 32]],
      ['int4', 32, 4, [256, 32]],
      ['int4', 128, 4, [256, 32]],
      ['int8', null, 8, [128, 32]],
    ]) {
      const c = quantizeCase(dtype, groupSize, x, bits);
      const peers =
        bits === 8
          ? { ...only('ORT QuantizeLinear', ort.int8), ...only('ORT Dynamic', ort.dynamic), ...q40 }
          : { ...only('ORT QuantizeLinear', ort.int8), ...q40 };
      const sharing = groupSize === null ? `per channel of ${COLUMNS}` : `groups of ${groupSize}`;
      await row(`quantize ${dtype}, ${sharing}`, c.quantize, 4 * elements, c.codeBytes, unit, peers);
    }
    const eight = quantizeCase('int8', 32, x, 8);
    const four = quantizeCase('int4', 32, x, 4);
    const fromBlocks = (type) =>
      ggml === null ? {} : only(`ggml ${type}`, () => ggml.dequantize[type](blocks, out32, elements));
    if (ggml !== null) ggml.quantize('q8_0', x, blocks, rows, COLUMNS);
    await row('dequantize int8, groups of 32', eight.dequantize, eight.codeBytes, 4 * elements, [32, 128], {
      ...only('ORT DequantizeLinear', ort.dequantize),
      ...fromBlocks('q8_0'),
    });
    if (ggml !== null) ggml.quantize('q4_0', x, blocks, rows, COLUMNS);
    await row('dequantize int4, groups of 32', four.dequantize, four.codeBytes, 4 * elements, [32, 256], {
      ...only('ORT DequantizeLinear', ort.dequantize),
      ...fromBlocks('q4_0'),
    });
    for (const [from, to, input, out, read, write, unit, ortCase] of [
      ['float32', 'float16', x, out16, 4, 2, [64, 32], ort.toFloat16],
      ['float32', 'bfloat16', x, out16, 4, 2, [64, 32], undefined],
      ['float16', 'float32', half, out32, 2, 4, [32, 64], ort.fromFloat16],
      ['bfloat16', 'float32', brain, out32, 2, 4, [32, 64], undefined],
      ['float32', FLOAT8, x, out8, 4, 1, [128, 32], ort.toFloat8],
      [FLOAT8, 'float32', eightBits, out32, 1, 4, [32, 128], ort.fromFloat8],
    ]) {
      const ggmlCast = ggml?.cast[`${from}_to_${to}`];
      const peers = {
        ...only('ORT Cast', ortCase),
        ...only('ggml', ggmlCast && (() => ggmlCast(input, out, elements))),
      };
      await row(
        `cast ${from} → ${to}`,
        () => lowbit.castTensor(input, { from, to, out }),
        read * elements,
        write * elements,
        unit,
        peers,
      );
    }
    const where =
      place === 'memory'
        ? `${(4 * elements) / 2 ** 20} MiB of float32, far past the caches`
        : `${(4 * elements) / 1024} KiB of float32, in cache`;
    sections.push(
      `### ${where}, ${threads === 1 ? 'one thread' : `${threads} threads`}\n\n${markdownTable(HEAD, rowsOut)}`,
    );
    console.error(`\n${sections.at(-1)}`);
  }
}
lowbit.setNumThreads(ALL);
publish('Conversions', 'npm run bench -- conversions', sections.join('\n\n'));
