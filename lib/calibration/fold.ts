/**
 * Moving scales of channels between the linear layers of a block and what comes before them.
 *
 * @module
 */
import { type InputStatistics, scaledStatistics } from '../methods/input-statistics.js';
import { divideRows, type LinearWeight, scaleColumns } from '../methods/linear-weight.js';
import type { DecoderBlock } from '../model/block.js';
import type { DecoderConfig } from '../model/config.js';
import {
  INPUTS,
  type InputName,
  type LinearName,
  linearShapes,
  NORMS,
  type NormName,
} from '../model/decoder-weights.js';
import { castTensor } from '../tensor/cast.js';

/** Float weights and norms of a block, as they are after folding. */
export interface BlockWeights {
  readonly linears: Map<LinearName, LinearWeight>;
  readonly norms: Map<NormName, Float32Array>;
  /** Norms and linear layers that are no longer those of the model. */
  readonly changed: Set<LinearName | NormName>;
}

/** What comes before an input, that can be divided by scales instead of the input. */
type Source = { readonly norm: NormName } | { readonly linear: LinearName };

const SOURCES: Readonly<Record<InputName, Source>> = {
  self_attn: { norm: 'input_layernorm' },
  'self_attn.o_proj': { linear: 'self_attn.v_proj' },
  mlp: { norm: 'post_attention_layernorm' },
  'mlp.down_proj': { linear: 'mlp.up_proj' },
};

/** Reads the weights of a block. */
export async function readBlockWeights(block: DecoderBlock, config: DecoderConfig): Promise<BlockWeights> {
  const shapes = linearShapes(config);
  const linears = new Map<LinearName, LinearWeight>();
  for (const { linears: names } of INPUTS) {
    for (const name of names) {
      const [rows, columns] = shapes[name];
      linears.set(name, { data: await block.weight(name), rows, columns });
    }
  }
  const norms = new Map<NormName, Float32Array>();
  for (const name of NORMS) norms.set(name, block.norm(name));
  return { linears, norms, changed: new Set() };
}

/**
 * Whether the scales of an input can be folded into what comes before: a norm always can; a linear layer if each of its outputs is
 * one channel of the input (not when heads of queries share values), and it has no bias, which would have to change as well.
 */
export function canFold(block: DecoderBlock, weights: BlockWeights, input: InputName): boolean {
  const source = SOURCES[input];
  if ('norm' in source) return true;
  const [reader] = INPUTS.find(({ name }) => name === input)?.linears ?? [];
  const { rows } = weights.linears.get(source.linear) as LinearWeight;
  const { columns } = weights.linears.get(reader as LinearName) as LinearWeight;
  return rows === columns && block.bias(source.linear) === null;
}

/**
 * The scales next to `scales` with which the norm before an input, divided by them, is made of numbers that its checkpoint can
 * store: so a file of 16-bit floats holds the very function. Where there are none, since the quotient is too large or too small,
 * the scale is 1.
 */
export function storableScales(
  block: DecoderBlock,
  weights: BlockWeights,
  input: InputName,
  scales: Float32Array,
): Float32Array {
  const source = SOURCES[input];
  const dtype = 'norm' in source ? block.normDtype(source.norm) : 'float32';
  if (!('norm' in source) || dtype === 'float32') return scales;
  const norm = weights.norms.get(source.norm) as Float32Array;
  const divided = norm.map((value, k) => value / (scales[k] as number));
  const halves = castTensor(divided, { from: 'float32', to: dtype });
  const stored = castTensor(halves, { from: dtype, to: 'float32' });
  return scales.map((scale, k) => {
    if (norm[k] === 0) return scale;
    const exact = (norm[k] as number) / (stored[k] as number);
    return Number.isFinite(exact) && exact > 0 ? exact : 1;
  });
}

/** Divides what comes before an input by scales, and multiplies the weights that read it. */
export function fold(weights: BlockWeights, input: InputName, scales: Float32Array): void {
  const source = SOURCES[input];
  if ('norm' in source) {
    const norm = weights.norms.get(source.norm) as Float32Array;
    weights.norms.set(
      source.norm,
      norm.map((value, k) => value / (scales[k] as number)),
    );
    weights.changed.add(source.norm);
  } else {
    weights.linears.set(source.linear, divideRows(weights.linears.get(source.linear) as LinearWeight, scales));
    weights.changed.add(source.linear);
  }
  for (const name of INPUTS.find((group) => group.name === input)?.linears ?? []) {
    weights.linears.set(name, scaleColumns(weights.linears.get(name) as LinearWeight, scales));
    weights.changed.add(name);
  }
}

/** The statistics of an input after its scales were folded; without scales the same. */
export function afterFolding(statistics: InputStatistics, scales: Float32Array | undefined): InputStatistics {
  return scales === undefined ? statistics : scaledStatistics(statistics, scales);
}
