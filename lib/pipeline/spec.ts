/**
 * How a checkpoint is to be quantized: what people say, and the layout that writes it.
 *
 * @module
 */

import type { Json } from '../checkpoint/checkpoint.js';
import type { ImportanceMatrix } from '../checkpoint/gguf/imatrix.js';
import { GGUF_RECIPES, type GgufRecipe } from '../checkpoint/gguf/recipes.js';
import { awqQuantConfig, awqWriter } from '../checkpoint/layouts/awq-writer.js';
import { llmInt8Writer } from '../checkpoint/layouts/bitsandbytes/int8-writer.js';
import { bitsandbytesWriter } from '../checkpoint/layouts/bitsandbytes/writer.js';
import {
  type ActivationDtype,
  type CompressedTensorsSettings,
  compressedTensorsWriter,
} from '../checkpoint/layouts/compressed-tensors/writer.js';
import { fp8Writer } from '../checkpoint/layouts/fp8-writer.js';
import { gptqWriter } from '../checkpoint/layouts/gptq-writer.js';
import type { LayoutWriter } from '../checkpoint/layouts/layout.js';
import type { Sharing } from '../checkpoint/layouts/scaled-weight.js';
import type { LargeFloatDtype } from '../dtype.js';
import { capabilities } from '../runtime.js';
import { inputKindOf } from '../tensor/input-quantization.js';
import type { Granularity, Scheme } from '../tensor/quantized-tensor.js';
import { METHOD_SPEC_OPTIONS, type MethodSpec } from './method-spec.js';
import type { Selection } from './selection.js';
import type { RangeMethod } from './task.js';

/**
 * Formats of checkpoints that {@link quantizeCheckpoint} writes.
 *
 * | format | for | dtypes |
 * | --- | --- | --- |
 * | `compressed-tensors` | vLLM, transformers | `int4` (default), `int2`, `int3`, `int8`, `float8_e4m3fn`, `nvfp4`, `mxfp4`, `mxfp8_e4m3` |
 * | `gptq` | vLLM, transformers, GPTQModel: version 1, which every reader takes | `int4` (default), `int2`, `int3`, `int8` |
 * | `gptq_v2` | the same with zero points as they are; for asymmetric weights | the same |
 * | `awq` | vLLM, transformers, AutoAWQ ("gemm") | `int4` |
 * | `bitsandbytes` | transformers, vLLM | `nf4` (default), `fp4`, `int8`: LLM.int8() |
 * | `fp8` | vLLM, transformers: DeepSeek's blocks of 128 × 128, or a scale per tensor or channel | `float8_e4m3fn` |
 * | `gguf` | llama.cpp | a block type or a mixture of llama-quantize's: `q4_k_m` (default), `q8_0`, … |
 */
export type CheckpointFormat = 'compressed-tensors' | 'gptq' | 'gptq_v2' | 'awq' | 'bitsandbytes' | 'fp8' | 'gguf';

/** Code types of weights, or for `gguf` the mixture of block types. */
export type CheckpointDtype =
  | 'int2'
  | 'int3'
  | 'int4'
  | 'int8'
  | 'nf4'
  | 'fp4'
  | 'float8_e4m3fn'
  | 'nvfp4'
  | 'mxfp4'
  | 'mxfp8_e4m3'
  | GgufRecipe;

/** How compressed-tensors stores codes: what its own config calls the format, where there is a choice. */
export type CodeLayout = 'pack-quantized' | 'int-quantized' | 'naive-quantized' | 'float-quantized';

