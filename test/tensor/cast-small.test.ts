import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type CastOptions,
  castTensor,
  castTensorAsync,
  dequantizeTensor,
  type FloatDtype,
  InvalidArgumentError,
  quantizeTensor,
  type SmallFloatDtype,
} from '../../lib/index.js';
import { anything, survives } from '../support/anything.js';
import { sameBytes } from '../support/bytes.js';
import { normal } from '../support/random.js';
import { VECTORS } from '../support/vectors.js';

/** What the specifications' tables say: bits of exponent and mantissa, bias, codes without a sign. */
interface Format {
  exponent: number;
  mantissa: number;
  bias: number;
  largest: number;
  /** The code of a NaN; the largest number's where there is none. */
  nan: number;
  /** What the first number past the largest becomes without saturation. */
  overflow: number;
  /** Zero has no sign, and minus zero is the NaN. */
  unsignedZero?: boolean;
}

const FORMATS: Record<SmallFloatDtype, Format> = {
  float8_e4m3fn: { exponent: 4, mantissa: 3, bias: 7, largest: 0x7e, nan: 0x7f, overflow: 0x7f },
  float8_e5m2: { exponent: 5, mantissa: 2, bias: 15, largest: 0x7b, nan: 0x7f, overflow: 0x7c },
  float8_e4m3fnuz: { exponent: 4, mantissa: 3, bias: 8, largest: 0x7f, nan: 0x80, overflow: 0x80, unsignedZero: true },
  float8_e5m2fnuz: { exponent: 5, mantissa: 2, bias: 16, largest: 0x7f, nan: 0x80, overflow: 0x80, unsignedZero: true },
  float8_e8m0fnu: { exponent: 8, mantissa: 0, bias: 127, largest: 0xfe, nan: 0xff, overflow: 0xff },
  float6_e2m3fn: { exponent: 2, mantissa: 3, bias: 1, largest: 0x1f, nan: 0x1f, overflow: 0x1f },
  float6_e3m2fn: { exponent: 3, mantissa: 2, bias: 3, largest: 0x1f, nan: 0x1f, overflow: 0x1f },
  float4_e2m1fn: { exponent: 2, mantissa: 1, bias: 1, largest: 0x7, nan: 0x7, overflow: 0x7 },
};
const DTYPES = Object.keys(FORMATS) as SmallFloatDtype[];
const BYTES = DTYPES.filter((dtype) => dtype.startsWith('float8'));

const bitsOf = (dtype: SmallFloatDtype) => Number(dtype[5]);
const all = (count: number) => Array.from({ length: count }, (_, i) => i);
const everyPattern = Uint16Array.from(all(65536));

function file(...path: string[]): Uint8Array {
  return new Uint8Array(readFileSync(join(VECTORS, ...path)));
}

/** Codes as they travel, and back, one bit at a time. */
function packed(codes: ArrayLike<number>, bits: number): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((codes.length * bits) / 8));
  for (let i = 0; i < codes.length * bits; i++) {
    const bit = ((codes[Math.floor(i / bits)] as number) >> (i % bits)) & 1;
    bytes[i >> 3] = (bytes[i >> 3] as number) | (bit << (i & 7));
  }
  return bytes;
}

function unpacked(bytes: Uint8Array, bits: number, count: number): number[] {
  return all(count).map((i) => {
    let code = 0;
    for (let b = 0; b < bits; b++) code |= (((bytes[(i * bits + b) >> 3] as number) >> ((i * bits + b) & 7)) & 1) << b;
    return code;
  });
}

/** The numbers that codes without a sign stand for, up to the one that would come after the largest. */
function numbersOf(dtype: SmallFloatDtype): number[] {
  const { mantissa, bias, largest } = FORMATS[dtype];
  return all(largest + 2).map((code) => {
    if (dtype === 'float8_e8m0fnu') return 2 ** (code - bias);
    const exponent = code >> mantissa;
    const m = code & (2 ** mantissa - 1);
    return exponent === 0 ? m * 2 ** (1 - bias - mantissa) : (2 ** mantissa + m) * 2 ** (exponent - bias - mantissa);
  });
}

