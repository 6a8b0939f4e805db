/**
 * Exact products of 8-bit integers, and what ONNX makes of them.
 *
 * @module
 */
import { addon, type RawWeight, runJob } from '../addon.js';
import { CPU, type Device, placeOf } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import {
  checkEither,
  type DeviceTensor,
  isDeviceTensor,
  placeOfTensor,
  resultTensor,
} from '../device/device-tensor.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { explained } from './explained.js';
import {
  checkAnyWeight,
  checkWeight,
  handleOf,
  isPackedWeight,
  isSigned,
  type PackedWeight,
  placeOfWeight,
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

/** Options of {@link matmulInteger}. */
export interface MatmulIntegerOptions extends ProductSize {
  /** Subtracted from a, within its type's range: a number, or one for each row (`[m]`). Default 0. */
  aZeroPoint?: number | Int32Array;
  /** Subtracted from b, within its type's range: a number, or one for each column (`[n]`). Default 0. */
  bZeroPoint?: number | Int32Array;
  /** `[m, n]`: the array to write to and return. It must not overlap what is read. */
  out?: Int32Array;
  /** Where to compute. Default: where `b` was packed, or `'cpu'`. */
  device?: Device;
}

/** Options of {@link matmulInteger} for what is on a device; zero points may be there too. */
export interface DeviceMatmulIntegerOptions extends ProductSize {
  /**
   * Subtracted from a, within its type's range: a number, or one for each row (`[m]`). Default 0. The values of a DeviceTensor are
   * not looked at.
   */
  aZeroPoint?: number | Int32Array | DeviceTensor<'int32'>;
  /** Subtracted from b, likewise: a number, or one for each column (`[n]`). Default 0. */
  bZeroPoint?: number | Int32Array | DeviceTensor<'int32'>;
  /** `[m, n]`: the tensor to write to and return. */
  out?: DeviceTensor<'int32'>;
  /** Where to compute: where `a` is, and nowhere else. */
  device?: Device;
}

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

const INTEGER_OPTIONS: ReadonlySet<string> = new Set(['m', 'n', 'k', 'aZeroPoint', 'bZeroPoint', 'out']);
const INTEGER_ON_OPTIONS: ReadonlySet<string> = new Set([...INTEGER_OPTIONS, 'device']);
const QUANTIZED_OPTIONS: ReadonlySet<string> = new Set([
  ...INTEGER_OPTIONS,
  'aScale',
  'bScale',
  'outScale',
  'outZeroPoint',
  'outDtype',
]);
const DYNAMIC_OPTIONS: ReadonlySet<string> = new Set(['m', 'n', 'k', 'bScale', 'bZeroPoint', 'bias', 'out']);
const withSignal = (known: ReadonlySet<string>): ReadonlySet<string> => new Set([...known, 'signal']);
const INTEGER_ASYNC_OPTIONS = withSignal(INTEGER_ON_OPTIONS);
const QUANTIZED_ASYNC_OPTIONS = withSignal(QUANTIZED_OPTIONS);
const DYNAMIC_ASYNC_OPTIONS = withSignal(DYNAMIC_OPTIONS);

const INTEGER_KINDS: readonly WeightKind[] = ['integer'];

type Given = Partial<Record<string, unknown>>;

function sizeOf(given: Given): ProductSize {
  return {
    m: validate.integer('m', given['m'], 0),
    n: validate.integer('n', given['n'], 0),
    k: validate.integer('k', given['k'], 0),
  };
}

/** b as the addon takes it, and whether it is signed. */
function secondMatrix(value: unknown, { k, n }: ProductSize): { b: IntegerMatrix | RawWeight; signed: boolean } {
  if (ArrayBuffer.isView(value)) {
    const b = validate.bytes('b', value, k * n);
    return { b, signed: b instanceof Int8Array };
  }
  const { weight, signed } = packedMatrix(checkWeight('b', value, INTEGER_KINDS), { k, n });
  return { b: handleOf(weight), signed };
}

function packedMatrix(
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

/** One zero point, or an array of them: the addon checks its elements. */
interface ZeroPoint {
  readonly one: number;
  readonly each: Int32Array | null;
}

function zeroPoint(argument: string, value: unknown, signed: boolean, count: number): ZeroPoint {
  if (value === undefined) return { one: 0, each: null };
  if (value instanceof Int32Array) return { one: 0, each: validate.int32Array(argument, value, count) };
  if (typeof value !== 'number') throw invalidArgument(argument, 'an integer or an Int32Array', value);
  const [lowest, highest] = signed ? [-128, 127] : [0, 255];
  return { one: validate.integer(argument, value, lowest, highest), each: null };
}

function columnScales(value: unknown, n: number): Float32Array {
  if (value instanceof Float32Array) return validate.float32Array('bScale', value, n);
  if (typeof value !== 'number') throw invalidArgument('bScale', 'a number or a Float32Array', value);
  return Float32Array.of(validate.finite('bScale', value, false));
}

/** What is multiplied. (Objects are nested here: spreading one into another takes longer than a small product.) */
interface Operands {
  readonly size: ProductSize;
  readonly a: IntegerMatrix;
  readonly b: IntegerMatrix | RawWeight;
  readonly aZero: ZeroPoint;
  readonly bZero: ZeroPoint;
}

interface PreparedInteger {
  readonly operands: Operands;
  readonly outZero: number;
  readonly scales: Float32Array | null;
  readonly out: Int32Array | IntegerMatrix;
  readonly fresh: boolean;
}

function operandsOf(aValue: unknown, bValue: unknown, given: Given): Operands {
  const size = sizeOf(given);
  const a = validate.bytes('a', aValue, size.m * size.k);
  const { b, signed } = secondMatrix(bValue, size);
  const aZero = zeroPoint('aZeroPoint', given['aZeroPoint'], a instanceof Int8Array, size.m);
  const bZero = zeroPoint('bZeroPoint', given['bZeroPoint'], signed, size.n);
  return { size, a, b, aZero, bZero };
}

function prepareInteger(a: unknown, b: unknown, given: Given): PreparedInteger {
  const operands = operandsOf(a, b, given);
  const { m, n } = operands.size;
  const { out } = given;
  const fresh = out === undefined;
  return { operands, outZero: 0, scales: null, out: validate.result(out, Int32Array, m * n), fresh };
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

const NO_FLOATS = new Float32Array(0);

function runInteger(p: PreparedInteger): Int32Array | IntegerMatrix {
  const { a, b, aZero, bZero } = p.operands;
  try {
    addon.matmulInteger(recordOf(p), a, b, aZero.each, bZero.each, p.scales, p.out);
  } catch (error) {
    throw explained(error, 'out', NO_FLOATS);
  }
  return p.out;
}

function copied<T extends Int32Array | Float32Array>(array: T | null): T | null {
  return array === null ? null : detachedFromCaller.input(array);
}

function copiedMatrix(b: IntegerMatrix | RawWeight): IntegerMatrix | RawWeight {
  return ArrayBuffer.isView(b) ? detachedFromCaller.input(b) : b;
}

async function runIntegerLater(
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

/**
 * The exact product of two integer matrices, `(a − aZeroPoint) · (b − bZeroPoint)`, as 32-bit integers: ONNX MatMulInteger.
 * Sums wrap around at 2^32, which takes some 33,000 products of the largest values.
 *
 * @param a - Integers `[m, k]` in row-major order.
 * @param b - Integers `[k, n]` in row-major order, or packed once by {@link prepackInteger} for many calls.
 * @param options - `m`, `n` and `k`; zero points, default 0; `out`; `device`.
 * @returns `[m, n]` in row-major order, in a new array or in `out`; for an `a` on a device a {@link DeviceTensor}.
 * @throws {@link InvalidArgumentError} for a wrong type or length, a zero point out of range, or an `out` that overlaps what is
 *   read; {@link OutOfMemoryError}; {@link DeviceError} of a device.
 *
 * Sources: ONNX MatMulInteger, opset 10.
 *
 * @example
 * ```ts
 * const a = new Uint8Array([11, 7, 3, 10, 6, 2]); // [2, 3]
 * const b = new Uint8Array([1, 4, 2, 5, 3, 6]); // [3, 2]
 * matmulInteger(a, b, { m: 2, n: 2, k: 3, aZeroPoint: 12 }); // Int32Array [-38, -83, -44, -98]
 * ```
 */
export function matmulInteger(
  a: IntegerMatrix,
  b: IntegerMatrix | PackedWeight,
  options: MatmulIntegerOptions,
): Int32Array;
/** The same of a matrix on a device, which the result does not leave. */
export function matmulInteger(
  a: DeviceTensor<'int8'> | DeviceTensor<'uint8'>,
  b: DeviceTensor<'int8'> | DeviceTensor<'uint8'> | IntegerMatrix | PackedWeight,
  options: DeviceMatmulIntegerOptions,
): DeviceTensor<'int32'>;
export function matmulInteger(a: unknown, b: unknown, options: unknown): unknown {
  const given = validate.options<Record<string, unknown>>('options', options, INTEGER_ON_OPTIONS);
  const index = placeOfProduct(a, b, given);
  if (index === CPU) return runInteger(prepareInteger(a, b, given));
  const p = prepareOnDevice(a, b, given, index);
  onDevice(p).now((error) => explained(error, 'out', NO_FLOATS));
  return p.out;
}

/**
 * {@link matmulInteger} off the event loop, with the same result. Arrays that are not in a SharedArrayBuffer are copied first.
 *
 * @throws As {@link matmulInteger}, as a rejection; the signal's reason when it aborts. What `out` then holds is unspecified.
 */
export function matmulIntegerAsync(
  a: IntegerMatrix,
  b: IntegerMatrix | PackedWeight,
  options: MatmulIntegerOptions & { signal?: AbortSignal },
): Promise<Int32Array>;
/** The same of a matrix on a device, which the result does not leave. */
export function matmulIntegerAsync(
  a: DeviceTensor<'int8'> | DeviceTensor<'uint8'>,
  b: DeviceTensor<'int8'> | DeviceTensor<'uint8'> | IntegerMatrix | PackedWeight,
  options: DeviceMatmulIntegerOptions & { signal?: AbortSignal },
): Promise<DeviceTensor<'int32'>>;
export async function matmulIntegerAsync(a: unknown, b: unknown, options: { signal?: AbortSignal }): Promise<unknown> {
  const given = validate.options<Record<string, unknown>>('options', options, INTEGER_ASYNC_OPTIONS);
  const index = placeOfProduct(a, b, given);
  if (index === CPU) return runIntegerLater(prepareInteger(a, b, given), options);
  const signal = validate.abortSignal('signal', options.signal);
  const p = prepareOnDevice(a, b, given, index);
  await onDevice(p).later(signal, (error) => explained(error, 'out', NO_FLOATS));
  return p.out;
}

function placeOfProduct(a: unknown, b: unknown, given: Given): number {
  const placed = [
    placeOfTensor('a', a),
    isPackedWeight(b) ? placeOfWeight('b', b) : placeOfTensor('b', b),
    placeOfTensor('aZeroPoint', given['aZeroPoint']),
    placeOfTensor('bZeroPoint', given['bZeroPoint']),
    placeOfTensor('out', given['out']),
  ];
  return placeOf(given['device'], placed);
}

type Zeros = Data<Int32Array> | null;

/** A product on a device. */
interface DeviceProduct {
  readonly index: number;
  readonly size: ProductSize;
  readonly a: Data<IntegerMatrix>;
  readonly aSigned: boolean;
  readonly b: Data<IntegerMatrix> | PackedWeight;
  readonly bSigned: boolean;
  readonly aZeros: Zeros;
  readonly bZeros: Zeros;
  readonly out: Data<Int32Array>;
  readonly fresh: boolean;
}

function matrixOf(argument: string, value: unknown, count: number): { matrix: Data<IntegerMatrix>; signed: boolean } {
  const matrix = checkEither(argument, value, ['int8', 'uint8'], count, () => validate.bytes(argument, value, count));
  return { matrix, signed: isDeviceTensor(matrix) ? matrix.dtype === 'int8' : matrix instanceof Int8Array };
}

/** None stands for zero. What is on the device is taken as it is. */
function zerosOf(argument: string, value: unknown, signed: boolean, count: number): Zeros {
  return checkEither(argument, value, ['int32'], count, () => {
    const { one, each } = zeroPoint(argument, value, signed, count);
    if (each === null) return one === 0 ? null : Int32Array.of(one);
    const [lowest, highest] = signed ? [-128, 127] : [0, 255];
    const index = each.findIndex((zero) => zero < lowest || zero > highest);
    if (index === -1) return each;
    throw new InvalidArgumentError(
      argument,
      `Expected ${argument} to lie in [${lowest}, ${highest}] but received ${each[index]} at index ${index}.`,
    );
  });
}

function prepareOnDevice(aValue: unknown, bValue: unknown, given: Given, index: number): DeviceProduct {
  const size = sizeOf(given);
  const { matrix: a, signed: aSigned } = matrixOf('a', aValue, size.m * size.k);
  const packed = isPackedWeight(bValue) ? packedMatrix(bValue, size) : undefined;
  const other = packed ?? matrixOf('b', bValue, size.k * size.n);
  const b = 'matrix' in other ? other.matrix : other.weight;
  const bSigned = other.signed;
  const out = isDeviceTensor(a)
    ? resultTensor(given['out'], 'int32', [size.m, size.n], index)
    : validate.result(given['out'], Int32Array, size.m * size.n);
  return {
    index,
    size,
    a,
    aSigned,
    b,
    bSigned,
    aZeros: zerosOf('aZeroPoint', given['aZeroPoint'], aSigned, size.m),
    bZeros: zerosOf('bZeroPoint', given['bZeroPoint'], bSigned, size.n),
    out,
    fresh: given['out'] === undefined,
  };
}

const deviceRecord = new Float64Array(5);

function onDevice(p: DeviceProduct): DeviceCall<'deviceMatmulInteger'> {
  const { m, n, k } = p.size;
  deviceRecord.set([m, n, k, p.aSigned ? 1 : 0, p.bSigned ? 1 : 0]);
  return new DeviceCall(p.index, 'deviceMatmulInteger', (on) => [
    deviceRecord,
    on.reads(p.a),
    isPackedWeight(p.b) ? on.uses(handleOf(p.b)) : on.reads(p.b),
    p.aZeros === null ? null : on.reads(p.aZeros),
    p.bZeros === null ? null : on.reads(p.bZeros),
    on.writes(p.out, p.fresh),
  ]);
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
