/**
 * Activations of linear layers as a model with quantized activations would have them.
 *
 * @module
 */
import { dequantizeTensorAsync } from '../tensor/dequantize.js';
import { quantizeTensorAsync } from '../tensor/quantize.js';

/**
 * Numbers of the activations that the linear layers of the blocks read. `'float32'`: as they are. `'int8-dynamic'`: rounded
 * to eight bits for each token, symmetric, with the scale max|x| / 127 that each token has at that moment ("dynamic, per
 * token"), as W8A8 models do.
 */
export type Activations = 'float32' | 'int8-dynamic';

export const ACTIVATIONS: readonly Activations[] = ['float32', 'int8-dynamic'];

/** Rounds each row, a token, to int8 and back. */
export async function roundedToInt8(
  x: Float32Array,
  columns: number,
  signal: AbortSignal | undefined,
): Promise<Float32Array> {
  const ending = signal === undefined ? {} : { signal };
  const shape = [x.length / columns, columns];
  const codes = await quantizeTensorAsync(x, { dtype: 'int8', granularity: 'per-channel', shape, ...ending });
  return dequantizeTensorAsync(codes, ending);
}