/** The nearest number's code; the even one in the middle. */
function nearest(numbers: readonly number[], x: number): number {
  let [low, high] = [0, numbers.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((numbers[middle] as number) <= x) low = middle;
    else high = middle;
  }
  const [down, up] = [x - (numbers[low] as number), (numbers[high] as number) - x];
  return down < up || (down === up && low % 2 === 0) ? low : high;
}

function model(dtype: SmallFloatDtype, numbers: readonly number[], x: number, saturate: boolean): number {
  const { exponent, mantissa, largest, nan, overflow, unsignedZero } = FORMATS[dtype];
  if (Number.isNaN(x)) return nan;
  if (dtype === 'float8_e8m0fnu') {
    // The nearest power of two, the upper one in the middle, whatever its exponent.
    const power = x <= 0 ? -Infinity : Math.min(200, Math.floor(Math.log2(x / 1.5)) + 1);
    if (power < -127) return saturate ? 0 : nan;
    return power > 127 ? (saturate ? largest : nan) : power + 127;
  }
  const sign = x < 0 || Object.is(x, -0) ? 2 ** (exponent + mantissa) : 0;
  let code = Number.isFinite(x) ? nearest(numbers, Math.abs(x)) : largest + 1;
  if (code > largest) {
    if (unsignedZero && (!saturate || !Number.isFinite(x))) return nan;
    code = saturate ? largest : overflow;
  }
  return unsignedZero && code === 0 ? 0 : sign + code;
}

function decoded(dtype: SmallFloatDtype, numbers: readonly number[], code: number): number {
  const { exponent, mantissa, largest, nan, overflow, unsignedZero } = FORMATS[dtype];
  if (dtype === 'float8_e8m0fnu') return code === nan ? Number.NaN : (numbers[code] as number);
  const signBit = 2 ** (exponent + mantissa);
  if (unsignedZero && code === nan) return Number.NaN;
  const [sign, magnitude] = code >= signBit ? [-1, code - signBit] : [1, code];
  if (magnitude <= largest) return sign * (numbers[magnitude] as number);
  return dtype === 'float8_e5m2' && magnitude === overflow ? sign * Infinity : Number.NaN;
}

describe('golden vectors', () => {
  const formats = ['e4m3fn', 'e5m2', 'e4m3fnuz', 'e5m2fnuz'] as const;

  it.each(formats)('all codes of %s to float32 equal ONNX Runtime, byte for byte', (format) => {
    const floats = castTensor(Uint8Array.from(all(256)), { from: `float8_${format}`, to: 'float32' });
    expect(sameBytes(floats, file('fp8', `${format}_decode_f32.bin`))).toBe(true);
  });

  it.each(formats.flatMap((format) => [true, false].map((saturate) => [format, saturate] as const)))(
    'all float16 patterns to %s, saturate %s, equal the tables of ONNX, byte for byte',
    (format, saturate) => {
      const expected = file('fp8', `${format}_encode_sat${Number(saturate)}_spec_u8.bin`);
      const to = `float8_${format}` as const;
      expect(sameBytes(castTensor(everyPattern, { from: 'float16', to, saturate }), expected)).toBe(true);
      const floats = castTensor(everyPattern, { from: 'float16', to: 'float32' });
      expect(sameBytes(castTensor(floats, { from: 'float32', to, saturate }), expected)).toBe(true);
    },
  );
});

