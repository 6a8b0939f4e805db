/**
 * Checks of a built package that need nothing but the package: they run under any runtime with the interfaces of Node
 * (Node, Bun, Deno, Node for arm64 in an emulator), where the test runner of the other tests can't.
 *
 * <runtime> checks.cjs [folder of the package]    default: this checkout
 *
 * Prints a line for each check and at the end "N passed, N failed, N skipped"; exits with status 1 if one failed.
 */
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');

const VECTORS = path.join(__dirname, '..', 'vectors');
const root = path.resolve(isMainThread ? (process.argv[2] ?? path.join(__dirname, '..', '..')) : workerData.root);
const lowbit = require(root);

// --- numbers ---------------------------------------------------------------------------------------------------------

/** The same numbers everywhere: mulberry32, summed to something like a normal distribution. */
function normal(count, seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => next() + next() + next() + next() - 2);
}

/** So many that a search for the best range takes longer than anything that is to happen meanwhile. */
const LONG = { count: 1 << 22, options: { dtype: 'int4', granularity: 'per-group', groupSize: 64, range: 'mse' } };

// --- the definition of affine quantization in plain JavaScript -------------------------------------------------------

const CODES = new Map(
  [8, 4, 3, 2].flatMap((bits) => [
    [`int${bits}`, { bits, signed: true, lowest: -(2 ** (bits - 1)), highest: 2 ** (bits - 1) - 1 }],
    [`uint${bits}`, { bits, signed: false, lowest: 0, highest: 2 ** bits - 1 }],
  ]),
);

function roundHalfEven(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

const clamp = (x, lowest, highest) => Math.min(highest, Math.max(lowest, x));

function parametersOf(values, scheme, { bits, signed, lowest, highest }) {
  const max = values.reduce((a, b) => Math.max(a, b), 0);
  const min = values.reduce((a, b) => Math.min(a, b), 0);
  if (scheme === 'symmetric') {
    const largest = Math.max(max, -min);
    const scale = largest === 0 ? 1 : Math.fround(largest / (2 ** (bits - 1) - 1));
    return { scale, zeroPoint: signed ? 0 : 2 ** (bits - 1) };
  }
  if (min === max) return { scale: 1, zeroPoint: lowest };
  const scale = Math.fround(Math.fround(max - min) / (highest - lowest));
  const position = Math.fround(lowest - Math.fround(min / scale));
  return { scale, zeroPoint: clamp(roundHalfEven(position), lowest, highest) };
}

/** Scales, zero points, codes and the floats they stand for; parameterOf(i) tells which parameters element i uses. */
function quantizePlainly(x, scheme, code, parameterOf) {
  const members = [];
  x.forEach((value, i) => {
    members[parameterOf(i)] ??= [];
    members[parameterOf(i)].push(value);
  });
  const parameters = members.map((values) => parametersOf(values, scheme, code));
  const lowest = scheme === 'symmetric' && code.signed ? code.lowest + 1 : code.lowest;
  const codes = Array.from(x, (value, i) => {
    const { scale, zeroPoint } = parameters[parameterOf(i)];
    return clamp(roundHalfEven(Math.fround(value / scale)) + zeroPoint, lowest, code.highest);
  });
  const back = Float32Array.from(codes, (c, i) => {
    const { scale, zeroPoint } = parameters[parameterOf(i)];
    return (c - zeroPoint) * scale;
  });
  return { parameters, codes, back };
}

// --- test vectors ----------------------------------------------------------------------------------------------------

function bytesOf(file) {
  const bytes = fs.readFileSync(path.join(VECTORS, file));
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}

const ARRAYS = { float32: Float32Array, int8: Int8Array, uint8: Uint8Array, int32: Int32Array };

/** An array of ort_cases.json as plain numbers; 4-bit types are packed, the first in the low nibble. */
function numbers({ dtype, shape, b64 }) {
  const bytes = Uint8Array.from(Buffer.from(b64, 'base64'));
  if (dtype !== 'int4' && dtype !== 'uint4') return Array.from(new ARRAYS[dtype](bytes.buffer));
  return Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => {
    const nibble = (bytes[i >> 1] >> (4 * (i % 2))) & 15;
    return dtype === 'int4' && nibble > 7 ? nibble - 16 : nibble;
  });
}

// --- the checks ------------------------------------------------------------------------------------------------------

class Skipped extends Error {}

