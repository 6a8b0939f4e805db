/**
 * Checks of arguments, shared by everything that users call. Each returns the checked value or throws an
 * InvalidArgumentError that names the argument, what was expected and what came.
 *
 * @module
 */

import type { RawFloats } from './addon.js';
import { type Float16ArrayLike, floatCodeOf } from './dtype.js';
import { describe, InvalidArgumentError, invalidArgument, OutOfMemoryError } from './errors.js';

/** An options object with no unknown names: a misspelled option must not be silently without effect. */
export function options<T extends object>(argument: string, value: unknown, known: ReadonlySet<string>): Partial<T> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalidArgument(argument, 'an object', value);
  }
  for (const name in value) {
    if (known.has(name)) continue;
    const close = [...known].find((k) => k.toLowerCase() === name.toLowerCase().replaceAll(/[-_]/g, ''));
    const hint = close === undefined ? `Known are ${[...known].join(', ')}.` : `Did you mean ${close}?`;
    throw new InvalidArgumentError(name, `Unknown option ${describe(name)}. ${hint}`);
  }
  return value as Partial<T>;
}

export function boolean(argument: string, value: unknown, fallback: boolean): boolean {
  if (value === undefined) return fallback;
  if (typeof value !== 'boolean') throw invalidArgument(argument, 'true or false', value);
  return value;
}

export function oneOf<T extends string>(argument: string, value: unknown, allowed: readonly T[]): T {
  for (const candidate of allowed) if (value === candidate) return candidate;
  throw invalidArgument(argument, `one of ${allowed.join(', ')}`, value);
}

export function integer(argument: string, value: unknown, lowest: number, highest = Number.MAX_SAFE_INTEGER): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < lowest || value > highest) {
    const range = highest === Number.MAX_SAFE_INTEGER ? `of at least ${lowest}` : `from ${lowest} to ${highest}`;
    throw invalidArgument(argument, `an integer ${range}`, value);
  }
  return value;
}

/** A number that is finite, and still is when rounded to float32. Returns it rounded. */
export function finite(argument: string, value: unknown, positive: boolean): number {
  if (typeof value === 'number') {
    const rounded = Math.fround(value);
    if (Number.isFinite(rounded) && (!positive || rounded > 0)) return rounded;
  }
  throw invalidArgument(argument, positive ? 'a finite number greater than 0' : 'a finite number', value);
}

/** The path of a file. */
export function path(argument: string, value: unknown): string {
  if (typeof value !== 'string' || value === '' || value.includes('\0')) {
    throw invalidArgument(argument, 'a path: a string that is not empty and has no zero bytes', value);
  }
  return value;
}

/** A shape: non-negative integers whose product is exact. Returns a copy, so that later changes have no effect. */
export function shape(argument: string, value: unknown): number[] {
  if (!Array.isArray(value)) throw invalidArgument(argument, 'an array of non-negative integers', value);
  const copy: number[] = [];
  let total = 1;
  for (let i = 0; i < value.length; i++) {
    const dim: number = integer(`${argument}[${i}]`, value[i], 0);
    copy.push(dim);
    total *= dim;
    if (!Number.isSafeInteger(total)) {
      throw new InvalidArgumentError(argument, `Expected ${argument} to have fewer than 2^53 elements.`);
    }
  }
  return copy;
}

export function product(dims: readonly number[], begin = 0, end = dims.length): number {
  let result = 1;
  for (let i = begin; i < end; i++) result *= dims[i] as number;
  return result;
}

/** Float data with its dtype: what a call reads. */
export interface Floats {
  readonly data: RawFloats;
  /** The addon's number of its dtype. */
  readonly type: number;
}

function isFloat16Array(value: unknown): value is Float16ArrayLike {
  return ArrayBuffer.isView(value) && Object.prototype.toString.call(value) === '[object Float16Array]';
}

/** The bit patterns of a Float16Array, in place. */
function float16Bits(value: Float16ArrayLike): Uint16Array {
  return new Uint16Array(value.buffer, value.byteOffset, value.length);
}

/**
 * Float data whose dtype follows from the array, or must be said: float32 for a Float32Array, float16 for a Float16Array;
 * a Uint16Array can be float16 or bfloat16.
 */
