/**
 * The compressed-tensors layout, format "pack-quantized": what vLLM and transformers load as weight-only int4 and int8.
 *
 * For a linear layer `<name>` with weight [N, K], codes of `b` bits and G groups along K (1 per channel):
 *
 * | tensor | dtype | shape | content |
 * | --- | --- | --- | --- |
 * | `<name>.weight_packed` | int32 | [N, ⌈K·b/32⌉] | code + 2^(b−1), the first in the low bits |
 * | `<name>.weight_scale` | the model's | [N, G] | |
 * | `<name>.weight_zero_point` | int32 | [⌈N·b/32⌉, G] | zero point + 2^(b−1), packed along N; asymmetric only |
 * | `<name>.weight_shape` | int64 | [2] | N, K |
 *
 * Source: vllm-project/compressed-tensors, src/compressed_tensors/compressors/pack_quantized.
 *
 * @module
 */
import type { QuantizedTensor, Scheme } from '../tensor/quantized-tensor.js';
import type { Json } from './checkpoint.js';
import { packZeroPointFields } from './layouts/compressed-tensors/packing.js';
import type { SafetensorsDtype } from './safetensors.js';
import type { TensorSpec } from './safetensors-writer.js';

export { packShape } from './layouts/compressed-tensors/packing.js';

/** How the layers of a checkpoint are quantized. */
export interface PackedScheme {
  readonly bits: 4 | 8;
  readonly scheme: Scheme;
  /** Elements along K that share a scale; null: one scale per output channel. */
  readonly groupSize: number | null;
}

/** `model.layers.0.mlp.up_proj.weight` → `model.layers.0.mlp.up_proj`. */
function layerOf(weightName: string): string {
  return weightName.slice(0, -'.weight'.length);
}

function groupsOf(columns: number, { groupSize }: PackedScheme): number {
  return groupSize === null ? 1 : columns / groupSize;
}

/** 32-bit words in a row of packed codes. */
function wordsPerRow(columns: number, bits: number): number {
  return Math.ceil((columns * bits) / 32);
}

/** The names of the tensors that a weight becomes. */
export function packedNames(weightName: string): { packed: string; scale: string; zeroPoint: string; shape: string } {
  const layer = layerOf(weightName);
  return {
    packed: `${layer}.weight_packed`,
    scale: `${layer}.weight_scale`,
    zeroPoint: `${layer}.weight_zero_point`,
    shape: `${layer}.weight_shape`,
  };
}

/** The tensors that a weight [rows, columns] becomes. */
export function packedTensors(
  weightName: string,
  rows: number,
  columns: number,
  scaleDtype: SafetensorsDtype,
  scheme: PackedScheme,
): TensorSpec[] {
  const names = packedNames(weightName);
  const groups = groupsOf(columns, scheme);
  const tensors: TensorSpec[] = [
    { name: names.packed, dtype: 'I32', shape: [rows, wordsPerRow(columns, scheme.bits)] },
    { name: names.scale, dtype: scaleDtype, shape: [rows, groups] },
    { name: names.shape, dtype: 'I64', shape: [2] },
  ];
  if (scheme.scheme === 'asymmetric') {
    tensors.push({ name: names.zeroPoint, dtype: 'I32', shape: [wordsPerRow(rows, scheme.bits), groups] });
  }
  return tensors;
}

/** The codes of some rows as they are stored in `weight_packed`. */
export function packCodes(q: QuantizedTensor, bits: 4 | 8): Uint8Array {
  const [rows = 0, columns = 0] = q.shape;
  const rowBytes = (columns * bits) / 8;
  const storedBytes = 4 * wordsPerRow(columns, bits);
  const stored = new Uint8Array(rows * storedBytes);
  if (rowBytes === storedBytes) {
    stored.set(q.data);
  } else {
    const packedBytes = Math.ceil(rowBytes);
    for (let row = 0; row < rows; row++) {
      stored.set(q.data.subarray(row * packedBytes, (row + 1) * packedBytes), row * storedBytes);
    }
  }
  // Two's complement to offset binary: flip the top bit of every code.
  const words = new Uint32Array(stored.buffer);
  const flip = bits === 4 ? 0x88888888 : 0x80808080;
  for (let i = 0; i < words.length; i++) words[i] = (words[i] as number) ^ flip;
  clearPadding(words, rows, columns, bits);
  return stored;
}

/** The unused high bits in the last word of each row are zero. */
function clearPadding(words: Uint32Array, rows: number, columns: number, bits: number): void {
  const usedBits = (columns * bits) % 32;
  if (usedBits === 0) return;
  const perRow = wordsPerRow(columns, bits);
  const mask = 2 ** usedBits - 1;
  for (let row = 0; row < rows; row++) {
    const last = (row + 1) * perRow - 1;
    words[last] = (words[last] as number) & mask;
  }
}

/** Zero points [rows, groups] as they are stored in `weight_zero_point`: packed along the rows. */
export function packZeroPoints(zeroPoints: Int32Array, rows: number, groups: number, bits: 4 | 8): Uint8Array {
  const offset = 2 ** (bits - 1);
  return packZeroPointFields(
    zeroPoints.map((zeroPoint) => zeroPoint + offset),
    rows,
    groups,
    bits,
  );
}

/**
 * The `quantization_config` of config.json.
 *
 * @param ignore - Names of linear layers that keep their float weights.
 */
export function quantizationConfig(scheme: PackedScheme, ignore: readonly string[]): Json {
  return {
    quant_method: 'compressed-tensors',
    format: 'pack-quantized',
    quantization_status: 'compressed',
    global_compression_ratio: null,
    ignore: [...ignore],
    kv_cache_scheme: null,
    config_groups: {
      group_0: {
        targets: ['Linear'],
        weights: {
          num_bits: scheme.bits,
          type: 'int',
          symmetric: scheme.scheme === 'symmetric',
          strategy: scheme.groupSize === null ? 'channel' : 'group',
          group_size: scheme.groupSize,
          block_structure: null,
          dynamic: false,
          actorder: null,
          observer: 'minmax',
          observer_kwargs: {},
        },
        input_activations: null,
        output_activations: null,
      },
    },
  };
}