/** deepEqual, but quick for long arrays of numbers, and -0 is 0. */
function assertSame(actual, expected, what = 'values') {
  assert.equal(actual.length, expected.length, `${what}: length`);
  for (let i = 0; i < expected.length; i++) {
    if (actual[i] !== expected[i] && !(Number.isNaN(actual[i]) && Number.isNaN(expected[i]))) {
      assert.fail(`${what}: ${actual[i]} at ${i} instead of ${expected[i]}`);
    }
  }
}

function assertSameTensor(actual, expected) {
  assertSame(actual.data, expected.data, 'data');
  assertSame(actual.scales, expected.scales, 'scales');
  assertSame(actual.zeroPoints ?? [], expected.zeroPoints ?? [], 'zero points');
  const { data, scales, zeroPoints, ...rest } = actual;
  const { data: d, scales: s, zeroPoints: z, ...expectedRest } = expected;
  assert.deepEqual(rest, expectedRest);
}

function workedExamples(check) {
  const x = new Float32Array([0.1, 0.2, 1.2, 3, 2.1, -2.1, -3.5]);
  const binary = (bits, width) => bits.toString(2).padStart(width, '0');
  check('the float32 and float16 bits of 6.25', () => {
    const six = new Float32Array([6.25]);
    assert.equal(binary(new Uint32Array(six.buffer)[0], 32), '01000000110010000000000000000000');
    const [half] = lowbit.castTensor(six, { from: 'float32', to: 'float16' });
    assert.equal(binary(half, 16), '0100011001000000');
  });
  check('the int8 bits of 123', () => {
    const q = lowbit.quantizeTensor(new Float32Array([123]), { dtype: 'int8', scales: new Float32Array([1]) });
    assert.equal(binary(q.data[0], 8), '01111011');
  });
  check('1.0 in int8 with the range [-2.5, 2.5]', () => {
    const q = lowbit.quantizeTensor(new Float32Array([1]), { dtype: 'int8', scales: new Float32Array([5 / 255]) });
    assertSame(lowbit.unpackCodes(q), [51]);
    assert.ok(Math.abs(lowbit.dequantizeTensor(q)[0] - 1) < 1e-6);
  });
  check('the int8 zero point of a range', () => {
    const [a, b] = [-1.5, 3.25];
    const q = lowbit.quantizeTensor(new Float32Array([a, b]), { dtype: 'int8', scheme: 'asymmetric' });
    assertSame(q.scales, [Math.fround((b - a) / 255)]);
    assertSame(q.zeroPoints, [Math.round(127 - b / ((b - a) / 255))]);
  });
  check('int4 symmetric', () => {
    const q = lowbit.quantizeTensor(x, { dtype: 'int4' });
    assertSame(q.scales, [0.5]);
    assertSame(lowbit.unpackCodes(q), [0, 0, 2, 6, 4, -4, -7]);
    assertSame(lowbit.dequantizeTensor(q), [0, 0, 1, 3, 2, -2, -3.5]);
  });
  check('uint4 asymmetric', () => {
    const q = lowbit.quantizeTensor(x, { dtype: 'uint4', scheme: 'asymmetric' });
    assert.equal((1 / q.scales[0]).toFixed(4), '2.3077');
    assertSame(q.zeroPoints, [8]);
    assertSame(lowbit.unpackCodes(q), [8, 8, 11, 15, 13, 3, 0]);
    const back = Array.from(lowbit.dequantizeTensor(q), (v) => Number(v.toFixed(3)));
    assertSame(back, [0, 0, 1.3, 3.033, 2.167, -2.167, -3.467]);
  });
}

