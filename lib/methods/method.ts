/**
 * What the methods that quantize a weight with what is known of its inputs have in common.
 *
 * @module
 */
import { codeTypeOf, floatCodeOf, type IntDtype, type LargeFloatDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument, NonFiniteError } from '../errors.js';
import { dequantizeTensorAsync } from '../tensor/dequantize.js';
import {
  type Layout,
  layoutOf,
  type QuantizedTensor,
  type Scheme,
  symmetricZeroPoints,
  tensorOf,
} from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';

/** What a method makes of a weight. */
export interface MethodResult {
  /** Shape [N, K]. */
  readonly tensor: QuantizedTensor<IntDtype>;
  /** Column i of `tensor` is column `order[i]` of the weight (GPTQ's act-order); null: the same. */
  readonly order: Int32Array | null;
  /** What did not go as asked, in sentences. */
  readonly warnings: readonly string[];
}

/** Sums over the activations that a linear layer reads; what calibration collects holds them. */
export interface InputSums {
  /** K: the columns of the weight. */
  readonly columns: number;
  /** How many rows of activations were seen. */
  readonly rows: number;
  /** `[K, K]`, XᵀX: a sum, not a mean. See {@link gram}. */
  readonly gram: Float32Array | null;
  /** `[K]`: the sum of squares of each column. */
  readonly sumOfSquares: Float64Array | Float32Array;
}

