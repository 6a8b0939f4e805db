import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type ComputeDtype,
  castTensor,
  dequantizeTensor,
  type Float16ArrayLike,
  type IntDtype,
  linear,
  NonFiniteError,
  type PackedWeight,
  prepack,
  type QuantizedTensor,
  quantizeTensor,
} from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import {
  ACTIVATIONS,
  errorPower,
  float32Bound,
  magnitudes,
  product,
  quantizedMatrix,
  relativeError,
} from '../support/products.js';
import { normal } from '../support/random.js';

const DTYPES: IntDtype[] = ['int8', 'uint8', 'int4', 'uint4', 'int3', 'uint3', 'int2', 'uint2'];
const LAYOUTS = [
  { granularity: 'per-tensor' },
  { granularity: 'per-channel' },
  { granularity: 'per-group', groupSize: 16 },
  { granularity: 'per-group', groupSize: 32 },
  { granularity: 'per-group', groupSize: 48 },
  { granularity: 'per-group', groupSize: 128 },
  { granularity: 'per-group', groupSize: 4096 },
] as const;
const SCHEMES = ['symmetric', 'asymmetric'] as const;

/** Steps of the quantization of x: the largest magnitude is so many. */
const STEPS = { int16: 127 * 128, int8: 127 } as const;

/** That a product is as near to the exact one as its arithmetic allows. */
function expectProduct(
  got: Float32Array,
  { x, w, m, n, k }: { x: Float32Array; w: Float32Array; m: number; n: number; k: number },
  compute: ComputeDtype,
): void {
  expect(got).toHaveLength(m * n);
  const exact = product(x, w, m, n, k);
  const sizes = magnitudes(x, w, m, n, k);
  const largest = Array.from({ length: m }, (_, r) =>
    x.subarray(r * k, (r + 1) * k).reduce((a, v) => Math.max(a, Math.abs(v)), 0),
  );
  const weights = product(new Float32Array(k).fill(1), w.map(Math.abs), 1, n, k);
  for (let i = 0; i < exact.length; i++) {
    let bound = float32Bound(k) * (sizes[i] as number) + 1e-40;
    if (compute !== 'float32') {
      // Half a step for each element of x, whatever its scale's share; and the roundings of scales and sums.
      const step = (largest[Math.floor(i / n)] as number) / STEPS[compute];
      bound = (0.5001 * step + float32Bound(k) * (largest[Math.floor(i / n)] as number)) * (weights[i % n] as number);
    }
    const error = Math.abs((got[i] as number) - (exact[i] as number));
    if (!(error <= bound)) expect.fail(`${got[i]} instead of ${exact[i]} at ${i}: off by ${error}, allowed ${bound}`);
  }
}

