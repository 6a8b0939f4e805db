/**
 * What computes as a linear layer does.
 *
 * @module
 */

/** What computes `x·Wᵀ + bias`. */
export interface LinearLayer {
  /** Outputs, N. */
  readonly rows: number;
  /** Inputs, K. */
  readonly cols: number;
  /**
   * Computes it for rows of inputs.
   *
   * @param x - `[m, K]`
   * @param out - Where to, `[m, N]`; default a new array.
   * @returns `[m, N]`: `out`, where it was given.
   */
  forward(x: Float32Array, out?: Float32Array): Float32Array;
  /** Frees what it holds. It can't be used afterwards. */
  dispose(): void;
}
