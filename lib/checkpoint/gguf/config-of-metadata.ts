/**
 * The config.json of a model that comes from GGUF: what metadata-of-model.ts writes, the other way round.
 *
 * @module
 */
import { CheckpointError } from '../../errors.js';
import type { Json } from '../checkpoint.js';
import { architectureNamed } from './architecture.js';
import { type GgufMetadata, stringOf } from './metadata.js';

const CLASSES = { llama: 'LlamaForCausalLM', qwen2: 'Qwen2ForCausalLM', qwen3: 'Qwen3ForCausalLM' } as const;

/** Keys under the architecture's name that config.json has under another one. */
const FIELDS: readonly (readonly [string, string])[] = [
  ['embedding_length', 'hidden_size'],
  ['feed_forward_length', 'intermediate_size'],
  ['block_count', 'num_hidden_layers'],
  ['attention.head_count', 'num_attention_heads'],
  ['attention.head_count_kv', 'num_key_value_heads'],
  ['attention.key_length', 'head_dim'],
  ['context_length', 'max_position_embeddings'],
  ['attention.layer_norm_rms_epsilon', 'rms_norm_eps'],
  ['rope.freq_base', 'rope_theta'],
  ['vocab_size', 'vocab_size'],
];

/** float32 numbers as people write them: 1e-5 rather than 0.000009999999747378752. */
function short(value: number): number {
  for (let digits = 1; digits <= 9; digits++) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === Math.fround(value)) return candidate;
  }
  return value;
}

function ropeScaling(metadata: GgufMetadata, prefix: string): Json | null {
  const value = (key: string) => metadata.get(`${prefix}.rope.scaling.${key}`)?.value;
  const type = value('type');
  if (type !== 'linear' && type !== 'yarn') return null;
  const original = value('original_context_length');
  return {
    rope_type: type,
    factor: short(Number(value('factor') ?? 1)),
    ...(original === undefined ? {} : { original_max_position_embeddings: Number(original) }),
  };
}

/**
 * config.json, with the class, the sizes and the rotary embedding of the model.
 *
 * @param tensors - Names and shapes of the weights, by Hugging Face's names: whether the head is tied, and the vocabulary.
 * @throws {@link CheckpointError} `GGUF_UNSUPPORTED_MODEL` for an architecture, or rotary frequencies, that can't be told.
 */
export function configOfMetadata(
  metadata: GgufMetadata,
  tensors: ReadonlyMap<string, readonly number[]>,
  path: string,
): Json {
  const architecture = architectureNamed(stringOf(metadata, 'general.architecture', path));
  const refuse = (what: string) =>
    new CheckpointError('GGUF_UNSUPPORTED_MODEL', `${path} can't become a Hugging Face folder: ${what}.`, { path });
  if (architecture === null) {
    throw refuse(`its architecture is ${stringOf(metadata, 'general.architecture', path) ?? 'not named'}`);
  }
  if (tensors.has('rope_freqs.weight')) {
    throw refuse('its rotary frequencies have factors, from which the scaling that made them can not be told');
  }
  const { name } = architecture;
  const fields = FIELDS.flatMap(([key, field]): [string, number][] => {
    const value = metadata.get(`${name}.${key}`)?.value;
    return typeof value === 'number' ? [[field, short(value)]] : [];
  });
  const [vocabulary] = tensors.get('model.embed_tokens.weight') ?? [];
  const scaling = ropeScaling(metadata, name);
  const ids = ['bos', 'eos'].flatMap((which): [string, number][] => {
    const id = metadata.get(`tokenizer.ggml.${which}_token_id`)?.value;
    return typeof id === 'number' ? [[`${which}_token_id`, id]] : [];
  });
  return {
    architectures: [CLASSES[name]],
    model_type: name,
    hidden_act: 'silu',
    ...(vocabulary === undefined ? {} : { vocab_size: vocabulary }),
    ...Object.fromEntries(fields),
    ...(scaling === null ? {} : { rope_scaling: scaling }),
    attention_bias: tensors.has('model.layers.0.self_attn.q_proj.bias'),
    tie_word_embeddings: !tensors.has('lm_head.weight'),
    ...Object.fromEntries(ids),
  };
}
