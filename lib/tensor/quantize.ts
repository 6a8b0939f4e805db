/**
 * Floats to integer codes.
 *
 * @module
 */
import { addon, explain, type RawError, type RawFloats, runJob } from '../addon.js';
import {
  type Float16ArrayLike,
  floatCodeOf,
  type IntDtype,
  type LargeFloatDtype,
  type QuantDtype,
  type SignedIntDtype,
} from '../dtype.js';
import { InvalidArgumentError, invalidArgument, NonFiniteError, ScaleOverflowError } from '../errors.js';
import * as validate from '../validate.js';
import { floatAt } from './cast.js';
import { detachedFromCaller } from './off-thread.js';
import {
  type Granularity,
  type Layout,
  layoutOf,
  type QuantizedTensor,
  type Scheme,
  tensorOf,
  writeLayout,
} from './quantized-tensor.js';

/** The element type of the input follows from its array; a Uint16Array can hold two. */
export type QuantizeInput = Float32Array | Uint16Array | Float16ArrayLike;

/** Which float type the input holds: it must be said for a Uint16Array, and must not contradict other arrays. */
export type InputOptions<I> = I extends Uint16Array
  ? { inputDtype: 'float16' | 'bfloat16' }
  : I extends Float32Array
    ? { inputDtype?: 'float32' }
    : I extends Float16ArrayLike
      ? { inputDtype?: 'float16' }
      : { inputDtype?: LargeFloatDtype };

// The first member of each union lets a variable stand for any of the names.

/** What shares a scale. `axis` goes with per-channel (default 0), `groupSize` with per-group (default 128). */
export type GranularityOptions =
  | { granularity?: Granularity; axis?: never; groupSize?: never }
  | { granularity: 'per-channel'; axis?: number; groupSize?: never }
  | { granularity: 'per-group'; axis?: never; groupSize?: number };

/** Where zero lies. `narrowRange` (default true) keeps symmetric codes of signed dtypes within ±(2^(b−1) − 1). */
export type SchemeOptions<D> =
  | { scheme?: Scheme; narrowRange?: never }
  | { scheme?: 'symmetric'; narrowRange?: D extends SignedIntDtype ? boolean : never };

/** How the range is chosen (default `'minmax'`), or the parameters themselves. */
export type RangeOptions =
  | { range?: 'minmax' | 'mse' | { percentile: number }; scales?: never; zeroPoints?: never }
  | { range?: never; scales: Float32Array; zeroPoints?: Int32Array };

/** Options of {@link quantizeTensor}. Combinations that can't work do not compile. */
export type QuantizeOptions<D extends QuantDtype = QuantDtype, I = QuantizeInput> = InputOptions<I> &
  GranularityOptions &
  SchemeOptions<D> &
  RangeOptions & {
    /** Row-major. Default `[input.length]`. */
    shape?: readonly number[];
    /** The code type. */
    dtype: D;
    /** The type to which scales are rounded before they are used. Default `'float32'`. */
    scaleDtype?: 'float32' | 'float16' | 'bfloat16';
    /**
     * What to do about NaN and infinities. `'throw'` (default) names the first one. `'saturate'` leaves them out of the
     * range; infinities then become the outermost codes and NaN the lowest, as in ONNX Runtime.
     */
    nonFinite?: 'throw' | 'saturate';
    /** A tensor of the same dtype, shape and granularity, whose buffers are overwritten; it is also the result. */
    out?: QuantizedTensor;
  };

/** The same, with a signal that ends the work early. */
export type QuantizeAsyncOptions<D extends QuantDtype = QuantDtype, I = QuantizeInput> = QuantizeOptions<D, I> & {
  /** Rejects with the signal's reason. */
  signal?: AbortSignal;
};

const OPTIONS: ReadonlySet<string> = new Set([
  'shape',
  'inputDtype',
  'dtype',
  'scheme',
  'granularity',
  'axis',
  'groupSize',
  'narrowRange',
  'scaleDtype',
  'range',
  'scales',
  'zeroPoints',
  'nonFinite',
  'out',
]);
const ASYNC_OPTIONS: ReadonlySet<string> = new Set([...OPTIONS, 'signal']);

/** RangeChoice::Method in native/ops/affine/affine.h. */
const RANGE_CODES = { minmax: 0, mse: 1, percentile: 2, given: 3 } as const;

/** A call whose arguments have been checked. */
interface Prepared {
  readonly input: RawFloats;
  readonly inputType: number;
  readonly layout: Layout;
  readonly symmetric: boolean;
  readonly lowest: number;
  readonly scaleType: number;
  readonly scaleDtype: LargeFloatDtype;
  readonly rangeCode: number;
  readonly percentile: number;
  readonly saturate: boolean;
  readonly result: QuantizedTensor;
  /** Parameters to copy into the result first. */
  readonly given: { scales: Float32Array; zeroPoints: Int32Array | null } | undefined;
}

