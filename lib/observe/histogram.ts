/**
 * Choosing a range from a histogram: the searches of calibration tools, for histograms of any origin.
 *
 * @module
 */
import { codeTypeOf, type IntDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { roundHalfEven } from '../tensor/channels.js';
import type { Scheme } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { parametersOf, schemeFrom } from './parameters.js';

/** How many elements fall between one edge and the next. */
export interface Histogram {
  /** Not negative, and finite. */
  readonly counts: ArrayLike<number>;
  /** One more than counts, ascending. */
  readonly edges: ArrayLike<number>;
}

/** A range of values. */
export interface ValueRange {
  readonly min: number;
  readonly max: number;
}

interface Checked {
  readonly counts: Float64Array;
  readonly edges: Float64Array;
  readonly total: number;
}

function arrayOf(argument: string, value: unknown): Float64Array {
  const isArray =
    Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView) && !isBigArray(value));
  if (!isArray) throw invalidArgument(argument, 'an array of numbers', value);
  return Float64Array.from(value as ArrayLike<unknown>, (x, i) => {
    if (typeof x !== 'number' || !Number.isFinite(x)) throw invalidArgument(`${argument}[${i}]`, 'a finite number', x);
    return x;
  });
}

function isBigArray(value: unknown): boolean {
  return value instanceof BigInt64Array || value instanceof BigUint64Array;
}

function check(value: unknown): Checked {
  const given = validate.options<Record<string, unknown>>('histogram', value, new Set(['counts', 'edges']));
  const counts = arrayOf('histogram.counts', given['counts']);
  const edges = arrayOf('histogram.edges', given['edges']);
  if (counts.length === 0 || edges.length !== counts.length + 1) {
    throw new InvalidArgumentError(
      'histogram',
      `Expected at least one count, and one more edge than counts, but received ${counts.length} and ${edges.length}.`,
    );
  }
  let total = 0;
  counts.forEach((count, i) => {
    if (count < 0) throw invalidArgument(`histogram.counts[${i}]`, 'a number that is not negative', count);
    total += count;
    const [low, high] = [edges[i] as number, edges[i + 1] as number];
    if (!(low < high)) throw invalidArgument(`histogram.edges[${i + 1}]`, `a number greater than ${low}`, high);
  });
  return { counts, edges, total };
}

/** @internal The first bin up to which a percentage of all elements lies. */
export function percentileBin(counts: ArrayLike<number>, percentile: number): number {
  let total = 0;
  for (let i = 0; i < counts.length; i++) total += counts[i] as number;
  const wanted = total * (percentile / 100);
  for (let i = 0, sum = 0; i < counts.length; i++) {
    sum += counts[i] as number;
    if (sum >= wanted) return i;
  }
  return counts.length - 1;
}

/** @internal */
export function checkPercentile(argument: string, value: unknown): number {
  if (typeof value !== 'number' || !(value > 50 && value <= 100)) {
    throw invalidArgument(argument, 'a number greater than 50 and at most 100', value);
  }
  return value;
}

/**
 * The magnitude below which a percentage of all magnitudes lie, as NVIDIA's calibrators take it: the lower edge of the first bin
 * up to which that many have been counted. 0 for an empty histogram.
 *
 * @param histogram - Of magnitudes: its edges begin at 0.
 * @param percentile - Greater than 50 and at most 100.
 * @returns A magnitude, one of the edges.
 * @throws {@link InvalidArgumentError} for a wrong type, value or number of edges.
 *
 * Source: NVIDIA TensorRT Model Optimizer, `modelopt/torch/quantization/calib/histogram.py`.
 *
 * @example
 * ```ts
 * percentileRange({ counts: [50, 40, 9, 1], edges: [0, 1, 2, 3, 4] }, 99); // 2
 * ```
 */
