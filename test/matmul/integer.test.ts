import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  dynamicQuantizeMatmul,
  dynamicQuantizeMatmulAsync,
  type IntegerMatrix,
  matmulInteger,
  prepackInteger,
  quantizedMatmul,
  quantizeTensor,
  unpackCodes,
} from '../../lib/index.js';
import { roundHalfEven } from '../support/plain.js';
import { normal, random } from '../support/random.js';
import { type EncodedArray, float32, numbers, ortCases } from '../support/vectors.js';

function matrix(signed: boolean, values: ArrayLike<number>): IntegerMatrix {
  return signed ? Int8Array.from(values) : Uint8Array.from(values);
}

function integers(count: number, signed: boolean, seed: number): IntegerMatrix {
  const next = random(seed);
  const lowest = signed ? -128 : 0;
  return matrix(
    signed,
    Array.from({ length: count }, () => Math.floor(next() * 256) + lowest),
  );
}

interface Zeros {
  a?: number | Int32Array;
  b?: number | Int32Array;
}

const zeroAt = (zero: number | Int32Array | undefined, i: number) =>
  typeof zero === 'object' ? (zero[i] as number) : (zero ?? 0);

/** (a − zero) · (b − zero), modulo 2^32. */
function plain(a: IntegerMatrix, b: IntegerMatrix, m: number, n: number, k: number, zeros: Zeros = {}): Int32Array {
  const out = new Int32Array(m * n);
  for (let row = 0; row < m; row++) {
    for (let column = 0; column < n; column++) {
      let sum = 0;
      for (let i = 0; i < k; i++) {
        const [x, y] = [a[row * k + i] as number, b[i * n + column] as number];
        sum += (x - zeroAt(zeros.a, row)) * (y - zeroAt(zeros.b, column));
      }
      out[row * n + column] = sum;
    }
  }
  return out;
}

const options = (zeros: Zeros) => ({
  ...(zeros.a === undefined ? {} : { aZeroPoint: zeros.a }),
  ...(zeros.b === undefined ? {} : { bZeroPoint: zeros.b }),
});

const SIGNS = [
  [false, false],
  [false, true],
  [true, false],
  [true, true],
] as const;

