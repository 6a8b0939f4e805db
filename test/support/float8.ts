/** Products of E4M3FN, and what they are in float64. */
import { expect } from 'vitest';
import { castTensor, type MatmulFloat8Options } from '../../lib/index.js';
import { normal } from './random.js';

export function float8Codes(count: number, seed: number): Uint8Array {
  return castTensor(normal(count, seed, 60), { from: 'float32', to: 'float8_e4m3fn' }) as Uint8Array;
}

/** Operands and scales: choice 0 has one of each and no bias, 1 one for each row, 2 one of a and each of b. */
export function float8Operands(m: number, n: number, k: number, choice: number) {
  const positive = (count: number, seed: number) => normal(count, seed).map((x) => 0.001 + 0.01 * Math.abs(x));
  const options = {
    m,
    n,
    k,
    ...(choice === 0 ? { aScale: 0.03 } : choice === 1 ? { aScale: positive(m, 3) } : {}),
    ...(choice === 0 ? {} : { bScale: positive(n, 4), bias: normal(n, 5) }),
  };
  return { a: float8Codes(m * k, 1), b: float8Codes(n * k, 2), options };
}

const valuesOf = (codes: Uint8Array) => castTensor(codes, { from: 'float8_e4m3fn', to: 'float32' });

/** Expects a product within `bound` of the sum of the magnitudes, and the rounding of scales and result. */
export function expectFloat8Product(
  y: Float32Array | Uint16Array,
  a: Uint8Array,
  b: Uint8Array,
  { m, n, k, aScale = 1, bScale = 1, bias, outDtype = 'float32' }: MatmulFloat8Options,
  bound: number,
): void {
  const [x, w] = [valuesOf(a), valuesOf(b)];
  const got = outDtype === 'float32' ? y : castTensor(y as Uint16Array, { from: outDtype, to: 'float32' });
  const rounding = outDtype === 'float32' ? 2 ** -22 : outDtype === 'float16' ? 2 ** -11 : 2 ** -8;
  const scaleOf = (scale: number | Float32Array, row: number) =>
    typeof scale === 'number' ? Math.fround(scale) : (scale[row] as number);
  expect(got.length).toBe(m * n);
  for (let row = 0; row < m; row++) {
    for (let column = 0; column < n; column++) {
      let [sum, magnitude] = [0, 0];
      for (let i = 0; i < k; i++) {
        const product = (x[row * k + i] as number) * (w[column * k + i] as number);
        sum += product;
        magnitude += Math.abs(product);
      }
      const scale = scaleOf(aScale, row) * scaleOf(bScale, column);
      const added = bias?.[column] ?? 0;
      const expected = sum * scale + added;
      const room = bound * magnitude * scale + rounding * (Math.abs(sum * scale) + Math.abs(added)) + 2 ** -24;
      const error = Math.abs((got[row * n + column] as number) - expected);
      expect(error, `row ${row}, column ${column}`).toBeLessThanOrEqual(room);
    }
  }
}
