/**
 * The whole flow on models of other sizes than the bundled one: calibrated, quantized by every method into the formats that
 * take it, read again, evaluated, and made to speak. Compared with the same model with its weights dequantized to float32.
 *
 * A part of all combinations runs by default; all of them with LOWBIT_HELD_OUT=all.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { floatsOf } from '../../lib/checkpoint/floats.js';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import {
  cutIntoWindows,
  evaluateModel,
  openModel,
  type QuantizeCheckpointOptions,
  type QuantizeModelOptions,
  quantizeCheckpoint,
  quantizeModel,
} from '../../lib/index.js';
import { type DecoderShape, writeDecoder } from '../support/decoder.js';
import { type RawTensor, safetensors, temporaryFolder, writeFolder } from '../support/files.js';

const root = temporaryFolder();
const everything = process.env['LOWBIT_HELD_OUT'] === 'all';
let count = 0;
const fresh = (suffix = '') => join(root, `out-${count++}${suffix}`);

const TEXT = Array.from({ length: 900 }, (_, i) => ((i * 7919) % 9973).toString(36)).join(' ');
const text = join(root, 'text.txt');
writeFileSync(text, TEXT);
const calibration = { text: [text], windows: 6, windowLength: 32 };

/** One model, one or several peculiarities. */
const MODELS: Readonly<Record<string, DecoderShape>> = {
  'llama, MQA, rows of no multiple': { hidden: 72, inner: 100, heads: 6, kvHeads: 1, headDim: 12 },
  'llama, bf16, MHA, tied, shards, BPE': {
    hidden: 96,
    inner: 200,
    heads: 4,
    kvHeads: 4,
    tied: true,
    dtype: 'BF16',
    shards: 3,
    vocab: 431,
    tokenizer: 'tokenizers/llama-bpe',
  },
  'llama, biases, llama3 rope': {
    hidden: 80,
    inner: 130,
    heads: 5,
    kvHeads: 5,
    bias: 'all',
    config: {
      rope_scaling: {
        rope_type: 'llama3',
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 32,
      },
    },
  },
  'llama, yarn, heads wider than hidden': {
    hidden: 64,
    inner: 97,
    heads: 4,
    kvHeads: 4,
    headDim: 24,
    config: { rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 32 } },
  },
  'llama, dynamic rope, f16': {
    hidden: 128,
    inner: 192,
    heads: 4,
    kvHeads: 2,
    dtype: 'F16',
    config: { rope_scaling: { type: 'dynamic', factor: 2 } },
  },
  'llama, linear rope, sentencepiece': {
    hidden: 160,
    inner: 288,
    heads: 5,
    kvHeads: 5,
    vocab: 480,
    tokenizer: 'tokenizers/sentencepiece',
    config: { rope_scaling: { type: 'linear', factor: 4 } },
  },
  'mistral, sliding window': {
    architecture: 'mistral',
    hidden: 96,
    inner: 144,
    heads: 6,
    kvHeads: 2,
    dtype: 'F16',
    vocab: 423,
    tokenizer: 'tokenizers/tekken',
    config: { sliding_window: 9 },
  },
  'qwen2, tied, sliding window': {
    architecture: 'qwen2',
    hidden: 56,
    inner: 152,
    heads: 4,
    kvHeads: 2,
    tied: true,
    dtype: 'BF16',
    vocab: 307,
    tokenizer: 'models/qwen2-tied',
    config: { use_sliding_window: true, sliding_window: 11, max_window_layers: 1 },
  },
  'qwen3, wide heads': {
    architecture: 'qwen3',
    hidden: 88,
    inner: 168,
    heads: 4,
    kvHeads: 2,
    headDim: 48,
    dtype: 'BF16',
    vocab: 601,
  },
  'qwen3, MHA, spare tokens': {
    architecture: 'qwen3',
    hidden: 64,
    inner: 224,
    heads: 4,
    kvHeads: 4,
    headDim: 16,
    vocab: 420,
    tokenizer: 'tokenizers/smollm',
  },
  'llama, round sizes': { hidden: 256, inner: 384, heads: 4, kvHeads: 4, dtype: 'BF16' },
};

type Spec = Omit<QuantizeCheckpointOptions, 'output'>;

const ACT_ORDER = { descAct: true, staticGroups: false };
const NO_ORDER = { descAct: false, staticGroups: false };

