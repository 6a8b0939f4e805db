/**
 * How a checkpoint is to be quantized: what people say, and the layout that writes it.
 *
 * @module
 */
import type { LayoutWriter } from '../checkpoint/layouts/layout.js';
import { packedWriter } from '../checkpoint/layouts/pack-quantized-writer.js';
import type { LargeFloatDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import type { Scheme } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import type { Selection } from './selection.js';
import type { RangeMethod } from './task.js';

/** Formats of checkpoints that {@link quantizeCheckpoint} writes. */
export type CheckpointFormat = 'compressed-tensors';

/** How the weights of a layer are quantized. */
export interface LayerSpec {
  /** Default `'compressed-tensors'`. */
  readonly format?: CheckpointFormat;
  /** The code type of the weights. */
  readonly dtype: 'int4' | 'int8';
  /** Default `'symmetric'`. */
  readonly scheme?: Scheme;
  /** Elements along the input dimension that share a scale, or `null` for one scale per output channel. Default 128. */
  readonly groupSize?: number | null;
}

/** Layers that are treated otherwise than the rest. */
export interface LayerOverride {
  /** Matches the names of their weights. */
  readonly match: RegExp;
  /** How they are quantized; `'float'`: not at all. */
  readonly spec: LayerSpec | 'float';
}

/** How {@link quantizeCheckpoint} quantizes the linear layers. */
export interface QuantizationSpec extends LayerSpec, Selection {
  /** How the range is chosen; see {@link quantizeTensor}. Default `'minmax'`. */
  readonly range?: RangeMethod;
  /** Layers that are treated otherwise; of several that match, the last one counts. */
  readonly layers?: readonly LayerOverride[];
  /** Whether weights that are quantized already may be quantized once more. Default false. */
  readonly requantize?: boolean;
}

/** The layout's writer for a setting, and a key that is equal for equal settings. */
export function writerOf(spec: LayerSpec, dtype: LargeFloatDtype): { writer: LayoutWriter; key: string } {
  const { format = 'compressed-tensors', scheme = 'symmetric', groupSize = 128 } = spec;
  const key = JSON.stringify([format, spec.dtype, scheme, groupSize]);
  const bits = spec.dtype === 'int4' ? 4 : 8;
  return { writer: packedWriter({ bits, scheme, groupSize }, dtype), key };
}

const LAYER_OPTIONS = ['format', 'dtype', 'scheme', 'groupSize'] as const;

/** @internal */
export const SPEC_OPTIONS = [...LAYER_OPTIONS, 'range', 'include', 'exclude', 'layers', 'requantize'] as const;

function checkLayer(given: Record<string, unknown>, prefix: string): void {
  const name = (option: string) => `${prefix}${option}`;
  if (given['format'] !== undefined) validate.oneOf(name('format'), given['format'], ['compressed-tensors']);
  validate.oneOf(name('dtype'), given['dtype'], ['int4', 'int8']);
  if (given['scheme'] !== undefined) validate.oneOf(name('scheme'), given['scheme'], ['symmetric', 'asymmetric']);
  if (given['groupSize'] !== undefined && given['groupSize'] !== null)
    validate.integer(name('groupSize'), given['groupSize'], 1);
}

function checkPattern(name: string, pattern: unknown): void {
  if (!(pattern instanceof RegExp) || pattern.global || pattern.sticky) {
    throw new InvalidArgumentError(name, `Expected ${name} to be a RegExp without the flags g and y.`);
  }
}

/** @internal Checks what is said about quantizing. */
export function checkSpec(given: Record<string, unknown>): void {
  checkLayer(given, '');
  validate.boolean('requantize', given['requantize'], false);
  for (const name of ['include', 'exclude'] as const) if (given[name] !== undefined) checkPattern(name, given[name]);
  const { layers } = given;
  if (layers === undefined) return;
  if (!Array.isArray(layers)) throw invalidArgument('layers', 'an array', layers);
  layers.forEach((layer: unknown, i) => {
    const { match, spec } = validate.options<{ match: unknown; spec: unknown }>(
      `layers[${i}]`,
      layer,
      new Set(['match', 'spec']),
    );
    checkPattern(`layers[${i}].match`, match);
    if (spec === 'float') return;
    const options = validate.options<Record<string, unknown>>(`layers[${i}].spec`, spec, new Set(LAYER_OPTIONS));
    checkLayer(options, `layers[${i}].spec.`);
  });
}
