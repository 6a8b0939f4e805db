/**
 * Codes back to floats.
 *
 * @module
 */
import { addon, explain, type RawFloats, runJob } from '../addon.js';
import { CPU, type Device, placeOf } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import { type DeviceTensor, isDeviceTensor, newTensor, placeOfTensor, resultTensor } from '../device/device-tensor.js';
import { type Float16ArrayLike, floatCodeOf, LARGE_FLOAT_DTYPES, type LargeFloatDtype } from '../dtype.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import {
  type AnyQuantizedTensor,
  checkAnyQuantizedTensor,
  type DeviceQuantizedTensor,
  type Layout,
  type QuantizedTensor,
  writeLayout,
} from './quantized-tensor.js';

/** Options of {@link dequantizeTensor}. */
export interface DequantizeOptions {
  /** The type of the result. Default: `'float32'`, or what `out` holds if it is a Float16Array. */
  dtype?: 'float32' | 'float16' | 'bfloat16';
  /** The array to write to and return: Float32Array for float32, Uint16Array for the others (Float16Array for float16). */
  out?: Float32Array | Uint16Array | Float16ArrayLike;
  /** Where to dequantize. Default `'cpu'`. */
  device?: Device;
}

/** Options of {@link dequantizeTensor} for what is on a device. */
export interface DeviceDequantizeOptions<D extends LargeFloatDtype = LargeFloatDtype> {
  /** The type of the result. Default: `'float32'`, or that of `out`. */
  dtype?: D;
  /** The tensor to write to and return. */
  out?: DeviceTensor<D>;
  /** Where `q` is, which it must not contradict. */
  device?: Device;
}

