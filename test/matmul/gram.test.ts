import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { gram, setNumThreads } from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { float32Bound } from '../support/products.js';
import { normal } from '../support/random.js';

/** xᵀ·x, and Σ|x|·|x|, in float64. */
function plain(x: Float32Array, m: number, k: number): { exact: Float64Array; sizes: Float64Array } {
  const exact = new Float64Array(k * k);
  const sizes = new Float64Array(k * k);
  for (let row = 0; row < m; row++) {
    for (let i = 0; i < k; i++) {
      for (let j = 0; j < k; j++) {
        const term = (x[row * k + i] as number) * (x[row * k + j] as number);
        exact[i * k + j] = (exact[i * k + j] as number) + term;
        sizes[i * k + j] = (sizes[i * k + j] as number) + Math.abs(term);
      }
    }
  }
  return { exact, sizes };
}

function expectGram(got: Float32Array, x: Float32Array, m: number, k: number): void {
  const { exact, sizes } = plain(x, m, k);
  expect(got).toHaveLength(k * k);
  for (let i = 0; i < exact.length; i++) {
    const error = Math.abs((got[i] as number) - (exact[i] as number));
    if (!(error <= float32Bound(m) * (sizes[i] as number))) expect.fail(`${got[i]} instead of ${exact[i]} at ${i}`);
  }
}

function expectSymmetric(got: Float32Array, k: number): void {
  for (let i = 0; i < k; i++) {
    for (let j = 0; j < i; j++) if (got[i * k + j] !== got[j * k + i]) expect.fail(`not symmetric at ${i}, ${j}`);
  }
}

describe('gram', () => {
  it('any sizes', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 1, max: 70 }), fc.nat(), (m, k, seed) => {
        const x = normal(m * k, seed);
        const got = gram(x, { k });
        expectGram(got, x, m, k);
        expectSymmetric(got, k);
      }),
      { numRuns: 150 },
    );
  });

  it.each([
    [1, 300],
    [511, 33],
    [512, 32],
    [513, 31],
    [1500, 65],
  ])('%i rows of %i', (m, k) => {
    const x = normal(m * k, m);
    expectGram(gram(x, { k }), x, m, k);
  });

  it('adds batch after batch', () => {
    const k = 47;
    const [first, second] = [normal(100 * k, 1), normal(600 * k, 2)];
    const out = gram(first, { k });
    const before = out.slice();
    expect(gram(second, { k, out })).toBe(out);
    const all = new Float32Array(700 * k);
    all.set(first);
    all.set(second, 100 * k);
    expectGram(out, all, 700, k);
    expectSymmetric(out, k);
    expect(sameBytes(gram(new Float32Array(0), { k, out }), out)).toBe(true);
    expect(sameBytes(before, gram(first, { k }))).toBe(true);
  });

  it('does not depend on the number of threads', () => {
    const k = 100;
    const x = normal(777 * k, 3);
    const expected = gram(x, { k });
    for (const threads of [1, 2, 5]) {
      setNumThreads(threads);
      expect(sameBytes(gram(x, { k }), expected)).toBe(true);
    }
    setNumThreads(2);
  });

  it('of nothing', () => {
    expect(gram(new Float32Array(0), { k: 0 })).toHaveLength(0);
    expect(gram(new Float32Array(0), { k: 3 })).toEqual(new Float32Array(9));
  });

  it('names NaN and infinity, and leaves out as it was', () => {
    const out = new Float32Array(16).fill(7);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const x = normal(4000, 1);
      x[3999] = bad;
      x[1234] = bad;
      const error = expect.objectContaining({ code: 'NON_FINITE', index: 1234, value: bad });
      expect(() => gram(x, { k: 4, out })).toThrow(error);
      expect(out).toEqual(new Float32Array(16).fill(7));
    }
  });
});
