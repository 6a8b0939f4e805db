/**
 * What a GGUF file says of a model, from config.json of a Hugging Face model.
 *
 * Sources: llama.cpp, `conversion/base.py`, `llama.py`, `qwen.py` and `src/models/*.cpp` (2026); Hugging Face transformers,
 * `modeling_rope_utils.py` (versions 4 and 5 spell rope scaling differently).
 *
 * @module
 */
import { CheckpointError } from '../../errors.js';
import type { Json } from '../checkpoint.js';
import { type Architecture, architectureOf } from './architecture.js';
import { type GgufValue, ggufValue } from './metadata.js';
import { type Llama3Scaling, llama3Factors } from './rope-scaling.js';

/** A model as GGUF describes it. */
export interface GgufDescription {
  readonly architecture: Architecture;
  /** Keys of the model itself, without those of the tokenizer and of quantization. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly heads: number;
  readonly headsKv: number;
  /** Elements of a head: rows of query and key that belong together. */
  readonly headDim: number;
  readonly vocabularySize: number;
  /** `rope_freqs.weight`, [headDim / 2]: what llama3 scaling divides each rotary frequency by. Null without it. */
  readonly ropeFactors: Float32Array | null;
  /** Whether the output layer is the embedding, so that `lm_head.weight` is not stored. */
  readonly isTied: boolean;
}

/** Reads fields of a config, with errors that name them. */
export class Fields {
  constructor(
    private readonly json: Json,
    private readonly path: string,
    private readonly prefix = '',
  ) {}

  private invalid(key: string, expected: string): never {
    const message = `Expected ${expected} for "${this.prefix}${key}" in config.json of ${this.path} but it is ${JSON.stringify(this.json[key]) ?? 'missing'}.`;
    throw new CheckpointError('CONFIG_INVALID', message, { path: this.path });
  }

  has(key: string): boolean {
    return this.json[key] !== undefined && this.json[key] !== null;
  }

  raw(key: string): unknown {
    return this.json[key];
  }

  /** A positive integer that fits into 32 bits. */
  count(key: string, otherwise?: number): number {
    const value = this.has(key) ? this.json[key] : otherwise;
    if (typeof value === 'number' && Number.isInteger(value) && value > 0 && value < 2 ** 31) return value;
    return this.invalid(key, 'a positive integer');
  }

  positive(key: string, otherwise?: number): number {
    const value = this.has(key) ? this.json[key] : otherwise;
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
    return this.invalid(key, 'a positive number');
  }

  object(key: string): Fields | null {
    if (!this.has(key)) return null;
    const value = this.json[key];
    if (typeof value !== 'object' || Array.isArray(value)) return this.invalid(key, 'an object');
    return new Fields(value as Json, this.path, `${key}.`);
  }

  keys(): string[] {
    return Object.keys(this.json);
  }
}

/** Rotary factors are computed for each of them. The largest that there are have 512. */
export const MOST_HEAD_ELEMENTS = 65_536;

function unsupported(path: string, what: string): never {
  throw new CheckpointError('GGUF_UNSUPPORTED_MODEL', `${path} can't be written as GGUF: ${what}.`, { path });
}

/** Refuses sliding windows that a text can outgrow: these architectures have none in llama.cpp. */
function checkWindow(config: Fields, layers: number, contextLength: number, path: string): void {
  const isMistral = config.raw('model_type') === 'mistral';
  // Hugging Face's Mistral has a window of 4096 unless config.json says null.
  if (!config.has('sliding_window') && !(isMistral && config.raw('sliding_window') === undefined)) return;
  const window = config.count('sliding_window', 4096);
  const types = config.raw('layer_types');
  const isUsed = Array.isArray(types)
    ? types.includes('sliding_attention')
    : config.raw('use_sliding_window') === undefined
      ? isMistral
      : config.raw('use_sliding_window') === true && config.count('max_window_layers', layers) < layers;
  if (isUsed && window < contextLength) {
    unsupported(
      path,
      `it attends to a sliding window of ${window} tokens, which its architecture does not have in llama.cpp. ` +
        `Set "max_position_embeddings" in config.json to ${window} to convert it for texts up to that length`,
    );
  }
}

const llama3Of = (rope: Fields, contextLength: number): Llama3Scaling => ({
  factor: rope.positive('factor'),
  low: rope.positive('low_freq_factor'),
  high: rope.positive('high_freq_factor'),
  original: rope.count('original_max_position_embeddings', contextLength),
});

interface Rope {
  readonly entries: [string, GgufValue][];
  readonly factors: Float32Array | null;
}

/** YaRN: what llama.cpp derives as Hugging Face does is left out, what it derives otherwise is refused. */
function yarnEntries(rope: Fields, contextLength: number, path: string): [string, GgufValue][] {
  const factor = rope.positive('factor');
  const usual = factor <= 1 ? 1 : 0.1 * Math.log(factor) + 1;
  if (rope.has('attention_factor') && Math.abs(rope.positive('attention_factor') - usual) > 1e-6) {
    unsupported(path, `its YaRN scaling has an attention_factor other than 0.1 ln(factor) + 1 = ${usual}`);
  }
  for (const key of ['mscale', 'mscale_all_dim']) {
    if (rope.has(key)) unsupported(path, `its YaRN scaling has ${key}, which this architecture has not in llama.cpp`);
  }
  if (rope.raw('truncate') === false) unsupported(path, 'its YaRN scaling has truncate false');
  const entries: [string, GgufValue][] = [
    ['type', ggufValue.string('yarn')],
    ['factor', ggufValue.float32(factor)],
    ['original_context_length', ggufValue.uint32(rope.count('original_max_position_embeddings', contextLength))],
  ];
  if (rope.has('beta_fast')) entries.push(['yarn_beta_fast', ggufValue.float32(rope.positive('beta_fast'))]);
  if (rope.has('beta_slow')) entries.push(['yarn_beta_slow', ggufValue.float32(rope.positive('beta_slow'))]);
  return entries;
}

