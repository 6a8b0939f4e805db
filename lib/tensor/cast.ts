/**
 * Conversion between float types.
 *
 * @module
 */
import { addon, explain, type RawFloats, runJob } from '../addon.js';
import { type Float16ArrayLike, type FloatDtype, floatCodeOf } from '../dtype.js';
import * as validate from '../validate.js';
import { detachedFromCaller } from './off-thread.js';

/** The array that holds elements of a float dtype. */
export type FloatArrayOf<D extends FloatDtype> = D extends 'float32' ? Float32Array : Uint16Array;

/** What {@link castTensor} reads for a float dtype. */
export type FloatInputOf<D extends FloatDtype> = FloatArrayOf<D> | (D extends 'float16' ? Float16ArrayLike : never);

/** Options of {@link castTensor}. */
export interface CastOptions<From extends FloatDtype = FloatDtype, To extends FloatDtype = FloatDtype> {
  /** The type of the input. */
  from: From;
  /** The type of the result. */
  to: To;
  /**
   * Whether values past the largest finite one become that (default true) instead of infinity or NaN. It concerns types
   * without infinities; float16 and bfloat16 have one, which IEEE 754 prescribes for overflow, whatever this says.
   */
  saturate?: boolean;
  /** The array to write to and return, as long as the input. */
  out?: FloatInputOf<To>;
}

/** The same, with a signal that ends the work early. */
export interface CastAsyncOptions<From extends FloatDtype = FloatDtype, To extends FloatDtype = FloatDtype>
  extends CastOptions<From, To> {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set(['from', 'to', 'saturate', 'out']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

interface Prepared {
  readonly input: RawFloats;
  readonly from: number;
  readonly to: number;
  readonly out: RawFloats;
  readonly result: unknown;
  readonly fresh: boolean;
}

function prepare(inputValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const from = floatCodeOf('from', given['from']);
  const to = floatCodeOf('to', given['to']);
  const { data: input } = validate.floats('input', inputValue, 'from', given['from']);
  validate.boolean('saturate', given['saturate'], true);
  if (given['out'] === undefined) {
    const out = to === 0 ? new Float32Array(input.length) : new Uint16Array(input.length);
    return { input, from, to, out, result: out, fresh: true };
  }
  const out = validate.floatsOut('out', given['out'], to, input.length);
  return { input, from, to, out, result: given['out'], fresh: false };
}

/**
 * Converts between float32, float16 and bfloat16. To a narrower type it rounds to nearest even; values past the largest
 * finite one become infinity, as IEEE 754 says; subnormals are kept; a NaN stays a NaN and becomes quiet. To float32 it is
 * exact.
 *
 * @param input - A Float32Array for float32, a Uint16Array of bit patterns for float16 and bfloat16, or a Float16Array.
 * @returns A Float32Array or Uint16Array with as many elements, or `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps the input.
 *
 * @example
 * ```ts
 * const half = castTensor(new Float32Array([6.25]), { from: 'float32', to: 'float16' });
 * half[0].toString(2); // '100011001000000'
 * ```
 */
export function castTensor<
  From extends FloatDtype,
  To extends FloatDtype,
  Out extends FloatInputOf<To> = FloatArrayOf<To>,
>(input: FloatInputOf<From>, options: CastOptions<From, To> & { out?: Out }): Out {
  const p = prepare(input, options, OPTIONS);
  try {
    addon.cast(p.input, p.from, p.out, p.to);
  } catch (error) {
    throw explain(error, 'input');
  }
  return p.result as Out;
}

/**
 * {@link castTensor} off the event loop, with the same result. Input that is not in a SharedArrayBuffer is copied first.
 *
 * @throws As {@link castTensor}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function castTensorAsync<
  From extends FloatDtype,
  To extends FloatDtype,
  Out extends FloatInputOf<To> = FloatArrayOf<To>,
>(input: FloatInputOf<From>, options: CastAsyncOptions<From, To> & { out?: Out }): Promise<Out> {
  const p = prepare(input, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const out = p.fresh ? p.out : detachedFromCaller.output(p.out);
  const copied = detachedFromCaller.input(p.input);
  await runJob(
    (done) => addon.castAsync(copied, p.from, out, p.to, done),
    signal,
    (error) => explain(error, 'input'),
  );
  detachedFromCaller.copyBack('out', out, p.out);
  return p.result as Out;
}

/** @internal One element as a number. */
export function floatAt(data: RawFloats, type: number, index: number): number {
  if (data instanceof Float32Array) return data[index] as number;
  const one = new Float32Array(1);
  addon.cast(data.slice(index, index + 1), type, one, 0);
  return one[0] as number;
}
