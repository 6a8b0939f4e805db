/**
 * Means over windows of a text, and how certain they are.
 *
 * @module
 */

/** A value that was estimated from windows of a text. */
export interface Estimate {
  /** What all windows together give. */
  readonly value: number;
  /**
   * Standard error over the windows, which count as independent; null for a single window. About two thirds of the values
   * that other texts of the same kind would give lie within one of it, 95 % within two.
   */
  readonly standardError: number | null;
}

/** The mean over windows that weigh the same, and its standard error: `√(Σ(x − mean)² / (n − 1) / n)`. */
export function meanOf(values: ArrayLike<number>): Estimate {
  const count = values.length;
  let sum = 0;
  for (let i = 0; i < count; i++) sum += values[i] as number;
  const mean = sum / count;
  if (count < 2) return { value: mean, standardError: null };
  let squares = 0;
  for (let i = 0; i < count; i++) squares += ((values[i] as number) - mean) ** 2;
  return { value: mean, standardError: Math.sqrt(squares / (count - 1) / count) };
}

/** `Σ a / Σ b` over windows, with the standard error of a ratio of means: that of the mean of `a − ratio · b`, over the mean of b. */
export function ratioOf(a: ArrayLike<number>, b: ArrayLike<number>): Estimate {
  const [above, below] = [meanOf(a).value, meanOf(b).value];
  const value = above / below;
  const { standardError } = meanOf(Array.from(a, (x, i) => x - value * (b[i] as number)));
  return { value, standardError: standardError === null ? null : standardError / below };
}

/** What becomes of a standard error under a function with this slope. */
export function scaled({ value, standardError }: Estimate, factor: number): Estimate {
  return { value: value * factor, standardError: standardError === null ? null : standardError * Math.abs(factor) };
}

/** `exp(x)`, whose slope is itself. */
export function exponentialOf({ value, standardError }: Estimate): Estimate {
  const e = Math.exp(value);
  return { value: e, standardError: standardError === null ? null : standardError * e };
}

/** `exp(x) − 1`, exact for small x as well. */
export function relativeChangeOf({ value, standardError }: Estimate): Estimate {
  return { value: Math.expm1(value), standardError: standardError === null ? null : standardError * Math.exp(value) };
}

/** The value below which this percentage of `sorted` lies, between two of them in proportion (Hyndman and Fan's type 7). */
export function percentileOf(sorted: Float64Array, percent: number): number {
  const at = (percent / 100) * (sorted.length - 1);
  const below = Math.floor(at);
  const low = sorted[below] as number;
  const high = sorted[Math.min(sorted.length - 1, below + 1)] as number;
  return low + (high - low) * (at - below);
}
