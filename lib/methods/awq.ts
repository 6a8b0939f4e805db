/**
 * AWQ: inputs that matter are scaled up in the weights before rounding, and down where they come from; then outliers of the
 * weights are clipped where that costs less than it saves.
 *
 * Sources: Lin et al., "AWQ: Activation-aware Weight Quantization" (arXiv:2306.00978); AutoAWQ, `awq/quantize/quantizer.py`.
 *
 * @module
 */
import { InvalidArgumentError } from '../errors.js';
import * as validate from '../validate.js';
import { checkStatistics, type InputStatistics } from './input-statistics.js';
import {
  type BlockSettings,
  checkSettings,
  checkWeights,
  type LinearWeight,
  type SearchFormat,
  scaleColumns,
  searchFormatOf,
  type WeightSettings,
} from './linear-weight.js';
import { difference, OutputErrorMeter } from './output-error.js';

/** From what AWQ's scales follow: `'duo'` from activations and weights, as AutoAWQ does; `'activations'` as in the paper. */
export type AwqScaling = 'duo' | 'activations' | 'both';

/** Options of {@link awqScales}. */
export interface AwqScaleOptions {
  /** How the weights are going to be quantized: all alike, or each as its element says. */
  weights: WeightSettings | BlockSettings | readonly (WeightSettings | BlockSettings)[];
  /** Exponents that are tried, 0, 1/grid, 2/grid, …; default 20. */
  grid?: number;
  /** Default `'both'`: all of either, with which leaving the weights as they are is one of the choices. */
  scaling?: AwqScaling;
  /** Ends the search early. */
  signal?: AbortSignal;
}

/** What {@link awqScales} found. */
export interface AwqScales {
  /** `[K]`: multiply the columns of the weights by them, and divide the inputs. */
  readonly scales: Float32Array;
  /** The exponent of the activations. */
  readonly ratio: number;
  /** From what the scales follow. */
  readonly scaling: 'duo' | 'activations';
  /** The squared error of the outputs over all activations that were seen. */
  readonly error: number;
  /** The same without scales. */
  readonly unscaledError: number;
}

/** Options of {@link awqClip}. */
export interface AwqClipOptions {
  /** How the weights are going to be quantized; an importance is that of the scaled activations. */
  weights: WeightSettings | BlockSettings;
  /** Limits that are tried, from the largest magnitude of a group down by 1/grid of it; default 20. */
  grid?: number;
  /** The part of the largest magnitude that is given up at most, from 0 to 1; default 0.5. */
  maxShrink?: number;
  /** Ends the search early. */
  signal?: AbortSignal;
}

/** What {@link awqClip} found. */
export interface AwqClip {
  /** The weights within their limits, in a new array. */
  readonly data: Float32Array;
  /** `[N, groups]`: the largest magnitude that each group keeps. */
  readonly limits: Float32Array;
}

const SCALE_OPTIONS: ReadonlySet<string> = new Set(['weights', 'grid', 'scaling', 'signal']);
const CLIP_OPTIONS: ReadonlySet<string> = new Set(['weights', 'grid', 'maxShrink', 'signal']);
const SCALINGS = ['duo', 'activations', 'both'] as const;
const DEFAULT_GRID = 20;

/** For each column, the mean over all rows of its magnitudes relative to the largest of their groups. */
function relativeMagnitudes(weights: readonly LinearWeight[], formats: readonly SearchFormat[]): Float64Array {
  const columns = (weights[0] as LinearWeight).columns;
  const means = new Float64Array(columns);
  let total = 0;
  for (const [i, { data, rows }] of weights.entries()) {
    const { groupSize } = formats[i] as SearchFormat;
    total += rows;
    for (let row = 0; row < rows; row++) {
      const at = row * columns;
      for (let begin = 0; begin < columns; begin += groupSize) {
        const end = Math.min(columns, begin + groupSize);
        let largest = 0;
        for (let k = begin; k < end; k++) largest = Math.max(largest, Math.abs(data[at + k] as number));
        for (let k = begin; k < end; k++) (means[k] as number) += Math.abs(data[at + k] as number) / (largest + 1e-6);
      }
    }
  }
  return means.map((sum) => sum / Math.max(1, total));
}

/** Scales of an exponent, centred around 1. */
function scalesOf(ratio: number, activations: Float64Array, weights: Float64Array | null): Float32Array {
  const raw = activations.map((x, k) => {
    const divisor = weights === null ? 1 : (weights[k] as number) ** (1 - ratio) + 1e-4;
    return Math.max(x ** ratio / divisor, 1e-4);
  });
  const [least, most] = [raw.reduce((a, b) => Math.min(a, b)), raw.reduce((a, b) => Math.max(a, b))];
  const centre = Math.sqrt(least * most);
  return Float32Array.from(raw, (s) => {
    const scale = s / centre;
    return Number.isFinite(scale) && scale > 0 ? scale : 1;
  });
}