describe('a model that searches the nearest number', () => {
  it.each(DTYPES)('gives the same for all codes of %s up to float32, float16 and bfloat16', (dtype) => {
    const count = 2 ** bitsOf(dtype);
    const codes = packed(all(count), bitsOf(dtype));
    const numbers = numbersOf(dtype);
    const expected = Float32Array.from(all(count), (code) => decoded(dtype, numbers, code));
    expect(castTensor(codes, { from: dtype, to: 'float32' })).toEqual(expected);
    for (const to of ['float16', 'bfloat16'] as const) {
      const got = castTensor(codes, { from: dtype, to });
      expect(castTensor(got, { from: to, to: 'float32' })).toEqual(
        castTensor(castTensor(expected, { from: 'float32', to }), { from: to, to: 'float32' }),
      );
    }
  });

  it.each(DTYPES)('gives the same for every float16 and bfloat16 to %s, saturating and not', (dtype) => {
    const numbers = numbersOf(dtype);
    for (const from of ['float16', 'bfloat16'] as const) {
      const floats = castTensor(everyPattern, { from, to: 'float32' });
      for (const saturate of [true, false]) {
        const expected = Uint8Array.from(floats, (x) => model(dtype, numbers, x, saturate));
        const got = castTensor(everyPattern, { from, to: dtype, saturate });
        expect(sameBytes(got, packed(expected, bitsOf(dtype)))).toBe(true);
      }
    }
  });

  it.each(DTYPES)('gives the same for float32 to %s around every middle, and anywhere', (dtype) => {
    const numbers = numbersOf(dtype);
    const hard = numbers.slice(0, -1).flatMap((here, i) => [here, (here + (numbers[i + 1] as number)) / 2]);
    const bits = new Uint32Array(Float32Array.from(hard.filter((x) => x < 2 ** 128)).buffer);
    const around = Uint32Array.from([...bits].flatMap((b) => [b - 1, b, b + 1].map((c) => Math.max(c, 0))));
    const inputs = Float32Array.from([...new Float32Array(around.buffer), ...normal(2000, 1)]);
    for (const x of [inputs, inputs.map((v) => -v)]) {
      for (const saturate of [true, false]) {
        const expected = Uint8Array.from(x, (v) => model(dtype, numbers, v, saturate));
        const got = castTensor(x, { from: 'float32', to: dtype, saturate });
        expect(sameBytes(got, packed(expected, bitsOf(dtype)))).toBe(true);
      }
    }
  });

  it('gives the same for any float32', () => {
    const numbers = Object.fromEntries(DTYPES.map((dtype) => [dtype, numbersOf(dtype)]));
    fc.assert(
      fc.property(fc.constantFrom(...DTYPES), fc.array(fc.float()), fc.boolean(), (dtype, values, saturate) => {
        const x = Float32Array.from(values);
        const got = castTensor(x, { from: 'float32', to: dtype, saturate });
        const expected = Uint8Array.from(x, (v) => model(dtype, numbers[dtype] as number[], v, saturate));
        expect(got).toEqual(packed(expected, bitsOf(dtype)));
      }),
      { numRuns: 2000 },
    );
  });

  it('gives the same between small types: rounded once', () => {
    for (const from of DTYPES) {
      const codes = packed(all(2 ** bitsOf(from)), bitsOf(from));
      const floats = castTensor(codes, { from, to: 'float32' });
      for (const to of DTYPES.filter((dtype) => dtype !== from)) {
        for (const saturate of [true, false]) {
          const expected = Uint8Array.from(floats, (x) => model(to, numbersOf(to), x, saturate));
          const got = castTensor(codes, { from, to, saturate });
          expect(sameBytes(got, packed(expected, bitsOf(to)))).toBe(true);
        }
      }
    }
  });
});

