/**
 * Quantized tensors, as plain data.
 *
 * @module
 */
import { addon } from '../addon.js';
import { checkTensor, type DeviceTensor, isDeviceTensor } from '../device/device-tensor.js';
import {
  type CodebookDtype,
  type CodeType,
  codeTypeOf,
  packedRowBytes,
  type QuantDtype,
  type SignedIntDtype,
  type UnsignedIntDtype,
} from '../dtype.js';
import { invalidArgument } from '../errors.js';
import * as validate from '../validate.js';

/** `symmetric`: zero point 0 (unsigned dtypes: 2^(b−1)). `asymmetric`: a zero point for each parameter set. */
export type Scheme = 'symmetric' | 'asymmetric';

/**
 * How many elements share a scale: all of them, those of one channel, a group along the last axis, or a block of rows and
 * columns.
 */
export type Granularity = 'per-tensor' | 'per-channel' | 'per-group' | 'per-block';

/** @internal */
export const GRANULARITIES = ['per-tensor', 'per-channel', 'per-group', 'per-block'] as const;

/** Scales that are quantized themselves, as bitsandbytes does ("double quantization"). */
export interface NestedScales {
  /** One for each scale: codes of bitsandbytes' signed dynamic map of 8 bits. */
  readonly data: Uint8Array;
  /** One for every 256 scales: `scale = map[code] · absmax + offset`. */
  readonly absmax: Float32Array;
  /** The mean of the scales, before they were quantized. */
  readonly offset: number;
}

/**
 * A quantized tensor: `x ≈ scale · (code − zeroPoint)`, or `scale · value(code)` for a {@link CodebookDtype}.
 *
 * Plain data without methods: it survives `structuredClone`, `postMessage` and a database.
 */
export interface QuantizedTensor<D extends QuantDtype = QuantDtype> {
  readonly dtype: D;
  /** Row-major. */
  readonly shape: readonly number[];
  readonly scheme: Scheme;
  readonly granularity: Granularity;
  /** The axis of the channels; per-channel only. */
  readonly axis?: number;
  /** Elements along the last axis that share a scale (the last group may be shorter); per-group only. */
  readonly groupSize?: number;
  /** Rows (all axes but the last together) and columns that share a scale, cut off at the edges; per-block only. */
  readonly blockShape?: readonly [number, number];
  /**
   * The codes. Those of fewer than 8 bits are packed along the last axis, the first in the low bits, each row starting on
   * a byte; signed ones are in two's complement.
   */
  readonly data: Uint8Array;
  /** One per tensor, per channel, per group (row-major [rows, groups]) or per block (row-major). */
  readonly scales: Float32Array;
  /**
   * As many as scales, within the dtype's range. Null for a symmetric scheme means what the scheme says: 0, or 2^(b−1) for
   * an unsigned dtype. Always null for a {@link CodebookDtype}.
   */
  readonly zeroPoints: Int32Array | null;
  /** `nvfp4` only: the number that every scale is to be multiplied with for its E4M3 number, as files store it. */
  readonly globalScale?: number;
  /** `nf4` and `fp4` only: what the scales were made from, if they are quantized themselves. */
  readonly nestedScales?: NestedScales;
}

/** {@link NestedScales} on a device. */
export interface DeviceNestedScales {
  readonly data: DeviceTensor<'uint8'>;
  readonly absmax: DeviceTensor<'float32'>;
  readonly offset: number;
}

/**
 * A {@link QuantizedTensor} whose arrays are on a device: what {@link quantizeTensor} makes of a {@link DeviceTensor}, and
 * {@link dequantizeTensor} and {@link prepack} take. Its tensors are disposed one by one.
 */
export interface DeviceQuantizedTensor<D extends QuantDtype = QuantDtype>
  extends Omit<QuantizedTensor<D>, 'data' | 'scales' | 'zeroPoints' | 'nestedScales'> {
  readonly data: DeviceTensor<'uint8'>;
  readonly scales: DeviceTensor<'float32'>;
  readonly zeroPoints: DeviceTensor<'int32'> | null;
  readonly nestedScales?: DeviceNestedScales;
}

/** @internal On the host or on a device; not both. */
export type AnyQuantizedTensor = QuantizedTensor | DeviceQuantizedTensor;

