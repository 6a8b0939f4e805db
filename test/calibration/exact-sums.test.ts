import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkSums, ExactSums, triangleLength } from '../../lib/calibration/exact-sums.js';
import { normal, random } from '../support/random.js';

/** Magnitudes from 1e-9 to 1e10. */
const values = fc.array(fc.tuple(fc.double({ min: -1, max: 1, noNaN: true }), fc.integer({ min: -9, max: 10 })), {
  minLength: 1,
  maxLength: 60,
});

function bits(sums: ExactSums): number[] {
  return [...sums.high, ...sums.low];
}

describe('ExactSums', () => {
  it('any order and any division give the same bits, close to the sum', () => {
    fc.assert(
      fc.property(values, fc.nat(), fc.nat(), (pairs, seed, cut) => {
        const numbers = pairs.map(([mantissa, exponent]) => mantissa * 10 ** exponent);
        const next = random(seed);
        const shuffled = numbers
          .map((value) => [next(), value] as const)
          .sort(([a], [b]) => a - b)
          .map(([, value]) => value);
        const [one, left, right] = [ExactSums.ofLength(1), ExactSums.ofLength(1), ExactSums.ofLength(1)];
        for (const value of numbers) one.add(0, value);
        const at = cut % (numbers.length + 1);
        for (const value of shuffled.slice(0, at)) left.add(0, value);
        for (const value of shuffled.slice(at)) right.add(0, value);
        right.merge(left);
        expect(bits(right)).toEqual(bits(one));
        // Whole numbers and fractions apart, so that float64 holds them.
        const whole = numbers.reduce((sum, value) => sum + BigInt(Math.round(value)), 0n);
        const expected = Number(whole) + numbers.reduce((sum, value) => sum + (value - Math.round(value)), 0);
        const largest = Math.max(...numbers.map(Math.abs));
        expect(Math.abs(one.at(0) - expected)).toBeLessThanOrEqual(numbers.length * (2 ** -46 + largest * 2 ** -52));
      }),
      { numRuns: 200 },
    );
  });

  it('triangles become symmetric matrices', () => {
    const k = 7;
    const x = normal(k * k, 3, 100);
    const matrix = x.map(
      (_, i) => (x[Math.floor(i / k) * k + (i % k)] as number) + (x[(i % k) * k + Math.floor(i / k)] as number),
    );
    const sums = ExactSums.ofLength(triangleLength(k));
    sums.addTriangle(matrix, k);
    expect(sums.matrix(k)).toEqual(matrix);
    sums.addTriangle(matrix, k);
    expect(sums.matrix(k)).toEqual(matrix.map((value) => 2 * value));
  });

  it('a sum that could no longer be exact is refused', () => {
    const sums = ExactSums.ofLength(2);
    sums.add(1, 2 ** 38);
    expect(() => checkSums('layers.0.mlp', sums, 1)).not.toThrow();
    sums.add(1, 2 ** 38);
    expect(() => checkSums('layers.0.mlp', sums, 2)).toThrow(
      expect.objectContaining({ code: 'CALIBRATION_OVERFLOW', layer: 'layers.0.mlp' }),
    );
    expect(() => checkSums('layers.0.mlp', ExactSums.ofLength(1), 2 ** 20 + 1)).toThrow(/1048577 windows/);
  });
});
