/**
 * Weights of linear layers as methods take them, and what a format makes of them.
 *
 * @module
 */
import type { LargeFloatDtype, QuantDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { blockFormatOf, dequantizeBlocksAsync, type GgufType, quantizeBlocksAsync } from '../tensor/blocks.js';
import { dequantizeTensorAsync } from '../tensor/dequantize.js';
import { type QuantizeAsyncOptions, quantizeTensorAsync } from '../tensor/quantize.js';
import type { Granularity, QuantizedTensor, Scheme } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { type RtnOptions, rtn } from './rtn.js';

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
  /** See {@link MethodOptions.codeBits}. */
  readonly codeBits?: number;
}

/** How the weights of a linear layer become GGUF blocks; the names are those of {@link QuantizeBlocksOptions}. */
export interface BlockSettings {
  readonly type: GgufType;
  /** How much errors count, `[K]`, by the inputs that the weight has as it is: where scales are folded, it is divided by their squares. */
  readonly importance?: Float32Array;
}

/** What comes back of weights that were stored in a format; `scales`: what their columns were multiplied by before. */
export type RoundTrip = (
  weights: Float32Array,
  rows: number,
  columns: number,
  scales?: Float32Array,
) => Promise<Float32Array>;

/** A format as searches see it. */
export interface SearchFormat {
  readonly roundTrip: RoundTrip;
  /** Columns whose codes depend on each other. */
  readonly groupSize: number;
}

/** Whether weights become GGUF blocks. */
export function areBlocks(settings: WeightSettings | BlockSettings): settings is BlockSettings {
  return 'type' in settings;
}

/** Settings of a weight whose columns were multiplied by scales: its inputs are divided by them, so their squares by the squares. */
export function scaledSettings<T extends WeightSettings | BlockSettings>(
  settings: T,
  scales: Float32Array | undefined,
): T {
  if (scales === undefined || !areBlocks(settings) || settings.importance === undefined) return settings;
  const importance = settings.importance.map((value, k) => value / (scales[k] as number) ** 2);
  return { ...settings, importance };
}

/** GGUF blocks of a weight, rows after rows. */
export function blocksOf(
  { data, columns }: LinearWeight,
  { type, importance }: BlockSettings,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  return quantizeBlocksAsync(data, {
    type,
    rowLength: columns,
    ...(importance === undefined ? {} : { importance }),
    ...(signal === undefined ? {} : { signal }),
  });
}

/** The values of such blocks. */
export function valuesOfBlocks(
  data: Uint8Array,
  type: GgufType,
  columns: number,
  signal?: AbortSignal,
): Promise<Float32Array> {
  return dequantizeBlocksAsync(data, { type, rowLength: columns, ...(signal === undefined ? {} : { signal }) });
}

/** Rounds each weight to the nearest number of the format. */
export async function roundToNearest(
  { data, rows, columns }: LinearWeight,
  settings: WeightSettings,
  signal?: AbortSignal,
): Promise<QuantizedTensor> {
  if (settings.codeBits !== undefined) {
    const options = { ...settings, shape: [rows, columns], ...(signal === undefined ? {} : { signal }) };
    return (await rtn(data, options as unknown as RtnOptions)).tensor;
  }
  const options = { ...settings, shape: [rows, columns], ...(signal === undefined ? {} : { signal }) };
  return quantizeTensorAsync(data, options as unknown as QuantizeAsyncOptions<QuantDtype, Float32Array>);
}

/** @internal */
export function checkSettings(value: unknown): WeightSettings | BlockSettings {
  if (typeof value === 'object' && value !== null && ('dtype' in value || 'type' in value)) {
    return value as WeightSettings | BlockSettings;
  }
  throw invalidArgument('weights', 'how weights are quantized, at least { dtype } or { type },', value);
}

/** The round trip of a format. */
function roundTripOf(settings: WeightSettings | BlockSettings, signal?: AbortSignal): RoundTrip {
  if (areBlocks(settings)) {
    return async (data, rows, columns, scales) => {
      const blocks = await blocksOf({ data, rows, columns }, scaledSettings(settings, scales), signal);
      return valuesOfBlocks(blocks, settings.type, columns, signal);
    };
  }
  return async (data, rows, columns) =>
    dequantizeTensorAsync(await roundToNearest({ data, rows, columns }, settings, signal));
}

/** @internal A format for searches. */
export function searchFormatOf(
  settings: WeightSettings | BlockSettings,
  columns: number,
  signal?: AbortSignal,
): SearchFormat {
  return { roundTrip: roundTripOf(settings, signal), groupSize: groupSizeOf(settings, columns) };
}

/** How many columns share a scale, all of them unless the granularity has groups; for blocks how many are in one. */
export function groupSizeOf(settings: WeightSettings | BlockSettings, columns: number): number {
  if (areBlocks(settings)) return blockFormatOf('weights.type', settings.type).length;
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
