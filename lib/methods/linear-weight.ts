/**
 * Weights of linear layers as methods take them, and what a format makes of them.
 *
 * @module
 */
import type { LargeFloatDtype, QuantDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { dequantizeTensorAsync } from '../tensor/dequantize.js';
import { type QuantizeAsyncOptions, quantizeTensorAsync } from '../tensor/quantize.js';
import type { Granularity, QuantizedTensor, Scheme } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';

/** The weight of a linear layer. */
export interface LinearWeight {
  /** `[rows, columns]` in row-major order. */
  readonly data: Float32Array;
  /** N, outputs. */
  readonly rows: number;
  /** K, inputs. */
  readonly columns: number;
}

/** How the weights of a linear layer are quantized; the names are those of {@link QuantizeOptions}. */
export interface WeightSettings {
  readonly dtype: QuantDtype;
  readonly scheme?: Scheme;
  readonly narrowRange?: boolean;
  readonly granularity?: Granularity;
  readonly axis?: number;
  readonly groupSize?: number;
  readonly blockShape?: readonly [number, number];
  readonly scaleDtype?: LargeFloatDtype;
  readonly range?: 'minmax' | 'mse' | 'absmean' | 'twn' | { readonly percentile: number };
  readonly nested?: boolean;
}

/** What comes back of weights that were stored in a format. */
export type RoundTrip = (weights: Float32Array, rows: number, columns: number) => Promise<Float32Array>;

/** Rounds each weight to the nearest number of the format. */
export function roundToNearest(
  { data, rows, columns }: LinearWeight,
  settings: WeightSettings,
  signal?: AbortSignal,
): Promise<QuantizedTensor> {
  const options = { ...settings, shape: [rows, columns], ...(signal === undefined ? {} : { signal }) };
  return quantizeTensorAsync(data, options as unknown as QuantizeAsyncOptions<QuantDtype, Float32Array>);
}

/** @internal */
export function checkSettings(value: unknown): WeightSettings {
  if (typeof value === 'object' && value !== null && 'dtype' in value) return value as WeightSettings;
  throw invalidArgument('weights', 'how weights are quantized, at least { dtype },', value);
}

/** The round trip of a format. */
export function roundTripOf(settings: WeightSettings, signal?: AbortSignal): RoundTrip {
  return async (data, rows, columns) =>
    dequantizeTensorAsync(await roundToNearest({ data, rows, columns }, settings, signal));
}

/** How many columns share a scale, all of them unless the granularity has groups. */
export function groupSizeOf(settings: WeightSettings, columns: number): number {
  const { granularity, groupSize } = settings;
  if (granularity !== 'per-group') return columns;
  const isCodebook = settings.dtype === 'nf4' || settings.dtype === 'fp4';
  return Math.min(columns, groupSize ?? (isCodebook ? 64 : 128));
}

/** @internal */
export function checkWeights(weights: readonly LinearWeight[], columns: number): void {
  if (!Array.isArray(weights) || weights.length === 0) {
    throw new InvalidArgumentError('weights', 'Expected weights to be an array of at least one weight.');
  }
  for (const [i, weight] of weights.entries()) {
    if (typeof weight !== 'object' || weight === null) throw invalidArgument(`weights[${i}]`, 'a weight', weight);
    const rows = validate.integer(`weights[${i}].rows`, weight.rows, 0);
    if (validate.integer(`weights[${i}].columns`, weight.columns, 1) !== columns) {
      throw new InvalidArgumentError(
        'weights',
        `Expected weights[${i}] to have ${columns} columns, as its inputs have channels, but it has ${weight.columns}.`,
      );
    }
    validate.float32Array(`weights[${i}].data`, weight.data, rows * columns);
  }
}

/** Weights whose columns are multiplied by `scales`. */
export function scaleColumns({ data, rows, columns }: LinearWeight, scales: Float32Array): LinearWeight {
  const scaled = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    const begin = row * columns;
    for (let k = 0; k < columns; k++) scaled[begin + k] = (data[begin + k] as number) * (scales[k] as number);
  }
  return { data: scaled, rows, columns };
}

/** Weights whose rows are divided by `scales`. */
export function divideRows({ data, rows, columns }: LinearWeight, scales: Float32Array): LinearWeight {
  return { data: data.map((value, i) => value / (scales[Math.floor(i / columns)] as number)), rows, columns };
}