describe('matmulInteger', () => {
  it.each(SIGNS)('is exact for any sizes and zero points; signed: %s × %s', (aSigned, bSigned) => {
    const size = fc.integer({ min: 1, max: 70 });
    const zero = (signed: boolean) => fc.integer({ min: signed ? -128 : 0, max: signed ? 127 : 255 });
    const each = (signed: boolean) => fc.oneof(zero(signed), fc.constant('each' as const), fc.constant(undefined));
    fc.assert(
      fc.property(
        fc.record({ m: size, n: size, k: size, aZero: each(aSigned), bZero: each(bSigned), seed: fc.nat() }),
        fc.boolean(),
        ({ m, n, k, aZero, bZero, seed }, packs) => {
          const a = integers(m * k, aSigned, seed);
          const b = integers(k * n, bSigned, seed + 1);
          const zeros: Zeros = {};
          if (aZero !== undefined) zeros.a = aZero === 'each' ? Int32Array.from(integers(m, aSigned, seed + 2)) : aZero;
          if (bZero !== undefined) zeros.b = bZero === 'each' ? Int32Array.from(integers(n, bSigned, seed + 3)) : bZero;
          const second = packs ? prepackInteger(b, { k, n }) : b;
          const got = matmulInteger(a, second, { m, n, k, ...options(zeros) });
          expect(got).toEqual(plain(a, b, m, n, k, zeros));
        },
      ),
      { numRuns: 100 },
    );
  });

  it('the most extreme values do not saturate in between', () => {
    for (const [x, y] of [
      [255, 127],
      [255, -128],
      [0, -128],
      [255, 255],
      [-128, -128],
      [-128, 255],
      [127, -128],
    ] as const) {
      for (const k of [1, 2, 3, 4, 64, 1000]) {
        const a = matrix(x < 128, new Int16Array(3 * k).fill(x));
        const b = matrix(y < 128, new Int16Array(k * 17).fill(y));
        expect(matmulInteger(a, b, { m: 3, n: 17, k })).toEqual(new Int32Array(51).fill(x * y * k));
      }
    }
  });

  it('sums wrap around at 2^32', () => {
    const k = 70_000;
    const a = new Uint8Array(k).fill(255);
    const expected = Int32Array.of(255 * 255 * k);
    expect(expected[0]).not.toBe(255 * 255 * k);
    expect(matmulInteger(a, a, { m: 1, n: 1, k })).toEqual(expected);
    expect(matmulInteger(a, new Int8Array(k).fill(-128), { m: 1, n: 1, k, bZeroPoint: 127 })).toEqual(
      Int32Array.of(255 * -255 * k),
    );
  });

  it.each([
    [1, 300, 1000],
    [64, 96, 512],
    [130, 257, 129],
    [257, 3, 70],
  ])('m = %i, n = %i, k = %i', (m, n, k) => {
    const a = integers(m * k, false, 1);
    const b = integers(k * n, true, 2);
    const zeros = { a: 131, b: Int32Array.from(integers(n, true, 3)) };
    expect(matmulInteger(a, b, { m, n, k, ...options(zeros) })).toEqual(plain(a, b, m, n, k, zeros));
  });

  it('is zero without columns, and nothing without rows', () => {
    const [a, b] = [new Uint8Array(0), new Int8Array(0)];
    expect(matmulInteger(a, b, { m: 2, n: 3, k: 0, aZeroPoint: 7, bZeroPoint: -9 })).toEqual(new Int32Array(6));
    expect(matmulInteger(a, prepackInteger(b, { k: 0, n: 3 }), { m: 2, n: 3, k: 0 })).toEqual(new Int32Array(6));
    expect(matmulInteger(a, new Int8Array(6), { m: 0, n: 3, k: 2 })).toEqual(new Int32Array(0));
    expect(matmulInteger(new Uint8Array(4), b, { m: 2, n: 0, k: 2 })).toEqual(new Int32Array(0));
  });

  it('reuses out', () => {
    const [a, b] = [integers(6, true, 1), integers(8, false, 2)];
    const out = new Int32Array(12).fill(-1);
    expect(matmulInteger(a, b, { m: 3, n: 4, k: 2, out })).toBe(out);
    expect(out).toEqual(plain(a, b, 3, 4, 2));
  });

  it('a packed matrix tells what it is', () => {
    const w = prepackInteger(integers(15, true, 1), { k: 5, n: 3 });
    expect(w).toMatchObject({ kind: 'integer', rows: 3, cols: 5, disposed: false });
    expect(w.nbytes).toBeGreaterThanOrEqual(15);
  });
});

const typed = (array: EncodedArray) => matrix(array.dtype === 'int8', numbers(array));

describe('ONNX Runtime', () => {
  it.each(ortCases(/^MatMulInteger/).map((c) => [c.id, c] as const))('%s', (_, { inputs, initializers, outputs }) => {
    const given = { ...inputs, ...initializers };
    const [m = 0, k = 0] = given['a']?.shape ?? [];
    const n = given['b']?.shape[1] ?? 0;
    const [a, b] = [typed(given['a'] as never), typed(given['b'] as never)];
    const zeros = { a: numbers(given['az'] as never)[0] as number, b: Int32Array.from(numbers(given['bz'] as never)) };
    const y = numbers(outputs['y'] as never);
    expect(Array.from(matmulInteger(a, b, { m, n, k, ...options(zeros) }))).toEqual(y);
    expect(Array.from(matmulInteger(a, prepackInteger(b, { k, n }), { m, n, k, ...options(zeros) }))).toEqual(y);
  });

  it.each(ortCases(/^QLinearMatMul/).map((c) => [c.id, c] as const))('%s', (_, { inputs, initializers, outputs }) => {
    const given = { ...inputs, ...initializers } as Record<string, never>;
    const one = (name: string) => numbers(given[name] as never)[0] as number;
    const [m = 0, k = 0] = (given['a'] as { shape: number[] } | undefined)?.shape ?? [];
    const n = (given['b'] as { shape: number[] } | undefined)?.shape[1] ?? 0;
    const y = outputs['y'] as { dtype: 'int8' | 'uint8' } & EncodedArray;
    const got = quantizedMatmul(typed(given['a'] as never), typed(given['b'] as never), {
      m,
      n,
      k,
      aScale: one('as'),
      aZeroPoint: one('az'),
      bScale: float32(given['bs'] as never),
      bZeroPoint: Int32Array.from(numbers(given['bz'] as never)),
      outScale: one('ys'),
      outZeroPoint: one('yz'),
      outDtype: y.dtype,
    });
    expect(Array.from(got)).toEqual(numbers(y));
  });

  it('there are cases of both', () => {
    expect(
      ortCases(/^(MatMulInteger|QLinearMatMul)/)
        .map(({ nodes }) => nodes[0]?.op)
        .sort(),
    ).toEqual(expect.arrayContaining(['MatMulInteger', 'QLinearMatMul']));
  });
});