function prepare(inputValue: unknown, optionsValue: unknown, known: ReadonlySet<string>): Prepared {
  const given = validate.options<Record<string, unknown>>('options', optionsValue, known);
  const { data: input, type: inputType } = validate.floats('input', inputValue, 'inputDtype', given['inputDtype']);
  const shapeValue = given['shape'];
  const shape = shapeValue === undefined ? [input.length] : validate.shape('shape', shapeValue);
  const layout = layoutFrom(given, shape);
  if (layout.elementCount !== input.length) {
    throw new InvalidArgumentError(
      'shape',
      `Expected shape [${shape.join(', ')}] to have as many elements as the input, ${input.length}, but it has ${layout.elementCount}.`,
    );
  }
  const { signed, bits } = layout.code;
  const parameters = givenParameters(given, layout);
  const scheme = schemeFrom(given, signed, parameters);
  const symmetric = scheme === 'symmetric';
  if (symmetric && parameters?.zeroPoints != null) {
    const expected = signed ? 0 : 2 ** (bits - 1);
    if (parameters.zeroPoints.some((z) => z !== expected)) {
      throw new InvalidArgumentError(
        'zeroPoints',
        `Expected every zero point to be ${expected} in a symmetric scheme: use scheme 'asymmetric' for others.`,
      );
    }
  }
  const narrow = validate.boolean('narrowRange', given['narrowRange'], true) && symmetric && signed;
  const scaleDtype = given['scaleDtype'] === undefined ? 'float32' : given['scaleDtype'];
  const scaleType = floatCodeOf('scaleDtype', scaleDtype);
  const { rangeCode, percentile } = rangeFrom(given, parameters !== undefined);
  const nonFinite =
    given['nonFinite'] === undefined ? 'throw' : validate.oneOf('nonFinite', given['nonFinite'], ['throw', 'saturate']);
  const needsZeroPoints = !(symmetric && signed);
  const result =
    given['out'] === undefined
      ? tensorOf(
          layout,
          given['dtype'] as IntDtype,
          scheme,
          new Uint8Array(layout.dataBytes),
          new Float32Array(layout.parameterCount),
          needsZeroPoints ? new Int32Array(layout.parameterCount) : null,
        )
      : reused(given['out'], given['dtype'] as IntDtype, scheme, layout, needsZeroPoints);
  return {
    input,
    inputType,
    layout,
    symmetric,
    lowest: layout.code.lowest + (narrow ? 1 : 0),
    scaleType,
    scaleDtype: scaleDtype as LargeFloatDtype,
    rangeCode,
    percentile,
    saturate: nonFinite === 'saturate',
    result,
    given: parameters,
  };
}

function layoutFrom(given: Partial<Record<string, unknown>>, shape: readonly number[]): Layout {
  const { granularity, axis, groupSize } = given;
  if (granularity === undefined) {
    for (const [name, value, needed] of [
      ['axis', axis, 'per-channel'],
      ['groupSize', groupSize, 'per-group'],
    ] as const) {
      if (value !== undefined) {
        throw new InvalidArgumentError(name, `Expected granularity: '${needed}' together with ${name}.`);
      }
    }
  }
  const chosen =
    granularity === undefined
      ? 'per-tensor'
      : validate.oneOf('granularity', granularity, ['per-tensor', 'per-channel', 'per-group']);
  return layoutOf(given['dtype'], shape, chosen, axis, groupSize);
}

function schemeFrom(
  given: Partial<Record<string, unknown>>,
  signed: boolean,
  parameters: { zeroPoints: Int32Array | null } | undefined,
): 'symmetric' | 'asymmetric' {
  if (given['scheme'] !== undefined) return validate.oneOf('scheme', given['scheme'], ['symmetric', 'asymmetric']);
  return signed && parameters?.zeroPoints == null ? 'symmetric' : 'asymmetric';
}

function givenParameters(
  given: Partial<Record<string, unknown>>,
  layout: Layout,
): { scales: Float32Array; zeroPoints: Int32Array | null } | undefined {
  const { scales, zeroPoints, range } = given;
  if (scales === undefined) {
    if (zeroPoints !== undefined)
      throw new InvalidArgumentError('zeroPoints', 'Expected scales together with zeroPoints.');
    return undefined;
  }
  if (range !== undefined) {
    throw new InvalidArgumentError('range', 'Expected no range together with scales: given scales need no search.');
  }
  return {
    scales: validate.float32Array('scales', scales, layout.parameterCount),
    zeroPoints: zeroPoints == null ? null : validate.int32Array('zeroPoints', zeroPoints, layout.parameterCount),
  };
}

