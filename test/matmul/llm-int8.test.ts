import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  castTensor,
  InvalidArgumentError,
  type LlmInt8Matrix,
  LlmInt8Weight,
  linear,
  llmInt8Linear,
  llmInt8LinearAsync,
  NonFiniteError,
  prepack,
  prepackLlmInt8,
  prepackLlmInt8Async,
  quantizeLlmInt8,
  quantizeLlmInt8Async,
} from '../../lib/index.js';
import { normal } from '../support/random.js';
import { type EncodedArray, float32, numbers, readJson } from '../support/vectors.js';

interface Golden {
  threshold: number;
  A: EncodedArray;
  CA: EncodedArray;
  SCA: EncodedArray;
  outlier_cols: EncodedArray;
  W: EncodedArray;
  CB: EncodedArray;
  SCB: EncodedArray;
  y_int8_part: EncodedArray;
}

const { cases } = readJson<{ cases: Golden[] }>('bitsandbytes', 'llm_int8.json');
const ROUNDING = 2 ** -24;

/** Activations with outliers in some columns and a row of zeros. */
function activations(m: number, k: number, seed: number, columns: readonly number[]): Float32Array {
  const x = normal(m * k, seed);
  for (const column of columns) for (let row = 0; row < m; row += 2) x[row * k + column] = 20 + row;
  if (m > 2) x.fill(0, k, 2 * k);
  return x;
}

interface Reference {
  /** In float64. */
  y: Float64Array;
  /** What the roundings of float32 can add up to. */
  bound: Float64Array;
}

/** y = x·Wᵀ + bias of float64, from the codes. */
function reference(x: Float32Array, w: LlmInt8Matrix, threshold: number, bias?: Float32Array): Reference {
  const [n, k] = w.shape;
  const m = x.length / k;
  const kept = [...w.outlierColumns];
  const a = quantizeLlmInt8(x, { shape: [m, k], threshold, outlierColumns: kept });
  const keptFloats = w.outlierWeights === null ? [] : castTensor(w.outlierWeights, { from: 'float16', to: 'float32' });
  const y = new Float64Array(m * n);
  const bound = new Float64Array(m * n);
  for (let row = 0; row < m; row++) {
    for (let column = 0; column < n; column++) {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += (a.codes[row * k + i] as number) * (w.codes[column * k + i] as number);
      const integers = (sum * (a.absmax[row] as number) * (w.absmax[column] as number)) / 127 ** 2;
      let floats = 0;
      let magnitudes = 0;
      for (const outlier of a.outlierColumns) {
        const weight = kept.includes(outlier)
          ? (keptFloats[column * kept.length + kept.indexOf(outlier)] as number)
          : ((w.codes[column * k + outlier] as number) * (w.absmax[column] as number)) / 127;
        const product = (x[row * k + outlier] as number) * weight;
        floats += product;
        magnitudes += Math.abs(product);
      }
      const added = bias?.[column] ?? 0;
      y[row * n + column] = integers + floats + added;
      // The sum as float32, both scales and two products; both roundings of a weight; then the bias and every product of
      // floats are added to what there is, with one rounding each. (Roundings of roundings are in the 1.0001.)
      const all = Math.abs(integers) + magnitudes + Math.abs(added);
      bound[row * n + column] =
        1.0001 * ROUNDING * (5 * Math.abs(integers) + 2 * magnitudes + (a.outlierColumns.length + 1) * all);
    }
  }
  return { y, bound };
}

function expectNear(actual: Float32Array, { y, bound }: Reference): void {
  expect(actual.length).toBe(y.length);
  const far = actual.findIndex((v, i) => !(Math.abs(v - (y[i] as number)) <= (bound[i] as number)));
  expect(far === -1 ? [] : [far, actual[far], y[far], bound[far]]).toEqual([]);
}

