/**
 * HQQ.
 *
 * @module
 */
import { addon, runJob } from '../addon.js';
import { invalidArgument } from '../errors.js';
import { detachedFromCaller } from '../off-thread.js';
import * as validate from '../validate.js';
import { emptyTensor, METHOD_OPTIONS, type MethodOptions, type MethodResult, targetOf } from './method.js';
import { explained } from './sweep.js';

/** Options of {@link hqq}. */
export interface HqqOptions extends Omit<MethodOptions, 'scheme' | 'narrowRange' | 'codeBits' | 'shape'> {
  /** `[N, K]`. */
  shape: readonly [number, number];
  /** The only scheme there is. */
  scheme?: 'asymmetric';
  /** The p of the norm of the errors that is made small: more than 0, at most 1. Default: 0.7. */
  lpNorm?: number;
  /** How hard the split of the errors is held to them. Default: 10. */
  beta?: number;
  /** Steps of the search, at most. Default: 20. */
  iterations?: number;
  /**
   * Whether zero points are rounded to the integers that files have room for, and codes chosen with them; ranges then
   * contain zero. Default: true. With false the weight is `scale · (code − zero)` with the numbers of
   * {@link HqqResult.zeros}, and the tensor's zero points are only the integers next to them.
   */
  roundZero?: boolean;
}

/** What {@link hqq} makes of a weight. */
export interface HqqResult extends MethodResult {
  /** The zero points as floats, one for each scale. */
  readonly zeros: Float32Array;
}

const OPTIONS: ReadonlySet<string> = new Set([
  ...METHOD_OPTIONS.filter((name) => name !== 'narrowRange' && name !== 'codeBits'),
  'lpNorm',
  'beta',
  'iterations',
  'roundZero',
]);

function positive(name: string, value: unknown, fallback: number, highest = Number.POSITIVE_INFINITY): number {
  if (value === undefined) return fallback;
  const rounded = validate.finite(name, value, true);
  if (rounded > highest) throw invalidArgument(name, `a number greater than 0 and at most ${highest}`, value);
  return value as number;
}

/**
 * Half-quadratic quantization: keeps the scales of minimum and maximum, and moves the zero points so that the errors have a
 * small p-norm, which forgives few large ones for many small ones. It needs no inputs.
 *
 * With the codes q of the current zero point z and the errors e = w − (q − z)·scale, the part
 * `s = sign(e)·max(|e| − |e|^(p−1)/β, 0)` is taken as meant, and z becomes the mean of `q − (w − s)/scale`, until the mean
 * |e| of the whole weight no longer falls: the solver `optimize_weights_proximal_legacy` of the HQQ code, in float32. The
 * result does not depend on the number of threads or the instruction set.
 *
 * @param weight - `[N, K]`, row-major.
 * @param options - At least `dtype` and `shape`. Groups (default 128; the HQQ code has 64) lie along the rows.
 * @returns Codes, scales and integer zero points, and these as floats.
 * @throws {@link InvalidArgumentError}; {@link NonFiniteError} for NaN or infinity, naming the layer if `name` is given;
 *   {@link ScaleOverflowError}; the signal's reason. All as rejections.
 *
 * Sources: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (Mobius Labs, 2023); the code of
 * mobiusml/hqq.
 *
 * @example
 * ```ts
 * const { tensor } = await hqq(weight, { shape: [n, k], dtype: 'uint4', groupSize: 64 });
 * ```
 */
export async function hqq(weight: Float32Array, options: HqqOptions): Promise<HqqResult> {
  const given = validate.options<Record<string, unknown>>('options', options, OPTIONS);
  if (given['scheme'] !== undefined) validate.oneOf('scheme', given['scheme'], ['asymmetric']);
  const t = targetOf(weight, { ...given, scheme: 'asymmetric' }, undefined);
  const power = positive('lpNorm', given['lpNorm'], 0.7, 1);
  const beta = positive('beta', given['beta'], 10);
  const steps = given['iterations'] === undefined ? 20 : validate.integer('iterations', given['iterations'], 0);
  const roundZero = validate.boolean('roundZero', given['roundZero'], true);
  t.signal?.throwIfAborted();
  const tensor = emptyTensor(t);
  const { scales, data } = tensor;
  const zeros = new Float32Array(scales.length);
  const { bits, signed, lowest, highest } = t.layout.code;
  if (t.rows > 0 && t.columns > 0) {
    const copied = detachedFromCaller.input(t.weight);
    const groupSize = t.layout.granularity === 'per-channel' ? t.columns : t.layout.groupLength;
    const record = Float64Array.of(
      t.rows,
      t.columns,
      groupSize,
      bits,
      signed ? 1 : 0,
      power,
      beta,
      steps,
      roundZero ? 1 : 0,
      t.scaleType,
    );
    await runJob(
      (done) => addon.hqqAsync(record, copied, scales, zeros, data, done),
      t.signal,
      (error) => explained(error, t, copied, null),
    );
  }
  const zeroPoints = tensor.zeroPoints as Int32Array;
  for (let i = 0; i < zeros.length; i++) {
    zeros[i] = (zeros[i] as number) + lowest;
    zeroPoints[i] = Math.min(highest, Math.max(lowest, Math.round(zeros[i] as number)));
  }
  return { tensor, order: null, warnings: [], zeros };
}
