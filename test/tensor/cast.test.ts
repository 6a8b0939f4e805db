import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { castTensor, type FloatDtype } from '../../lib/index.js';
import { readUint16, VECTORS } from '../support/vectors.js';

const f32 = (bits: Uint32Array) => new Float32Array(bits.buffer);
const bitsOf = (x: Float32Array) => new Uint32Array(x.buffer, x.byteOffset, x.length);

/** Sign, exponent and top mantissa bits run through all their values; the low 16 bits are given. */
const sweep = (low: (i: number) => number) => f32(Uint32Array.from({ length: 65536 }, (_, i) => i * 65536 + low(i)));

const isNaN16 = (bits: number, dtype: 'float16' | 'bfloat16') =>
  (bits & 0x7fff) > (dtype === 'float16' ? 0x7c00 : 0x7f80);

describe('golden vectors', () => {
  it.each([
    ['ramp', (i: number) => i, 'float16', 'f16'],
    ['1000', () => 0x1000, 'float16', 'f16'],
    ['3000', () => 0x3000, 'float16', 'f16'],
    ['ramp', (i: number) => i, 'bfloat16', 'bf16'],
    ['8000', () => 0x8000, 'bfloat16', 'bf16'],
  ] as const)('float32 with low bits %s to %3$s equals numpy and ml_dtypes', (name, low, to, suffix) => {
    const expected = readUint16('cast', `low_${name}_${suffix}_u16.bin`);
    const got = castTensor(sweep(low), { from: 'float32', to });
    let differences = 0;
    got.forEach((bits, i) => {
      const e = expected[i] as number;
      if (isNaN16(e, to) ? !isNaN16(bits, to) : bits !== e) differences++;
    });
    expect(differences).toBe(0);
  });

  it('all float16 patterns to float32 equal ONNX Runtime', () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const file = readFileSync(join(VECTORS, 'cast', 'f16_decode_f32.bin'));
    const expected = new Float32Array(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength));
    expect(castTensor(all, { from: 'float16', to: 'float32' })).toEqual(expected);
  });

  it('all bfloat16 patterns to float32 are the upper half of a float32', () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const got = castTensor(all, { from: 'bfloat16', to: 'float32' });
    expect(bitsOf(got)).toEqual(Uint32Array.from({ length: 65536 }, (_, i) => i * 65536));
  });
});

describe('the definition', () => {
  it('shows the bits of 6.25', () => {
    const six = new Float32Array([6.25]);
    expect(bitsOf(six)[0]?.toString(2).padStart(32, '0')).toBe('01000000110010000000000000000000');
    const half = castTensor(six, { from: 'float32', to: 'float16' });
    expect(half[0]?.toString(2).padStart(16, '0')).toBe('0100011001000000');
  });

  it('overflows to infinity, keeps subnormals, and keeps NaN', () => {
    const x = new Float32Array([
      65504,
      65519.99,
      65520,
      -1e30,
      2 ** -24,
      2 ** -25,
      1.5 * 2 ** -25,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      -0,
    ]);
    const half = castTensor(x, { from: 'float32', to: 'float16' });
    expect(Array.from(half)).toEqual([0x7bff, 0x7bff, 0x7c00, 0xfc00, 1, 0, 1, half[7], 0x7c00, 0x8000]);
    expect(isNaN16(half[7] as number, 'float16')).toBe(true);
  });

  it('rounds once between the 16-bit types', () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    for (const [from, to] of [
      ['float16', 'bfloat16'],
      ['bfloat16', 'float16'],
    ] as const) {
      const direct = castTensor(all, { from, to });
      const viaFloat = castTensor(castTensor(all, { from, to: 'float32' }), { from: 'float32', to });
      expect(direct).toEqual(viaFloat);
    }
  });

  it('copies between equal types', () => {
    const x = sweep((i) => i);
    expect(bitsOf(castTensor(x, { from: 'float32', to: 'float32' }))).toEqual(bitsOf(x));
    const h = Uint16Array.from({ length: 65536 }, (_, i) => i);
    expect(castTensor(h, { from: 'bfloat16', to: 'bfloat16' })).toEqual(h);
  });

  it('is the nearest value, ties to even, for any finite float32', () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (value) => {
        for (const to of ['float16', 'bfloat16'] as const) {
          const [bits] = castTensor(new Float32Array([value]), { from: 'float32', to }) as Uint16Array;
          const decode = (b: number) => castTensor(new Uint16Array([b]), { from: to, to: 'float32' })[0] as number;
          const got = decode(bits as number);
          if (!Number.isFinite(got)) continue;
          const magnitude = (bits as number) & 0x7fff;
          for (const neighbour of [magnitude - 1, magnitude + 1]) {
            if (neighbour < 0 || isNaN16(neighbour, to)) continue;
            const other = decode(((bits as number) & 0x8000) | neighbour);
            const [near, far] = [Math.abs(got - value), Math.abs(other - value)];
            expect(near <= far).toBe(true);
            if (near === far) expect(magnitude % 2).toBe(0);
          }
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('buffers', () => {
  it('writes into out and returns it', () => {
    const x = new Float32Array([1, 2, 3]);
    const out = new Uint16Array(3);
    expect(castTensor(x, { from: 'float32', to: 'bfloat16', out })).toBe(out);
    expect(Array.from(out)).toEqual([0x3f80, 0x4000, 0x4040]);
  });

  it('accepts empty input', () => {
    for (const from of ['float32', 'float16', 'bfloat16'] as FloatDtype[]) {
      for (const to of ['float32', 'float16', 'bfloat16'] as FloatDtype[]) {
        const input = from === 'float32' ? new Float32Array(0) : new Uint16Array(0);
        expect(castTensor(input, { from, to })).toHaveLength(0);
      }
    }
  });

  it('refuses an out that overlaps the input', () => {
    const buffer = new ArrayBuffer(64);
    const input = new Float32Array(buffer, 0, 8);
    const out = new Uint16Array(buffer, 8, 8);
    expect(() => castTensor(input, { from: 'float32', to: 'float16', out })).toThrow(/overlap/);
  });

  it.runIf('Float16Array' in globalThis)('accepts and fills a Float16Array', () => {
    const Float16Array = (globalThis as unknown as { Float16Array: new (values: number[]) => never }).Float16Array;
    const out = new Float16Array([0, 0]);
    castTensor(new Float32Array([1.5, -2]), { from: 'float32', to: 'float16', out });
    expect(Array.from(out as ArrayLike<number>)).toEqual([1.5, -2]);
    expect(castTensor(out, { from: 'float16', to: 'float32' })).toEqual(new Float32Array([1.5, -2]));
  });
});
