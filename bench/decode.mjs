/**
 * How fast does a model of the shape of Llama-3.2-1B run, quantized to four bits, beside llama.cpp on the same file?
 *
 * `npm run bench:decode -- [--quick] [--write] [--mixture] [--folder=<where>]` writes a GGUF file (0.7 GB) with generated
 * weights (--quick: four layers and a small vocabulary), all of them Q4_0: integers of four bits in groups of 32. With
 * --mixture the output layer is Q6_K, as llama-quantize makes it. Both read it. Tokens of a prompt per second, and tokens one by one
 * after it, with one thread and with all, in rounds that alternate. Both compute with activations in eight bits; both keep
 * keys and values in their own default type, float32 here and float16 there.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { pairRows } from '../dist/checkpoint/gguf/architecture.js';
import { writeGguf } from '../dist/checkpoint/gguf/gguf-writer.js';
import { ggufValue } from '../dist/checkpoint/gguf/metadata.js';
import { describeModel } from '../dist/checkpoint/gguf/metadata-of-model.js';
import { planGguf } from '../dist/checkpoint/gguf/model-plan.js';
import lowbit from '../dist/index.js';
import { normal } from './support/measure.mjs';
import { peer } from './support/peer.mjs';
import { markdownTable, publish } from './support/report.mjs';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    mixture: { type: 'boolean', default: false },
    folder: { type: 'string', default: tmpdir() },
  },
});
const llamaCpp = await peer('llama-cpp');
const root = mkdtempSync(join(options.folder, 'lowbit-bench-'));
process.on('exit', () => rmSync(root, { recursive: true, force: true }));

const [PROMPT, TOKENS, ROUNDS] = options.quick ? [64, 16, 3] : [256, 64, 5];
const config = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 2048,
  intermediate_size: 8192,
  num_hidden_layers: options.quick ? 4 : 16,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  head_dim: 64,
  hidden_act: 'silu',
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  rope_scaling: {
    rope_type: 'llama3',
    factor: 32,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
  tie_word_embeddings: true,
  vocab_size: options.quick ? 32000 : 128256,
};

/** Names and shapes of the weights. */
function weightsOf({ hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers, ...rest }) {
  const [q, kv] = [rest.num_attention_heads * rest.head_dim, rest.num_key_value_heads * rest.head_dim];
  const layer = [
    ['input_layernorm', [hidden]],
    ['self_attn.q_proj', [q, hidden]],
    ['self_attn.k_proj', [kv, hidden]],
    ['self_attn.v_proj', [kv, hidden]],
    ['self_attn.o_proj', [hidden, q]],
    ['post_attention_layernorm', [hidden]],
    ['mlp.gate_proj', [inner, hidden]],
    ['mlp.up_proj', [inner, hidden]],
    ['mlp.down_proj', [hidden, inner]],
  ];
  return [
    { name: 'model.embed_tokens.weight', shape: [rest.vocab_size, hidden] },
    ...Array.from({ length: layers }, (_, i) =>
      layer.map(([name, shape]) => ({ name: `model.layers.${i}.${name}.weight`, shape })),
    ).flat(),
    { name: 'model.norm.weight', shape: [hidden] },
  ];
}

/** Writes the model; returns its path. */
async function generate() {
  const path = join(root, 'model.gguf');
  const description = describeModel(config, path);
  const vocabulary = new Map([['tokenizer.ggml.model', ggufValue.string('no_vocab')]]);
  const planned = planGguf(description, vocabulary, weightsOf(config), { recipe: 'q4_0', path });
  const tensors = planned.tensors.map((tensor) =>
    tensor.dtype === 'f32' || options.mixture ? tensor : { ...tensor, dtype: 'q4_0' },
  );
  const writer = await writeGguf(path, tensors, planned.metadata);
  const values = normal(1 << 22).map((value) => value * 0.02);
  for (const { name, dtype, shape, headRows, data } of tensors) {
    const count = shape.reduce((a, b) => a * b, 1);
    const rowLength = shape.at(-1);
    if (dtype === 'f32') {
      const floats = data ?? new Float32Array(count).fill(1);
      await writer.write(name, 0, new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength));
      continue;
    }
    for (let begin = 0, at = 0; begin < count; begin += values.length) {
      let bytes = lowbit.quantizeBlocks(values.subarray(0, Math.min(values.length, count - begin)), {
        type: dtype,
        rowLength,
      });
      if (headRows > 1) {
        const paired = new Uint8Array(bytes.length);
        pairRows(bytes, paired, (bytes.length * rowLength) / Math.min(values.length, count - begin), headRows);
        bytes = paired;
      }
      await writer.write(name, at, bytes);
      at += bytes.length;
    }
  }
  await writer.close();
  return path;
}

const path = await generate();
const prompt = Int32Array.from({ length: PROMPT }, (_, i) => (i * 7919 + 11) % config.vocab_size);
const all = lowbit.capabilities().threads;

/** Tokens per second of the prompt and of those after it. */
async function measureOurs(model, threads) {
  lowbit.setNumThreads(threads);
  // The last token is chosen but not taken in.
  const { promptSeconds, tokenSeconds, tokens } = await model.generate(prompt, { maxTokens: TOKENS + 1 });
  if (tokens.length !== TOKENS + 1) throw new Error('a token ended the text');
  return [PROMPT / promptSeconds, TOKENS / tokenSeconds];
}

function measureTheirs(context) {
  context.clear();
  const start = performance.now();
  context.decode(prompt);
  const first = performance.now();
  for (let i = 0; i < TOKENS; i++) context.decode(Int32Array.of((i * 31) % config.vocab_size));
  const end = performance.now();
  return [(PROMPT * 1000) / (first - start), (TOKENS * 1000) / (end - first)];
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const rows = [];
for (const threads of [...new Set([1, all])]) {
  const cases = {};
  for (const computeDtype of ['int8', 'int16']) {
    const model = await lowbit.openModel(path, { computeDtype });
    cases[`lowbit ${computeDtype}`] = { run: () => measureOurs(model, threads), close: () => model.close() };
  }
  if (llamaCpp !== null) {
    const context = llamaCpp.open(path, { threads, positions: 1024 });
    cases['llama.cpp'] = { run: async () => measureTheirs(context), close: () => context.close() };
  }
  const results = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
  for (const { run } of Object.values(cases)) await run();
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, { run }] of Object.entries(cases)) results[name].push(await run());
  }
  for (const [name, { close }] of Object.entries(cases)) {
    await close();
    const [tokensOfPrompt, tokens] = [0, 1].map((i) => median(results[name].map((result) => result[i])));
    rows.push([name, String(threads), tokensOfPrompt.toFixed(1), tokens.toFixed(1)]);
  }
}
publish(
  'Tokens',
  `npm run bench:decode${options.quick ? ' -- --quick' : options.mixture ? ' -- --mixture' : ''}`,
  `The shape of Llama-3.2-1B${options.quick ? ', four layers of it and a small vocabulary' : ''}, GGUF Q4_0${options.mixture ? ' (output Q6_K)' : ''}, ` +
    `generated weights: a prompt of ${PROMPT} tokens, then ${TOKENS} one by one. Median of ${ROUNDS} rounds.\n\n` +
    markdownTable(['', 'threads', 'prompt, tokens/s', 'then, tokens/s'], rows),
);
