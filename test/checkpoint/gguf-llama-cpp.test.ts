/** llama.cpp loads what lowbit writes, and computes what Hugging Face computes. */
import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { GgufFile } from '../../lib/checkpoint/gguf/gguf-file.js';
import { fileTypeOf, GGUF_RECIPES } from '../../lib/checkpoint/gguf/recipes.js';
import { importanceOf, openModel, quantizeCheckpoint } from '../../lib/index.js';
import { safetensors, temporaryFolder, writeFolder } from '../support/files.js';
import { hashOfTensors, writeModel } from '../support/gguf-model.js';
import { bundledImportance } from '../support/imatrix.js';
import { bundledLayers } from '../support/models.js';
import { float32, readJson, VECTORS } from '../support/vectors.js';

const repository = join(__dirname, '..', '..');
const peers = join(repository, 'bench', 'peers', 'node_modules');
const isLinux64 = process.platform === 'linux' && process.arch === 'x64';
const isThere = ['koffi', '@node-llama-cpp/linux-x64'].every((name) => existsSync(join(peers, name)));
if (!isLinux64 || !isThere) {
  const reason = isLinux64
    ? 'it is not installed: npm ci --prefix bench/peers --ignore-scripts'
    : `its binary package is for Linux on x86-64, this is ${process.platform} on ${process.arch}`;
  console.warn(`SKIPPED: llama.cpp does not check the GGUF files, ${reason}`);
}

interface RunResult {
  size: number;
  logits: string[];
  tokens: number[][];
  continuations: number[][];
}

async function llamaCpp<T>(task: object): Promise<T> {
  const script = join(repository, 'test', 'support', 'llama-cpp.mjs');
  const { stdout } = await promisify(execFile)(process.execPath, [script, JSON.stringify(task)], {
    maxBuffer: 2 ** 28,
  });
  return JSON.parse(stdout) as T;
}

const floatsIn = (b64: string) => float32({ dtype: 'float32', shape: [], b64 });

