import { copyFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  type Architecture,
  ggufNameOf,
  hfNameOf,
  pairRows,
  unpairRows,
} from '../../lib/checkpoint/gguf/architecture.js';
import { writeGguf } from '../../lib/checkpoint/gguf/gguf-writer.js';
import { type GgufValue, ggufValue } from '../../lib/checkpoint/gguf/metadata.js';
import { describeModel } from '../../lib/checkpoint/gguf/metadata-of-model.js';
import { type ModelWeight, planGguf } from '../../lib/checkpoint/gguf/model-plan.js';
import { tokenizerMetadata } from '../../lib/checkpoint/gguf/tokenizer.js';
import { quantizeCheckpoint } from '../../lib/index.js';
import { safetensors, temporaryFolder, writeFolder } from '../support/files.js';
import { readJson, VECTORS } from '../support/vectors.js';

type Json = Record<string, unknown>;
const root = temporaryFolder();
let count = 0;
const plain = (metadata: ReadonlyMap<string, GgufValue>) =>
  Object.fromEntries([...metadata].map(([key, { value }]) => [key, value]));

const llama: Json = {
  architectures: ['LlamaForCausalLM'],
  hidden_act: 'silu',
  hidden_size: 64,
  intermediate_size: 96,
  max_position_embeddings: 128,
  num_attention_heads: 4,
  num_hidden_layers: 2,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-5,
  vocab_size: 300,
};
const mistral = { ...llama, architectures: ['MistralForCausalLM'], model_type: 'mistral', sliding_window: null };
const qwen2 = { ...llama, architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2' };

describe('what config.json becomes', () => {
  it('every key of a Llama', () => {
    const { metadata, ...rest } = describeModel({ ...llama, rope_theta: 5e5 }, 'm');
    expect(plain(metadata)).toEqual({
      'general.architecture': 'llama',
      'general.type': 'model',
      'llama.block_count': 2,
      'llama.context_length': 128,
      'llama.embedding_length': 64,
      'llama.feed_forward_length': 96,
      'llama.attention.head_count': 4,
      'llama.attention.head_count_kv': 2,
      'llama.attention.layer_norm_rms_epsilon': Math.fround(1e-5),
      'llama.attention.key_length': 16,
      'llama.attention.value_length': 16,
      'llama.vocab_size': 300,
      'llama.rope.dimension_count': 16,
      'llama.rope.freq_base': 5e5,
    });
    expect(rest).toMatchObject({ heads: 4, headsKv: 2, headDim: 16, vocabularySize: 300, isTied: false });
    expect(rest.ropeFactors).toBeNull();
  });

  it.each(['llama-gqa', 'llama-rope-linear', 'llama-rope-llama3', 'llama-rope-yarn', 'qwen2-tied', 'qwen3-qknorm'])(
    'the spellings of transformers 4 and 5 say the same: %s',
    (name) => {
      const read = (file: string) => describeModel(readJson<Json>('models', name, file), name);
      expect(read('config.v4.json')).toEqual(read('config.json'));
    },
  );

  it('llama3 factors: 1 for short waves, the factor for long ones, between by degrees', () => {
    const { ropeFactors } = describeModel(readJson<Json>('models', 'llama-rope-llama3', 'config.json'), 'm');
    const factors = Array.from(ropeFactors ?? []);
    // 1 frequency kept, 2 blended, 5 divided: wavelengths 2π·500^(i/8) against 32/4 and 32/1.
    expect(factors.filter((factor) => factor === 1).length).toBe(1);
    expect(factors.filter((factor) => factor === 8).length).toBe(5);
    const smooth = (32 / (2 * Math.PI * 500 ** (1 / 8)) - 1) / 3;
    expect(factors[1]).toBeCloseTo(1 / ((1 - smooth) / 8 + smooth), 6);
  });

  it('windows that no text outgrows, or that are not used, do not matter', () => {
    for (const config of [
      mistral,
      { ...mistral, sliding_window: 128 },
      { ...qwen2, sliding_window: 8 },
      { ...qwen2, sliding_window: 8, use_sliding_window: false, max_window_layers: 1 },
      { ...qwen2, sliding_window: 8, use_sliding_window: true, max_window_layers: 2 },
      { ...qwen2, sliding_window: 8, layer_types: ['full_attention', 'full_attention'] },
      { ...llama, sliding_window: 8 },
    ]) {
      expect(describeModel(config, 'm').heads).toBe(4);
    }
  });

  const refused: [string, Json, string][] = [
    ['GGUF_UNKNOWN_ARCHITECTURE', { ...llama, architectures: ['MambaForCausalLM'] }, 'MambaForCausalLM'],
    ['GGUF_UNKNOWN_ARCHITECTURE', { ...llama, architectures: ['MixtralForCausalLM'] }, 'MixtralForCausalLM'],
    ['GGUF_UNKNOWN_ARCHITECTURE', { ...llama, architectures: ['Qwen3MoeForCausalLM'] }, 'Qwen3MoeForCausalLM'],
    ['GGUF_UNKNOWN_ARCHITECTURE', { ...llama, architectures: ['LlamaModel'] }, 'LlamaModel'],
    ['GGUF_UNKNOWN_ARCHITECTURE', { model_type: 'gpt2' }, 'gpt2'],
    ['GGUF_UNKNOWN_ARCHITECTURE', { model_type: 'constructor' }, 'constructor'],
    ['GGUF_UNKNOWN_ARCHITECTURE', {}, 'not named'],
    ['GGUF_UNSUPPORTED_MODEL', { ...llama, hidden_act: 'gelu' }, 'gelu'],
    ['GGUF_UNSUPPORTED_MODEL', { ...mistral, sliding_window: 8 }, 'sliding window of 8'],
    ['GGUF_UNSUPPORTED_MODEL', { ...mistral, max_position_embeddings: 8192, sliding_window: undefined }, '4096'],
    [
      'GGUF_UNSUPPORTED_MODEL',
      { ...qwen2, sliding_window: 8, use_sliding_window: true, max_window_layers: 1 },
      'window',
    ],
    ['GGUF_UNSUPPORTED_MODEL', { ...qwen2, sliding_window: 8, layer_types: ['sliding_attention'] }, 'window'],
    ['GGUF_UNSUPPORTED_MODEL', { ...llama, rope_scaling: { type: 'dynamic', factor: 2 } }, 'dynamic'],
    ['GGUF_UNSUPPORTED_MODEL', { ...llama, rope_scaling: { rope_type: 'longrope', factor: 2 } }, 'longrope'],
    ['GGUF_UNSUPPORTED_MODEL', { ...llama, partial_rotary_factor: 0.5 }, 'partial_rotary_factor'],
    ['GGUF_UNSUPPORTED_MODEL', { ...llama, rope_parameters: { full_attention: { rope_theta: 1 } } }, 'full_attention'],
    [
      'GGUF_UNSUPPORTED_MODEL',
      { ...llama, rope_scaling: { type: 'yarn', factor: 4, attention_factor: 2 } },
      'attention_factor',
    ],
    ['GGUF_UNSUPPORTED_MODEL', { ...llama, rope_scaling: { type: 'yarn', factor: 4, mscale: 1 } }, 'mscale'],
    ['CONFIG_INVALID', { ...llama, hidden_size: undefined }, '"hidden_size"'],
    ['CONFIG_INVALID', { ...llama, hidden_size: 'large' }, '"large"'],
    ['CONFIG_INVALID', { ...llama, hidden_size: 2 ** 40 }, '"hidden_size"'],
    ['CONFIG_INVALID', { ...llama, num_attention_heads: 5 }, '5 heads'],
    ['CONFIG_INVALID', { ...llama, num_key_value_heads: 3 }, 'among 3'],
    ['CONFIG_INVALID', { ...llama, head_dim: 15 }, '15 elements'],
    ['CONFIG_INVALID', { ...llama, rms_norm_eps: -1 }, '"rms_norm_eps"'],
    ['CONFIG_INVALID', { ...llama, rope_scaling: { type: 'linear' } }, '"rope_scaling.factor"'],
    ['CONFIG_INVALID', { ...llama, rope_scaling: 'linear' }, '"rope_scaling"'],
    ['CONFIG_INVALID', { ...qwen2, num_key_value_heads: undefined }, '"num_key_value_heads"'],
  ];
  it.each(refused)('%s', (code, config, named) => {
    expect(() => describeModel(config, 'some-model')).toThrow(expect.objectContaining({ code }));
    expect(() => describeModel(config, 'some-model')).toThrow(named);
    expect(() => describeModel(config, 'some-model')).toThrow('some-model');
  });
});

describe('names and rows', () => {
  it('go both ways', () => {
    const architecture: Architecture = { name: 'qwen3', pairsRows: false };
    for (const name of [
      'model.embed_tokens.weight',
      'model.norm.weight',
      'lm_head.weight',
      ...['input_layernorm', 'post_attention_layernorm', 'self_attn.q_norm', 'self_attn.k_norm', 'self_attn.q_proj']
        .concat(['self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj', 'mlp.gate_proj', 'mlp.up_proj'])
        .flatMap((inner) => [`model.layers.17.${inner}.weight`, `model.layers.0.${inner}.bias`]),
    ]) {
      const gguf = ggufNameOf(architecture, name);
      expect(gguf).not.toBeNull();
      expect(hfNameOf(architecture, gguf as string)).toBe(name);
    }
    expect(ggufNameOf(architecture, 'model.layers.0.mlp.down_proj.weight')).toBe('blk.0.ffn_down.weight');
    expect(ggufNameOf(architecture, 'model.layers.0.mlp.experts.weight')).toBeNull();
    expect(ggufNameOf(architecture, 'model.layers.0.mlp.down_proj.scales')).toBeNull();
    expect(ggufNameOf({ ...architecture, name: 'llama' }, 'model.layers.0.self_attn.q_norm.weight')).toBeNull();
  });

  it('rows are brought into pairs and back', () => {
    const rows = Uint8Array.from({ length: 16 }, (_, i) => i);
    const [paired, back] = [new Uint8Array(16), new Uint8Array(16)];
    pairRows(rows, paired, 1, 8);
    expect(Array.from(paired)).toEqual([0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    unpairRows(paired, back, 1, 8);
    expect(back).toEqual(rows);
    pairRows(rows, paired, 2, 4);
    expect(Array.from(paired)).toEqual([0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
  });
});

describe('plans', () => {
  const description = describeModel({ ...llama, num_hidden_layers: 1 }, 'm');
  const inLayer = ['input_layernorm', 'post_attention_layernorm', 'self_attn.o_proj', 'mlp.up_proj', 'mlp.down_proj'];
  const weights: ModelWeight[] = [
    { name: 'model.embed_tokens.weight', shape: [300, 64] },
    { name: 'model.layers.0.self_attn.q_proj.weight', shape: [64, 64] },
    { name: 'model.layers.0.self_attn.k_proj.weight', shape: [32, 64] },
    { name: 'model.layers.0.self_attn.v_proj.weight', shape: [32, 64] },
    { name: 'model.layers.0.mlp.gate_proj.weight', shape: [96, 64] },
    ...inLayer.map((name) => ({
      name: `model.layers.0.${name}.weight`,
      shape: name.endsWith('norm') ? [64] : [64, 64],
    })),
    { name: 'model.layers.0.self_attn.k_proj.bias', shape: [32] },
    { name: 'model.layers.0.self_attn.rotary_emb.inv_freq', shape: [8] },
    { name: 'model.norm.weight', shape: [64] },
    { name: 'lm_head.weight', shape: [300, 64] },
  ];
  const plan = (given: ModelWeight[], of = description) =>
    planGguf(of, new Map(), given, { recipe: 'q4_0', path: 'm' });

  it('name, type and rows of each tensor', () => {
    const { tensors, metadata } = plan(weights);
    expect(tensors.map(({ name, dtype, headRows }) => [name, dtype, headRows])).toEqual([
      ['token_embd.weight', 'q4_0', 1],
      ['blk.0.attn_q.weight', 'q4_0', 16],
      ['blk.0.attn_k.weight', 'q4_0', 16],
      ['blk.0.attn_v.weight', 'q4_0', 1],
      ['blk.0.ffn_gate.weight', 'q4_0', 1],
      ['blk.0.attn_norm.weight', 'f32', 1],
      ['blk.0.ffn_norm.weight', 'f32', 1],
      ['blk.0.attn_output.weight', 'q4_0', 1],
      ['blk.0.ffn_up.weight', 'q4_0', 1],
      ['blk.0.ffn_down.weight', 'q4_0', 1],
      ['blk.0.attn_k.bias', 'f32', 16],
      ['output_norm.weight', 'f32', 1],
      // 64 columns are no block of q6_k.
      ['output.weight', 'q8_0', 1],
    ]);
    expect(metadata.get('general.file_type')?.value).toBe(2);
  });

  it('a tied head is not stored twice, rotary factors are', () => {
    const tied = describeModel(
      {
        ...llama,
        num_hidden_layers: 1,
        tie_word_embeddings: true,
        rope_scaling: { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
      },
      'm',
    );
    const names = plan(weights, tied).tensors.map(({ name }) => name);
    expect(names).not.toContain('output.weight');
    expect(names.at(-1)).toBe('rope_freqs.weight');
  });

  it.each([
    ['GGUF_UNSUPPORTED_MODEL', { name: 'model.layers.0.mlp.experts.0.w1.weight', shape: [4, 4] }],
    ['CONFIG_INVALID', { name: 'model.layers.0.self_attn.q_proj.weight', shape: [63, 64] }],
    ['CONFIG_INVALID', { name: 'model.embed_tokens.weight', shape: [299, 64] }],
  ])('%s names the weight', (code, weight) => {
    expect(() => plan([...weights, weight])).toThrow(expect.objectContaining({ code, tensor: weight.name }));
  });

  it('a layer too many, or a weight of a layer missing, is named', () => {
    const more = { name: 'model.layers.1.mlp.up_proj.weight', shape: [64, 64] };
    expect(() => plan([...weights, more])).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', tensor: more.name }),
    );
    for (const name of ['model.layers.0.self_attn.v_proj.weight', 'model.norm.weight']) {
      const fewer = weights.filter((weight) => weight.name !== name);
      expect(() => plan(fewer)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID', tensor: name }));
    }
  });

  it('a config that claims what would take all memory is compared with the weights first', async () => {
    const huge = 2 ** 31 - 2;
    const claims = { ...llama, num_hidden_layers: huge, hidden_size: 64, vocab_size: 300 };
    expect(() => plan(weights, describeModel(claims, 'm'))).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', tensor: 'model.layers.1.input_layernorm.weight' }),
    );
    const rope_scaling = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
    expect(() => describeModel({ ...llama, head_dim: huge, rope_scaling }, 'm')).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID' }),
    );
    const empty = [{ name: 'model.embed_tokens.weight', shape: [huge, 0] }, ...weights.slice(1)];
    expect(() => plan(empty, describeModel({ ...claims, num_hidden_layers: 1, vocab_size: huge }, 'm'))).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', tensor: 'model.embed_tokens.weight' }),
    );
    // Through everything: the vocabulary is made only when the embedding is there for it.
    const folder = writeFolder(join(root, String(count++)), {
      'config.json': { ...llama, num_hidden_layers: 1, vocab_size: huge },
      'model.safetensors': safetensors({
        'model.embed_tokens.weight': { dtype: 'F32', shape: [300, 64], data: new Float32Array(300 * 64) },
      }),
    });
    const output = join(root, `${count++}.gguf`);
    await expect(quantizeCheckpoint(folder, { format: 'gguf', output })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      tensor: 'model.embed_tokens.weight',
    });
    expect(existsSync(output)).toBe(false);
  });

  it('a head that is missing, though nothing says that it is tied', () => {
    expect(() => plan(weights.slice(0, -1))).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });
});

describe('tokenizers', () => {
  const folderWith = (files: Record<string, object | string | Buffer>) =>
    writeFolder(join(root, String(count++)), files);
  const vector = (name: string, file: string) => readFileSync(join(VECTORS, 'tokenizers', name, file));
  const values = async (folder: string, size: number, config: Json = {}) =>
    plain(await tokenizerMetadata(folder, size, config));
  type Tokenizer = Json & { model: Json; added_tokens: Json[] };

  it('a file can not hold halves of surrogate pairs, which JSON can', async () => {
    const path = join(root, `${count++}.gguf`);
    for (const value of [ggufValue.string('\ud800'), ggufValue.strings(['a', 'b\udc00'])]) {
      await expect(writeGguf(path, [], new Map([['tokenizer.ggml.tokens', value]]))).rejects.toMatchObject({
        code: 'GGUF_INVALID_UTF8',
        message: expect.stringContaining('tokenizer.ggml.tokens'),
      });
    }
    expect(existsSync(path)).toBe(false);
    await (await writeGguf(path, [], new Map([['a', ggufValue.string('\ud83d\ude00')]]))).close();
  });

  const changed = (name: string, change: (json: Tokenizer) => void) => {
    const json = JSON.parse(vector(name, 'tokenizer.json').toString()) as Tokenizer;
    change(json);
    return folderWith({ 'tokenizer.json': json });
  };

  it('tokenizer.model: texts, scores and types are those of SentencePiece', async () => {
    const { pieces } = readJson<{ pieces: [string, number, number][] }>('tokenizers', 'sentencepiece', 'expect.json');
    const folder = folderWith({
      'tokenizer.model': vector('sentencepiece', 'tokenizer.model'),
      'added_tokens.json': { '<tool>': pieces.length },
      'tokenizer_config.json': {
        bos_token: '<s>',
        eos_token: { content: '</s>' },
        unk_token: '<unk>',
        pad_token: null,
        chat_template: '{{ messages }}',
        added_tokens_decoder: { [pieces.length + 1]: { content: '<|im_end|>', special: true } },
      },
    });
    const got = await values(folder, pieces.length + 3);
    const tokens = got['tokenizer.ggml.tokens'] as string[];
    expect(tokens.slice(0, pieces.length)).toEqual(pieces.map(([text]) => text));
    expect(tokens.slice(pieces.length)).toEqual(['<tool>', '<|im_end|>', `[PAD${pieces.length + 2}]`]);
    const scores = Array.from(got['tokenizer.ggml.scores'] as Float32Array);
    expect(scores.slice(0, pieces.length)).toEqual(pieces.map(([, score]) => score));
    const types = Array.from(got['tokenizer.ggml.token_type'] as Int32Array);
    expect(types).toEqual([...pieces.map(([, , type]) => type), 4, 3, 5]);
    expect(got).toMatchObject({
      'tokenizer.ggml.model': 'llama',
      'tokenizer.ggml.bos_token_id': 1,
      'tokenizer.ggml.eos_token_id': 2,
      'tokenizer.ggml.unknown_token_id': 0,
      'tokenizer.ggml.add_bos_token': true,
      'tokenizer.ggml.add_eos_token': false,
      'tokenizer.ggml.add_space_prefix': true,
      'tokenizer.chat_template': '{{ messages }}',
    });
    expect(got).not.toHaveProperty('tokenizer.ggml.padding_token_id');
  });

  it('tokenizer.json with byte fallback has the same tokens and types', async () => {
    const { pieces } = readJson<{ pieces: [string, number, number][] }>('tokenizers', 'sentencepiece', 'expect.json');
    const files = {
      'tokenizer.json': vector('sentencepiece', 'tokenizer.json'),
      'tokenizer_config.json': { unk_token: '<unk>' },
    };
    const got = await values(folderWith(files), pieces.length);
    expect(got['tokenizer.ggml.tokens']).toEqual(pieces.map(([text]) => text));
    expect(Array.from(got['tokenizer.ggml.token_type'] as Int32Array)).toEqual(pieces.map(([, , type]) => type));
    // Merges come in the order of the scores.
    const scores = got['tokenizer.ggml.scores'] as Float32Array;
    const order = (of: (i: number) => number) =>
      pieces
        .flatMap(([text, , type], i) => (type === 1 && Array.from(text).length > 1 ? [i] : []))
        .sort((a, b) => of(b) - of(a));
    expect(order((i) => scores[i] as number)).toEqual(order((i) => pieces[i]?.[1] ?? 0));
  });

  it('the bundled tokenizer of bytes spells the space as SentencePiece does', async () => {
    const folder = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');
    const got = await values(folder, 259, { bos_token_id: 1 });
    const tokens = got['tokenizer.ggml.tokens'] as string[];
    expect(tokens.slice(0, 5)).toEqual(['<unk>', '<s>', '</s>', '<0x00>', '<0x01>']);
    expect(tokens[35]).toBe('\u2581');
    const types = Array.from(got['tokenizer.ggml.token_type'] as Int32Array);
    expect([types[0], types[1], types[34], types[35], types[36]]).toEqual([2, 3, 6, 1, 6]);
    expect(got).toMatchObject({ 'tokenizer.ggml.add_space_prefix': false, 'tokenizer.ggml.add_bos_token': true });
  });

  it.each(['llama-bpe', 'tekken', 'gpt-2', 'smollm'])('tokenizer.json over bytes: %s', async (name) => {
    const { size } = readJson<{ size: number }>('tokenizers', name, 'expect.json');
    const got = await values(folderWith({ 'tokenizer.json': vector(name, 'tokenizer.json') }), size + 1);
    expect(got).toMatchObject({ 'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': name });
    const json = JSON.parse(vector(name, 'tokenizer.json').toString()) as Tokenizer;
    const tokens = got['tokenizer.ggml.tokens'] as string[];
    for (const [text, id] of Object.entries(json.model['vocab'] as Record<string, number>))
      expect(tokens[id]).toBe(text);
    expect(tokens.slice(420)).toEqual(['<|begin|>', '<|end|>', '<tool>', '[PAD423]']);
    expect(Array.from(got['tokenizer.ggml.token_type'] as Int32Array).slice(419)).toEqual([1, 3, 3, 4, 5]);
    expect((got['tokenizer.ggml.merges'] as string[]).length).toBe((json.model['merges'] as unknown[]).length);
    const adds = name === 'llama-bpe';
    expect(got['tokenizer.ggml.add_bos_token']).toBe(adds);
    expect(got['tokenizer.ggml.bos_token_id']).toBe(adds ? 420 : undefined);
  });

  it('merges as strings and as pairs are the same', async () => {
    const pairs = folderWith({ 'tokenizer.json': vector('gpt-2', 'tokenizer.json') });
    const strings = changed('gpt-2', ({ model }) => {
      model['merges'] = (model['merges'] as string[][]).map((merge) => merge.join(' '));
    });
    expect(await values(strings, 423)).toEqual(await values(pairs, 423));
  });

  it('chat templates: a file, one, or several with names', async () => {
    const json = vector('gpt-2', 'tokenizer.json');
    const template = [
      { name: 'default', template: 'D' },
      { name: 'tool_use', template: 'T' },
      { name: '../x', template: 'X' },
    ];
    const several = await values(
      folderWith({ 'tokenizer.json': json, 'tokenizer_config.json': { chat_template: template } }),
      423,
    );
    expect(several).toMatchObject({
      'tokenizer.chat_template': 'D',
      'tokenizer.chat_template.tool_use': 'T',
      'tokenizer.chat_templates': ['tool_use'],
    });
    const settings = { chat_template: 'old' };
    const files = { 'tokenizer.json': json, 'tokenizer_config.json': settings, 'chat_template.jinja': 'new' };
    expect((await values(folderWith(files), 423))['tokenizer.chat_template']).toBe('new');
    const older = {
      'tokenizer.json': json,
      'tokenizer_config.json': settings,
      'chat_template.json': { chat_template: 'C' },
    };
    expect((await values(folderWith(older), 423))['tokenizer.chat_template']).toBe('C');
  });

  it('tokens that only tokenizer_config.json or added_tokens.json knows are there too', async () => {
    const folder = folderWith({
      'tokenizer.json': vector('gpt-2', 'tokenizer.json'),
      'added_tokens.json': { '<own>': 423, '<tool>': 422 },
      'tokenizer_config.json': { added_tokens_decoder: { 424: { content: '<|im_end|>', special: true } } },
    });
    const got = await values(folder, 426);
    expect((got['tokenizer.ggml.tokens'] as string[]).slice(422)).toEqual([
      '<tool>',
      '<own>',
      '<|im_end|>',
      '[PAD425]',
    ]);
    expect(Array.from(got['tokenizer.ggml.token_type'] as Int32Array).slice(422)).toEqual([4, 4, 3, 5]);
  });

  it('tokens that only tokenizer.json adds to a SentencePiece model are there too', async () => {
    const { pieces } = readJson<{ pieces: unknown[] }>('tokenizers', 'sentencepiece', 'expect.json');
    const json = JSON.parse(vector('sentencepiece', 'tokenizer.json').toString()) as Tokenizer;
    json.added_tokens.push({ id: pieces.length, content: '<|im_start|>', special: true });
    const folder = folderWith({
      'tokenizer.json': json,
      'tokenizer.model': vector('sentencepiece', 'tokenizer.model'),
    });
    const got = await values(folder, pieces.length + 1);
    expect((got['tokenizer.ggml.tokens'] as string[]).at(-1)).toBe('<|im_start|>');
    expect(Array.from(got['tokenizer.ggml.token_type'] as Int32Array).at(-1)).toBe(3);
  });

  it('a tokenizer.model of another kind gives way to tokenizer.json', async () => {
    const folder = folderWith({ 'tokenizer.model': 'IQ== 0\nIg== 1\n' });
    await expect(tokenizerMetadata(folder, 423, {})).rejects.toMatchObject({ code: 'TOKENIZER_INVALID' });
    copyFileSync(join(VECTORS, 'tokenizers', 'gpt-2', 'tokenizer.json'), join(folder, 'tokenizer.json'));
    expect((await values(folder, 423))['tokenizer.ggml.model']).toBe('gpt2');
  });

  const vocabOf = ({ model }: Tokenizer) => model['vocab'] as Record<string, unknown>;
  const bad: [string, string, () => string, number?][] = [
    ['GGUF_UNSUPPORTED_TOKENIZER', 'no tokenizer', () => folderWith({})],
    ['TOKENIZER_INVALID', 'no JSON', () => folderWith({ 'tokenizer.json': '{' })],
    ['TOKENIZER_INVALID', 'no object', () => folderWith({ 'tokenizer.json': '[]' })],
    ['TOKENIZER_INVALID', 'no model', () => folderWith({ 'tokenizer.json': {} })],
    [
      'TOKENIZER_INVALID',
      'bytes that are no protobuf',
      () => folderWith({ 'tokenizer.model': Buffer.from([10, 255, 255, 255, 255, 15]) }),
    ],
    ['TOKENIZER_INVALID', 'an empty SentencePiece model', () => folderWith({ 'tokenizer.model': Buffer.alloc(0) })],
    ['TOKENIZER_INVALID', 'more tokens than embeddings', () => changed('gpt-2', () => {}), 422],
    [
      'TOKENIZER_INVALID',
      'a SentencePiece token without embedding',
      () => folderWith({ 'tokenizer.model': vector('sentencepiece', 'tokenizer.model') }),
      100,
    ],
    ['TOKENIZER_INVALID', 'an id twice', () => changed('gpt-2', (json) => (vocabOf(json)['zzz'] = 7))],
    ['TOKENIZER_INVALID', 'an id that is no number', () => changed('gpt-2', (json) => (vocabOf(json)['zzz'] = '7'))],
    ['TOKENIZER_INVALID', 'a negative id', () => changed('gpt-2', (json) => (vocabOf(json)['zzz'] = -1))],
    ['TOKENIZER_INVALID', 'no merges', () => changed('gpt-2', ({ model }) => delete model['merges'])],
    ['TOKENIZER_INVALID', 'a merge of three', () => changed('gpt-2', ({ model }) => (model['merges'] = ['a b c']))],
    ['TOKENIZER_INVALID', 'a merge into nothing', () => changed('gpt-2', ({ model }) => (model['merges'] = ['! !']))],
    [
      'TOKENIZER_INVALID',
      'an added token of another text',
      () => changed('gpt-2', ({ added_tokens: added }) => added.push({ id: 3, content: 'x' })),
    ],
    ['GGUF_UNSUPPORTED_TOKENIZER', 'unigram', () => changed('gpt-2', ({ model }) => (model['type'] = 'Unigram'))],
    [
      'GGUF_UNSUPPORTED_TOKENIZER',
      'suffixes',
      () => changed('gpt-2', ({ model }) => (model['end_of_word_suffix'] = '</w>')),
    ],
    [
      'GGUF_UNSUPPORTED_TOKENIZER',
      'another regular expression',
      () =>
        changed('llama-bpe', (json) => {
          json['pre_tokenizer'] = JSON.parse(JSON.stringify(json['pre_tokenizer']).replace('{1,3}', '{1,4}'));
        }),
    ],
    [
      'GGUF_UNSUPPORTED_TOKENIZER',
      'letters made small',
      () => changed('gpt-2', (json) => (json['normalizer'] = { type: 'Lowercase' })),
    ],
    [
      'GGUF_UNSUPPORTED_TOKENIZER',
      'no bytes',
      () => changed('sentencepiece', ({ model }) => (model['byte_fallback'] = false)),
    ],
    [
      'GGUF_UNSUPPORTED_TOKENIZER',
      'a byte missing',
      () => changed('sentencepiece', (json) => delete vocabOf(json)['<0x41>']),
    ],
    [
      'GGUF_UNSUPPORTED_TOKENIZER',
      'another normalizer',
      () => changed('sentencepiece', (json) => (json['normalizer'] = { type: 'NFKC' })),
    ],
    [
      'GGUF_UNSUPPORTED_TOKENIZER',
      'merges that scores can not express',
      () =>
        changed('sentencepiece', ({ model }) => (model['merges'] as unknown[]).push((model['merges'] as unknown[])[0])),
    ],
    [
      'GGUF_UNSUPPORTED_TOKENIZER',
      'two tokens that make a third but are no merge',
      () => changed('sentencepiece', ({ model }) => (model['merges'] as unknown[]).pop()),
    ],
    [
      'GGUF_UNSUPPORTED_TOKENIZER',
      'two tokens before a text',
      () =>
        changed('llama-bpe', (json) => {
          const [, template] = (json['post_processor'] as { processors: { single: unknown[] }[] }).processors;
          template?.single.unshift(template.single[0]);
        }),
    ],
    [
      'GGUF_UNSUPPORTED_TOKENIZER',
      'a token after a text that is not the end',
      () =>
        changed('llama-bpe', (json) => {
          const [, template] = (json['post_processor'] as { processors: { single: unknown[] }[] }).processors;
          template?.single.push({ SpecialToken: { id: '<|end|>', type_id: 0 } });
        }),
    ],
  ];
  it.each(bad)('%s: %s', async (code, _, folder, size = 500) => {
    await expect(tokenizerMetadata(folder(), size, {})).rejects.toMatchObject({ code });
  });
});
