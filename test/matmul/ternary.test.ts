import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  InvalidArgumentError,
  linear,
  matmulInteger,
  packTernary,
  prepack,
  prepackInteger,
  prepackTernary,
  prepackTernaryAsync,
  ternaryMatmul,
  ternaryMatmulAsync,
} from '../../lib/index.js';
import { random } from '../support/random.js';

function integers(count: number, seed: number, lowest: number, highest: number): Int8Array {
  const next = random(seed);
  return Int8Array.from({ length: count }, () => lowest + Math.floor(next() * (highest - lowest + 1)));
}

function transposed(w: Int8Array, n: number, k: number): Int8Array {
  const result = new Int8Array(k * n);
  for (let i = 0; i < n * k; i++) result[(i % k) * n + Math.floor(i / k)] = w[i] as number;
  return result;
}

const sizes = fc.tuple(
  fc.integer({ min: 0, max: 9 }),
  fc.integer({ min: 0, max: 40 }),
  fc.oneof(fc.integer({ min: 0, max: 70 }), fc.integer({ min: 250, max: 600 })),
);

describe('ternaryMatmul', () => {
  it('equals matmulInteger on the same digits, packed by the call or before', () => {
    fc.assert(
      fc.property(sizes, fc.nat(1000), ([m, n, k], seed) => {
        const a = integers(m * k, seed, -128, 127);
        const digits = integers(n * k, seed + 1, -1, 1);
        const expected = matmulInteger(a, transposed(digits, n, k), { m, n, k });
        const data = packTernary(digits, { shape: [n, k] });
        expect(ternaryMatmul(a, data, { m, n, k })).toEqual(expected);
        for (const packing of ['2bit', 'base3'] as const) {
          const w = prepackTernary(packTernary(digits, { shape: [n, k], packing }), { n, k, packing });
          expect([w.rows, w.cols, w.kind]).toEqual([n, k, 'quantized']);
          expect(ternaryMatmul(a, w, { m, n, k })).toEqual(expected);
          w.dispose();
        }
      }),
      { numRuns: 60 },
    );
  });

  it('is exact where float32 is not, and for many rows', () => {
    const k = 150_001;
    const a = new Int8Array(k).fill(-128);
    const data = packTernary(new Int8Array(k).fill(-1));
    expect(ternaryMatmul(a, data, { m: 1, n: 1, k })).toEqual(Int32Array.of(128 * k));
    const [m, n, width] = [500, 30, 90];
    const x = integers(m * width, 1, -128, 127);
    const digits = integers(n * width, 2, -1, 1);
    const size = { m, n, k: width };
    expect(ternaryMatmul(x, packTernary(digits, { shape: [n, width] }), size)).toEqual(
      matmulInteger(x, transposed(digits, n, width), size),
    );
  });

  it('takes weights at a quarter of the memory of bytes, that linear takes, too', () => {
    const [n, k] = [64, 1024];
    const digits = integers(n * k, 3, -1, 1);
    const w = prepackTernary(packTernary(digits, { shape: [n, k] }), { n, k });
    expect(w.nbytes).toBeLessThan(0.3 * prepackInteger(transposed(digits, n, k), { n, k }).nbytes);
    const x = integers(k, 4, -100, 100);
    const y = linear(Float32Array.from(x), w, { computeDtype: 'float32' });
    expect(y).toEqual(Float32Array.from(ternaryMatmul(x, w, { m: 1, n, k }))); // sums below 2^24 are exact
  });

  it('refuses what does not fit, and says what', () => {
    const [m, n, k] = [2, 3, 5];
    const a = new Int8Array(m * k);
    const data = new Uint8Array(n * 2);
    const int4 = { dtype: 'int4', shape: [n, k], scheme: 'symmetric', granularity: 'per-tensor' } as const;
    const other = prepack({ ...int4, data: new Uint8Array(9), scales: Float32Array.of(1), zeroPoints: null });
    const half = prepack({ ...int4, dtype: 'int2', data, scales: Float32Array.of(0.5), zeroPoints: null });
    const disposed = prepackTernary(data, { n, k });
    disposed.dispose();
    const wrong: [() => unknown, string][] = [
      [() => ternaryMatmul(new Uint8Array(m * k) as never, data, { m, n, k }), 'a'],
      [() => ternaryMatmul(a, data, { m: 3, n, k }), 'a'],
      [() => ternaryMatmul(a, data, { m, n: 4, k }), 'w'],
      [() => ternaryMatmul(a, other, { m, n, k }), 'w'],
      [() => ternaryMatmul(a, half, { m, n, k }), 'w'],
      [() => ternaryMatmul(a, disposed, { m, n, k }), 'w'],
      [() => ternaryMatmul(a, prepackTernary(data, { n, k }), { m, n: 2, k }), 'w'],
      [() => ternaryMatmul(a, prepackInteger(new Int8Array(n * k), { n, k }), { m, n, k }), 'w'],
      [() => ternaryMatmul(a, data.slice().fill(2), { m, n, k }), 'w'],
      [() => ternaryMatmul(a, data, { m, n, k, out: new Int32Array(5) }), 'out'],
      [() => ternaryMatmul(a, data, { m, n } as never), 'k'],
      [() => prepackTernary(data, { n, k: 9 }), 'data'],
      [() => prepackTernary(data.slice().fill(2), { n, k }), 'data'],
      [() => prepackTernary(new Uint8Array(3).fill(255), { n, k, packing: 'base3' }), 'data'],
      [() => prepackTernary(data, { n, k, packing: 'three' as never }), 'packing'],
    ];
    for (const [call, argument] of wrong) {
      expect(call).toThrow(InvalidArgumentError);
      expect(call).toThrow(expect.objectContaining({ argument }) as Error);
    }
  });

  it('has async twins with the same result', async () => {
    const [m, n, k] = [7, 50, 333];
    const a = integers(m * k, 1, -128, 127);
    const data = packTernary(integers(n * k, 2, -1, 1), { shape: [n, k] });
    const expected = ternaryMatmul(a, data, { m, n, k });
    const w = await prepackTernaryAsync(data, { n, k });
    expect(await ternaryMatmulAsync(a, data, { m, n, k })).toEqual(expected);
    const shared = new Int8Array(new SharedArrayBuffer(a.length));
    shared.set(a);
    const out = new Int32Array(m * n);
    const running = ternaryMatmulAsync(shared, w, { m, n, k, out });
    w.dispose(); // a call that has begun keeps its weight
    expect(await running).toBe(out);
    expect(out).toEqual(expected);
    await expect(ternaryMatmulAsync(a, data.slice().fill(2), { m, n, k })).rejects.toThrow('w but not so at element 0');
    await expect(prepackTernaryAsync(data.slice().fill(2), { n, k })).rejects.toThrow(InvalidArgumentError);
    const signal = AbortSignal.abort(new Error('no more'));
    await expect(ternaryMatmulAsync(a, data, { m, n, k, signal })).rejects.toThrow('no more');
    await expect(prepackTernaryAsync(data, { n, k, signal })).rejects.toThrow('no more');
  });
});