/**
 * Methods with formats. `most`: what rounding may do to logits, relative to them, of random models, whose layers only make errors
 * grow. It is half as much again as the worst of all models has measured, so that the order of float sums, which is another on
 * other processors, has room, and a format that lost a bit (which doubles errors) has none where they are worst.
 */
const SPECS: readonly (Spec & { readonly most: number; readonly fast?: boolean })[] = [
  // rounding, for every format
  { most: 0.099, dtype: 'int8', groupSize: null },
  { most: 0.17, dtype: 'int8', groupSize: null, activations: 'int8', scheme: 'asymmetric' },
  { most: 0.68, dtype: 'int4', groupSize: 32, fast: true },
  { most: 1.1, dtype: 'int4', groupSize: 128, scheme: 'asymmetric', range: 'mse' },
  { most: 1.2, dtype: 'int3', groupSize: 24 },
  { most: 1.7, dtype: 'int2', groupSize: 16, scheme: 'asymmetric' },
  { most: 0.32, dtype: 'float8_e4m3fn' },
  { most: 0.21, format: 'fp8', granularity: 'per-block' },
  { most: 0.71, dtype: 'nvfp4' },
  { most: 1.2, dtype: 'mxfp4' },
  { most: 0.43, dtype: 'mxfp8_e4m3' },
  { most: 0.68, format: 'gptq', groupSize: 32 },
  { most: 0.74, format: 'awq', groupSize: 32 },
  { most: 0.76, format: 'bitsandbytes', groupSize: 64, nested: true, fast: true },
  { most: 1.2, format: 'bitsandbytes', dtype: 'fp4', groupSize: 64 },
  // GPTQ
  { most: 0.36, method: 'gptq', dtype: 'int4', groupSize: 32, calibration, fast: true },
  { most: 0.4, method: 'gptq', dtype: 'int4', groupSize: 128, calibration, gptq: ACT_ORDER },
  {
    most: 0.59,
    method: 'gptq',
    dtype: 'int3',
    groupSize: 16,
    calibration,
    gptq: ACT_ORDER,
    scheme: 'asymmetric',
    fast: true,
  },
  { most: 0.26, method: 'gptq', dtype: 'int4', groupSize: 24, calibration, gptq: NO_ORDER },
  { most: 1.2, method: 'gptq', dtype: 'int2', groupSize: 16, calibration, gptq: { groupAware: true } },
  { most: 0.029, method: 'gptq', dtype: 'int8', groupSize: null, calibration: { ...calibration, mode: 'parallel' } },
  {
    most: 0.45,
    method: 'gptq',
    dtype: 'int4',
    groupSize: null,
    calibration,
    gptq: { convention: 'gptq', deadColumns: 'zero' },
  },
  { most: 0.3, method: 'gptq', format: 'gptq', groupSize: 32, calibration, gptq: ACT_ORDER },
  { most: 0.33, method: 'gptq', format: 'gptq_v2', groupSize: 32, scheme: 'asymmetric', calibration },
  { most: 0.03, method: 'gptq', format: 'gptq', dtype: 'int8', groupSize: 64, calibration },
  { most: 0.69, method: 'gptq', format: 'gptq', dtype: 'int3', groupSize: 32, calibration, gptq: NO_ORDER },
  { most: 0.87, method: 'gptq', format: 'gptq', dtype: 'int2', groupSize: 16, calibration },
  { most: 0.39, method: 'gptq', format: 'gptq', groupSize: 64, calibration, fast: true },
  { most: 0.57, method: 'gptq', format: 'gptq_v2', dtype: 'int3', groupSize: 128, calibration, gptq: ACT_ORDER },
  {
    most: 0.32,
    method: 'gptq',
    dtype: 'int4',
    groupSize: null,
    scheme: 'asymmetric',
    calibration,
    gptq: ACT_ORDER,
    fast: true,
  },
  // AWQ
  { most: 0.95, method: 'awq', dtype: 'int4', groupSize: null, calibration, fast: true },
  { most: 0.54, method: 'awq', dtype: 'int4', groupSize: 32, scheme: 'asymmetric', calibration, fast: true },
  { most: 0.82, method: 'awq', dtype: 'int3', groupSize: 24, calibration: { ...calibration, mode: 'parallel' } },
  { most: 0.55, method: 'awq', format: 'awq', groupSize: 32, calibration },
  { most: 0.74, method: 'awq', format: 'bitsandbytes', groupSize: 64, calibration },
  { most: 0.51, method: 'awq', dtype: 'nvfp4', calibration },
  { most: 0.25, method: 'awq', dtype: 'float8_e4m3fn', calibration },
  { most: 0.49, method: 'awq', dtype: 'int4', groupSize: 32, exclude: /v_proj|up_proj/, calibration },
  { most: 0.29, method: 'awq-gptq', dtype: 'int4', groupSize: 32, calibration, fast: true },
  { most: 0.76, method: 'awq-gptq', dtype: 'int3', groupSize: null, calibration, gptq: ACT_ORDER },
  // int8 activations
  { most: 0.079, method: 'smoothquant', dtype: 'int8', activations: 'int8', calibration, fast: true },
  { most: 0.21, method: 'smoothquant', dtype: 'int8', groupSize: null, calibration, smoothquant: { alpha: 0.8 } },
  // HQQ
  { most: 0.98, method: 'hqq', dtype: 'int4', groupSize: 64, fast: true },
  { most: 1.3, method: 'hqq', format: 'gptq_v2', dtype: 'int3', groupSize: 32 },
  { most: 0.16, method: 'hqq', dtype: 'int8', groupSize: null, fast: true },
  { most: 0.98, method: 'hqq', format: 'gptq_v2', groupSize: 64 },
];

