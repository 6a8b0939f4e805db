import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import {
  capabilities,
  compareTensors,
  dequantizeBlocks,
  dequantizeBlocksAsync,
  type GgufType,
  InvalidArgumentError,
  NonFiniteError,
  quantizeBlocks,
  quantizeBlocksAsync,
  ScaleOverflowError,
  setNumThreads,
} from '../../lib/index.js';
import { anything, detached, survives } from '../support/anything.js';
import { sameBytes } from '../support/bytes.js';
import { normal } from '../support/random.js';
import { VECTORS } from '../support/vectors.js';

interface Type {
  type: GgufType;
  length: number;
  bytes: number;
  /** Whether an importance changes the bytes. */
  searches: boolean;
  /** ggml's own limit of √Σ(x − y)² / n, from its test-quantize-fns.cpp. */
  error: number;
}

const type = (name: GgufType, length: number, bytes: number, searches: boolean, error = 2e-3): Type => ({
  type: name,
  length,
  bytes,
  searches,
  error,
});

const TYPES: Type[] = [
  type('q4_0', 32, 18, true),
  type('q4_1', 32, 20, true),
  type('q5_0', 32, 22, true),
  type('q5_1', 32, 24, true),
  type('q8_0', 32, 34, false),
  type('q2_k', 256, 84, true, 7.5e-3),
  type('q3_k', 256, 110, true, 4e-3),
  type('q4_k', 256, 144, true),
  type('q5_k', 256, 176, true),
  type('q6_k', 256, 210, true),
  type('q8_k', 256, 292, false),
  type('iq4_nl', 32, 18, true),
  type('iq4_xs', 256, 136, true),
  type('tq1_0', 256, 54, false, 1e-2),
  type('tq2_0', 256, 66, false, 1e-2),
  type('mxfp4', 32, 17, false, 3e-3),
  type('nvfp4', 64, 36, false, 3e-3),
];

const file = (name: string) => new Uint8Array(readFileSync(join(VECTORS, 'gguf', name)));
const floatFile = (name: string) => new Float32Array(file(name).buffer);
const golden = (name: GgufType, suffix: string) => file(`${name.toUpperCase()}${suffix}`);

const ROW = 512;
const input = floatFile('input_f32.bin');
const importance = floatFile('imatrix_f32.bin');

describe('golden vectors of ggml', () => {
  it.each(TYPES)('$type: the same bytes', ({ type }) => {
    expect(sameBytes(quantizeBlocks(input, { type, rowLength: ROW }), golden(type, '.bin'))).toBe(true);
  });

  it.each(TYPES.filter(({ searches }) => searches))('$type: the same bytes with an importance', ({ type }) => {
    const got = quantizeBlocks(input, { type, rowLength: ROW, importance });
    expect(sameBytes(got, golden(type, '.imatrix.bin'))).toBe(true);
    expect(sameBytes(got, golden(type, '.bin'))).toBe(false);
  });

  it.each(TYPES.filter(({ searches }) => !searches))('$type ignores an importance, as ggml does', ({ type }) => {
    expect(sameBytes(quantizeBlocks(input, { type, rowLength: ROW, importance }), golden(type, '.bin'))).toBe(true);
  });

  it.each(TYPES)('$type: the same floats', ({ type, length }) => {
    const expected = new Float32Array(golden(type, '.deq_f32.bin').buffer);
    expect(sameBytes(dequantizeBlocks(golden(type, '.bin'), { type, rowLength: ROW }), expected)).toBe(true);
    const random = new Float32Array(golden(type, '.rand.deq_f32.bin').buffer);
    expect(sameBytes(dequantizeBlocks(golden(type, '.rand.bin'), { type, rowLength: length }), random)).toBe(true);
  });
});

