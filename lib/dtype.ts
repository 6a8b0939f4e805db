/**
 * The number formats, by the names that PyTorch and ml_dtypes give them.
 *
 * @module
 */
import { invalidArgument } from './errors.js';

/**
 * Float storage types. `float32` travels as Float32Array; `float16` and `bfloat16` travel as Uint16Array of bit patterns
 * (a Float16Array, where the runtime has it, is float16); the others are {@link SmallFloatDtype}s.
 */
export type FloatDtype = LargeFloatDtype | SmallFloatDtype;

/** The float types that everything takes and gives. */
export type LargeFloatDtype = 'float32' | 'float16' | 'bfloat16';

/**
 * Floats of eight bits and fewer, which {@link castTensor} converts; named by their bits, as ml_dtypes does: `e4m3` has four
 * of exponent and three of mantissa; `fn` means finite numbers and NaN only (no infinities; those of six and four bits have no
 * NaN either), `uz` unsigned zero, and `e8m0fnu`, a power of two, is unsigned. They travel as Uint8Array, those of 8 bits one
 * to a byte, those of 6 and 4 bits packed without gaps, the first element in the low bits: `count` elements take
 * `ceil(count · bits / 8)` bytes, and unused high bits of the last byte are zero.
 *
 * | dtype | largest | smallest | infinity | NaN | defined by |
 * | --- | --- | --- | --- | --- | --- |
 * | `float8_e4m3fn` | 448 | 2^−9 | – | 0x7f, 0xff | OCP 8-bit Floating Point (OFP8) |
 * | `float8_e5m2` | 57344 | 2^−16 | 0x7c, 0xfc | 0x7d–0x7f, 0xfd–0xff | OCP 8-bit Floating Point (OFP8) |
 * | `float8_e4m3fnuz` | 240 | 2^−10 | – | 0x80 | ONNX |
 * | `float8_e5m2fnuz` | 57344 | 2^−17 | – | 0x80 | ONNX |
 * | `float8_e8m0fnu` | 2^127 | 2^−127 | – | 0xff | OCP Microscaling (MX) |
 * | `float6_e2m3fn` | 7.5 | 0.125 | – | – | OCP Microscaling (MX) |
 * | `float6_e3m2fn` | 28 | 0.0625 | – | – | OCP Microscaling (MX) |
 * | `float4_e2m1fn` | 6 | 0.5 | – | – | OCP Microscaling (MX) |
 */
export type SmallFloatDtype =
  | 'float8_e4m3fn'
  | 'float8_e5m2'
  | 'float8_e4m3fnuz'
  | 'float8_e5m2fnuz'
  | 'float8_e8m0fnu'
  | 'float6_e2m3fn'
  | 'float6_e3m2fn'
  | 'float4_e2m1fn';

/** Integer code types of affine quantization. */
export type IntDtype = SignedIntDtype | UnsignedIntDtype;
/** Codes −2^(b−1) … 2^(b−1) − 1 in two's complement. */
export type SignedIntDtype = 'int8' | 'int4' | 'int3' | 'int2';
/** Codes 0 … 2^b − 1. */
export type UnsignedIntDtype = 'uint8' | 'uint4' | 'uint3' | 'uint2';

/**
 * Code types whose codes stand for the entries of a fixed table of values: `x ≈ scale · value(code)`.
 *
 * | dtype | bits | values | scale |
 * | --- | --- | --- | --- |
 * | `nf4`, `fp4` | 4 | bitsandbytes' tables, −1 … 1 | max\|x\| of the group |
 * | `float8_e4m3fn`, `float8_e5m2` | 8 | those of the float type | max\|x\| / its largest value |
 * | `mxfp8_e4m3`, `mxfp8_e5m2`, `mxfp6_e2m3`, `mxfp6_e3m2`, `mxfp4`, `mxint8` | 8, 6, 4, 8 | those of the element type; MXINT8: −127/64 … 127/64 | a power of two for every 32 elements (OCP Microscaling) |
 * | `nvfp4` | 4 | those of E2M1 | an E4M3 number for every 16 elements, over a global scale |
 * | `ternary` | 2 | −1, 0, 1 | mean\|x\| |
 * | `binary` | 1 | −1, 1 | mean\|x\| |
 */
export type CodebookDtype =
  | 'nf4'
  | 'fp4'
  | 'float8_e4m3fn'
  | 'float8_e5m2'
  | 'mxfp8_e4m3'
  | 'mxfp8_e5m2'
  | 'mxfp6_e2m3'
  | 'mxfp6_e3m2'
  | 'mxfp4'
  | 'mxint8'
  | 'nvfp4'
  | 'ternary'
  | 'binary';

/** Everything that {@link quantizeTensor} can produce. */
export type QuantDtype = IntDtype | CodebookDtype;

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
const FLOAT_CODES: Readonly<Record<LargeFloatDtype, number>> = { float32: 0, float16: 1, bfloat16: 2 };

/** @internal In the order of their numbers. */
export const LARGE_FLOAT_DTYPES: readonly LargeFloatDtype[] = ['float32', 'float16', 'bfloat16'];

/** @internal A float dtype of any width. */
export interface FloatFormat {
  /** The addon's number: AnyFloatType in native/core/dtype.h. */
  readonly code: number;
  readonly bits: number;
}