function casts(check) {
  const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const isNaN16 = (bits, dtype) => (bits & 0x7fff) > (dtype === 'float16' ? 0x7c00 : 0x7f80);
  check('all float16 patterns to float32', () => {
    const expected = new Float32Array(bytesOf('cast/f16_decode_f32.bin'));
    assertSame(lowbit.castTensor(all, { from: 'float16', to: 'float32' }), expected);
  });
  check('all bfloat16 patterns to float32', () => {
    const expected = new Float32Array(Uint32Array.from(all, (bits) => bits * 65536).buffer);
    assertSame(lowbit.castTensor(all, { from: 'bfloat16', to: 'float32' }), expected);
  });
  for (const dtype of ['float16', 'bfloat16']) {
    check(`all ${dtype} patterns to float32 and back`, () => {
      const wide = lowbit.castTensor(all, { from: dtype, to: 'float32' });
      const back = lowbit.castTensor(wide, { from: 'float32', to: dtype });
      assertSame(
        Array.from(back, (bits) => (isNaN16(bits, dtype) ? -1 : bits)),
        Array.from(all, (bits) => (isNaN16(bits, dtype) ? -1 : bits)),
      );
    });
  }
  for (const [low, lowBits, dtype, suffix] of [
    ['ramp', (i) => i, 'float16', 'f16'],
    ['1000', () => 0x1000, 'float16', 'f16'],
    ['3000', () => 0x3000, 'float16', 'f16'],
    ['ramp', (i) => i, 'bfloat16', 'bf16'],
    ['8000', () => 0x8000, 'bfloat16', 'bf16'],
  ]) {
    check(`65,536 float32 patterns, low bits ${low}, to ${dtype}`, () => {
      const x = new Float32Array(Uint32Array.from(all, (_, i) => i * 65536 + lowBits(i)).buffer);
      const expected = new Uint16Array(bytesOf(`cast/low_${low}_${suffix}_u16.bin`));
      const got = lowbit.castTensor(x, { from: 'float32', to: dtype });
      const withoutPayload = (bits) => (isNaN16(bits, dtype) ? -1 : bits);
      assertSame(Array.from(got, withoutPayload), Array.from(expected, withoutPayload));
    });
  }
  check('Float16Array in and out', () => {
    if (typeof Float16Array === 'undefined') throw new Skipped('this runtime has no Float16Array');
    const half = new Float16Array([6.25, -0.1, 65504]);
    const q = lowbit.quantizeTensor(half, { dtype: 'int8' });
    assertSameTensor(q, lowbit.quantizeTensor(Float32Array.from(half), { dtype: 'int8' }));
    const out = new Float16Array(3);
    assert.equal(lowbit.dequantizeTensor(q, { out }), out);
    assertSame(out, Float16Array.from(lowbit.dequantizeTensor(q)));
  });
}

function onnxRuntime(check) {
  const { cases } = JSON.parse(fs.readFileSync(path.join(VECTORS, 'onnx', 'ort_cases.json'), 'utf8'));
  for (const { id, nodes, inputs, initializers, outputs } of cases) {
    if (/^QuantizeLinear(\+Dequantize)?\/u?int[48]\/(tensor|axis|blocked_axis2)/.test(id)) {
      check(`ONNX Runtime ${id}`, () => {
        const { axis, block_size: groupSize } = nodes[0].attrs ?? {};
        const granularity =
          groupSize !== undefined
            ? { granularity: 'per-group', groupSize }
            : axis !== undefined
              ? { granularity: 'per-channel', axis }
              : {};
        const q = lowbit.quantizeTensor(Float32Array.from(numbers(inputs.x)), {
          dtype: initializers.z.dtype,
          shape: inputs.x.shape,
          scheme: 'asymmetric',
          scales: Float32Array.from(numbers(inputs.s)),
          zeroPoints: Int32Array.from(numbers(initializers.z)),
          nonFinite: 'saturate',
          ...granularity,
        });
        assertSame(lowbit.unpackCodes(q), numbers(outputs.y));
        if (outputs.d !== undefined) assertSame(lowbit.dequantizeTensor(q), numbers(outputs.d));
      });
    } else if (id.startsWith('MatMulInteger')) {
      check(`ONNX Runtime ${id}`, () => {
        const { a, b, az, bz } = { ...inputs, ...initializers };
        const size = { m: a.shape[0], n: b.shape[1], k: a.shape[1] };
        const zeros = { aZeroPoint: numbers(az)[0], bZeroPoint: Int32Array.from(numbers(bz)) };
        const bytes = [Uint8Array.from(numbers(a)), Int8Array.from(numbers(b))];
        const product = lowbit.matmulInteger(...bytes, { ...size, ...zeros });
        assertSame(product, numbers(outputs.y));
      });
    } else if (id.startsWith('DynamicQuantizeLinear')) {
      check(`ONNX Runtime ${id}`, () => {
        const q = lowbit.quantizeTensor(Float32Array.from(numbers(inputs.x)), { dtype: 'uint8' });
        assertSame(q.scales, numbers(outputs.s));
        assertSame(q.zeroPoints, numbers(outputs.z));
        assertSame(lowbit.unpackCodes(q), numbers(outputs.y));
      });
    }
  }
}

