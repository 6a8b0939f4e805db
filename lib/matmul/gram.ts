/**
 * The Gram matrix of activations, which calibration collects.
 *
 * @module
 */
import { addon, runJob } from '../addon.js';
import { InvalidArgumentError } from '../errors.js';
import { detachedFromCaller } from '../tensor/off-thread.js';
import * as validate from '../validate.js';
import { explained } from './explained.js';

/** Options of {@link gram}. */
export interface GramOptions {
  /** Columns of x. */
  k: number;
  /** `[k, k]`: the array to add to and return. It must be symmetric: what is below its diagonal is not read. */
  out?: Float32Array;
}

/** The same, with a signal that ends the work early. */
export interface GramAsyncOptions extends GramOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set(['k', 'out']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

interface Prepared {
  readonly x: Float32Array;
  readonly k: number;
  readonly out: Float32Array;
  readonly fresh: boolean;
}

function prepare(xValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const x = validate.float32Array('x', xValue);
  const k = validate.integer('k', given['k'], 0);
  if (x.length !== 0 && x.length % k !== 0) {
    throw new InvalidArgumentError(
      'x',
      `Expected x to have whole rows of k = ${k} elements but its length is ${x.length}.`,
    );
  }
  return { x, k, out: validate.result(given['out'], Float32Array, k * k), fresh: given['out'] === undefined };
}

/**
 * The Gram matrix `xᵀ·x` in float32: the Hessian, but for a factor, of a linear layer's squared error, from which GPTQ decides
 * how to round. With `out` it is added to what is there, batch after batch of a calibration.
 *
 * Sums are in the order of the rows of x; they do not depend on the number of threads.
 *
 * @param x - Activations `[m, k]` in row-major order: whole rows, or none.
 * @param options - `k`, and `out` to add to.
 * @returns `[k, k]`, symmetric: a new array, or `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps x; {@link NonFiniteError} for NaN
 *   or infinity in x, with `out` as it was; {@link OutOfMemoryError}.
 *
 * Sources: Frantar et al., "GPTQ" (arXiv:2210.17323).
 *
 * @example
 * ```ts
 * const hessian = gram(batches[0], { k });
 * for (const batch of batches.slice(1)) gram(batch, { k, out: hessian });
 * ```
 */
export function gram(x: Float32Array, options: GramOptions): Float32Array {
  const p = prepare(x, options, OPTIONS);
  try {
    addon.gram(p.x, p.k, !p.fresh, p.out);
  } catch (error) {
    throw explained(error, 'out', p.x);
  }
  return p.out;
}

/**
 * {@link gram} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first, `out`
 * included: await one call before the next that adds to the same array.
 *
 * @throws As {@link gram}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function gramAsync(x: Float32Array, options: GramAsyncOptions): Promise<Float32Array> {
  const p = prepare(x, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const copied = detachedFromCaller.input(p.x);
  const out = p.fresh ? p.out : detachedFromCaller.input(p.out);
  await runJob(
    (done) => addon.gramAsync(copied, p.k, !p.fresh, out, done),
    signal,
    (error) => explained(error, 'out', copied),
  );
  detachedFromCaller.copyBack('out', out, p.out);
  return p.out;
}
