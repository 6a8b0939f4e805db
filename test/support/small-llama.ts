/** A Llama of one layer with random weights, as a Hugging Face folder that GGUF can express as well. */
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { castTensor } from '../../lib/index.js';
import { type RawTensor, safetensors } from './files.js';
import { normal } from './random.js';

const TOKENIZER = join(__dirname, '..', 'vectors', 'models', 'llama-bias');

/** Its seven linear layers have 128 and 192 inputs. */
export const LINEAR = {
  'self_attn.q_proj': [128, 128],
  'self_attn.k_proj': [128, 128],
  'self_attn.v_proj': [128, 128],
  'self_attn.o_proj': [128, 128],
  'mlp.gate_proj': [192, 128],
  'mlp.up_proj': [192, 128],
  'mlp.down_proj': [128, 192],
} as const;

/** config.json, with what is said of quantization. */
export const configOf = (quantization?: object) => ({
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 128,
  intermediate_size: 192,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 4,
  vocab_size: 259,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  hidden_act: 'silu',
  bos_token_id: 256,
  eos_token_id: 257,
  torch_dtype: 'float16',
  ...(quantization === undefined ? {} : { quantization_config: quantization }),
});

const half = (count: number, seed: number): Uint16Array =>
  castTensor(
    normal(count, seed).map((x) => x / 16),
    { from: 'float32', to: 'float16' },
  ) as Uint16Array;

/** The tensors besides those of the linear layers. */
export function otherTensors(): Record<string, RawTensor> {
  const tensors: Record<string, RawTensor> = {};
  const add = (name: string, shape: number[]) => {
    const count = shape.reduce((a, b) => a * b, 1);
    tensors[name] = { dtype: 'F16', shape, data: half(count, 100 + Object.keys(tensors).length) };
  };
  add('model.embed_tokens.weight', [259, 128]);
  add('model.layers.0.input_layernorm.weight', [128]);
  add('model.layers.0.post_attention_layernorm.weight', [128]);
  add('model.norm.weight', [128]);
  add('lm_head.weight', [259, 128]);
  return tensors;
}

/** Writes the folder: with float weights, or those that are given. */
export function smallLlama(
  folder: string,
  tensors: Record<string, RawTensor> = Object.fromEntries(
    Object.entries(LINEAR).map(([layer, shape], i) => [
      `model.layers.0.${layer}.weight`,
      { dtype: 'F16', shape: [...shape], data: half(shape[0] * shape[1], i + 1) },
    ]),
  ),
  quantization?: object,
): string {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'config.json'), JSON.stringify(configOf(quantization)));
  writeFileSync(join(folder, 'model.safetensors'), safetensors({ ...otherTensors(), ...tensors }));
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json']) {
    copyFileSync(join(TOKENIZER, name), join(folder, name));
  }
  return folder;
}