describe('the formats', () => {
  it.each(TYPES)('$type: errors are within the limits of ggml', ({ type, error }) => {
    const n = 4096;
    const x = Float32Array.from({ length: n }, (_, i) => 0.1 + 2 * Math.cos(i));
    const back = dequantizeBlocks(quantizeBlocks(x, { type, rowLength: n }), { type, rowLength: n });
    expect(Math.sqrt(compareTensors(x, back).mse * n) / n).toBeLessThan(error);
  });

  it.each(TYPES)('$type: $bytes bytes for $length elements, rows one after the other', ({ type, length, bytes }) => {
    const x = normal(6 * length, 1);
    const whole = quantizeBlocks(x, { type, rowLength: 2 * length });
    expect(whole).toHaveLength(6 * bytes);
    const row = quantizeBlocks(x.subarray(2 * length, 4 * length), { type, rowLength: 2 * length });
    expect(sameBytes(whole.subarray(2 * bytes, 4 * bytes), row)).toBe(true);
  });

  // ggml's own data and limits: tests/test-quantize-fns.cpp, where the norm of the error is divided by the number of
  // elements.
  it.each(TYPES)("$type: the error is within ggml's limits", ({ type }) => {
    const limits: Partial<Record<GgufType, number>> = {
      q2_k: 0.0075,
      q3_k: 0.004,
      mxfp4: 0.003,
      nvfp4: 0.003,
      tq1_0: 0.01,
      tq2_0: 0.01,
    };
    const x = Float32Array.from({ length: 4096 }, (_, i) => 0.1 + 2 * Math.cos(i));
    const back = dequantizeBlocks(quantizeBlocks(x, { type, rowLength: 4096 }), { type, rowLength: 4096 });
    const { mse } = compareTensors(x, back);
    expect(Math.sqrt(mse * x.length) / x.length).toBeLessThan(limits[type] ?? 0.002);
  });

  it('an importance moves the error to where it counts less', () => {
    const x = normal(64 * 256, 2);
    const weights = Float32Array.from({ length: 256 }, (_, i) => (i % 2 === 0 ? 100 : 0.01));
    const even = x.filter((_, i) => i % 2 === 0);
    for (const { type, searches } of TYPES) {
      if (!searches) continue;
      const errorOfEven = (blocks: Uint8Array) =>
        compareTensors(
          even,
          dequantizeBlocks(blocks, { type, rowLength: 256 }).filter((_, i) => i % 2 === 0),
        ).mse;
      const plain = errorOfEven(quantizeBlocks(x, { type, rowLength: 256 }));
      expect(errorOfEven(quantizeBlocks(x, { type, rowLength: 256, importance: weights }))).toBeLessThan(plain);
    }
  });

  it('columns of no importance are as good as they come', () => {
    const x = normal(1024, 3);
    const half = Float32Array.from({ length: 512 }, (_, i) => i % 2);
    for (const { type, searches } of TYPES) {
      if (!searches) continue;
      const sqnr = (importance: Float32Array) =>
        compareTensors(
          x,
          dequantizeBlocks(quantizeBlocks(x, { type, rowLength: 512, importance }), { type, rowLength: 512 }),
        ).sqnrDb;
      expect(sqnr(half)).toBeGreaterThan(6);
      // Where nothing counts, most of ggml's searches settle for zeros.
      expect(sqnr(new Float32Array(512))).toBeGreaterThanOrEqual(0);
    }
  });

  it('subnormal and tiny values decode to zeros or nearly so', () => {
    const x = normal(256, 4, 1e-40);
    for (const { type } of TYPES) {
      const back = dequantizeBlocks(quantizeBlocks(x, { type, rowLength: 256 }), { type, rowLength: 256 });
      expect(compareTensors(x, back).maxAbs).toBeLessThan(1e-37);
    }
  });
});

describe('threads', () => {
  const before = capabilities().threads;
  afterEach(() => setNumThreads(before));

  it('have no influence on the result', () => {
    const x = normal(200 * 768, 5);
    const weights = normal(768, 6).map(Math.abs);
    for (const { type } of TYPES) {
      setNumThreads(1);
      const one = quantizeBlocks(x, { type, rowLength: 768, importance: weights });
      const floats = dequantizeBlocks(one, { type, rowLength: 768 });
      for (const threads of [2, 5]) {
        setNumThreads(threads);
        expect(sameBytes(quantizeBlocks(x, { type, rowLength: 768, importance: weights }), one)).toBe(true);
        expect(sameBytes(dequantizeBlocks(one, { type, rowLength: 768 }), floats)).toBe(true);
      }
    }
  });
});

