import { describe, expect, it } from 'vitest';
import {
  compareTensors,
  compareTensorsAsync,
  dequantizeTensor,
  NonFiniteError,
  quantizeTensor,
} from '../../lib/index.js';
import { normal } from '../support/random.js';

/** The same sums, one element after the other in float64. */
function plainly(reference: Float32Array, other: Float32Array) {
  let [signal, otherPower, product, noise, maxAbs] = [0, 0, 0, 0, 0];
  reference.forEach((r, i) => {
    const o = other[i] as number;
    signal += r * r;
    otherPower += o * o;
    product += r * o;
    noise += (r - o) ** 2;
    maxAbs = Math.max(maxAbs, Math.abs(r - o));
  });
  return {
    sqnrDb: 10 * Math.log10(signal / noise),
    cosine: product / Math.sqrt(signal * otherPower),
    mse: noise / reference.length,
    maxAbs,
  };
}

describe('compareTensors', () => {
  it.each([1, 7, 100, 4097, 200_000])('equals float64 sums over %i elements', (n) => {
    const a = normal(n, n);
    const b = dequantizeTensor(quantizeTensor(a, { dtype: 'int4' }));
    if (n === 1) b[0] = (b[0] as number) * 1.01;
    const got = compareTensors(a, b);
    const expected = plainly(a, b);
    expect(got.sqnrDb).toBeCloseTo(expected.sqnrDb, 8);
    expect(got.cosine).toBeCloseTo(expected.cosine, 11);
    expect(got.mse / expected.mse).toBeCloseTo(1, 10);
    expect(got.maxAbs).toBe(expected.maxAbs);
  });

  it('says what equal, zero and empty tensors are', () => {
    const zero = new Float32Array(5);
    const one = new Float32Array(5).fill(1);
    expect(compareTensors(one, one)).toEqual({ sqnrDb: Number.POSITIVE_INFINITY, cosine: 1, mse: 0, maxAbs: 0 });
    expect(compareTensors(zero, zero)).toEqual({ sqnrDb: Number.POSITIVE_INFINITY, cosine: 1, mse: 0, maxAbs: 0 });
    expect(compareTensors(zero, one)).toEqual({ sqnrDb: Number.NEGATIVE_INFINITY, cosine: 0, mse: 1, maxAbs: 1 });
    expect(compareTensors(new Float32Array(0), new Float32Array(0))).toEqual({
      sqnrDb: Number.POSITIVE_INFINITY,
      cosine: 1,
      mse: 0,
      maxAbs: 0,
    });
  });

  it('does not overflow on huge values', () => {
    const huge = new Float32Array([1e38, -2e38]);
    expect(compareTensors(huge, new Float32Array([1e38, 2e38])).maxAbs).toBeCloseTo(4e38, -33);
  });

  it('names an element that is not finite, and the tensor that holds it', () => {
    const a = new Float32Array(10).fill(1);
    const b = Float32Array.from(a);
    b[3] = Number.NaN;
    expect(() => compareTensors(a, b)).toThrow(NonFiniteError);
    expect(() => compareTensors(a, b)).toThrow(/index 3 of other/);
    expect(() => compareTensors(b, a)).toThrow(/index 3 of reference/);
  });

  it('gives the same result off the event loop', async () => {
    const a = normal(100_000, 1);
    const b = dequantizeTensor(quantizeTensor(a, { dtype: 'int8' }));
    expect(await compareTensorsAsync(a, b)).toEqual(compareTensors(a, b));
  });
});