describe('linear with quantized weights', () => {
  const [m, n, k] = [5, 37, 272];
  const x = normal(m * k, 7);

  describe.each(DTYPES)('%s', (dtype) => {
    it.each(LAYOUTS)('$granularity $groupSize', (layout) => {
      for (const scheme of SCHEMES) {
        const q = quantizedMatrix(n, k, { dtype, scheme, ...layout } as never);
        const w = dequantizeTensor(q);
        const packed = prepack(q);
        expect(packed.kind).toBe('quantized');
        for (const computeDtype of ['float32', 'int16', 'int8'] as const) {
          for (const activationGranularity of ['per-group', 'per-token'] as const) {
            const y = linear(x, packed, { computeDtype, activationGranularity });
            expectProduct(y, { x, w, m, n, k }, computeDtype);
          }
        }
        packed.dispose();
      }
    });
  });

  it.each([
    { granularity: 'per-channel', axis: 1 },
    { granularity: 'per-group', groupSize: 24 },
    { granularity: 'per-group', groupSize: 1 },
  ] as const)('$granularity $axis $groupSize takes the slower path, as floats', (layout) => {
    const q = quantizedMatrix(n, k, { dtype: 'uint4', ...layout } as never);
    const packed = prepack(q);
    expect(packed.kind).toBe('float');
    expectProduct(linear(x, packed), { x, w: dequantizeTensor(q), m, n, k }, 'float32');
  });

  it('any group of at least a row is one for each row', () => {
    const q = quantizedMatrix(n, 50, { dtype: 'int4', granularity: 'per-group', groupSize: 77 });
    const rows = normal(50, 3);
    expect(prepack(q).kind).toBe('quantized');
    expectProduct(linear(rows, prepack(q)), { x: rows, w: dequantizeTensor(q), m: 1, n, k: 50 }, 'int16');
  });

  it('scales that are negative, zero, subnormal or only float32 keep their meaning', () => {
    const codes = quantizedMatrix(4, 64, { dtype: 'int8', granularity: 'per-group', groupSize: 16 });
    const scales = Float32Array.from([
      0.5,
      -0.25,
      0,
      1e-7,
      3e-39,
      1.1,
      -7,
      65504,
      65520,
      1e30,
      2 ** -24,
      2 ** -25,
      1,
      2,
      3,
      4,
    ]);
    const one = normal(64, 9);
    for (const count of [16, 8, 4]) {
      const q = { ...codes, scales: scales.map((s, i) => (i < count ? s : 1)) };
      expectProduct(
        linear(one, prepack(q), { computeDtype: 'float32' }),
        { x: one, w: dequantizeTensor(q), m: 1, n: 4, k: 64 },
        'float32',
      );
    }
  });

  it('extreme codes and zero points are exact', () => {
    const ones = new Float32Array(64).fill(1);
    for (const dtype of DTYPES) {
      const bits = Number(dtype.at(-1));
      const signed = dtype.startsWith('i');
      const [low, high] = signed ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
      for (const zero of [low, high]) {
        for (const value of [low, high]) {
          const q = quantizeTensor(new Float32Array(3 * 64).fill(value - zero), {
            dtype,
            scheme: 'asymmetric',
            shape: [3, 64],
            granularity: 'per-channel',
            scales: new Float32Array(3).fill(1),
            zeroPoints: Int32Array.of(zero, low, zero),
          } as never) as QuantizedTensor;
          const w = dequantizeTensor(q);
          const y = linear(ones, prepack(q), { computeDtype: 'float32' });
          expect(Array.from(y)).toEqual(Array.from(product(ones, w, 1, 3, 64)));
          expectProduct(linear(ones, prepack(q)), { x: ones, w, m: 1, n: 3, k: 64 }, 'int16');
        }
      }
    }
  });

  it('any small sizes', () => {
    const size = fc.integer({ min: 1, max: 70 });
    fc.assert(
      fc.property(
        fc.record({
          m: size,
          n: size,
          k: size,
          dtype: fc.constantFrom(...DTYPES),
          scheme: fc.constantFrom(...SCHEMES),
          layout: fc.constantFrom(...LAYOUTS),
          compute: fc.constantFrom('float32', 'int16', 'int8'),
          perToken: fc.boolean(),
          seed: fc.nat(),
        }),
        ({ m, n, k, dtype, scheme, layout, compute, perToken, seed }) => {
          const q = quantizedMatrix(n, k, { dtype, scheme, ...layout } as never, seed);
          const x = normal(m * k, seed + 1, 10 ** ((seed % 7) - 3));
          const packed = prepack(q);
          const y = linear(x, packed, {
            computeDtype: compute as ComputeDtype,
            activationGranularity: perToken ? 'per-token' : 'per-group',
          });
          packed.dispose();
          expectProduct(y, { x, w: dequantizeTensor(q), m, n, k }, compute as ComputeDtype);
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('linear with float weights', () => {
  const [m, n, k] = [3, 50, 77];
  const x = normal(m * k, 1);
  const weights = normal(n * k, 2);

  it('float32', () => {
    const packed = prepack(weights, { shape: [n, k] });
    expect(packed).toMatchObject({ kind: 'float', rows: n, cols: k });
    for (const computeDtype of [undefined, 'float32', 'int16', 'int8'] as const) {
      const y = linear(x, packed, computeDtype === undefined ? {} : { computeDtype });
      expectProduct(y, { x, w: weights, m, n, k }, 'float32');
    }
  });

  it.each(['float16', 'bfloat16'] as const)('%s', (dtype) => {
    const narrow = castTensor(weights, { from: 'float32', to: dtype });
    const w = castTensor(narrow, { from: dtype, to: 'float32' });
    expectProduct(linear(x, prepack(narrow, { shape: [n, k], dtype })), { x, w, m, n, k }, 'float32');
  });

  it('a Float16Array, where there is one', ({ skip }) => {
    type Constructor = new (from: Float32Array) => Float16ArrayLike;
    const Float16 =
      (globalThis as { Float16Array?: Constructor }).Float16Array ?? skip('this runtime has no Float16Array');
    const half = new Float16(weights);
    const packed = prepack(half, { shape: [n, k] });
    expectProduct(linear(x, packed), { x, w: Float32Array.from(half), m, n, k }, 'float32');
  });

  it('every multiple of a tile and its neighbours', () => {
    for (const columns of [1, 15, 16, 17, 31, 32, 33, 64]) {
      for (const length of [1, 3, 511, 512, 513]) {
        const w = normal(columns * length, columns);
        const rows = normal(7 * length, length);
        const packed = prepack(w, { shape: [columns, length] });
        expectProduct(linear(rows, packed), { x: rows, w, m: 7, n: columns, k: length }, 'float32');
        packed.dispose();
      }
    }
  });
});

describe('accuracy on real shapes', () => {
  const [m, n, k] = [4, 256, 4096];
  const x = normal(m * k, 11);
  const q = quantizedMatrix(n, k, { dtype: 'int4', granularity: 'per-group', groupSize: 32 }, 12);
  const exact = product(x, dequantizeTensor(q), m, n, k);
  const packed = prepack(q);

  it('int16 is the default, within 1e-4', () => {
    const y = linear(x, packed);
    expect(sameBytes(y, linear(x, packed, { computeDtype: 'int16' }))).toBe(true);
    expect(relativeError(y, exact)).toBeLessThan(1e-4);
    expect(
      relativeError(linear(x, packed, { computeDtype: 'int16', activationGranularity: 'per-token' }), exact),
    ).toBeLessThan(2e-4);
  });

  it('int8 within the error of 8-bit activations', () => {
    expect(errorPower(linear(x, packed, { computeDtype: 'int8' }), exact)).toBeLessThan(1e-4);
    expect(
      errorPower(linear(x, packed, { computeDtype: 'int8', activationGranularity: 'per-token' }), exact),
    ).toBeLessThan(5e-4);
  });

  it('one channel a thousand times larger: what the others lose', () => {
    const outlier = 1234;
    const rest = x.map((v, i) => (i % k === outlier ? 0 : v));
    const loud = x.map((v, i) => (i % k === outlier ? 1000 * v : v));
    const all = product(loud, dequantizeTensor(q), m, n, k);
    const others = product(rest, dequantizeTensor(q), m, n, k);
    const lost = (computeDtype: ComputeDtype, activationGranularity: 'per-group' | 'per-token') =>
      errorPower(linear(loud, packed, { computeDtype, activationGranularity }), all, others);
    // Of the power of what the other channels contribute. The documentation of linear() has these figures.
    expect(lost('float32', 'per-group')).toBeLessThan(2e-9);
    expect(lost('int16', 'per-group')).toBeLessThan(1e-5);
    expect(lost('int16', 'per-token')).toBeLessThan(1e-3);
    expect(lost('int8', 'per-group')).toBeLessThan(0.02);
    // Per token, one 8-bit scale for the row leaves nothing of the others: that is what the documentation says.
    expect(lost('int8', 'per-token')).toBeGreaterThan(0.5);
  });
});

describe('bias, activation and gate', () => {
  const [m, n, k] = [3, 21, 64];
  const x = normal(m * k, 1);
  const bias = normal(n, 2);
  const gateBias = normal(n, 3);
  const options = { dtype: 'int8', granularity: 'per-channel' } as const;
  const up = quantizedMatrix(n, k, options, 4);
  const gate = quantizedMatrix(n, k, { ...options, scheme: 'asymmetric' }, 5);
  const [upProduct, gateProduct] = [up, gate].map((q) => product(x, dequantizeTensor(q), m, n, k)) as [
    Float64Array,
    Float64Array,
  ];
  const close = (got: Float32Array, exact: Float64Array) => expect(relativeError(got, exact)).toBeLessThan(1e-6);
  const exactly = { computeDtype: 'float32' } as const;
  const w = prepack(up);
  const g = prepack(gate);

  it('adds a bias to every row', () => {
    close(
      linear(x, w, { bias, ...exactly }),
      upProduct.map((v, i) => v + (bias[i % n] as number)),
    );
  });

  it.each(Object.entries(ACTIVATIONS))('%s', (name, activation) => {
    const a = name as keyof typeof ACTIVATIONS;
    close(linear(x, w, { activation: a, ...exactly }), upProduct.map(activation));
    const biased = upProduct.map((v, i) => activation(v + (bias[i % n] as number)));
    close(linear(x, w, { bias, activation: a, ...exactly }), biased);
    const gated = gateProduct.map(
      (v, i) => activation(v + (gateBias[i % n] as number)) * ((upProduct[i] as number) + (bias[i % n] as number)),
    );
    close(linear(x, w, { bias, activation: a, gate: g, gateBias, ...exactly }), gated);
  });

  it('a gate has silu by default, and may be packed in another way', () => {
    const gated = gateProduct.map((v, i) => ACTIVATIONS.silu(v) * (upProduct[i] as number));
    close(linear(x, w, { gate: g, ...exactly }), gated);
    expect(relativeError(linear(x, w, { gate: g }), gated)).toBeLessThan(2e-4);
    const floats = prepack(dequantizeTensor(gate), { shape: [n, k] });
    close(linear(x, w, { gate: floats }), gated); // a pair with floats computes in float32
    const groups = { dtype: 'int4', granularity: 'per-group', groupSize: 16 } as const;
    const other = quantizedMatrix(n, k, groups, 6);
    const otherProduct = product(x, dequantizeTensor(other), m, n, k);
    const mixed = otherProduct.map((v, i) => ACTIVATIONS.silu(v) * (upProduct[i] as number));
    expect(relativeError(linear(x, w, { gate: prepack(other) }), mixed)).toBeLessThan(2e-4);
    close(
      linear(x, w, { gate: w, ...exactly }),
      upProduct.map((v) => ACTIVATIONS.silu(v) * v),
    );
  });

  it('activations far from zero neither overflow nor lose their limits', () => {
    const unit = prepack(new Float32Array([1]), { shape: [1, 1] });
    const values = Float32Array.from([-3e38, -1e4, -200, -100, -88, -20, -1e-30, 0, 1e-30, 20, 88, 100, 200, 3e38]);
    for (const [name, exact] of Object.entries(ACTIVATIONS)) {
      const y = linear(values, unit, { activation: name as keyof typeof ACTIVATIONS });
      values.forEach((v, i) => {
        const expected = exact(v);
        const error = Math.abs((y[i] as number) - (Number.isNaN(expected) ? 0 : expected));
        expect(error, `${name}(${v}) = ${y[i]}`).toBeLessThanOrEqual(1e-6 * Math.abs(v) * (v < -20 ? 1e-3 : 1) + 1e-37);
      });
    }
  });
});

describe('arrays', () => {
  const q = quantizedMatrix(20, 48, { dtype: 'uint4', granularity: 'per-group', groupSize: 16 });
  const w = prepack(q);
  const x = normal(3 * 48, 1);
  const expected = linear(x, w);

  it('out is written and returned, again and again', () => {
    const out = new Float32Array(60).fill(Number.NaN);
    for (let i = 0; i < 3; i++) {
      expect(linear(x, w, { out })).toBe(out);
      expect(sameBytes(out, expected)).toBe(true);
    }
  });

  it('views at any place of shared and of plain memory', () => {
    for (const Memory of [ArrayBuffer, SharedArrayBuffer]) {
      const view = new Float32Array(new Memory(4 * (x.length + 1)), 4);
      view.set(x);
      const out = new Float32Array(new Memory(4 * 63), 12);
      expect(sameBytes(linear(view, w, { out }), expected)).toBe(true);
    }
  });

  it('no rows give no rows', () => {
    expect(linear(new Float32Array(0), w)).toEqual(new Float32Array(0));
    expect(linear(new Float32Array(0), prepack(new Float32Array(0), { shape: [4, 0] }))).toHaveLength(0);
    expect(linear(new Float32Array(16), prepack(new Float32Array(0), { shape: [0, 8] }))).toHaveLength(0);
    for (const granularity of ['per-tensor', 'per-channel', 'per-group'] as const) {
      for (const shape of [
        [0, 8],
        [4, 0],
        [0, 0],
      ] as const) {
        const empty = prepack(quantizeTensor(new Float32Array(0), { dtype: 'uint4', shape, granularity }));
        expect(empty).toMatchObject({ rows: shape[0], cols: shape[1], kind: 'quantized' });
        expect(linear(new Float32Array(0), empty)).toHaveLength(0);
      }
    }
  });

  it('zeros give the bias', () => {
    const bias = normal(20, 5);
    for (const computeDtype of ['float32', 'int16', 'int8'] as const) {
      const y = linear(new Float32Array(96), w, { bias, computeDtype });
      expect(Array.from(y)).toEqual([...bias, ...bias]);
    }
  });
});

it.each(['float32', 'int16', 'int8'] as const)(
  '%s: a row gives the same bits alone as among others',
  (computeDtype) => {
    const [n, k] = [70, 320];
    const q = quantizedMatrix(n, k, { dtype: 'uint4', granularity: 'per-group', groupSize: 64 });
    for (const w of [prepack(q), prepack(dequantizeTensor(q), { shape: [n, k] })]) {
      for (const m of [2, 3, 7, 12, 13, 40, 97]) {
        const x = normal(m * k, m);
        const y = linear(x, w, { computeDtype });
        for (let row = 0; row < m; row++) {
          const alone = linear(x.subarray(row * k, (row + 1) * k), w, { computeDtype });
          expect(sameBytes(alone, y.subarray(row * n, (row + 1) * n))).toBe(true);
        }
      }
    }
  },
);

describe('NaN and infinity in x', () => {
  const packs: [string, PackedWeight][] = [
    ['quantized', prepack(quantizedMatrix(9, 100, { dtype: 'int8' }))],
    ['float', prepack(normal(900, 1), { shape: [9, 100] })],
  ];

  it.each(packs)('are named: %s', (_, w) => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      for (const index of [0, 99, 100, 457, 4999]) {
        for (const computeDtype of ['float32', 'int16', 'int8'] as const) {
          const x = normal(5000, 2);
          x[index] = bad;
          const call = () => linear(x, w, { computeDtype });
          expect(call).toThrow(NonFiniteError);
          const message = `Expected finite numbers but received ${bad} at index ${index} of x.`;
          expect(call).toThrow(expect.objectContaining({ code: 'NON_FINITE', index, value: bad, message }));
        }
      }
    }
  });

  it('the first of several', () => {
    const x = normal(5000, 2);
    for (const index of [4321, 1234, 1233, 777]) x[index] = Number.NaN;
    for (const [, w] of packs) {
      expect(() => linear(x, w)).toThrow(expect.objectContaining({ index: 777 }));
    }
  });
});