/** How the weights of a layer are quantized. */
export interface LayerSpec {
  /** Default `'compressed-tensors'`. */
  readonly format?: CheckpointFormat;
  /** The code type of the weights. The default depends on the format, see {@link CheckpointFormat}. */
  readonly dtype?: CheckpointDtype;
  /** Default `'symmetric'`; of `awq` `'asymmetric'`. Not for `gguf`. */
  readonly scheme?: Scheme;
  /**
   * What shares a scale. Default `'per-group'` for integers; `'per-channel'` for `float8_e4m3fn`, which can also be
   * `'per-tensor'` and, in blocks of 128 × 128, `'per-block'` (the default of `fp8`). Not for `gguf` and dtypes of fixed
   * blocks.
   */
  readonly granularity?: Granularity;
  /**
   * Elements along the input dimension that share a scale, or `null` for one scale per output channel. Default 128, for
   * integers but LLM.int8().
   */
  readonly groupSize?: number | null;
  /** `bitsandbytes` only: whether scales are quantized as well ("double quantization"). Default false. */
  readonly nested?: boolean;
  /**
   * `compressed-tensors` only: how codes are stored. `'pack-quantized'` (default of integers) packs them into words, for
   * kernels that dequantize; `'int-quantized'` (default of integers with int8 activations) and `'naive-quantized'` give
   * each a byte, for kernels that multiply bytes. FP8 is `'float-quantized'` or `'naive-quantized'`. Other dtypes have one.
   */
  readonly layout?: CodeLayout;
  /**
   * `compressed-tensors` only: what engines quantize activations to at run time, with a scale for each token (W8A8,
   * FP8_DYNAMIC). It is a wish in the config: no weight depends on it. Integers: `'float'` (default: not at all), `'int8'`
   * (default with `layout: 'int-quantized'`) or `'float8_e4m3fn'`; `float8_e4m3fn` and `mxfp8_e4m3`: themselves (default) or
   * `'float'`; `mxfp4`: `'float'` (default) or itself; `nvfp4`: `'float'`.
   *
   * Static ones have one scale for all tokens, which calibration finds and the checkpoint keeps: `'int8-static'` and
   * `'int8-static-asymmetric'`, with zero points, for symmetric `int8` weights per channel; `'float8_e4m3fn-static'` for
   * `float8_e4m3fn` weights per channel or tensor. They go with every method that makes such weights.
   */
  readonly activations?: ActivationDtype;
}

/** Layers that are treated otherwise than the rest. */
export interface LayerOverride {
  /** Matches the names of their weights. */
  readonly match: RegExp;
  /** How they are quantized; `'float'`: not at all. */
  readonly spec: LayerSpec | 'float';
}

/** How {@link quantizeCheckpoint} quantizes the linear layers. */
export interface QuantizationSpec extends LayerSpec, Selection, MethodSpec {
  /** How the range is chosen; see {@link quantizeTensor}. Default `'minmax'`. Not for `gguf`. */
  readonly range?: RangeMethod;
  /** Layers that are treated otherwise; of several that match, the last one counts. */
  readonly layers?: readonly LayerOverride[];
  /** Whether weights that are quantized already may be quantized once more. Default false. */
  readonly requantize?: boolean;
  /**
   * `gguf` only: how much errors count, input by input: the path of an importance matrix of llama.cpp's, or the matrix (see
   * {@link readImatrix}). Some mixtures choose other types with one; `q2_k_s` needs one.
   */
  readonly imatrix?: string | ImportanceMatrix;
}

interface Format {
  readonly dtypes: readonly CheckpointDtype[];
  readonly scheme: Scheme;
}

/** What each format takes; the first dtype is its default. */
export const FORMATS: Readonly<Record<CheckpointFormat, Format>> = {
  'compressed-tensors': {
    dtypes: ['int4', 'int2', 'int3', 'int8', 'float8_e4m3fn', 'nvfp4', 'mxfp4', 'mxfp8_e4m3'],
    scheme: 'symmetric',
  },
  gptq: { dtypes: ['int4', 'int2', 'int3', 'int8'], scheme: 'symmetric' },
  gptq_v2: { dtypes: ['int4', 'int2', 'int3', 'int8'], scheme: 'symmetric' },
  awq: { dtypes: ['int4'], scheme: 'asymmetric' },
  bitsandbytes: { dtypes: ['nf4', 'fp4', 'int8'], scheme: 'symmetric' },
  fp8: { dtypes: ['float8_e4m3fn'], scheme: 'symmetric' },
  gguf: { dtypes: ['q4_k_m', ...GGUF_RECIPES.filter((recipe) => recipe !== 'q4_k_m')], scheme: 'symmetric' },
};