describe('bitsandbytes', () => {
  it.each(cases.map((golden) => [`threshold ${golden.threshold}, K = ${golden.A.shape[1]}`, golden] as const))(
    '%s: codes and absmax are equal bit for bit, products within the roundings',
    (_, golden) => {
      const [m, k] = golden.A.shape as [number, number];
      const [n] = golden.W.shape as [number];
      const a = quantizeLlmInt8(float32(golden.A), { shape: [m, k], threshold: golden.threshold });
      expect(Array.from(a.codes)).toEqual(numbers(golden.CA));
      expect(a.absmax).toEqual(float32(golden.SCA));
      expect(Array.from(a.outlierColumns)).toEqual(numbers(golden.outlier_cols));
      const w = quantizeLlmInt8(float32(golden.W), { shape: [n, k] });
      expect(Array.from(w.codes)).toEqual(numbers(golden.CB));
      expect(w.absmax).toEqual(float32(golden.SCB));

      const x = float32(golden.A);
      const y = llmInt8Linear(x, w, { threshold: golden.threshold });
      const { y: expected, bound } = reference(x, w, golden.threshold);
      expectNear(y, { y: expected, bound });
      // Their constant for 1/127² is 6.200124e-5, 1.807e-5 too large.
      const theirs = float32(golden.y_int8_part);
      for (let i = 0; i < y.length; i++) {
        let floats = 0;
        for (const column of a.outlierColumns) {
          const [row, output] = [Math.floor(i / n), i % n];
          floats +=
            ((x[row * k + column] as number) *
              (w.codes[output * k + column] as number) *
              (w.absmax[output] as number)) /
            127;
        }
        const whole = (theirs[i] as number) + floats;
        const allowed = 1.81e-5 * Math.abs(theirs[i] as number) + 4 * ROUNDING * Math.abs(whole) + (bound[i] as number);
        expect(Math.abs((y[i] as number) - whole)).toBeLessThanOrEqual(allowed);
      }
    },
  );
});

describe('quantizeLlmInt8', () => {
  it('leaves given columns out of absmax and codes, and keeps them in float16', () => {
    const w = quantizeLlmInt8(Float32Array.of(1, 100, -0.5, 2, -200.1, 4), { shape: [2, 3], outlierColumns: [1] });
    expect(w.codes).toEqual(Int8Array.of(127, 0, -64, 64, 0, 127));
    expect(w.absmax).toEqual(Float32Array.of(1, 4));
    expect(w.outlierColumns).toEqual(Int32Array.of(1));
    expect(castTensor(w.outlierWeights as Uint16Array, { from: 'float16', to: 'float32' })).toEqual(
      Float32Array.of(100, -200.125),
    );
  });

  it('takes halves as the numbers that they are', () => {
    const x = normal(5 * 33, 1);
    for (const inputDtype of ['float16', 'bfloat16'] as const) {
      const halves = castTensor(x, { from: 'float32', to: inputDtype });
      const floats = castTensor(halves, { from: inputDtype, to: 'float32' });
      const options = { shape: [5, 33] as const, outlierColumns: [0, 32], threshold: 2 };
      const expected = quantizeLlmInt8(floats, options);
      expect(quantizeLlmInt8(halves, { ...options, inputDtype })).toEqual(expected);
    }
  });

  it('gives rows of zeros, and of next to nothing, codes 0', () => {
    const q = quantizeLlmInt8(Float32Array.of(0, -0, 1e-40, 1e-45), { shape: [2, 2] });
    expect(q.codes).toEqual(new Int8Array(4));
    expect(quantizeLlmInt8(new Float32Array(0), { shape: [0, 9] }).codes.length).toBe(0);
    expect(quantizeLlmInt8(new Float32Array(0), { shape: [3, 0] }).absmax).toEqual(new Float32Array(3));
  });

  it('refuses what does not fit, and says what', () => {
    const x = normal(12, 1);
    const shape = [3, 4] as const;
    const wrong: [() => unknown, string][] = [
      [() => quantizeLlmInt8(x, {} as never), 'shape'],
      [() => quantizeLlmInt8(x, { shape: [3, 5] }), 'shape'],
      [() => quantizeLlmInt8(x, { shape: [12] as never }), 'shape'],
      [() => quantizeLlmInt8([] as never, { shape }), 'input'],
      [() => quantizeLlmInt8(x, { shape, threshold: -1 }), 'threshold'],
      [() => quantizeLlmInt8(x, { shape, threshold: Number.NaN }), 'threshold'],
      [() => quantizeLlmInt8(x, { shape, outlierColumns: [4] }), 'outlierColumns[0]'],
      [() => quantizeLlmInt8(x, { shape, outlierColumns: [1, 1] }), 'outlierColumns[1]'],
      [() => quantizeLlmInt8(x, { shape, outlierColumns: 1 as never }), 'outlierColumns'],
      [() => quantizeLlmInt8(new Float32Array(12).fill(1e5), { shape, outlierColumns: [1] }), 'outlierColumns'],
      [() => quantizeLlmInt8(x, { shape, scale: 1 } as never), 'scale'],
    ];
    for (const [call, argument] of wrong) {
      expect(call).toThrow(InvalidArgumentError);
      expect(call).toThrow(expect.objectContaining({ argument }) as Error);
    }
    const infinite = x.slice();
    infinite[7] = Number.NEGATIVE_INFINITY;
    expect(() => quantizeLlmInt8(infinite, { shape, threshold: 6 })).toThrow(NonFiniteError);
    expect(() => quantizeLlmInt8(infinite, { shape })).toThrow('-Infinity at index 7 of input');
  });
});