/** What the inputs, and the outputs, of all layers must be multiples of. */
function unitsOf({ format, dtype, groupSize, method }: Spec): readonly [inputs: number, outputs: number] {
  if (format === 'gptq' || format === 'gptq_v2') return [32, 32]; // the last group of a row may be shorter
  if (format === 'awq') return [groupSize as number, 8];
  if (format === 'bitsandbytes' && method === undefined) return [1, 1]; // blocks go on from row to row
  if (dtype === 'nvfp4') return [16, 1];
  if (dtype?.startsWith('mx')) return [32, 1];
  return [groupSize ?? 1, 1];
}

function hasRoom(spec: Spec, { hidden, inner, heads, kvHeads, headDim = hidden / heads }: DecoderShape): boolean {
  const [inputs, outputs] = unitsOf(spec);
  const isMultiple = (unit: number) => (size: number) => size % unit === 0;
  return (
    [hidden, heads * headDim, inner].every(isMultiple(inputs)) &&
    [hidden, heads * headDim, kvHeads * headDim, inner].every(isMultiple(outputs))
  );
}

/** The model with its weights as float32 numbers. */
async function dequantized(folder: string): Promise<string> {
  const target = fresh();
  const checkpoint = await openCheckpoint(folder);
  const tensors: Record<string, RawTensor> = {};
  for (const weight of await weightsOf(checkpoint, {})) {
    const { name, rows, columns, shape } = weight;
    const scratch = new Scratch();
    const block = await weight.read(0, rows, scratch);
    const data = (await floatsOf(block, rows * columns, columns, scratch)).slice();
    tensors[name] = { dtype: 'F32', shape: [...shape], data };
  }
  await checkpoint.close();
  const { quantization_config: _, ...config } = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<
    string,
    unknown
  >;
  const files: Record<string, string | Buffer | object> = {
    'config.json': { ...config, torch_dtype: 'float32' },
    'model.safetensors': safetensors(tensors, { format: 'pt' }),
  };
  return writeFolder(target, files);
}

async function logitsOf(folder: string, tokens: Int32Array): Promise<Float32Array> {
  const model = await openModel(folder);
  try {
    return await model.logits(tokens);
  } finally {
    await model.close();
  }
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
}

const distance = (a: Float32Array, b: Float32Array) => norm(a.map((x, i) => x - (b[i] as number))) / norm(b);

const originals = new Map<string, Promise<{ folder: string; tokens: Int32Array; logits: Float32Array }>>();

function original(name: string): Promise<{ folder: string; tokens: Int32Array; logits: Float32Array }> {
  let known = originals.get(name);
  if (known === undefined) {
    known = (async () => {
      const folder = writeDecoder(fresh(), MODELS[name] as DecoderShape);
      const model = await openModel(folder);
      const tokens = model.tokenizer.encode(TEXT).slice(0, 48);
      const logits = await model.logits(tokens);
      await model.close();
      return { folder, tokens, logits };
    })();
    originals.set(name, known);
  }
  return known;
}

