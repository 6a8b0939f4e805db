import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as lowbit from '../../lib/index.js';
import { anything, detached, survives } from '../support/anything.js';
import { quantizedMatrix } from '../support/products.js';
import { normal } from '../support/random.js';

const { dynamicQuantizeMatmul, gram, linear, loadPacked, matmulInteger, prepack, prepackInteger, quantizedMatmul } =
  lowbit;
const { InvalidArgumentError, OutOfMemoryError, savePacked } = lowbit;

const [n, k] = [8, 16];
const x = normal(2 * k, 1);
const q = quantizedMatrix(n, k, { dtype: 'uint4', granularity: 'per-group', groupSize: 16 });
const w = prepack(q);
const a = new Int8Array(2 * k);
const b = new Uint8Array(k * n);
const packedB = prepackInteger(b, { k, n });
const size = { m: 2, n, k };
const scaled = { ...size, aScale: 1, bScale: 1, outScale: 1, outDtype: 'int8' } as const;

describe('every option with every wrong value', () => {
  /** Calls with some of the options replaced by anything; weights may come where others belong. */
  async function attack(
    given: object,
    names: readonly string[],
    call: (options: never) => unknown,
    later: (options: never) => Promise<unknown>,
  ): Promise<void> {
    const value = fc.oneof(
      { weight: 8, arbitrary: anything },
      {
        weight: 1,
        arbitrary: fc.constantFrom<unknown>(w, packedB, new Int32Array(n), new Float32Array(n), 'silu', 255),
      },
    );
    const option = fc.record({ name: fc.constantFrom(...names, 'signal', 'unknown'), value });
    await fc.assert(
      fc.asyncProperty(fc.array(option, { minLength: 1, maxLength: 3 }), fc.boolean(), async (options, async) => {
        const all = { ...given, ...Object.fromEntries(options.map(({ name, value }) => [name, value])) } as never;
        await survives(() => (async ? later(all) : call(all)));
      }),
      { numRuns: 500 },
    );
  }

  it('linear', () =>
    attack(
      {},
      ['bias', 'out', 'computeDtype', 'activationGranularity', 'activation', 'gate', 'gateBias'],
      (options) => linear(x, w, options),
      (options) => lowbit.linearAsync(x, w, options),
    ));

  it('matmulInteger', () =>
    attack(
      size,
      ['m', 'n', 'k', 'aZeroPoint', 'bZeroPoint', 'out'],
      (options) => matmulInteger(a, b, options),
      (options) => lowbit.matmulIntegerAsync(a, packedB, options),
    ));

  it('quantizedMatmul', () =>
    attack(
      scaled,
      ['m', 'n', 'k', 'aScale', 'aZeroPoint', 'bScale', 'bZeroPoint', 'outScale', 'outZeroPoint', 'outDtype', 'out'],
      (options) => quantizedMatmul(a, packedB, options),
      (options) => lowbit.quantizedMatmulAsync(a, b, options),
    ));

  it('dynamicQuantizeMatmul', () =>
    attack(
      { ...size, bScale: 1 },
      ['m', 'n', 'k', 'bScale', 'bZeroPoint', 'bias', 'out'],
      (options) => dynamicQuantizeMatmul(x, b, options),
      (options) => lowbit.dynamicQuantizeMatmulAsync(x, packedB, options),
    ));

  it('binaryMatmul', () =>
    attack(
      { m: 2, n, k },
      ['m', 'n', 'k', 'out'],
      (options) => lowbit.binaryMatmul(new Uint8Array(4), new Uint8Array(2 * n), options),
      (options) => lowbit.binaryMatmulAsync(new Uint8Array(4), new Uint8Array(2 * n), options),
    ));

  it('ternaryMatmul', () =>
    attack(
      size,
      ['m', 'n', 'k', 'out'],
      (options) => lowbit.ternaryMatmul(a, new Uint8Array(4 * n), options),
      (options) => lowbit.ternaryMatmulAsync(a, lowbit.prepackTernary(new Uint8Array(4 * n), { n, k }), options),
    ));

  it('quantizeLlmInt8', () =>
    attack(
      { shape: [2, k] },
      ['shape', 'inputDtype', 'threshold', 'outlierColumns'],
      (options) => lowbit.quantizeLlmInt8(x, options),
      (options) => lowbit.quantizeLlmInt8Async(x, options),
    ));

  it('llmInt8Linear', () => {
    const matrix = lowbit.quantizeLlmInt8(normal(n * k, 2), { shape: [n, k], outlierColumns: [3] });
    return attack(
      {},
      ['threshold', 'bias', 'out'],
      (options) => lowbit.llmInt8Linear(x, lowbit.prepackLlmInt8(matrix), options),
      (options) => lowbit.llmInt8LinearAsync(x, matrix, options),
    );
  });

  it('prepackLlmInt8 with any value for any field', async () => {
    const matrix = lowbit.quantizeLlmInt8(normal(n * k, 2), { shape: [n, k], outlierColumns: [3] });
    const field = fc.record({ name: fc.constantFrom(...Object.keys(matrix)), value: anything });
    await fc.assert(
      fc.asyncProperty(fc.array(field, { minLength: 1, maxLength: 2 }), async (fields) => {
        const damaged = { ...matrix, ...Object.fromEntries(fields.map(({ name, value }) => [name, value])) } as never;
        await survives(() => lowbit.prepackLlmInt8(damaged));
        await survives(() => lowbit.llmInt8LinearAsync(x, damaged));
      }),
      { numRuns: 500 },
    );
  });

  it('gram', () =>
    attack(
      { k },
      ['k', 'out', 'device'],
      (options) => gram(x, options),
      (options) => lowbit.gramAsync(x, options),
    ));

  it('prepack of floats', () =>
    attack(
      { shape: [2, k] },
      ['shape', 'dtype', 'device'],
      (options) => prepack(x, options),
      (options) => lowbit.prepackAsync(x, options),
    ));

  it('prepackInteger', () =>
    attack(
      { k, n },
      ['k', 'n', 'device'],
      (options) => prepackInteger(b, options),
      (options) => lowbit.prepackIntegerAsync(b, options),
    ));

  it('loadPacked', () =>
    attack(
      {},
      ['verify'],
      (options) => loadPacked('/nowhere', options),
      (options) => lowbit.loadPackedAsync('/nowhere', options),
    ));

  it('prepack with any value for any field', async () => {
    const field = fc.record({ name: fc.constantFrom(...Object.keys(q), 'axis'), value: anything });
    await fc.assert(
      fc.asyncProperty(fc.array(field, { minLength: 1, maxLength: 2 }), async (fields) => {
        const damaged = { ...q, ...Object.fromEntries(fields.map(({ name, value }) => [name, value])) } as never;
        await survives(() => prepack(damaged));
        await survives(() => lowbit.prepackAsync(damaged));
      }),
      { numRuns: 1000 },
    );
  });

  it('the other arguments', async () => {
    await fc.assert(
      fc.asyncProperty(anything, async (value) => {
        const any = value as never;
        for (const call of [
          () => linear(any, w),
          () => linear(x, any),
          () => linear(x, w, any),
          () => lowbit.linearAsync(any, w),
          () => lowbit.linearAsync(x, any),
          () => matmulInteger(any, b, size),
          () => matmulInteger(a, any, size),
          () => matmulInteger(a, b, any),
          () => quantizedMatmul(any, b, scaled),
          () => dynamicQuantizeMatmul(any, b, { ...size, bScale: 1 }),
          () => gram(any, { k }),
          () => prepack(any, { shape: [2, k] } as never),
          () => prepackInteger(any, { k, n }),
          () => loadPacked(any),
          () => savePacked(any, '/nowhere/at/all'),
        ]) {
          await survives(call);
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe('messages name the argument, what was expected and what came', () => {
  const any = (value: unknown) => value as never;
  const cases: [string, () => unknown, string][] = [
    ['x', () => linear(any([1]), w), 'Expected a Float32Array for x but received an Array of length 1.'],
    [
      'x',
      () => linear(normal(17, 1), w),
      'Expected x to have whole rows of 16 elements, as the weight has columns, but its length is 17.',
    ],
    [
      'x',
      () => linear(x, prepack(new Float32Array(0), { shape: [3, 0] })),
      'Expected x to have whole rows of 0 elements, as the weight has columns, but its length is 32.',
    ],
    ['x', () => linear(detached(), w), 'Expected x to be attached but its buffer has been transferred away.'],
    [
      'w',
      () => linear(x, any({})),
      'Expected a PackedWeight that prepack, prepackInteger or loadPacked made on this thread for w but received an object.',
    ],
    [
      'bias',
      () => linear(x, w, { bias: new Float32Array(7) }),
      'Expected length 8 for bias but received a Float32Array of length 7.',
    ],
    [
      'bias',
      () => linear(x, w, { bias: any(new Float64Array(8)) }),
      'Expected a Float32Array for bias but received a Float64Array of length 8.',
    ],
    [
      'out',
      () => linear(x, w, { out: new Float32Array(15) }),
      'Expected length 16 for out but received a Float32Array of length 15.',
    ],
    [
      'computeDtype',
      () => linear(x, w, { computeDtype: any('int4') }),
      'Expected one of float32, int16, int8 for computeDtype but received "int4".',
    ],
    [
      'activationGranularity',
      () => linear(x, w, { activationGranularity: any('per-tensor') }),
      'Expected one of per-group, per-token for activationGranularity but received "per-tensor".',
    ],
    [
      'activation',
      () => linear(x, w, { activation: any('relu') }),
      'Expected one of silu, gelu, gelu-tanh for activation but received "relu".',
    ],
    ['gateBias', () => linear(x, w, { gateBias: new Float32Array(8) }), 'Expected a gate together with gateBias.'],
    [
      'gate',
      () => linear(x, w, { gate: prepack(normal(32, 1), { shape: [2, 16] }) }),
      'Expected gate to have the shape of w, [8, 16], but it has [2, 16].',
    ],
    ['Bias', () => linear(x, w, any({ Bias: 1 })), 'Unknown option "Bias". Did you mean bias?'],
    [
      'signal',
      () => linear(x, w, any({ signal: undefined })),
      'Unknown option "signal". Known are bias, out, computeDtype, activationGranularity, activation, gate, gateBias.',
    ],
    [
      'q.shape',
      () => prepack(lowbit.quantizeTensor(x, { dtype: 'int8' })),
      'Expected a matrix, [N, K], for q.shape but received [32].',
    ],
    [
      'q.shape',
      () => prepack(lowbit.quantizeTensor(x, { dtype: 'int8', shape: [2, 4, 4] })),
      'Expected a matrix, [N, K], for q.shape but received [2, 4, 4].',
    ],
    [
      'q.scales',
      () => prepack({ ...q, scales: new Float32Array(8).fill(Number.POSITIVE_INFINITY) }),
      'Expected q.scales to be finite but received Infinity at index 0.',
    ],
    [
      'q.zeroPoints',
      () => prepack({ ...q, zeroPoints: new Int32Array(8).fill(16, 3) }),
      'Expected q.zeroPoints to lie in [0, 15] but received 16 at index 3.',
    ],
    [
      'q.zeroPoints',
      () => prepack({ ...q, groupSize: 8, scales: new Float32Array(16), zeroPoints: new Int32Array(16).fill(-1, 5) }),
      'Expected q.zeroPoints to lie in [0, 15] but received -1 at index 5.',
    ],
    [
      'q.data',
      () => prepack({ ...q, data: new Uint8Array(63) }),
      'Expected length 64 for q.data but received a Uint8Array of length 63.',
    ],
    [
      'device',
      () => prepack(q, { device: any('gpu') }),
      "Expected 'cpu', 'cuda' or 'cuda:<n>' for device but received \"gpu\".",
    ],
    ['q', () => prepack(any(undefined)), 'Expected a QuantizedTensor for q but received undefined.'],
    [
      'weights',
      () => prepack(any(new Float64Array(4)), any({ shape: [2, 2] })),
      'Expected a Float32Array, a Uint16Array (float16 or bfloat16) or a Float16Array for weights but received a Float64Array of length 4.',
    ],
    [
      'dtype',
      () => prepack(new Uint16Array(4), any({ shape: [2, 2] })),
      'Expected float16 or bfloat16, because a Uint16Array can hold either, for dtype but received undefined.',
    ],
    [
      'shape',
      () => prepack(x, any({})),
      'Expected an array of non-negative integers for shape but received undefined.',
    ],
    [
      'shape',
      () => prepack(x, any({ shape: [32] })),
      'Expected two numbers, [N, K], for shape but received an Array of length 1.',
    ],
    [
      'shape',
      () => prepack(x, { shape: [2, 15] }),
      'Expected shape [2, 15] to have as many elements as the weights, 32.',
    ],
    ['m', () => matmulInteger(a, b, { ...size, m: -1 }), 'Expected an integer of at least 0 for m but received -1.'],
    [
      'a',
      () => matmulInteger(a, b, { ...size, m: 3 }),
      'Expected length 48 for a but received an Int8Array of length 32.',
    ],
    [
      'a',
      () => matmulInteger(any(x), b, size),
      'Expected an Int8Array or a Uint8Array for a but received a Float32Array of length 32.',
    ],
    [
      'b',
      () => matmulInteger(a, new Int8Array(5), size),
      'Expected length 128 for b but received an Int8Array of length 5.',
    ],
    [
      'b',
      () => matmulInteger(new Int8Array(2 * 8), packedB, { m: 2, n: 16, k: 8 }),
      'Expected b to be packed from k = 8 rows and n = 16 columns but it has 16 and 8.',
    ],
    [
      'aZeroPoint',
      () => matmulInteger(a, b, { ...size, aZeroPoint: 128 }),
      'Expected an integer from -128 to 127 for aZeroPoint but received 128.',
    ],
    [
      'bZeroPoint',
      () => matmulInteger(a, packedB, { ...size, bZeroPoint: -1 }),
      'Expected an integer from 0 to 255 for bZeroPoint but received -1.',
    ],
    [
      'bZeroPoint',
      () => matmulInteger(a, packedB, { ...size, bZeroPoint: Int32Array.of(0, 1, 2, 3, 4, 256, 6, 7) }),
      'Expected bZeroPoint to lie in [0, 255] but received 256 at index 5.',
    ],
    [
      'aZeroPoint',
      () => matmulInteger(a, b, { ...size, aZeroPoint: new Int32Array(3) }),
      'Expected length 2 for aZeroPoint but received an Int32Array of length 3.',
    ],
    [
      'aZeroPoint',
      () => matmulInteger(a, b, { ...size, aZeroPoint: any(new Int8Array(2)) }),
      'Expected an integer or an Int32Array for aZeroPoint but received an Int8Array of length 2.',
    ],
    [
      'out',
      () => matmulInteger(a, b, { ...size, out: any(new Float32Array(16)) }),
      'Expected an Int32Array for out but received a Float32Array of length 16.',
    ],
    [
      'aScale',
      () => quantizedMatmul(a, b, { ...scaled, aScale: 0 }),
      'Expected a finite number greater than 0 for aScale but received 0.',
    ],
    [
      'outScale',
      () => quantizedMatmul(a, b, { ...scaled, outScale: 1e-60 }),
      'Expected a finite number greater than 0 for outScale but received 1e-60.',
    ],
    [
      'bScale',
      () => quantizedMatmul(a, b, { ...scaled, bScale: any(undefined) }),
      'Expected a number or a Float32Array for bScale but received undefined.',
    ],
    [
      'bScale',
      () => quantizedMatmul(a, b, { ...scaled, aScale: 1e30, bScale: new Float32Array(8).fill(1e30) }),
      'Expected bScale to be finite but received Infinity at index 0.',
    ],
    [
      'outDtype',
      () => quantizedMatmul(a, b, any({ ...scaled, outDtype: 'int4' })),
      'Expected one of int8, uint8 for outDtype but received "int4".',
    ],
    [
      'outZeroPoint',
      () => quantizedMatmul(a, b, { ...scaled, outZeroPoint: 128 }),
      'Expected an integer from -128 to 127 for outZeroPoint but received 128.',
    ],
    [
      'bScale',
      () => dynamicQuantizeMatmul(x, b, { ...size, bScale: new Float32Array(8).fill(Number.NaN) }),
      'Expected bScale to be finite but received NaN at index 0.',
    ],
    ['k', () => gram(x, any({})), 'Expected an integer of at least 0 for k but received undefined.'],
    ['x', () => gram(x, { k: 5 }), 'Expected x to have whole rows of k = 5 elements but its length is 32.'],
    ['x', () => gram(x, { k: 0 }), 'Expected x to have whole rows of k = 0 elements but its length is 32.'],
    [
      'path',
      () => loadPacked(''),
      'Expected a path: a string that is not empty and has no zero bytes for path but received "".',
    ],
    [
      'path',
      () => loadPacked('a\0b'),
      'Expected a path: a string that is not empty and has no zero bytes for path but received "a\\u0000b".',
    ],
    ['verify', () => loadPacked('x', { verify: any(1) }), 'Expected true or false for verify but received 1.'],
  ];

  it.each(cases)('%s', (argument, call, message) => {
    expect(call).toThrow(InvalidArgumentError);
    expect(call).toThrow(expect.objectContaining({ message, argument, code: 'INVALID_ARGUMENT' }));
  });
});

describe('memory', () => {
  it('out must not overlap what is read', () => {
    const memory = new ArrayBuffer(1024);
    const floats = (offset: number, length: number) => new Float32Array(memory, offset, length);
    const overlap = expect.objectContaining({
      code: 'INVALID_ARGUMENT',
      argument: 'out',
      message: expect.stringMatching(/not to overlap/),
    });
    expect(() => linear(floats(0, 32), w, { out: floats(124, 16) })).toThrow(overlap);
    expect(() => linear(x, w, { bias: floats(0, 8), out: floats(28, 16) })).toThrow(overlap);
    expect(() => linear(x, w, { gate: w, gateBias: floats(0, 8), out: floats(28, 16) })).toThrow(overlap);
    expect(linear(floats(0, 32), w, { bias: floats(0, 8), out: floats(128, 16) })).toHaveLength(16);
    expect(() => gram(floats(0, 32), { k, out: floats(0, 256) })).toThrow(overlap);
    const bytes = new Int8Array(memory, 0, 32);
    expect(() => matmulInteger(bytes, b, { ...size, out: new Int32Array(memory, 28, 16) })).toThrow(overlap);
    const zeros = new Int32Array(memory, 512, n);
    expect(() => matmulInteger(a, b, { ...size, bZeroPoint: zeros, out: new Int32Array(memory, 512, 16) })).toThrow(
      overlap,
    );
    expect(() => quantizedMatmul(bytes, packedB, { ...scaled, out: new Int8Array(memory, 31, 16) })).toThrow(overlap);
    const bScale = floats(600, n);
    expect(() => dynamicQuantizeMatmul(x, b, { ...size, bScale, out: floats(600, 16) })).toThrow(overlap);
    expect(() => dynamicQuantizeMatmul(floats(0, 32), b, { ...size, bScale: 1, out: floats(0, 16) })).toThrow(overlap);
  });

  it('results and weights larger than memory are OutOfMemoryErrors', async () => {
    const million = 2 ** 20;
    const column = prepack(new Float32Array(million), { shape: [million, 1] });
    const tall = new Float32Array(million);
    const tooLarge: [() => unknown, () => Promise<unknown>][] = [
      [() => linear(tall, column), () => lowbit.linearAsync(tall, column)],
      [() => gram(tall, { k: million }), () => lowbit.gramAsync(tall, { k: million })],
      [
        () => matmulInteger(new Int8Array(million), new Int8Array(million), { m: million, n: million, k: 1 }),
        () =>
          lowbit.matmulIntegerAsync(new Int8Array(million), new Int8Array(million), { m: million, n: million, k: 1 }),
      ],
      // Rows without columns are still rows.
      ...([2 ** 46, 2 ** 50, 2 ** 53 - 1].map((rows) => [
        () =>
          prepack({
            ...q,
            granularity: 'per-tensor',
            shape: [rows, 0],
            data: new Uint8Array(0),
            scales: new Float32Array(1),
            zeroPoints: new Int32Array(1),
          }),
        () => lowbit.prepackIntegerAsync(new Int8Array(0), { k: 0, n: rows }),
      ]) as [() => unknown, () => Promise<unknown>][]),
    ];
    for (const [now, later] of tooLarge) {
      expect(now).toThrow(OutOfMemoryError);
      await expect(later()).rejects.toThrow(OutOfMemoryError);
      expect(now).toThrow(expect.objectContaining({ code: 'OUT_OF_MEMORY', name: 'OutOfMemoryError' }));
    }
    column.dispose();
  });

  it('sizes whose product is no exact number have no arrays', () => {
    const huge = 2 ** 53 - 1;
    for (const given of [
      { m: huge, n: huge, k: huge },
      { m: 2 ** 31, n: 2 ** 31, k: 2 ** 31 },
      { m: 1, n: 2 ** 32, k: 2 ** 32 },
    ]) {
      expect(() => matmulInteger(a, b, given)).toThrow(InvalidArgumentError);
      expect(() => dynamicQuantizeMatmul(x, b, { ...given, bScale: 1 })).toThrow(InvalidArgumentError);
    }
    expect(() => gram(x, { k: huge })).toThrow(InvalidArgumentError);
    expect(() => prepack(x, { shape: [2 ** 31, 2 ** 31] })).toThrow(InvalidArgumentError);
    expect(() => prepackInteger(b, { k: 2 ** 32, n: 2 ** 32 })).toThrow(InvalidArgumentError);
    const wide = prepack(new Float32Array(0), { shape: [0, huge] });
    expect(wide).toMatchObject({ rows: 0, cols: huge });
    expect(linear(new Float32Array(0), wide)).toHaveLength(0);
    expect(() => linear(x, wide)).toThrow(InvalidArgumentError);
    const many = prepack(new Float32Array(0), { shape: [huge, 0] });
    expect(linear(new Float32Array(0), many)).toHaveLength(0);
  });

  it('getters that change arrays and weights behind our back do no harm', () => {
    for (const change of [
      (array: Float32Array) => structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] }),
      (_: Float32Array, weight: lowbit.PackedWeight) => weight.dispose(),
    ]) {
      const array = normal(2 * k, 1);
      const weight = prepack(q);
      const options = {
        get bias() {
          change(array, weight);
          return new Float32Array(n);
        },
        out: new Float32Array(2 * n),
      };
      expect(() => linear(array, weight, options)).toThrow(InvalidArgumentError);
    }
  });
});
