/**
 * SmoothQuant: what makes activations hard to quantize, channels much larger than others, is moved into the weights.
 *
 * Sources: Xiao et al., "SmoothQuant" (arXiv:2211.10438); mit-han-lab/smoothquant, `smooth.py`.
 *
 * @module
 */
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { linearAsync } from '../matmul/linear.js';
import { prepackAsync } from '../matmul/prepack.js';
import { dequantizeTensorAsync } from '../tensor/dequantize.js';
import { quantizeTensorAsync } from '../tensor/quantize.js';
import * as validate from '../validate.js';
import { checkStatistics, type InputStatistics } from './input-statistics.js';
import { checkWeights, type LinearWeight, scaleColumns } from './linear-weight.js';

/** What shares a scale when activations become int8: the values of a token, found as they come; or all, known beforehand. */
export type ActivationScales = 'dynamic' | 'static';

/** Options of {@link searchSmoothQuant}. */
export interface SmoothQuantOptions {
  /** How activations are going to be quantized. Default `'dynamic'`: per token. */
  activations?: ActivationScales;
  /** Exponents to try, from 0 to 1. Default 0, 0.05, …, 1. */
  alphas?: readonly number[];
  /** Ends the search early. */
  signal?: AbortSignal;
}

/** What {@link searchSmoothQuant} found. */
export interface SmoothQuantScales {
  /** `[K]`: divide the inputs by them, and multiply the columns of the weights. */
  readonly scales: Float32Array;
  /** The exponent; null if leaving all as it is was best. */
  readonly alpha: number | null;
  /** Squared error of the outputs, of the sampled activations. */
  readonly error: number;
  /** The same without scales. */
  readonly unsmoothedError: number;
}

const OPTIONS: ReadonlySet<string> = new Set(['activations', 'alphas', 'signal']);
const ACTIVATIONS = ['dynamic', 'static'] as const;
const LEAST = 1e-5;

function checkAlpha(argument: string, value: unknown): number {
  if (typeof value === 'number' && value >= 0 && value <= 1) return value;
  throw invalidArgument(argument, 'a number from 0 to 1', value);
}

/**
 * The scales of SmoothQuant, `s = max|x|^α / max|w|^(1−α)`, at least 1e-5, for each channel of activations x and the columns w of
 * all weights that read them.
 *
 * @param weights - Each `[N, K]`.
 * @param absMax - `[K]`: the largest magnitude of each channel.
 * @param alpha - From 0 (nothing is taken from the activations) to 1 (they become equally large). Default 0.5.
 * @returns `[K]`: divide the inputs by them, and multiply the columns of the weights.
 * @throws {@link InvalidArgumentError}
 *
 * Sources: Xiao et al., "SmoothQuant" (arXiv:2211.10438); mit-han-lab/smoothquant, `smooth.py`.
 */
export function smoothQuantScales(weights: readonly LinearWeight[], absMax: Float32Array, alpha = 0.5): Float32Array {
  checkAlpha('alpha', alpha);
  const columns = validate.float32Array('absMax', absMax).length;
  checkWeights(weights, columns);
  const largest = new Float64Array(columns).fill(LEAST);
  for (const { data, rows } of weights) {
    for (let row = 0; row < rows; row++) {
      for (let k = 0; k < columns; k++) {
        largest[k] = Math.max(largest[k] as number, Math.abs(data[row * columns + k] as number));
      }
    }
  }
  return absMax.map((x, k) => Math.max(x ** alpha / (largest[k] as number) ** (1 - alpha), LEAST));
}

/** What int8 makes of activations `[rows, K]`. */
async function storedActivations(
  x: Float32Array,
  columns: number,
  staticScale: number | null,
  signal: AbortSignal | undefined,
): Promise<Float32Array> {
  const shape = [x.length / columns, columns];
  const options = { dtype: 'int8', shape, ...(signal === undefined ? {} : { signal }) } as const;
  return dequantizeTensorAsync(
    staticScale === null
      ? await quantizeTensorAsync(x, { ...options, granularity: 'per-channel', axis: 0 })
      : await quantizeTensorAsync(x, { ...options, scales: Float32Array.of(staticScale) }),
  );
}