describe('quantizedMatmul', () => {
  it.each([
    ['int8', -128, 127],
    ['uint8', 0, 255],
  ] as const)('%s: saturates and rounds half to even', (outDtype, lowest, highest) => {
    fc.assert(
      fc.property(
        fc.record({
          m: fc.integer({ min: 1, max: 9 }),
          n: fc.integer({ min: 1, max: 40 }),
          k: fc.integer({ min: 1, max: 40 }),
          seed: fc.nat(),
          perColumn: fc.boolean(),
          outZeroPoint: fc.integer({ min: lowest, max: highest }),
        }),
        ({ m, n, k, seed, perColumn, outZeroPoint }) => {
          const [a, b] = [integers(m * k, true, seed), integers(k * n, false, seed + 1)];
          const bScales = Float32Array.from(normal(perColumn ? n : 1, seed + 2), (v) => Math.abs(v) / 64);
          const bScale = perColumn ? bScales : (bScales[0] as number);
          const [aScale, outScale] = [Math.fround(0.05), Math.fround(1.7)];
          const sums = plain(a, b, m, n, k);
          const expected = Array.from(sums, (sum, i) => {
            const scale = Math.fround(Math.fround(aScale * (bScales[perColumn ? i % n : 0] as number)) / outScale);
            const code = roundHalfEven(Math.fround(Math.fround(sum) * scale)) + outZeroPoint;
            return Math.min(highest, Math.max(lowest, code));
          });
          const got = quantizedMatmul(a, b, { m, n, k, aScale, bScale, outScale, outZeroPoint, outDtype });
          expect(Array.from(got)).toEqual(expected);
        },
      ),
      { numRuns: 100 },
    );
  });

  it('ties', () => {
    const a = Int8Array.from({ length: 41 }, (_, i) => i - 20);
    const got = quantizedMatmul(a, new Int8Array([1]), {
      m: 41,
      n: 1,
      k: 1,
      aScale: 0.5,
      bScale: 1,
      outScale: 1,
      outDtype: 'int8',
    });
    expect(Array.from(got)).toEqual(Array.from(a, (v) => roundHalfEven(v / 2)));
  });

  it('the result is the array that outDtype says, or out', () => {
    const given = { m: 1, n: 1, k: 1, aScale: 1, bScale: 1, outScale: 1 } as const;
    const a = new Uint8Array([200]);
    expect(quantizedMatmul(a, a, { ...given, outDtype: 'int8' })).toEqual(new Int8Array([127]));
    expect(quantizedMatmul(a, a, { ...given, outDtype: 'uint8' })).toEqual(new Uint8Array([255]));
    const out = new Int8Array(1);
    expect(quantizedMatmul(a, a, { ...given, outDtype: 'int8', aZeroPoint: 201, out })).toBe(out);
    expect(out[0]).toBe(-128);
  });
});

