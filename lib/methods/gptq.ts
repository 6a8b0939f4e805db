/**
 * GPTQ.
 *
 * @module
 */
import { CPU, type Device, deviceIndex } from '../device/device.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
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
import { groupCountOf, groupsOf, meanSquares, rounded } from './rtn.js';
import { CONVENTIONS, type Convention, sweep } from './sweep.js';

/** Options of {@link gptq}. */
export interface GptqOptions extends MethodOptions {
  /**
   * Columns are quantized by falling diagonal of the Gram matrix, those with the largest inputs first (act-order). Without
   * `staticGroups` groups are made of columns that are neighbours in that order, and the result has an `order`, for which
   * files need a g_idx. Default: true, unless `groupAware` is.
   */
  descAct?: boolean;
  /**
   * Groups are made of neighbouring columns of the weight, and their scales are known before any column is quantized: with
   * `range: 'minmax'` from the weight as it is. With `'mse'` columns are quantized twice, the second time with scales for what
   * they had become the first time (for `convention: 'affine'`). Default: true. With false scales follow when the first of
   * a group's columns is quantized, from the weight with the errors of earlier columns made up for.
   */
  staticGroups?: boolean;
  /**
   * Groups, and columns within groups, are quantized by falling diagonal of the Gram matrix (act_group_aware of GPTQModel).
   * The groups stay those of the weight, and there is no `order`. Default: false.
   */
  groupAware?: boolean;
  /** What is added to the diagonal of the Gram matrix, in parts of its mean: 0 or more, less than 1. Default: 0.01. */
  dampPercent?: number;
  /** By how much `dampPercent` grows as long as the matrix is not positive definite. Default: 0.01; 0: not at all. */
  dampAutoIncrement?: number;
  /**
   * Ranges of groups see the errors of all columns before the block of so many columns in which they begin. Default: 128, as
   * in the GPTQ code.
   */
  blockSize?: number;
  /**
   * `'minmax'`, or `'mse'`: of 80 ranges, each a hundredth narrower than the one before, that with the least error. Default:
   * `'mse'`; with `convention: 'gptq'` `'minmax'`, as in the GPTQ code.
   */
  range?: 'minmax' | 'mse';
  /**
   * Whose rules make scales and zero points.
   * - `'affine'` (default): those of {@link quantizeTensor}; `range: 'mse'` weighs the squares of errors by how much they
   *   cost when all later columns make up for them.
   * - `'gptq'`: those of the GPTQ code. Symmetric scales are `2·max|x| / (2^b − 1)`, of groups without a negative weight
   *   `max / (2^b − 1)`; a group of zeros has the range [−1, 1]; `range: 'mse'` adds up |error|^2.4.
   */
  convention?: Convention;
  /**
   * What becomes of columns whose inputs were always zero: `'round'` (default) to nearest; `'zero'` sets them to zero, as the
   * GPTQ code does.
   */
  deadColumns?: 'round' | 'zero';
  /** Where to compute; a device gives the same bits. Default `'cpu'`. */
  device?: Device;
}

/** What {@link gptq} makes of a weight. */
export interface GptqResult extends MethodResult {
  /**
   * tr((W − Ŵ)·H·(W − Ŵ)ᵀ), the squared error of the layer's output over all inputs, with the damping in H. NaN if the
   * weight was rounded to nearest for want of a usable Gram matrix.
   */
  readonly loss: number;
  /** The `dampPercent` with which the Gram matrix could be factorized. */
  readonly dampPercent: number;
}

const OPTIONS: ReadonlySet<string> = new Set([
  ...METHOD_OPTIONS,
  'descAct',
  'staticGroups',
  'groupAware',
  'dampPercent',
  'dampAutoIncrement',
  'blockSize',
  'range',
  'convention',
  'deadColumns',
  'device',
]);

interface Plan {
  readonly order: Int32Array | null;
  readonly groups: Int32Array;
  readonly staticRanges: boolean;
  readonly codesInOrder: boolean;
}

