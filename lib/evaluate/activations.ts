/**
 * Activations of linear layers as a model with quantized activations would have them.
 *
 * @module
 */
import type { DecoderModel } from '../model/model.js';
import { dequantizeTensorAsync } from '../tensor/dequantize.js';
import { quantizeTensorAsync } from '../tensor/quantize.js';

/**
 * Numbers of the activations that the linear layers of the blocks read. `'stored'`: quantized with the static scales that the
 * checkpoint has for them, as they are where it has none. `'float32'`: as they are. `'int8-dynamic'`: rounded to eight bits for
 * each token, symmetric, with the scale max|x| / 127 that each token has at that moment ("dynamic, per token"), as W8A8 models do.
 */
export type Activations = 'stored' | 'float32' | 'int8-dynamic';

export const ACTIVATIONS: readonly Activations[] = ['stored', 'float32', 'int8-dynamic'];

/** What a model's activations were in an evaluation: `'stored'` by what was found. */
export type EvaluatedActivations = Exclude<Activations, 'stored'> | DecoderModel['activations'];

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
