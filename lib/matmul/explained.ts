/**
 * The addon's errors in the words of the caller's arguments.
 *
 * @module
 */
import { explain, type RawError } from '../addon.js';
import type { Data } from '../device/device-call.js';
import { downloadElement, isDeviceTensor } from '../device/device-tensor.js';
import { floatCodeOf } from '../dtype.js';
import { NonFiniteError } from '../errors.js';
import { floatAt } from '../tensor/cast.js';

/** @internal `x` is the array in which NaN and infinity were looked for. */
export function explained(error: unknown, argument: string, x: Data<Float32Array>): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  if (code !== 'NON_FINITE') return explain(error, argument);
  const value = isDeviceTensor(x)
    ? floatAt(downloadElement(x, index), floatCodeOf('x', x.dtype), 0)
    : (x[index] as number);
  return new NonFiniteError(`Expected finite numbers but received ${value} at index ${index} of x.`, index, value);
}
