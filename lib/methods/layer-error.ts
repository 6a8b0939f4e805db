/**
 * What a quantized weight does to a layer's output.
 *
 * @module
 */
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { linearAsync } from '../matmul/linear.js';
import { prepackAsync } from '../matmul/prepack.js';
import { dequantizeTensorAsync } from '../tensor/dequantize.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import { type InputSums, statisticsFrom } from './method.js';

/** The error of an output; see {@link layerError}. */
export interface LayerError {
  /** tr((W − Ŵ)·H·(W − Ŵ)ᵀ), H = XᵀX: the squared error, summed over all inputs and outputs. */
  readonly squared: number;
  /** The same, in parts of tr(W·H·Wᵀ), the squared output; 0 if both are zero. */
  readonly relative: number;
}

/** Rows that are multiplied at a time. */
const ROWS = 512;

/**
 * The error that quantizing a weight makes in the output of its layer, over the inputs of which the Gram matrix was
 * collected: what GPTQ makes small.
 *
 * @param weight - `[N, K]`, as it was.
 * @param result - What a method made of it, or any tensor of the same shape (with `order: null`).
 * @param statistics - Of the inputs of the layer, with their Gram matrix.
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
  const { columns, gram } = statisticsFrom(statistics);
  if (gram === null) {
    throw new InvalidArgumentError('statistics.gram', 'Expected statistics with a Gram matrix: collect them with one.');
  }
  if (typeof result !== 'object' || result === null) throw invalidArgument('result', '{ tensor, order }', result);
  const { tensor, order } = result;
  if (order !== null) validate.int32Array('result.order', order, columns);
  const values = await dequantizeTensorAsync(tensor);
  if (values.length !== w.length || (columns === 0 ? w.length !== 0 : w.length % columns !== 0)) {
    throw new InvalidArgumentError(
      'result',
      `Expected a tensor as large as the weight, ${w.length}, with ${columns} columns, but it has ${values.length} elements.`,
    );
  }
  if (w.length === 0) return { squared: 0, relative: 0 };
  const packed = await prepackAsync(gram, { shape: [columns, columns] });
  let squared = 0;
  let whole = 0;
  try {
    for (let begin = 0; begin < w.length; begin += ROWS * columns) {
      const end = Math.min(w.length, begin + ROWS * columns);
      const part = w.slice(begin, end);
      const errors = part.slice();
      for (let i = 0; i < errors.length; i++) {
        const column = i % columns;
        const to = i - column + (order === null ? column : (order[column] as number));
        errors[to] = (part[to] as number) - (values[begin + i] as number);
      }
      squared += dot(await linearAsync(errors, packed), errors);
      whole += dot(await linearAsync(part, packed), part);
    }
  } finally {
    packed.dispose();
  }
  return { squared, relative: squared === 0 ? 0 : squared / whole };
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}
