/** Every kind of value, and what calls may do with them. */
import fc from 'fast-check';
import { expect } from 'vitest';
import { LowbitError } from '../../lib/index.js';

/** An array whose buffer has been transferred away. */
export function detached(): Float32Array {
  const array = new Float32Array(8);
  structuredClone(array.buffer, { transfer: [array.buffer] });
  return array;
}

/** Values of every kind that JavaScript has. */
export const anything = fc.oneof(
  fc.anything(),
  fc.constantFrom<unknown>(
    undefined,
    null,
    true,
    0,
    -1,
    0.5,
    2 ** 31,
    2 ** 53,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    '',
    'int8',
    'float32',
    1n,
    Symbol('s'),
    () => 1,
    [],
    [8],
    [2 ** 53, 2],
    [-1],
    [0.5],
    [Number.NaN],
    {},
    new Map(),
    new Date(),
    new Proxy({}, {}),
    new Float32Array(8),
    new Float64Array(8),
    new Uint8Array(8),
    new Int32Array(2),
    new Uint16Array(8),
    new BigInt64Array(1),
    new DataView(new ArrayBuffer(8)),
    new ArrayBuffer(8),
    new SharedArrayBuffer(8),
    new Float32Array(new SharedArrayBuffer(32)),
    detached(),
    AbortSignal.abort(),
    Object.create(null),
  ),
);

/** A call must return or throw an error of ours; getters and proxies may throw their own. */
export async function survives(call: () => unknown): Promise<void> {
  try {
    await call();
  } catch (error) {
    if (error instanceof LowbitError) {
      expect(typeof error.code).toBe('string');
      expect(error.message.length).toBeGreaterThan(10);
    } else {
      expect((error as Error)?.name).toBe('AbortError');
    }
  }
}
