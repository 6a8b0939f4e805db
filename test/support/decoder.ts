/** Small decoders with random weights, of any sizes, as Hugging Face folders. */
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { castTensor } from '../../lib/index.js';
import { type RawTensor, safetensors } from './files.js';
import { normal, random } from './random.js';
import { VECTORS } from './vectors.js';

/** What a decoder is like; what is left out is the least that works. */
export interface DecoderShape {
  readonly architecture?: 'llama' | 'mistral' | 'qwen2' | 'qwen3';
  readonly hidden: number;
  readonly inner: number;
  readonly layers?: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim?: number;
  /** Rows of the embedding. Default 259, those of the tokenizer of bytes. */
  readonly vocab?: number;
  readonly tied?: boolean;
  /** Of q, k, v (and o for Llama), and with `mlp` of the gated layers. */
  readonly bias?: 'none' | 'attention' | 'all';
  readonly dtype?: 'F32' | 'F16' | 'BF16';
  /** Files. Default 1. */
  readonly shards?: number;
  /** Saved without the output layer, names without `model.`. */
  readonly bare?: boolean;
  /** A folder of test/vectors whose tokenizer it has; null: none. Default a tokenizer of bytes. */
  readonly tokenizer?: string | null;
  /** More of config.json: rope scaling, sliding windows. */
  readonly config?: object;
  readonly positions?: number;
  /** Input channels that are this much larger than others, as some are in trained models. Default 8. */
  readonly outliers?: number;
}

export const BYTES = join('models', 'llama-gqa');

const CLASSES = { llama: 'Llama', mistral: 'Mistral', qwen2: 'Qwen2', qwen3: 'Qwen3' } as const;

/** Weights of the model by name, in float32, before they are stored. */
function floatsOf(shape: DecoderShape): Record<string, { shape: number[]; data: Float32Array }> {
  const { architecture = 'llama', hidden, inner, layers = 2, heads, kvHeads, vocab = 259, tied = false } = shape;
  const { headDim = hidden / heads, bias = architecture === 'qwen2' ? 'attention' : 'none', outliers = 8 } = shape;
  const all: Record<string, { shape: number[]; data: Float32Array }> = {};
  const add = (name: string, dims: number[], deviation: number, mean = 0) => {
    const count = dims.reduce((a, b) => a * b, 1);
    const data = normal(count, 1 + Object.keys(all).length, deviation).map((x) => x + mean);
    all[name] = { shape: dims, data };
    return data;
  };
  const prefix = shape.bare === true ? '' : 'model.';
  add(`${prefix}embed_tokens.weight`, [vocab, hidden], 1);
  const next = random(7);
  const norm = (name: string, size: number) => {
    const data = add(name, [size], 0.1, 1);
    for (let i = 0; i < Math.ceil(size / 40); i++) (data[Math.floor(next() * size)] as number) *= outliers;
  };
  for (let layer = 0; layer < layers; layer++) {
    const name = (part: string) => `${prefix}layers.${layer}.${part}`;
    const linear = (part: string, rows: number, columns: number, biased: boolean) => {
      add(name(`${part}.weight`), [rows, columns], 1 / Math.sqrt(columns));
      if (biased) add(name(`${part}.bias`), [rows], 0.2);
    };
    norm(name('input_layernorm.weight'), hidden);
    const [q, kv] = [heads * headDim, kvHeads * headDim];
    for (const [part, rows] of Object.entries({ q_proj: q, k_proj: kv, v_proj: kv })) {
      linear(`self_attn.${part}`, rows, hidden, bias !== 'none');
    }
    linear('self_attn.o_proj', hidden, q, bias !== 'none' && architecture !== 'qwen2');
    if (architecture === 'qwen3') {
      for (const part of ['q_norm', 'k_norm']) add(name(`self_attn.${part}.weight`), [headDim], 0.1, 1);
    }
    norm(name('post_attention_layernorm.weight'), hidden);
    linear('mlp.gate_proj', inner, hidden, bias === 'all');
    linear('mlp.up_proj', inner, hidden, bias === 'all');
    linear('mlp.down_proj', hidden, inner, bias === 'all');
  }
  add(`${prefix}norm.weight`, [hidden], 0.1, 1);
  if (!tied && shape.bare !== true) add('lm_head.weight', [vocab, hidden], 1 / Math.sqrt(hidden));
  return all;
}

/** Writes the folder, and returns its path. */
export function writeDecoder(folder: string, shape: DecoderShape): string {
  const { architecture = 'llama', hidden, inner, layers = 2, heads, kvHeads, vocab = 259, tied = false } = shape;
  const { dtype = 'F32', shards = 1, bias = 'none', bare = false, tokenizer = BYTES, positions = 128 } = shape;
  mkdirSync(folder, { recursive: true });
  const config = {
    architectures: [`${CLASSES[architecture]}${bare ? 'Model' : 'ForCausalLM'}`],
    model_type: architecture,
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    ...(shape.headDim === undefined && architecture !== 'qwen3' ? {} : { head_dim: shape.headDim ?? hidden / heads }),
    vocab_size: vocab,
    max_position_embeddings: positions,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: 'silu',
    tie_word_embeddings: tied,
    ...(architecture === 'mistral' ? { sliding_window: null } : {}),
    ...(bias === 'none' || architecture === 'qwen2' ? {} : { attention_bias: true }),
    ...(bias === 'all' ? { mlp_bias: true } : {}),
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }[dtype],
    ...shape.config,
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config, null, 1));
  const stored = Object.entries(floatsOf(shape)).map(([name, { shape: dims, data }]): [string, RawTensor] => {
    if (dtype === 'F32') return [name, { dtype, shape: dims, data }];
    const to = dtype === 'F16' ? 'float16' : 'bfloat16';
    return [name, { dtype, shape: dims, data: castTensor(data, { from: 'float32', to }) as Uint16Array }];
  });
  const fileOf = (i: number) =>
    shards === 1
      ? 'model.safetensors'
      : `model-${String(i + 1).padStart(5, '0')}-of-${String(shards).padStart(5, '0')}.safetensors`;
  const files = new Map<string, [string, RawTensor][]>();
  for (const [i, entry] of stored.entries()) {
    const file = fileOf(Math.floor((i * shards) / stored.length));
    files.set(file, [...(files.get(file) ?? []), entry]);
  }
  for (const [file, tensors] of files) {
    writeFileSync(join(folder, file), safetensors(Object.fromEntries(tensors), { format: 'pt' }));
  }
  if (shards > 1) {
    const map = Object.fromEntries([...files].flatMap(([file, tensors]) => tensors.map(([name]) => [name, file])));
    const total = stored.reduce((sum, [, { data }]) => sum + data.byteLength, 0);
    const index = { metadata: { total_size: total }, weight_map: map };
    writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify(index));
  }
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'tokenizer.model']) {
    const source = tokenizer === null ? null : join(VECTORS, tokenizer, name);
    if (source !== null && existsSync(source)) copyFileSync(source, join(folder, name));
  }
  return folder;
}