describe('buffers', () => {
  it('writes into out and returns it', () => {
    const x = normal(64, 7);
    const blocks = quantizeBlocks(x, { type: 'q5_1', rowLength: 64 });
    const bytes = new Uint8Array(48).fill(0xaa);
    expect(quantizeBlocks(x, { type: 'q5_1', rowLength: 64, out: bytes })).toBe(bytes);
    expect(sameBytes(bytes, blocks)).toBe(true);
    const out = new Float32Array(64).fill(7);
    expect(dequantizeBlocks(blocks, { type: 'q5_1', rowLength: 32, out })).toBe(out);
    expect(sameBytes(out, dequantizeBlocks(blocks, { type: 'q5_1', rowLength: 64 }))).toBe(true);
  });

  it('leaves no byte of out as it was', () => {
    for (const { type } of TYPES) {
      for (const x of [new Float32Array(512), normal(512, 8)]) {
        const ones = quantizeBlocks(x, { type, rowLength: 512 });
        const out = new Uint8Array(ones.length).fill(0xff);
        expect(sameBytes(quantizeBlocks(x, { type, rowLength: 512, out }), ones)).toBe(true);
      }
    }
  });

  it('accepts empty input', () => {
    for (const { type } of TYPES) {
      expect(quantizeBlocks(new Float32Array(0), { type, rowLength: 256 })).toHaveLength(0);
      expect(dequantizeBlocks(new Uint8Array(0), { type, rowLength: 256 })).toHaveLength(0);
    }
  });

  it('accepts data that starts anywhere', () => {
    for (const { type } of TYPES) {
      const bytes = golden(type, '.bin');
      const shifted = new Uint8Array(bytes.length + 1).subarray(1);
      shifted.set(bytes);
      const expected = dequantizeBlocks(bytes, { type, rowLength: ROW });
      expect(sameBytes(dequantizeBlocks(shifted, { type, rowLength: ROW }), expected)).toBe(true);
    }
  });
});

describe('async twins', () => {
  it('give the same bytes', async () => {
    for (const { type } of TYPES) {
      const blocks = await quantizeBlocksAsync(input, { type, rowLength: ROW, importance });
      expect(sameBytes(blocks, quantizeBlocks(input, { type, rowLength: ROW, importance }))).toBe(true);
      const floats = await dequantizeBlocksAsync(blocks, { type, rowLength: ROW });
      expect(sameBytes(floats, dequantizeBlocks(blocks, { type, rowLength: ROW }))).toBe(true);
    }
  });

  it('are not disturbed when the caller changes what was passed', async () => {
    const x = Float32Array.from(input);
    const weights = Float32Array.from(importance);
    const out = new Uint8Array((input.length / 256) * 144);
    const promise = quantizeBlocksAsync(x, { type: 'q4_k', rowLength: ROW, importance: weights, out });
    x.fill(Number.NaN);
    weights.fill(-1);
    expect(await promise).toBe(out);
    expect(sameBytes(out, golden('q4_k', '.imatrix.bin'))).toBe(true);
  });

  it('reject as the synchronous calls throw, and with the reason of a signal', async () => {
    const bad = Float32Array.from(input);
    bad[77] = Number.NaN;
    await expect(quantizeBlocksAsync(bad, { type: 'q6_k', rowLength: ROW })).rejects.toThrow(NonFiniteError);
    await expect(dequantizeBlocksAsync(new Uint8Array(1), { type: 'q6_k', rowLength: 256 })).rejects.toThrow(
      InvalidArgumentError,
    );
    const controller = new AbortController();
    const promise = quantizeBlocksAsync(normal(1 << 21, 9), {
      type: 'iq4_xs',
      rowLength: 1 << 21,
      signal: controller.signal,
    });
    controller.abort(new Error('enough'));
    await expect(promise).rejects.toThrow('enough');
  });
});

