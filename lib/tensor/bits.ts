/**
 * Signs as bits, ternary digits at two bits or five to a byte: how binary and ternary weights are stored.
 *
 * @module
 */
import { addon, explain, type RawError, type RawFloats, runJob } from '../addon.js';
import { type Float16ArrayLike, packedRowBytes } from '../dtype.js';
import { InvalidArgumentError, invalidArgument, NonFiniteError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { floatAt } from './cast.js';

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

/**
 * How ternary digits lie in bytes: `'2bit'`, four to a byte in two's complement, the first in the low bits, as codes of int2;
 * or `'base3'`, five to a byte, `Σ (digit i + 1) · 3^i`, in [0, 242], where digits past the end of a row count as −1. Either
 * way every row starts on a byte.
 */
export type TernaryPacking = '2bit' | 'base3';

/** Options of {@link packTernary}. */
export interface PackTernaryOptions {
  /** Dimensions in row-major order; every row of the last one starts on a byte. Default `[input.length]`. */
  shape?: readonly number[];
  /** Default `'2bit'`. */
  packing?: TernaryPacking;
  /** The array to write to and return. */
  out?: Uint8Array;
}

/** Options of {@link unpackTernary}. */
export interface UnpackTernaryOptions {
  /** Dimensions in row-major order. */
  shape: readonly number[];
  /** Default `'2bit'`. */
  packing?: TernaryPacking;
  /** The array to write to and return. */
  out?: Int8Array;
}

const PACK_BITS_OPTIONS: ReadonlySet<string> = new Set(['shape', 'inputDtype', 'out']);
const UNPACK_BITS_OPTIONS: ReadonlySet<string> = new Set(['shape', 'dtype', 'out']);
const TERNARY_OPTIONS: ReadonlySet<string> = new Set(['shape', 'packing', 'out']);
const withSignal = (known: ReadonlySet<string>): ReadonlySet<string> => new Set([...known, 'signal']);
const PACK_BITS_ASYNC_OPTIONS = withSignal(PACK_BITS_OPTIONS);
const UNPACK_BITS_ASYNC_OPTIONS = withSignal(UNPACK_BITS_OPTIONS);
const TERNARY_ASYNC_OPTIONS = withSignal(TERNARY_OPTIONS);
/** In the order of TernaryPacking in native/ops/bits/bits.h. */
const PACKINGS: readonly TernaryPacking[] = ['2bit', 'base3'];

/** The addon's number for the signs of an Int8Array. */
const BYTES = 3;

type Given = Partial<Record<string, unknown>>;

interface Rows {
  readonly rows: number;
  readonly columns: number;
  readonly count: number;
}

/** The rows of the last axis. */
function rowsOf(value: unknown, length?: number): Rows {
  if (value === undefined && length !== undefined) return { rows: 1, columns: length, count: length };
  const shape = validate.shape('shape', value);
  const columns = shape.length === 0 ? 1 : (shape[shape.length - 1] as number);
  const rows = {
    rows: validate.product(shape, 0, Math.max(0, shape.length - 1)),
    columns,
    count: validate.product(shape),
  };
  if (length !== undefined && rows.count !== length) {
    throw new InvalidArgumentError(
      'shape',
      `Expected shape [${shape.join(', ')}] to have as many elements as the input, ${length}.`,
    );
  }
  return rows;
}

/** @internal Bytes of a row of ternary digits. */
export function ternaryRowBytes(columns: number, packing: TernaryPacking): number {
  return packing === '2bit' ? packedRowBytes(columns, 2) : Math.ceil(columns / 5);
}

function result<T extends ArrayBufferView & { readonly length: number }>(
  value: unknown,
  type: { readonly name: string; new (length: number): T },
  count: number,
): { out: T; fresh: boolean } {
  return { out: validate.result(value, type, count), fresh: value === undefined };
}

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

/** @internal */
export function packingOf(value: unknown): TernaryPacking {
  return value === undefined ? '2bit' : validate.oneOf('packing', value, PACKINGS);
}

/** @internal What the addon says of an element that is no ternary digit. */
export function explainedDigit(error: unknown, argument: string, expected: string): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (code !== 'INVALID_CODE') return explain(error, 'out');
  return new InvalidArgumentError(argument, `Expected ${expected} in ${argument} but not so at element ${index}.`, {
    cause: error,
  });
}

interface PreparedDigits {
  readonly digits: Int8Array;
  readonly packed: Uint8Array;
  readonly size: Rows;
  readonly packing: number;
  readonly fresh: boolean;
}

function preparePackTernary(value: unknown, options: unknown, known: ReadonlySet<string>): PreparedDigits {
  const given: Given = validate.options<Record<string, unknown>>('options', options ?? {}, known);
  const digits = validate.int8Array('input', value);
  const size = rowsOf(given['shape'], digits.length);
  const packing = packingOf(given['packing']);
  const { out, fresh } = result(given['out'], Uint8Array, size.rows * ternaryRowBytes(size.columns, packing));
  return { digits, packed: out, size, packing: PACKINGS.indexOf(packing), fresh };
}

