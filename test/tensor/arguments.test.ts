import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as lowbit from '../../lib/index.js';
import { anything, detached, survives } from '../support/anything.js';
import { normal } from '../support/random.js';

const { castTensor, dequantizeTensor, InvalidArgumentError, quantizeTensor, unpackCodes } = lowbit;
const x = normal(64, 1);

describe('every exported function with every wrong argument', () => {
  const functions = (Object.entries(lowbit) as [string, (...args: never[]) => unknown][]).filter(
    ([name, value]) => typeof value === 'function' && /^[a-z]/.test(name) && name !== 'setNumThreads',
  );

  it('covers the API', () => expect(functions.length).toBeGreaterThanOrEqual(29));

  it.each(functions)('%s', async (_, call) => {
    await fc.assert(
      fc.asyncProperty(anything, anything, (a, b) => survives(() => call(a as never, b as never))),
      { numRuns: 300 },
    );
  });

  it('setNumThreads', async () => {
    const before = lowbit.capabilities().threads;
    await fc.assert(
      fc.asyncProperty(anything, (n) => survives(() => lowbit.setNumThreads(n as never))),
      { numRuns: 200 },
    );
    lowbit.setNumThreads(before);
    for (const n of [0, -1, 1.5, 1025, Number.NaN, '2', undefined]) {
      expect(() => lowbit.setNumThreads(n as number)).toThrow(InvalidArgumentError);
    }
    expect(lowbit.capabilities().threads).toBe(before);
  });

  const optionNames = [
    'shape',
    'inputDtype',
    'dtype',
    'scheme',
    'granularity',
    'axis',
    'groupSize',
    'narrowRange',
    'scaleDtype',
    'range',
    'scales',
    'zeroPoints',
    'nonFinite',
    'out',
    'signal',
    'unknown',
  ];

  it('quantizeTensor with any value for any option', async () => {
    const option = fc.record({ name: fc.constantFrom(...optionNames), value: anything });
    await fc.assert(
      fc.asyncProperty(fc.array(option, { minLength: 1, maxLength: 3 }), fc.boolean(), async (options, later) => {
        const all = { dtype: 'int4', ...Object.fromEntries(options.map(({ name, value }) => [name, value])) } as never;
        await survives(() => (later ? lowbit.quantizeTensorAsync(x, all) : quantizeTensor(x, all)));
      }),
      { numRuns: 1500 },
    );
  });

  it('dequantizeTensor, unpackCodes and sizeOf with any value for any field', async () => {
    const q = quantizeTensor(x, { dtype: 'uint4', shape: [8, 8], granularity: 'per-group', groupSize: 4 });
    const field = fc.record({ name: fc.constantFrom(...Object.keys(q), 'axis'), value: anything });
    await fc.assert(
      fc.asyncProperty(fc.array(field, { minLength: 1, maxLength: 2 }), async (fields) => {
        const damaged = { ...q, ...Object.fromEntries(fields.map(({ name, value }) => [name, value])) } as never;
        for (const call of [dequantizeTensor, unpackCodes, lowbit.sizeOf, lowbit.dequantizeTensorAsync]) {
          await survives(() => call(damaged));
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe('messages name the argument, what was expected and what came', () => {
  const cases: [string, () => unknown, string][] = [
    [
      'input',
      () => quantizeTensor([1, 2] as unknown as Float32Array, { dtype: 'int8' }),
      'Expected a Float32Array, a Uint16Array (float16 or bfloat16) or a Float16Array for input but received an Array of length 2.',
    ],
    [
      'dtype',
      () => quantizeTensor(x, { dtype: 'int5' } as never),
      'Expected one of int8, uint8, int4, uint4, int3, uint3, int2, uint2, nf4, fp4, float8_e4m3fn, float8_e5m2, mxfp8_e4m3, mxfp8_e5m2, mxfp6_e2m3, mxfp6_e3m2, mxfp4, mxint8, nvfp4, ternary, binary for dtype but received "int5".',
    ],
    [
      'inputDtype',
      () => quantizeTensor(new Uint16Array(4), { dtype: 'int8' } as never),
      'Expected float16 or bfloat16, because a Uint16Array can hold either, for inputDtype but received undefined.',
    ],
    [
      'shape',
      () => quantizeTensor(x, { dtype: 'int8', shape: [9, 7] }),
      'Expected shape [9, 7] to have as many elements as the input, 64, but it has 63.',
    ],
    [
      'shape[1]',
      () => quantizeTensor(x, { dtype: 'int8', shape: [8, -8] }),
      'Expected an integer of at least 0 for shape[1] but received -8.',
    ],
    [
      'shape',
      () => quantizeTensor(x, { dtype: 'int8', shape: [2 ** 53 - 1, 2] }),
      'Expected shape to have fewer than 2^53 elements.',
    ],
    [
      'axis',
      () => quantizeTensor(x, { dtype: 'int8', granularity: 'per-channel', axis: 1 }),
      'Expected an integer from -1 to 0 for axis but received 1.',
    ],
    [
      'groupSize',
      () => quantizeTensor(x, { dtype: 'int8', granularity: 'per-group', groupSize: 0 }),
      'Expected an integer of at least 1 for groupSize but received 0.',
    ],
    [
      'groupSize',
      () => quantizeTensor(x, { dtype: 'int8', groupSize: 32 } as never),
      "Expected granularity: 'per-group' together with groupSize.",
    ],
    [
      'groupsize',
      () => quantizeTensor(x, { dtype: 'int8', groupsize: 32 } as never),
      'Unknown option "groupsize". Did you mean groupSize?',
    ],
    [
      'zeroPoints',
      () => quantizeTensor(x, { dtype: 'int8', zeroPoints: new Int32Array(1) } as never),
      'Expected scales together with zeroPoints.',
    ],
    [
      'scales',
      () => quantizeTensor(x, { dtype: 'int8', scales: new Float32Array(2) }),
      'Expected length 1 for scales but received a Float32Array of length 2.',
    ],
    [
      'range.percentile',
      () => quantizeTensor(x, { dtype: 'int8', range: { percentile: 50 } }),
      'Expected a number greater than 50 and at most 100 for range.percentile but received 50.',
    ],
    [
      'out.dtype',
      () => quantizeTensor(x, { dtype: 'int8', out: quantizeTensor(x, { dtype: 'int4' }) }),
      'Expected int8 for out.dtype but received "int4".',
    ],
    [
      'input',
      () => quantizeTensor(detached(), { dtype: 'int8' }),
      'Expected input to be attached but its buffer has been transferred away.',
    ],
    [
      'out',
      () => castTensor(x, { from: 'float32', to: 'float16', out: new Uint16Array(3) }),
      'Expected length 64 for out but received a Uint16Array of length 3.',
    ],
    [
      'q.data',
      () => dequantizeTensor({ ...quantizeTensor(x, { dtype: 'int4' }), data: new Uint8Array(31) }),
      'Expected length 32 for q.data but received a Uint8Array of length 31.',
    ],
  ];

  it.each(cases)('%s', (argument, call, message) => {
    expect(call).toThrow(InvalidArgumentError);
    expect(call).toThrow(expect.objectContaining({ message, argument, code: 'INVALID_ARGUMENT' }));
  });

  it('given scales and zero points are checked element by element', () => {
    for (const bad of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => quantizeTensor(x, { dtype: 'int8', scales: new Float32Array([bad]) })).toThrow(
        /scales to be finite and greater than 0/,
      );
    }
    const scales = new Float32Array([1]);
    expect(() =>
      quantizeTensor(x, { dtype: 'int8', scheme: 'asymmetric', scales, zeroPoints: new Int32Array([128]) }),
    ).toThrow(/zeroPoints to lie in \[-128, 127\]/);
    expect(() =>
      quantizeTensor(x, { dtype: 'int8', scheme: 'symmetric', scales, zeroPoints: new Int32Array([3]) }),
    ).toThrow(/zero point to be 0/);
    const q = quantizeTensor(x, { dtype: 'int8' });
    expect(() => dequantizeTensor({ ...q, scales: new Float32Array([Number.NaN]) })).toThrow(/scales to be finite/);
    expect(() => dequantizeTensor({ ...q, scheme: 'asymmetric', zeroPoints: new Int32Array([-(2 ** 31)]) })).toThrow(
      /zeroPoints to lie in/,
    );
  });

  it('overlapping buffers are refused', () => {
    const buffer = new ArrayBuffer(512);
    const input = new Float32Array(buffer, 0, 64);
    const q = quantizeTensor(x, { dtype: 'int8' });
    expect(() =>
      quantizeTensor(input, { dtype: 'int8', out: { ...q, data: new Uint8Array(buffer, 100, 64) } }),
    ).toThrow(/overlap/);
    const data = new Uint8Array(buffer, 0, 64);
    expect(() => dequantizeTensor({ ...q, data }, { out: new Float32Array(buffer, 60, 64) })).toThrow(/overlap/);
  });

  it('a getter that shrinks an array behind our back does no harm', () => {
    const array = new Float32Array(64);
    const options = {
      get dtype() {
        structuredClone(array.buffer, { transfer: [array.buffer] });
        return 'int8' as const;
      },
      shape: [64],
    };
    expect(() => quantizeTensor(array, options)).toThrow(InvalidArgumentError);
  });
});
