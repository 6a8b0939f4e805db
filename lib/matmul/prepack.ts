/**
 * From weight matrices to packed ones.
 *
 * @module
 */
import { addon, explain, type RawFloats, type RawWeight, runJob } from '../addon.js';
import type { Float16ArrayLike, FloatDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { dequantizeTensor, dequantizeTensorAsync } from '../tensor/dequantize.js';
import { detachedFromCaller } from '../tensor/off-thread.js';
import type { QuantizeInput } from '../tensor/quantize.js';
import { checkQuantizedTensor, type Layout, type QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { filled, type PackedWeight, weightOfHandle } from './packed-weight.js';

/** Options of {@link prepack}. */
export interface PrepackOptions {
  /** Where the products will be computed. Default, and all that there is so far: `'cpu'`. */
  device?: 'cpu';
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

/** Options of {@link prepackInteger}: the sizes of the matrix. */
export interface PrepackIntegerOptions {
  /** Rows of b. */
  k: number;
  /** Columns of b. */
  n: number;
}

const CODES_OPTIONS: ReadonlySet<string> = new Set(['device']);
const FLOATS_OPTIONS: ReadonlySet<string> = new Set(['device', 'shape', 'dtype']);
const INTEGER_OPTIONS: ReadonlySet<string> = new Set(['k', 'n']);
const withSignal = (known: ReadonlySet<string>): ReadonlySet<string> => new Set([...known, 'signal']);
const CODES_ASYNC_OPTIONS = withSignal(CODES_OPTIONS);
const FLOATS_ASYNC_OPTIONS = withSignal(FLOATS_OPTIONS);
const INTEGER_ASYNC_OPTIONS = withSignal(INTEGER_OPTIONS);

/** Checked arguments: one of the three things that can be packed. */
type Prepared =
  | {
      readonly source: 'codes';
      readonly layout: Layout;
      readonly groupSize: number;
      readonly setsPerRow: number;
      /** So many rows have the same parameters. */
      readonly rowsAlike: number;
      readonly data: Uint8Array;
      readonly scales: Float32Array;
      readonly zeroPoints: Int32Array | null;
    }
  | { readonly source: 'floats'; readonly data: RawFloats; readonly type: number; readonly shape: readonly number[] }
  | { readonly source: 'dequantized'; readonly tensor: QuantizedTensor; readonly layout: Layout };

function prepare(value: unknown, optionsValue: unknown, later: boolean): Prepared {
  return ArrayBuffer.isView(value)
    ? prepareFloats(value, optionsValue, later ? FLOATS_ASYNC_OPTIONS : FLOATS_OPTIONS)
    : prepareCodes(value, optionsValue, later ? CODES_ASYNC_OPTIONS : CODES_OPTIONS);
}

function checkDevice(device: unknown): void {
  if (device !== undefined) validate.oneOf('device', device, ['cpu']);
}

function prepareFloats(value: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  checkDevice(given['device']);
  const { data, type } = validate.floats('weights', value, 'dtype', given['dtype']);
  const shape = validate.shape('shape', given['shape']);
  if (shape.length !== 2) throw invalidArgument('shape', 'two numbers, [N, K],', given['shape']);
  if (validate.product(shape) !== data.length) {
    throw new InvalidArgumentError(
      'shape',
      `Expected shape [${shape.join(', ')}] to have as many elements as the weights, ${data.length}.`,
    );
  }
  return { source: 'floats', data, type, shape };
}

function prepareCodes(value: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue ?? {}, known);
  checkDevice(given['device']);
  const { tensor, layout } = checkQuantizedTensor('q', value);
  if (layout.shape.length !== 2) {
    throw new InvalidArgumentError(
      'q.shape',
      `Expected a matrix, [N, K], for q.shape but received [${layout.shape.join(', ')}].`,
    );
  }
  const { data, scales, zeroPoints } = tensor;
  const { granularity, columns } = layout;
  const whole = { source: 'codes', layout, groupSize: Math.max(1, columns), rowsAlike: 1, data } as const;
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
  checkZeroPoints(zeroPoints, layout);
  return { source: 'dequantized', tensor, layout };
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
 * @param options - `device`, default `'cpu'`.
 * @returns A weight with `rows` N and `cols` K. Free it with `dispose()` when it is not needed any more.
 * @throws {@link InvalidArgumentError} for anything but a matrix, or fields that do not fit; {@link OutOfMemoryError}.
 *
 * @example
 * ```ts
 * const q = quantizeTensor(weights, { dtype: 'int4', shape: [n, k], granularity: 'per-group', groupSize: 32 });
 * const w = prepack(q);
 * const y = linear(x, w); // [m, n]
 * w.dispose();
 * ```
 */
export function prepack(q: QuantizedTensor, options?: PrepackOptions): PackedWeight;
/**
 * Packs weights that are not quantized: a layer left in float32, float16 or bfloat16. {@link linear} computes with them in
 * float32.
 *
 * @param weights - W[N, K] in row-major order; a Uint16Array holds bit patterns of the `dtype` that must be said. NaN and
 *   infinities are not looked for, and come out in the result.
 * @param options - `shape`, `[N, K]`; `dtype`, default from the array; `device`, default `'cpu'`.
 * @throws {@link InvalidArgumentError} for a wrong type or shape; {@link OutOfMemoryError}.
 */
export function prepack<I extends QuantizeInput>(weights: I, options: PrepackFloatOptions<I>): PackedWeight;
export function prepack(value: QuantizedTensor | QuantizeInput, options?: unknown): PackedWeight {
  const p = prepare(value, options, false);
  const handle = addon.createWeight();
  try {
    if (p.source === 'codes') {
      if (p.layout.code.codebook === undefined) addon.packCodes(recordOf(p), handle, p.data, p.scales, p.zeroPoints);
      else addon.packCodebook(recordOf(p), handle, p.data, p.scales);
    } else if (p.source === 'floats') {
      packFloats(handle, p.data, p.type, p.shape);
    } else {
      packFloats(handle, dequantizeTensor(p.tensor), 0, p.layout.shape);
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
export async function prepackAsync(q: QuantizedTensor, options?: PrepackAsyncOptions): Promise<PackedWeight>;
/** {@link prepack} for weights that are not quantized, off the event loop, with the same result. */
export async function prepackAsync<I extends QuantizeInput>(
  weights: I,
  options: PrepackFloatOptions<I> & { signal?: AbortSignal },
): Promise<PackedWeight>;
export async function prepackAsync(
  value: QuantizedTensor | QuantizeInput,
  options?: { signal?: AbortSignal },
): Promise<PackedWeight> {
  const p = prepare(value, options, true);
  const signal = validate.abortSignal('signal', options?.signal);
  signal?.throwIfAborted();
  const handle = addon.createWeight();
  const explained = (error: unknown) => explain(error, p.source === 'floats' ? 'weights' : 'q');
  if (p.source === 'codes') {
    const data = detachedFromCaller.input(p.data);
    const scales = detachedFromCaller.input(p.scales);
    const zeroPoints = p.zeroPoints === null ? null : detachedFromCaller.input(p.zeroPoints);
    const start = (done: () => void) =>
      p.layout.code.codebook === undefined
        ? addon.packCodesAsync(recordOf(p), handle, data, scales, zeroPoints, done)
        : addon.packCodebookAsync(recordOf(p), handle, data, scales, done);
    return filled(handle, runJob(start, signal, explained));
  }
  const floats =
    p.source === 'floats'
      ? detachedFromCaller.input(p.data)
      : await dequantizeTensorAsync(p.tensor, signal === undefined ? {} : { signal });
  const [type, [rows = 0, columns = 0]] = p.source === 'floats' ? [p.type, p.shape] : [0, p.layout.shape];
  const start = (done: () => void) => addon.packFloatsAsync(handle, floats, type, rows, columns, done);
  return filled(handle, runJob(start, signal, explained));
}

interface PreparedInteger {
  readonly b: Int8Array | Uint8Array;
  readonly k: number;
  readonly n: number;
}

function prepareInteger(value: unknown, optionsValue: unknown, known: ReadonlySet<string>): PreparedInteger {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const k = validate.integer('k', given['k'], 0);
  const n = validate.integer('n', given['n'], 0);
  return { b: validate.bytes('b', value, k * n), k, n };
}

/**
 * Packs the second matrix of an integer product: for {@link matmulInteger}, {@link quantizedMatmul} and
 * {@link dynamicQuantizeMatmul}, which otherwise pack it in every call.
 *
 * @param b - Integers b[k, n] in row-major order, one byte each.
 * @param options - `k` and `n`, the rows and columns of b.
 * @returns A weight of the kind `'integer'` with `rows` n and `cols` k: the transpose of b.
 * @throws {@link InvalidArgumentError} for a wrong type or length; {@link OutOfMemoryError}.
 *
 * @example
 * ```ts
 * const b = prepackInteger(new Int8Array([1, 2, 3, 4, 5, 6]), { k: 2, n: 3 });
 * matmulInteger(new Uint8Array([1, 1]), b, { m: 1, n: 3, k: 2 }); // Int32Array [5, 7, 9]
 * ```
 */
export function prepackInteger(b: Int8Array | Uint8Array, options: PrepackIntegerOptions): PackedWeight {
  const p = prepareInteger(b, options, INTEGER_OPTIONS);
  const handle = addon.createWeight();
  try {
    addon.packIntegers(handle, p.b, p.k, p.n);
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
  b: Int8Array | Uint8Array,
  options: PrepackIntegerOptions & { signal?: AbortSignal },
): Promise<PackedWeight> {
  const p = prepareInteger(b, options, INTEGER_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const handle = addon.createWeight();
  const copied = detachedFromCaller.input(p.b);
  const start = (done: () => void) => addon.packIntegersAsync(handle, copied, p.k, p.n, done);
  return filled(
    handle,
    runJob(start, signal, (error) => explain(error, 'b')),
  );
}