function rangeFrom(
  given: Partial<Record<string, unknown>>,
  hasParameters: boolean,
): { rangeCode: number; percentile: number } {
  const { range } = given;
  if (hasParameters) return { rangeCode: RANGE_CODES.given, percentile: 100 };
  if (range === undefined || range === 'minmax') return { rangeCode: RANGE_CODES.minmax, percentile: 100 };
  if (range === 'mse') return { rangeCode: RANGE_CODES.mse, percentile: 100 };
  if (typeof range !== 'object' || range === null) {
    throw invalidArgument('range', "'minmax', 'mse' or { percentile }", range);
  }
  const { percentile } = validate.options<{ percentile: unknown }>('range', range, new Set(['percentile']));
  if (typeof percentile !== 'number' || !(percentile > 50 && percentile <= 100)) {
    throw invalidArgument('range.percentile', 'a number greater than 50 and at most 100', percentile);
  }
  return { rangeCode: RANGE_CODES.percentile, percentile };
}

function reused(
  value: unknown,
  dtype: IntDtype,
  scheme: 'symmetric' | 'asymmetric',
  layout: Layout,
  needsZeroPoints: boolean,
): QuantizedTensor {
  if (typeof value !== 'object' || value === null) throw invalidArgument('out', 'a QuantizedTensor', value);
  const out = value as QuantizedTensor;
  const expected = tensorOf(layout, dtype, scheme, out.data, out.scales, out.zeroPoints);
  for (const field of ['dtype', 'scheme', 'granularity', 'axis', 'groupSize'] as const) {
    if (out[field] !== expected[field]) {
      throw invalidArgument(`out.${field}`, String(expected[field]), out[field]);
    }
  }
  if (
    !Array.isArray(out.shape) ||
    out.shape.length !== layout.shape.length ||
    out.shape.some((d, i) => d !== layout.shape[i])
  ) {
    throw new InvalidArgumentError('out.shape', `Expected out to have the shape [${layout.shape.join(', ')}].`);
  }
  validate.uint8Array('out.data', out.data, layout.dataBytes);
  validate.float32Array('out.scales', out.scales, layout.parameterCount);
  if (needsZeroPoints) validate.int32Array('out.zeroPoints', out.zeroPoints, layout.parameterCount);
  else if (out.zeroPoints !== null) throw invalidArgument('out.zeroPoints', 'null', out.zeroPoints);
  return out;
}

/** An empty tensor has parameters, but nothing to compute them from: scale 1, and the zero point of a group of zeros. */
function fillEmpty(p: Prepared, target: QuantizedTensor): void {
  if (p.given !== undefined) return;
  target.scales.fill(1);
  target.zeroPoints?.fill(p.symmetric ? 2 ** (p.layout.code.bits - 1) : p.layout.code.lowest);
}

/** Given parameters go into the result; missing zero points are those of the scheme. */
function copyGiven(p: Prepared, target: QuantizedTensor): void {
  if (p.given === undefined) return;
  if (target.scales !== p.given.scales) target.scales.set(p.given.scales);
  if (target.zeroPoints === null || target.zeroPoints === p.given.zeroPoints) return;
  if (p.given.zeroPoints !== null) target.zeroPoints.set(p.given.zeroPoints);
  else target.zeroPoints.fill(p.symmetric ? 2 ** (p.layout.code.bits - 1) : 0);
}

/** The numbers of the addon's call; it reads them before it returns, so one array serves every call. */
const record = new Float64Array(15);

function recordOf(p: Prepared): Float64Array {
  let i = writeLayout(record, p.layout);
  record[i++] = p.inputType;
  record[i++] = p.symmetric ? 1 : 0;
  record[i++] = p.lowest;
  record[i++] = p.layout.code.highest;
  record[i++] = p.scaleType;
  record[i++] = p.rangeCode;
  record[i++] = p.percentile;
  record[i] = p.saturate ? 1 : 0;
  return record;
}

/** The addon's error in the words of the caller's arguments. */
function explained(error: unknown, p: Prepared): unknown {
  const { code, index = -1 } = error as Partial<RawError>;
  switch (code) {
    case 'NON_FINITE': {
      const value = floatAt(p.input, p.inputType, index);
      return new NonFiniteError(
        `Expected finite numbers but received ${value} at index ${index} of the input. ` +
          "Remove it, or pass nonFinite: 'saturate'.",
        index,
        value,
      );
    }
    case 'SCALE_OVERFLOW':
      return new ScaleOverflowError(
        `The scale at index ${index} is too large for ${p.scaleDtype}. Use scaleDtype 'float32' or 'bfloat16'.`,
        index,
      );
    default:
      return explain(error, 'input');
  }
}