const explainedInput = (error: unknown) => explainedDigit(error, 'input', 'only −1, 0 and 1');
const explainedData = (error: unknown) => explainedDigit(error, 'data', 'only packed ternary digits');

/**
 * Packs ternary digits: weights of −1, 0 and 1.
 *
 * @param input - Digits −1, 0 and 1.
 * @param options - `shape`, default one row; `packing`, default `'2bit'`; `out`.
 * @returns A Uint8Array of `rows · ceil(columns / 4)` bytes, `rows · ceil(columns / 5)` for `'base3'`; or `out`.
 * @throws {@link InvalidArgumentError} for another value, a wrong type or length, or an `out` that overlaps the input;
 *   {@link OutOfMemoryError}.
 *
 * @example
 * ```ts
 * const digits = new Int8Array([1, -1, 0, 0, 1]);
 * packTernary(digits); // Uint8Array [0b00001101, 1]
 * packTernary(digits, { packing: 'base3' }); // Uint8Array [2 + 0·3 + 1·9 + 1·27 + 2·81 = 200]
 * ```
 */
export function packTernary(input: Int8Array, options?: PackTernaryOptions): Uint8Array {
  const p = preparePackTernary(input, options, TERNARY_OPTIONS);
  try {
    addon.packTernary(p.digits, p.size.rows, p.size.columns, p.packing, p.packed);
  } catch (error) {
    throw explainedInput(error);
  }
  return p.packed;
}

/**
 * {@link packTernary} off the event loop, with the same result. Input that is not in a SharedArrayBuffer is copied first.
 *
 * @throws As {@link packTernary}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function packTernaryAsync(
  input: Int8Array,
  options?: PackTernaryOptions & { signal?: AbortSignal },
): Promise<Uint8Array> {
  const p = preparePackTernary(input, options, TERNARY_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options?.signal);
  signal?.throwIfAborted();
  const copied = detachedFromCaller.input(p.digits);
  const out = p.fresh ? p.packed : detachedFromCaller.output(p.packed);
  await runJob(
    (done) => addon.packTernaryAsync(copied, p.size.rows, p.size.columns, p.packing, out, done),
    signal,
    explainedInput,
  );
  detachedFromCaller.copyBack('out', out, p.packed);
  return p.packed;
}

function prepareUnpackTernary(value: unknown, options: unknown, known: ReadonlySet<string>): PreparedDigits {
  const given: Given = validate.options<Record<string, unknown>>('options', options, known);
  const size = rowsOf(given['shape']);
  const packing = packingOf(given['packing']);
  const packed = validate.uint8Array('data', value, size.rows * ternaryRowBytes(size.columns, packing));
  const { out, fresh } = result(given['out'], Int8Array, size.count);
  return { digits: out, packed, size, packing: PACKINGS.indexOf(packing), fresh };
}

/**
 * The digits that {@link packTernary} packed.
 *
 * @param data - Packed digits; what follows the last digit of a row in its last byte is ignored.
 * @param options - `shape`; `packing`, default `'2bit'`; `out`.
 * @returns Digits −1, 0 and 1 in row-major order, in a new array or in `out`.
 * @throws {@link InvalidArgumentError} for a code of −2 or a byte past 242, which are no digits, a wrong type or length, or an
 *   `out` that overlaps `data`; {@link OutOfMemoryError}.
 *
 * @example
 * ```ts
 * unpackTernary(new Uint8Array([200]), { shape: [5], packing: 'base3' }); // Int8Array [1, -1, 0, 0, 1]
 * ```
 */
export function unpackTernary(data: Uint8Array, options: UnpackTernaryOptions): Int8Array {
  const p = prepareUnpackTernary(data, options, TERNARY_OPTIONS);
  try {
    addon.unpackTernary(p.packed, p.size.rows, p.size.columns, p.packing, p.digits);
  } catch (error) {
    throw explainedData(error);
  }
  return p.digits;
}

/**
 * {@link unpackTernary} off the event loop, with the same result. Input that is not in a SharedArrayBuffer is copied first.
 *
 * @throws As {@link unpackTernary}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function unpackTernaryAsync(
  data: Uint8Array,
  options: UnpackTernaryOptions & { signal?: AbortSignal },
): Promise<Int8Array> {
  const p = prepareUnpackTernary(data, options, TERNARY_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const copied = detachedFromCaller.input(p.packed);
  const out = p.fresh ? p.digits : detachedFromCaller.output(p.digits);
  await runJob(
    (done) => addon.unpackTernaryAsync(copied, p.size.rows, p.size.columns, p.packing, out, done),
    signal,
    explainedData,
  );
  detachedFromCaller.copyBack('out', out, p.digits);
  return p.digits;
}
