/**
 * The options that the functions of fake quantization share.
 *
 * @module
 */
import type { Data } from '../device/device-call.js';
import { checkEither } from '../device/device-tensor.js';
import { codeTypeOf, type IntDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { type Channels, roundHalfEven } from './channels.js';

/** What shares a scale: all elements, or those of one channel of `axis` (default 0). */
export type ChannelOptions =
  | { granularity?: 'per-tensor' | 'per-channel'; axis?: never }
  | { granularity: 'per-channel'; axis?: number };

/** Integers from `quantMin` to `quantMax`: all of a dtype, some of a dtype, or without one any within ±2^20. */
export type IntegerRangeOptions =
  | { dtype: IntDtype; quantMin?: number; quantMax?: number }
  | { dtype?: never; quantMin: number; quantMax: number };

/** @internal */
export const INTEGER_OPTIONS = [
  'shape',
  'dtype',
  'quantMin',
  'quantMax',
  'granularity',
  'axis',
  'scales',
  'zeroPoints',
];
/** Steps of a quantizer lie within this, so that float32 counts them exactly. */
const STEP_LIMIT = 2 ** 20;

/** @internal */
export type Given = Partial<Record<string, unknown>>;

/** The numbers of the addon's calls; it reads them before it returns, so one array serves every call. */
const record = new Float64Array(6);

/** @internal */
export function recordOf(...numbers: number[]): Float64Array {
  record.set(numbers);
  return record.subarray(0, numbers.length);
}

/** @internal Options that a format has no use for. */
export function refuse(given: Given, names: readonly string[], dtype: unknown): void {
  for (const name of names) {
    if (given[name] !== undefined) {
      throw new InvalidArgumentError(name, `Expected no ${name} together with dtype ${String(dtype)}.`);
    }
  }
}

/** @internal */
export interface IntegerRange {
  readonly lowest: number;
  readonly highest: number;
}

/** @internal */
export function rangeFrom(given: Given): IntegerRange {
  const { dtype, quantMin, quantMax } = given;
  if (dtype === undefined) {
    const lowest = validate.integer('quantMin', quantMin, -STEP_LIMIT, STEP_LIMIT);
    return { lowest, highest: validate.integer('quantMax', quantMax, lowest, STEP_LIMIT) };
  }
  const code = codeTypeOf('dtype', dtype);
  const lowest =
    quantMin === undefined ? code.lowest : validate.integer('quantMin', quantMin, code.lowest, code.highest);
  const highest = quantMax === undefined ? code.highest : validate.integer('quantMax', quantMax, lowest, code.highest);
  return { lowest, highest };
}

/** @internal Those on a device are not looked at. */
export function scalesFrom(given: Given, channels: Channels): Data<Float32Array> {
  const { scales } = given;
  return checkEither('scales', scales, ['float32'], channels.count, () => hostScales(given, channels));
}

function hostScales(given: Given, channels: Channels): Float32Array {
  const scales = validate.float32Array('scales', given['scales'], channels.count);
  // The addon checks them too; an empty tensor does not get there.
  for (let i = 0; i < scales.length; i++) {
    const scale = scales[i] as number;
    if (scale > 0 && Number.isFinite(Math.fround(1 / scale)) && scale !== Number.POSITIVE_INFINITY) continue;
    throw new InvalidArgumentError(
      'scales',
      `Expected scales to be finite and greater than 2^-128 but received ${scale} at index ${i}.`,
    );
  }
  return scales;
}

/** @internal Integers as they are, within the range; learned zero points rounded by a rule. Those on a device are not looked at. */
export function zeroPointsFrom(
  given: Given,
  channels: Channels,
  range: IntegerRange,
  rounded: (z: number) => number,
): Data<Int32Array> | null {
  const { zeroPoints } = given;
  return zeroPoints === undefined
    ? hostZeroPoints(given, channels, range, rounded)
    : checkEither('zeroPoints', zeroPoints, ['int32'], channels.count, () =>
        hostZeroPoints(given, channels, range, rounded),
      );
}

function hostZeroPoints(
  given: Given,
  channels: Channels,
  range: IntegerRange,
  rounded: (z: number) => number,
): Int32Array | null {
  const { zeroPoints } = given;
  if (zeroPoints === undefined) {
    if (range.lowest <= 0 && range.highest >= 0) return null;
    throw new InvalidArgumentError(
      'zeroPoints',
      `Expected zeroPoints, because 0 is not in [${range.lowest}, ${range.highest}].`,
    );
  }
  if (zeroPoints instanceof Float32Array) {
    const learned = validate.float32Array('zeroPoints', zeroPoints, channels.count);
    return Int32Array.from(learned, (z, i) => {
      if (!Number.isFinite(z)) {
        throw new InvalidArgumentError('zeroPoints', `Expected finite zeroPoints but received ${z} at index ${i}.`);
      }
      return rounded(z);
    });
  }
  if (!(zeroPoints instanceof Int32Array)) {
    throw invalidArgument('zeroPoints', 'an Int32Array or a Float32Array', zeroPoints);
  }
  const checked = validate.int32Array('zeroPoints', zeroPoints, channels.count);
  for (let i = 0; i < checked.length; i++) {
    const z = checked[i] as number;
    if (z >= range.lowest && z <= range.highest) continue;
    throw new InvalidArgumentError(
      'zeroPoints',
      `Expected zeroPoints to lie in [${range.lowest}, ${range.highest}] but received ${z} at index ${i}.`,
    );
  }
  return checked;
}

const clamp = (x: number, { lowest, highest }: IntegerRange) => Math.min(highest, Math.max(lowest, x));

/** @internal PyTorch rounds learned zero points to even for the forward pass, and per channel for the backward pass too … */
export const roundedToEven = (range: IntegerRange) => (z: number) => clamp(roundHalfEven(z), range);
/** @internal … but per tensor it adds a half and cuts off the fraction there. */
export const roundedByHalf = (range: IntegerRange) => (z: number) => Math.trunc(clamp(Math.fround(z + 0.5), range));

/** @internal An array that the caller can't change under an asynchronous call. */
export function copied<T extends Float32Array | Int32Array | Uint8Array | null>(array: T): T {
  return array === null ? array : (detachedFromCaller.input(array as Float32Array) as T);
}
