/**
 * Ternary digits at two bits or five to a byte: how ternary weights are stored.
 *
 * @module
 */
import { addon, explain, type RawError, runJob } from '../addon.js';
import { packedRowBytes } from '../dtype.js';
import { InvalidArgumentError } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { type Rows, result, rowsOf } from './packed-rows.js';

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

const OPTIONS: ReadonlySet<string> = new Set(['shape', 'packing', 'out']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);
/** In the order of TernaryPacking in native/ops/bits/bits.h. */
const PACKINGS: readonly TernaryPacking[] = ['2bit', 'base3'];

/** @internal Bytes of a row of ternary digits. */
export function ternaryRowBytes(columns: number, packing: TernaryPacking): number {
  return packing === '2bit' ? packedRowBytes(columns, 2) : Math.ceil(columns / 5);
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
  const given = validate.options<Record<string, unknown>>('options', options ?? {}, known);
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
  const p = preparePackTernary(input, options, OPTIONS);
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
  const p = preparePackTernary(input, options, ASYNC_OPTIONS);
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
  const given = validate.options<Record<string, unknown>>('options', options, known);
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
  const p = prepareUnpackTernary(data, options, OPTIONS);
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
  const p = prepareUnpackTernary(data, options, ASYNC_OPTIONS);
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