/** The error of the outputs if weights are scaled, stored in their formats, and scaled back. */
async function errorOf(
  weights: readonly LinearWeight[],
  scales: Float32Array,
  formats: readonly SearchFormat[],
  meter: OutputErrorMeter,
  signal: AbortSignal | undefined,
): Promise<number> {
  let error = 0;
  for (const [i, weight] of weights.entries()) {
    const { data, rows, columns } = weight;
    const { roundTrip } = formats[i] as SearchFormat;
    const stored = await roundTrip(scaleColumns(weight, scales).data, rows, columns, scales);
    const change = stored.map((value, i) => value / (scales[i % columns] as number) - (data[i] as number));
    error += await meter.total(change, signal);
  }
  return error;
}

/** @internal {@link awqScales} for any formats, one for each weight. */
export async function searchScales(
  weights: readonly LinearWeight[],
  statistics: InputStatistics,
  formats: readonly SearchFormat[],
  options: { grid: number; scaling: AwqScaling; signal?: AbortSignal | undefined },
): Promise<AwqScales> {
  const { grid, scaling, signal } = options;
  const activations = statistics.sumOfMagnitudes.map((sum) => sum / Math.max(1, statistics.rows));
  const magnitudes = relativeMagnitudes(weights, formats);
  const kinds = scaling === 'both' ? (['activations', 'duo'] as const) : [scaling];
  const meter = await OutputErrorMeter.of(statistics);
  try {
    const ones = new Float32Array(statistics.columns).fill(1);
    const unscaledError = await errorOf(weights, ones, formats, meter, signal);
    let best: AwqScales = { scales: ones, ratio: 0, scaling: kinds[0], error: Number.POSITIVE_INFINITY, unscaledError };
    for (const kind of kinds) {
      for (let i = 0; i < grid; i++) {
        signal?.throwIfAborted();
        const ratio = i / grid;
        const isIdentity = kind === 'activations' && i === 0;
        const scales = isIdentity ? ones : scalesOf(ratio, activations, kind === 'duo' ? magnitudes : null);
        const error = isIdentity ? unscaledError : await errorOf(weights, scales, formats, meter, signal);
        if (error < best.error) best = { scales, ratio, scaling: kind, error, unscaledError };
      }
    }
    return Number.isFinite(best.error) ? best : { ...best, error: unscaledError };
  } finally {
    meter.dispose();
  }
}

/**
 * Searches for the scales of AWQ: one for each input channel of linear layers that read the same activations.
 *
 * For exponents r = 0, 1/grid, …: `s = mean|x|^r / (w^(1−r) + 1e-4)`, where w is a column's mean magnitude relative to its groups'
 * largest (`'duo'`), or `s = mean|x|^r` (`'activations'`), centred so that the least and the greatest are inverse to each other.
 * The scales with the least squared error of the outputs, over all activations of the calibration, are the result. Fold them into
 * the norm or linear layer before: its outputs are to be divided by them.
 *
 * @param weights - Of all layers that read these activations, each `[N, K]`.
 * @param statistics - Of the activations. With a Gram matrix the error is exact; without, channels count as independent.
 * @returns The scales, `[K]`, and the errors with and without them.
 * @throws {@link InvalidArgumentError}, {@link NonFiniteError}; the signal's reason.
 *
 * Sources: Lin et al., "AWQ: Activation-aware Weight Quantization" (arXiv:2306.00978); AutoAWQ, `awq/quantize/quantizer.py`.
 */
export async function awqScales(
  weights: readonly LinearWeight[],
  statistics: InputStatistics,
  options: AwqScaleOptions,
): Promise<AwqScales> {
  const given = validate.options<Record<string, unknown>>('options', options, SCALE_OPTIONS);
  const grid = validate.integer('grid', given['grid'] ?? DEFAULT_GRID, 1, 1000);
  const scaling = validate.oneOf('scaling', given['scaling'] ?? 'both', SCALINGS);
  const signal = validate.abortSignal('signal', given['signal']);
  checkWeights(weights, checkStatistics(statistics).columns);
  const settings: unknown = options.weights;
  const each: readonly unknown[] = Array.isArray(settings) ? settings : weights.map(() => settings);
  if (each.length !== weights.length) {
    throw new InvalidArgumentError(
      'weights',
      `Expected options.weights to have an element for each of ${weights.length} weights but it has ${each.length}.`,
    );
  }
  const formats = each.map((how) => searchFormatOf(checkSettings(how), statistics.columns, signal));
  return searchScales(weights, statistics, formats, { grid, scaling, signal });
}