function roundTrips(check) {
  const shape = [37, 101];
  const x = normal(37 * 101, 1);
  const row = (i) => Math.floor(i / 101);
  const layouts = [
    ['per-tensor', {}, () => 0],
    ['per-channel, axis 0', { granularity: 'per-channel', axis: 0 }, row],
    ['per-channel, axis 1', { granularity: 'per-channel', axis: 1 }, (i) => i % 101],
    ['per-group of 32', { granularity: 'per-group', groupSize: 32 }, (i) => row(i) * 4 + Math.floor((i % 101) / 32)],
  ];
  for (const [dtype, code] of CODES) {
    for (const [name, granularity, parameterOf] of layouts) {
      check(`${dtype} ${name} there and back`, () => {
        for (const scheme of ['symmetric', 'asymmetric']) {
          const expected = quantizePlainly(x, scheme, code, parameterOf);
          const q = lowbit.quantizeTensor(x, { dtype, shape, scheme, ...granularity });
          assertSame(
            q.scales,
            Array.from(expected.parameters, ({ scale }) => scale),
            `${scheme} scales`,
          );
          const zeroPoints = Array.from(expected.parameters, ({ zeroPoint }) => zeroPoint);
          assertSame(q.zeroPoints ?? new Int32Array(q.scales.length), zeroPoints, `${scheme} zero points`);
          assertSame(lowbit.unpackCodes(q), expected.codes, `${scheme} codes`);
          assertSame(lowbit.dequantizeTensor(q), expected.back, `${scheme} floats`);
          assertSame(lowbit.dequantizeTensor(structuredClone(q)), expected.back, `${scheme} floats of a clone`);
          for (const half of ['float16', 'bfloat16']) {
            const rounded = lowbit.castTensor(expected.back, { from: 'float32', to: half });
            assertSame(lowbit.dequantizeTensor(q, { dtype: half }), rounded, `${scheme} ${half}`);
          }
        }
      });
    }
  }
}

function products(check, folder) {
  const [m, n, k] = [3, 37, 96];
  const x = normal(m * k, 11);
  const weights = normal(n * k, 12);
  /** That y is the product in float64, but for so much of its largest element. */
  const assertProduct = (y, w, bound) => {
    const at = (i, j) => x[Math.floor(i / n) * k + j] * w[(i % n) * k + j];
    const exact = Array.from(y, (_, i) => weights.subarray(0, k).reduce((sum, __, j) => sum + at(i, j), 0));
    const largest = Math.max(...exact.map(Math.abs));
    const error = Math.max(...exact.map((value, i) => Math.abs(value - y[i]))) / largest;
    assert.ok(y.length === m * n && error < bound, `${error} > ${bound}`);
  };
  for (const type of ['q4_0', 'q4_k', 'q6_k', 'iq4_nl', 'tq2_0']) {
    check(`GGUF blocks ${type} are ggml's`, () => {
      const read = (name) => fs.readFileSync(path.join(VECTORS, 'gguf', name));
      const input = read('input_f32.bin');
      const x = new Float32Array(input.buffer.slice(input.byteOffset, input.byteOffset + input.byteLength));
      const blocks = lowbit.quantizeBlocks(x, { type, rowLength: 512 });
      assert.ok(read(`${type.toUpperCase()}.bin`).equals(Buffer.from(blocks)));
      const w = lowbit.prepackBlocks(blocks.subarray(0, blocks.length / 23), { type, shape: [1, 512] });
      const [y] = lowbit.linear(x.subarray(0, 512), w, { computeDtype: 'float32' });
      const values = lowbit.dequantizeBlocks(blocks, { type, rowLength: 512 });
      let exact = 0;
      for (let i = 0; i < 512; i++) exact += x[i] * values[i];
      assert.ok(Math.abs(y - exact) <= 1e-4 * Math.abs(exact), `${y} instead of ${exact}`);
      w.dispose();
    });
  }

  for (const [dtype, least] of [
    ['nf4', 19],
    ['float8_e4m3fn', 30],
    ['mxfp4', 17],
    ['nvfp4', 19],
    ['ternary', 4],
  ]) {
    check(`${dtype} there and back`, () => {
      const x = normal(4096, 5);
      const back = lowbit.dequantizeTensor(lowbit.quantizeTensor(x, { dtype, shape: [4, 1024] }));
      const { sqnrDb } = lowbit.compareTensors(x, back);
      assert.ok(sqnrDb > least, `${sqnrDb} dB`);
    });
  }

  check('linear with quantized weights', () => {
    for (const dtype of CODES.keys()) {
      const q = lowbit.quantizeTensor(weights, { dtype, shape: [n, k], granularity: 'per-group', groupSize: 32 });
      for (const [computeDtype, bound] of Object.entries({ float32: 1e-6, int16: 2e-4, int8: 2e-2 })) {
        assertProduct(lowbit.linear(x, lowbit.prepack(q), { computeDtype }), lowbit.dequantizeTensor(q), bound);
      }
    }
  });
  check('linear with float weights: now, later and from a file', async () => {
    const w = lowbit.prepack(weights, { shape: [n, k] });
    const y = lowbit.linear(x, w);
    assertProduct(y, weights, 1e-6);
    const later = lowbit.linearAsync(x, w);
    w.dispose();
    assertSame(await later, y);
    assert.throws(() => lowbit.linear(x, w), { code: 'INVALID_ARGUMENT', argument: 'w' });
    lowbit.savePacked(lowbit.prepack(weights, { shape: [n, k] }), path.join(folder, 'packed'));
    assertSame(lowbit.linear(x, lowbit.loadPacked(path.join(folder, 'packed'))), y);
  });
}