export function percentileRange(histogram: Histogram, percentile: number): number {
  const { counts, edges, total } = check(histogram);
  const checked = checkPercentile('percentile', percentile);
  if (total === 0) return 0;
  // As NVIDIA's code adds up, which may not quite reach 1 …
  let [sum, bin] = [0, 0];
  while (bin < counts.length) {
    sum += (counts[bin] as number) / total;
    if (sum >= checked / 100) break;
    bin++;
  }
  return edges[bin] as number; // … and then the last edge it is
}

/** Options of {@link entropyRange}. */
export interface EntropyOptions {
  /** Of the codes: they have `2^(bits − 1)` magnitudes, with `unsigned` `2^bits`. Default 8. */
  bits?: number;
  /** Whether no code is spent on a sign. Default false. */
  unsigned?: boolean;
  /** Every how many bins the range is cut. Default 1. */
  stride?: number;
  /** The least number of bins that a range has. Default 128. */
  startBin?: number;
}

/**
 * @internal Where to cut a histogram of magnitudes: the last of the numbers of bins for which the Kullback-Leibler divergence
 * of the quantized distribution from the clipped one is least.
 *
 * Of n bins, all others counted in the last one, group g holds those from ⌈g·n/groups⌉ on, and every bin of a group that is not
 * empty gets their mean. With P and Q the counts before and after, T and U their sums,
 * `KL = (Σ P·ln P − Σ P·ln Q) / T − ln T + ln U`; Q is the same in a group, so that running sums over the bins are enough.
 */
export function entropyCut(histogram: ArrayLike<number>, groups: number, stride: number, startBin: number): number {
  const counts = Float64Array.from(histogram);
  const bins = counts.length;
  if (bins > 1) counts[0] = counts[1] as number; // zeros say nothing about the range
  const sums = new Float64Array(bins + 1);
  const filled = new Float64Array(bins + 1);
  const logs = new Float64Array(bins + 1);
  counts.forEach((count, i) => {
    sums[i + 1] = (sums[i] as number) + count;
    filled[i + 1] = (filled[i] as number) + (count > 0 ? 1 : 0);
    logs[i + 1] = (logs[i] as number) + (count > 0 ? count * Math.log(count) : 0);
  });
  const total = sums[bins] as number;
  let best = Number.POSITIVE_INFINITY;
  let cut = bins < startBin ? bins : startBin + Math.floor((bins - startBin) / stride) * stride;
  for (let n = startBin; n <= bins; n += stride) {
    const inside = sums[n] as number;
    const outside = total - inside;
    const last = counts[n - 1] as number;
    if (inside === 0 || (last === 0 && outside > 0)) continue; // infinite: Q is 0 where P is not
    let divergence = (logs[n - 1] as number) + (last + outside > 0 ? (last + outside) * Math.log(last + outside) : 0);
    for (let g = 0, begin = 0; g < groups; g++) {
      const end = Math.ceil(((g + 1) * n) / groups);
      const sum = (sums[end] as number) - (sums[begin] as number);
      if (sum > 0) {
        const mean = sum / ((filled[end] as number) - (filled[begin] as number));
        divergence -= (end === n ? sum + outside : sum) * Math.log(mean);
      }
      begin = end;
    }
    divergence = divergence / total - Math.log(total) + Math.log(inside);
    if (divergence <= best) {
      best = divergence;
      cut = n;
    }
  }
  return cut;
}

/**
 * The magnitude at which to clip so that quantization changes the distribution of magnitudes the least: the published form of
 * TensorRT's entropy calibration. For every number of bins from `startBin` on, what lies beyond is counted in the last one, and the
 * bins are put together to as many groups as there are magnitudes; the last number with the least Kullback-Leibler divergence
 * wins. The first bin is counted like the second.
 *
 * @param histogram - Of magnitudes: its edges begin at 0.
 * @returns The upper edge of the last bin of the range; the last edge of all if there are fewer than `startBin`.
 * @throws {@link InvalidArgumentError} for a wrong type, value or number of edges.
 *
 * Source: NVIDIA TensorRT Model Optimizer, `modelopt/torch/quantization/calib/histogram.py`; Migacz, "8-bit Inference with
 * TensorRT" (GTC 2017).
 *
 * @example
 * ```ts
 * const amax = entropyRange(observer.histogram({ magnitudes: true }));
 * ```
 */
