/**
 * What every layout of quantized weights provides: finding its weights in a checkpoint, and writing them.
 *
 * @module
 */
import type { LargeFloatDtype, QuantDtype } from '../../dtype.js';
import type { InputKind, InputQuantization } from '../../tensor/input-quantization.js';
import type { Granularity, QuantizedTensor, Scheme } from '../../tensor/quantized-tensor.js';
import type { Checkpoint, Json } from '../checkpoint.js';
import type { TensorSpec } from '../safetensors-writer.js';
import type { Scratch } from '../scratch.js';
import type { StoredTensor } from '../stored-tensor.js';
import type { Weight, WeightFormat } from '../weight.js';

/** Reads one layout. */
export interface LayoutReader {
  readonly format: WeightFormat;
  /**
   * Takes the tensors of the weights that are stored in this layout out of `left`, and returns those weights.
   *
   * @throws CheckpointError `LAYOUT_MISSING_PART`, `LAYOUT_DTYPE`, `LAYOUT_SHAPE`, `LAYOUT_SCALE` (a number that can't be a
   *   scale), `LAYOUT_INVALID` where parts contradict each other otherwise, `LAYOUT_UNSUPPORTED` for a layout that is known
   *   but not read, `LAYOUT_AMBIGUOUS` if two readings are possible and neither config nor data decide.
   */
  claim(checkpoint: Checkpoint, left: Map<string, StoredTensor>): Promise<Weight[]>;
}

/** How the weights of a layout are quantized: options of `quantizeTensor`. */
export interface Recipe {
  readonly dtype: QuantDtype;
  readonly scheme: Scheme;
  readonly granularity: Granularity;
  /** With `per-channel`: 0. */
  readonly axis?: number;
  readonly groupSize?: number;
  readonly blockShape?: readonly [number, number];
  /** What scales are rounded to. */
  readonly scaleDtype: LargeFloatDtype;
  /** Whether one number of the whole tensor (its largest magnitude) must be known before the first row. */
  readonly needsLargest: boolean;
  /** Whether scales are quantized as well, all of a tensor together: known only when all are there. */
  readonly nested?: boolean;
  /**
   * Whether groups run on from row to row, as if all rows were one: tensors have the shape [1, rows · columns], and blocks of
   * rows begin where a group does.
   */
  readonly acrossRows?: boolean;
  /** Whether columns may come in another order than the weight's (act-order). */
  readonly ordered?: boolean;
  /** Whether there is no room for a zero point that is the lowest code (GPTQ version 1). */
  readonly noLowestZeroPoint?: boolean;
  /** The static activations that every weight must come with; their scale is rounded to `scaleDtype`. */
  readonly input?: InputKind;
}

/** A weight that is to be written. */
export interface Outline {
  /** `model.layers.0.mlp.up_proj.weight` */
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  /** The float type of the model. */
  readonly dtype: LargeFloatDtype;
  /** How the layer's activations are quantized, where the recipe asks for it; for {@link LayoutWriter.encode} alone. */
  readonly input?: InputQuantization;
}

/** Bytes for one stored tensor: whole, or cut into `rowBytes` that lie `stride` bytes apart. */
export interface Piece {
  readonly tensor: string;
  /** Where the first byte goes, from the beginning of the tensor. */
  readonly begin: number;
  readonly data: Uint8Array;
  readonly rowBytes?: number;
  readonly stride?: number;
}

/** Rows of floats. */
export interface FloatRows {
  readonly dtype: LargeFloatDtype;
  readonly data: Float32Array | Uint16Array;
}

/** How a layout finds codes of its own. */
export interface OwnCodes {
  /** What has this rule, as messages name it: `LLM.int8()`. */
  readonly name: string;
  /** Rows from `begin` on, quantized, as they are stored; with the first of them, what belongs to no row. */
  quantize(weight: Outline, begin: number, rows: FloatRows, signal: AbortSignal): Promise<Piece[]>;
}

/** Writes one layout, in one setting (bits, group size, …). */
export interface LayoutWriter {
  readonly format: WeightFormat;
  readonly recipe: Recipe;
  /** Whether weights are stored transposed, so that a block of rows is a strip of every stored row. Default: no. */
  readonly transposed?: boolean;
  /** Why a weight can't be stored so, and what can be done: a clause for a list. Null if it can. */
  refusal(weight: Outline): string | null;
  /** The tensors that a weight becomes. */
  outputs(weight: Outline): TensorSpec[];
  /** Blocks of rows begin at multiples of this, so that none shares a stored word with another one. */
  rowStep(weight: Outline): number;
  /**
   * Rows from `begin` on, as they are stored; with the first of them, what belongs to no row.
   *
   * @param order - Column i of `tensor` is column `order[i]` of the weight (act-order); null: the same.
   * @param scratch - Memory that pieces may lie in until the next call with it.
   */
  encode(
    weight: Outline,
    begin: number,
    tensor: QuantizedTensor,
    order: Int32Array | null,
    scratch?: Scratch,
  ): Promise<Piece[]>;
  /** Of a layout whose codes follow from a rule that `quantizeTensor` does not have, and that holds no others: `encode` is not called. */
  readonly own?: OwnCodes;
  /**
   * `quantization_config` of config.json.
   *
   * @param ignored - Names of linear layers that stay in float.
   */
  config(ignored: readonly string[]): Json;
}
