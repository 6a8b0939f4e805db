/**
 * Round to nearest.
 *
 * @module
 */
import { CPU } from '../device/device.js';
import type { IntDtype } from '../dtype.js';
import { quantizeTensorAsync } from '../tensor/quantize.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import {
  type InputSums,
  METHOD_OPTIONS,
  type MethodOptions,
  type MethodResult,
  nonFinite,
  statisticsFrom,
  type Target,
  targetOf,
} from './method.js';
import { CONVENTIONS, type Convention, sweep } from './sweep.js';

/** Options of {@link rtn}. */
export interface RtnOptions extends MethodOptions {
  /**
   * `'minmax'` (default) or `'mse'`: of 80 ranges, each a hundredth narrower than the one before, that with the least squared
   * error; with statistics, with the least error of the output, as far as the mean squares of the inputs tell it.
   */
  range?: 'minmax' | 'mse';
  /** What the weight's inputs were like: errors count for `'mse'` as the squares of their inputs do. */
  statistics?: InputSums;
  /** Whose rules make scales and zero points, see {@link GptqOptions.convention}. Default: `'affine'`. */
  convention?: Convention;
}

const OPTIONS: ReadonlySet<string> = new Set([...METHOD_OPTIONS, 'range', 'statistics', 'convention']);

/** @internal The group of every column. */
export function groupsOf(t: Target): Int32Array {
  const { groupLength } = t.layout;
  if (t.layout.granularity === 'per-channel') return new Int32Array(t.columns);
  return Int32Array.from({ length: t.columns }, (_, i) => Math.floor(i / groupLength));
}

/** @internal */
export function groupCountOf(t: Target): number {
  return t.layout.granularity === 'per-channel' ? 1 : Math.ceil(t.columns / t.layout.groupLength);
}

/** @internal Mean squares, in float32. */
export function meanSquares(statistics: InputSums, name: string | undefined): Float32Array {
  const { sumOfSquares, rows } = statistics;
  const bad = sumOfSquares.findIndex((x) => !Number.isFinite(x));
  if (bad >= 0) throw nonFinite(sumOfSquares, bad, 'sums of squares', name);
  return Float32Array.from(sumOfSquares, (x) => x / Math.max(1, rows));
}

/** @internal */
export async function rounded(
  t: Target,
  search: boolean,
  convention: Convention,
  importance: Float32Array | null,
): Promise<QuantizedTensor<IntDtype>> {
  const hasAllCodes = t.highest === t.layout.code.highest;
  if (convention === 'affine' && hasAllCodes && (importance === null || !search)) {
    const { dtype, scheme, layout, scaleDtype, signal } = t;
    const tensor = await quantizeTensorAsync(t.weight, {
      shape: [t.rows, t.columns],
      dtype,
      scheme,
      narrowRange: scheme === 'symmetric' && layout.code.signed ? t.lowest !== layout.code.lowest : undefined,
      granularity: layout.granularity,
      ...(layout.granularity === 'per-group' ? { groupSize: layout.groupSize } : { axis: 0 }),
      scaleDtype,
      range: search ? 'mse' : 'minmax',
      signal,
    } as never);
    return tensor as QuantizedTensor<IntDtype>;
  }
  const swept = await sweep(t, {
    device: CPU,
    gram: null,
    order: null,
    groups: groupsOf(t),
    groupCount: groupCountOf(t),
    staticRanges: true,
    zeroDead: false,
    rangesWithDead: false,
    block: 128,
    damp: 0,
    dampStep: 0,
    convention,
    search,
    importance: search ? importance : null,
    codesInOrder: false,
    passes: 1,
  });
  return (swept as NonNullable<typeof swept>).tensor;
}

/**
 * Rounds a weight to the nearest codes, as {@link quantizeTensor} does, in the form in which other methods give their
 * results; and looks for ranges that suit the inputs, if their statistics are given.
 *
 * @param weight - `[N, K]`, row-major: N outputs, K inputs.
 * @param options - At least `dtype`, and `shape` or `statistics`.
 * @returns The codes; columns in their order (`order: null`).
 * @throws {@link InvalidArgumentError}; {@link NonFiniteError} for NaN or infinity, naming the layer if `name` is given;
 *   {@link ScaleOverflowError}; the signal's reason. All as rejections.
 *
 * @example
 * ```ts
 * const { tensor } = await rtn(weight, { shape: [n, k], dtype: 'int4', groupSize: 32, range: 'mse' });
 * ```
 */
export async function rtn(weight: Float32Array, options: RtnOptions): Promise<MethodResult> {
  const given = validate.options<Record<string, unknown>>('options', options, OPTIONS);
  const statistics = given['statistics'] === undefined ? undefined : statisticsFrom(given['statistics']);
  const t = targetOf(weight, given, statistics?.columns);
  const range = given['range'] === undefined ? 'minmax' : validate.oneOf('range', given['range'], ['minmax', 'mse']);
  const convention =
    given['convention'] === undefined ? 'affine' : validate.oneOf('convention', given['convention'], CONVENTIONS);
  t.signal?.throwIfAborted();
  const importance = statistics === undefined ? null : meanSquares(statistics, t.name);
  const tensor = await rounded(t, range === 'mse', convention, importance);
  return { tensor, order: null, warnings: [] };
}