/** @internal How a tensor of this shape is divided, for the addon and for the sizes of its arrays. */
export interface Layout {
  readonly code: CodeType;
  readonly shape: readonly number[];
  readonly granularity: Granularity;
  readonly axis: number | undefined;
  readonly groupSize: number | undefined;
  readonly blockShape: readonly [number, number] | undefined;
  readonly elementCount: number;
  readonly rows: number;
  readonly columns: number;
  readonly parameterCount: number;
  readonly dataBytes: number;
  /** Where parameters change: AffineLayout in native/ops/affine/affine.h. */
  readonly blocks: number;
  readonly blockSize: number;
  readonly groupLength: number;
  readonly blocksAlike: number;
}

/** @internal What `axis`, `groupSize` and `blockShape` were given as; read only where the granularity has a use for them. */
export interface Sharing {
  readonly axis?: unknown;
  readonly groupSize?: unknown;
  readonly blockShape?: unknown;
}

/** @internal */
export function layoutOf(
  dtype: unknown,
  shape: readonly number[],
  granularity: Granularity,
  { axis, groupSize, blockShape }: Sharing,
): Layout {
  const code = codeTypeOf('dtype', dtype);
  const elementCount = validate.product(shape);
  const columns = shape.length === 0 ? 1 : (shape[shape.length - 1] as number);
  const rows = shape.length === 0 ? 1 : validate.product(shape, 0, shape.length - 1);
  let blocks = 1;
  let blockSize = elementCount;
  let groupLength = Math.max(1, elementCount);
  let parameterCount = 1;
  let blocksAlike = 1;
  let channelAxis: number | undefined;
  let groups: number | undefined;
  let tile: [number, number] | undefined;
  if (granularity === 'per-channel') {
    if (shape.length === 0) throw invalidArgument('shape', 'at least one axis for per-channel granularity', shape);
    channelAxis = validate.integer('axis', axis === undefined ? 0 : axis, -shape.length, shape.length - 1);
    if (channelAxis < 0) channelAxis += shape.length;
    blocks = validate.product(shape, 0, channelAxis);
    groupLength = Math.max(1, validate.product(shape, channelAxis + 1));
    parameterCount = shape[channelAxis] as number;
    blockSize = parameterCount * groupLength;
    blocksAlike = Math.max(1, blocks);
  } else if (granularity === 'per-group') {
    groups = validate.integer('groupSize', groupSize === undefined ? (code.codebook?.groupSize ?? 128) : groupSize, 1);
    blocks = rows;
    blockSize = columns;
    groupLength = Math.max(1, Math.min(groups, columns));
    parameterCount = rows * Math.ceil(columns / groupLength);
  } else if (granularity === 'per-block') {
    tile = blockShapeFrom(blockShape);
    blocks = rows;
    blockSize = columns;
    groupLength = Math.max(1, Math.min(tile[1], columns));
    blocksAlike = tile[0];
    parameterCount = Math.ceil(rows / blocksAlike) * Math.ceil(columns / groupLength);
  }
  return {
    code,
    shape,
    granularity,
    axis: channelAxis,
    groupSize: groups,
    blockShape: tile,
    elementCount,
    rows,
    columns,
    parameterCount,
    dataBytes: rows * packedRowBytes(columns, code.bits),
    blocks,
    blockSize,
    groupLength,
    blocksAlike,
  };
}

function blockShapeFrom(value: unknown): [number, number] {
  if (value === undefined) return [128, 128];
  if (!Array.isArray(value) || value.length !== 2)
    throw invalidArgument('blockShape', 'two numbers, [rows, columns]', value);
  return [validate.integer('blockShape[0]', value[0], 1), validate.integer('blockShape[1]', value[1], 1)];
}

/** @internal Writes the numbers with which every record of quantized tensors of the addon begins; returns how many. */
export function writeLayout(record: Float64Array, layout: Layout): number {
  record[0] = layout.blocks;
  record[1] = layout.blockSize;
  record[2] = layout.groupLength;
  record[3] = layout.blocksAlike;
  record[4] = layout.columns;
  record[5] = layout.code.bits;
  record[6] = layout.code.signed ? 1 : 0;
  return 7;
}

/** How the arrays of a tensor are checked. */
interface ArrayChecks {
  bytes(argument: string, value: unknown, count: number): unknown;
  floats(argument: string, value: unknown, count: number): unknown;
  integers(argument: string, value: unknown, count: number): unknown;
}

const HOST: ArrayChecks = {
  bytes: validate.uint8Array,
  floats: validate.float32Array,
  integers: validate.int32Array,
};

const DEVICE: ArrayChecks = {
  bytes: (argument, value, count) => checkTensor(argument, value, ['uint8'], count),
  floats: (argument, value, count) => checkTensor(argument, value, ['float32'], count),
  integers: (argument, value, count) => checkTensor(argument, value, ['int32'], count),
};

