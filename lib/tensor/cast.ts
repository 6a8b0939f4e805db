/**
 * Conversion between float types.
 *
 * @module
 */
import { addon, explain, type RawAnyFloats, type RawFloats, runJob } from '../addon.js';
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
import {
  FLOAT_DTYPES,
  type Float16ArrayLike,
  type FloatDtype,
  type FloatFormat,
  floatFormatOf,
  packedRowBytes,
  type SmallFloatDtype,
} from '../dtype.js';
import { invalidArgument } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';

/** The array that holds elements of a float dtype. */
export type FloatArrayOf<D extends FloatDtype> = D extends 'float32'
  ? Float32Array
  : D extends SmallFloatDtype
    ? Uint8Array
    : Uint16Array;

/** What {@link castTensor} reads for a float dtype. */
export type FloatInputOf<D extends FloatDtype> = FloatArrayOf<D> | (D extends 'float16' ? Float16ArrayLike : never);

/** Options of {@link castTensor}. */
export interface CastOptions<From extends FloatDtype = FloatDtype, To extends FloatDtype = FloatDtype> {
  /** The type of the input. */
  from: From;
  /** The type of the result. */
  to: To;
  /**
   * Whether values past the largest finite one become that (default true) instead of infinity or NaN. It concerns floats of
   * eight bits and fewer; float16 and bfloat16 overflow to infinity, as IEEE 754 prescribes, whatever this says.
   */
  saturate?: boolean;
  /**
   * How many elements the input holds. It needs to be said only of packed elements, of 6 and 4 bits, when the last byte is not
   * full; default as many whole elements as there are. The input's length must be what so many elements take.
   */
  count?: number;
  /** The array to write to and return, as long as the result. */
  out?: FloatInputOf<To>;
  /** Where to convert. Default `'cpu'`. */
  device?: Device;
}

/** Options of {@link castTensor} for what is on a device: its type and number of elements are known. */
export interface DeviceCastOptions<To extends FloatDtype = FloatDtype> {
  /** The type of the input, which it must not contradict. */
  from?: FloatDtype;
  /** The type of the result. */
  to: To;
  /** As in {@link CastOptions}. */
  saturate?: boolean;
  /** The tensor to write to and return, of as many elements. */
  out?: DeviceTensor<To>;
  /** Where the input is, which it must not contradict. */
  device?: Device;
}

