/**
 * What becomes of the weights of a decoder, and how they compute then.
 *
 * @module
 */
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import type { LinearLayer } from '../matmul/linear-layer.js';
import { int8Layer } from '../methods/int8-layers.js';
import { linearOfBlocks, linearOfTensor } from '../model/linear-layer.js';
import { staticLayer } from '../model/static-layers.js';
import type { GgufType } from '../tensor/blocks.js';
import type { Comparison } from '../tensor/compare.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import type { LayerActivations } from './quantize-work.js';

/** A weight that was quantized. */
export interface QuantizedPart {
  readonly kind: 'quantized';
  /** `model.layers.0.mlp.up_proj.weight` */
  readonly name: string;
  /** The block that it belongs to, from 0 on. */
  readonly block: number;
  /** `[N, K]` */
  readonly tensor: QuantizedTensor;
  /** Column i of `tensor` is column `order[i]` of the weight (act-order); null: the same. */
  readonly order: Int32Array | null;
  /** The scale of static activations of this layer, rounded as its weights' are (`scaleDtype`); null if they are not static. */
  readonly inputScale: number | null;
  /** Their code of zero, from −128 to 127; null if they are not static and asymmetric. */
  readonly inputZeroPoint: number | null;
  /**
   * Squared error of the layer's outputs relative to their squares, over all activations of the calibration; null without a Gram
   * matrix.
   */
  readonly relativeError: number | null;
  /** How far the weight is from what it was before it was rounded, with scales folded into it where the method does that. */
  readonly measured: Comparison;
  /** What did not go as asked, in sentences. */
  readonly warnings: readonly string[];
}

/** A weight that became GGUF blocks. */
export interface BlocksPart {
  readonly kind: 'blocks';
  /** `model.layers.0.mlp.up_proj.weight` */
  readonly name: string;
  /** The block that it belongs to, from 0 on. */
  readonly block: number;
  /** The type of the GGUF blocks. */
  readonly type: GgufType;
  /** `[N, K]` */
  readonly shape: readonly [number, number];
  /** As {@link quantizeBlocks} gives them, rows in the order of the weight. */
  readonly data: Uint8Array;
  /** See {@link QuantizedPart}. */
  readonly relativeError: number | null;
  /** See {@link QuantizedPart}. */
  readonly measured: Comparison;
}

/** A norm or weight that stays in float, but with other values, because scales were folded into it. */
export interface FloatPart {
  readonly kind: 'float';
  /** `model.layers.0.input_layernorm.weight` */
  readonly name: string;
  /** The block that it belongs to, from 0 on. */
  readonly block: number;
  readonly shape: readonly number[];
  /** The new values, row-major. */
  readonly data: Float32Array;
}

/** What {@link quantizeModel} yields. Whatever of the model is not yielded stays as it is. */
export type ModelPart = QuantizedPart | BlocksPart | FloatPart;

/**
 * The linear layer of a part, as it computes in the quantized model, for {@link DecoderBlock.replace}.
 *
 * @param part - What {@link quantizeModel} yielded.
 * @param bias - `[N]`, that of the layer; null if it has none.
 * @param activations - As in {@link QuantizeModelOptions}, or `{ threshold }` for LLM.int8(). Default `'none'`.
 * @returns A layer of N outputs and K inputs, which whoever asked for it disposes.
 * @throws {@link InvalidArgumentError} for anything else, or activations that do not go with the part; {@link OutOfMemoryError}.
 */
export async function layerOfPart(
  part: QuantizedPart | BlocksPart,
  bias: Float32Array | null,
  activations: LayerActivations | { readonly threshold: number } = 'none',
): Promise<LinearLayer> {
  if (typeof part !== 'object' || part === null) throw invalidArgument('part', 'a part of quantizeModel', part);
  if (part.kind === 'blocks') {
    if (activations === 'none') return linearOfBlocks(part.data, part.type, part.shape, bias);
    throw new InvalidArgumentError('activations', `Expected none for ${part.name}, which is blocks of ${part.type}.`);
  }
  const { tensor, order, inputScale, inputZeroPoint } = part;
  if (order !== null) validate.int32Array('part.order', order, tensor?.shape?.[1] ?? 0);
  if (activations === 'none') return linearOfTensor(tensor, bias, 'float32', order);
  if (activations === 'dynamic' || typeof activations === 'object') return int8Layer(tensor, { activations, bias });
  if (inputScale === null) {
    throw new InvalidArgumentError('part', `Expected ${part.name} to have an inputScale for static activations.`);
  }
  const dtype = tensor.dtype === 'float8_e4m3fn' ? 'float8_e4m3fn' : 'int8';
  return staticLayer(tensor, order, { dtype, scale: inputScale, zeroPoint: inputZeroPoint }, bias, 'float32');
}