/** A setting with everything said. */
export interface Setting {
  readonly format: CheckpointFormat;
  readonly dtype: CheckpointDtype;
  readonly scheme: Scheme;
  readonly granularity: Granularity;
  /** Null unless the granularity is `'per-group'`. */
  readonly groupSize: number | null;
  readonly nested: boolean;
  /** Null but for compressed-tensors with a choice. */
  readonly layout: CodeLayout | null;
  /** Undefined: what goes with the layout. */
  readonly activations: ActivationDtype | undefined;
}

/** What is not said, by the defaults. */
export function completed(spec: LayerSpec): Setting {
  const { format = 'compressed-tensors', groupSize, activations } = spec;
  const { dtypes, scheme } = FORMATS[format];
  const usual = dtypeOfLayout(spec.layout) ?? inputKindOf(activations)?.dtype ?? dtypes[0];
  const dtype = spec.dtype ?? (usual as CheckpointDtype);
  const isInteger = /^int\d$/.test(dtype);
  const layout = format === 'compressed-tensors' ? (spec.layout ?? usualLayout(dtype, activations)) : null;
  const isW8A8 = dtype === 'int8' && layout === 'int-quantized' && groupSize === undefined;
  const granularity = spec.granularity ?? (isW8A8 ? 'per-channel' : usualGranularity(format, dtype, groupSize));
  return {
    format,
    dtype,
    scheme: spec.scheme ?? (isInteger ? scheme : 'symmetric'),
    granularity,
    groupSize: granularity === 'per-group' ? (groupSize ?? (format === 'bitsandbytes' ? 64 : 128)) : null,
    nested: spec.nested ?? false,
    layout,
    activations,
  };
}

/** The usual codes of a layout, if they are not those of the format. */
function dtypeOfLayout(layout: CodeLayout | undefined): CheckpointDtype | undefined {
  if (layout === 'float-quantized') return 'float8_e4m3fn';
  return layout === 'int-quantized' || layout === 'naive-quantized' ? 'int8' : undefined;
}

function usualLayout(dtype: CheckpointDtype, activations: ActivationDtype | undefined): CodeLayout | null {
  if (dtype === 'float8_e4m3fn') return 'float-quantized';
  if (!/^int\d$/.test(dtype)) return null;
  return activations === 'int8' || inputKindOf(activations) !== null ? 'int-quantized' : 'pack-quantized';
}

function usualGranularity(
  format: CheckpointFormat,
  dtype: CheckpointDtype,
  groupSize: number | null | undefined,
): Granularity {
  if (format === 'fp8') return 'per-block';
  if (format === 'bitsandbytes' && dtype === 'int8') return 'per-channel';
  const hasGroups = /^(int\d|nf4|fp4)$/.test(dtype);
  return hasGroups && groupSize !== null ? 'per-group' : 'per-channel';
}

/** compressed-tensors has a format for each kind of codes. */
function compressedTensorsFormat(setting: Setting): Omit<CompressedTensorsSettings, 'scaleDtype'> {
  const { dtype, granularity, groupSize, layout, activations } = setting;
  const common = activations === undefined ? {} : { activations };
  switch (dtype) {
    case 'nvfp4':
      return { ...common, format: 'nvfp4-pack-quantized' };
    case 'mxfp4':
      return { ...common, format: 'mxfp4-pack-quantized' };
    case 'mxfp8_e4m3':
      return { ...common, format: 'mxfp8-quantized' };
    default:
      return {
        ...common,
        format: layout as CodeLayout,
        dtype: dtype as 'int4',
        sharing: sharingOf(granularity, groupSize),
      };
  }
}

