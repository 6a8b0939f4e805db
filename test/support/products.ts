/** Matrix products and what follows them, in float64: the judge of everything in lib/matmul. */
import { type QuantizedTensor, type QuantizeOptions, quantizeTensor } from '../../lib/index.js';
import { normal } from './random.js';

/** x[m, k] · W[n, k]ᵀ. */
export function product(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  m: number,
  n: number,
  k: number,
  term: (a: number, b: number) => number = (a, b) => a * b,
): Float64Array {
  const out = new Float64Array(m * n);
  for (let row = 0; row < m; row++) {
    for (let column = 0; column < n; column++) {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += term(x[row * k + i] as number, w[column * k + i] as number);
      out[row * n + column] = sum;
    }
  }
  return out;
}

/** Σ|x|·|w|: what errors of float32 sums are measured against. */
export const magnitudes = (x: ArrayLike<number>, w: ArrayLike<number>, m: number, n: number, k: number) =>
  product(x, w, m, n, k, (a, b) => Math.abs(a * b));

/** What a float32 sum of k products may be off by, per unit of {@link magnitudes}. */
export const float32Bound = (k: number): number => (k + 4) * 2 ** -24;

/** max|got − exact| / max|exact|. */
export function relativeError(got: ArrayLike<number>, exact: ArrayLike<number>): number {
  let [error, largest] = [0, 0];
  for (let i = 0; i < exact.length; i++) {
    error = Math.max(error, Math.abs((got[i] as number) - (exact[i] as number)));
    largest = Math.max(largest, Math.abs(exact[i] as number));
  }
  return error / largest;
}

/** Σ(got − exact)² / Σ signal². */
export function errorPower(
  got: ArrayLike<number>,
  exact: ArrayLike<number>,
  signal: ArrayLike<number> = exact,
): number {
  let [error, power] = [0, 0];
  for (let i = 0; i < exact.length; i++) {
    error += ((got[i] as number) - (exact[i] as number)) ** 2;
    power += (signal[i] as number) ** 2;
  }
  return error / power;
}

/** The error function, to 1e-15 or so: its Taylor series, or the continued fraction of its complement. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 3) {
    let [term, sum] = [x, x];
    for (let i = 1; i < 120; i++) {
      term *= (-x * x) / i;
      sum += term / (2 * i + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let i = 120; i >= 1; i--) fraction = i / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * (a + fraction)));
}

export const ACTIVATIONS = {
  silu: (v: number) => v / (1 + Math.exp(-v)),
  gelu: (v: number) => (v / 2) * (1 + erf(v / Math.SQRT2)),
  'gelu-tanh': (v: number) => (v / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))),
} as const;

/** A quantized matrix of normally distributed weights. */
export function quantizedMatrix(n: number, k: number, options: Partial<QuantizeOptions>, seed = 1): QuantizedTensor {
  return quantizeTensor(normal(n * k, seed), { dtype: 'int4', ...options, shape: [n, k] } as never);
}
