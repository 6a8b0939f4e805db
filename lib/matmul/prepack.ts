/**
 * From weight matrices to packed ones.
 *
 * @module
 */
import { addon, explain, type RawError, type RawFloats, type RawWeight, runJob } from '../addon.js';
import { CPU, type Device, placeOf } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import {
  checkEither,
  checkTensor,
  type DeviceTensor,
  elementCount,
  isDeviceTensor,
  placeOfTensor,
} from '../device/device-tensor.js';
import { type Float16ArrayLike, type FloatDtype, floatCodeOf, LARGE_FLOAT_DTYPES } from '../dtype.js';
import { InvalidArgumentError, invalidArgument, NonFiniteError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import { dequantizeTensor, dequantizeTensorAsync, dequantizing } from '../tensor/dequantize.js';
import type { QuantizeInput } from '../tensor/quantize.js';
import {
  type AnyQuantizedTensor,
  checkAnyQuantizedTensor,
  type DeviceQuantizedTensor,
  type Layout,
  type QuantizedTensor,
} from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { filled, type PackedWeight, weightOfHandle } from './packed-weight.js';

/** Options of {@link prepack}. */
export interface PrepackOptions {
  /** Where the products will be computed. Default: where the weight is, or `'cpu'`. */
  device?: Device;
}

/** The same, with a signal that ends the work early. */
export interface PrepackAsyncOptions extends PrepackOptions {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** Options of {@link prepack} for weights that are not quantized. */
export type PrepackFloatOptions<I = QuantizeInput> = PrepackOptions & {
  /** `[N, K]`: rows and columns of the weight matrix. */
  shape: readonly [number, number];
} & (I extends Uint16Array
    ? { dtype: 'float16' | 'bfloat16' }
    : I extends Float32Array
      ? { dtype?: 'float32' }
      : I extends Float16ArrayLike
        ? { dtype?: 'float16' }
        : { dtype?: FloatDtype });

/** Options of {@link prepack} for a matrix of floats on a device. */
export interface DevicePrepackOptions extends PrepackOptions {
  /** `[N, K]`. Default: the shape of the tensor. */
  shape?: readonly [number, number];
}

/** Options of {@link prepackInteger}: the sizes of the matrix. */
export interface PrepackIntegerOptions {
  /** Rows of b. */
  k: number;
  /** Columns of b. */
  n: number;
  /** Where the products will be computed. Default: where b is, or `'cpu'`. */
  device?: Device;
}

const CODES_OPTIONS: ReadonlySet<string> = new Set(['device']);
const FLOATS_OPTIONS: ReadonlySet<string> = new Set(['device', 'shape', 'dtype']);
const INTEGER_OPTIONS: ReadonlySet<string> = new Set(['k', 'n', 'device']);
const withSignal = (known: ReadonlySet<string>): ReadonlySet<string> => new Set([...known, 'signal']);
const CODES_ASYNC_OPTIONS = withSignal(CODES_OPTIONS);
const FLOATS_ASYNC_OPTIONS = withSignal(FLOATS_OPTIONS);
const INTEGER_ASYNC_OPTIONS = withSignal(INTEGER_OPTIONS);

/** Checked arguments: one of the three things that can be packed, and the number of the device to pack for, or {@link CPU}. */
type Prepared = { readonly index: number } & (
  | {
      readonly source: 'codes';
      readonly tensor: AnyQuantizedTensor;
      readonly layout: Layout;
      readonly groupSize: number;
      readonly setsPerRow: number;
      /** So many rows have the same parameters. */
      readonly rowsAlike: number;
      readonly data: Data<Uint8Array>;
      readonly scales: Data<Float32Array>;
      readonly zeroPoints: Data<Int32Array> | null;
    }
  | {
      readonly source: 'floats';
      readonly data: Data<RawFloats>;
      readonly type: number;
      readonly shape: readonly number[];
    }
  | { readonly source: 'dequantized'; readonly tensor: AnyQuantizedTensor; readonly layout: Layout }
);

/** What is packed for the processor is on the host. */
type OnHost = Prepared & { data: RawFloats & Uint8Array; scales: Float32Array; zeroPoints: Int32Array | null };

function prepare(value: unknown, optionsValue: unknown, later: boolean): Prepared {
  return ArrayBuffer.isView(value) || isDeviceTensor(value)
    ? prepareFloats(value, optionsValue, later ? FLOATS_ASYNC_OPTIONS : FLOATS_OPTIONS)
    : prepareCodes(value, optionsValue, later ? CODES_ASYNC_OPTIONS : CODES_OPTIONS);
}

function prepareFloats(value: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const chosen = isDeviceTensor(value) ? (optionsValue ?? {}) : optionsValue;
  const given = validate.options<Record<string, unknown>>('options', chosen, known);
  const index = placeOf(given['device'], [placeOfTensor('weights', value)]);
  const { data, type, count, fallback } = weightsFrom(value, given['dtype']);
  const shape = validate.shape('shape', given['shape'] ?? fallback);
  if (shape.length !== 2) throw invalidArgument('shape', 'two numbers, [N, K],', given['shape']);
  if (validate.product(shape) !== count) {
    throw new InvalidArgumentError(
      'shape',
      `Expected shape [${shape.join(', ')}] to have as many elements as the weights, ${count}.`,
    );
  }
  return { index, source: 'floats', data, type, shape };
}

function weightsFrom(
  value: unknown,
  dtype: unknown,
): { data: Data<RawFloats>; type: number; count: number; fallback: readonly number[] | undefined } {
  if (isDeviceTensor(value)) {
    const data = checkTensor('weights', value, LARGE_FLOAT_DTYPES);
    if (dtype !== undefined) validate.oneOf('dtype', dtype, [data.dtype]);
    return { data, type: floatCodeOf('dtype', data.dtype), count: elementCount(data), fallback: [...data.shape] };
  }
  const { data, type } = validate.floats('weights', value, 'dtype', dtype);
  return { data, type, count: data.length, fallback: undefined };
}

function prepareCodes(value: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue ?? {}, known);
  const { tensor, layout } = checkAnyQuantizedTensor('q', value);
  const index = placeOf(given['device'], [
    placeOfTensor('q.data', tensor.data),
    placeOfTensor('q.scales', tensor.scales),
    placeOfTensor('q.zeroPoints', tensor.zeroPoints),
  ]);
  if (layout.shape.length !== 2) {
    throw new InvalidArgumentError(
      'q.shape',
      `Expected a matrix, [N, K], for q.shape but received [${layout.shape.join(', ')}].`,
    );
  }
  const { data, scales, zeroPoints } = tensor;
  const { granularity, columns } = layout;
  const groupOfAll = Math.max(1, columns);
  const whole = { index, source: 'codes', tensor, layout, groupSize: groupOfAll, rowsAlike: 1, data } as const;
  // A matrix without columns has rows but no groups, and so no scales.
  if (granularity === 'per-group' && columns === 0) {
    return { ...whole, setsPerRow: 0, scales: new Float32Array(1), zeroPoints: null };
  }
  if (granularity === 'per-tensor') return { ...whole, setsPerRow: 0, scales, zeroPoints };
  if (granularity === 'per-channel' && layout.axis === 0) return { ...whole, setsPerRow: 1, scales, zeroPoints };
  const groupSize = layout.groupLength;
  const canPack = groupSize % 16 === 0 || groupSize === columns;
  if (granularity === 'per-group' && canPack) {
    return { ...whole, groupSize, setsPerRow: Math.ceil(columns / groupSize), scales, zeroPoints };
  }
  if (granularity === 'per-block' && layout.code.codebook !== undefined && canPack) {
    const setsPerRow = Math.ceil(columns / groupSize);
    return { ...whole, groupSize, setsPerRow, rowsAlike: layout.blocksAlike, scales, zeroPoints };
  }
  if (!isDeviceTensor(zeroPoints)) checkZeroPoints(zeroPoints, layout);
  return { index, source: 'dequantized', tensor, layout };
}

/** What the addon does for codes that it packs. */
function checkZeroPoints(zeroPoints: Int32Array | null, { code }: Layout): void {
  const index = zeroPoints?.findIndex((z) => z < code.lowest || z > code.highest) ?? -1;
  if (index === -1) return;
  throw new InvalidArgumentError(
    'q.zeroPoints',
    `Expected q.zeroPoints to lie in [${code.lowest}, ${code.highest}] but received ${zeroPoints?.[index]} at index ${index}.`,
  );
}

/** The numbers of the addon's calls; it reads them before it returns, so one array of a length serves every call. */
const codesRecord = new Float64Array(6);
const codebookRecord = new Float64Array(8);

function recordOf({ layout, groupSize, setsPerRow, rowsAlike }: Prepared & { source: 'codes' }): Float64Array {
  const { rows, columns } = layout;
  const { bits, signed, codebook } = layout.code;
  if (codebook === undefined) codesRecord.set([bits, signed ? 1 : 0, rows, columns, groupSize, setsPerRow]);
  else codebookRecord.set([bits, signed ? 1 : 0, codebook.book, rows, columns, groupSize, rowsAlike, setsPerRow]);
  return codebook === undefined ? codesRecord : codebookRecord;
}

function packFloats(handle: RawWeight, data: RawFloats, type: number, shape: readonly number[]): void {
  addon.packFloats(handle, data, type, shape[0] as number, shape[1] as number);
}

type PackingCall = DeviceCall<'devicePackCodes' | 'devicePackCodebook' | 'devicePackFloats'>;

/** Packing for a device; before it, codes whose groups do not suit its kernels become floats there. */
function onDevice(
  p: Prepared,
  handle: RawWeight,
): { before: ReturnType<typeof dequantizing> | undefined; packing: PackingCall } {
  const floats = (data: Data, type: number, [rows = 0, columns = 0]: readonly number[]): PackingCall =>
    new DeviceCall(p.index, 'devicePackFloats', (on) => [handle, on.reads(data), type, rows, columns]) as PackingCall;
  if (p.source === 'floats') return { before: undefined, packing: floats(p.data, p.type, p.shape) };
  checkParameters(p.tensor, p.layout);
  const { codebook } = p.layout.code;
  if (p.source === 'dequantized' || !addon.deviceCanPack(recordOf(p), codebook !== undefined)) {
    const before = dequantizing(p.tensor, p.layout, p.index);
    return { before, packing: floats(before.floats, 0, p.layout.shape) };
  }
  const { data, scales, zeroPoints } = p;
  const packing =
    codebook === undefined
      ? new DeviceCall(p.index, 'devicePackCodes', (on) => [
          recordOf(p),
          handle,
          on.reads(data),
          on.reads(scales),
          zeroPoints === null ? null : on.reads(zeroPoints),
        ])
      : new DeviceCall(p.index, 'devicePackCodebook', (on) => [recordOf(p), handle, on.reads(data), on.reads(scales)]);
  return { before: undefined, packing: packing as PackingCall };
}

/** What the addon does for parameters that it reads itself. */
function checkParameters({ scales, zeroPoints }: AnyQuantizedTensor, { code }: Layout): void {
  const floats = isDeviceTensor(scales) ? new Float32Array(0) : scales;
  const integers = isDeviceTensor(zeroPoints) ? null : zeroPoints;
  try {
    addon.checkParameters(floats, integers, false, code.lowest, code.highest, 'q.');
  } catch (error) {
    throw explain(error, 'q');
  }
}

/** The addon's error in the words of the caller's arguments. */
function explainedFor(p: Prepared): (error: unknown) => unknown {
  const argument = p.source === 'floats' ? 'weights' : 'q';
  return (error) => {
    const { code, index = -1 } = error as Partial<RawError>;
    if (code !== 'NON_FINITE') return explain(error, argument);
    const message = `Expected finite weights, which a device needs, but the one at index ${index} of ${argument} is not.`;
    return new NonFiniteError(message, index, Number.NaN);
  };
}

function packNow(p: Prepared, handle: RawWeight): PackedWeight {
  const explained = explainedFor(p);
  const { before, packing } = onDevice(p, handle);
  try {
    before?.call.now(explained);
    packing.now(explained);
  } finally {
    before?.floats.dispose();
  }
  return weightOfHandle(handle);
}

async function packLater(p: Prepared, handle: RawWeight, signal: AbortSignal | undefined): Promise<PackedWeight> {
  const explained = explainedFor(p);
  const { before, packing } = onDevice(p, handle);
  const work = async () => {
    try {
      await before?.call.later(signal, explained);
      await packing.later(signal, explained);
    } finally {
      before?.floats.dispose();
    }
  };
  return filled(handle, work());
}

/**
 * Packs a weight matrix for {@link linear}: once, for any number of products.
 *
 * Quantized weights keep their codes and scales (scales take two bytes each where that loses nothing), at any bit width,
 * symmetric or asymmetric: per tensor, per channel of axis 0, and per group of a multiple of 16 or of at least K columns. The
 * weight's `kind` is then `'quantized'`. The same holds for every {@link CodebookDtype} (of blocks those of a multiple of 16
 * columns as well), of which `mxfp4`, `nvfp4`, `mxint8`, `ternary` and `binary` weights are integers times a scale, for any
 * `computeDtype`; the others are computed in float32, whatever it says. Other groups, blocks and channels of axis 1 take a
 * slower path: the weights are dequantized and packed as float32, with the kind `'float'` and four bytes for each.
 *
 * @param q - A quantized matrix W[N, K]: N outputs, K inputs, as a linear layer's weight is stored. Scales must be finite and
 *   zero points within the dtype's range.
 * For a device, groups are of a multiple of 32 columns, or whole rows; others are dequantized and kept as float16 times a power
 * of two for each row. Its weights must stand for finite numbers.
 *
 * @param options - `device`, default where q is, or `'cpu'`.
 * @returns A weight with `rows` N and `cols` K. Free it with `dispose()` when it is not needed any more.
 * @throws {@link InvalidArgumentError} for anything but a matrix, or fields that do not fit; {@link OutOfMemoryError};
 *   {@link DeviceError} and {@link NonFiniteError} of a device.
 *
 * @example
 * ```ts
 * const q = quantizeTensor(weights, { dtype: 'int4', shape: [n, k], granularity: 'per-group', groupSize: 32 });
 * const w = prepack(q);
 * const y = linear(x, w); // [m, n]
 * w.dispose();
 * ```
 */
export function prepack(q: QuantizedTensor | DeviceQuantizedTensor, options?: PrepackOptions): PackedWeight;
/**
 * Packs weights that are not quantized: a layer left in float32, float16 or bfloat16. {@link linear} computes with them in
 * float32; NaN and infinities are not looked for, and come out in the result. A device keeps float16 times a power of two for
 * each row, and refuses NaN and infinities.
 *
 * @param weights - W[N, K] in row-major order; a Uint16Array holds bit patterns of the `dtype` that must be said.
 * @param options - `shape`, `[N, K]`; `dtype`, default from the array; `device`, default where the weights are, or `'cpu'`.
 * @returns A weight of the kind `'float'`. Free it with `dispose()` when it is not needed any more.
 * @throws {@link InvalidArgumentError} for a wrong type or shape; {@link OutOfMemoryError}; {@link DeviceError} and
 *   {@link NonFiniteError} of a device.
 */
export function prepack<I extends QuantizeInput>(weights: I, options: PrepackFloatOptions<I>): PackedWeight;
/** Packs weights W[N, K] that are on a device: float32, float16 or bfloat16. */
export function prepack(weights: DeviceTensor, options?: DevicePrepackOptions): PackedWeight;
export function prepack(value: unknown, options?: unknown): PackedWeight {
  const p = prepare(value, options, false);
  const handle = addon.createWeight();
  if (p.index !== CPU) return packNow(p, handle);
  const { data, scales, zeroPoints } = p as OnHost;
  try {
    if (p.source === 'codes') {
      if (p.layout.code.codebook === undefined) addon.packCodes(recordOf(p), handle, data, scales, zeroPoints);
      else addon.packCodebook(recordOf(p), handle, data, scales);
    } else if (p.source === 'floats') {
      packFloats(handle, data, p.type, p.shape);
    } else {
      packFloats(handle, dequantizeTensor(p.tensor as QuantizedTensor), 0, p.layout.shape);
    }
  } catch (error) {
    throw explain(error, p.source === 'floats' ? 'weights' : 'q');
  }
  return weightOfHandle(handle);
}

/**
 * {@link prepack} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first.
 *
 * @throws As {@link prepack}, as a rejection; the signal's reason when it aborts.
 */
export async function prepackAsync(
  q: QuantizedTensor | DeviceQuantizedTensor,
  options?: PrepackAsyncOptions,
): Promise<PackedWeight>;
/** {@link prepack} for weights that are not quantized, off the event loop, with the same result. */
export async function prepackAsync<I extends QuantizeInput>(
  weights: I,
  options: PrepackFloatOptions<I> & { signal?: AbortSignal },
): Promise<PackedWeight>;
/** {@link prepack} for weights that are on a device, off the event loop. */
export async function prepackAsync(
  weights: DeviceTensor,
  options?: DevicePrepackOptions & { signal?: AbortSignal },
): Promise<PackedWeight>;
export async function prepackAsync(value: unknown, options?: { signal?: AbortSignal }): Promise<PackedWeight> {
  const p = prepare(value, options, true);
  const signal = validate.abortSignal('signal', options?.signal);
  signal?.throwIfAborted();
  const handle = addon.createWeight();
  if (p.index !== CPU) return packLater(p, handle, signal);
  const explained = (error: unknown) => explain(error, p.source === 'floats' ? 'weights' : 'q');
  const host = p as OnHost;
  if (p.source === 'codes') {
    const data = detachedFromCaller.input(host.data);
    const scales = detachedFromCaller.input(host.scales);
    const zeroPoints = host.zeroPoints === null ? null : detachedFromCaller.input(host.zeroPoints);
    const start = (done: () => void) =>
      p.layout.code.codebook === undefined
        ? addon.packCodesAsync(recordOf(p), handle, data, scales, zeroPoints, done)
        : addon.packCodebookAsync(recordOf(p), handle, data, scales, done);
    return filled(handle, runJob(start, signal, explained));
  }
  const floats =
    p.source === 'floats'
      ? detachedFromCaller.input(host.data)
      : await dequantizeTensorAsync(p.tensor as QuantizedTensor, signal === undefined ? {} : { signal });
  const [type, [rows = 0, columns = 0]] = p.source === 'floats' ? [p.type, p.shape] : [0, p.layout.shape];
  const start = (done: () => void) => addon.packFloatsAsync(handle, floats, type, rows, columns, done);
  return filled(handle, runJob(start, signal, explained));
}

interface PreparedInteger {
  /** A device's number, or {@link CPU}. */
  readonly index: number;
  readonly b: Data<Int8Array | Uint8Array>;
  readonly k: number;
  readonly n: number;
}

function prepareInteger(value: unknown, optionsValue: unknown, known: ReadonlySet<string>): PreparedInteger {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const k = validate.integer('k', given['k'], 0);
  const n = validate.integer('n', given['n'], 0);
  const index = placeOf(given['device'], [placeOfTensor('b', value)]);
  const b = checkEither('b', value, ['int8', 'uint8'], k * n, () => validate.bytes('b', value, k * n));
  return { index, b, k, n };
}

function integersOnDevice({ index, b, k, n }: PreparedInteger, handle: RawWeight): DeviceCall<'devicePackIntegers'> {
  const signed = isDeviceTensor(b) ? b.dtype === 'int8' : b instanceof Int8Array;
  return new DeviceCall(index, 'devicePackIntegers', (on) => [handle, on.reads(b), signed, k, n]);
}

/**
 * Packs the second matrix of an integer product: for {@link matmulInteger}, {@link quantizedMatmul} and
 * {@link dynamicQuantizeMatmul}, which otherwise pack it in every call.
 *
 * @param b - Integers b[k, n] in row-major order, one byte each.
 * @param options - `k` and `n`, the rows and columns of b; `device`, default where b is, or `'cpu'`. What is packed for a device
 *   is for {@link matmulInteger}.
 * @returns A weight of the kind `'integer'` with `rows` n and `cols` k: the transpose of b.
 * @throws {@link InvalidArgumentError} for a wrong type or length; {@link OutOfMemoryError}.
 *
 * @example
 * ```ts
 * const b = prepackInteger(new Int8Array([1, 2, 3, 4, 5, 6]), { k: 2, n: 3 });
 * matmulInteger(new Uint8Array([1, 1]), b, { m: 1, n: 3, k: 2 }); // Int32Array [5, 7, 9]
 * ```
 */
export function prepackInteger(
  b: Int8Array | Uint8Array | DeviceTensor<'int8'> | DeviceTensor<'uint8'>,
  options: PrepackIntegerOptions,
): PackedWeight {
  const p = prepareInteger(b, options, INTEGER_OPTIONS);
  const handle = addon.createWeight();
  if (p.index !== CPU) {
    integersOnDevice(p, handle).now((error) => explain(error, 'b'));
    return weightOfHandle(handle);
  }
  try {
    addon.packIntegers(handle, p.b as Int8Array | Uint8Array, p.k, p.n);
  } catch (error) {
    throw explain(error, 'b');
  }
  return weightOfHandle(handle);
}

/**
 * {@link prepackInteger} off the event loop, with the same result. A matrix that is not in a SharedArrayBuffer is copied
 * first.
 *
 * @throws As {@link prepackInteger}, as a rejection; the signal's reason when it aborts.
 */
export async function prepackIntegerAsync(
  b: Int8Array | Uint8Array | DeviceTensor<'int8'> | DeviceTensor<'uint8'>,
  options: PrepackIntegerOptions & { signal?: AbortSignal },
): Promise<PackedWeight> {
  const p = prepareInteger(b, options, INTEGER_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const handle = addon.createWeight();
  if (p.index !== CPU) {
    return filled(
      handle,
      integersOnDevice(p, handle).later(signal, (error) => explain(error, 'b')),
    );
  }
  const copied = detachedFromCaller.input(p.b as Int8Array | Uint8Array);
  const start = (done: () => void) => addon.packIntegersAsync(handle, copied, p.k, p.n, done);
  return filled(
    handle,
    runJob(start, signal, (error) => explain(error, 'b')),
  );
}