function asynchronousCalls(check) {
  const long = normal(LONG.count, 2);
  check('asynchronous calls give the same bytes', async () => {
    const x = normal(100_000, 3);
    const options = { dtype: 'uint4', granularity: 'per-group', groupSize: 32 };
    const q = lowbit.quantizeTensor(x, options);
    const [again, back, cast, compared] = await Promise.all([
      lowbit.quantizeTensorAsync(x, options),
      lowbit.dequantizeTensorAsync(q),
      lowbit.castTensorAsync(x, { from: 'float32', to: 'bfloat16' }),
      lowbit.compareTensorsAsync(x, x),
    ]);
    assertSameTensor(again, q);
    assertSame(back, lowbit.dequantizeTensor(q));
    assertSame(cast, lowbit.castTensor(x, { from: 'float32', to: 'bfloat16' }));
    assert.equal(compared.maxAbs, 0);
  });
  check('asynchronous calls leave the event loop free', async () => {
    let turns = 0;
    let running = true;
    const turn = () => {
      turns++;
      if (running) setImmediate(turn);
    };
    turn();
    await lowbit.quantizeTensorAsync(long, LONG.options);
    running = false;
    assert.ok(turns > 5, `${turns} turns`);
  });
  check('asynchronous calls read what the input was when they were called', async () => {
    const x = normal(1 << 20, 4);
    const expected = lowbit.quantizeTensor(x, { dtype: 'int8' });
    const result = lowbit.quantizeTensorAsync(x, { dtype: 'int8' });
    structuredClone(x.buffer, { transfer: [x.buffer] });
    assertSameTensor(await result, expected);
  });
  check('shared memory is used in place', async () => {
    const x = new Float32Array(new SharedArrayBuffer(4 << 16));
    x.set(normal(1 << 16, 5));
    const out = new Float32Array(new SharedArrayBuffer(4 << 16));
    const q = await lowbit.quantizeTensorAsync(x, { dtype: 'int8' });
    assert.equal(await lowbit.dequantizeTensorAsync(q, { out }), out);
    assertSame(out, lowbit.dequantizeTensor(q));
  });
  check('a signal that is aborted already rejects', async () => {
    const signal = AbortSignal.abort(new Error('stop'));
    await assert.rejects(lowbit.quantizeTensorAsync(long, { ...LONG.options, signal }), { message: 'stop' });
  });
  check('a signal ends a running call with its reason', async () => {
    const controller = new AbortController();
    const result = lowbit.quantizeTensorAsync(long, { ...LONG.options, signal: controller.signal });
    setImmediate(() => controller.abort(new Error('stop')));
    await assert.rejects(result, { message: 'stop' });
    assert.equal((await lowbit.quantizeTensorAsync(long.subarray(0, 100), { dtype: 'int8' })).data.length, 100);
  });
}