function ropeOf(config: Fields, headDim: number, contextLength: number, path: string): Rope {
  const rope = config.object('rope_parameters') ?? config.object('rope_scaling') ?? new Fields({}, path);
  for (const key of rope.keys()) {
    if (typeof rope.raw(key) === 'object' && rope.raw(key) !== null && !Array.isArray(rope.raw(key))) {
      unsupported(path, `its rope parameters differ between layers ("${key}")`);
    }
  }
  for (const fields of [config, rope]) {
    if (fields.has('partial_rotary_factor') && fields.positive('partial_rotary_factor') !== 1) {
      unsupported(path, 'it rotates only a part of each head (partial_rotary_factor)');
    }
  }
  const theta = rope.has('rope_theta') ? rope.positive('rope_theta') : config.positive('rope_theta', 10000);
  const base: [string, GgufValue] = ['rope.freq_base', ggufValue.float32(theta)];
  const type = rope.raw('rope_type') ?? rope.raw('type') ?? 'default';
  const scaled = (entries: [string, GgufValue][]) =>
    entries.map(([key, value]): [string, GgufValue] => [`rope.scaling.${key}`, value]);
  switch (type) {
    case 'default':
      return { entries: [base], factors: null };
    case 'linear': {
      const factor = ggufValue.float32(rope.positive('factor'));
      return {
        entries: [
          base,
          ...scaled([
            ['type', ggufValue.string('linear')],
            ['factor', factor],
          ]),
        ],
        factors: null,
      };
    }
    case 'yarn':
      return { entries: [base, ...scaled(yarnEntries(rope, contextLength, path))], factors: null };
    case 'llama3':
      return { entries: [base], factors: llama3Factors(llama3Of(rope, contextLength), theta, headDim / 2) };
    default:
      return unsupported(path, `its rope scaling is ${JSON.stringify(type)}; linear, yarn and llama3 can be`);
  }
}

/**
 * Describes a model for GGUF.
 *
 * @param json - config.json, in the spelling of transformers 4 or 5.
 * @param path - The model's folder, for messages.
 * @throws {@link CheckpointError} `GGUF_UNKNOWN_ARCHITECTURE`; `GGUF_UNSUPPORTED_MODEL` for what llama.cpp's architecture
 *   does not have, by name; `CONFIG_INVALID` for fields that are missing or make no sense.
 */
export function describeModel(json: Json, path: string): GgufDescription {
  const architecture = architectureOf(json, path);
  const config = new Fields(json, path);
  const activation = config.raw('hidden_act') ?? 'silu';
  if (activation !== 'silu' && activation !== 'swish') {
    unsupported(path, `its activation is ${JSON.stringify(activation)}, where llama.cpp has silu`);
  }
  const layers = config.count('num_hidden_layers');
  const contextLength = config.count('max_position_embeddings');
  const hidden = config.count('hidden_size');
  const heads = config.count('num_attention_heads');
  const headsKv = config.count('num_key_value_heads', architecture.name === 'llama' ? heads : undefined);
  const usual = architecture.name === 'qwen3' ? 128 : hidden / heads;
  const headDim = config.has('head_dim') ? config.count('head_dim') : usual;
  if (!Number.isInteger(headDim) || headDim % 2 !== 0 || headDim > MOST_HEAD_ELEMENTS || heads % headsKv !== 0) {
    const message =
      `config.json of ${path} divides ${hidden} into ${heads} heads, and those among ${headsKv}, ` +
      `of ${headDim} elements. Expected whole numbers, and an even one of at most ${MOST_HEAD_ELEMENTS} elements.`;
    throw new CheckpointError('CONFIG_INVALID', message, { path });
  }
  checkWindow(config, layers, contextLength, path);
  const vocabularySize = config.count('vocab_size');
  const rope = ropeOf(config, headDim, contextLength, path);
  const { uint32, float32, string } = ggufValue;
  const own: [string, GgufValue][] = [
    ['block_count', uint32(layers)],
    ['context_length', uint32(contextLength)],
    ['embedding_length', uint32(hidden)],
    ['feed_forward_length', uint32(config.count('intermediate_size'))],
    ['attention.head_count', uint32(heads)],
    ['attention.head_count_kv', uint32(headsKv)],
    ['attention.layer_norm_rms_epsilon', float32(config.positive('rms_norm_eps', 1e-6))],
    ['attention.key_length', uint32(headDim)],
    ['attention.value_length', uint32(headDim)],
    ['vocab_size', uint32(vocabularySize)],
    ['rope.dimension_count', uint32(headDim)],
    ...rope.entries,
  ];
  return {
    architecture,
    metadata: new Map<string, GgufValue>([
      ['general.architecture', string(architecture.name)],
      ['general.type', string('model')],
      ...own.map(([key, value]): [string, GgufValue] => [`${architecture.name}.${key}`, value]),
    ]),
    heads,
    headsKv,
    headDim,
    vocabularySize,
    ropeFactors: rope.factors,
    isTied: config.raw('tie_word_embeddings') === true,
  };
}
