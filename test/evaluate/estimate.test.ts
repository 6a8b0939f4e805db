import { describe, expect, it } from 'vitest';
import { exponentialOf, meanOf, percentileOf, ratioOf, relativeChangeOf, scaled } from '../../lib/evaluate/estimate.js';

// numpy 2: a = [1.5, 2.25, 0.5, 4], b = [3, 5, 1, 9]; a.mean(), a.std(ddof=1) / 2; for the ratio the linearized
// (a - r·b).std(ddof=1) / 2 / b.mean(); numpy.percentile.
const A = [1.5, 2.25, 0.5, 4];
const B = [3, 5, 1, 9];
const NUMPY = {
  mean: 0.7386290792181598,
  ratio: 0.011953652303109309,
  percentiles: [
    [0, 0.5],
    [10, 0.8],
    [50, 1.875],
    [90, 3.475],
    [99.9, 3.99475],
    [100, 4],
  ],
} as const;

describe('estimates', () => {
  it('are means with the standard error of numpy', () => {
    const { value, standardError } = meanOf(A);
    expect(value).toBeCloseTo(2.0625, 14);
    expect(standardError).toBeCloseTo(NUMPY.mean, 12);
    expect(meanOf([7])).toEqual({ value: 7, standardError: null });
  });

  it('of ratios linearize', () => {
    const { value, standardError } = ratioOf(A, B);
    expect(value).toBeCloseTo(8.25 / 18, 14);
    expect(standardError).toBeCloseTo(NUMPY.ratio, 12);
    expect(ratioOf(A, [2, 2, 2, 2]).standardError).toBeCloseTo(NUMPY.mean / 2, 12);
  });

  it('go through functions by their slope', () => {
    const x = { value: 0.5, standardError: 0.01 };
    expect(exponentialOf(x).value).toBe(Math.exp(0.5));
    expect(exponentialOf(x).standardError).toBeCloseTo(0.01 * Math.exp(0.5), 14);
    expect(relativeChangeOf({ value: 1e-12, standardError: null }).value).toBeCloseTo(1e-12, 20);
    expect(scaled(x, -2)).toEqual({ value: -1, standardError: 0.02 });
  });

  it('have the percentiles of numpy', () => {
    const sorted = Float64Array.from([...A].sort((a, b) => a - b));
    for (const [percent, expected] of NUMPY.percentiles)
      expect(percentileOf(sorted, percent)).toBeCloseTo(expected, 14);
    expect(percentileOf(Float64Array.of(3), 99)).toBe(3);
  });
});