export function entropyRange(histogram: Histogram, options: EntropyOptions = {}): number {
  const { counts, edges } = check(histogram);
  const names = new Set(['bits', 'unsigned', 'stride', 'startBin']);
  const given = validate.options<Record<string, unknown>>('options', options, names);
  const bits = given['bits'] === undefined ? 8 : validate.integer('bits', given['bits'], 2, 16);
  const unsigned = validate.boolean('unsigned', given['unsigned'], false);
  const stride = given['stride'] === undefined ? 1 : validate.integer('stride', given['stride'], 1);
  const startBin = given['startBin'] === undefined ? 128 : validate.integer('startBin', given['startBin'], 1);
  return edges[entropyCut(counts, 2 ** (unsigned ? bits : bits - 1), stride, startBin)] as number;
}

/** Options of {@link mseRange}. */
export interface MseOptions {
  /** The codes. */
  dtype: IntDtype;
  /** Default symmetric for signed and asymmetric for unsigned dtypes. */
  scheme?: Scheme;
}

/** Ranges are shrunk by this many hundredths at most, as in GPTQ's `mse` option and `quantizeTensor`. */
const SHRINK_STEPS = 80;

/** @internal */
export function leastSquaresRange(
  counts: ArrayLike<number>,
  centers: ArrayLike<number>,
  range: ValueRange,
  dtype: IntDtype,
  scheme: Scheme,
): ValueRange {
  const code = codeTypeOf('dtype', dtype);
  const lowest = code.lowest + (scheme === 'symmetric' && code.signed ? 1 : 0);
  const absmax = Math.max(-range.min, range.max);
  const full = scheme === 'symmetric' ? { min: -absmax, max: absmax } : range;
  let least = Number.POSITIVE_INFINITY;
  let best: ValueRange = full;
  for (let step = 0; step < SHRINK_STEPS; step++) {
    const factor = Math.fround(1 - step / 100);
    const shrunk = { min: Math.fround(full.min * factor), max: Math.fround(full.max * factor) };
    const { scale, zeroPoint } = parametersOf(shrunk.min, shrunk.max, code, scheme);
    let error = 0;
    for (let i = 0; i < counts.length && error < least; i++) {
      const count = counts[i] as number;
      if (count === 0) continue;
      const x = centers[i] as number;
      const q = Math.min(code.highest, Math.max(lowest, roundHalfEven(x / scale) + zeroPoint));
      error += count * (x - (q - zeroPoint) * scale) ** 2;
    }
    if (error < least) {
      least = error;
      best = shrunk;
    }
  }
  return best;
}

/**
 * The range for which quantizing costs the least squared error: the best of 80, from the whole range down to 21 hundredths of it,
 * where every element counts as the middle of its bin. `quantizeTensor` with `range: 'mse'` tries the same ranges on the elements.
 *
 * @param histogram - Of values, negative ones included.
 * @returns Symmetric schemes: `min = −max`.
 * @throws {@link InvalidArgumentError} for a wrong type, value or number of edges.
 *
 * @example
 * ```ts
 * const { min, max } = mseRange(observer.histogram(), { dtype: 'int4' });
 * ```
 */
