/**
 * Signs as bits: how binary weights are stored.
 *
 * @module
 */
import { addon, explain, type RawError, type RawFloats, runJob } from '../addon.js';
import { type Float16ArrayLike, packedRowBytes } from '../dtype.js';
import { invalidArgument, NonFiniteError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { floatAt } from './cast.js';
import { type Rows, result, rowsOf } from './packed-rows.js';

/** What {@link packBits} takes the signs of. */
export type SignInput = Int8Array | Float32Array | Uint16Array | Float16ArrayLike;

/** Options of {@link packBits}. */
export interface PackBitsOptions {
  /** Dimensions in row-major order; every row of the last one starts on a byte. Default `[input.length]`. */
  shape?: readonly number[];
  /** The type of the elements of a Uint16Array, which must be said: `'float16'` or `'bfloat16'`. */
  inputDtype?: 'float32' | 'float16' | 'bfloat16';
  /** The array to write to and return. */
  out?: Uint8Array;
}

/** Options of {@link unpackBits}. */
export interface UnpackBitsOptions<D extends 'int8' | 'float32' = 'int8' | 'float32'> {
  /** Dimensions in row-major order. */
  shape: readonly number[];
  /** The type of the result. Default `'int8'`. */
  dtype?: D;
  /** The array to write to and return. */
  out?: SignArrayOf<D>;
}

/** The array that holds signs. */
export type SignArrayOf<D extends 'int8' | 'float32'> = D extends 'int8' ? Int8Array : Float32Array;

const PACK_BITS_OPTIONS: ReadonlySet<string> = new Set(['shape', 'inputDtype', 'out']);
const UNPACK_BITS_OPTIONS: ReadonlySet<string> = new Set(['shape', 'dtype', 'out']);
const withSignal = (known: ReadonlySet<string>): ReadonlySet<string> => new Set([...known, 'signal']);
const PACK_BITS_ASYNC_OPTIONS = withSignal(PACK_BITS_OPTIONS);
const UNPACK_BITS_ASYNC_OPTIONS = withSignal(UNPACK_BITS_OPTIONS);

/** The addon's number for the signs of an Int8Array. */
const BYTES = 3;

type Given = Partial<Record<string, unknown>>;

interface PreparedPack {
  readonly input: RawFloats | Int8Array;
  readonly type: number;
  readonly size: Rows;
  readonly out: Uint8Array;
  readonly fresh: boolean;
}

function signsOf(value: unknown, dtype: unknown): { data: RawFloats | Int8Array; type: number } {
  if (!(value instanceof Int8Array)) {
    if (ArrayBuffer.isView(value)) return validate.floats('input', value, 'inputDtype', dtype);
    throw invalidArgument('input', 'an Int8Array, a Float32Array, a Uint16Array or a Float16Array', value);
  }
  if (dtype !== undefined) throw invalidArgument('inputDtype', 'undefined for an Int8Array', dtype);
  return { data: validate.int8Array('input', value), type: BYTES };
}

function preparePack(value: unknown, options: unknown, known: ReadonlySet<string>): PreparedPack {
  const given: Given = validate.options<Record<string, unknown>>('options', options ?? {}, known);
  const { data, type } = signsOf(value, given['inputDtype']);
  const size = rowsOf(given['shape'], data.length);
  return { input: data, type, size, ...result(given['out'], Uint8Array, size.rows * packedRowBytes(size.columns, 1)) };
}

function explainedSign(error: unknown, p: PreparedPack, input: RawFloats | Int8Array): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (code !== 'NON_FINITE' || input instanceof Int8Array) return explain(error, 'out');
  const value = floatAt(input, p.type, index);
  return new NonFiniteError(
    `Expected numbers, which have a sign, but received ${value} at index ${index} of input.`,
    index,
    value,
  );
}

/**
 * Packs signs, one bit each: 1 for +1 and 0 for −1, the first in the low bit; every row of the last axis starts on a byte, and
 * the unused bits of its last byte are 0. Zero, and negative zero, count as +1.
 *
 * @param input - Int8Array, Float32Array, Float16Array, or a Uint16Array of float16 or bfloat16 as `inputDtype` says. Infinities
 *   have a sign.
 * @returns A Uint8Array of `rows · ceil(columns / 8)` bytes, or `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps the input;
 *   {@link NonFiniteError} for NaN; {@link OutOfMemoryError}.
 *
 * Sources: Rastegari et al., "XNOR-Net" (arXiv:1603.05279), for sign(0) = +1.
 *
 * @example
 * ```ts
 * packBits(new Float32Array([0.5, -1, 0, -2, 3, 1, 1, -1, 1])); // Uint8Array [0b01110101, 1]
 * ```
 */