/** The same, with a signal that ends the work early. */
export interface CastAsyncOptions<From extends FloatDtype = FloatDtype, To extends FloatDtype = FloatDtype>
  extends CastOptions<From, To> {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

const OPTIONS: ReadonlySet<string> = new Set(['from', 'to', 'saturate', 'count', 'out', 'device']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

interface Prepared {
  /** A device's number, or {@link CPU}: then input and out are arrays. */
  readonly index: number;
  readonly input: Data<RawAnyFloats>;
  readonly from: number;
  readonly to: number;
  readonly count: number;
  readonly saturate: boolean;
  readonly out: Data<RawAnyFloats>;
  readonly result: unknown;
  readonly fresh: boolean;
}

/** The length of the array that holds so many elements. */
function lengthFor({ bits }: FloatFormat, count: number): number {
  return bits > 8 ? count : packedRowBytes(count, bits);
}

function countOf(input: RawAnyFloats, format: FloatFormat, dtype: unknown, value: unknown): number {
  const { bits } = format;
  if (value === undefined) return bits > 8 ? input.length : Math.floor((input.length * 8) / bits);
  const count = validate.integer('count', value, 0);
  const length = lengthFor(format, count);
  if (length !== input.length) {
    throw invalidArgument('input', `length ${length}, which ${count} elements of ${dtype} take,`, input);
  }
  return count;
}

function prepare(inputValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const index = placeOf(given['device'], [placeOfTensor('input', inputValue), placeOfTensor('out', given['out'])]);
  if (isDeviceTensor(inputValue)) return prepareOnDevice(inputValue, given, index);
  const fromDtype = given['from'];
  const from = floatFormatOf('from', fromDtype);
  const to = floatFormatOf('to', given['to']);
  const input: RawAnyFloats =
    from.bits > 8
      ? validate.floats('input', inputValue, 'from', fromDtype).data
      : validate.uint8Array('input', inputValue);
  const count = countOf(input, from, fromDtype, given['count']);
  const saturate = validate.boolean('saturate', given['saturate'], true);
  const common = { index, input, from: from.code, to: to.code, count, saturate };
  const length = lengthFor(to, count);
  if (given['out'] === undefined) {
    const type = to.bits === 32 ? Float32Array : to.bits === 16 ? Uint16Array : Uint8Array;
    const out = validate.allocated<RawAnyFloats>(type, length);
    return { ...common, out, result: out, fresh: true };
  }
  const out =
    to.bits > 8
      ? validate.floatsOut('out', given['out'], to.code, length)
      : validate.uint8Array('out', given['out'], length);
  return { ...common, out, result: given['out'], fresh: false };
}

function prepareOnDevice(value: DeviceTensor, given: Partial<Record<string, unknown>>, index: number): Prepared {
  const input = checkTensor('input', value, FLOAT_DTYPES);
  if (given['from'] !== undefined) validate.oneOf('from', given['from'], [input.dtype]);
  const count = elementCount(input);
  if (given['count'] !== undefined && given['count'] !== count) {
    throw invalidArgument('count', `${count}, as many elements as the input has,`, given['count']);
  }
  const to = floatFormatOf('to', given['to']);
  const saturate = validate.boolean('saturate', given['saturate'], true);
  const out = resultTensor(given['out'], given['to'] as FloatDtype, input.shape, index);
  const from = floatFormatOf('from', input.dtype).code;
  return { index, input, from, to: to.code, count, saturate, out, result: out, fresh: given['out'] === undefined };
}

function onDevice(p: Prepared): DeviceCall<'deviceCast'> {
  const { index, input, from, out, fresh, to, count, saturate } = p;
  return new DeviceCall(index, 'deviceCast', (on) => [
    on.reads(input),
    from,
    on.writes(out, fresh),
    to,
    count,
    saturate,
  ]);
}

/**
 * Converts between float types of 32, 16, 8, 6 and 4 bits. To a narrower type it rounds to nearest even, subnormals included;
 * from a narrower type it is exact, but for float16, whose range float8_e8m0fnu exceeds. One small type to another is rounded
 * once.
 *
 * What has no nearest number follows the OCP specifications of 8-bit and of microscaling (MX) formats and, for what they leave
 * open, the Cast operator of ONNX:
 *
 * | input | float16, bfloat16 | float8_e4m3fn | float8_e5m2 | …fnuz | float8_e8m0fnu | float6, float4 |
 * | --- | --- | --- | --- | --- | --- | --- |
 * | past the largest | ±∞ | ±448, or NaN | ±57344, or ±∞ | ± the largest, or NaN | 2^127, or NaN | ± the largest |
 * | ±∞ | ±∞ | ±448, or NaN | ±57344, or ±∞ | NaN | 2^127, or NaN | ± the largest |
 * | NaN | NaN | NaN | NaN | NaN | NaN | the largest |
 * | ±0 | ±0 | ±0 | ±0 | 0 | 2^−127, or NaN | ±0 |
 *
 * Where there are two results, the second is without `saturate`. Values are rounded before they are compared with the largest:
 * up to 464 become 448 in float8_e4m3fn. float8_e8m0fnu holds powers of two, without a sign: the nearest one, the upper one in
 * the middle; what lies below the smallest, negative numbers included, becomes that, or NaN without `saturate`. A NaN becomes
 * quiet in float16 and bfloat16, and 0x7f, 0x80 (…fnuz) or 0xff (float8_e8m0fnu) in 8 bits.
 *
 * @param input - A Float32Array for float32, a Uint16Array of bit patterns for float16 and bfloat16, or a Float16Array; a
 *   Uint8Array for floats of 8 bits, one to a byte, and for those of 6 and 4 bits, packed: see {@link SmallFloatDtype}.
 *   A {@link DeviceTensor} is converted where it is.
 * @returns An array of the kind that holds the result, with as many elements, or `out`; for a {@link DeviceTensor} one of the
 *   same shape, on the same device.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps the input;
 *   {@link OutOfMemoryError}; {@link DeviceError} of a device.
 *
 * @example
 * ```ts
 * const half = castTensor(new Float32Array([6.25]), { from: 'float32', to: 'float16' });
 * half[0].toString(2); // '100011001000000'
 * ```
 *
 * @example Three elements of 4 bits are two bytes.
 * ```ts
 * const packed = castTensor(new Float32Array([0.5, -6, 1.4]), { from: 'float32', to: 'float4_e2m1fn' });
 * packed; // Uint8Array [ 0xf1, 0x03 ]
 * castTensor(packed, { from: 'float4_e2m1fn', to: 'float32', count: 3 }); // Float32Array [ 0.5, -6, 1.5 ]
 * ```
 */
export function castTensor<
  From extends FloatDtype,
  To extends FloatDtype,
  Out extends FloatInputOf<To> = FloatArrayOf<To>,
>(input: FloatInputOf<From>, options: CastOptions<From, To> & { out?: Out }): Out;
/** The same of a tensor on a device, which the result does not leave. */
export function castTensor<To extends FloatDtype>(
  input: DeviceTensor,
  options: DeviceCastOptions<To>,
): DeviceTensor<To>;
export function castTensor(input: unknown, options: unknown): unknown {
  const p = prepare(input, options, OPTIONS);
  if (p.index !== CPU) {
    onDevice(p).now((error) => explain(error, 'input'));
    return p.result;
  }
  try {
    addon.cast(p.input as RawAnyFloats, p.from, p.out as RawAnyFloats, p.to, p.count, p.saturate);
  } catch (error) {
    throw explain(error, 'input');
  }
  return p.result;
}

/**
 * {@link castTensor} off the event loop, with the same result. Input that is not in a SharedArrayBuffer is copied first.
 *
 * @throws As {@link castTensor}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export function castTensorAsync<
  From extends FloatDtype,
  To extends FloatDtype,
  Out extends FloatInputOf<To> = FloatArrayOf<To>,
>(input: FloatInputOf<From>, options: CastAsyncOptions<From, To> & { out?: Out }): Promise<Out>;
/** The same of a tensor on a device, which the result does not leave. */
export function castTensorAsync<To extends FloatDtype>(
  input: DeviceTensor,
  options: DeviceCastOptions<To> & { signal?: AbortSignal },
): Promise<DeviceTensor<To>>;
export async function castTensorAsync(input: unknown, options: { signal?: AbortSignal }): Promise<unknown> {
  const p = prepare(input, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  if (p.index !== CPU) {
    await onDevice(p).later(signal, (error) => explain(error, 'input'));
    return p.result;
  }
  signal?.throwIfAborted();
  const given = p.out as RawAnyFloats;
  const out = p.fresh ? given : detachedFromCaller.output(given);
  const copied = detachedFromCaller.input(p.input as RawAnyFloats);
  await runJob(
    (done) => addon.castAsync(copied, p.from, out, p.to, p.count, p.saturate, done),
    signal,
    (error) => explain(error, 'input'),
  );
  detachedFromCaller.copyBack('out', out, given);
  return p.result;
}

/** @internal One element as a number. */
export function floatAt(data: RawFloats, type: number, index: number): number {
  if (data instanceof Float32Array) return data[index] as number;
  const one = new Float32Array(1);
  addon.cast(data.slice(index, index + 1), type, one, 0, 1, true);
  return one[0] as number;
}
