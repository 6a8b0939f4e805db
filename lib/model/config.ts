/**
 * What a decoder is: sizes, rotary embedding, windows, from config.json of a Hugging Face model.
 *
 * Sources: Hugging Face transformers, `models/{llama,mistral,qwen2,qwen3}/configuration_*.py` (versions 4 and 5, which spell
 * rope scaling differently).
 *
 * @module
 */
import type { Json } from '../checkpoint/checkpoint.js';
import { Fields, MOST_HEAD_ELEMENTS } from '../checkpoint/gguf/metadata-of-model.js';
import { CheckpointError } from '../errors.js';
import type { LinearName } from './decoder-weights.js';
import type { RopeScaling } from './rope.js';

/** The decoders that {@link openModel} runs. */
export type DecoderArchitecture = 'llama' | 'mistral' | 'qwen2' | 'qwen3';

/** A decoder: sizes, and what its architecture leaves open. */
export interface DecoderConfig {
  /** Llama 2 and 3, Mistral, Qwen2 and Qwen2.5, Qwen3. */
  readonly architecture: DecoderArchitecture;
  /** Elements of a hidden state, and of the layer between gate and down projection. */
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  /** Blocks. */
  readonly numLayers: number;
  /** Heads of queries. */
  readonly numHeads: number;
  /** Heads of keys and values, each shared by numHeads / numKvHeads heads of queries. */
  readonly numKvHeads: number;
  /** Elements of a head, an even number; not always hiddenSize / numHeads. */
  readonly headDim: number;
  /** Rows of the embedding; tokenizers may have fewer tokens. */
  readonly vocabSize: number;
  /** Added to mean squares. */
  readonly rmsNormEps: number;
  /** So many positions a sequence may have; with dynamic rope scaling, those before the frequencies begin to change. */
  readonly maxPositions: number;
  /** Whether the output layer is the embedding. */
  readonly tiedHead: boolean;
  /** Base of the rotary frequencies. */
  readonly ropeTheta: number;
  /** How they are changed for longer texts. */
  readonly ropeScaling: RopeScaling;
  /** For each layer: how many tokens one attends to, itself included; null for all before it. */
  readonly slidingWindows: readonly (number | null)[];
  /** Whether queries and keys are normalized in each head, before they are rotated. */
  readonly qkNorm: boolean;
  /** Linear layers that must have a bias; others may. */
  readonly biased: readonly LinearName[];
  /** Tokens that end a text, if config.json names any. */
  readonly eosTokenIds: readonly number[];
  /** The token that begins a text; null if config.json names none. */
  readonly bosTokenId: number | null;
}

const CLASSES: Readonly<Record<string, DecoderArchitecture>> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'mistral',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
};
/** The same decoders without their output layer, as models are saved that embed texts, or are to be trained further. */
const HEADLESS: Readonly<Record<string, DecoderArchitecture>> = {
  LlamaModel: 'llama',
  MistralModel: 'mistral',
  Qwen2Model: 'qwen2',
  Qwen3Model: 'qwen3',
};
/** What a config may say without costing memory before the weights are looked at. */
const MAX_LAYERS = 10_000;

const MODEL_TYPES: readonly string[] = Object.values(CLASSES);

function unsupported(path: string, what: string): never {
  throw new CheckpointError('MODEL_UNSUPPORTED', `lowbit can't run ${path}: ${what}.`, { path });
}

function architectureOf(json: Json, path: string): DecoderArchitecture {
  const { architectures, model_type: type } = json;
  const [named] = Array.isArray(architectures) ? (architectures as unknown[]) : [];
  for (const classes of [CLASSES, HEADLESS]) {
    if (typeof named === 'string' && Object.hasOwn(classes, named)) return classes[named] as DecoderArchitecture;
  }
  if (named === undefined && MODEL_TYPES.includes(String(type))) return type as DecoderArchitecture;
  const given = typeof named === 'string' ? named : typeof type === 'string' ? type : 'not named in its config.json';
  return unsupported(path, `its architecture is ${given}. Those it can are ${Object.keys(CLASSES).join(', ')}`);
}

function ropeScalingOf(rope: Fields, maxPositions: number, path: string): RopeScaling {
  const type: unknown = rope.raw('rope_type') ?? rope.raw('type') ?? 'default';
  const original = () => rope.count('original_max_position_embeddings', maxPositions);
  switch (type) {
    case 'default':
      return { type: 'none' };
    case 'linear':
      return { type: 'linear', factor: rope.positive('factor') };
    case 'dynamic':
      return { type: 'dynamic', factor: rope.positive('factor'), originalPositions: maxPositions };
    case 'llama3':
      return {
        type: 'llama3',
        factor: rope.positive('factor'),
        lowFrequencyFactor: rope.positive('low_freq_factor'),
        highFrequencyFactor: rope.positive('high_freq_factor'),
        originalPositions: original(),
      };
    case 'yarn': {
      const factor = rope.positive('factor', maxPositions / original());
      const usual = (scale = 1) => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1);
      const fromScales =
        rope.has('mscale') && rope.has('mscale_all_dim')
          ? usual(rope.positive('mscale')) / usual(rope.positive('mscale_all_dim'))
          : usual();
      return {
        type: 'yarn',
        factor,
        originalPositions: original(),
        betaFast: rope.positive('beta_fast', 32),
        betaSlow: rope.positive('beta_slow', 1),
        truncate: rope.raw('truncate') !== false,
        attentionFactor: rope.positive('attention_factor', fromScales),
      };
    }
    default:
      return unsupported(
        path,
        `its rope scaling is ${JSON.stringify(type)}. Those it can are default, linear, dynamic, llama3, yarn`,
      );
  }
}