const titleOf = ({ most: _, fast: __, calibration: given, ...spec }: (typeof SPECS)[number]) =>
  JSON.stringify({
    ...spec,
    ...(given?.mode === undefined ? {} : { mode: given.mode }),
    exclude: spec.exclude?.source,
  });

describe.each(Object.keys(MODELS).map((name, place) => [name, place] as const))('%s', (name, place) => {
  const shape = MODELS[name] as DecoderShape;
  // By default every method meets every fourth model, and every model some methods.
  const specs = SPECS.filter(({ fast }) => everything || fast === true).filter(
    (_, i) => everything || (i + place) % 4 === 0,
  );

  it.each(specs.map((spec) => [titleOf(spec), spec] as const))('%s', async (_, { most, fast: __, ...spec }) => {
    const { folder, tokens, logits } = await original(name);
    const output = fresh();
    if (!hasRoom(spec, shape)) {
      // Formats that have no room for such rows say so before any work, and name the layers.
      await expect(quantizeCheckpoint(folder, { ...spec, output })).rejects.toMatchObject({
        code: 'UNSUPPORTED_PLAN',
        message: expect.stringMatching(/ no multiple of .* {2}model\.layers\.0\.\w+\.\w+_proj\.weight \[/s),
      });
      return;
    }
    const report = await quantizeCheckpoint(folder, { ...spec, output });
    expect(report.verified).toBe(true);
    for (const { relativeError } of report.tensors) {
      if (relativeError != null) expect(relativeError).toBeLessThan(1);
    }
    const got = await logitsOf(output, tokens);
    expect(distance(got, await logitsOf(await dequantized(output), tokens))).toBeLessThan(1e-5);
    const error = distance(got, logits);
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(most);

    const quality = await evaluateModel(output, { text: TEXT, against: folder, windowLength: 40, maxWindows: 2 });
    expect(Number.isFinite(quality.perplexity.value)).toBe(true);
    expect(quality.against?.klDivergence.value).toBeGreaterThanOrEqual(0);
    const model = await openModel(output, { computeDtype: 'int8', residentBlocks: 'one' });
    const { tokens: generated } = await model.generate('To be', { maxTokens: 5, temperature: 1, seed: 3 });
    expect(generated.length).toBeGreaterThan(0);
    expect(generated.every((token) => token < (shape.vocab ?? 259))).toBe(true);
    await model.close();
  });
});

describe('groups that divide no row', () => {
  const int3 = { dtype: 'int3', granularity: 'per-group', groupSize: 40 } as const;
  const uint4 = { dtype: 'uint4', scheme: 'asymmetric', granularity: 'per-group', groupSize: 56 } as const;

  it.each([
    ['llama, MQA, rows of no multiple', int3],
    ['llama, biases, llama3 rope', uint4],
    ['qwen3, wide heads', uint4],
  ] as const)('of %s', async (name, weights) => {
    const { folder } = await original(name);
    const model = await openModel(folder, { residentBlocks: 'one' });
    const windows = cutIntoWindows(model.tokenizer, [TEXT], { windowLength: 32, count: 6 });
    const errors = async (options: QuantizeModelOptions) => {
      const found: number[] = [];
      for await (const part of quantizeModel(model, { weights, windows, mode: 'parallel', ...options })) {
        if (part.kind === 'quantized') found.push(part.relativeError as number);
      }
      return found;
    };
    // AWQ with nothing to choose is rounding, measured.
    const awq = { grid: 1, scaling: 'activations', clip: false } as const;
    const rounded = await errors({ method: 'awq', awq });
    expect(rounded).toHaveLength(14);
    for (const options of [
      { method: 'awq' },
      { method: 'gptq' },
      { method: 'gptq', gptq: { descAct: true, staticGroups: false } },
      { method: 'awq-gptq', gptq: { groupAware: true } },
    ] as const) {
      const found = await errors(options);
      const ratio = (of: (i: number) => boolean) => {
        const sum = (all: number[]) => all.reduce((a, b, i) => (of(i) ? a + b : a), 0);
        return sum(found) / sum(rounded);
      };
      expect(ratio(() => true)).toBeLessThan(0.95);
      // Not one layer pays for the others.
      for (let i = 0; i < 14; i++) expect(ratio((other) => other === i)).toBeLessThan(1.05);
    }
    await model.close();
  });
});
