/**
 * Tokenizers and configs that become the metadata of a GGUF file: tokenizer.json, tokenizer.model (protobuf) and the files
 * beside them, config.json.
 */
import { readFileSync } from 'node:fs';
import { Finding } from '../engine.mjs';
import { brokenText, mutated, textOf } from '../json.mjs';
import { fileAt, ROOT, setFiles } from '../memory.mjs';
import { randomBytes } from '../random.mjs';

const read = (name) =>
  JSON.parse(readFileSync(new URL(`../../vectors/tokenizers/${name}/tokenizer.json`, import.meta.url), 'utf8'));

/** Real tokenizers with the fewest tokens that make sense. */
const BYTE_LEVEL = ['gpt-2', 'llama-bpe', 'smollm', 'tekken'].map((name) => {
  const { normalizer, pre_tokenizer, post_processor, model } = read(name);
  return {
    added_tokens: [
      { id: 6, content: '<s>', special: true },
      { id: 7, content: '</s>', special: true, lstrip: false },
    ],
    normalizer,
    pre_tokenizer,
    post_processor,
    model: { ...model, vocab: { a: 0, b: 1, Ġ: 2, ab: 3, Ġa: 4, '\ud83d\ude00': 5 }, merges: [['a', 'b'], 'Ġ a'] },
  };
});
const BYTES = Object.fromEntries(
  Array.from({ length: 256 }, (_, byte) => [`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`, byte + 3]),
);
const SENTENCE_PIECE = {
  added_tokens: [
    { id: 0, content: '<unk>', special: true },
    { id: 1, content: '<s>', special: true },
  ],
  normalizer: {
    type: 'Sequence',
    normalizers: [
      { type: 'Prepend', prepend: '\u2581' },
      { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' },
    ],
  },
  pre_tokenizer: null,
  post_processor: { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<s>' } }, { Sequence: { id: 'A' } }] },
  model: {
    type: 'BPE',
    unk_token: '<unk>',
    byte_fallback: true,
    vocab: { '<unk>': 0, '<s>': 1, '</s>': 2, ...BYTES, '\u2581': 259, a: 260, b: 261, ab: 262, '\u2581a': 263 },
    merges: ['a b', '\u2581 a'],
  },
};
const METASPACE = {
  ...SENTENCE_PIECE,
  normalizer: null,
  pre_tokenizer: { type: 'Metaspace', replacement: '\u2581', prepend_scheme: 'always', split: false },
};

const TOKENIZER_WORDS = [
  ...[
    'BPE',
    'Unigram',
    'WordPiece',
    'ByteLevel',
    'Metaspace',
    'Sequence',
    'Split',
    'Digits',
    'Prepend',
    'Replace',
    'NFC',
  ],
  ...[
    'TemplateProcessing',
    'Isolated',
    'Removed',
    'always',
    'never',
    '\u2581',
    ' ',
    'a',
    'b',
    'ab',
    'Ġ',
    'a b',
    '<0x41>',
  ],
  ...[
    '<unk>',
    '<s>',
    'id',
    'content',
    'special',
    'type',
    'vocab',
    'merges',
    'model',
    'added_tokens',
    'normalizer',
    'dropout',
  ],
  ...['pre_tokenizer', 'post_processor', 'single', 'SpecialToken', 'byte_fallback', 'use_regex', 'add_prefix_space'],
  ...['normalizers', 'pretokenizers', 'processors', 0, 1, 5, 6, 263, 264, 0.1],
];
const SETTINGS = {
  bos_token: '<s>',
  eos_token: { content: '</s>' },
  unk_token: null,
  add_bos_token: true,
  add_prefix_space: false,
  added_tokens_decoder: { 6: { content: '<s>', special: true }, 300: { content: 'x' } },
  chat_template: [
    { name: 'default', template: '{{ x }}' },
    { name: 'tool', template: 'y' },
  ],
};
const SETTINGS_WORDS = [
  '<s>',
  '</s>',
  '<unk>',
  'bos_token',
  'pad_token',
  'sep_token',
  'chat_template',
  'default',
  'name',
  'template',
  'content',
  'add_eos_token',
];
const CONFIG = { bos_token_id: 1, eos_token_id: [2, 3], pad_token_id: null };

function maybe(random, files, name, value, words) {
  if (random.once(3)) {
    const text = textOf(mutated(random, value, words));
    files[name] = random.once(30) ? brokenText(random, text) : text;
  }
}

/** The files beside a tokenizer. */
function beside(random, files) {
  maybe(random, files, 'tokenizer_config.json', SETTINGS, SETTINGS_WORDS);
  maybe(random, files, 'special_tokens_map.json', { unk_token: '<unk>', bos_token: { content: 'a' } }, SETTINGS_WORDS);
  maybe(random, files, 'added_tokens.json', { '<x>': 270, '<s>': 1 }, SETTINGS_WORDS);
  if (random.once(20)) files['chat_template.jinja'] = randomBytes(random, random.below(30));
}

/** Metadata that {@link tokenizerMetadata} gave: of the sizes that llama.cpp expects, and a GGUF file can hold them. */
async function checkMetadata(dist, metadata, size) {
  const { writeGguf } = dist('checkpoint/gguf/gguf-writer');
  const { GgufHeaderParser } = dist('checkpoint/gguf/gguf-header');
  for (const key of ['tokens', 'scores', 'token_type']) {
    const length = metadata.get(`tokenizer.ggml.${key}`)?.value.length;
    if (length !== undefined && length !== size) throw new Finding(`${length} ${key} for ${size} tokens`);
  }
  if (!metadata.has('tokenizer.ggml.tokens') || !metadata.has('tokenizer.ggml.model'))
    throw new Finding('no vocabulary');
  for (const [key, { value }] of metadata) {
    if (key.endsWith('_token_id') && !(Number.isInteger(value) && value >= 0 && value < size))
      throw new Finding(`${key} is ${value}`);
  }
  await (await writeGguf(`${ROOT}/out.gguf`, [], metadata)).close();
  const bytes = fileAt('out.gguf');
  const header = new GgufHeaderParser('out.gguf', bytes.length).push(bytes);
  const tokens = ({ value }) => JSON.stringify(value);
  for (const [key, entry] of metadata) {
    if (tokens(header.metadata.get(key)) !== tokens(entry)) throw new Finding(`${key} is not what was written`);
  }
}

const CODES = ['TOKENIZER_INVALID', 'GGUF_UNSUPPORTED_TOKENIZER', 'GGUF_INVALID_UTF8', 'GGUF_EMPTY_KEY'];

function run(dist) {
  const { tokenizerMetadata } = dist('checkpoint/gguf/tokenizer');
  return async ({ files, size, config }) => {
    setFiles(files);
    await checkMetadata(dist, await tokenizerMetadata(ROOT, size, JSON.parse(config)), size);
    return 'ok';
  };
}

export function tokenizerJson(dist) {
  return {
    codes: new Set(CODES),
    reaches: ['ok', 'TOKENIZER_INVALID', 'GGUF_UNSUPPORTED_TOKENIZER', 'GGUF_INVALID_UTF8'],
    enough: 20_000,
    generate(random) {
      const large = random.once(12);
      const json = large ? random.pick([SENTENCE_PIECE, METASPACE]) : random.pick(BYTE_LEVEL);
      const text = textOf(mutated(random, json, TOKENIZER_WORDS));
      const files = { 'tokenizer.json': random.once(60) ? brokenText(random, text) : text };
      beside(random, files);
      return {
        files,
        size: random.pick([8, 8, 9, 264, 264, 280, 5, 0]),
        config: textOf({ ...mutated(random, CONFIG) }),
      };
    },
    run: run(dist),
  };
}

/** A protobuf message out of fields: number, wire type, value. */
class Message {
  bytes = [];

  varint(value) {
    let rest = BigInt.asUintN(64, BigInt(value));
    while (rest > 127n) {
      this.bytes.push(Number(rest & 127n) | 128);
      rest >>= 7n;
    }
    this.bytes.push(Number(rest));
  }

  tag(number, wire) {
    this.varint(number * 8 + wire);
  }

  number(number, value) {
    this.tag(number, 0);
    this.varint(value);
  }

  float(number, value) {
    this.tag(number, 5);
    this.bytes.push(...new Uint8Array(Float32Array.of(value).buffer));
  }

  content(number, bytes, length = bytes.length) {
    this.tag(number, 2);
    this.varint(length);
    this.bytes.push(...bytes);
  }
}

const ODD_NUMBERS = [0, 1, 2, 3, 4, 5, 6, 7, -1, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2n ** 63n, 2n ** 64n - 1n];
const TEXTS = [
  '<unk>',
  '<s>',
  '</s>',
  '\u2581',
  'a',
  'b',
  'ab',
  '\u2581a',
  '<0x41>',
  '',
  '漢',
  '😀',
  'x'.repeat(50),
].map((text) => Buffer.from(text));

function oddField(random, message) {
  const number = random.pick([1, 2, 3, 4, 15, 16, 100, 2 ** 28]);
  switch (random.below(7)) {
    case 0:
      return message.number(number, random.pick(ODD_NUMBERS));
    case 1:
      return message.float(number, random.pick([0, -1, NaN, Infinity, 1e38]));
    case 2:
      return message.content(number, randomBytes(random, random.below(12)));
    case 3:
      return message.content(number, randomBytes(random, random.below(12)), random.pick(ODD_NUMBERS));
    case 4:
      // Groups: deep, or without an end.
      for (let depth = random.pick([1, 3, 300]); depth > 0; depth--) message.tag(number, 3);
      if (random.once(2)) message.tag(number, 4);
      return;
    case 5:
      return message.tag(number, random.below(8));
    default:
      message.tag(number, 1);
      message.bytes.push(...randomBytes(random, 8));
  }
}

function piece(random, i) {
  const message = new Message();
  if (!random.once(40))
    message.content(1, random.once(30) ? randomBytes(random, 4) : (TEXTS[i] ?? Buffer.from(`t${i}`)));
  if (!random.once(40)) message.float(2, random.once(20) ? random.pick([NaN, Infinity, -0]) : -i);
  if (i < 3 || random.once(4))
    message.number(3, random.once(20) ? random.pick(ODD_NUMBERS) : ([2, 3, 3, 1, 1, 4, 5, 6][i] ?? 1));
  if (random.once(40)) oddField(random, message);
  return message.bytes;
}

function model(random) {
  const message = new Message();
  const count = random.below(12);
  for (let i = 0; i < count; i++) {
    if (random.once(60)) oddField(random, message);
    message.content(1, piece(random, i));
  }
  const trainer = new Message();
  trainer.number(3, random.once(8) ? random.pick(ODD_NUMBERS) : 2);
  if (random.once(8)) oddField(random, trainer);
  if (!random.once(12)) message.content(2, trainer.bytes);
  const normalizer = new Message();
  normalizer.number(3, random.below(2));
  if (random.once(2)) message.content(3, normalizer.bytes);
  const bytes = Uint8Array.from(message.bytes);
  for (let n = random.pick([0, 0, 0, 1, 2]); n > 0 && bytes.length > 0; n--)
    bytes[random.below(bytes.length)] = random.pick([0, 0x7f, 0x80, 0xff, random.below(256)]);
  return random.once(12) ? bytes.subarray(0, random.below(bytes.length + 1)) : bytes;
}

export function tokenizerModel(dist) {
  return {
    codes: new Set(CODES),
    reaches: ['ok', 'TOKENIZER_INVALID', 'GGUF_UNSUPPORTED_TOKENIZER'],
    enough: 20_000,
    generate(random) {
      const files = { 'tokenizer.model': model(random) };
      beside(random, files);
      if (random.once(30)) files['tokenizer.json'] = textOf(BYTE_LEVEL[0]);
      return { files, size: random.pick([12, 12, 12, 20, 280, 5]), config: textOf({ ...mutated(random, CONFIG) }) };
    },
    run: run(dist),
  };
}

const MODEL_CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 2048,
  vocab_size: 10,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
};
const ROPES = [
  { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 },
  { type: 'linear', factor: 2 },
  { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 512, beta_fast: 32, attention_factor: 1.13 },
  { rope_type: 'default', rope_theta: 5e5 },
];
const MODEL_WORDS = [
  ...['LlamaForCausalLM', 'MistralForCausalLM', 'Qwen2ForCausalLM', 'Qwen3ForCausalLM', 'llama', 'mistral', 'qwen3'],
  ...['head_dim', 'sliding_window', 'use_sliding_window', 'layer_types', 'max_window_layers', 'rope_parameters'],
  ...[
    'rope_scaling',
    'linear',
    'yarn',
    'llama3',
    'longrope',
    'partial_rotary_factor',
    'swish',
    'gelu',
    'mscale',
    'truncate',
  ],
  ...[
    'full_attention',
    'sliding_attention',
    'tie_word_embeddings',
    'num_hidden_layers',
    'hidden_size',
    16,
    64,
    10,
    2 ** 30,
    2 ** 31 - 2,
  ],
];
const WEIGHTS = [
  ['model.embed_tokens.weight', [10, 64]],
  ['model.norm.weight', [64]],
  ['lm_head.weight', [10, 64]],
  ['model.layers.0.input_layernorm.weight', [64]],
  ['model.layers.0.post_attention_layernorm.weight', [64]],
  ['model.layers.0.self_attn.q_proj.weight', [64, 64]],
  ['model.layers.0.self_attn.k_proj.weight', [32, 64]],
  ['model.layers.0.self_attn.v_proj.weight', [32, 64]],
  ['model.layers.0.self_attn.o_proj.weight', [64, 64]],
  ['model.layers.0.mlp.gate_proj.weight', [96, 64]],
  ['model.layers.0.mlp.up_proj.weight', [96, 64]],
  ['model.layers.0.mlp.down_proj.weight', [64, 96]],
];
const MORE_WEIGHTS = [
  ...[
    'model.layers.1.mlp.up_proj.weight',
    'model.layers.0.self_attn.q_norm.weight',
    'model.layers.00.mlp.up_proj.weight',
  ],
  ...[
    'model.layers.0.self_attn.q_proj.bias',
    'model.layers.0.rotary_emb.inv_freq',
    'x',
    '',
    'model.layers.99999999999.mlp.up_proj.weight',
  ],
  ...['__proto__', 'model.norm.bias'],
];

export function modelConfig(dist) {
  const { describeModel } = dist('checkpoint/gguf/metadata-of-model');
  const { planGguf } = dist('checkpoint/gguf/model-plan');
  const { ggufFileBytes } = dist('checkpoint/gguf/gguf-writer');
  const codes = ['CONFIG_INVALID', 'GGUF_UNSUPPORTED_MODEL', 'GGUF_UNKNOWN_ARCHITECTURE'];
  return {
    codes: new Set([...codes, 'GGUF_DIMENSIONS', 'GGUF_TENSOR_NAME', 'GGUF_DUPLICATE_TENSOR', 'GGUF_INVALID_UTF8']),
    reaches: ['ok', ...codes],
    enough: 20_000,
    generate(random) {
      const base = random.once(2)
        ? MODEL_CONFIG
        : { ...MODEL_CONFIG, [random.pick(['rope_scaling', 'rope_parameters'])]: random.pick(ROPES) };
      let weights = WEIGHTS.map(([name, shape]) => ({ name, shape }));
      for (let n = random.pick([0, 0, 0, 1, 2]); n > 0; n--) {
        const which = random.below(weights.length);
        const kind = random.below(4);
        if (kind === 0) weights = weights.filter((_, i) => i !== which);
        else if (kind === 1)
          weights = [
            ...weights,
            { name: random.pick(MORE_WEIGHTS), shape: random.pick([[64], [64, 64], [], [1, 2, 3, 4, 5], [0, 64]]) },
          ];
        else
          weights = weights.map((weight, i) =>
            i === which
              ? { name: weight.name, shape: random.pick([[64], [64, 64], [2 ** 30, 0], [], [7, 3], [256, 256]]) }
              : weight,
          );
      }
      return {
        config: textOf(mutated(random, base, MODEL_WORDS)),
        weights,
        recipe: random.pick(['q4_k_m', 'q8_0', 'q2_k', 'f16', 'bf16', 'iq4_xs', 'q4_0', 'mxfp4']),
      };
    },
    run({ config, weights, recipe }) {
      const json = JSON.parse(config);
      const description = describeModel(
        typeof json === 'object' && json !== null && !Array.isArray(json) ? json : {},
        ROOT,
      );
      const { metadata, tensors } = planGguf(description, new Map(), weights, { recipe, path: ROOT });
      if (!Number.isSafeInteger(ggufFileBytes(tensors, metadata))) throw new Finding('a file of no size');
      return 'ok';
    },
  };
}

/** config.json of decoders that are run. */
export function decoderConfig(dist) {
  const { readConfig } = dist('model/config');
  const codes = ['CONFIG_INVALID', 'MODEL_UNSUPPORTED'];
  return {
    codes: new Set(codes),
    reaches: ['ok', ...codes],
    enough: 5_000,
    generate(random) {
      const base = random.once(2)
        ? MODEL_CONFIG
        : { ...MODEL_CONFIG, [random.pick(['rope_scaling', 'rope_parameters'])]: random.pick(ROPES) };
      const type = random.pick(['LlamaForCausalLM', 'MistralForCausalLM', 'Qwen2ForCausalLM', 'Qwen3ForCausalLM']);
      const windows = random.once(4)
        ? { use_sliding_window: true, sliding_window: 64, layer_types: ['full_attention'] }
        : {};
      const config = mutated(random, { ...base, architectures: [type], ...windows }, MODEL_WORDS);
      return { config: textOf({ ...config }) };
    },
    run({ config }) {
      const read = readConfig(JSON.parse(config), ROOT);
      const { numLayers, headDim, numHeads, numKvHeads, slidingWindows } = read;
      if (slidingWindows.length !== numLayers) throw new Finding(`${slidingWindows.length} windows`);
      if (headDim % 2 !== 0 || numHeads % numKvHeads !== 0) throw new Finding(JSON.stringify(read));
      return 'ok';
    },
  };
}

/** The tokenizer of a GGUF file, which becomes files of a folder. */
export function tokenizerMetadata(dist) {
  const { tokenizerOfMetadata } = dist('checkpoint/gguf/tokenizer-of-metadata');
  const SEEDS = [
    {
      model: 'gpt2',
      pre: 'llama-bpe',
      tokens: ['a', 'b', 'ab', 'Ġ', '<s>', '[PAD5]'],
      token_type: [1, 1, 1, 1, 3, 5],
      merges: ['a b'],
      bos_token_id: 4,
      add_bos_token: true,
    },
    {
      model: 'llama',
      tokens: ['<unk>', '<s>', '</s>', '<0x41>', '\u2581', 'a', 'b', 'ab'],
      scores: [0, 0, 0, 0, -1, -2, -3, -1],
      token_type: [2, 3, 3, 6, 1, 1, 1, 1],
      eos_token_id: 2,
      add_space_prefix: true,
      chat_template: 'x',
    },
  ];
  const words = [
    'gpt2',
    'llama',
    'bert',
    'none',
    'llama-bpe',
    'qwen2',
    'default',
    'a',
    'ab',
    'a b',
    '<0xFF>',
    'tokens',
    'scores',
    'token_type',
    'merges',
    'eos_token_id',
    'huggingface.json',
    'chat_templates',
    '{"model":{}}',
    1,
    2,
    6,
  ];
  const number = (value) => typeof value === 'number';
  /** A value as a GGUF file can have it, or undefined. */
  const entryOf = (value) => {
    if (typeof value === 'string') return { type: 'string', value };
    if (typeof value === 'boolean') return { type: 'bool', value };
    if (number(value))
      return Number.isInteger(value) && value >= 0
        ? { type: 'uint32', value: value >>> 0 }
        : { type: 'float32', value: Math.fround(value) };
    if (!Array.isArray(value)) return undefined;
    if (value.every((item) => typeof item === 'string')) return { type: 'array', elementType: 'string', value };
    if (value.every((item) => typeof item === 'boolean')) return { type: 'array', elementType: 'bool', value };
    if (!value.every(number)) return undefined;
    return value.every(Number.isInteger)
      ? { type: 'array', elementType: 'int32', value: Int32Array.from(value) }
      : { type: 'array', elementType: 'float32', value: Float32Array.from(value) };
  };
  return {
    codes: new Set([]),
    reaches: ['ok', 'none'],
    enough: 2_000,
    generate(random) {
      return { keys: textOf(mutated(random, random.pick(SEEDS), words)), contextLength: random.once(2) ? null : 2048 };
    },
    run({ keys, contextLength }) {
      const metadata = new Map();
      for (const [key, value] of Object.entries(JSON.parse(keys) ?? {})) {
        const entry = entryOf(value);
        const name = key.startsWith('chat') ? `tokenizer.${key}` : `tokenizer.ggml.${key}`;
        if (entry !== undefined) metadata.set(key === 'huggingface.json' ? 'tokenizer.huggingface.json' : name, entry);
      }
      const { files, warnings } = tokenizerOfMetadata(metadata, contextLength);
      for (const [name, text] of files) {
        const json = JSON.parse(text);
        if (typeof json !== 'object' || json === null) throw new Finding(`${name} is ${text}`);
      }
      if (files.size === 0 && warnings.length === 0) throw new Finding('no tokenizer, and no reason');
      return files.size === 0 ? 'none' : 'ok';
    },
  };
}
