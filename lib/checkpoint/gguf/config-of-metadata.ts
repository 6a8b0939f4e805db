/**
 * The config.json of a model that comes from GGUF: what metadata-of-model.ts writes, the other way round.
 *
 * @module
 */
import { CheckpointError } from '../../errors.js';
import type { Json } from '../checkpoint.js';
import { architectureNamed, ggufNameOf } from './architecture.js';
import { type GgufMetadata, stringOf } from './metadata.js';
import { ropeScalingOf, short } from './rope-scaling.js';

const CLASSES = { llama: 'LlamaForCausalLM', qwen2: 'Qwen2ForCausalLM', qwen3: 'Qwen3ForCausalLM' } as const;

/** Keys under the architecture's name that config.json has under another one, and whether they must be there. */
const FIELDS: readonly (readonly [key: string, field: string, needed?: true])[] = [
  ['embedding_length', 'hidden_size', true],
  ['feed_forward_length', 'intermediate_size', true],
  ['block_count', 'num_hidden_layers', true],
  ['attention.head_count', 'num_attention_heads', true],
  ['attention.head_count_kv', 'num_key_value_heads'],
  ['attention.key_length', 'head_dim'],
  ['context_length', 'max_position_embeddings', true],
  ['attention.layer_norm_rms_epsilon', 'rms_norm_eps', true],
  ['rope.freq_base', 'rope_theta'],
  ['vocab_size', 'vocab_size'],
];

/** The tensor with what llama.cpp divides rotary frequencies by: no weight of the Hugging Face model. */
export const ROPE_FACTORS = 'rope_freqs.weight';

/**
 * config.json, with the class, the sizes and the rotary embedding of the model.
 *
 * @param tensors - Names and shapes of the weights, by Hugging Face's names: whether the head is tied, and the vocabulary.
 * @param ropeFactors - `rope_freqs.weight`, or null where the file has none.
 * @throws {@link CheckpointError} `GGUF_UNSUPPORTED_MODEL` for an architecture, a tensor or rotary frequencies that have no
 *   place in a Hugging Face model, by name; `GGUF_METADATA_TYPE` for a size that is missing or no number.
 */
export function configOfMetadata(
  metadata: GgufMetadata,
  tensors: ReadonlyMap<string, readonly number[]>,
  ropeFactors: Float32Array | null,
  path: string,
): Json {
  const architecture = architectureNamed(stringOf(metadata, 'general.architecture', path));
  const refuse = (what: string, tensor?: string) =>
    new CheckpointError('GGUF_UNSUPPORTED_MODEL', `${path} can't become a Hugging Face folder: ${what}.`, {
      path,
      tensor,
    });
  if (architecture === null) {
    throw refuse(`its architecture is ${stringOf(metadata, 'general.architecture', path) ?? 'not named'}`);
  }
  const { name } = architecture;
  const experts = metadata.get(`${name}.expert_count`)?.value;
  if (experts !== undefined && Number(experts) > 0) throw refuse(`it is a mixture of ${String(experts)} experts`);
  for (const tensor of tensors.keys()) {
    if (tensor !== ROPE_FACTORS && ggufNameOf(architecture, tensor) === null) {
      throw refuse(
        `no Hugging Face model of its architecture, ${name}, has its tensor ${JSON.stringify(tensor)}`,
        tensor,
      );
    }
  }
  const fields = FIELDS.flatMap(([key, field, needed]): [string, number][] => {
    const value = metadata.get(`${name}.${key}`)?.value;
    if (typeof value === 'number') return [[field, short(value)]];
    if (value === undefined && needed === undefined) return [];
    const message = `Expected a number for the key "${name}.${key}" of ${path} but it is ${value === undefined ? 'missing' : 'something else'}.`;
    throw new CheckpointError('GGUF_METADATA_TYPE', message, { path });
  });
  const config: Json = Object.fromEntries(fields);
  const headDim = Number(config['head_dim'] ?? Number(config['hidden_size']) / Number(config['num_attention_heads']));
  const rotated = metadata.get(`${name}.rope.dimension_count`)?.value ?? headDim;
  if (rotated !== headDim) throw refuse(`it rotates only ${String(rotated)} of the ${headDim} elements of each head`);
  if (ropeFactors !== null && ropeFactors.length !== headDim / 2) {
    throw refuse(
      `its ${ropeFactors.length} rotary factors are not one for each of ${headDim / 2} frequencies`,
      ROPE_FACTORS,
    );
  }
  const scaling = ropeScalingOf(metadata, name, ropeFactors, Number(config['rope_theta'] ?? 10000));
  if (scaling !== null && typeof scaling['unknown'] === 'string') throw refuse(scaling['unknown']);
  const [vocabulary] = tensors.get('model.embed_tokens.weight') ?? [];
  const ids = ['bos', 'eos'].flatMap((which): [string, number][] => {
    const id = metadata.get(`tokenizer.ggml.${which}_token_id`)?.value;
    return typeof id === 'number' ? [[`${which}_token_id`, id]] : [];
  });
  return {
    architectures: [CLASSES[name]],
    model_type: name,
    hidden_act: 'silu',
    ...config,
    ...(vocabulary === undefined ? {} : { vocab_size: vocabulary }),
    ...(scaling === null ? {} : { rope_scaling: scaling }),
    attention_bias: tensors.has('model.layers.0.self_attn.q_proj.bias'),
    ...(tensors.has('model.layers.0.mlp.up_proj.bias') ? { mlp_bias: true } : {}),
    tie_word_embeddings: !tensors.has('lm_head.weight'),
    ...Object.fromEntries(ids),
  };
}