/** Indices by falling value; of equal ones the first comes first. */
function falling(values: ArrayLike<number>, indices: Iterable<number>): number[] {
  return [...indices].sort((a, b) => (values[b] as number) - (values[a] as number) || a - b);
}

/** In which order columns are quantized, and what group each is in. */
function planOf(t: Target, diagonal: Float32Array, descAct: boolean, isStatic: boolean, groupAware: boolean): Plan {
  const own = groupsOf(t);
  const count = groupCountOf(t);
  const staticRanges = isStatic || count === 1;
  if (descAct) {
    const order = Int32Array.from(falling(diagonal, own.keys()));
    if (!staticRanges) return { order, groups: own, staticRanges, codesInOrder: true };
    return { order, groups: order.map((j) => own[j] as number), staticRanges, codesInOrder: false };
  }
  if (!groupAware) return { order: null, groups: own, staticRanges, codesInOrder: false };
  const length = count === 1 ? t.columns : t.layout.groupLength;
  const begin = (g: number) => g * length;
  const end = (g: number) => Math.min(t.columns, (g + 1) * length);
  const means = Float64Array.from({ length: count }, (_, g) => {
    let sum = 0;
    for (let j = begin(g); j < end(g); j++) sum += diagonal[j] as number;
    return sum / (end(g) - begin(g));
  });
  const order = new Int32Array(t.columns);
  let next = 0;
  for (const g of falling(means, means.keys())) {
    const members = Array.from({ length: end(g) - begin(g) }, (_, i) => begin(g) + i);
    for (const j of falling(diagonal, members)) order[next++] = j;
  }
  return { order, groups: order.map((j) => own[j] as number), staticRanges, codesInOrder: false };
}

function fraction(name: string, value: unknown, fallback: number): number {
  if (value === undefined) return fallback;
  if (typeof value !== 'number' || !(value >= 0 && value < 1)) {
    throw invalidArgument(name, 'a number of at least 0 and less than 1', value);
  }
  return value;
}

function diagonalOf(gram: Float32Array, k: number, name: string | undefined): Float32Array {
  const diagonal = new Float32Array(k);
  for (let i = 0; i < k; i++) {
    const value = gram[i * k + i] as number;
    if (!Number.isFinite(value)) throw nonFinite(gram, i * k + i, 'Gram matrix', name);
    diagonal[i] = value;
  }
  return diagonal;
}

/**
 * GPTQ: quantizes a weight column by column, and changes the columns that are still to come so that they take back what the
 * error of each does to the layer's output.
 *
 * With H = XᵀX + damping, H = R·Rᵀ (R upper triangular), column j becomes the code nearest to `w[j] + Σ_{i<j} e[i]·R[i][j] /
 * R[j][j]`, where e are the errors of the columns before: what the GPTQ code computes by way of the inverse of H.
 * Products accumulate in float32, each in the order of the columns; the result does not depend on the number of threads, the
 * instruction set or the device. A device finishes a weight that it has begun, also when the signal aborts.
 *
 * If H is not positive definite with a damping below 1, or all inputs were zero, the weight is rounded to nearest as by
 * {@link rtn}, and a warning says so.
 *
 * @param weight - `[N, K]`, row-major: N outputs, K inputs.
 * @param statistics - Of the inputs of the layer, with their Gram matrix.
 * @param options - At least `dtype`. By default what has the least error without an `order`: columns by their inputs, static
 *   groups of 128, ranges searched for; asymmetric for unsigned dtypes, symmetric for signed ones.
 * @returns The quantized weight `[n, k]` with its `order` of columns and warnings, the loss, and the damping that was needed.
 * @throws {@link InvalidArgumentError}; {@link NonFiniteError} for NaN or infinity in the weight or the Gram matrix, naming the
 *   layer if `name` is given; {@link ScaleOverflowError}; {@link OutOfMemoryError}; {@link DeviceError} of a device; the signal's
 *   reason. All as rejections.
 *
 * Sources: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
 * (arXiv:2210.17323). That it is Babai's nearest plane algorithm, hence needs no inverse: Chen et al., "The Geometry of LLM
 * Quantization" (arXiv:2507.18553).
 *
 * @example
 * ```ts
 * const hessian = gram(inputs, { k });
 * const statistics = { columns: k, rows, gram: hessian, sumOfSquares: Float64Array.from({ length: k }, (_, i) => hessian[i * k + i]) };
 * const { tensor, loss } = await gptq(weight, statistics, { dtype: 'uint4', scheme: 'symmetric', groupSize: 128 });
 * ```
 */