function sharingOf(granularity: Granularity, groupSize: number | null): Sharing {
  switch (granularity) {
    case 'per-group':
      return { granularity, groupSize: groupSize ?? 128 };
    case 'per-block':
      return { granularity, blockShape: [128, 128] };
    default:
      return { granularity };
  }
}

/** Files besides config.json in which tools look for how weights are quantized, by name. */
export function otherConfigs(spec: LayerSpec, config: Json, ignored: readonly string[]): Map<string, Json> {
  const { format, scheme, groupSize } = completed(spec);
  if (format === 'gptq' || format === 'gptq_v2') return new Map([['quantize_config.json', config]]);
  if (format === 'awq') return new Map([['quant_config.json', awqQuantConfig({ scheme, groupSize }, ignored)]]);
  return new Map();
}

/** What must be known of the weights to write any of them. */
export interface WeightTraits {
  readonly ordered?: boolean;
  readonly hasHead?: boolean;
}

/**
 * The layout's writer for a setting, and a key that is equal for equal settings.
 *
 * @param about - What the weights are: `ordered`, whether they may come in act-order, for which GPTQ's and
 *   compressed-tensors' layouts have room; `hasHead`, whether the output head is one of them, which GPTQ's config says.
 */
export function writerOf(
  spec: LayerSpec,
  modelDtype: LargeFloatDtype,
  { ordered = false, hasHead = false }: WeightTraits = {},
): { writer: LayoutWriter; key: string } {
  const setting = completed(spec);
  const { format, dtype, scheme, groupSize } = setting;
  const actOrder = ordered && groupSize !== null && /^int\d$/.test(dtype);
  return { writer: makeWriter(), key: JSON.stringify(setting) };

  function makeWriter(): LayoutWriter {
    const bits = Number(dtype.slice(3)) as 2 | 3 | 4 | 8;
    switch (format) {
      case 'gptq':
      case 'gptq_v2': {
        const tools = [`lowbit:${capabilities().version}`];
        return gptqWriter({
          bits,
          scheme,
          groupSize,
          version: format === 'gptq' ? 1 : 2,
          actOrder,
          lmHead: hasHead,
          tools,
        });
      }
      case 'awq':
        return awqWriter({ scheme, groupSize });
      case 'bitsandbytes':
        if (dtype === 'int8') return llmInt8Writer;
        return bitsandbytesWriter({
          dtype: dtype as 'nf4',
          blockSize: groupSize ?? 64,
          nested: setting.nested,
          computeDtype: modelDtype,
        });
      case 'fp8':
        return fp8Writer({ granularity: setting.granularity as 'per-block' });
      case 'compressed-tensors':
        return compressedTensorsWriter({
          ...compressedTensorsFormat(setting),
          scheme,
          actOrder,
          scaleDtype: modelDtype,
        });
      case 'gguf':
        throw new RangeError('GGUF has no layout of its own');
    }
  }
}

export const LAYER_OPTIONS = [
  'format',
  'dtype',
  'scheme',
  'granularity',
  'groupSize',
  'nested',
  'layout',
  'activations',
] as const;

/** @internal */
export const CODE_LAYOUTS: readonly CodeLayout[] = [
  'pack-quantized',
  'int-quantized',
  'naive-quantized',
  'float-quantized',
];

/** @internal */
export const ACTIVATIONS: readonly ActivationDtype[] = [
  'float',
  'int8',
  'float8_e4m3fn',
  'mxfp4',
  'mxfp8_e4m3',
  'int8-static',
  'int8-static-asymmetric',
  'float8_e4m3fn-static',
];

/** @internal */
export const SPEC_OPTIONS = [
  ...LAYER_OPTIONS,
  'range',
  'include',
  'exclude',
  'layers',
  'requantize',
  'imatrix',
  ...METHOD_SPEC_OPTIONS,
] as const;
