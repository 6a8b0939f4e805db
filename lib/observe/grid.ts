/**
 * Histograms that add up to the same result in any order: see native/ops/observe/observe.h for their grid.
 *
 * @module
 */

/** @internal The least exponent of a grid, and what nothing but zeros has. */
export const LOWEST_EXPONENT = -100;

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** @internal The exponent of the grid that elements of at most this magnitude have: the least e with |x| < 2^e. */
export function gridExponent(absmax: number): number {
  float[0] = absmax;
  return Math.max(LOWEST_EXPONENT, ((bits[0] as number) >>> 23) - 126);
}

/** @internal The counts of one histogram, moved to a grid whose exponent is greater by `steps`. */
export function fold(counts: Float64Array, steps: number): void {
  if (steps <= 0) return;
  const half = counts.length / 2;
  const by = Math.min(steps, 31);
  for (let m = 0; m < half; m++) {
    for (const [from, to] of [
      [half + m, half + (m >> by)],
      [half - 1 - m, half - 1 - (m >> by)],
    ] as const) {
      const count = counts[from] as number;
      counts[from] = 0;
      (counts[to] as number) += count;
    }
  }
}

/** @internal The width of the bins of a grid. */
export function binWidth(bins: number, exponent: number): number {
  return 2 ** exponent / (bins / 2);
}
