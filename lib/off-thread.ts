/**
 * What an asynchronous call may touch while JavaScript goes on. A buffer that can be transferred away would take its memory
 * with it under the hands of the worker, so such arrays are copied; a SharedArrayBuffer can't be transferred and is used in
 * place.
 *
 * @module
 */
import type { RawFloats } from './addon.js';
import { InvalidArgumentError } from './errors.js';

type AnyArray = RawFloats | Int8Array | Uint8Array | Int32Array | Uint32Array;

function isShared(array: AnyArray): boolean {
  return array.buffer instanceof SharedArrayBuffer;
}

function input<T extends AnyArray>(array: T): T {
  return isShared(array) ? array : (array.slice() as T);
}

/** Room for a result: the caller's array if that is safe, else a private one that {@link copyBack} copies from. */
function output<T extends AnyArray>(array: T): T {
  if (isShared(array)) return array;
  return new (array.constructor as new (length: number) => T)(array.length);
}

function copyBack<T extends AnyArray>(argument: string, from: T, to: T): void {
  if (from === to) return;
  if (to.length !== from.length) {
    throw new InvalidArgumentError(
      argument,
      `Expected ${argument} to stay attached, and as long, until the call ends.`,
    );
  }
  to.set(from as never);
}

export const detachedFromCaller = { input, output, copyBack };