/** Weights within limits, one for each row and group. */
function clamped({ data, rows, columns }: LinearWeight, groupSize: number, limits: Float32Array): Float32Array {
  const groups = Math.ceil(columns / groupSize);
  const result = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < columns; k++) {
      const limit = limits[row * groups + Math.floor(k / groupSize)] as number;
      result[row * columns + k] = Math.min(limit, Math.max(-limit, data[row * columns + k] as number));
    }
  }
  return result;
}

/** @internal {@link awqClip} for any format. */
export async function searchClip(
  weight: LinearWeight,
  statistics: InputStatistics,
  format: SearchFormat,
  options: { grid: number; maxShrink: number; signal?: AbortSignal | undefined },
): Promise<AwqClip> {
  const { data, rows, columns } = weight;
  const { roundTrip, groupSize } = format;
  const { grid, maxShrink, signal } = options;
  const groups = Math.ceil(columns / groupSize);
  const largest = new Float32Array(rows * groups);
  for (const [i, value] of data.entries()) {
    const at = Math.floor(i / columns) * groups + Math.floor((i % columns) / groupSize);
    largest[at] = Math.max(largest[at] as number, Math.abs(value));
  }
  const meters: OutputErrorMeter[] = [];
  try {
    for (let begin = 0; begin < columns; begin += groupSize) {
      meters.push(await OutputErrorMeter.ofColumns(statistics, begin, Math.min(columns, begin + groupSize)));
    }
    const best = largest.slice();
    const least = new Float64Array(best.length).fill(Number.POSITIVE_INFINITY);
    const steps = Math.max(1, Math.floor(maxShrink * grid));
    for (let i = 0; i < steps; i++) {
      signal?.throwIfAborted();
      const part = Math.fround(1 - i / grid); // in float32, as the reference: rounding at ties depends on the last bit
      const limits = largest.map((value) => value * part);
      const stored = await roundTrip(clamped(weight, groupSize, limits), rows, columns);
      const change = difference(stored, data);
      for (const [g, meter] of meters.entries()) {
        const begin = g * groupSize;
        const width = Math.min(columns, begin + groupSize) - begin;
        const columnsOfGroup = new Float32Array(rows * width);
        for (let row = 0; row < rows; row++) {
          const from = row * columns + begin;
          columnsOfGroup.set(change.subarray(from, from + width), row * width);
        }
        const errors = await meter.perRow(columnsOfGroup, signal);
        for (let row = 0; row < rows; row++) {
          const at = row * groups + g;
          if ((errors[row] as number) >= (least[at] as number)) continue;
          least[at] = errors[row] as number;
          best[at] = limits[at] as number;
        }
      }
    }
    return { data: clamped(weight, groupSize, best), limits: best };
  } finally {
    for (const meter of meters) meter.dispose();
  }
}

/**
 * Searches, for each row and group of weights, for the limit at which to clip them: the one of `grid · maxShrink` limits with the
 * least squared error of what the group adds to the output. AutoAWQ leaves out queries and keys.
 *
 * @param weight - `[N, K]`, scaled already.
 * @param statistics - Of the activations, scaled already.
 * @returns The weights within their limits, and the limits.
 * @throws {@link InvalidArgumentError}, {@link NonFiniteError}; the signal's reason.
 *
 * Sources: Lin et al., "AWQ: Activation-aware Weight Quantization" (arXiv:2306.00978); AutoAWQ, `awq/quantize/quantizer.py`.
 */
export async function awqClip(
  weight: LinearWeight,
  statistics: InputStatistics,
  options: AwqClipOptions,
): Promise<AwqClip> {
  const given = validate.options<Record<string, unknown>>('options', options, CLIP_OPTIONS);
  const grid = validate.integer('grid', given['grid'] ?? DEFAULT_GRID, 1, 1000);
  const maxShrink = given['maxShrink'] === undefined ? 0.5 : validate.finite('maxShrink', given['maxShrink'], true);
  const signal = validate.abortSignal('signal', given['signal']);
  checkWeights([weight], checkStatistics(statistics).columns);
  const format = searchFormatOf(checkSettings(options.weights), statistics.columns, signal);
  return searchClip(weight, statistics, format, { grid, maxShrink: Math.min(1, maxShrink), signal });
}
