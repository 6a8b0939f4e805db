import { describe, expect, it } from 'vitest';
import {
  castTensor,
  type LargeFloatDtype,
  type MatmulFloat8Options,
  matmulFloat8,
  matmulFloat8Async,
  quantizeTensor,
} from '../../lib/index.js';
import { expectFloat8Product, float8Codes, float8Operands } from '../support/float8.js';

const invalid = (argument: string, message: RegExp) =>
  expect.objectContaining({ code: 'INVALID_ARGUMENT', argument, message: expect.stringMatching(message) });

describe('matmulFloat8', () => {
  it.each([
    [1, 1, 1],
    [3, 5, 100],
    [17, 33, 260],
    [2, 3, 0],
  ])('is the product in float64: m %i, n %i, k %i', async (m, n, k) => {
    for (const [choice, outDtype] of (['float32', 'float16', 'bfloat16'] as LargeFloatDtype[]).entries()) {
      const { a, b, options } = float8Operands(m, n, k, choice);
      const given = { ...options, outDtype } as MatmulFloat8Options;
      const y = matmulFloat8(a, b, given);
      // k sums of products that are exact, each rounded to 24 bits.
      expectFloat8Product(y, a, b, given, (k + 1) * 2 ** -24);
      expect(await matmulFloat8Async(a, b, given)).toEqual(y);
      const out = y.slice().fill(0);
      expect(matmulFloat8(a, b, { ...given, out })).toBe(out);
      expect(out).toEqual(y);
      out.fill(0);
      expect(await matmulFloat8Async(a, b, { ...given, out })).toBe(out);
      expect(out).toEqual(y);
    }
  });

  it('multiplies what quantizeTensor makes', () => {
    const [m, n, k] = [2, 3, 4];
    const perRow = { dtype: 'float8_e4m3fn', granularity: 'per-channel' } as const;
    const x = quantizeTensor(Float32Array.of(1, 2, 3, 4, -1, 0, 0.5, 8), { ...perRow, shape: [m, k] });
    const w = quantizeTensor(Float32Array.of(1, 1, 1, 1, 2, 0, 0, -2, 4, 8, 16, 32), { ...perRow, shape: [n, k] });
    const y = matmulFloat8(x.data, w.data, { m, n, k, aScale: x.scales, bScale: w.scales });
    const expected = [10, -6, 196, 7.5, -18, 260];
    for (const [i, value] of y.entries()) {
      expect(Math.abs(value - (expected[i] as number))).toBeLessThan(0.07 * Math.abs(expected[i] as number));
    }
  });

  it('a NaN reaches the results that it takes part in, and float16 overflows to infinity', async () => {
    const [m, n, k] = [3, 4, 20];
    const [a, b] = [float8Codes(m * k, 1), float8Codes(n * k, 2)];
    a[k + 7] = 0x7f;
    b[2 * k + 3] = 0xff;
    for (const y of [matmulFloat8(a, b, { m, n, k }), await matmulFloat8Async(a, b, { m, n, k })]) {
      expect(Array.from(y, Number.isNaN)).toEqual(
        Array.from({ length: m * n }, (_, i) => Math.floor(i / n) === 1 || i % n === 2),
      );
    }
    const ones = castTensor(Float32Array.of(448, 448), { from: 'float32', to: 'float8_e4m3fn' });
    expect(matmulFloat8(ones, ones, { m: 1, n: 1, k: 2, outDtype: 'float16' })).toEqual(Uint16Array.of(0x7c00));
  });

  it('without results', async () => {
    expect(matmulFloat8(new Uint8Array(0), new Uint8Array(6), { m: 0, n: 2, k: 3 })).toEqual(new Float32Array(0));
    expect(await matmulFloat8Async(new Uint8Array(6), new Uint8Array(0), { m: 2, n: 0, k: 3 })).toHaveLength(0);
  });

  it('the caller may change its arrays at once', async () => {
    const { a, b, options }: { a: Uint8Array; b: Uint8Array; options: MatmulFloat8Options } = float8Operands(
      4,
      5,
      64,
      1,
    );
    const expected = matmulFloat8(a, b, options);
    const { aScale, bScale, bias } = options;
    const result = matmulFloat8Async(a, b, options);
    for (const array of [a, b, aScale, bScale, bias]) if (typeof array === 'object') array.fill(3);
    expect(await result).toEqual(expected);
  });

  it('refuses wrong arguments', async () => {
    const size = { m: 2, n: 3, k: 4 };
    const [a, b] = [new Uint8Array(8), new Uint8Array(12)];
    const calls: [string, RegExp, unknown, unknown, object][] = [
      ['a', /length 8/, new Uint8Array(7), b, {}],
      ['a', /Uint8Array/, new Int8Array(8), b, {}],
      ['b', /length 12/, a, a, {}],
      ['m', /integer/, a, b, { m: -1 }],
      ['aScale', /length 2/, a, b, { aScale: new Float32Array(3) }],
      ['aScale', /finite/, a, b, { aScale: Number.NaN }],
      ['aScale', /finite/, a, b, { aScale: 1e300 }],
      ['bScale', /finite but received Infinity at index 1/, a, b, { bScale: Float32Array.of(1, 1 / 0, 1) }],
      ['bScale', /a number or a Float32Array/, a, b, { bScale: '1' }],
      ['bias', /length 3/, a, b, { bias: new Float32Array(2) }],
      ['outDtype', /float32/, a, b, { outDtype: 'int8' }],
      ['out', /Float32Array/, a, b, { out: new Uint16Array(6) }],
      ['out', /length 6/, a, b, { out: new Float32Array(5) }],
      ['device', /'cpu', 'cuda'/, a, b, { device: 'gpu' }],
      ['scale', /./, a, b, { scale: 1 }],
    ];
    for (const [argument, message, x, w, options] of calls) {
      const given = { ...size, ...options } as never;
      expect(() => matmulFloat8(x as never, w as never, given), String(message)).toThrow(
        argument === 'scale' ? expect.objectContaining({ code: 'INVALID_ARGUMENT' }) : invalid(argument, message),
      );
    }
    const signal = AbortSignal.abort(new Error('stop'));
    await expect(matmulFloat8Async(a, b, { ...size, signal })).rejects.toThrow('stop');
  });
});