/**
 * Quantizes floats to integer codes with a scale (and zero point) per tensor, channel or group:
 * `code = clamp(round(x / scale) + zeroPoint)`, rounding half to even, the division exact in float32, as ONNX
 * QuantizeLinear defines it.
 *
 * - **symmetric**: `scale = max|x| / (2^(b−1) − 1)`; the zero point is 0, or 2^(b−1) for unsigned dtypes.
 * - **asymmetric**: the range is widened to contain 0, `scale = (max − min) / (2^b − 1)`,
 *   `zeroPoint = clamp(round(lowest − min / scale))`.
 * - A group of zeros has scale 1, and its codes are the zero point.
 *
 * The range is that of the elements (`'minmax'`, default), of a percentile of them (linear interpolation between elements,
 * symmetric schemes take it of |x|), the one of 80 shrunk ranges with the least squared error (`'mse'`, the grid of GPTQ's
 * `mse` option), or none if `scales` (and `zeroPoints`, default 0 for asymmetric) are given.
 *
 * The result does not depend on the number of threads or the instruction set.
 *
 * @param input - Floats in row-major order. It may be a view of a SharedArrayBuffer.
 * @param options - At least `dtype`. Defaults: per-tensor; `scheme` symmetric for signed and asymmetric for unsigned dtypes
 *   (asymmetric too if `zeroPoints` are given); `axis` 0; `groupSize` 128; `narrowRange` true, which keeps symmetric signed
 *   codes within ±(2^(b−1) − 1).
 * @throws {@link InvalidArgumentError} for a wrong type, value or combination; {@link NonFiniteError} for NaN or infinity
 *   (unless `nonFinite` is `'saturate'`); {@link ScaleOverflowError} if a scale does not fit `scaleDtype`.
 *
 * Sources: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
 * (arXiv:1712.05877); ONNX QuantizeLinear, opset 21.
 *
 * @example
 * ```ts
 * const weights = new Float32Array([0.1, 0.2, 1.2, 3, 2.1, -2.1, -3.5]);
 * const q = quantizeTensor(weights, { dtype: 'int4' });
 * q.scales[0]; // 0.5
 * unpackCodes(q); // Int8Array [0, 0, 2, 6, 4, -4, -7]
 * dequantizeTensor(q); // Float32Array [0, 0, 1, 3, 2, -2, -3.5]
 * ```
 */
export function quantizeTensor<D extends QuantDtype, I extends QuantizeInput>(
  input: I,
  options: QuantizeOptions<D, I>,
): QuantizedTensor<D> {
  const p = prepare(input, options, OPTIONS);
  copyGiven(p, p.result);
  if (p.layout.elementCount === 0) {
    fillEmpty(p, p.result);
  } else {
    try {
      addon.quantizeAffine(recordOf(p), p.input, p.result.scales, p.result.zeroPoints, p.result.data);
    } catch (error) {
      throw explained(error, p);
    }
  }
  return p.result as QuantizedTensor<D>;
}

/**
 * {@link quantizeTensor} off the event loop, with the same result. Input that is not in a SharedArrayBuffer is copied
 * first, so that the caller may change or transfer it at once.
 *
 * @throws As {@link quantizeTensor}, as a rejection; the signal's reason when it aborts. What `out` then holds is
 *   unspecified.
 *
 * @example
 * ```ts
 * const q = await quantizeTensorAsync(weights, { dtype: 'int8', signal: AbortSignal.timeout(1000) });
 * ```
 */
export async function quantizeTensorAsync<D extends QuantDtype, I extends QuantizeInput>(
  input: I,
  options: QuantizeAsyncOptions<D, I>,
): Promise<QuantizedTensor<D>> {
  const checked = prepare(input, options, ASYNC_OPTIONS);
  const signal = validate.abortSignal('signal', options.signal);
  signal?.throwIfAborted();
  const p: Prepared = { ...checked, input: detachedFromCaller.input(checked.input) };
  const fresh = options.out === undefined;
  const target = fresh ? p.result : detachedFromCaller.tensor(p.result);
  copyGiven(p, target);
  if (p.layout.elementCount === 0) {
    fillEmpty(p, target);
  } else {
    const { scales, zeroPoints, data } = target;
    await runJob(
      (done) => addon.quantizeAffineAsync(recordOf(p), p.input, scales, zeroPoints, data, done),
      signal,
      (error) => explained(error, p),
    );
  }
  if (!fresh) detachedFromCaller.copyTensor(target, p.result);
  return p.result as QuantizedTensor<D>;
}