function workerThreads(check) {
  const start = (data) => new Worker(__filename, { workerData: { root, ...data } });
  const message = (worker) =>
    new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
  check('worker threads load the addon at the same time', async () => {
    const workers = [1, 2, 3, 4].map((seed) => ({ seed, worker: start({ task: 'quantize', seed }) }));
    await Promise.all(
      workers.map(async ({ seed, worker }) => {
        const { q, again } = await message(worker);
        const expected = lowbit.quantizeTensor(normal(10_000, seed), { dtype: 'int4' });
        assertSameTensor(q, expected);
        assertSameTensor(again, expected);
        await worker.terminate();
      }),
    );
  });
  check('worker threads that are terminated in the middle of a job do no harm', async () => {
    for (const delay of [0, 5, 50]) {
      const worker = start({ task: 'endless' });
      await message(worker);
      await new Promise((resolve) => setTimeout(resolve, delay));
      await worker.terminate();
    }
    const x = normal(1000, 6);
    assertSameTensor(
      await lowbit.quantizeTensorAsync(x, { dtype: 'int8' }),
      lowbit.quantizeTensor(x, { dtype: 'int8' }),
    );
  });
}

function errors(check) {
  const { quantizeTensor, castTensor, setNumThreads } = lowbit;
  const x = new Float32Array([1, 2, Number.NaN]);
  const huge = new Float32Array([1e38]);
  const throws = (what, run, name, code, key, value) =>
    check(`${what} throws a ${name}`, () => {
      assert.throws(run, (error) => {
        assert.ok(error instanceof Error && error instanceof lowbit.LowbitError && error instanceof lowbit[name]);
        assert.deepEqual({ name: error.name, code: error.code }, { name, code });
        assert.ok(Object.is(error[key], value), `${key}: ${error[key]}`);
        assert.ok(error.message.length > 10 && error.stack.includes('checks.cjs'));
        return true;
      });
    });
  const refuses = (what, run, argument) =>
    throws(what, run, 'InvalidArgumentError', 'INVALID_ARGUMENT', 'argument', argument);
  refuses('an unknown dtype', () => quantizeTensor(x, { dtype: 'int5' }), 'dtype');
  refuses('a misspelled option', () => quantizeTensor(x, { dtype: 'int4', groupsize: 2 }), 'groupsize');
  refuses('a wrong shape', () => quantizeTensor(x, { dtype: 'int4', shape: [2, 2] }), 'shape');
  refuses('no float array', () => castTensor([1], { from: 'float32', to: 'float16' }), 'input');
  refuses('an impossible number of threads', () => setNumThreads(0), 'n');
  throws('NaN', () => quantizeTensor(x, { dtype: 'int4' }), 'NonFiniteError', 'NON_FINITE', 'index', 2);
  const overflow = () => quantizeTensor(huge, { dtype: 'int4', scaleDtype: 'float16' });
  throws('a scale too large', overflow, 'ScaleOverflowError', 'SCALE_OVERFLOW', 'index', 0);
  check('a rejection carries the same error', async () => {
    await assert.rejects(lowbit.quantizeTensorAsync(x, { dtype: 'int4' }), (error) => {
      return error instanceof lowbit.NonFiniteError && error.index === 2;
    });
  });
}

/** A safetensors file; tensors: name → { dtype, shape, data }. */
function safetensors(tensors) {
  const header = {};
  let end = 0;
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [end, end + data.byteLength] };
    end += data.byteLength;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const parts = Object.values(tensors).map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  return Buffer.concat([length, json, ...parts]);
}

/** A tensor of a safetensors file. */
function tensorOf(file, name) {
  const dataStart = 8 + Number(file.readBigUInt64LE(0));
  const { dtype, shape, data_offsets: offsets } = JSON.parse(file.toString('utf8', 8, dataStart))[name];
  return { dtype, shape, bytes: file.subarray(dataStart + offsets[0], dataStart + offsets[1]) };
}

