import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  castTensor,
  InvalidArgumentError,
  NonFiniteError,
  packBits,
  packBitsAsync,
  packTernary,
  packTernaryAsync,
  type TernaryPacking,
  unpackBits,
  unpackBitsAsync,
  unpackCodes,
  unpackTernary,
  unpackTernaryAsync,
} from '../../lib/index.js';
import { detached } from '../support/anything.js';
import { normal, random } from '../support/random.js';

const PACKINGS: readonly TernaryPacking[] = ['2bit', 'base3'];

/** Matrices with rows of every length, ragged ones most of all. */
const shapes = fc.tuple(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 0, max: 70 }));

function digitsOf(count: number, seed: number): Int8Array {
  const next = random(seed);
  return Int8Array.from({ length: count }, () => Math.floor(next() * 3) - 1);
}

/** The definition, one element after the other. */
function packed(signs: ArrayLike<number>, rows: number, columns: number): Uint8Array {
  const rowBytes = Math.ceil(columns / 8);
  const bytes = new Uint8Array(rows * rowBytes);
  for (let i = 0; i < rows * columns; i++) {
    const column = i % columns;
    const at = Math.floor(i / columns) * rowBytes + (column >> 3);
    if ((signs[i] as number) >= 0) bytes[at] = (bytes[at] as number) | (1 << (column & 7));
  }
  return bytes;
}

describe('packBits and unpackBits', () => {
  it('put the first sign in the low bit, and every row on a byte', () => {
    expect(packBits(Int8Array.of(1, -1, -1, 1, 1, 1, 1, 1, 1))).toEqual(Uint8Array.of(0b11111001, 1));
    expect(packBits(Int8Array.of(1, -1, 1, 1, 1, -1), { shape: [2, 3] })).toEqual(Uint8Array.of(0b101, 0b011));
    expect(packBits(Float32Array.of(0, -0, 1e-45, -1e-45, Number.NEGATIVE_INFINITY))).toEqual(Uint8Array.of(0b00111));
    expect(unpackBits(Uint8Array.of(0b11111101, 0b11111110), { shape: [2, 3] })).toEqual(
      Int8Array.of(1, -1, 1, -1, 1, 1), // unused bits are ignored
    );
    expect(packBits(new Float32Array(0))).toEqual(new Uint8Array(0));
    expect(packBits(Int8Array.of(-1), { shape: [] })).toEqual(Uint8Array.of(0));
  });

  it('equal the definition for any shape and type, and each other', () => {
    fc.assert(
      fc.property(shapes, fc.nat(1000), ([rows, columns], seed) => {
        const x = normal(rows * columns, seed);
        const shape = [rows, columns];
        const expected = packed(x, rows, columns);
        expect(packBits(x, { shape })).toEqual(expected);
        for (const inputDtype of ['float16', 'bfloat16'] as const) {
          const halves = castTensor(x, { from: 'float32', to: inputDtype });
          expect(packBits(halves, { shape, inputDtype })).toEqual(expected);
        }
        const signs = unpackBits(expected, { shape });
        expect(signs).toEqual(Int8Array.from(x, (v) => (v >= 0 ? 1 : -1)));
        expect(unpackBits(expected, { shape, dtype: 'float32' })).toEqual(Float32Array.from(signs));
        expect(packBits(signs, { shape })).toEqual(expected);
      }),
    );
  });

  it('divide large tensors among threads', () => {
    const shape = [3, 100_003];
    const x = normal(3 * 100_003, 1);
    expect(packBits(x, { shape })).toEqual(packed(x, 3, 100_003));
  });

  it('name a NaN and what does not fit', () => {
    const x = normal(100, 1);
    x[70] = Number.NaN;
    expect(() => packBits(x, { shape: [10, 10] })).toThrow(NonFiniteError);
    expect(() => packBits(x)).toThrow('Expected numbers, which have a sign, but received NaN at index 70 of input.');
    const wrong: [() => unknown, string][] = [
      [() => packBits([1] as never), 'input'],
      [() => packBits(detached()), 'input'],
      [() => packBits(new Uint16Array(4)), 'inputDtype'],
      [() => packBits(new Int8Array(4), { inputDtype: 'float32' }), 'inputDtype'],
      [() => packBits(new Int8Array(4), { shape: [5] }), 'shape'],
      [() => packBits(new Int8Array(4), { out: new Uint8Array(2) }), 'out'],
      [() => packBits(new Int8Array(4), { Shape: [4] } as never), 'Shape'],
      [() => unpackBits(new Uint8Array(1), {} as never), 'shape'],
      [() => unpackBits(new Uint8Array(1), { shape: [9] }), 'data'],
      [() => unpackBits(new Uint8Array(1), { shape: [8], dtype: 'uint8' as never }), 'dtype'],
      [() => unpackBits(new Uint8Array(1), { shape: [8], out: new Float32Array(8) as never }), 'out'],
    ];
    for (const [call, argument] of wrong) expect(call, argument).toThrow(InvalidArgumentError);
    for (const [call, argument] of wrong) expect(call).toThrow(expect.objectContaining({ argument }) as Error);
    const memory = new ArrayBuffer(64);
    expect(() => packBits(new Int8Array(memory), { out: new Uint8Array(memory, 8, 8) })).toThrow('overlap');
  });
});

