/**
 * What all products of 8-bit integers have in common: operands, zero points, the call.
 *
 * @module
 */
import { addon, type RawWeight, runJob } from '../addon.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { explained } from './explained.js';
import {
  checkAnyWeight,
  checkWeight,
  handleOf,
  isSigned,
  type PackedWeight,
  type WeightKind,
} from './packed-weight.js';

/** An 8-bit matrix: signed or unsigned integers, one byte each. */
export type IntegerMatrix = Int8Array | Uint8Array;

/** The sizes of a product a[m, k] · b[k, n]. */
export interface ProductSize {
  /** Rows of a and of the result. */
  m: number;
  /** Columns of b and of the result. */
  n: number;
  /** Columns of a, rows of b. */
  k: number;
}

const INTEGER_KINDS: readonly WeightKind[] = ['integer'];

/** @internal */
export type Given = Partial<Record<string, unknown>>;

/** @internal */
export function sizeOf(given: Given): ProductSize {
  return {
    m: validate.integer('m', given['m'], 0),
    n: validate.integer('n', given['n'], 0),
    k: validate.integer('k', given['k'], 0),
  };
}

/** @internal b as the addon takes it, and whether it is signed. */
export function secondMatrix(value: unknown, { k, n }: ProductSize): { b: IntegerMatrix | RawWeight; signed: boolean } {
  if (ArrayBuffer.isView(value)) {
    const b = validate.bytes('b', value, k * n);
    return { b, signed: b instanceof Int8Array };
  }
  const { weight, signed } = packedMatrix(checkWeight('b', value, INTEGER_KINDS), { k, n });
  return { b: handleOf(weight), signed };
}

/** @internal */
export function packedMatrix(
  value: PackedWeight,
  { k, n }: Pick<ProductSize, 'k' | 'n'>,
): { weight: PackedWeight; signed: boolean } {
  const weight = checkAnyWeight('b', value, INTEGER_KINDS);
  if (weight.rows !== n || weight.cols !== k) {
    throw new InvalidArgumentError(
      'b',
      `Expected b to be packed from k = ${k} rows and n = ${n} columns but it has ${weight.cols} and ${weight.rows}.`,
    );
  }
  return { weight, signed: isSigned(weight) };
}

/** @internal One zero point, or an array of them: the addon checks its elements. */
export interface ZeroPoint {
  readonly one: number;
  readonly each: Int32Array | null;
}

/** @internal */
export function zeroPoint(argument: string, value: unknown, signed: boolean, count: number): ZeroPoint {
  if (value === undefined) return { one: 0, each: null };
  if (value instanceof Int32Array) return { one: 0, each: validate.int32Array(argument, value, count) };
  if (typeof value !== 'number') throw invalidArgument(argument, 'an integer or an Int32Array', value);
  const [lowest, highest] = signed ? [-128, 127] : [0, 255];
  return { one: validate.integer(argument, value, lowest, highest), each: null };
}

/** @internal What is multiplied. (Objects are nested here: spreading one into another takes longer than a small product.) */
export interface Operands {
  readonly size: ProductSize;
  readonly a: IntegerMatrix;
  readonly b: IntegerMatrix | RawWeight;
  readonly aZero: ZeroPoint;
  readonly bZero: ZeroPoint;
}

/** @internal */
export interface PreparedInteger {
  readonly operands: Operands;
  readonly outZero: number;
  readonly scales: Float32Array | null;
  readonly out: Int32Array | IntegerMatrix;
  readonly fresh: boolean;
}

/** @internal */
export function operandsOf(aValue: unknown, bValue: unknown, given: Given): Operands {
  const size = sizeOf(given);
  const a = validate.bytes('a', aValue, size.m * size.k);
  const { b, signed } = secondMatrix(bValue, size);
  const aZero = zeroPoint('aZeroPoint', given['aZeroPoint'], a instanceof Int8Array, size.m);
  const bZero = zeroPoint('bZeroPoint', given['bZeroPoint'], signed, size.n);
  return { size, a, b, aZero, bZero };
}

/** The numbers of the addon's calls; it reads them before it returns, so one array serves every call. */
const record = new Float64Array(6);

function recordOf({ operands, outZero }: PreparedInteger): Float64Array {
  record[0] = operands.size.m;
  record[1] = operands.size.n;
  record[2] = operands.size.k;
  record[3] = operands.aZero.one;
  record[4] = operands.bZero.one;
  record[5] = outZero;
  return record;
}

/** @internal */
export const NO_FLOATS = new Float32Array(0);

/** @internal */
export function runInteger(p: PreparedInteger): Int32Array | IntegerMatrix {
  const { a, b, aZero, bZero } = p.operands;
  try {
    addon.matmulInteger(recordOf(p), a, b, aZero.each, bZero.each, p.scales, p.out);
  } catch (error) {
    throw explained(error, 'out', NO_FLOATS);
  }
  return p.out;
}

/** @internal */
export function copied<T extends Int32Array | Float32Array>(array: T | null): T | null {
  return array === null ? null : detachedFromCaller.input(array);
}

/** @internal */
export function copiedMatrix(b: IntegerMatrix | RawWeight): IntegerMatrix | RawWeight {
  return ArrayBuffer.isView(b) ? detachedFromCaller.input(b) : b;
}

/** @internal */
export async function runIntegerLater(
  p: PreparedInteger,
  options: { signal?: AbortSignal },
): Promise<Int32Array | IntegerMatrix> {
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const a = detachedFromCaller.input(p.operands.a);
  const b = copiedMatrix(p.operands.b);
  const aZeros = copied(p.operands.aZero.each);
  const bZeros = copied(p.operands.bZero.each);
  const out = p.fresh ? p.out : detachedFromCaller.output(p.out);
  await runJob(
    (done) => addon.matmulIntegerAsync(recordOf(p), a, b, aZeros, bZeros, p.scales, out, done),
    signal,
    (error) => explained(error, 'out', NO_FLOATS),
  );
  detachedFromCaller.copyBack('out', out, p.out);
  return p.out;
}
