/**
 * A tensor as the model knows it, whatever its files make of it: a quantized layout stores one weight as several tensors.
 * Everything that reads checkpoints works on weights, in blocks of rows.
 *
 * @module
 */
import type { LargeFloatDtype } from '../dtype.js';
import type { GgufType } from '../tensor/blocks.js';
import type { InputKind, InputQuantization } from '../tensor/input-quantization.js';
import type { QuantizedTensor } from '../tensor/quantized-tensor.js';
import type { Scratch } from './scratch.js';
import type { StoredTensor } from './stored-tensor.js';

/** The layouts in which a weight can be stored. */
export type WeightFormat =
  | 'float'
  /** Integers and what else is no weight: copied, never decoded. */
  | 'other'
  | 'gptq'
  | 'awq'
  | 'compressed-tensors'
  | 'bitsandbytes'
  | 'fp8'
  | 'gguf';

/** What a weight is stored as, in words and numbers that people are shown. */
export interface Encoding {
  readonly format: WeightFormat;
  /** The type of an element: `bfloat16`, `int4`, `nf4`, `q4_k`. */
  readonly dtype: string;
  /** Elements along a row that share a scale; null if a scale covers a row or more. */
  readonly groupSize: number | null;
  /** What else tells it apart: `v1`, `asymmetric`, `act-order`, `nested`. */
  readonly traits: readonly string[];
}

/** Rows of a weight, as they come out of a file. */
export type RowBlock =
  | { readonly kind: 'float'; readonly dtype: LargeFloatDtype; readonly data: Float32Array | Uint16Array }
  | {
      readonly kind: 'quantized';
      /** Shape [rows, columns]; where groups run on from row to row, [1, rows · columns] (bitsandbytes). */
      readonly tensor: QuantizedTensor;
      /** Column i of `tensor` is column `order[i]` of the weight; null: the same (GPTQ's act-order). */
      readonly order: Int32Array | null;
    }
  | { readonly kind: 'blocks'; readonly type: GgufType; readonly data: Uint8Array };

/** Static quantization of the activations that a layer reads, as a checkpoint stores it. */
export interface StoredInput extends InputKind {
  /** @throws CheckpointError `LAYOUT_SCALE` for a number that can't be a scale. */
  read(): Promise<InputQuantization>;
}

/** A weight of a checkpoint. */
export interface Weight {
  /** As in the float checkpoint: `model.layers.0.mlp.up_proj.weight`. */
  readonly name: string;
  readonly shape: readonly number[];
  /** The product of all axes but the last, and the last; 1 × n for a vector. */
  readonly rows: number;
  readonly columns: number;
  /** The float type of the model that it belongs to: its own, or that of its scales. Null for `other`. */
  readonly dtype: LargeFloatDtype | null;
  readonly encoding: Encoding;
  /** Everything that is stored for it. */
  readonly parts: readonly StoredTensor[];
  /** Blocks of rows begin at multiples of this. */
  readonly rowStep: number;
  /** How the layer's activations are quantized, if the checkpoint says so, with one scale for all. */
  readonly input?: StoredInput;
  /**
   * Reads rows `begin` … `end`. The arrays belong to `scratch`, and are valid until the next call with it.
   *
   * @throws CheckpointError, {@link StoredTensor.read}'s, and `LAYOUT_INVALID` or `LAYOUT_SCALE` where the data contradict
   *   the layout.
   */
  read(begin: number, end: number, scratch: Scratch): Promise<RowBlock>;
}

/** Bytes that are stored for a weight. */
export function storedBytes(weight: Weight): number {
  return weight.parts.reduce((sum, { bytes }) => sum + bytes, 0);
}