describe('packTernary and unpackTernary', () => {
  it('pack two bits in two’s complement, the first in the low ones, as codes of int2', () => {
    expect(packTernary(Int8Array.of(1, -1, 0, 0, 1))).toEqual(Uint8Array.of(0b00001101, 1));
    const digits = digitsOf(7 * 33, 1);
    const data = packTernary(digits, { shape: [7, 33] });
    const parameters = { scales: Float32Array.of(1), zeroPoints: null };
    const common = { scheme: 'symmetric', granularity: 'per-tensor' } as const;
    expect(unpackCodes({ dtype: 'int2', shape: [7, 33], ...common, data, ...parameters })).toEqual(digits);
  });

  it('pack five digits to a byte, the first the lowest', () => {
    const every = Int8Array.from({ length: 243 * 5 }, (_, i) => (Math.floor(Math.floor(i / 5) / 3 ** (i % 5)) % 3) - 1);
    const bytes = Uint8Array.from({ length: 243 }, (_, i) => i);
    expect(packTernary(every, { packing: 'base3' })).toEqual(bytes);
    expect(unpackTernary(bytes, { packing: 'base3', shape: [243 * 5] })).toEqual(every);
    expect(packTernary(Int8Array.of(1, 0), { packing: 'base3' })).toEqual(Uint8Array.of(2 + 3)); // the rest counts as −1
  });

  it.each(PACKINGS)('give back what was packed: %s', (packing) => {
    fc.assert(
      fc.property(shapes, fc.nat(1000), (shape, seed) => {
        const digits = digitsOf(shape[0] * shape[1], seed);
        const data = packTernary(digits, { shape, packing });
        expect(data.length).toBe(shape[0] * Math.ceil(shape[1] / (packing === '2bit' ? 4 : 5)));
        expect(unpackTernary(data, { shape, packing })).toEqual(digits);
      }),
    );
    const large = digitsOf(2 * 100_003, 2);
    const shape = [2, 100_003];
    expect(unpackTernary(packTernary(large, { shape, packing }), { shape, packing })).toEqual(large);
  });

  it('name what is no digit', () => {
    for (const packing of PACKINGS) {
      const digits = digitsOf(300, 1);
      digits[211] = 2;
      digits[250] = -2;
      expect(() => packTernary(digits, { shape: [3, 100], packing })).toThrow(
        'Expected only −1, 0 and 1 in input but not so at element 211.',
      );
    }
    const codes = new Uint8Array(75);
    codes[25 + 3] = 0x80;
    expect(() => unpackTernary(codes, { shape: [3, 100] })).toThrow('at element 115');
    codes[24] = 243;
    expect(() => unpackTernary(codes.subarray(0, 60), { shape: [3, 100], packing: 'base3' })).toThrow('at element 120');
    const wrong: [() => unknown, string][] = [
      [() => packTernary(new Uint8Array(4) as never), 'input'],
      [() => packTernary(new Int8Array(4), { packing: 'base4' as never }), 'packing'],
      [() => packTernary(new Int8Array(4), { shape: [2, 3] }), 'shape'],
      [() => packTernary(new Int8Array(4), { out: new Uint8Array(4) }), 'out'],
      [() => unpackTernary(new Uint8Array(1), { shape: [5] }), 'data'],
      [() => unpackTernary(new Uint8Array(1), undefined as never), 'options'],
    ];
    for (const [call, argument] of wrong) expect(call).toThrow(expect.objectContaining({ argument }) as Error);
  });
});

describe('async twins', () => {
  const shape = [13, 71];
  const x = normal(13 * 71, 1);
  const digits = digitsOf(13 * 71, 2);
  const bits = packBits(x, { shape });

  function shared<T extends Float32Array | Int8Array | Uint8Array>(array: T): T {
    const memory = new SharedArrayBuffer(array.byteLength);
    const copy = new (array.constructor as new (memory: SharedArrayBuffer) => T)(memory);
    copy.set(array as never);
    return copy;
  }

  it('give the same bytes, into out and in shared memory', async () => {
    expect(await packBitsAsync(x, { shape })).toEqual(bits);
    const out = new Uint8Array(bits.length);
    expect(await packBitsAsync(shared(x), { shape, out })).toBe(out);
    expect(out).toEqual(bits);
    const sharedOut = shared(new Int8Array(x.length));
    expect(await unpackBitsAsync(shared(bits), { shape, out: sharedOut })).toBe(sharedOut);
    expect(Int8Array.from(sharedOut)).toEqual(unpackBits(bits, { shape }));
    expect(await unpackBitsAsync(bits, { shape, dtype: 'float32' })).toEqual(
      unpackBits(bits, { shape, dtype: 'float32' }),
    );
    for (const packing of PACKINGS) {
      const packedDigits = packTernary(digits, { shape, packing });
      expect(await packTernaryAsync(shared(digits), { shape, packing })).toEqual(packedDigits);
      expect(await unpackTernaryAsync(packedDigits, { shape, packing })).toEqual(digits);
    }
  });

  it('reject with the same errors, and with the reason of a signal', async () => {
    const bad = x.slice();
    bad[9] = Number.NaN;
    await expect(packBitsAsync(bad)).rejects.toThrow('NaN at index 9');
    await expect(packTernaryAsync(Int8Array.of(0, 3))).rejects.toThrow('at element 1');
    await expect(unpackTernaryAsync(Uint8Array.of(2), { shape: [1] })).rejects.toThrow('at element 0');
    const signal = AbortSignal.abort(new Error('no more'));
    const calls = [
      packBitsAsync(x, { signal }),
      unpackBitsAsync(bits, { shape, signal }),
      packTernaryAsync(digits, { signal }),
      unpackTernaryAsync(Uint8Array.of(0), { shape: [4], signal }),
    ];
    for (const call of calls) await expect(call).rejects.toThrow('no more');
  });
});