describe('llmInt8Linear', () => {
  it('is the product of float64 within its roundings, for any size and outliers', () => {
    const size = fc.tuple(
      fc.integer({ min: 0, max: 6 }),
      fc.integer({ min: 0, max: 40 }),
      fc.integer({ min: 1, max: 90 }),
    );
    fc.assert(
      fc.property(
        size,
        fc.array(fc.nat(89), { maxLength: 3 }),
        fc.nat(89),
        fc.nat(1000),
        ([m, n, k], found, kept, seed) => {
          const columns = found.filter((column) => column < k);
          const x = activations(m, k, seed, columns);
          const outlierColumns = kept < k && seed % 2 === 0 ? [kept] : [];
          const w = quantizeLlmInt8(normal(n * k, seed + 1), { shape: [n, k], outlierColumns });
          const bias = seed % 3 === 0 ? normal(n, seed + 2) : undefined;
          const expected = reference(x, w, 6, bias);
          const packed = prepackLlmInt8(w);
          expect([packed.rows, packed.cols]).toEqual([n, k]);
          expectNear(llmInt8Linear(x, packed, bias === undefined ? {} : { bias }), expected);
          expectNear(llmInt8Linear(x, w, bias === undefined ? {} : { bias }), expected);
          packed.dispose();
        },
      ),
      { numRuns: 60 },
    );
  });

  it('loses little where a product of bytes alone loses much', () => {
    const [m, n, k] = [16, 48, 512];
    const x = activations(m, k, 1, [7, 300]);
    for (let row = 0; row < m; row++) x[row * k + 7] = 500;
    const weights = normal(n * k, 2);
    const exact = linear(x, prepack(weights, { shape: [n, k] }));
    const w = quantizeLlmInt8(weights, { shape: [n, k] });
    const error = (y: Float32Array) => Math.hypot(...y.map((v, i) => v - (exact[i] as number)));
    const coarse = error(llmInt8Linear(x, w, { threshold: 0 }));
    expect(error(llmInt8Linear(x, w))).toBeLessThan(coarse / 3); // the weights of the outliers are rounded, too
    const kept = quantizeLlmInt8(weights, { shape: [n, k], outlierColumns: [7, 300] });
    expect(error(llmInt8Linear(x, kept))).toBeLessThan(coarse / 20);
  });

  it('gives rows of zeros the bias', () => {
    const w = quantizeLlmInt8(normal(6, 1), { shape: [2, 3] });
    expect(llmInt8Linear(new Float32Array(6), w, { bias: Float32Array.of(1, 2) })).toEqual(Float32Array.of(1, 2, 1, 2));
    const zero = quantizeLlmInt8(new Float32Array(6), { shape: [2, 3] });
    expect(llmInt8Linear(normal(3, 2), zero)).toEqual(new Float32Array(2));
  });

  it('takes the fields of a bitsandbytes checkpoint', () => {
    const { codes, absmax } = quantizeLlmInt8(normal(20, 1), { shape: [4, 5] });
    const loaded = { shape: [4, 5] as const, codes, absmax, outlierColumns: new Int32Array(0), outlierWeights: null };
    expect(llmInt8Linear(new Float32Array(5).fill(1), structuredClone(loaded)).length).toBe(4);
  });

  it('writes to out, in shared memory as well', () => {
    const w = quantizeLlmInt8(normal(20, 1), { shape: [4, 5] });
    const x = new Float32Array(new SharedArrayBuffer(40)).fill(0.5);
    const out = new Float32Array(new SharedArrayBuffer(32));
    expect(llmInt8Linear(x, w, { out })).toBe(out);
    expect(Float32Array.from(out)).toEqual(llmInt8Linear(Float32Array.from(x), w));
  });

  it('refuses what does not fit, and says what', () => {
    const q = quantizeLlmInt8(normal(20, 1), { shape: [4, 5] });
    const found = quantizeLlmInt8(normal(20, 1, 10), { shape: [4, 5], threshold: 6 });
    const kept = quantizeLlmInt8(normal(20, 1), { shape: [4, 5], outlierColumns: [2] });
    const w = prepackLlmInt8(kept);
    expect(w.nbytes).toBeGreaterThan(20);
    const disposed = prepackLlmInt8(q);
    disposed.dispose();
    disposed.dispose();
    expect([disposed.nbytes, disposed.disposed]).toEqual([0, true]);
    const x = new Float32Array(10);
    const wrong: [() => unknown, string][] = [
      [() => llmInt8Linear(x, disposed), 'w'],
      [() => llmInt8Linear(new Float32Array(9), w), 'x'],
      [() => llmInt8Linear(x, null as never), 'w'],
      [() => llmInt8Linear(x, {} as never), 'w.shape'],
      [() => llmInt8Linear(x, w, { threshold: -6 }), 'threshold'],
      [() => llmInt8Linear(x, w, { bias: new Float32Array(3) }), 'bias'],
      [() => llmInt8Linear(x, w, { out: new Float32Array(9) }), 'out'],
      [() => llmInt8Linear(x, w, { treshold: 6 } as never), 'treshold'],
      [() => prepackLlmInt8(found), 'q.outlierWeights'],
      [() => prepackLlmInt8({ ...q, codes: new Int8Array(19) }), 'q.codes'],
      [() => prepackLlmInt8({ ...q, absmax: Float32Array.of(1, 1, Number.NaN, 1) }), 'q.absmax'],
      [() => prepackLlmInt8({ ...q, absmax: Float32Array.of(1, 1, -1, 1) }), 'q.absmax'],
      [() => prepackLlmInt8({ ...kept, outlierColumns: Int32Array.of(5) }), 'q.outlierColumns[0]'],
      [() => prepackLlmInt8({ ...kept, outlierWeights: new Uint16Array(3) }), 'q.outlierWeights'],
      [() => new (LlmInt8Weight as unknown as new () => unknown)(), 'LlmInt8Weight'],
    ];
    for (const [call, argument] of wrong) {
      expect(call).toThrow(InvalidArgumentError);
      expect(call).toThrow(expect.objectContaining({ argument }) as Error);
    }
    x[3] = Number.POSITIVE_INFINITY;
    expect(() => llmInt8Linear(x, w)).toThrow('Infinity at index 3 of x');
    const memory = new Float32Array(20);
    expect(() => llmInt8Linear(memory.subarray(0, 10), w, { out: memory.subarray(9, 17) })).toThrow('overlap');
  });

  it('has async twins with the same bytes', async () => {
    const [m, n, k] = [9, 33, 70];
    const weights = normal(n * k, 1);
    const x = activations(m, k, 2, [3]);
    const options = { shape: [n, k] as const, outlierColumns: [5] };
    const q = await quantizeLlmInt8Async(weights, options);
    expect(q).toEqual(quantizeLlmInt8(weights, options));
    const expected = llmInt8Linear(x, q);
    const w = await prepackLlmInt8Async(q);
    expect(await llmInt8LinearAsync(x, q)).toEqual(expected);
    const out = new Float32Array(m * n);
    const running = llmInt8LinearAsync(x, w, { out });
    w.dispose(); // a call that has begun keeps its weight
    expect(await running).toBe(out);
    expect(out).toEqual(expected);
    const signal = AbortSignal.abort(new Error('no more'));
    await expect(quantizeLlmInt8Async(weights, { ...options, signal })).rejects.toThrow('no more');
    await expect(prepackLlmInt8Async(q, { signal })).rejects.toThrow('no more');
    await expect(llmInt8LinearAsync(x, q, { signal })).rejects.toThrow('no more');
    x[4] = Number.NaN;
    await expect(llmInt8LinearAsync(x, q)).rejects.toThrow('NaN at index 4 of x');
    await expect(quantizeLlmInt8Async(x, { shape: [m, k] })).rejects.toThrow('NaN at index 4 of input');
  });
});