/** The same, with a signal that ends the work early. */
export interface DequantizeAsyncOptions extends DequantizeOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set(['dtype', 'out', 'device']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

interface Prepared {
  /** A device's number, or {@link CPU}: then nothing is on a device. */
  readonly index: number;
  readonly tensor: AnyQuantizedTensor;
  readonly layout: Layout;
  readonly type: number;
  /** The array to fill, as the addon takes it. */
  readonly out: Data<RawFloats>;
  /** The array to return: the caller's own, if there is one. */
  readonly result: Float32Array | Uint16Array | DeviceTensor;
  readonly fresh: boolean;
}

function prepare(q: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const { tensor, layout } = checkAnyQuantizedTensor('q', q);
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const index = placeOf(given['device'], [
    placeOfTensor('q.data', tensor.data),
    placeOfTensor('q.scales', tensor.scales),
    placeOfTensor('q.zeroPoints', tensor.zeroPoints),
    placeOfTensor('out', given['out']),
  ]);
  if (isDeviceTensor(tensor.data)) return prepareOnDevice(tensor as DeviceQuantizedTensor, layout, given, index);
  if (index !== CPU) checkParameters(tensor as QuantizedTensor);
  const type = given['dtype'] === undefined ? validate.typeOfArray(given['out']) : floatCodeOf('dtype', given['dtype']);
  if (given['out'] === undefined) {
    const out = validate.allocated<RawFloats>(type === 0 ? Float32Array : Uint16Array, layout.elementCount);
    return { index, tensor, layout, type, out, result: out, fresh: true };
  }
  const out = validate.floatsOut('out', given['out'], type, layout.elementCount);
  return { index, tensor, layout, type, out, result: given['out'] as Float32Array | Uint16Array, fresh: false };
}

function prepareOnDevice(
  tensor: DeviceQuantizedTensor,
  layout: Layout,
  given: Partial<Record<string, unknown>>,
  index: number,
): Prepared {
  const { dtype: chosen, out: room } = given;
  const dtype = chosen ?? (isDeviceTensor(room) ? room.dtype : 'float32');
  const type = floatCodeOf('dtype', dtype);
  const out = resultTensor(room, LARGE_FLOAT_DTYPES[type] as LargeFloatDtype, layout.shape, index);
  return { index, tensor, layout, type, out, result: out, fresh: room === undefined };
}

/** What the addon does for parameters that it reads itself: any zero points will do whose differences are exact. */
function checkParameters({ scales, zeroPoints }: QuantizedTensor): void {
  const limit = 2 ** 20;
  try {
    addon.checkParameters(scales, zeroPoints, false, -limit, limit, 'q.');
  } catch (error) {
    throw explain(error, 'q');
  }
}

function onDevice(p: Prepared): DeviceCall<'deviceDequantizeAffine'> | DeviceCall<'deviceDequantizeCodebook'> {
  const { data, scales, zeroPoints } = p.tensor;
  if (p.layout.code.codebook !== undefined) {
    return new DeviceCall(p.index, 'deviceDequantizeCodebook', (on) => [
      recordOf(p),
      on.reads(data),
      on.reads(scales),
      on.writes(p.out, p.fresh),
    ]);
  }
  return new DeviceCall(p.index, 'deviceDequantizeAffine', (on) => [
    recordOf(p),
    on.reads(data),
    on.reads(scales),
    zeroPoints === null ? null : on.reads(zeroPoints),
    on.writes(p.out, p.fresh),
  ]);
}

/** @internal What a checked tensor stands for, in new memory of a device, as float32: to be run, and then to be disposed. */
export function dequantizing(
  tensor: AnyQuantizedTensor,
  layout: Layout,
  index: number,
): { call: ReturnType<typeof onDevice>; floats: DeviceTensor } {
  const floats = newTensor(index, 'float32', layout.shape);
  return { call: onDevice({ index, tensor, layout, type: 0, out: floats, result: floats, fresh: true }), floats };
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
 * @param q - A quantized tensor, from {@link quantizeTensor} or assembled from a file. One on a device is dequantized there;
 *   nobody then looks at the values of its scales.
 * @returns `q.shape` elements in row-major order: a Float32Array for float32, a Uint16Array of bit patterns for float16 and
 *   bfloat16, or `out`; for a tensor on a device a {@link DeviceTensor}.
 * @throws {@link InvalidArgumentError} if a field of `q` is missing, does not fit the shape, or holds scales that are not
 *   finite; {@link DeviceError} of a device.
 *
 * @example
 * ```ts
 * const out = new Float32Array(4096);
 * dequantizeTensor(q, { out }); // no allocation: fresh memory costs more than the arithmetic
 * ```
 */
export function dequantizeTensor(
  q: QuantizedTensor,
  options?: { dtype?: 'float32'; out?: Float32Array; device?: Device },
): Float32Array;
/** The same as float16 or bfloat16. */
export function dequantizeTensor(
  q: QuantizedTensor,
  options: { dtype: 'float16' | 'bfloat16'; out?: Uint16Array; device?: Device },
): Uint16Array;
/** The same in a Float16Array. */
export function dequantizeTensor<T extends Float16ArrayLike>(
  q: QuantizedTensor,
  options: { dtype?: 'float16'; out: T; device?: Device },
): T;
/** The same of a tensor on a device, which the result does not leave. */
export function dequantizeTensor<D extends LargeFloatDtype = 'float32'>(
  q: DeviceQuantizedTensor,
  options?: DeviceDequantizeOptions<D>,
): DeviceTensor<D>;
export function dequantizeTensor(q: QuantizedTensor, options?: DequantizeOptions): Float32Array | Uint16Array;
export function dequantizeTensor(q: unknown, options: unknown = {}): unknown {
  const p = prepare(q, options, OPTIONS);
  if (p.index !== CPU) {
    if (p.layout.elementCount > 0) onDevice(p).now((error) => explain(error, 'q'));
    return p.result;
  }
  if (p.layout.elementCount > 0) {
    try {
      const { data, scales, zeroPoints } = p.tensor as QuantizedTensor;
      const out = p.out as RawFloats;
      if (p.layout.code.codebook === undefined) addon.dequantizeAffine(recordOf(p), data, scales, zeroPoints, out);
      else addon.dequantizeCodebook(recordOf(p), data, scales, out);
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
  options?: { dtype?: 'float32'; out?: Float32Array; device?: Device; signal?: AbortSignal },
): Promise<Float32Array>;
/** The same as float16 or bfloat16. */
export function dequantizeTensorAsync(
  q: QuantizedTensor,
  options: { dtype: 'float16' | 'bfloat16'; out?: Uint16Array; device?: Device; signal?: AbortSignal },
): Promise<Uint16Array>;
/** The same in a Float16Array. */
export function dequantizeTensorAsync<T extends Float16ArrayLike>(
  q: QuantizedTensor,
  options: { dtype?: 'float16'; out: T; device?: Device; signal?: AbortSignal },
): Promise<T>;
export function dequantizeTensorAsync(
  q: QuantizedTensor,
  options?: DequantizeAsyncOptions,
): Promise<Float32Array | Uint16Array>;
/** The same of a tensor on a device, which the result does not leave. */
export function dequantizeTensorAsync<D extends LargeFloatDtype = 'float32'>(
  q: DeviceQuantizedTensor,
  options?: DeviceDequantizeOptions<D> & { signal?: AbortSignal },
): Promise<DeviceTensor<D>>;
export async function dequantizeTensorAsync(q: unknown, options: { signal?: AbortSignal } = {}): Promise<unknown> {
  const p = prepare(q, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  if (p.layout.elementCount === 0) return p.result;
  if (p.index !== CPU) {
    await onDevice(p).later(signal, (error) => explain(error, 'q'));
    return p.result;
  }
  const tensor = p.tensor as QuantizedTensor;
  const data = detachedFromCaller.input(tensor.data);
  const scales = detachedFromCaller.input(tensor.scales);
  const zeroPoints = tensor.zeroPoints === null ? null : detachedFromCaller.input(tensor.zeroPoints);
  const room = p.out as RawFloats;
  const out = p.fresh ? room : detachedFromCaller.output(room);
  await runJob(
    (done) =>
      p.layout.code.codebook === undefined
        ? addon.dequantizeAffineAsync(recordOf(p), data, scales, zeroPoints, out, done)
        : addon.dequantizeCodebookAsync(recordOf(p), data, scales, out, done),
    signal,
    (error) => explain(error, 'q'),
  );
  detachedFromCaller.copyBack('out', out, room);
  return p.result;
}