describe('the definition', () => {
  const to8 = (to: SmallFloatDtype, x: number, saturate?: boolean) =>
    castTensor(
      Float32Array.of(x),
      saturate === undefined ? { from: 'float32', to } : { from: 'float32', to, saturate },
    )[0];

  it('rounds to nearest even, subnormals included', () => {
    expect(to8('float8_e4m3fn', 0.3)).toBe(0x2a);
    expect(to8('float8_e4m3fn', 2 ** -10)).toBe(0);
    expect(to8('float8_e4m3fn', 1.0000001 * 2 ** -10)).toBe(1);
    expect(to8('float8_e4m3fn', 464)).toBe(0x7e);
    expect(to8('float4_e2m1fn', 2.5)).toBe(0x4);
    expect(to8('float4_e2m1fn', -5)).toBe(0xe);
  });

  it('saturates by default', () => {
    expect([464.01, 1e9, Infinity, -Infinity].map((x) => to8('float8_e4m3fn', x))).toEqual([0x7e, 0x7e, 0x7e, 0xfe]);
    expect([464.01, 1e9, Infinity, -1e9].map((x) => to8('float8_e4m3fn', x, false))).toEqual([0x7f, 0x7f, 0x7f, 0xff]);
    expect([61439.99, 61440, -Infinity].map((x) => to8('float8_e5m2', x))).toEqual([0x7b, 0x7b, 0xfb]);
    expect([61439.99, 61440, -Infinity].map((x) => to8('float8_e5m2', x, false))).toEqual([0x7b, 0x7c, 0xfc]);
    expect([240, 248, 1e9, Infinity].map((x) => to8('float8_e4m3fnuz', x))).toEqual([0x7f, 0x7f, 0x7f, 0x80]);
    expect([240, 247.9, 248, Infinity].map((x) => to8('float8_e4m3fnuz', x, false))).toEqual([0x7f, 0x7f, 0x80, 0x80]);
    expect([7, Infinity, Number.NaN].map((x) => to8('float4_e2m1fn', x, false))).toEqual([7, 7, 7]);
  });

  it('gives FNUZ one zero', () => {
    expect([-0, -1e-9, 1e-9].map((x) => to8('float8_e4m3fnuz', x))).toEqual([0, 0, 0]);
    expect([-0, -1e-9, 1e-9].map((x) => to8('float8_e4m3fn', x))).toEqual([0x80, 0x80, 0]);
  });

  it('gives E8M0 the nearest power of two', () => {
    const x = [1, 1.4999, 1.5, 2 ** -127, 0, -1, 2 ** -130, 1.5 * 2 ** 127, Infinity, Number.NaN];
    expect(x.map((v) => to8('float8_e8m0fnu', v))).toEqual([127, 127, 128, 0, 0, 0, 0, 254, 254, 255]);
    expect(x.map((v) => to8('float8_e8m0fnu', v, false))).toEqual([127, 127, 128, 0, 255, 255, 255, 255, 255, 255]);
  });

  it('gives NaN one pattern, whatever its sign and payload', () => {
    const nans = new Float32Array(Uint32Array.of(0x7fc00000, 0xffc00000, 0x7f800001, 0xffffffff).buffer);
    for (const dtype of DTYPES) {
      for (const saturate of [true, false]) {
        const codes = unpacked(castTensor(nans, { from: 'float32', to: dtype, saturate }), bitsOf(dtype), 4);
        expect(new Set(codes)).toEqual(new Set([FORMATS[dtype].nan]));
      }
    }
  });
});

describe('packed elements', () => {
  const wide = (dtype: SmallFloatDtype, count: number) =>
    castTensor(normal(count, count), { from: 'float32', to: dtype });

  it.each([
    ['float6_e2m3fn', 6],
    ['float6_e3m2fn', 6],
    ['float4_e2m1fn', 4],
  ] as const)('%s: any number of elements, the first in the low bits, zeros at the end', (dtype, bits) => {
    for (let count = 0; count < 100; count++) {
      const bytes = wide(dtype, count);
      const codes = unpacked(bytes, bits, count);
      expect(bytes).toEqual(packed(codes, bits));
      const floats = castTensor(bytes, { from: dtype, to: 'float32', count });
      expect(floats).toHaveLength(count);
      expect(castTensor(floats, { from: 'float32', to: dtype })).toEqual(bytes);
      const whole = Math.floor((bytes.length * 8) / bits);
      expect(castTensor(bytes, { from: dtype, to: 'float32' })).toHaveLength(whole);
    }
  });

  it('shows three elements in two bytes', () => {
    const two = castTensor(Float32Array.of(0.5, -6, 1.4), { from: 'float32', to: 'float4_e2m1fn' });
    expect(two).toEqual(Uint8Array.of(0xf1, 0x03));
    expect(castTensor(two, { from: 'float4_e2m1fn', to: 'float32', count: 3 })).toEqual(Float32Array.of(0.5, -6, 1.5));
  });

  it('clears what lies past the last element', () => {
    const dirty = Uint8Array.of(0xff, 0xff);
    expect(castTensor(dirty, { from: 'float4_e2m1fn', to: 'float4_e2m1fn', count: 3 })).toEqual(
      Uint8Array.of(0xff, 0x0f),
    );
    expect(castTensor(dirty, { from: 'float6_e2m3fn', to: 'float6_e2m3fn' })).toEqual(Uint8Array.of(0xff, 0x0f));
    expect(castTensor(dirty, { from: 'float4_e2m1fn', to: 'float8_e4m3fn', count: 3 })).toHaveLength(3);
  });

  it('takes a count of any type that fits the length', () => {
    expect(castTensor(Float32Array.of(1, 2), { from: 'float32', to: 'float8_e5m2', count: 2 })).toHaveLength(2);
    expect(castTensor(Uint16Array.of(1, 2), { from: 'float16', to: 'bfloat16', count: 2 })).toHaveLength(2);
  });
});