function largestDifference(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(got.length).toBe(expected.length);
  let largest = 0;
  for (let i = 0; i < got.length; i++) {
    const difference = Math.abs((got[i] as number) - (expected[i] as number));
    // A NaN must not get lost.
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

const folder = temporaryFolder();
let count = 0;
const fresh = () => join(folder, `${count++}.gguf`);

describe.skipIf(!isLinux64 || !isThere)('llama.cpp', () => {
  const models = [
    'llama-gqa',
    'llama-tied-headdim',
    'llama-bias',
    'llama-rope-linear',
    'llama-rope-llama3',
    'llama-rope-yarn',
    'qwen2-tied',
    'qwen3-qknorm',
  ];
  it.each(models.flatMap((name) => [`${name}/config.json`, `${name}/config.v4.json`]))(
    'computes the logits of Hugging Face: %s',
    async (path) => {
      const [name, config] = path.split('/') as [string, string];
      const reference = readJson<{
        sequences: {
          input_ids: number[];
          logits: { dtype: string; shape: number[]; b64: string };
          greedy: { ids: number[] };
        }[];
        tokenizer_checks?: { text: string; ids: number[] }[];
      }>('models', name, 'reference.json');
      const model = fresh();
      await writeModel(join(VECTORS, 'models', name), model, 'f32', config);
      const { sequences, tokenizer_checks: checks = [] } = reference;
      const result = await llamaCpp<RunResult>({
        task: 'run',
        model,
        sequences: sequences.map(({ input_ids }) => input_ids),
        texts: checks.map(({ text }) => ({ text, special: false })),
        greedy: sequences.map(({ input_ids, greedy }) => ({ ids: input_ids, count: greedy.ids.length })),
      });
      for (const [i, { logits, greedy }] of sequences.entries()) {
        expect(largestDifference(floatsIn(result.logits[i] as string), float32(logits))).toBeLessThan(1e-4);
        expect(result.continuations[i]).toEqual(greedy.ids);
      }
      expect(result.tokens).toEqual(checks.map(({ ids }) => ids));
    },
  );

  it('writes the bundled model in float16 and continues texts as the reference does', async () => {
    const reference = readJson<{
      prompts: { prompt: string; ids: number[]; logits: number[] }[];
      greedy: { prompt: string; ids: number[] }[];
    }>('models', 'shakespeare-llama.json');
    const model = fresh();
    await writeModel(join(repository, 'examples', 'shakespeare-llama'), model, 'f16');
    const starts = reference.greedy.map(({ prompt }) => [1, ...Array.from(Buffer.from(prompt), (byte) => byte + 3)]);
    const { size, logits, tokens, continuations } = await llamaCpp<RunResult>({
      task: 'run',
      model,
      sequences: reference.prompts.map(({ ids }) => ids),
      texts: reference.prompts.map(({ prompt }) => ({ text: prompt, special: true })),
      // The bundled weights are bfloat16, the reference has float32: texts part where two tokens are as likely.
      greedy: starts.map((ids) => ({ ids, count: 12 })),
    });
    expect(size).toBe(259);
    expect(tokens).toEqual(reference.prompts.map(({ ids }) => ids));
    for (const [i, { logits: expected }] of reference.prompts.entries()) {
      const last = floatsIn(logits[i] as string).subarray(-size);
      expect(largestDifference(last, expected)).toBeLessThan(0.1);
      expect(last.indexOf(Math.max(...last))).toBe(expected.indexOf(Math.max(...expected)));
    }
    for (const [i, { ids }] of reference.greedy.entries()) {
      const from = starts[i]?.length ?? 0;
      expect(continuations[i]).toEqual(ids.slice(from, from + 12));
    }
  });

  // llama.cpp rounds activations to 8 bits where weights are blocks, so that its logits are near ours, and no nearer.
  it.each([
    ['q4_0', { method: 'gptq' }],
    ['q5_0', { method: 'gptq' }],
    ['q8_0', { method: 'awq-gptq', awq: { grid: 2 } }],
    ['q4_k_m', { method: 'awq', awq: { grid: 2, clip: false } }],
  ] as const)('computes what lowbit computes of what methods made: %s, %o', async (dtype, how) => {
    const source = bundledLayers(join(folder, `layers-${count++}`), 2);
    const output = fresh();
    const calibration = {
      text: [join(repository, 'examples', 'text', 'sampled-calib.txt')],
      windows: 2,
      windowLength: 64,
    };
    await quantizeCheckpoint(source, { format: 'gguf', dtype, ...how, calibration, output });
    const ids = [1, ...Array.from(Buffer.from('But soft, what light through yonder'), (byte) => byte + 3)];
    const result = await llamaCpp<RunResult>({ task: 'run', model: output, sequences: [ids] });
    const model = await openModel(output);
    const ours = await model.logits(Int32Array.from(ids));
    await model.close();
    const logits = floatsIn(result.logits[0] as string);
    expect(largestDifference(logits, ours)).toBeLessThan(0.5);
    const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, x, i) => sum + x * (b[i] as number), 0);
    expect(dot(logits, ours) / Math.sqrt(dot(logits, logits) * dot(ours, ours))).toBeGreaterThan(0.9999);
  });

  it.each(GGUF_RECIPES.filter((recipe) => !['q2_k_s', 'mxfp4', 'nvfp4', 'f32'].includes(recipe)))(
    'quantizes the bundled model to the same bytes: %s',
    async (recipe) => {
      const [source, expected, ours] = [fresh(), fresh(), fresh()];
      const bundled = join(repository, 'examples', 'shakespeare-llama');
      await writeModel(bundled, source, 'f32');
      await writeModel(bundled, ours, recipe);
      const { status } = await llamaCpp<{ status: number }>({
        task: 'quantize',
        model: source,
        output: expected,
        fileType: fileTypeOf(recipe),
      });
      expect(status).toBe(0);
      const [a, b] = [await GgufFile.open(ours), await GgufFile.open(expected)];
      const listed = (file: GgufFile) =>
        [...file.tensors.values()].map(({ name, dtype, shape }) => `${name} ${dtype} ${shape.join('x')}`).sort();
      expect(listed(a)).toEqual(listed(b));
      // Keys that were set again are at the end of llama-quantize's file.
      expect(Object.fromEntries(a.metadata)).toEqual(Object.fromEntries(b.metadata));
      for (const tensor of a.tensors.values()) {
        const [got, wanted] = [new Uint8Array(tensor.bytes), new Uint8Array(tensor.bytes)];
        await tensor.read(0, got);
        await b.tensors.get(tensor.name)?.read(0, wanted);
        expect(Buffer.from(got).equals(wanted), tensor.name).toBe(true);
      }
      await a.close();
      await b.close();
    },
  );
});