const FLOAT_FORMATS: ReadonlyMap<unknown, FloatFormat> = new Map<FloatDtype, FloatFormat>([
  ['float32', { code: 0, bits: 32 }],
  ['float16', { code: 1, bits: 16 }],
  ['bfloat16', { code: 2, bits: 16 }],
  ['float8_e4m3fn', { code: 3, bits: 8 }],
  ['float8_e5m2', { code: 4, bits: 8 }],
  ['float8_e4m3fnuz', { code: 5, bits: 8 }],
  ['float8_e5m2fnuz', { code: 6, bits: 8 }],
  ['float8_e8m0fnu', { code: 7, bits: 8 }],
  ['float6_e2m3fn', { code: 8, bits: 6 }],
  ['float6_e3m2fn', { code: 9, bits: 6 }],
  ['float4_e2m1fn', { code: 10, bits: 4 }],
]);

/** @internal */
export const FLOAT_DTYPES: readonly FloatDtype[] = [...FLOAT_FORMATS.keys()] as FloatDtype[];

/** @internal */
export interface CodeType {
  readonly bits: number;
  readonly signed: boolean;
  readonly lowest: number;
  readonly highest: number;
  /** For a {@link CodebookDtype}. */
  readonly codebook?: CodebookType;
}

/** @internal */
export interface CodebookType {
  /** Codebook in native/ops/codebook/codebook_kernels.h. */
  readonly book: number;
  /** One of {@link SCALE_RULES}: what the scale is by default. */
  readonly rule: number;
  /** Elements that share a scale: always (a format's own blocks), or unless something else is said. */
  readonly groupSize?: number;
  readonly fixed?: boolean;
  /** Whether the scales can be quantized in turn. */
  readonly nests?: boolean;
}

function codeType(bits: number, signed: boolean): CodeType {
  return signed
    ? { bits, signed, lowest: -(2 ** (bits - 1)), highest: 2 ** (bits - 1) - 1 }
    : { bits, signed, lowest: 0, highest: 2 ** bits - 1 };
}

function codebook(bits: number, signed: boolean, type: CodebookType): CodeType {
  return { ...codeType(bits, signed), codebook: type };
}

/** @internal ScaleRule in native/ops/codebook/codebook_kernels.h. */
export const SCALE_RULES = {
  absmax: 0,
  largest: 1,
  powerOfTwo: 2,
  nvfp4: 3,
  mean: 4,
  absmean: 5,
  ternaryWeights: 6,
} as const;

const MX = { rule: SCALE_RULES.powerOfTwo, groupSize: 32, fixed: true };

const CODE_TYPES: ReadonlyMap<unknown, CodeType> = new Map<QuantDtype, CodeType>([
  ['int8', codeType(8, true)],
  ['uint8', codeType(8, false)],
  ['int4', codeType(4, true)],
  ['uint4', codeType(4, false)],
  ['int3', codeType(3, true)],
  ['uint3', codeType(3, false)],
  ['int2', codeType(2, true)],
  ['uint2', codeType(2, false)],
  ['nf4', codebook(4, false, { book: 0, rule: SCALE_RULES.absmax, groupSize: 64, nests: true })],
  ['fp4', codebook(4, false, { book: 1, rule: SCALE_RULES.absmax, groupSize: 64, nests: true })],
  ['float8_e4m3fn', codebook(8, false, { book: 2, rule: SCALE_RULES.largest })],
  ['float8_e5m2', codebook(8, false, { book: 3, rule: SCALE_RULES.largest })],
  ['mxfp8_e4m3', codebook(8, false, { book: 2, ...MX })],
  ['mxfp8_e5m2', codebook(8, false, { book: 3, ...MX })],
  ['mxfp6_e2m3', codebook(6, false, { book: 4, ...MX })],
  ['mxfp6_e3m2', codebook(6, false, { book: 5, ...MX })],
  ['mxfp4', codebook(4, false, { book: 6, ...MX })],
  ['mxint8', codebook(8, true, { book: 7, ...MX })],
  ['nvfp4', codebook(4, false, { book: 6, rule: SCALE_RULES.nvfp4, groupSize: 16, fixed: true })],
  ['ternary', codebook(2, true, { book: 8, rule: SCALE_RULES.absmean })],
  ['binary', codebook(1, false, { book: 9, rule: SCALE_RULES.mean })],
]);

/** @internal The code type of a dtype, or an error that names the argument. */
export function codeTypeOf(argument: string, dtype: unknown): CodeType {
  const code = CODE_TYPES.get(dtype);
  if (code === undefined) throw invalidArgument(argument, `one of ${[...CODE_TYPES.keys()].join(', ')}`, dtype);
  return code;
}

/** @internal A float dtype of any width, or an error that names the argument. */
export function floatFormatOf(argument: string, dtype: unknown): FloatFormat {
  const format = FLOAT_FORMATS.get(dtype);
  if (format === undefined) throw invalidArgument(argument, `one of ${[...FLOAT_FORMATS.keys()].join(', ')}`, dtype);
  return format;
}

/** @internal The addon's number of a {@link LargeFloatDtype}, or an error that names the argument. */
export function floatCodeOf(argument: string, dtype: unknown): number {
  if (dtype === 'float32' || dtype === 'float16' || dtype === 'bfloat16') return FLOAT_CODES[dtype];
  throw invalidArgument(argument, 'one of float32, float16, bfloat16', dtype);
}

/** @internal Bytes that a row of codes takes. */
export function packedRowBytes(columns: number, bits: number): number {
  // columns · bits may pass 2^53; columns alone may not
  return Math.floor(columns / 8) * bits + Math.ceil(((columns % 8) * bits) / 8);
}