/** Options that all methods for integer codes take; the same names mean the same as in {@link quantizeTensor}. */
export interface MethodOptions {
  /** `[N, K]`. Default: K from the statistics, where there are any. */
  shape?: readonly [number, number];
  /** The code type. */
  dtype: IntDtype;
  /** Default: symmetric for signed and asymmetric for unsigned dtypes. */
  scheme?: Scheme;
  /** Default: `'per-group'`. Channels are rows of the weight. */
  granularity?: 'per-channel' | 'per-group';
  /** Columns that share a scale, with `'per-group'`; the last group may be shorter. Default: 128. */
  groupSize?: number;
  /** Whether symmetric codes of signed dtypes keep within ±(2^(b−1) − 1). Default: true. */
  narrowRange?: boolean;
  /**
   * Symmetric codes of signed dtypes keep within those of so many bits, at least 2: for layouts whose codes have no dtype here,
   * as the 5 bits of GGUF's q5_0. Default: the bits of the dtype.
   */
  codeBits?: number;
  /** The type to which scales are rounded before they are used. Default: `'float32'`. */
  scaleDtype?: LargeFloatDtype;
  /** What errors and warnings call the weight. */
  name?: string;
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** @internal */
export const METHOD_OPTIONS = [
  'shape',
  'dtype',
  'scheme',
  'granularity',
  'groupSize',
  'narrowRange',
  'codeBits',
  'scaleDtype',
  'name',
  'signal',
] as const;

/** @internal What was asked for, checked. */
export interface Target {
  readonly weight: Float32Array;
  readonly rows: number;
  readonly columns: number;
  readonly dtype: IntDtype;
  readonly scheme: Scheme;
  readonly layout: Layout;
  /** Of codes: narrower than the dtype's with a narrow range or fewer bits. */
  readonly lowest: number;
  readonly highest: number;
  readonly scaleDtype: LargeFloatDtype;
  readonly scaleType: number;
  readonly name: string | undefined;
  readonly signal: AbortSignal | undefined;
}

type Given = Readonly<Partial<Record<string, unknown>>>;

/** @internal `columns`: of the statistics, if there are any. */
export function targetOf(weightValue: unknown, given: Given, columns: number | undefined): Target {
  const weight = validate.float32Array('weight', weightValue);
  const { name } = given;
  if (name !== undefined && typeof name !== 'string') throw invalidArgument('name', 'a string', name);
  const shape = shapeFrom(weight, given['shape'], columns, name);
  const { dtype } = given;
  const code = codeTypeOf('dtype', dtype);
  if (code.codebook !== undefined) throw invalidArgument('dtype', 'an integer type', dtype);
  const granularity =
    given['granularity'] === undefined
      ? 'per-group'
      : validate.oneOf('granularity', given['granularity'], ['per-channel', 'per-group']);
  if (granularity === 'per-channel' && given['groupSize'] !== undefined) {
    throw new InvalidArgumentError('groupSize', "Expected granularity: 'per-group' together with groupSize.");
  }
  const layout = layoutOf(dtype, shape, granularity, { axis: 0, groupSize: given['groupSize'] });
  const scheme =
    given['scheme'] === undefined
      ? code.signed
        ? 'symmetric'
        : 'asymmetric'
      : validate.oneOf('scheme', given['scheme'], ['symmetric', 'asymmetric']);
  const codeBits =
    given['codeBits'] === undefined ? code.bits : validate.integer('codeBits', given['codeBits'], 2, code.bits);
  if (codeBits !== code.bits && !(code.signed && scheme === 'symmetric')) {
    throw new InvalidArgumentError('codeBits', 'Expected codeBits with symmetric codes of a signed dtype only.');
  }
  const narrow = validate.boolean('narrowRange', given['narrowRange'], true) && scheme === 'symmetric' && code.signed;
  const scaleDtype = given['scaleDtype'] === undefined ? 'float32' : given['scaleDtype'];
  return {
    weight,
    rows: shape[0],
    columns: shape[1],
    dtype: dtype as IntDtype,
    scheme,
    layout,
    lowest: (codeBits === code.bits ? code.lowest : -(2 ** (codeBits - 1))) + (narrow ? 1 : 0),
    highest: codeBits === code.bits ? code.highest : 2 ** (codeBits - 1) - 1,
    scaleType: floatCodeOf('scaleDtype', scaleDtype),
    scaleDtype: scaleDtype as LargeFloatDtype,
    name,
    signal: validate.abortSignal('signal', given['signal']),
  };
}

function shapeFrom(
  weight: Float32Array,
  value: unknown,
  columns: number | undefined,
  name: string | undefined,
): [number, number] {
  const of = name === undefined ? '' : ` of ${name}`;
  if (value === undefined) {
    if (columns === undefined) throw invalidArgument('shape', '[N, K]', value);
    if (columns === 0 ? weight.length !== 0 : weight.length % columns !== 0) {
      throw new InvalidArgumentError(
        'statistics',
        `Expected statistics of as many columns as the weight${of} but its ${weight.length} elements are no rows of ${columns}.`,
      );
    }
    return [columns === 0 ? 0 : weight.length / columns, columns];
  }
  const shape = validate.shape('shape', value);
  if (shape.length !== 2) throw invalidArgument('shape', '[N, K]', value);
  const [n, k] = shape as [number, number];
  if (n * k !== weight.length) {
    throw new InvalidArgumentError(
      'shape',
      `Expected shape [${n}, ${k}] to have as many elements as the weight${of}, ${weight.length}, but it has ${n * k}.`,
    );
  }
  if (columns !== undefined && columns !== k) {
    throw new InvalidArgumentError(
      'statistics',
      `Expected statistics of ${k} columns for the weight${of} but received ${columns}.`,
    );
  }
  return [n, k];
}

/** @internal Room for the result; its zero points are those of an empty tensor's. */
export function emptyTensor(t: Target): QuantizedTensor<IntDtype> {
  const { layout, scheme, dtype } = t;
  const symmetric = scheme === 'symmetric';
  const zeroPoints =
    symmetric && layout.code.signed
      ? null
      : symmetric
        ? symmetricZeroPoints(layout)
        : new Int32Array(layout.parameterCount).fill(layout.code.lowest);
  const data = new Uint8Array(layout.dataBytes);
  const scales = new Float32Array(layout.parameterCount).fill(1);
  return tensorOf(layout, dtype, scheme, data, scales, zeroPoints) as QuantizedTensor<IntDtype>;
}

/** @internal */
export function statisticsFrom(value: unknown): InputSums {
  if (typeof value !== 'object' || value === null) throw invalidArgument('statistics', 'statistics of inputs', value);
  const given = value as Partial<Record<keyof InputSums, unknown>>;
  const columns = validate.integer('statistics.columns', given.columns, 0);
  const rows = validate.integer('statistics.rows', given.rows, 0);
  const gram = given.gram == null ? null : validate.float32Array('statistics.gram', given.gram, columns * columns);
  const { sumOfSquares } = given;
  if (!(sumOfSquares instanceof Float64Array || sumOfSquares instanceof Float32Array)) {
    throw invalidArgument('statistics.sumOfSquares', 'a Float64Array', sumOfSquares);
  }
  if (sumOfSquares.length !== columns) {
    throw invalidArgument('statistics.sumOfSquares', `length ${columns}`, sumOfSquares);
  }
  return { columns, rows, gram, sumOfSquares };
}

/** @internal NaN or infinity in the weight, or in the statistics. */
export function nonFinite(
  array: ArrayLike<number>,
  index: number,
  what: string,
  name: string | undefined,
): NonFiniteError {
  const value = array[index] as number;
  const of = name === undefined ? '' : ` of ${name}`;
  return new NonFiniteError(
    `Expected finite numbers but received ${value} at index ${index} of the ${what}${of}.`,
    index,
    value,
    name,
  );
}

/** @internal The values of a quantized weight, in the weight's order of columns. */
export async function valuesOf(tensor: QuantizedTensor, order: Int32Array | null): Promise<Float32Array> {
  const values = await dequantizeTensorAsync(tensor);
  if (order === null) return values;
  const ordered = new Float32Array(values.length);
  for (let row = 0; row < values.length; row += order.length) {
    for (const [i, column] of order.entries()) ordered[row + column] = values[row + i] as number;
  }
  return ordered;
}
