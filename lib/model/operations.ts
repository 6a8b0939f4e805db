/**
 * What a decoder computes besides linear layers: norms, rotary embedding, attention over a cache.
 *
 * @module
 */

import { addon } from '../addon.js';
import * as validate from '../validate.js';
import type { DecoderConfig } from './config.js';

/** Lets events happen, signals among them. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Arrays that are used again by one step after the other, by name. */
export class Workspace {
  private readonly arrays = new Map<string, Float32Array>();

  /** `length` elements; what was left there before is no longer its owner's. */
  floats(name: string, length: number): Float32Array {
    let array = this.arrays.get(name);
    if (array?.length !== length) {
      array = new Float32Array(length);
      this.arrays.set(name, array);
    }
    return array;
  }
}

/**
 * Root mean square norm of rows, into `out`, which may be x: `x / √(mean(x²) + ε) ⊙ weight`.
 *
 * Source: Zhang and Sennrich, arXiv:1910.07467.
 */
export function rmsNorm(x: Float32Array, weight: Float32Array, epsilon: number, out: Float32Array): Float32Array {
  addon.rmsNorm(x, weight, epsilon, out);
  return out;
}

/** Positions of keys that lie side by side: kKeyBlock in native/ops/decoder/decoder_kernels.h. */
const KEY_BLOCK = 16;

/** Keys and values of one block. */
export interface LayerCache {
  /** `[kvHeads, capacity / 16, headDim, 16]` */
  readonly keys: Float32Array;
  /** `[kvHeads, capacity, headDim]` */
  readonly values: Float32Array;
}

/** Room for so many positions. */
export function layerCache({ numKvHeads, headDim }: DecoderConfig, positions: number): LayerCache {
  const length = numKvHeads * headDim * Math.ceil(positions / KEY_BLOCK) * KEY_BLOCK;
  return { keys: validate.allocated(Float32Array, length), values: validate.allocated(Float32Array, length) };
}

/** Queries, keys and values of tokens that come to a sequence. */
export interface Attended {
  /** `[rows, heads, headDim]`; changed. */
  readonly queries: Float32Array;
  /** `[rows, kvHeads, headDim]`; changed. */
  readonly keys: Float32Array;
  readonly values: Float32Array;
  /** Norms of each head of queries and keys, `[headDim]`. */
  readonly queryNorm: Float32Array | null;
  readonly keyNorm: Float32Array | null;
  /** `[rows, headDim]`, from {@link RotaryTables}. */
  readonly angles: Float32Array;
  /** As queries. */
  readonly out: Float32Array;
}

/** The numbers of the addon's call; it reads them before it returns. */
const record = new Float64Array(6);

/**
 * Normalizes and rotates queries and keys, puts keys and values behind those of `past` tokens in the cache, and attends to
 * it, causally: `softmax(q·kᵀ / √headDim)·v`.
 *
 * @param window - How many tokens one attends to, itself included; null for all before it.
 */
export function attention(
  { numHeads, numKvHeads, headDim, rmsNormEps }: DecoderConfig,
  window: number | null,
  { keys, values }: LayerCache,
  past: number,
  a: Attended,
): void {
  record[0] = past;
  record[1] = numHeads;
  record[2] = numKvHeads;
  record[3] = headDim;
  record[4] = window ?? 0;
  record[5] = rmsNormEps;
  addon.attention(record, a.queries, a.keys, a.values, a.queryNorm, a.keyNorm, a.angles, keys, values, a.out);
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
