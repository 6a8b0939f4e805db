/**
 * What a decoder computes besides linear layers: norms, rotary embedding, attention.
 *
 * @module
 */

/**
 * Root mean square norm of rows, in place or into `out`: `x / √(mean(x²) + ε) ⊙ weight`.
 *
 * Source: Zhang and Sennrich, arXiv:1910.07467.
 */
export function rmsNorm(x: Float32Array, weight: Float32Array, epsilon: number, out: Float32Array): Float32Array {
  const n = weight.length;
  for (let row = 0; row < x.length; row += n) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += (x[row + i] as number) ** 2;
    const scale = 1 / Math.sqrt(sum / n + epsilon);
    for (let i = 0; i < n; i++) out[row + i] = (x[row + i] as number) * scale * (weight[i] as number);
  }
  return out;
}

/**
 * Turns the pairs (i, i + headDim / 2) of each head, in place.
 *
 * @param x - `[rows, heads, headDim]`.
 * @param table - `[length, headDim]`, cosines and sines; row r of x is at position `first + r mod length`.
 */
export function rotate(x: Float32Array, heads: number, headDim: number, table: Float32Array): void {
  const half = headDim / 2;
  const length = table.length / headDim;
  const columns = heads * headDim;
  for (let row = 0; row * columns < x.length; row++) {
    const angles = (row % length) * headDim;
    for (let at = row * columns; at < (row + 1) * columns; at += headDim) {
      for (let i = 0; i < half; i++) {
        const [a, b] = [x[at + i] as number, x[at + half + i] as number];
        const [cos, sin] = [table[angles + i] as number, table[angles + half + i] as number];
        x[at + i] = a * cos - b * sin;
        x[at + half + i] = b * cos + a * sin;
      }
    }
  }
}

/** Sizes of {@link attention}. */
export interface AttentionShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** How many tokens one attends to, itself included; null for all before it. */
  readonly window: number | null;
}

/**
 * Causal attention of the last `rows` tokens of a sequence: `softmax(q·kᵀ / √headDim)·v`.
 *
 * @param q - `[rows, heads, headDim]`.
 * @param k - `[length, kvHeads, headDim]`, as v; the queries are those of the last rows.
 * @param out - As q.
 */
export function attention(
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  { heads, kvHeads, headDim, window }: AttentionShape,
  out: Float32Array,
): void {
  const rows = q.length / (heads * headDim);
  const length = k.length / (kvHeads * headDim);
  const scale = 1 / Math.sqrt(headDim);
  const scores = new Float64Array(length);
  const sums = new Float64Array(headDim);
  const stride = kvHeads * headDim;
  for (let row = 0; row < rows; row++) {
    const last = length - rows + row;
    const first = window === null ? 0 : Math.max(0, last - window + 1);
    for (let head = 0; head < heads; head++) {
      const at = (row * heads + head) * headDim;
      const kv = Math.floor((head * kvHeads) / heads) * headDim;
      let max = Number.NEGATIVE_INFINITY;
      for (let j = first; j <= last; j++) {
        let dot = 0;
        for (let i = 0; i < headDim; i++) dot += (q[at + i] as number) * (k[j * stride + kv + i] as number);
        scores[j] = dot * scale;
        max = Math.max(max, dot * scale);
      }
      let sum = 0;
      sums.fill(0);
      for (let j = first; j <= last; j++) {
        const p = Math.exp((scores[j] as number) - max);
        sum += p;
        for (let i = 0; i < headDim; i++) sums[i] = (sums[i] as number) + p * (v[j * stride + kv + i] as number);
      }
      for (let i = 0; i < headDim; i++) out[at + i] = (sums[i] as number) / sum;
    }
  }
}

/** Adds y to x in place. */
export function addInto(x: Float32Array, y: Float32Array): void {
  for (let i = 0; i < x.length; i++) x[i] = (x[i] as number) + (y[i] as number);
}

/** `silu(gate) ⊙ up` into `gate`. */
export function gated(gate: Float32Array, up: Float32Array): Float32Array {
  for (let i = 0; i < gate.length; i++) {
    const g = gate[i] as number;
    gate[i] = (g / (1 + Math.exp(-g))) * (up[i] as number);
  }
  return gate;
}
