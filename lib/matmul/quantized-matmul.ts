/**
 * What ONNX makes of products of 8-bit integers: quantized again, or of floats that are quantized first.
 *
 * @module
 */
import { addon, type RawWeight, runJob } from '../addon.js';
import { invalidArgument } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { explained } from './explained.js';
import {
  copied,
  copiedMatrix,
  type IntegerMatrix,
  operandsOf,
  type PreparedInteger,
  type ProductSize,
  runInteger,
  runIntegerLater,
  secondMatrix,
  sizeOf,
  type ZeroPoint,
  zeroPoint,
} from './integer-product.js';
import type { PackedWeight } from './packed-weight.js';

/** Options of {@link quantizedMatmul}. */
export interface QuantizedMatmulOptions<D extends 'int8' | 'uint8' = 'int8' | 'uint8'> extends ProductSize {
  /** What a step of a stands for: finite, greater than 0. */
  aScale: number;
  /** As for {@link matmulInteger}. Default 0. */
  aZeroPoint?: number | Int32Array;
  /** What a step of b stands for: a number, or one for each column (`[n]`); finite. */
  bScale: number | Float32Array;
  /** As for {@link matmulInteger}. Default 0. */
  bZeroPoint?: number | Int32Array;
  /** What a step of the result stands for: finite, greater than 0. */
  outScale: number;
  /** The code of zero in the result, within its type's range. Default 0. */
  outZeroPoint?: number;
  /** The type of the result. */
  outDtype: D;
  /** `[m, n]`: the array to write to and return. It must not overlap what is read. */
  out?: IntegerArrayOf<D>;
}

/** The array that holds integers of 8 bits. */
export type IntegerArrayOf<D extends 'int8' | 'uint8'> = D extends 'int8' ? Int8Array : Uint8Array;

/** Options of {@link dynamicQuantizeMatmul}. */
export interface DynamicQuantizeMatmulOptions extends ProductSize {
  /** What a step of b stands for: a number, or one for each column (`[n]`); finite. */
  bScale: number | Float32Array;
  /** As for {@link matmulInteger}. Default 0. */
  bZeroPoint?: number | Int32Array;
  /** `[n]`, added to every row of the result. */
  bias?: Float32Array;
  /** `[m, n]`: the array to write to and return. It must not overlap what is read. */
  out?: Float32Array;
}

const QUANTIZED_OPTIONS: ReadonlySet<string> = new Set([
  'm',
  'n',
  'k',
  'aZeroPoint',
  'bZeroPoint',
  'out',
  'aScale',
  'bScale',
  'outScale',
  'outZeroPoint',
  'outDtype',
]);
const DYNAMIC_OPTIONS: ReadonlySet<string> = new Set(['m', 'n', 'k', 'bScale', 'bZeroPoint', 'bias', 'out']);
const withSignal = (known: ReadonlySet<string>): ReadonlySet<string> => new Set([...known, 'signal']);
const QUANTIZED_ASYNC_OPTIONS = withSignal(QUANTIZED_OPTIONS);
const DYNAMIC_ASYNC_OPTIONS = withSignal(DYNAMIC_OPTIONS);

function columnScales(value: unknown, n: number): Float32Array {
  if (value instanceof Float32Array) return validate.float32Array('bScale', value, n);
  if (typeof value !== 'number') throw invalidArgument('bScale', 'a number or a Float32Array', value);
  return Float32Array.of(validate.finite('bScale', value, false));
}

function prepareQuantized(a: unknown, b: unknown, options: unknown, known: ReadonlySet<string>): PreparedInteger {
  const given = validate.options<Record<string, unknown>>('options', options, known);
  const operands = operandsOf(a, b, given);
  const { m, n } = operands.size;
  const aScale = validate.finite('aScale', given['aScale'], true);
  const bScales = columnScales(given['bScale'], n);
  const outScale = validate.finite('outScale', given['outScale'], true);
  const signed = validate.oneOf('outDtype', given['outDtype'], ['int8', 'uint8']) === 'int8';
  const outZero = zeroPoint('outZeroPoint', given['outZeroPoint'], signed, 1);
  if (outZero.each !== null) throw invalidArgument('outZeroPoint', 'an integer', given['outZeroPoint']);
  return {
    operands,
    outZero: outZero.one,
    // Rounded after the product and after the quotient, as ONNX Runtime does.
    scales: bScales.map((scale) => Math.fround(aScale * scale) / outScale),
    out: validate.result<IntegerMatrix>(given['out'], signed ? Int8Array : Uint8Array, m * n),
    fresh: given['out'] === undefined,
  };
}

/**
 * The product of two quantized matrices, quantized again: ONNX QLinearMatMul. With the exact sums s of {@link matmulInteger},
 * `saturate(round(s · (aScale · bScale / outScale)) + outZeroPoint)`, in float32, rounding half to even.
 *
 * @param a - Codes `[m, k]` in row-major order.
 * @param b - Codes `[k, n]` in row-major order, or packed once by {@link prepackInteger} for many calls.
 * @param options - `m`, `n` and `k`; scales; zero points, default 0; `outDtype`; `out`.
 * @returns Codes `[m, n]` in row-major order: an Int8Array or Uint8Array as `outDtype` says, or `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, a zero point out of range, scales that are not finite, or an
 *   `out` that overlaps what is read; {@link OutOfMemoryError}.
 *
 * Sources: ONNX QLinearMatMul, opset 10.
 *
 * @example
 * ```ts
 * const codes = quantizedMatmul(a, b, { m, n, k, aScale: 0.02, bScale, outScale: 0.1, outZeroPoint: 128, outDtype: 'uint8' });
 * ```
 */