async function product(
  x: Float32Array,
  { data, rows, columns }: LinearWeight,
  signal: AbortSignal | undefined,
): Promise<Float32Array> {
  const packed = await prepackAsync(data, { shape: [rows, columns] });
  try {
    return await linearAsync(x, packed, signal === undefined ? {} : { signal });
  } finally {
    packed.dispose();
  }
}

/**
 * Searches for the α of SmoothQuant: the one with the least squared error of the outputs when weights are int8 per output channel
 * and activations int8, measured on the sampled activations. Not smoothing at all is one of the choices. Channels that were always
 * zero keep the scale 1.
 *
 * @param weights - Of all layers that read these activations, each `[N, K]`.
 * @param statistics - Of the activations: their sample and largest magnitudes.
 * @returns The α, its scales, `[K]`, and the errors.
 * @throws {@link InvalidArgumentError}, also if the sample is empty; {@link NonFiniteError}; the signal's reason.
 *
 * Sources: Xiao et al., "SmoothQuant" (arXiv:2211.10438).
 */
export async function searchSmoothQuant(
  weights: readonly LinearWeight[],
  statistics: InputStatistics,
  options: SmoothQuantOptions = {},
): Promise<SmoothQuantScales> {
  const given = validate.options<Record<string, unknown>>('options', options, OPTIONS);
  const activations = validate.oneOf('activations', given['activations'] ?? 'dynamic', ACTIVATIONS);
  const signal = validate.abortSignal('signal', given['signal']);
  const chosen = options.alphas ?? Array.from({ length: 21 }, (_, i) => i / 20);
  if (!Array.isArray(chosen)) throw invalidArgument('alphas', 'an array of numbers', chosen);
  const alphas = chosen.map((alpha, i) => checkAlpha(`alphas[${i}]`, alpha));
  const { columns, absMax, sample } = checkStatistics(statistics);
  checkWeights(weights, columns);
  if (sample.length === 0) {
    throw new InvalidArgumentError('statistics', 'Expected statistics with a sample of rows, but it is empty.');
  }
  const exact: Float32Array[] = [];
  for (const weight of weights) exact.push(await product(sample, weight, signal));
  const errorOf = async (scales: Float32Array): Promise<number> => {
    signal?.throwIfAborted();
    const x = sample.map((value, i) => value / (scales[i % columns] as number));
    const largest = absMax.reduce((a, b, k) => Math.max(a, b / (scales[k] as number)), 0);
    const staticScale = activations === 'static' ? (largest === 0 ? 1 : largest / 127) : null;
    const stored = await storedActivations(x, columns, staticScale, signal);
    let error = 0;
    for (const [i, weight] of weights.entries()) {
      const { data, rows } = scaleColumns(weight, scales);
      const shape = [rows, columns];
      const q = await quantizeTensorAsync(data, { dtype: 'int8', shape, granularity: 'per-channel', axis: 0 });
      const y = await product(stored, { data: await dequantizeTensorAsync(q), rows, columns }, signal);
      const reference = exact[i] as Float32Array;
      error += y.reduce((sum, value, j) => sum + (value - (reference[j] as number)) ** 2, 0);
    }
    return error;
  };
  const ones = new Float32Array(columns).fill(1);
  const unsmoothedError = await errorOf(ones);
  let best: SmoothQuantScales = { scales: ones, alpha: null, error: unsmoothedError, unsmoothedError };
  for (const alpha of alphas) {
    // What was never seen may come yet, and must not be divided by 1e-5 then.
    const scales = smoothQuantScales(weights, absMax, alpha).map((scale, k) => (absMax[k] === 0 ? 1 : scale));
    const error = await errorOf(scales);
    if (error < best.error) best = { scales, alpha, error, unsmoothedError };
  }
  return best;
}