describe('arrays and errors', () => {
  const x = normal(10, 1);
  const cases: [string, () => unknown, string][] = [
    [
      'to',
      () => castTensor(x, { from: 'float32', to: 'float8' } as never),
      `Expected one of float32, float16, bfloat16, ${DTYPES.join(', ')} for to but received "float8".`,
    ],
    [
      'input',
      () => castTensor(x, { from: 'float8_e4m3fn', to: 'float32' } as never),
      'Expected a Uint8Array for input but received a Float32Array of length 10.',
    ],
    [
      'input',
      () => castTensor(new Uint8Array(4), { from: 'bfloat16', to: 'float32' } as never),
      'Expected a Float32Array, a Uint16Array (float16 or bfloat16) or a Float16Array for input but received a Uint8Array of length 4.',
    ],
    [
      'from',
      () => castTensor(x, { from: 'float16', to: 'float8_e5m2' } as never),
      'Expected float32, which a Float32Array holds, for from but received "float16".',
    ],
    [
      'out',
      () => castTensor(x, { from: 'float32', to: 'float8_e5m2', out: new Uint16Array(10) } as never),
      'Expected a Uint8Array for out but received a Uint16Array of length 10.',
    ],
    [
      'out',
      () => castTensor(x, { from: 'float32', to: 'float6_e3m2fn', out: new Uint8Array(10) }),
      'Expected length 8 for out but received a Uint8Array of length 10.',
    ],
    [
      'input',
      () => castTensor(new Uint8Array(3), { from: 'float4_e2m1fn', to: 'float32', count: 4 }),
      'Expected length 2, which 4 elements of float4_e2m1fn take, for input but received a Uint8Array of length 3.',
    ],
    [
      'input',
      () => castTensor(x, { from: 'float32', to: 'float8_e5m2', count: 11 }),
      'Expected length 11, which 11 elements of float32 take, for input but received a Float32Array of length 10.',
    ],
    [
      'count',
      () => castTensor(new Uint8Array(3), { from: 'float4_e2m1fn', to: 'float32', count: -1 }),
      'Expected an integer of at least 0 for count but received -1.',
    ],
    [
      'saturate',
      () => castTensor(x, { from: 'float32', to: 'float8_e5m2', saturate: 1 } as never),
      'Expected true or false for saturate but received 1.',
    ],
  ];

  it.each(cases)('%s', (argument, call, message) => {
    expect(call).toThrow(InvalidArgumentError);
    expect(call).toThrow(expect.objectContaining({ message, argument, code: 'INVALID_ARGUMENT' }));
  });

  it('an out is filled and returned, and must not overlap the input', () => {
    const out = new Uint8Array(10);
    expect(castTensor(x, { from: 'float32', to: 'float8_e4m3fn', out })).toBe(out);
    expect(out).toEqual(castTensor(x, { from: 'float32', to: 'float8_e4m3fn' }));
    const inside = new Uint8Array(x.buffer, 4, 10);
    expect(() => castTensor(x, { from: 'float32', to: 'float8_e4m3fn', out: inside })).toThrow(/overlap/);
  });

  it('empty input gives an empty result', () => {
    for (const dtype of DTYPES) {
      expect(castTensor(new Float32Array(0), { from: 'float32', to: dtype })).toHaveLength(0);
      expect(castTensor(new Uint8Array(0), { from: dtype, to: 'float16' })).toHaveLength(0);
    }
  });

  it('small floats stay a matter of casts', () => {
    const q = quantizeTensor(x, { dtype: 'int8' });
    for (const dtype of DTYPES) {
      const bytes = castTensor(x, { from: 'float32', to: dtype });
      expect(() => quantizeTensor(bytes as never, { dtype: 'int8', inputDtype: dtype } as never)).toThrow(/for input/);
      expect(() => quantizeTensor(x, { dtype: 'int8', inputDtype: dtype } as never)).toThrow(/for inputDtype/);
      expect(() => quantizeTensor(x, { dtype: 'int8', scaleDtype: dtype } as never)).toThrow(/for scaleDtype/);
      expect(() => dequantizeTensor(q, { dtype } as never)).toThrow(/one of float32, float16, bfloat16 for dtype/);
      const half = castTensor(x, { from: 'float32', to: 'float16' });
      expect(() => quantizeTensor(half, { dtype: 'int8', inputDtype: dtype } as never)).toThrow(/for inputDtype/);
    }
  });

  it('any value for any option', async () => {
    const names = ['from', 'to', 'saturate', 'count', 'out', 'signal', 'unknown'];
    const dtype = fc.constantFrom<unknown>('float32', 'float16', ...DTYPES, 'float9', undefined);
    const option = fc.record({ name: fc.constantFrom(...names), value: fc.oneof(anything, dtype) });
    const input = fc.constantFrom<unknown>(x, new Uint16Array(9), new Uint8Array(9), new Uint8Array(0));
    await fc.assert(
      fc.asyncProperty(input, dtype, dtype, fc.array(option, { maxLength: 2 }), async (value, from, to, options) => {
        const given = { from, to, ...Object.fromEntries(options.map((o) => [o.name, o.value])) } as never;
        await survives(() => castTensor(value as never, given));
        await survives(() => castTensorAsync(value as never, given));
      }),
      { numRuns: 1500 },
    );
  });
});