export async function gptq(weight: Float32Array, statistics: InputSums, options: GptqOptions): Promise<GptqResult> {
  const given = validate.options<Record<string, unknown>>('options', options, OPTIONS);
  const sums = statisticsFrom(statistics);
  const t = targetOf(weight, given, sums.columns);
  const groupAware = validate.boolean('groupAware', given['groupAware'], false);
  const descAct = validate.boolean('descAct', given['descAct'], !groupAware);
  const isStatic = validate.boolean('staticGroups', given['staticGroups'], true);
  if (descAct && groupAware) {
    throw new InvalidArgumentError('groupAware', 'Expected either descAct or groupAware: both choose the order.');
  }
  const damp = fraction('dampPercent', given['dampPercent'], 0.01);
  const dampStep = fraction('dampAutoIncrement', given['dampAutoIncrement'], 0.01);
  const block = validate.integer('blockSize', given['blockSize'] === undefined ? 128 : given['blockSize'], 1);
  const convention =
    given['convention'] === undefined ? 'affine' : validate.oneOf('convention', given['convention'], CONVENTIONS);
  const fallback = convention === 'gptq' ? 'minmax' : 'mse';
  const range = given['range'] === undefined ? fallback : validate.oneOf('range', given['range'], ['minmax', 'mse']);
  const dead =
    given['deadColumns'] === undefined
      ? 'round'
      : validate.oneOf('deadColumns', given['deadColumns'], ['round', 'zero']);
  const device = given['device'] === undefined ? CPU : deviceIndex('device', given['device']);
  if (sums.gram === null) {
    throw new InvalidArgumentError('statistics.gram', 'Expected statistics with a Gram matrix: collect them with one.');
  }
  t.signal?.throwIfAborted();
  const search = range === 'mse';
  const diagonal = diagonalOf(sums.gram, t.columns, t.name);
  const called = t.name === undefined ? 'The weight' : t.name;
  const alive = diagonal.some((d) => d !== 0);
  const { order, ...plan } = planOf(t, diagonal, descAct, isStatic, groupAware);
  const swept =
    !alive && t.weight.length > 0
      ? null
      : await sweep(t, {
          ...plan,
          device,
          gram: sums.gram,
          order,
          groupCount: groupCountOf(t),
          zeroDead: dead === 'zero',
          // The GPTQ code looks for the ranges of whole rows before it sets columns to zero, for those of groups after it.
          rangesWithDead: convention === 'gptq' && t.layout.granularity === 'per-channel',
          block,
          damp,
          dampStep,
          convention,
          search,
          importance: search && convention === 'affine' ? 'factor' : null,
          passes: search && plan.staticRanges && convention === 'affine' ? 2 : 1,
        });
  if (swept !== null) {
    const { tensor, loss, damp: used } = swept;
    const warnings =
      used === damp
        ? []
        : [
            `${called}: its Gram matrix is positive definite only with a dampPercent of ${+used.toFixed(6)}, not ${damp}.`,
          ];
    return { tensor, order: plan.codesInOrder ? order : null, warnings, loss, dampPercent: used };
  }
  const why = alive
    ? 'its Gram matrix is not positive definite, whatever the damping; more inputs may help'
    : 'all of its inputs were zero';
  const tensor = await rounded(t, search, convention, alive ? meanSquares(sums, t.name) : null);
  return {
    tensor,
    order: null,
    warnings: [`${called} was rounded to nearest: ${why}.`],
    loss: Number.NaN,
    dampPercent: damp,
  };
}
