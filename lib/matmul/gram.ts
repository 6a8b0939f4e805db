/**
 * The Gram matrix of activations, which calibration collects.
 *
 * @module
 */
import { addon, runJob } from '../addon.js';
import { CPU, type Device, placeOf } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import {
  checkTensor,
  type DeviceTensor,
  elementCount,
  isDeviceTensor,
  placeOfTensor,
  resultTensor,
} from '../device/device-tensor.js';
import { floatCodeOf, LARGE_FLOAT_DTYPES } from '../dtype.js';
import { InvalidArgumentError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { explained } from './explained.js';

/** Options of {@link gram}. */
export interface GramOptions {
  /** Columns of x. */
  k: number;
  /** `[k, k]`: the array to add to and return. It must be symmetric: what is below its diagonal is not read. */
  out?: Float32Array;
  /** Where to compute. Default `'cpu'`. */
  device?: Device;
}

/** Options of {@link gram} for what is on a device. */
export interface DeviceGramOptions extends Omit<GramOptions, 'out'> {
  /** `[k, k]`: the tensor to add to and return. */
  out?: DeviceTensor<'float32'>;
}

/** The same, with a signal that ends the work early. */
export interface GramAsyncOptions extends GramOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set(['k', 'out', 'device']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

interface Prepared {
  /** A device's number, or {@link CPU}: then nothing is on a device. */
  readonly index: number;
  readonly x: Data<Float32Array>;
  readonly type: number;
  readonly k: number;
  readonly out: Data<Float32Array>;
  readonly fresh: boolean;
}

function prepare(xValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const fresh = given['out'] === undefined;
  const index = placeOf(given['device'], [placeOfTensor('x', xValue), placeOfTensor('out', given['out'])]);
  if (isDeviceTensor(xValue)) {
    const x = checkTensor('x', xValue, LARGE_FLOAT_DTYPES);
    const k = columns(given['k'], elementCount(x));
    const type = floatCodeOf('x', x.dtype);
    return { index, x, type, k, out: resultTensor(given['out'], 'float32', [k, k], index), fresh };
  }
  const x = validate.float32Array('x', xValue);
  const k = columns(given['k'], x.length);
  return { index, x, type: 0, k, out: validate.result(given['out'], Float32Array, k * k), fresh };
}

function columns(value: unknown, count: number): number {
  const k = validate.integer('k', value, 0);
  if (count === 0 || count % k === 0) return k;
  throw new InvalidArgumentError('x', `Expected x to have whole rows of k = ${k} elements but its length is ${count}.`);
}

function onDevice({ index, x, type, k, out, fresh }: Prepared): DeviceCall<'deviceGram'> {
  return new DeviceCall(index, 'deviceGram', (on) => [
    on.reads(x),
    type,
    k,
    !fresh,
    on.writes(out, fresh, fresh ? null : out),
  ]);
}

/**
 * The Gram matrix `xᵀ·x` in float32: the Hessian, but for a factor, of a linear layer's squared error, from which GPTQ decides
 * how to round. With `out` it is added to what is there, batch after batch of a calibration.
 *
 * Sums are in the order of the rows of x; they do not depend on the number of threads.
 *
 * @param x - Activations `[m, k]` in row-major order: whole rows, or none. A {@link DeviceTensor} of float32, float16 or
 *   bfloat16 is computed where it is, with the same bits.
 * @param options - `k`, and `out` to add to.
 * @returns `[k, k]`, symmetric: a new array, or `out`; on a device a {@link DeviceTensor}.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps x; {@link NonFiniteError} for NaN
 *   or infinity in x, with `out` as it was (unless it is on a device); {@link OutOfMemoryError}; {@link DeviceError} of a
 *   device.
 *
 * Sources: Frantar et al., "GPTQ" (arXiv:2210.17323).
 *
 * @example
 * ```ts
 * const hessian = gram(batches[0], { k });
 * for (const batch of batches.slice(1)) gram(batch, { k, out: hessian });
 * ```
 */
export function gram(x: Float32Array, options: GramOptions): Float32Array;
/** The same of a tensor on a device, which the result does not leave. */
export function gram(x: DeviceTensor, options: DeviceGramOptions): DeviceTensor<'float32'>;
export function gram(x: unknown, options: unknown): unknown {
  const p = prepare(x, options, OPTIONS);
  if (p.index !== CPU) {
    onDevice(p).now((error) => explained(error, 'out', p.x));
    return p.out;
  }
  try {
    addon.gram(p.x as Float32Array, p.k, !p.fresh, p.out as Float32Array);
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
export function gramAsync(x: Float32Array, options: GramAsyncOptions): Promise<Float32Array>;
/** The same of a tensor on a device, which the result does not leave. */
export function gramAsync(
  x: DeviceTensor,
  options: DeviceGramOptions & { signal?: AbortSignal },
): Promise<DeviceTensor<'float32'>>;
export async function gramAsync(x: unknown, options: { signal?: AbortSignal }): Promise<unknown> {
  const p = prepare(x, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.index !== CPU) {
    await onDevice(p).later(signal, (error, seen) => explained(error, 'out', seen(p.x)));
    return p.out;
  }
  const given = p.out as Float32Array;
  const copied = detachedFromCaller.input(p.x as Float32Array);
  const out = p.fresh ? given : detachedFromCaller.input(given);
  await runJob(
    (done) => addon.gramAsync(copied, p.k, !p.fresh, out, done),
    signal,
    (error) => explained(error, 'out', copied),
  );
  detachedFromCaller.copyBack('out', out, given);
  return p.out;
}