function ropeOf(config: Fields, maxPositions: number, path: string): Pick<DecoderConfig, 'ropeTheta' | 'ropeScaling'> {
  const rope = config.object('rope_parameters') ?? config.object('rope_scaling') ?? new Fields({}, path);
  for (const key of rope.keys()) {
    const value = rope.raw(key);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      unsupported(path, `its rope parameters differ between layers (${JSON.stringify(key)})`);
    }
  }
  for (const fields of [config, rope]) {
    if (fields.has('partial_rotary_factor') && fields.positive('partial_rotary_factor') !== 1) {
      unsupported(path, 'it rotates only a part of each head (partial_rotary_factor)');
    }
  }
  return {
    ropeTheta: rope.has('rope_theta') ? rope.positive('rope_theta') : config.positive('rope_theta', 10000),
    ropeScaling: ropeScalingOf(rope, maxPositions, path),
  };
}

/** The window of each layer. */
function slidingWindowsOf(
  config: Fields,
  architecture: DecoderArchitecture,
  layers: number,
  path: string,
): (number | null)[] {
  const none = new Array<null>(layers).fill(null);
  if (architecture === 'llama' || config.raw('sliding_window') === null) return none;
  const types = config.raw('layer_types');
  if (architecture === 'mistral') {
    // Hugging Face's Mistral has a window of 4096 unless config.json says null.
    return new Array<number>(layers).fill(config.count('sliding_window', 4096));
  }
  if (config.raw('use_sliding_window') !== true) return none;
  const window = config.count('sliding_window', 4096);
  if (Array.isArray(types)) {
    if (types.length !== layers || !types.every((type) => type === 'full_attention' || type === 'sliding_attention')) {
      unsupported(path, `"layer_types" of its config.json are not ${layers} of full_attention and sliding_attention`);
    }
    return types.map((type) => (type === 'sliding_attention' ? window : null));
  }
  // 0: all layers have one
  const first = config.raw('max_window_layers') === 0 ? 0 : config.count('max_window_layers', 28);
  return none.map((_, layer) => (layer >= first ? window : null));
}

/** Layers that Hugging Face's class gives a bias. */
function biasedOf(config: Fields, architecture: DecoderArchitecture): LinearName[] {
  const biased: LinearName[] = [];
  const has = (key: string) => config.raw(key) === true;
  if (architecture === 'qwen2' || (architecture !== 'mistral' && has('attention_bias'))) {
    biased.push('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj');
    if (architecture !== 'qwen2') biased.push('self_attn.o_proj');
  }
  if (architecture === 'llama' && has('mlp_bias')) biased.push('mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj');
  return biased;
}

/** One token id, or several. */
export function tokenIdsOf(value: unknown): number[] {
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  return ids.filter((id): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0);
}

/**
 * Reads config.json.
 *
 * @param json - Its content, in the spelling of transformers 4 or 5.
 * @param path - The model's folder, for messages.
 * @throws {@link CheckpointError} `MODEL_UNSUPPORTED` for what can't be run, by name; `CONFIG_INVALID` for fields that are
 *   missing or make no sense.
 */
export function readConfig(json: Json, path: string): DecoderConfig {
  const architecture = architectureOf(json, path);
  const config = new Fields(json, path);
  const activation = config.raw('hidden_act') ?? 'silu';
  if (activation !== 'silu' && activation !== 'swish') {
    unsupported(path, `its activation is ${JSON.stringify(activation)}. Expected silu`);
  }
  const numLayers = config.count('num_hidden_layers');
  if (numLayers > MAX_LAYERS) {
    const message = `Expected at most ${MAX_LAYERS} for "num_hidden_layers" in config.json of ${path} but it is ${numLayers}.`;
    throw new CheckpointError('CONFIG_INVALID', message, { path });
  }
  const hiddenSize = config.count('hidden_size');
  const numHeads = config.count('num_attention_heads');
  const numKvHeads = config.count('num_key_value_heads', numHeads);
  const headDim = config.has('head_dim')
    ? config.count('head_dim')
    : architecture === 'qwen3'
      ? 128
      : hiddenSize / numHeads;
  const isHead = Number.isInteger(headDim) && headDim % 2 === 0 && headDim <= MOST_HEAD_ELEMENTS;
  if (!isHead || numHeads % numKvHeads !== 0) {
    const message =
      `config.json of ${path} divides ${hiddenSize} into ${numHeads} heads, and those among ${numKvHeads}, ` +
      `of ${headDim} elements. Expected whole numbers, and an even one of at most ${MOST_HEAD_ELEMENTS} elements.`;
    throw new CheckpointError('CONFIG_INVALID', message, { path });
  }
  const maxPositions = config.count('max_position_embeddings', 2048);
  const [bosTokenId = null] = tokenIdsOf(config.raw('bos_token_id'));
  return {
    architecture,
    hiddenSize,
    intermediateSize: config.count('intermediate_size'),
    numLayers,
    numHeads,
    numKvHeads,
    headDim,
    vocabSize: config.count('vocab_size'),
    rmsNormEps: config.positive('rms_norm_eps', 1e-6),
    maxPositions,
    tiedHead: config.raw('tie_word_embeddings') === true,
    ...ropeOf(config, maxPositions, path),
    slidingWindows: slidingWindowsOf(config, architecture, numLayers, path),
    qkNorm: architecture === 'qwen3',
    biased: biasedOf(config, architecture),
    eosTokenIds: tokenIdsOf(config.raw('eos_token_id')),
    bosTokenId,
  };
}