describe('the asynchronous twin', () => {
  it('gives the same bytes', async () => {
    const x = normal(100_003, 2);
    const cast = castTensorAsync as (input: unknown, options: CastOptions) => Promise<ArrayBufferView>;
    const now = castTensor as (input: unknown, options: CastOptions) => ArrayBufferView;
    for (const dtype of DTYPES) {
      for (const saturate of [true, false]) {
        const down = { from: 'float32', to: dtype, saturate } as const;
        const small = now(x, down);
        expect(sameBytes(await cast(x, down), small)).toBe(true);
        for (const to of ['float32', 'bfloat16', 'float8_e5m2'] as FloatDtype[]) {
          const up = { from: dtype, to, count: x.length };
          expect(sameBytes(await cast(small, up), now(small, up))).toBe(true);
        }
      }
    }
  });

  it('reads and fills shared memory in place, and stops', async () => {
    const shared = new Float32Array(new SharedArrayBuffer(4 * 4096));
    shared.set(normal(4096, 3));
    const out = new Uint8Array(new SharedArrayBuffer(2048));
    expect(await castTensorAsync(shared, { from: 'float32', to: 'float4_e2m1fn', out })).toBe(out);
    expect(sameBytes(out, castTensor(shared, { from: 'float32', to: 'float4_e2m1fn' }))).toBe(true);
    const signal = AbortSignal.abort();
    for (const to of BYTES) {
      await expect(castTensorAsync(shared, { from: 'float32', to, signal })).rejects.toThrow('aborted');
    }
  });
});
