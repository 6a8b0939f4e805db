/**
 * Every call that a device can carry out, on the first device, beside the same call on the processor. Needs nothing but a
 * built package and its CUDA module, so that it runs where there is a GPU and no more than that:
 *
 *   node test/runtimes/device.cjs [--small] [folder of the package]    default: this checkout
 *
 * --small: sizes for the module whose kernels run on the processor. LOWBIT_CUDA_MODULE names another module than the
 * package's. Prints a line for each check and at the end "N passed, N failed, N skipped"; exits with status 1 if one failed.
 */
'use strict';

const assert = require('node:assert/strict');
const path = require('node:path');

const folder = process.argv.slice(2).find((argument) => !argument.startsWith('--'));
const lowbit = require(path.resolve(folder ?? path.join(__dirname, '..', '..')));
const small = process.argv.includes('--small');
const [m, n, k] = small ? [9, 48, 256] : [300, 4096, 4096];
const device = 'cuda';

/** SplitMix64's lower half, summed to something like a normal distribution. */
function normal(count, seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return ((z ^ (z >>> 16)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => next() + next() + next() + next() - 2);
}

const x = normal(m * k, 1);
const weights = normal(n * k, 2);

/** Fails by a word, not by printing millions of elements. */
function same(actual, expected) {
  assert.equal(actual.length, expected.length);
  assert.ok(Buffer.compare(bytesOf(actual), bytesOf(expected)) === 0, 'other bits');
}
const bytesOf = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

function sameTensor(actual, expected) {
  same(actual.data, expected.data);
  same(actual.scales, expected.scales);
  if (expected.zeroPoints !== null) same(actual.zeroPoints, expected.zeroPoints);
}

/** Relative to the norm of the result, of so many rows and columns as float64 needs no minute for. */
function expectProduct(y, w, bound) {
  let error = 0;
  let norm = 0;
  for (let i = 0; i < m; i += Math.ceil(m / 5)) {
    for (let j = 0; j < n; j += Math.ceil(n / 61)) {
      let sum = 0;
      for (let c = 0; c < k; c++) sum += x[i * k + c] * w[j * k + c];
      error += (y[i * n + j] - sum) ** 2;
      norm += sum ** 2;
    }
  }
  const relative = Math.sqrt(error / norm);
  assert.ok(relative < bound, `the relative error is ${relative}, the bound ${bound}`);
}

const QUANTIZED = [
  { dtype: 'int8', granularity: 'per-channel' },
  { dtype: 'int4', granularity: 'per-group', groupSize: 128 },
  { dtype: 'uint4', granularity: 'per-group', groupSize: 32, scheme: 'asymmetric', scaleDtype: 'float16' },
  { dtype: 'int3', granularity: 'per-group', groupSize: 64 },
  { dtype: 'nf4', groupSize: 64 },
  { dtype: 'mxfp4' },
  { dtype: 'nvfp4' },
  { dtype: 'float8_e4m3fn', granularity: 'per-channel' },
];
const nameOf = ({ dtype, groupSize }) => (groupSize === undefined ? dtype : `${dtype}, groups of ${groupSize}`);

const checks = [];
const check = (name, body) => checks.push([name, body]);

for (const to of ['float16', 'bfloat16', 'float8_e4m3fn', 'float4_e2m1fn']) {
  check(`cast float32 → ${to} and back`, () => {
    const there = lowbit.castTensor(x, { from: 'float32', to });
    same(lowbit.castTensor(x, { from: 'float32', to, device }), there);
    const back = { from: to, to: 'float32', count: m * k };
    same(lowbit.castTensor(there, { ...back, device }), lowbit.castTensor(there, back));
  });
}
for (const options of QUANTIZED) {
  check(`quantize and dequantize ${nameOf(options)}`, () => {
    const expected = lowbit.quantizeTensor(weights, { shape: [n, k], ...options });
    sameTensor(lowbit.quantizeTensor(weights, { shape: [n, k], ...options, device }), expected);
    same(lowbit.dequantizeTensor(expected, { device }), lowbit.dequantizeTensor(expected));
  });
  check(`linear with ${nameOf(options)}`, () => {
    const q = lowbit.quantizeTensor(weights, { shape: [n, k], ...options });
    const w = lowbit.prepack(q, { device });
    expectProduct(lowbit.linear(x, w), lowbit.dequantizeTensor(q), 1e-3);
    w.dispose();
  });
}
for (const type of ['q4_0', 'q5_1', 'q8_0', 'mxfp4']) {
  check(`quantize blocks of ${type}`, () => {
    const options = { type, rowLength: k };
    same(lowbit.quantizeBlocks(weights, { ...options, device }), lowbit.quantizeBlocks(weights, options));
  });
}
for (const type of ['q4_0', 'q8_0', 'q4_k', 'q6_k', 'iq4_xs']) {
  check(`dequantize blocks of ${type}`, () => {
    const blocks = lowbit.quantizeBlocks(weights.subarray(0, 16 * k), { type, rowLength: k });
    same(
      lowbit.dequantizeBlocks(blocks, { type, rowLength: k, device }),
      lowbit.dequantizeBlocks(blocks, { type, rowLength: k }),
    );
  });
}
check('integers', () => {
  const random = (count, seed) => Int8Array.from(normal(count, seed), (v) => Math.round(v * 60));
  const [a, b] = [random(m * k, 3), random(k * n, 4)];
  const options = { m, n, k, aZeroPoint: 3 };
  same(lowbit.matmulInteger(a, b, { ...options, device }), lowbit.matmulInteger(a, b, options));
});
check('the Gram matrix', () => {
  same(lowbit.gram(x, { k, device }), lowbit.gram(x, { k }));
});
check('products of float8, from compute capability 8.9', () => {
  const perRow = { dtype: 'float8_e4m3fn', granularity: 'per-channel' };
  const [a, b] = [
    lowbit.quantizeTensor(x, { ...perRow, shape: [m, k] }),
    lowbit.quantizeTensor(weights, { ...perRow, shape: [n, k] }),
  ];
  const options = { m, n, k, aScale: a.scales, bScale: b.scales };
  const run = () => lowbit.matmulFloat8(a.data, b.data, { ...options, device });
  if (Number(lowbit.capabilities().cuda.devices[0].computeCapability) < 8.9) {
    assert.throws(run, { code: 'DEVICE_UNSUPPORTED' });
    return;
  }
  const [got, expected] = [run(), lowbit.matmulFloat8(a.data, b.data, options)];
  let [error, norm] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    error += (got[i] - expected[i]) ** 2;
    norm += expected[i] ** 2;
  }
  const relative = Math.sqrt(error / norm);
  assert.ok(relative < 2 ** -8, `the relative error is ${relative}`);
});
for (const options of [
  { dtype: 'int8', scales: Float32Array.of(0.01) },
  { dtype: 'uint4', granularity: 'per-channel', axis: 1, scales: new Float32Array(k).fill(0.2) },
  { dtype: 'mxfp6_e2m3' },
  { dtype: 'nvfp4' },
]) {
  check(`fake quantization to ${options.dtype}, and its gradients`, () => {
    const given = { ...options, shape: [m, k] };
    const expected = lowbit.fakeQuantize(x, given);
    const got = lowbit.fakeQuantize(x, { ...given, device });
    same(got.output, expected.output);
    same(got.mask, expected.mask);
    const { mask } = expected;
    const gradient = normal(m * k, 5);
    same(lowbit.fakeQuantizeBackward(gradient, { mask, device }), lowbit.fakeQuantizeBackward(gradient, { mask }));
    if (options.scales === undefined) return;
    const learned = lowbit.learnedQuantizeBackward(gradient, { ...given, input: x });
    const gradients = lowbit.learnedQuantizeBackward(gradient, { ...given, input: x, device });
    for (const name of ['input', 'scales', 'zeroPoints']) same(gradients[name], learned[name]);
  });
}
for (const options of [
  { dtype: 'int4' },
  { dtype: 'uint4', descAct: true, staticGroups: false, groupSize: 64 },
  { dtype: 'int8', range: 'minmax', granularity: 'per-channel' },
]) {
  check(`GPTQ to ${options.dtype}`, async () => {
    const columns = small ? 64 : 1024;
    const gram = lowbit.gram(x, { k: columns });
    const sumOfSquares = Float64Array.from({ length: columns }, (_, i) => gram[i * columns + i]);
    const sums = { columns, rows: (m * k) / columns, gram, sumOfSquares };
    const weight = weights.subarray(0, columns * (small ? 12 : 1024));
    const expected = await lowbit.gptq(weight, sums, options);
    const got = await lowbit.gptq(weight, sums, { ...options, device });
    sameTensor(got.tensor, expected.tensor);
    assert.equal(got.loss, expected.loss);
    assert.deepEqual(got.order, expected.order);
  });
}
check('a chain on the device, in the background', async () => {
  const q = lowbit.quantizeTensor(weights, { dtype: 'int4', granularity: 'per-group', groupSize: 128, shape: [n, k] });
  const w = await lowbit.prepackAsync(q, { device });
  const t = lowbit.DeviceTensor.upload(x, { shape: [m, k], device });
  const half = await lowbit.castTensorAsync(t, { to: 'float16' });
  const [y, z] = await Promise.all([lowbit.linearAsync(half, w), lowbit.linearAsync(half, w)]);
  const result = lowbit.castTensor(y.download(), { from: 'float16', to: 'float32' });
  expectProduct(result, lowbit.dequantizeTensor(q), 2e-3);
  same(z.download(), y.download());
  for (const tensor of [t, half, y, z, w]) tensor.dispose();
});
check('no such device, and memory that is given back', () => {
  assert.throws(() => lowbit.castTensor(x, { from: 'float32', to: 'float16', device: 'cuda:99' }), {
    code: 'NO_DEVICE',
  });
  const free = () => lowbit.capabilities().cuda.devices[0].freeBytes;
  const before = free();
  const t = lowbit.DeviceTensor.upload(x, { shape: [m, k], device });
  t.dispose();
  assert.throws(() => t.download(), lowbit.LowbitError);
  // What CUDA's pool keeps is not free: as much as was there before, or within the pool's bound.
  assert.ok(free() >= before - (256 << 20));
});

async function main() {
  const { cuda } = lowbit.capabilities();
  if (!cuda.available) {
    console.log(`skip every check: ${cuda.reason}`);
    console.log(`0 passed, 0 failed, ${checks.length} skipped`);
    return;
  }
  const { name, computeCapability } = cuda.devices[0];
  console.log(`${name}, compute capability ${computeCapability}: lowbit ${lowbit.capabilities().version}`);
  let [passed, failed] = [0, 0];
  for (const [title, body] of checks) {
    const begin = performance.now();
    try {
      await body();
      passed++;
      console.log(`ok ${title} (${Math.round(performance.now() - begin)} ms)`);
    } catch (error) {
      failed++;
      console.log(`FAIL ${title}: ${error?.stack ?? error}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed, 0 skipped`);
  if (failed > 0) process.exitCode = 1;
}

main();