/** @internal */
export function arrayChecks(onDevice: boolean): ArrayChecks {
  return onDevice ? DEVICE : HOST;
}

/** @internal Checks a tensor that came from outside: every field, and that the arrays fit the shape. */
export function checkQuantizedTensor(argument: string, value: unknown): { tensor: QuantizedTensor; layout: Layout } {
  return check<QuantizedTensor>(argument, value, HOST);
}

/** @internal Whether its arrays are meant to be on a device. */
export function isOnDevice(value: unknown): boolean {
  return typeof value === 'object' && value !== null && isDeviceTensor((value as { data?: unknown }).data);
}

/**
 * @internal The same, of one that may be on a device. Zero points that are missing there, of symmetric schemes of unsigned
 * dtypes, are those of the host.
 */
export function checkAnyQuantizedTensor(
  argument: string,
  value: unknown,
): { tensor: AnyQuantizedTensor; layout: Layout } {
  return check<AnyQuantizedTensor>(argument, value, isOnDevice(value) ? DEVICE : HOST);
}

function check<T extends AnyQuantizedTensor>(
  argument: string,
  value: unknown,
  arrays: ArrayChecks,
): { tensor: T; layout: Layout } {
  if (typeof value !== 'object' || value === null) throw invalidArgument(argument, 'a QuantizedTensor', value);
  const given = value as Partial<Record<keyof QuantizedTensor, unknown>>;
  const { dtype } = given;
  const { codebook } = codeTypeOf(`${argument}.dtype`, dtype);
  const shape = validate.shape(`${argument}.shape`, given['shape']);
  const scheme = validate.oneOf(
    `${argument}.scheme`,
    given['scheme'],
    codebook === undefined ? ['symmetric', 'asymmetric'] : ['symmetric'],
  );
  const granularity = validate.oneOf(
    `${argument}.granularity`,
    given['granularity'],
    codebook?.fixed ? ['per-group'] : GRANULARITIES,
  );
  const layout = layoutOf(dtype, shape, granularity, given);
  if (codebook?.fixed && layout.groupSize !== codebook.groupSize) {
    throw invalidArgument(`${argument}.groupSize`, `${codebook.groupSize} for ${dtype}`, layout.groupSize);
  }
  const data = arrays.bytes(`${argument}.data`, given['data'], layout.dataBytes);
  const scales = arrays.floats(`${argument}.scales`, given['scales'], layout.parameterCount);
  let zeroPoints: unknown = null;
  if (codebook !== undefined) {
    if (given['zeroPoints'] !== null)
      throw invalidArgument(`${argument}.zeroPoints`, `null for ${dtype}`, given['zeroPoints']);
  } else if (given['zeroPoints'] !== null) {
    zeroPoints = arrays.integers(`${argument}.zeroPoints`, given['zeroPoints'], layout.parameterCount);
  } else if (scheme === 'asymmetric') {
    throw invalidArgument(`${argument}.zeroPoints`, 'an Int32Array, as the scheme is asymmetric,', null);
  } else if (!layout.code.signed) {
    zeroPoints = symmetricZeroPoints(layout);
  }
  const tensor = tensorOf<T>(
    layout,
    dtype as QuantDtype,
    scheme,
    data as T['data'],
    scales as T['scales'],
    zeroPoints as T['zeroPoints'],
  );
  const globalScale = given['globalScale'];
  if (globalScale !== undefined) validate.finite(`${argument}.globalScale`, globalScale, true);
  const nestedScales = nestedScalesOf(`${argument}.nestedScales`, given['nestedScales'], layout, arrays);
  if (globalScale === undefined && nestedScales === undefined) return { tensor, layout };
  return {
    tensor: {
      ...tensor,
      ...(globalScale === undefined ? {} : { globalScale: globalScale as number }),
      ...(nestedScales === undefined ? {} : { nestedScales }),
    },
    layout,
  };
}

/** @internal How many scales share an absmax: kNestedBlock in native/ops/codebook/nested_scales.h. */
export const NESTED_BLOCK = 256;

function nestedScalesOf(
  argument: string,
  value: unknown,
  layout: Layout,
  arrays: ArrayChecks,
): NestedScales | DeviceNestedScales | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== 'object' || value === null || layout.code.codebook?.nests !== true) {
    throw invalidArgument(
      argument,
      layout.code.codebook?.nests ? '{ data, absmax, offset }' : 'nothing for this dtype',
      value,
    );
  }
  const { data, absmax, offset } = value as Partial<Record<keyof NestedScales, unknown>>;
  return {
    data: arrays.bytes(`${argument}.data`, data, layout.parameterCount),
    absmax: arrays.floats(`${argument}.absmax`, absmax, Math.ceil(layout.parameterCount / NESTED_BLOCK)),
    offset: validate.finite(`${argument}.offset`, offset, false),
  } as NestedScales | DeviceNestedScales;
}

