import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  binaryMatmul,
  binaryMatmulAsync,
  hammingDistance,
  hammingDistanceAsync,
  hammingDistanceRows,
  hammingDistanceRowsAsync,
  InvalidArgumentError,
  matmulInteger,
  packBits,
} from '../../lib/index.js';
import { random } from '../support/random.js';

function signs(count: number, seed: number): Int8Array {
  const next = random(seed);
  return Int8Array.from({ length: count }, () => (next() < 0.5 ? -1 : 1));
}

/** The definition: products of signs, added. */
function product(a: Int8Array, b: Int8Array, m: number, n: number, k: number): Int32Array {
  const result = new Int32Array(m * n);
  for (let row = 0; row < m; row++) {
    for (let column = 0; column < n; column++) {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += (a[row * k + i] as number) * (b[column * k + i] as number);
      result[row * n + column] = sum;
    }
  }
  return result;
}

const sizes = fc.tuple(
  fc.integer({ min: 0, max: 9 }),
  fc.integer({ min: 0, max: 11 }),
  fc.oneof(fc.integer({ min: 0, max: 70 }), fc.integer({ min: 500, max: 1100 })),
);

describe('binaryMatmul and hammingDistance', () => {
  it('equal the definition for any size', () => {
    fc.assert(
      fc.property(sizes, fc.nat(1000), ([m, n, k], seed) => {
        const [a, b] = [signs(m * k, seed), signs(n * k, seed + 1)];
        const [x, y] = [packBits(a, { shape: [m, k] }), packBits(b, { shape: [n, k] })];
        const expected = product(a, b, m, n, k);
        expect(binaryMatmul(x, y, { m, n, k })).toEqual(expected);
        const distances = Uint32Array.from(expected, (dot) => (k - dot) / 2);
        expect(hammingDistance(x, y, { m, n, bits: k })).toEqual(distances);
        const rows = Math.min(m, n);
        const bytes = rows * Math.ceil(k / 8);
        const diagonal = Uint32Array.from({ length: rows }, (_, i) => distances[i * n + i] as number);
        expect(hammingDistanceRows(x.subarray(0, bytes), y.subarray(0, bytes), { rows, bits: k })).toEqual(diagonal);
      }),
    );
  });

  it('equal matmulInteger where the work is divided', () => {
    const [m, n, k] = [150, 333, 2055];
    const [a, b] = [signs(m * k, 1), signs(n * k, 2)];
    const transposed = new Int8Array(k * n);
    for (let i = 0; i < n * k; i++) transposed[(i % k) * n + Math.floor(i / k)] = b[i] as number;
    const bits = { x: packBits(a, { shape: [m, k] }), y: packBits(b, { shape: [n, k] }) };
    expect(binaryMatmul(bits.x, bits.y, { m, n, k })).toEqual(matmulInteger(a, transposed, { m, n, k }));
  });

  it('ignore what follows the bits of a row', () => {
    const a = Uint8Array.of(0b11110_010, 0b00001_111);
    const b = Uint8Array.of(0b00000_010, 0b11111_000);
    expect(binaryMatmul(a, b, { m: 2, n: 2, k: 3 })).toEqual(Int32Array.of(3, 1, -1, -3));
    expect(hammingDistanceRows(a, b, { rows: 2, bits: 3 })).toEqual(Uint32Array.of(0, 3));
  });

  it('refuse what does not fit, and say what', () => {
    const bytes = new Uint8Array(8);
    const size = { m: 2, n: 2, k: 30 };
    const wrong: [() => unknown, string][] = [
      [() => binaryMatmul(bytes, bytes, { ...size, m: 3 }), 'a'],
      [() => binaryMatmul(bytes, bytes, { ...size, n: 1 }), 'b'],
      [() => binaryMatmul(bytes, bytes, { ...size, k: 2 ** 31 }), 'k'],
      [() => binaryMatmul(bytes, bytes, { ...size, k: -1 }), 'k'],
      [() => binaryMatmul(new Int8Array(8) as never, bytes, size), 'a'],
      [() => binaryMatmul(bytes, bytes, { ...size, out: new Uint32Array(4) as never }), 'out'],
      [() => binaryMatmul(bytes, bytes, { ...size, bits: 1 } as never), 'bits'],
      [() => hammingDistance(bytes, bytes, { m: 2, n: 2 } as never), 'bits'],
      [() => hammingDistance(bytes, bytes, { m: 2, n: 2, bits: 30, out: new Uint32Array(3) }), 'out'],
      [() => hammingDistanceRows(bytes, bytes, { rows: 3, bits: 30 }), 'a'],
    ];
    for (const [call, argument] of wrong) {
      expect(call).toThrow(InvalidArgumentError);
      expect(call).toThrow(expect.objectContaining({ argument }) as Error);
    }
    const memory = new ArrayBuffer(16);
    const overlapping = { m: 1, n: 1, bits: 64, out: new Uint32Array(memory, 4, 1) };
    expect(() => hammingDistance(new Uint8Array(memory, 0, 8), bytes, overlapping)).toThrow('overlap');
  });
});

describe('async twins', () => {
  const [m, n, k] = [9, 17, 300];
  const a = packBits(signs(m * k, 1), { shape: [m, k] });
  const b = packBits(signs(n * k, 2), { shape: [n, k] });
  const shared = (bytes: Uint8Array) => {
    const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
    copy.set(bytes);
    return copy;
  };

  it('give the same bytes, into out and in shared memory', async () => {
    const expected = binaryMatmul(a, b, { m, n, k });
    expect(await binaryMatmulAsync(a, b, { m, n, k })).toEqual(expected);
    const out = new Int32Array(new SharedArrayBuffer(4 * m * n));
    expect(await binaryMatmulAsync(shared(a), shared(b), { m, n, k, out })).toBe(out);
    expect(Int32Array.from(out)).toEqual(expected);
    const distances = new Uint32Array(m * n);
    expect(await hammingDistanceAsync(a, b, { m, n, bits: k, out: distances })).toBe(distances);
    expect(distances).toEqual(hammingDistance(a, b, { m, n, bits: k }));
    const rows = { rows: m, bits: k };
    const first = b.subarray(0, a.length);
    expect(await hammingDistanceRowsAsync(a, first, rows)).toEqual(hammingDistanceRows(a, first, rows));
  });

  it('reject with the reason of a signal', async () => {
    const signal = AbortSignal.abort(new Error('no more'));
    await expect(binaryMatmulAsync(a, b, { m, n, k, signal })).rejects.toThrow('no more');
    await expect(hammingDistanceAsync(a, b, { m, n, bits: k, signal })).rejects.toThrow('no more');
    await expect(binaryMatmulAsync(a, b, { m, n, k: 1 })).rejects.toThrow(InvalidArgumentError);
  });
});
