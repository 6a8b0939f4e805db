/**
 * What methods know of the activations that a linear layer reads.
 *
 * @module
 */
import { invalidArgument } from '../errors.js';
import { Observer } from '../observe/observer.js';
import type { ObserverMethod } from '../observe/state.js';
import type { Scheme } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';

/** Statistics of the activations that one or several linear layers read. */
export interface InputStatistics {
  /** K, the columns of x. */
  readonly columns: number;
  /** Rows of x that were seen: tokens. */
  readonly rows: number;
  /** `[K, K]`: xᵀ·x, a sum and not a mean; null where it was not collected. */
  readonly gram: Float32Array | null;
  /** `[K]`: the largest magnitude of each channel. */
  readonly absMax: Float32Array;
  /** `[K]`: the sum of the squares of each channel. */
  readonly sumOfSquares: Float64Array;
  /** `[K]`: the sum of the magnitudes of each channel. */
  readonly sumOfMagnitudes: Float64Array;
  /** `[S, K]`: some rows as they came, at most 256 of all windows together. */
  readonly sample: Float32Array;
  /**
   * A range for all of x, for static quantization of activations; see {@link Observer}. Default `'minmax'`, for symmetric codes.
   */
  range(method?: RangeOfInputs, scheme?: Scheme): { readonly min: number; readonly max: number };
}

/** How the range of activations is found. */
export type RangeOfInputs = Exclude<ObserverMethod, 'moving-average'> | { readonly percentile: number };

/** Bins of the histogram of each input. */
export const BINS = 2048;

/** @internal The range, with 0 in it, that a method finds in what an observer with a histogram counted. */
export function rangeOf(observer: Observer, method: RangeOfInputs, scheme: Scheme): { min: number; max: number } {
  const { min, max } = observer.range();
  const [low, high] = [Math.min(0, min[0] ?? 0), Math.max(0, max[0] ?? 0)];
  if (method === 'minmax') return { min: low, max: high };
  const settings =
    typeof method === 'string' ? { method } : { method: 'percentile' as const, percentile: method.percentile };
  const found = Observer.fromState({ ...observer.toState(), ...settings }).parameters('int8', { scheme });
  const [scale, zeroPoint] = [found.scales[0] as number, found.zeroPoints[0] as number];
  const lowest = scheme === 'symmetric' ? -127 : -128;
  return { min: Math.max(low, scale * (lowest - zeroPoint)), max: Math.min(high, scale * (127 - zeroPoint)) };
}

/** @internal @throws {@link InvalidArgumentError} for what are no statistics. */
export function checkStatistics(value: unknown): InputStatistics {
  if (typeof value !== 'object' || value === null) throw invalidArgument('statistics', 'statistics of inputs', value);
  const given = value as InputStatistics;
  const columns = validate.integer('statistics.columns', given.columns, 1);
  validate.integer('statistics.rows', given.rows, 0);
  if (given.gram !== null) validate.float32Array('statistics.gram', given.gram, columns * columns);
  validate.float32Array('statistics.absMax', given.absMax, columns);
  for (const name of ['sumOfSquares', 'sumOfMagnitudes'] as const) {
    if (!(given[name] instanceof Float64Array) || given[name].length !== columns) {
      throw invalidArgument(`statistics.${name}`, `a Float64Array of length ${columns}`, given[name]);
    }
  }
  const { length } = validate.float32Array('statistics.sample', given.sample);
  if (length % columns !== 0) throw invalidArgument('statistics.sample', `whole rows of ${columns}`, given.sample);
  return given;
}

/**
 * Statistics of activations whose channels are divided by `scales`, as when those are folded into what comes before.
 *
 * Histograms can't be divided. So the range of `'minmax'` reaches to the largest magnitude on both sides, which is exact for
 * symmetric codes; those of other methods are searched for in the sampled rows.
 */
export function scaledStatistics(statistics: InputStatistics, scales: Float32Array): InputStatistics {
  const { columns, rows } = statistics;
  const inverse = Float64Array.from(scales, (s) => 1 / s);
  const gram = statistics.gram?.slice() ?? null;
  if (gram !== null) {
    for (let i = 0; i < columns; i++) {
      const f = inverse[i] as number;
      for (let j = 0; j < columns; j++) {
        (gram[i * columns + j] as number) *= f * (inverse[j] as number);
      }
    }
  }
  const absMax = statistics.absMax.map((value, k) => value * (inverse[k] as number));
  const largest = absMax.reduce((a, b) => Math.max(a, b), 0);
  const sample = statistics.sample.map((value, i) => value * (inverse[i % columns] as number));
  return {
    columns,
    rows,
    gram,
    absMax,
    sumOfSquares: statistics.sumOfSquares.map((value, k) => value * (inverse[k] as number) ** 2),
    sumOfMagnitudes: statistics.sumOfMagnitudes.map((value, k) => value * (inverse[k] as number)),
    sample,
    range: (method = 'minmax', scheme = 'symmetric') => {
      if (method === 'minmax') return { min: -largest, max: largest };
      const observer = new Observer({ method: 'mse', bins: BINS });
      observer.observe(sample);
      return rangeOf(observer, method, scheme);
    },
  };
}
