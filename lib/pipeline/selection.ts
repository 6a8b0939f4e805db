/**
 * Which weights of a checkpoint are quantized.
 *
 * @module
 */
import type { Weight } from '../checkpoint/weight.js';

/** Which layers are chosen, by the names of their weights. */
export interface Selection {
  /** Only layers whose name matches. Default: all linear layers but the output head. */
  readonly include?: RegExp;
  /** No layers whose name matches. */
  readonly exclude?: RegExp;
}

/**
 * Matrices that are no linear layers: embeddings (token, position, …) and routers; and the output head, which every engine
 * keeps in float by default.
 */
const NOT_LINEAR =
  /(^|\.)(embed[^.]*|[^.]*embeddings?|wte|wpe|shared|[^.]*norm[^.]*|ln_[^.]*|gate\.weight$|router)(\.|$)/i;
const OUTPUT_HEAD = /(^|\.)(lm_head|output|score|classifier|embed_out)\.weight$/;

function isMatrix({ name, shape, encoding }: Weight): boolean {
  return name.endsWith('.weight') && shape.length === 2 && encoding.format !== 'other';
}

export function isLinear(weight: Weight): boolean {
  return isMatrix(weight) && !NOT_LINEAR.test(weight.name);
}

/** Whether a weight is the output head. */
export function isHead({ name }: Weight): boolean {
  return OUTPUT_HEAD.test(name);
}

export function isChosen(weight: Weight, { include, exclude }: Selection): boolean {
  if (exclude?.test(weight.name)) return false;
  if (weight.rows * weight.columns === 0) return false; // there is nothing to quantize, and no reader takes it
  if (include !== undefined) return isMatrix(weight) && include.test(weight.name);
  return isLinear(weight) && !OUTPUT_HEAD.test(weight.name);
}

/** The layer of a weight: `model.layers.0.mlp.up_proj.weight` → `model.layers.0.mlp.up_proj`. */
export function layerOf(name: string): string {
  return name.endsWith('.weight') ? name.slice(0, -'.weight'.length) : name;
}
