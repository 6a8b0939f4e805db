/**
 * Codes back to floats.
 *
 * @module
 */
import { addon, explain, type RawFloats, runJob } from '../addon.js';
import { type Float16ArrayLike, floatCodeOf } from '../dtype.js';
import * as validate from '../validate.js';
import { detachedFromCaller } from './off-thread.js';
import { checkQuantizedTensor, type Layout, type QuantizedTensor, writeLayout } from './quantized-tensor.js';

/** Options of {@link dequantizeTensor}. */
export interface DequantizeOptions {
  /** The type of the result. Default: `'float32'`, or what `out` holds if it is a Float16Array. */
  dtype?: 'float32' | 'float16' | 'bfloat16';
  /** The array to write to and return: Float32Array for float32, Uint16Array for the others (Float16Array for float16). */
  out?: Float32Array | Uint16Array | Float16ArrayLike;
}

/** The same, with a signal that ends the work early. */
export interface DequantizeAsyncOptions extends DequantizeOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set(['dtype', 'out']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

interface Prepared {
  readonly tensor: QuantizedTensor;
  readonly layout: Layout;
  readonly type: number;
  /** The array to fill, as the addon takes it. */
  readonly out: RawFloats;
  /** The array to return: the caller's own, if there is one. */
  readonly result: Float32Array | Uint16Array;
  readonly fresh: boolean;
}

function prepare(q: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const { tensor, layout } = checkQuantizedTensor('q', q);
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const type = given['dtype'] === undefined ? validate.typeOfArray(given['out']) : floatCodeOf('dtype', given['dtype']);
  if (given['out'] === undefined) {
    const out = validate.allocated<RawFloats>(type === 0 ? Float32Array : Uint16Array, layout.elementCount);
    return { tensor, layout, type, out, result: out, fresh: true };
  }
  const out = validate.floatsOut('out', given['out'], type, layout.elementCount);
  return { tensor, layout, type, out, result: given['out'] as Float32Array | Uint16Array, fresh: false };
}

/** The numbers of the addon's calls; it reads them before it returns, so one array of a length serves every call. */
const affineRecord = new Float64Array(8);
const codebookRecord = new Float64Array(9);

function recordOf(p: Prepared): Float64Array {
  const { codebook } = p.layout.code;
  const record = codebook === undefined ? affineRecord : codebookRecord;
  let i = writeLayout(record, p.layout);
  if (codebook !== undefined) record[i++] = codebook.book;
  record[i] = p.type;
  return record;
}

/**
 * The floats that a quantized tensor stands for: `scale · (code − zeroPoint)`, or `scale · value(code)` for a
 * {@link CodebookDtype}, computed in float32 and rounded once to `dtype`.
 *
 * @param q - A quantized tensor, from {@link quantizeTensor} or assembled from a file.
 * @returns `q.shape` elements in row-major order: a Float32Array for float32, a Uint16Array of bit patterns for float16 and
 *   bfloat16, or `out`.
 * @throws {@link InvalidArgumentError} if a field of `q` is missing, does not fit the shape, or holds scales that are not
 *   finite.
 *
 * @example
 * ```ts
 * const out = new Float32Array(4096);
 * dequantizeTensor(q, { out }); // no allocation: fresh memory costs more than the arithmetic
 * ```
 */
export function dequantizeTensor(q: QuantizedTensor, options?: { dtype?: 'float32'; out?: Float32Array }): Float32Array;
export function dequantizeTensor(
  q: QuantizedTensor,
  options: { dtype: 'float16' | 'bfloat16'; out?: Uint16Array },
): Uint16Array;
export function dequantizeTensor<T extends Float16ArrayLike>(
  q: QuantizedTensor,
  options: { dtype?: 'float16'; out: T },
): T;
export function dequantizeTensor(q: QuantizedTensor, options?: DequantizeOptions): Float32Array | Uint16Array;
export function dequantizeTensor(q: QuantizedTensor, options: DequantizeOptions = {}): unknown {
  const p = prepare(q, options, OPTIONS);
  if (p.layout.elementCount > 0) {
    try {
      const { data, scales, zeroPoints } = p.tensor;
      if (p.layout.code.codebook === undefined) addon.dequantizeAffine(recordOf(p), data, scales, zeroPoints, p.out);
      else addon.dequantizeCodebook(recordOf(p), data, scales, p.out);
    } catch (error) {
      throw explain(error, 'q');
    }
  }
  return p.result;
}

/**
 * {@link dequantizeTensor} off the event loop, with the same result. Buffers that are not shared are copied first.
 *
 * @throws As {@link dequantizeTensor}, as a rejection; the signal's reason when it aborts. What `out` then holds is
 *   unspecified.
 */
export function dequantizeTensorAsync(
  q: QuantizedTensor,
  options?: { dtype?: 'float32'; out?: Float32Array; signal?: AbortSignal },
): Promise<Float32Array>;
export function dequantizeTensorAsync(
  q: QuantizedTensor,
  options: { dtype: 'float16' | 'bfloat16'; out?: Uint16Array; signal?: AbortSignal },
): Promise<Uint16Array>;
export function dequantizeTensorAsync<T extends Float16ArrayLike>(
  q: QuantizedTensor,
  options: { dtype?: 'float16'; out: T; signal?: AbortSignal },
): Promise<T>;
export function dequantizeTensorAsync(
  q: QuantizedTensor,
  options?: DequantizeAsyncOptions,
): Promise<Float32Array | Uint16Array>;
export async function dequantizeTensorAsync(
  q: QuantizedTensor,
  options: DequantizeAsyncOptions = {},
): Promise<unknown> {
  const p = prepare(q, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.layout.elementCount === 0) return p.result;
  const data = detachedFromCaller.input(p.tensor.data);
  const scales = detachedFromCaller.input(p.tensor.scales);
  const zeroPoints = p.tensor.zeroPoints === null ? null : detachedFromCaller.input(p.tensor.zeroPoints);
  const out = p.fresh ? p.out : detachedFromCaller.output(p.out);
  await runJob(
    (done) =>
      p.layout.code.codebook === undefined
        ? addon.dequantizeAffineAsync(recordOf(p), data, scales, zeroPoints, out, done)
        : addon.dequantizeCodebookAsync(recordOf(p), data, scales, out, done),
    signal,
    (error) => explain(error, 'q'),
  );
  detachedFromCaller.copyBack('out', out, p.out);
  return p.result;
}
