/** Comparing large arrays: vitest's own equality looks at elements one by one. */
import { expect } from 'vitest';
import type { QuantizedTensor } from '../../lib/index.js';

export function sameBytes(a: ArrayBufferView, b: ArrayBufferView): boolean {
  const bytes = (view: ArrayBufferView) => Buffer.from(view.buffer, view.byteOffset, view.byteLength);
  return bytes(a).equals(bytes(b));
}

export function expectSameTensor(got: QuantizedTensor, expected: QuantizedTensor): void {
  const { data, scales, zeroPoints, ...rest } = expected;
  expect(got).toMatchObject(rest);
  expect(sameBytes(got.data, data)).toBe(true);
  expect(sameBytes(got.scales, scales)).toBe(true);
  expect(got.zeroPoints === null).toBe(zeroPoints === null);
  if (zeroPoints !== null) expect(sameBytes(got.zeroPoints as Int32Array, zeroPoints)).toBe(true);
}