export function floats(argument: string, value: unknown, dtypeArgument: string, dtype: unknown): Floats {
  if (value instanceof Float32Array) {
    if (dtype !== undefined && dtype !== 'float32') {
      throw invalidArgument(dtypeArgument, `float32, which a Float32Array holds,`, dtype);
    }
    return { data: attached(argument, value), type: 0 };
  }
  if (value instanceof Uint16Array) {
    if (dtype === 'float32' || dtype === undefined) {
      throw invalidArgument(dtypeArgument, 'float16 or bfloat16, because a Uint16Array can hold either,', dtype);
    }
    return { data: attached(argument, value), type: floatCodeOf(dtypeArgument, dtype) };
  }
  if (isFloat16Array(value)) {
    if (dtype !== undefined && dtype !== 'float16') {
      throw invalidArgument(dtypeArgument, 'float16, which a Float16Array holds,', dtype);
    }
    return { data: attached(argument, float16Bits(value)), type: 1 };
  }
  throw invalidArgument(argument, 'a Float32Array, a Uint16Array (float16 or bfloat16) or a Float16Array', value);
}

/** The dtype that an array alone tells: float16 for a Float16Array, else float32. */
export function typeOfArray(value: unknown): number {
  return isFloat16Array(value) ? 1 : 0;
}

/** An array to write floats of a dtype into: `count` elements. */
export function floatsOut(argument: string, value: unknown, type: number, count: number): RawFloats {
  const given = type === 1 && isFloat16Array(value) ? float16Bits(value) : value;
  if (!(type === 0 ? given instanceof Float32Array : given instanceof Uint16Array)) {
    const expected = type === 0 ? 'a Float32Array' : type === 1 ? 'a Uint16Array or Float16Array' : 'a Uint16Array';
    throw invalidArgument(argument, expected, value);
  }
  return lengthOf(argument, given as RawFloats, count);
}

export function float32Array(argument: string, value: unknown, count?: number): Float32Array {
  if (!(value instanceof Float32Array)) throw invalidArgument(argument, 'a Float32Array', value);
  return count === undefined ? attached(argument, value) : lengthOf(argument, value, count);
}

export function int32Array(argument: string, value: unknown, count: number): Int32Array {
  if (!(value instanceof Int32Array)) throw invalidArgument(argument, 'an Int32Array', value);
  return lengthOf(argument, value, count);
}

export function uint8Array(argument: string, value: unknown, count?: number): Uint8Array {
  if (!(value instanceof Uint8Array)) throw invalidArgument(argument, 'a Uint8Array', value);
  return count === undefined ? attached(argument, value) : lengthOf(argument, value, count);
}

export function int8Array(argument: string, value: unknown, count?: number): Int8Array {
  if (!(value instanceof Int8Array)) throw invalidArgument(argument, 'an Int8Array', value);
  return count === undefined ? attached(argument, value) : lengthOf(argument, value, count);
}

/** Integers of 8 bits, signed or not. */
export function bytes(argument: string, value: unknown, count: number): Int8Array | Uint8Array {
  if (!(value instanceof Int8Array || value instanceof Uint8Array)) {
    throw invalidArgument(argument, 'an Int8Array or a Uint8Array', value);
  }
  return lengthOf(argument, value, count);
}

interface ArrayType<T> {
  readonly name: string;
  new (length: number): T;
}

/** A new array for a result. */
export function allocated<T>(type: ArrayType<T>, count: number): T {
  try {
    return new type(count);
  } catch (cause) {
    throw new OutOfMemoryError(`There is not enough memory for a ${type.name} of length ${count}.`, { cause });
  }
}

/** The array that a call writes its result to: the caller's, or a new one. */
export function result<T extends ArrayBufferView & { readonly length: number }>(
  value: unknown,
  type: ArrayType<T>,
  count: number,
): T {
  if (value === undefined) return allocated(type, count);
  if (!(value instanceof type)) {
    throw invalidArgument('out', `${type.name.startsWith('I') ? 'an' : 'a'} ${type.name}`, value);
  }
  return lengthOf('out', value, count);
}

function lengthOf<T extends ArrayBufferView & { readonly length: number }>(
  argument: string,
  value: T,
  count: number,
): T {
  if (value.length !== count) {
    attached(argument, value);
    throw invalidArgument(argument, `length ${count}`, value);
  }
  return value.length === 0 ? attached(argument, value) : value;
}

/** A transferred ("detached") buffer looks like an empty one; making a view of it is what tells them apart. */
export function attached<T extends ArrayBufferView & { readonly length: number }>(argument: string, value: T): T {
  if (value.length === 0) {
    try {
      new Uint8Array(value.buffer);
    } catch (cause) {
      throw new InvalidArgumentError(
        argument,
        `Expected ${argument} to be attached but its buffer has been transferred away.`,
        { cause },
      );
    }
  }
  return value;
}

export function abortSignal(argument: string, value: unknown): AbortSignal | undefined {
  if (value === undefined) return undefined;
  if (!(value instanceof AbortSignal)) throw invalidArgument(argument, 'an AbortSignal', value);
  return value;
}