export function quantizedMatmul<D extends 'int8' | 'uint8'>(
  a: IntegerMatrix,
  b: IntegerMatrix | PackedWeight,
  options: QuantizedMatmulOptions<D>,
): IntegerArrayOf<D> {
  return runInteger(prepareQuantized(a, b, options, QUANTIZED_OPTIONS)) as IntegerArrayOf<D>;
}

/**
 * {@link quantizedMatmul} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied
 * first.
 *
 * @throws As {@link quantizedMatmul}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export async function quantizedMatmulAsync<D extends 'int8' | 'uint8'>(
  a: IntegerMatrix,
  b: IntegerMatrix | PackedWeight,
  options: QuantizedMatmulOptions<D> & { signal?: AbortSignal },
): Promise<IntegerArrayOf<D>> {
  const p = prepareQuantized(a, b, options, QUANTIZED_ASYNC_OPTIONS);
  return runIntegerLater(p, options) as Promise<IntegerArrayOf<D>>;
}

interface PreparedDynamic {
  readonly size: ProductSize;
  readonly x: Float32Array;
  readonly b: IntegerMatrix | RawWeight;
  readonly bZero: ZeroPoint;
  readonly bScales: Float32Array;
  readonly bias: Float32Array | null;
  readonly out: Float32Array;
  readonly fresh: boolean;
}

function prepareDynamic(
  xValue: unknown,
  bValue: unknown,
  options: unknown,
  known: ReadonlySet<string>,
): PreparedDynamic {
  const given = validate.options<Record<string, unknown>>('options', options, known);
  const size = sizeOf(given);
  const x = validate.float32Array('x', xValue, size.m * size.k);
  const { b, signed } = secondMatrix(bValue, size);
  const { bias, out } = given;
  return {
    size,
    x,
    b,
    bZero: zeroPoint('bZeroPoint', given['bZeroPoint'], signed, size.n),
    bScales: columnScales(given['bScale'], size.n),
    bias: bias === undefined ? null : validate.float32Array('bias', bias, size.n),
    out: validate.result(out, Float32Array, size.m * size.n),
    fresh: out === undefined,
  };
}

const dynamicRecord = new Float64Array(4);

function dynamicRecordOf(p: PreparedDynamic): Float64Array {
  dynamicRecord[0] = p.size.m;
  dynamicRecord[1] = p.size.n;
  dynamicRecord[2] = p.size.k;
  dynamicRecord[3] = p.bZero.one;
  return dynamicRecord;
}

/**
 * Floats times a quantized matrix: ONNX Runtime's DynamicQuantizeMatMul. x is quantized to uint8 as ONNX DynamicQuantizeLinear
 * does, with one scale and zero point for all of it, and with the exact sums s of {@link matmulInteger} the result is
 * `s · (xScale · bScale) + bias`, in float32.
 *
 * @param x - Floats `[m, k]` in row-major order.
 * @param b - Codes `[k, n]` in row-major order, or packed once by {@link prepackInteger} for many calls.
 * @param options - `m`, `n` and `k`; `bScale`; `bZeroPoint`, default 0; `bias`; `out`.
 * @returns `[m, n]` in row-major order, in a new array or in `out`.
 * @throws {@link InvalidArgumentError} for a wrong type or length, a zero point out of range, scales that are not finite, or an
 *   `out` that overlaps what is read; {@link NonFiniteError} for NaN or infinity in x; {@link OutOfMemoryError}.
 *
 * Sources: com.microsoft DynamicQuantizeMatMul; ONNX DynamicQuantizeLinear, opset 11.
 *
 * @example
 * ```ts
 * const b = prepackInteger(codes, { k, n });
 * const y = dynamicQuantizeMatmul(x, b, { m, n, k, bScale, bias });
 * ```
 */
export function dynamicQuantizeMatmul(
  x: Float32Array,
  b: IntegerMatrix | PackedWeight,
  options: DynamicQuantizeMatmulOptions,
): Float32Array {
  const p = prepareDynamic(x, b, options, DYNAMIC_OPTIONS);
  try {
    addon.dynamicQuantizeMatmul(dynamicRecordOf(p), p.x, p.b, p.bZero.each, p.bScales, p.bias, p.out);
  } catch (error) {
    throw explained(error, 'out', p.x);
  }
  return p.out;
}

/**
 * {@link dynamicQuantizeMatmul} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied
 * first.
 *
 * @throws As {@link dynamicQuantizeMatmul}, as a rejection; the signal's reason when it aborts. What `out` then holds is
 *   unspecified.
 */
export async function dynamicQuantizeMatmulAsync(
  x: Float32Array,
  b: IntegerMatrix | PackedWeight,
  options: DynamicQuantizeMatmulOptions & { signal?: AbortSignal },
): Promise<Float32Array> {
  const p = prepareDynamic(x, b, options, DYNAMIC_ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const floats = detachedFromCaller.input(p.x);
  const matrix = copiedMatrix(p.b);
  const bZeros = copied(p.bZero.each);
  const bScales = detachedFromCaller.input(p.bScales);
  const bias = copied(p.bias);
  const out = p.fresh ? p.out : detachedFromCaller.output(p.out);
  await runJob(
    (done) => addon.dynamicQuantizeMatmulAsync(dynamicRecordOf(p), floats, matrix, bZeros, bScales, bias, out, done),
    signal,
    (error) => explained(error, 'out', floats),
  );
  detachedFromCaller.copyBack('out', out, p.out);
  return p.out;
}