/** @internal What an unsigned dtype has in a symmetric scheme. */
export function symmetricZeroPoints(layout: Layout): Int32Array {
  return new Int32Array(layout.parameterCount).fill(2 ** (layout.code.bits - 1));
}

/** @internal */
export function tensorOf<T extends AnyQuantizedTensor = QuantizedTensor>(
  layout: Layout,
  dtype: QuantDtype,
  scheme: Scheme,
  data: T['data'],
  scales: T['scales'],
  zeroPoints: T['zeroPoints'],
): T {
  const { shape, granularity, axis, groupSize, blockShape } = layout;
  if (granularity === 'per-channel')
    return { dtype, shape, scheme, granularity, axis: axis as number, data, scales, zeroPoints } as T;
  if (granularity === 'per-group') {
    return { dtype, shape, scheme, granularity, groupSize: groupSize as number, data, scales, zeroPoints } as T;
  }
  if (granularity === 'per-block') {
    const block = blockShape as [number, number];
    return { dtype, shape, scheme, granularity, blockShape: block, data, scales, zeroPoints } as unknown as T;
  }
  return { dtype, shape, scheme, granularity, data, scales, zeroPoints } as T;
}

/**
 * The codes of a quantized tensor, one per element in row-major order.
 *
 * @returns An Int8Array for signed dtypes, `ternary` (−1, 0, 1) and `mxint8` among them; a Uint8Array for the others, of which
 *   `binary` has 1 for positive numbers.
 * @throws {@link InvalidArgumentError} if a field is missing or its size does not fit the shape.
 *
 * @example
 * ```ts
 * const q = quantizeTensor(new Float32Array([0.5, -1, 3.5]), { dtype: 'int4' });
 * unpackCodes(q); // Int8Array [1, -2, 7]
 * ```
 */
export function unpackCodes(q: QuantizedTensor<SignedIntDtype | 'ternary' | 'mxint8'>): Int8Array;
export function unpackCodes(
  q: QuantizedTensor<UnsignedIntDtype | Exclude<CodebookDtype, 'ternary' | 'mxint8'>>,
): Uint8Array;
export function unpackCodes(q: QuantizedTensor): Int8Array | Uint8Array;
export function unpackCodes(q: QuantizedTensor): Int8Array | Uint8Array {
  const { tensor, layout } = checkQuantizedTensor('q', q);
  const { bits, signed } = layout.code;
  const out = signed ? new Int8Array(layout.elementCount) : new Uint8Array(layout.elementCount);
  if (layout.elementCount > 0) addon.unpackCodes(tensor.data, bits, signed, layout.rows, layout.columns, out);
  return out;
}

/** What a quantized tensor takes in memory. */
export interface TensorSize {
  /** Bytes of `data`, `scales` and `zeroPoints` together; of nested scales instead of scales. */
  readonly bytes: number;
  /** Eight times that, divided by the number of elements; 0 for an empty tensor. */
  readonly bitsPerWeight: number;
}

/**
 * The size of a quantized tensor in memory, parameters included. (Files keep scales in fewer bytes: see the table that
 * `lowbit quantize` prints.)
 *
 * @returns Bytes, and bits for each element of `q.shape`.
 * @throws {@link InvalidArgumentError} if a field is missing or its size does not fit the shape.
 *
 * @example
 * ```ts
 * const q = quantizeTensor(new Float32Array(4096), { dtype: 'int4', granularity: 'per-group', groupSize: 32 });
 * sizeOf(q); // { bytes: 2560, bitsPerWeight: 5 }
 * ```
 */
export function sizeOf(q: QuantizedTensor): TensorSize {
  const { tensor, layout } = checkQuantizedTensor('q', q);
  const { data, scales, zeroPoints, nestedScales } = tensor;
  const scaleBytes =
    nestedScales === undefined ? scales.byteLength : nestedScales.data.byteLength + nestedScales.absmax.byteLength + 4;
  const bytes = data.byteLength + scaleBytes + (zeroPoints?.byteLength ?? 0);
  return { bytes, bitsPerWeight: layout.elementCount === 0 ? 0 : (8 * bytes) / layout.elementCount };
}