describe.skipIf(!isLinux64 || !isThere)('llama.cpp with an importance matrix', () => {
  const golden = readJson<Record<string, string>>('gguf-files', 'imatrix-hashes.json');
  const imatrix = Object.fromEntries(
    Array.from(bundledImportance().entries, ([name, entry]) => [
      name,
      Buffer.from(importanceOf(entry).buffer).toString('base64'),
    ]),
  );
  // Those that llama-quantize weighs otherwise; what lowbit makes is compared with the same hashes elsewhere.
  it.each(['q2_k_s', 'q3_k_m', 'q4_0', 'iq4_xs'] as const)('quantizes to the golden bytes: %s', async (recipe) => {
    const [source, output] = [fresh(), fresh()];
    await writeModel(join(repository, 'examples', 'shakespeare-llama'), source, 'f32');
    const task = { task: 'quantize', model: source, output, fileType: fileTypeOf(recipe), imatrix };
    expect(await llamaCpp<{ status: number }>(task)).toEqual({ status: 0 });
    expect(await hashOfTensors(output)).toBe(golden[recipe]);
  });
});

/** A model of one layer and no sense, with a tokenizer of test/vectors. */
function modelWith(tokenizer: string, files: readonly string[], size: number): string {
  const hidden = 32;
  const shapes: Record<string, number[]> = {
    'model.embed_tokens.weight': [size, hidden],
    'model.norm.weight': [hidden],
    'lm_head.weight': [size, hidden],
  };
  const layer = (name: string, ...shape: number[]) => (shapes[`model.layers.0.${name}.weight`] = shape);
  for (const name of ['input_layernorm', 'post_attention_layernorm']) layer(name, hidden);
  for (const name of ['q_proj', 'k_proj', 'v_proj', 'o_proj']) layer(`self_attn.${name}`, hidden, hidden);
  for (const name of ['gate_proj', 'up_proj', 'down_proj']) layer(`mlp.${name}`, hidden, hidden);
  const path = writeFolder(join(folder, `model-${count++}`), {
    'config.json': {
      architectures: ['LlamaForCausalLM'],
      hidden_size: hidden,
      intermediate_size: hidden,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      max_position_embeddings: 4096,
      vocab_size: size,
      bos_token_id: 1,
      eos_token_id: 2,
    },
    'model.safetensors': safetensors(
      Object.fromEntries(
        Object.entries(shapes).map(([name, shape]) => [
          name,
          { dtype: 'F32', shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) },
        ]),
      ),
    ),
  });
  for (const name of files) copyFileSync(join(VECTORS, 'tokenizers', tokenizer, name), join(path, name));
  return path;
}

describe.skipIf(!isLinux64 || !isThere)('llama.cpp tokenizes as', () => {
  interface Expected {
    size: number;
    texts: { text: string; ids: number[]; withSpecial: number[] }[];
  }
  it.each(['llama-bpe', 'tekken', 'gpt-2', 'smollm'])('Hugging Face: %s', async (name) => {
    const { size, texts } = readJson<Expected>('tokenizers', name, 'expect.json');
    const model = fresh();
    // Rows that no token has are filled up.
    await writeModel(modelWith(name, ['tokenizer.json'], size + 9), model, 'f32');
    const { tokens } = await llamaCpp<RunResult>({
      task: 'run',
      model,
      texts: texts.flatMap(({ text }) => [
        { text, special: false },
        { text, special: true },
      ]),
    });
    const got = texts.map(({ text }, i) => ({ text, ids: tokens[2 * i], withSpecial: tokens[2 * i + 1] }));
    expect(got).toEqual(texts);
  });

  it.each(['tokenizer.model', 'tokenizer.json'])('SentencePiece, from %s', async (file) => {
    const { texts, pieces } = readJson<{ pieces: unknown[]; texts: { text: string; ids: number[] }[] }>(
      'tokenizers',
      'sentencepiece',
      'expect.json',
    );
    const model = fresh();
    await writeModel(modelWith('sentencepiece', [file], pieces.length), model, 'f32');
    const { tokens } = await llamaCpp<RunResult>({
      task: 'run',
      model,
      texts: texts.map(({ text }) => ({ text, special: false })),
    });
    expect(texts.map(({ text }, i) => ({ text, ids: tokens[i] }))).toEqual(texts);
  });

  it('the vectors are there', () => {
    expect(readFileSync(join(VECTORS, 'tokenizers', 'sentencepiece', 'tokenizer.model')).length).toBeGreaterThan(5000);
  });
});