describe('bad input', () => {
  const x = normal(256, 10);

  it.each(TYPES)('$type: the first NaN or infinity is named', ({ type }) => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const bad = Float32Array.from(input);
      bad[5000] = bad[4321] = value;
      expect(() => quantizeBlocks(bad, { type, rowLength: ROW })).toThrow(NonFiniteError);
      expect(() => quantizeBlocks(bad, { type, rowLength: ROW, importance })).toThrow(
        expect.objectContaining({ code: 'NON_FINITE', index: 4321, value }),
      );
    }
  });

  it.each(TYPES)('$type: values past its scales are named, or representable', ({ type, length }) => {
    for (const value of [3e8, -3e38]) {
      const bad = Float32Array.from(input);
      bad[4321] = value;
      const call = () => quantizeBlocks(bad, { type, rowLength: ROW });
      if (type === 'q8_k' || type === 'mxfp4' || (type === 'nvfp4' && value === 3e8)) {
        const back = dequantizeBlocks(call(), { type, rowLength: ROW });
        expect(Math.sign(back[4321] as number)).toBe(Math.sign(value));
        expect(Number.isFinite(back[4321])).toBe(true);
      } else {
        expect(call).toThrow(ScaleOverflowError);
        expect(call).toThrow(expect.objectContaining({ index: Math.floor(4321 / length) }));
      }
    }
  });

  it.each([
    [
      'type',
      () => quantizeBlocks(x, { type: 'q4_2' as GgufType, rowLength: 256 }),
      'Expected one of q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, q8_k, iq4_nl, iq4_xs, tq1_0, tq2_0, mxfp4, nvfp4 for type but received "q4_2".',
    ],
    [
      'rowLength',
      () => quantizeBlocks(x, { type: 'q4_k', rowLength: 128 }),
      'Expected a multiple of 256, the block length of q4_k, for rowLength but received 128.',
    ],
    [
      'rowLength',
      () => dequantizeBlocks(new Uint8Array(18), { type: 'q4_0' } as never),
      'Expected an integer of at least 1 for rowLength but received undefined.',
    ],
    [
      'input',
      () => quantizeBlocks(x, { type: 'q4_0', rowLength: 96 }),
      'Expected input to have whole rows of 96 elements but its length is 256.',
    ],
    [
      'data',
      () => dequantizeBlocks(new Uint8Array(35), { type: 'q4_0', rowLength: 64 }),
      'Expected data to have whole rows of 36 bytes but its length is 35.',
    ],
    [
      'importance',
      () => quantizeBlocks(x, { type: 'q4_0', rowLength: 64, importance: new Float32Array(256) }),
      'Expected length 64 for importance but received a Float32Array of length 256.',
    ],
    [
      'importance',
      () => quantizeBlocks(x, { type: 'q4_0', rowLength: 256, importance: x }),
      /^Expected importance to be finite and not negative but received -/,
    ],
    [
      'importance',
      () => quantizeBlocks(x, { type: 'q8_0', rowLength: 256, importance: new Float32Array(256).fill(Infinity) }),
      'Expected importance to be finite and not negative but received inf at index 0.',
    ],
    [
      'out',
      () => quantizeBlocks(x, { type: 'q4_0', rowLength: 256, out: new Uint8Array(8) }),
      'Expected length 144 for out but received a Uint8Array of length 8.',
    ],
    [
      'out',
      () => dequantizeBlocks(new Uint8Array(18), { type: 'q4_0', rowLength: 32, out: new Uint8Array(32) as never }),
      'Expected a Float32Array for out but received a Uint8Array of length 32.',
    ],
    [
      'input',
      () => quantizeBlocks(new Float64Array(32) as never, { type: 'q4_0', rowLength: 32 }),
      'Expected a Float32Array for input but received a Float64Array of length 32.',
    ],
    [
      'input',
      () => quantizeBlocks(detached(), { type: 'q4_0', rowLength: 32 }),
      'Expected input to be attached but its buffer has been transferred away.',
    ],
    [
      'rowlength',
      () => quantizeBlocks(x, { type: 'q4_0', rowlength: 32 } as never),
      'Unknown option "rowlength". Did you mean rowLength?',
    ],
    [
      'importance',
      () => dequantizeBlocks(new Uint8Array(18), { type: 'q4_0', rowLength: 32, importance: x } as never),
      'Unknown option "importance". Known are type, rowLength, out, device.',
    ],
  ])('%s', (argument, call, message) => {
    expect(call).toThrow(InvalidArgumentError);
    expect(call).toThrow(message);
    expect(call).toThrow(expect.objectContaining({ argument }));
  });

  it('overlapping arrays are refused', () => {
    const buffer = new ArrayBuffer(1024);
    const floats = new Float32Array(buffer, 0, 32);
    const bytes = new Uint8Array(buffer, 100, 18);
    expect(() => quantizeBlocks(floats, { type: 'q4_0', rowLength: 32, out: bytes })).toThrow(/overlap/);
    expect(() => dequantizeBlocks(bytes, { type: 'q4_0', rowLength: 32, out: floats })).toThrow(/overlap/);
  });

  it('any value for any option is answered with a result or an error of ours', async () => {
    const options = fc.array(
      fc.record({
        name: fc.constantFrom('type', 'rowLength', 'importance', 'out', 'signal', 'unknown'),
        value: anything,
      }),
      { minLength: 1, maxLength: 3 },
    );
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...TYPES), options, async ({ type, bytes }, changes) => {
        const changed = Object.fromEntries(changes.map(({ name, value }) => [name, value]));
        const all = { type, rowLength: 256, ...changed } as never;
        const data = new Uint8Array(bytes * 8);
        await survives(() => quantizeBlocks(x, all));
        await survives(() => quantizeBlocksAsync(x, all));
        await survives(() => dequantizeBlocks(data, all));
        await survives(() => dequantizeBlocksAsync(data, all));
      }),
      { numRuns: 500 },
    );
  });
});
