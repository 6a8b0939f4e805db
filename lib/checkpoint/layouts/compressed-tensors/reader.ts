/**
 * Reading the compressed-tensors layout: codes in `<layer>.weight` (integers or FP8 in bytes) or `<layer>.weight_packed`
 * (integers in 32-bit words, FP4 in halves of bytes), scales in `<layer>.weight_scale`.
 *
 * | format | codes | scales |
 * | --- | --- | --- |
 * | naive-, int-, float-quantized | I8 or F8_E4M3 [N, K] | floats: tensor [1], channel [N, 1], group [N, G], block [⌈N/h⌉, ⌈K/w⌉] |
 * | pack-quantized | I32, see packing.ts; `weight_shape` [N, K] | the same |
 * | nvfp4-pack-quantized | U8 [N, K/2], E2M1, the first in the low half | F8_E4M3 [N, K/16], divided by `weight_global_scale` |
 * | mxfp4-pack-quantized | the same | E8M0 in U8 [N, K/32] |
 * | mxfp8-quantized | F8_E4M3 [N, K] | E8M0 in U8 [N, K/32] |
 *
 * `weight_zero_point` is I8 of the scales' shape or, in pack-quantized since April 2025, packed along N.
 *
 * Source: vllm-project/compressed-tensors ac8e2ba8, src/compressed_tensors/compressors.
 *
 * @module
 */
import type { Checkpoint } from '../../checkpoint.js';
import type { StoredTensor } from '../../stored-tensor.js';
import type { Weight } from '../../weight.js';
import type { LayoutReader } from '../layout.js';
import { layoutError, quantizationConfigOf } from '../parts.js';
import { type CompressedConfig, type ConfigGroup, compressedConfigOf } from './config.js';
import { layerFits, layerWeight, type StoredLayer, storedLayer } from './layer.js';
import { groupsOfLayers } from './targets.js';

/** Formats that were given up in 2026, by names that only they have. */
const LEGACY: readonly (readonly [suffix: string, beside: string, format: string])[] = [
  ['.bitmask', '.compressed', 'sparse-bitmask'],
  ['.scale_packed', '.meta', 'marlin-24'],
];

function refuseLegacy(left: ReadonlyMap<string, StoredTensor>): void {
  for (const tensor of left.values()) {
    for (const [suffix, beside, format] of LEGACY) {
      if (!tensor.name.endsWith(suffix) || !left.has(tensor.name.slice(0, -suffix.length) + beside)) continue;
      throw layoutError(
        'LAYOUT_UNSUPPORTED',
        tensor,
        `it belongs to a weight stored as ${format}, which lowbit does not read`,
      );
    }
  }
}

const PART = /\.weight(?:_packed|_scale)?$/;

/** Types of codes that are stored under the name of the weight. */
const CODES: ReadonlySet<string> = new Set(['I8', 'F8_E4M3']);

/** The layers that store a quantized weight, in the order of their first tensor. */
function layersOf(left: ReadonlyMap<string, StoredTensor>, config: CompressedConfig | null): string[] {
  const layers = new Set<string>();
  for (const tensor of left.values()) {
    const { name, dtype } = tensor;
    // Most tensors of a large file are none of these: they must not cost a string each.
    if (!PART.test(name) || (name.endsWith('.weight') && !CODES.has(dtype))) continue;
    const at = name.lastIndexOf('.');
    const layer = name.slice(0, at);
    const part = name.slice(at + 1);
    if (part === 'weight_packed') layers.add(layer);
    else if (part === 'weight' && isStoredWeight(tensor, left.get(`${layer}.weight_scale`), config)) layers.add(layer);
    else if (part === 'weight_scale' && config !== null && !left.has(`${layer}.weight_packed`)) {
      if (left.has(`${layer}.weight`)) layers.add(layer);
      else
        throw layoutError(
          'LAYOUT_MISSING_PART',
          tensor,
          `expected "${layer}.weight" or "${layer}.weight_packed" beside it`,
        );
    }
  }
  return [...layers];
}

/** Whether a tensor called `weight` holds codes. Without a config, FP8 with float scales is left to the FP8 layout. */
function isStoredWeight(
  tensor: StoredTensor,
  scale: StoredTensor | undefined,
  config: CompressedConfig | null,
): boolean {
  if (config !== null) return tensor.dtype === 'I8' || tensor.dtype === 'F8_E4M3';
  if (scale === undefined) return false;
  return tensor.dtype === 'I8' || (tensor.dtype === 'F8_E4M3' && (scale.dtype === 'U8' || scale.dtype === 'F8_E8M0'));
}

/** The group of the config that says how a layer is stored; null if none does. */
function groupOf(layer: StoredLayer, own: readonly ConfigGroup[], config: CompressedConfig): ConfigGroup | null {
  const candidates = own.length > 0 ? own : config.groups.filter(({ weights }) => weights !== null);
  const [only] = candidates;
  if (candidates.length <= 1) return only ?? null;
  const fitting = candidates.filter((group) => layerFits(layer, group));
  const different = new Set(fitting.map((group) => JSON.stringify(group.weights)));
  if (different.size === 1) return fitting[0] as ConfigGroup;
  const [code, why] =
    different.size === 0
      ? (['LAYOUT_INVALID', 'it fits none of them'] as const)
      : (['LAYOUT_AMBIGUOUS', `it fits ${different.size} of them`] as const);
  const message = `${config.path} has ${candidates.length} config groups that its layer may belong to, but ${why}`;
  throw layoutError(code, layer.codes, message);
}

/** The reader of compressed-tensors weights. */
export const compressedTensorsReader: LayoutReader = {
  format: 'compressed-tensors',

  async claim(checkpoint: Checkpoint, left: Map<string, StoredTensor>): Promise<Weight[]> {
    const config = compressedConfigOf(checkpoint);
    if (config === null && quantizationConfigOf(checkpoint) !== null) return [];
    refuseLegacy(left);
    const layers = layersOf(left, config);
    const groups = config === null ? new Map<string, ConfigGroup[]>() : groupsOfLayers(config, layers);
    const weights: Weight[] = [];
    for (const name of layers) {
      const layer = await storedLayer(left, name);
      const group = config === null ? null : groupOf(layer, groups.get(name) ?? [], config);
      const weight = await layerWeight(layer, group, checkpoint, config?.version ?? null);
      for (const part of weight.parts) left.delete(part.name);
      weights.push(weight);
    }
    return weights;
  },
};