export function mseRange(histogram: Histogram, options: MseOptions): ValueRange {
  const { counts, edges } = check(histogram);
  const given = validate.options<Record<string, unknown>>('options', options, new Set(['dtype', 'scheme']));
  const { signed } = codeTypeOf('dtype', given['dtype']);
  const scheme = schemeFrom(given['scheme'], signed);
  const centers = counts.map((_, i) => ((edges[i] as number) + (edges[i + 1] as number)) / 2);
  const first = counts.findIndex((count) => count > 0);
  if (first < 0) return { min: 0, max: 0 };
  const last = counts.findLastIndex((count) => count > 0);
  const whole = { min: Math.min(0, edges[first] as number), max: Math.max(0, edges[last + 1] as number) };
  return leastSquaresRange(counts, centers, whole, given['dtype'] as IntDtype, scheme);
}

/** Options of {@link histogramRange}. */
export interface HistogramRangeOptions {
  /** How many codes there are. Default 256, as PyTorch has it for all dtypes of 8 bits or fewer. */
  levels?: number;
}

/**
 * The range that PyTorch's `HistogramObserver` chooses: bins are dropped from either end, a hundred-thousandth of all elements at
 * a time from the end where that drops more of them, until the squared error begins to grow. Elements are taken as uniform
 * within their bin.
 *
 * @param histogram - Of values, negative ones included, its bins equally wide.
 * @param options - `levels`, 2 to 65536, default 256: how many codes there are.
 * @returns Where the codes should begin and end.
 * @throws {@link InvalidArgumentError} for a wrong type, value or number of edges.
 *
 * Source: PyTorch, `torch/ao/quantization/observer.py`, `HistogramObserver._non_linear_param_search`.
 *
 * @example
 * ```ts
 * const { min, max } = histogramRange(observer.histogram());
 * ```
 */
export function histogramRange(histogram: Histogram, options: HistogramRangeOptions = {}): ValueRange {
  const { counts, edges, total } = check(histogram);
  const given = validate.options<Record<string, unknown>>('options', options, new Set(['levels']));
  const levels = given['levels'] === undefined ? 256 : validate.integer('levels', given['levels'], 2, 65536);
  const bins = counts.length;
  const [min, max] = [edges[0] as number, edges[bins] as number];
  if (total === 0) return { min, max };
  const width = (max - min) / bins;
  const sums = new Float64Array(bins);
  counts.reduce((sum, count, i) => {
    sums[i] = sum + count;
    return sums[i] as number;
  }, 0);
  const STEP = 1e-5;
  let [alpha, beta, first, last, least] = [0, 1, 0, bins - 1, Number.POSITIVE_INFINITY];
  while (alpha < beta) {
    let [left, right] = [first, last];
    while (left < last && (sums[left] as number) < (alpha + STEP) * total) left++;
    while (right > first && (sums[right] as number) > (beta - STEP) * total) right--;
    const fromLeft = left - first > last - right;
    if (fromLeft) alpha += STEP;
    else beta -= STEP;
    const next: [number, number] = fromLeft ? [left, last] : [first, right];
    if (next[0] === first && next[1] === last) continue;
    const error = errorWithin(counts, width, next[0], next[1], levels);
    if (error > least) break;
    least = error;
    [first, last] = next;
  }
  return { min: edges[first] as number, max: edges[last + 1] as number };
}

/** The squared error of elements that are uniform within bins, if bins first … last were divided into levels. */
function errorWithin(counts: Float64Array, width: number, first: number, last: number, levels: number): number {
  const step = (width * (last - first + 1)) / levels;
  const cubes = (begin: number, end: number) => (end ** 3 - begin ** 3) / 3;
  const level = (x: number) => Math.min(levels - 1, Math.max(0, Math.floor(x / step)));
  let error = 0;
  for (let i = 0; i < counts.length; i++) {
    if (counts[i] === 0) continue;
    const begin = (i - first) * width;
    const end = begin + width;
    const [from, to] = [level(begin), level(end)];
    const whole = (to - from - 1) * cubes(-step / 2, step / 2);
    const sum = cubes(begin - (from + 0.5) * step, step / 2) + whole + cubes(-step / 2, end - (to + 0.5) * step);
    error += ((counts[i] as number) / width) * sum;
  }
  return error;
}