describe('dynamicQuantizeMatmul', () => {
  /** x as ONNX DynamicQuantizeLinear quantizes it; quantizeTensor is compared with ONNX Runtime in test/tensor. */
  function expectedOf(
    x: Float32Array,
    b: IntegerMatrix,
    sizes: { m: number; n: number; k: number },
    bScale: number | Float32Array,
    bZero: Zeros['b'],
    bias?: Float32Array,
  ): Float32Array {
    const { m, n, k } = sizes;
    const q = quantizeTensor(x, { dtype: 'uint8' });
    const sums = plain(unpackCodes(q), b, m, n, k, { a: q.zeroPoints?.[0] as number, b: bZero ?? 0 });
    return Float32Array.from(sums, (sum, i) => {
      const scale = Math.fround(
        (q.scales[0] as number) * Math.fround(typeof bScale === 'number' ? bScale : (bScale[i % n] as number)),
      );
      return Math.fround(Math.fround(sum) * scale) + (bias?.[i % n] ?? 0);
    });
  }

  it.each([
    [1, 1, 1],
    [3, 40, 17],
    [70, 33, 64],
    [5, 300, 1000],
  ])('m = %i, n = %i, k = %i', (m, n, k) => {
    const sizes = { m, n, k };
    const b = integers(k * n, true, 5);
    const bias = normal(n, 6);
    const scales = Float32Array.from(normal(n, 7), Math.abs);
    const zeros = Int32Array.from(integers(n, true, 8));
    for (const x of [
      normal(m * k, 9),
      normal(m * k, 10, 1e-3).map(Math.abs),
      normal(m * k, 11).map((v) => -Math.abs(v)),
    ]) {
      expect(dynamicQuantizeMatmul(x, b, { ...sizes, bScale: 0.25 })).toEqual(expectedOf(x, b, sizes, 0.25, 0));
      const packed = prepackInteger(b, { k, n });
      expect(dynamicQuantizeMatmul(x, packed, { ...sizes, bScale: scales, bZeroPoint: zeros, bias })).toEqual(
        expectedOf(x, b, sizes, scales, zeros, bias),
      );
    }
  });

  it('quantizes what ONNX Runtime was given as ONNX Runtime did', () => {
    const one = new Int8Array([1]);
    for (const { id, inputs, outputs } of ortCases(/^DynamicQuantizeLinear/)) {
      const x = float32(inputs['x'] as never);
      const scale = numbers(outputs['s'] as never)[0] as number;
      const zero = numbers(outputs['z'] as never)[0] as number;
      if (!(scale > 0)) continue; // all zeros: ONNX Runtime's scale is 0
      const y = dynamicQuantizeMatmul(x, one, { m: x.length, n: 1, k: 1, bScale: 1 });
      const expected = numbers(outputs['y'] as never).map((code) => Math.fround((code - zero) * scale) + 0);
      expect(
        Array.from(y, (v) => v + 0),
        id,
      ).toEqual(expected);
    }
  });

  it('zeros give the bias', () => {
    const bias = normal(4, 1);
    const y = dynamicQuantizeMatmul(new Float32Array(6), new Uint8Array(12).fill(9), {
      m: 2,
      n: 4,
      k: 3,
      bScale: 1,
      bias,
    });
    expect(Array.from(y)).toEqual([...bias, ...bias]);
    expect(dynamicQuantizeMatmul(new Float32Array(0), new Uint8Array(0), { m: 2, n: 2, k: 0, bScale: 1 })).toEqual(
      new Float32Array(4),
    );
  });

  it('names NaN and infinity', async () => {
    const b = new Int8Array(100).fill(1);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const x = normal(100_000, 1);
      for (const index of [99_999, 40_000, 3]) {
        x[index] = bad;
        const given = { m: 1000, n: 1, k: 100, bScale: 1 };
        const error = expect.objectContaining({ code: 'NON_FINITE', index, value: bad });
        expect(() => dynamicQuantizeMatmul(x, b, given)).toThrow(error);
        await expect(dynamicQuantizeMatmulAsync(x, b, given)).rejects.toThrow(error);
      }
    }
  });
});