function checkpoints(check, folder) {
  const weight = normal(64 * 128, 7);
  const norm = normal(128, 8);
  const input = path.join(folder, 'model');
  fs.mkdirSync(input);
  fs.writeFileSync(path.join(input, 'config.json'), '{"model_type":"llama"}');
  fs.writeFileSync(
    path.join(input, 'model.safetensors'),
    safetensors({
      'model.layers.0.mlp.up_proj.weight': { dtype: 'F32', shape: [64, 128], data: weight },
      'model.norm.weight': { dtype: 'F32', shape: [128], data: norm },
    }),
  );
  check('a checkpoint is quantized', async () => {
    const output = path.join(folder, 'quantized');
    const report = await lowbit.quantizeCheckpoint(input, { dtype: 'int4', groupSize: 32, output });
    assert.deepEqual(report.copied, ['model.norm.weight']);
    const file = fs.readFileSync(path.join(output, 'model.safetensors'));
    const q = lowbit.quantizeTensor(weight, {
      dtype: 'int4',
      shape: [64, 128],
      granularity: 'per-group',
      groupSize: 32,
    });
    const { bytes } = tensorOf(file, 'model.layers.0.mlp.up_proj.weight_packed');
    assertSame(
      bytes,
      q.data.map((pair) => pair ^ 0x88),
      'packed codes',
    );
    assert.deepEqual(tensorOf(file, 'model.norm.weight').bytes, Buffer.from(norm.buffer));
  });
  check('a checkpoint that is not there is named', async () => {
    const missing = path.join(folder, 'missing');
    await assert.rejects(
      lowbit.quantizeCheckpoint(missing, { dtype: 'int4', output: path.join(folder, 'x') }),
      (error) => {
        return error instanceof lowbit.CheckpointError && error.path === missing;
      },
    );
  });
}

function imports(check, folder) {
  // As a user has it: lowbit in node_modules beside the file that imports it.
  fs.mkdirSync(path.join(folder, 'node_modules'));
  fs.symlinkSync(root, path.join(folder, 'node_modules', 'lowbit'), 'junction');
  fs.writeFileSync(path.join(folder, 'package.json'), '{"name":"user","private":true}');
  const codes = "unpackCodes(quantizeTensor(new Float32Array([0.5, -1, 3.5]), { dtype: 'int4' }))";
  const files = {
    'named.mjs': `import { quantizeTensor, unpackCodes } from 'lowbit'; export const codes = ${codes};`,
    'namespace.mjs': `import * as all from 'lowbit'; const { quantizeTensor, unpackCodes } = all; export const codes = ${codes};`,
    'require.cjs': `const { quantizeTensor, unpackCodes } = require('lowbit'); exports.codes = ${codes};`,
  };
  for (const [name, text] of Object.entries(files)) {
    check(`a user's ${name} imports lowbit by its name`, async () => {
      fs.writeFileSync(path.join(folder, name), text);
      const user = await import(pathToFileURL(path.join(folder, name)).href);
      assertSame(user.codes, [1, -2, 7]);
    });
  }
}

async function main() {
  const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'lowbit-checks-')));
  const checks = [];
  const check = (name, body) => checks.push([name, body]);
  workedExamples(check);
  casts(check);
  onnxRuntime(check);
  roundTrips(check);
  products(check, folder);
  asynchronousCalls(check);
  workerThreads(check);
  errors(check);
  checkpoints(check, folder);
  imports(check, folder);

  const { isa, isas, threads, version } = lowbit.capabilities();
  const runtime = globalThis.Bun
    ? `Bun ${Bun.version}`
    : globalThis.Deno
      ? `Deno ${Deno.version.deno}`
      : `Node ${process.versions.node}`;
  console.log(
    `${runtime}, ${process.platform}-${process.arch}: lowbit ${version}, ${isa} of ${isas.join(' ')}, ${threads} threads`,
  );
  const count = { passed: 0, failed: 0, skipped: 0 };
  for (const [name, body] of checks) {
    try {
      await body();
      count.passed++;
      console.log(`ok ${name}`);
    } catch (error) {
      if (error instanceof Skipped) {
        count.skipped++;
        console.log(`skip ${name}: ${error.message}`);
      } else {
        count.failed++;
        console.log(`FAIL ${name}: ${error?.stack ?? error}`);
      }
    }
  }
  fs.rmSync(folder, { recursive: true, force: true });
  console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`);
  // Not process.exit(): that the process ends by itself is part of what is checked.
  if (count.failed > 0) process.exitCode = 1;
}

/** Worker threads run this file, too. */
function work({ task, seed }) {
  if (task === 'quantize') {
    const x = normal(10_000, seed);
    const q = lowbit.quantizeTensor(x, { dtype: 'int4' });
    lowbit.quantizeTensorAsync(x, { dtype: 'int4' }).then((again) => parentPort.postMessage({ q, again }));
  } else {
    const endless = () => lowbit.quantizeTensorAsync(normal(LONG.count, 1), LONG.options).then(endless);
    endless();
    parentPort.postMessage('started');
  }
}

if (isMainThread) main();
else work(workerData);
