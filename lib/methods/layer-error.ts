/**
 * What a quantized weight does to a layer's output.
 *
 * @module
 */
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { type InputSums, statisticsFrom, valuesOf } from './method.js';
import { difference, OutputErrorMeter } from './output-error.js';

/** The error of an output; see {@link layerError}. */
export interface LayerError {
  /** tr((W − Ŵ)·H·(W − Ŵ)ᵀ), H = XᵀX: the squared error, summed over all inputs and outputs. */
  readonly squared: number;
  /** The same, in parts of tr(W·H·Wᵀ), the squared output; 0 if both are zero. */
  readonly relative: number;
}

/**
 * The error that quantizing a weight makes in the output of its layer, over the inputs of which the Gram matrix was
 * collected: what GPTQ makes small.
 *
 * @param weight - `[N, K]`, as it was.
 * @param result - What a method made of it, or any tensor of the same shape (with `order: null`).
 * @param statistics - Of the inputs of the layer, with their Gram matrix.
 * @returns The error, absolute and relative to the layer's output.
 * @throws {@link InvalidArgumentError}; {@link NonFiniteError}; {@link OutOfMemoryError}. As rejections.
 *
 * @example
 * ```ts
 * const before = await layerError(weight, await rtn(weight, options), statistics);
 * const after = await layerError(weight, await gptq(weight, statistics, options), statistics);
 * ```
 */
export async function layerError(
  weight: Float32Array,
  result: { readonly tensor: QuantizedTensor; readonly order: Int32Array | null },
  statistics: InputSums,
): Promise<LayerError> {
  const w = validate.float32Array('weight', weight);
  const { columns, gram, sumOfSquares } = statisticsFrom(statistics);
  if (gram === null) {
    throw new InvalidArgumentError('statistics.gram', 'Expected statistics with a Gram matrix: collect them with one.');
  }
  if (typeof result !== 'object' || result === null) throw invalidArgument('result', '{ tensor, order }', result);
  const { tensor, order } = result;
  if (order !== null) validate.int32Array('result.order', order, columns);
  return errorOfValues(w, await valuesOf(tensor, order), { columns, gram, sumOfSquares });
}

/** @internal {@link layerError} of the values that a weight became. */
export async function errorOfValues(
  w: Float32Array,
  values: Float32Array,
  statistics: Omit<InputSums, 'rows'>,
): Promise<LayerError> {
  const { columns } = statistics;
  if (values.length !== w.length || (columns === 0 ? w.length !== 0 : w.length % columns !== 0)) {
    throw new InvalidArgumentError(
      'result',
      `Expected a tensor as large as the weight, ${w.length}, with ${columns} columns, but it has ${values.length} elements.`,
    );
  }
  if (w.length === 0) return { squared: 0, relative: 0 };
  const meter = await OutputErrorMeter.of(statistics);
  try {
    const squared = await meter.total(difference(w, values));
    return { squared, relative: squared === 0 ? 0 : squared / (await meter.total(w)) };
  } finally {
    meter.dispose();
  }
}