export function packBits(input: SignInput, options?: PackBitsOptions): Uint8Array {
  const p = preparePack(input, options, PACK_BITS_OPTIONS);
  try {
    addon.packBits(p.input, p.type, p.size.rows, p.size.columns, p.out);
  } catch (error) {
    throw explainedSign(error, p, p.input);
  }
  return p.out;
}

/**
 * {@link packBits} off the event loop, with the same result. Input that is not in a SharedArrayBuffer is copied first.
 *
 * @throws As {@link packBits}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function packBitsAsync(
  input: SignInput,
  options?: PackBitsOptions & { signal?: AbortSignal },
): Promise<Uint8Array> {
  const p = preparePack(input, options, PACK_BITS_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options?.signal);
  signal?.throwIfAborted();
  const copied = detachedFromCaller.input(p.input);
  const out = p.fresh ? p.out : detachedFromCaller.output(p.out);
  await runJob(
    (done) => addon.packBitsAsync(copied, p.type, p.size.rows, p.size.columns, out, done),
    signal,
    (error) => explainedSign(error, p, copied),
  );
  detachedFromCaller.copyBack('out', out, p.out);
  return p.out;
}

interface PreparedUnpack {
  readonly data: Uint8Array;
  readonly size: Rows;
  readonly floats: boolean;
  readonly out: Int8Array | Float32Array;
  readonly fresh: boolean;
}

function prepareUnpack(value: unknown, options: unknown, known: ReadonlySet<string>): PreparedUnpack {
  const given: Given = validate.options<Record<string, unknown>>('options', options, known);
  const size = rowsOf(given['shape']);
  const data = validate.uint8Array('data', value, size.rows * packedRowBytes(size.columns, 1));
  const { dtype } = given;
  const floats = dtype !== undefined && validate.oneOf('dtype', dtype, ['int8', 'float32']) === 'float32';
  const type = floats ? Float32Array : Int8Array;
  return { data, size, floats, ...result<Int8Array | Float32Array>(given['out'], type, size.count) };
}

/**
 * The signs that {@link packBits} packed: +1 for a bit that is 1, −1 for one that is 0.
 *
 * @param data - `rows · ceil(columns / 8)` bytes; unused bits at the end of a row are ignored.
 * @param options - `shape`; `dtype`, default `'int8'`; `out`.
 * @returns An Int8Array or a Float32Array as `dtype` says, or `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, or an `out` that overlaps `data`; {@link OutOfMemoryError}.
 *
 * @example
 * ```ts
 * unpackBits(new Uint8Array([0b101]), { shape: [3] }); // Int8Array [1, -1, 1]
 * ```
 */
export function unpackBits<D extends 'int8' | 'float32' = 'int8'>(
  data: Uint8Array,
  options: UnpackBitsOptions<D>,
): SignArrayOf<D> {
  const p = prepareUnpack(data, options, UNPACK_BITS_OPTIONS);
  try {
    addon.unpackBits(p.data, p.size.rows, p.size.columns, p.floats, p.out);
  } catch (error) {
    throw explain(error, 'out');
  }
  return p.out as SignArrayOf<D>;
}

/**
 * {@link unpackBits} off the event loop, with the same result. Input that is not in a SharedArrayBuffer is copied first.
 *
 * @throws As {@link unpackBits}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function unpackBitsAsync<D extends 'int8' | 'float32' = 'int8'>(
  data: Uint8Array,
  options: UnpackBitsOptions<D> & { signal?: AbortSignal },
): Promise<SignArrayOf<D>> {
  const p = prepareUnpack(data, options, UNPACK_BITS_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const copied = detachedFromCaller.input(p.data);
  const out = p.fresh ? p.out : detachedFromCaller.output(p.out);
  await runJob(
    (done) => addon.unpackBitsAsync(copied, p.size.rows, p.size.columns, p.floats, out, done),
    signal,
    (error) => explain(error, 'out'),
  );
  detachedFromCaller.copyBack('out', out, p.out);
  return p.out as SignArrayOf<D>;
}
