/**
 * The number formats, by the names that PyTorch and ml_dtypes give them.
 *
 * @module
 */
import { invalidArgument } from './errors.js';

/**
 * Float storage types. `float32` travels as Float32Array; `float16` and `bfloat16` travel as Uint16Array of bit patterns
 * (a Float16Array, where the runtime has it, is float16).
 */
export type FloatDtype = 'float32' | 'float16' | 'bfloat16';

/** Integer code types of affine quantization. */
export type IntDtype = SignedIntDtype | UnsignedIntDtype;
/** Codes −2^(b−1) … 2^(b−1) − 1 in two's complement. */
export type SignedIntDtype = 'int8' | 'int4' | 'int3' | 'int2';
/** Codes 0 … 2^b − 1. */
export type UnsignedIntDtype = 'uint8' | 'uint4' | 'uint3' | 'uint2';

/** Everything that {@link quantizeTensor} can produce. */
export type QuantDtype = IntDtype;

/** Float16Array, described structurally: not every runtime that lowbit supports has it. */
export interface Float16ArrayLike {
  readonly [Symbol.toStringTag]: 'Float16Array';
  readonly buffer: ArrayBufferLike;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly length: number;
  [index: number]: number;
}

/** Numbers of the raw surface: FloatType in native/core/dtype.h. */
const FLOAT_CODES: Readonly<Record<FloatDtype, number>> = { float32: 0, float16: 1, bfloat16: 2 };

/** @internal */
export interface CodeType {
  readonly bits: number;
  readonly signed: boolean;
  readonly lowest: number;
  readonly highest: number;
}

function codeType(bits: number, signed: boolean): CodeType {
  return signed
    ? { bits, signed, lowest: -(2 ** (bits - 1)), highest: 2 ** (bits - 1) - 1 }
    : { bits, signed, lowest: 0, highest: 2 ** bits - 1 };
}

const CODE_TYPES: ReadonlyMap<unknown, CodeType> = new Map<IntDtype, CodeType>([
  ['int8', codeType(8, true)],
  ['uint8', codeType(8, false)],
  ['int4', codeType(4, true)],
  ['uint4', codeType(4, false)],
  ['int3', codeType(3, true)],
  ['uint3', codeType(3, false)],
  ['int2', codeType(2, true)],
  ['uint2', codeType(2, false)],
]);

/** @internal The code type of a dtype, or an error that names the argument. */
export function codeTypeOf(argument: string, dtype: unknown): CodeType {
  const code = CODE_TYPES.get(dtype);
  if (code === undefined) throw invalidArgument(argument, `one of ${[...CODE_TYPES.keys()].join(', ')}`, dtype);
  return code;
}

/** @internal The addon's number of a float dtype, or an error that names the argument. */
export function floatCodeOf(argument: string, dtype: unknown): number {
  if (dtype === 'float32' || dtype === 'float16' || dtype === 'bfloat16') return FLOAT_CODES[dtype];
  throw invalidArgument(argument, 'one of float32, float16, bfloat16', dtype);
}

/** @internal Bytes that a row of codes takes. */
export function packedRowBytes(columns: number, bits: number): number {
  // columns · bits may pass 2^53; columns alone may not
  return Math.floor(columns / 8) * bits + Math.ceil(((columns % 8) * bits) / 8);
}
