/**
 * How a checkpoint is to be quantized: what people say, and the layout that writes it.
 *
 * @module
 */
import { GGUF_RECIPES, type GgufRecipe } from '../checkpoint/gguf/recipes.js';
import { awqWriter } from '../checkpoint/layouts/awq-writer.js';
import { gptqWriter } from '../checkpoint/layouts/gptq-writer.js';
import type { LayoutWriter } from '../checkpoint/layouts/layout.js';
import { packedWriter } from '../checkpoint/layouts/pack-quantized-writer.js';
import type { LargeFloatDtype } from '../dtype.js';
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import { capabilities } from '../runtime.js';
import type { Scheme } from '../tensor/quantized-tensor.js';
import * as validate from '../validate.js';
import type { Selection } from './selection.js';
import type { RangeMethod } from './task.js';

/**
 * Formats of checkpoints that {@link quantizeCheckpoint} writes.
 *
 * | format | for | dtypes |
 * | --- | --- | --- |
 * | `compressed-tensors` | vLLM, transformers | `int4` (default), `int8` |
 * | `gptq` | vLLM, transformers, GPTQModel: version 1, which every reader takes | `int4` (default), `int2`, `int3`, `int8` |
 * | `gptq_v2` | the same with zero points as they are; for asymmetric weights | the same |
 * | `awq` | vLLM, transformers, AutoAWQ ("gemm") | `int4` |
 * | `gguf` | llama.cpp | a block type or a mixture of llama-quantize's: `q4_k_m` (default), `q8_0`, … |
 */
export type CheckpointFormat = 'compressed-tensors' | 'gptq' | 'gptq_v2' | 'awq' | 'gguf';

/** Code types of weights, or for `gguf` the mixture of block types. */
export type CheckpointDtype = 'int2' | 'int3' | 'int4' | 'int8' | GgufRecipe;

/** How the weights of a layer are quantized. */
export interface LayerSpec {
  /** Default `'compressed-tensors'`. */
  readonly format?: CheckpointFormat;
  /** The code type of the weights. The default depends on the format, see {@link CheckpointFormat}. */
  readonly dtype?: CheckpointDtype;
  /** Default `'symmetric'`; of `awq` `'asymmetric'`. Not for `gguf`. */
  readonly scheme?: Scheme;
  /**
   * Elements along the input dimension that share a scale, or `null` for one scale per output channel. Default 128. Not for
   * `gguf`.
   */
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
  /** How the range is chosen; see {@link quantizeTensor}. Default `'minmax'`. Not for `gguf`. */
  readonly range?: RangeMethod;
  /** Layers that are treated otherwise; of several that match, the last one counts. */
  readonly layers?: readonly LayerOverride[];
  /** Whether weights that are quantized already may be quantized once more. Default false. */
  readonly requantize?: boolean;
}

interface Format {
  readonly dtypes: readonly CheckpointDtype[];
  readonly scheme: Scheme;
}

/** What each format takes; the first dtype is its default. */
export const FORMATS: Readonly<Record<CheckpointFormat, Format>> = {
  'compressed-tensors': { dtypes: ['int4', 'int8'], scheme: 'symmetric' },
  gptq: { dtypes: ['int4', 'int2', 'int3', 'int8'], scheme: 'symmetric' },
  gptq_v2: { dtypes: ['int4', 'int2', 'int3', 'int8'], scheme: 'symmetric' },
  awq: { dtypes: ['int4'], scheme: 'asymmetric' },
  gguf: { dtypes: ['q4_k_m', ...GGUF_RECIPES.filter((recipe) => recipe !== 'q4_k_m')], scheme: 'symmetric' },
};

/** A setting with everything said. */
export function completed(spec: LayerSpec): Required<LayerSpec> {
  const { format = 'compressed-tensors', groupSize = 128 } = spec;
  const { dtypes, scheme } = FORMATS[format];
  return { format, dtype: spec.dtype ?? (dtypes[0] as CheckpointDtype), scheme: spec.scheme ?? scheme, groupSize };
}

/** The layout's writer for a setting, and a key that is equal for equal settings. */
export function writerOf(spec: LayerSpec, modelDtype: LargeFloatDtype): { writer: LayoutWriter; key: string } {
  const setting = completed(spec);
  const { format, dtype, scheme, groupSize } = setting;
  return { writer: makeWriter(), key: JSON.stringify([format, dtype, scheme, groupSize]) };

  function makeWriter(): LayoutWriter {
    const bits = Number(dtype.slice(3)) as 2 | 3 | 4 | 8;
    switch (format) {
      case 'gptq':
      case 'gptq_v2': {
        const tools = [`lowbit:${capabilities().version}`];
        return gptqWriter({ bits, scheme, groupSize, version: format === 'gptq' ? 1 : 2, tools });
      }
      case 'awq':
        return awqWriter({ scheme, groupSize });
      case 'compressed-tensors':
        return packedWriter({ bits: bits as 4 | 8, scheme, groupSize }, modelDtype);
      case 'gguf':
        throw new RangeError('GGUF has no layout of its own');
    }
  }
}

const LAYER_OPTIONS = ['format', 'dtype', 'scheme', 'groupSize'] as const;

/** @internal */
export const SPEC_OPTIONS = [...LAYER_OPTIONS, 'range', 'include', 'exclude', 'layers', 'requantize'] as const;

function checkLayer(given: Record<string, unknown>, prefix: string, inherited?: CheckpointFormat): CheckpointFormat {
  const name = (option: string) => `${prefix}${option}`;
  const format =
    given['format'] === undefined
      ? (inherited ?? 'compressed-tensors')
      : validate.oneOf(name('format'), given['format'], Object.keys(FORMATS) as CheckpointFormat[]);
  if (inherited !== undefined && format !== inherited) {
    throw invalidArgument(name('format'), `the format of the whole, ${inherited},`, format);
  }
  const { dtypes } = FORMATS[format];
  if (given['dtype'] !== undefined) validate.oneOf(name('dtype'), given['dtype'], dtypes);
  if (format === 'gguf') {
    for (const option of ['scheme', 'groupSize', 'range']) {
      if (given[option] !== undefined) {
        throw new InvalidArgumentError(
          name(option),
          `Expected no ${name(option)} for gguf: its block types have their own.`,
        );
      }
    }
  }
  if (given['scheme'] !== undefined) validate.oneOf(name('scheme'), given['scheme'], ['symmetric', 'asymmetric']);
  if (given['groupSize'] !== undefined && given['groupSize'] !== null)
    validate.integer(name('groupSize'), given['groupSize'], 1);
  return format;
}

function checkPattern(name: string, pattern: unknown): void {
  if (!(pattern instanceof RegExp) || pattern.global || pattern.sticky) {
    throw new InvalidArgumentError(name, `Expected ${name} to be a RegExp without the flags g and y.`);
  }
}

/** @internal Checks what is said about quantizing. */
export function checkSpec(given: Record<string, unknown>): void {
  const format = checkLayer(given, '');
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
    checkLayer(options, `layers[${i}].spec.`, format);
  });
}
