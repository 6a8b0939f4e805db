/**
 * One linear layer of a block, quantized.
 *
 * @module
 */
import { InvalidArgumentError } from '../errors.js';
import { awqClip } from '../methods/awq.js';
import type { InputStatistics } from '../methods/input-statistics.js';
import { errorOfValues, layerError } from '../methods/layer-error.js';
import {
  areBlocks,
  type BlockSettings,
  blocksOf,
  type LinearWeight,
  valuesOfBlocks,
  type WeightSettings,
} from '../methods/linear-weight.js';
import { valuesOf } from '../methods/method.js';
import { type Layer, quantizeWeight, type RoundedWeight } from '../methods/quantize-weight.js';
import type { DecoderBlock } from '../model/block.js';
import type { LinearName } from '../model/decoder-weights.js';
import { compareSumsAsync, comparisonOf } from '../tensor/compare.js';
import { staticInput } from './layer-inputs.js';
import type { BlocksPart, QuantizedPart } from './model-part.js';
import { isStatic, type Work } from './quantize-work.js';

/** Queries and keys are not clipped: their products make errors grow. */
const UNCLIPPED: ReadonlySet<LinearName> = new Set(['self_attn.q_proj', 'self_attn.k_proj']);

/** A layer of a block that is to be quantized. */
export interface BlockLayer<S = WeightSettings | BlockSettings> extends Omit<Layer, 'settings'> {
  readonly linear: LinearName;
  readonly settings: S;
}

/** Whether it becomes codes, not blocks of GGUF. */
export function hasCodes(layer: BlockLayer): layer is BlockLayer<WeightSettings> {
  return !areBlocks(layer.settings);
}

/** A weight within its limits, where the method clips it. */
async function clipped(
  { rounding, transforms, options, signal }: Work,
  { linear, weight, settings }: BlockLayer,
  statistics: InputStatistics | null,
): Promise<LinearWeight> {
  const clips = transforms === 'awq' && rounding === 'rtn' && options.awq?.clip !== false;
  if (!clips || statistics === null || UNCLIPPED.has(linear)) return weight;
  const clip = await awqClip(weight, statistics, { weights: settings, ...(signal === undefined ? {} : { signal }) });
  return { ...weight, data: clip.data };
}

/** Codes of one linear layer. */
export async function quantizeLinear(
  work: Work,
  layer: BlockLayer<WeightSettings>,
  statistics: InputStatistics | null,
): Promise<RoundedWeight> {
  const { rounding, signal } = work;
  const target = await clipped(work, layer, statistics);
  return quantizeWeight(target, rounding, layer.settings, statistics, { name: layer.name, signal });
}

/** What became of a layer, with its errors. */
export async function partOf(
  { activationsOf, options, signal }: Work,
  block: DecoderBlock,
  { name, weight, settings }: BlockLayer<WeightSettings>,
  { tensor, order, warnings }: RoundedWeight,
  statistics: InputStatistics | null,
): Promise<QuantizedPart> {
  const rounded = { tensor, order };
  const activations = activationsOf(name);
  const input = isStatic(activations)
    ? staticInput(name, statistics as InputStatistics, options.range, activations, settings)
    : null;
  return {
    kind: 'quantized',
    name,
    block: block.index,
    tensor,
    order,
    inputScale: input?.scale ?? null,
    inputZeroPoint: input?.zeroPoint ?? null,
    relativeError: statistics?.gram == null ? null : (await layerError(weight.data, rounded, statistics)).relative,
    measured: comparisonOf(await compareSumsAsync(weight.data, await valuesOf(tensor, order), signal)),
    warnings,
  };
}

/** GGUF blocks of one linear layer, with their errors. */
export async function blocksPart(
  work: Work,
  { index }: DecoderBlock,
  layer: BlockLayer<BlockSettings>,
  statistics: InputStatistics | null,
): Promise<BlocksPart> {
  const { name, weight, settings } = layer;
  const { rows, columns } = weight;
  const data = await blocksOf(await clipped(work, layer, statistics), settings, work.signal);
  const values = await valuesOfBlocks(data, settings.type, columns, work.signal);
  return {
    kind: 'blocks',
    name,
    block: index,
    type: settings.type,
    shape: [rows, columns],
    data,
    relativeError: statistics?.gram == null ? null : (await errorOfValues(weight.data, values, statistics)).relative,
    measured: comparisonOf(await compareSumsAsync(weight.data, values, work.signal)),
  };
}

/** Blocks hold what a search makes, and engines choose themselves what activations become. */
export function checkBlocks(
  name: string,
  { type }: BlockSettings,
  { rounding, method }: Work,
  activations: ReturnType<Work['activationsOf']>,
): void {
  const expected =
    rounding !== 'rtn'
      ? `integers per group or per channel for ${name}, as ${method} makes them,`
      : activations === 'none'
        ? null
        : `integers or float8 for ${name}, since its activations are quantized,`;
  if (expected === null) return;
  throw new InvalidArgumentError('weights', `Expected ${expected} but received blocks of ${type}.`);
}
