/**
 * Exact products of 8-bit integers.
 *
 * @module
 */
import { CPU, type Device, placeOf } from '../device/device.js';
import { type Data, DeviceCall } from '../device/device-call.js';
import {
  checkEither,
  type DeviceTensor,
  isDeviceTensor,
  placeOfTensor,
  resultTensor,
} from '../device/device-tensor.js';
import { InvalidArgumentError } from '../errors.js';
import * as validate from '../validate.js';
import { explained } from './explained.js';
import {
  type Given,
  type IntegerMatrix,
  NO_FLOATS,
  operandsOf,
  type PreparedInteger,
  type ProductSize,
  packedMatrix,
  runInteger,
  runIntegerLater,
  sizeOf,
  zeroPoint,
} from './integer-product.js';
import { handleOf, isPackedWeight, type PackedWeight, placeOfWeight } from './packed-weight.js';

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

const OPTIONS: ReadonlySet<string> = new Set(['m', 'n', 'k', 'aZeroPoint', 'bZeroPoint', 'out', 'device']);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

function prepareInteger(a: unknown, b: unknown, given: Given): PreparedInteger {
  const operands = operandsOf(a, b, given);
  const { m, n } = operands.size;
  const { out } = given;
  const fresh = out === undefined;
  return { operands, outZero: 0, scales: null, out: validate.result(out, Int32Array, m * n), fresh };
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
  const given = validate.options<Record<string, unknown>>('options', options, OPTIONS);
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
  const given = validate.options<Record<string, unknown>>('options', options, ASYNC_OPTIONS);
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
