/** Perplexities of the bundled model, float and quantized, against an independent program; what can go wrong. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type DecoderBlock,
  type DecoderModel,
  type EvaluateOptions,
  evaluateModel,
  int8Layer,
  type LinearName,
  NonFiniteError,
  openModel,
  type QuantizedTensor,
  quantizeTensor,
} from '../../lib/index.js';
import { readJson, VECTORS } from '../support/vectors.js';

const repository = join(__dirname, '..', '..');
const LLAMA = join(repository, 'examples', 'shakespeare-llama');
const text = readFileSync(join(repository, 'examples', 'text', 'sampled-eval.txt'), 'utf8');
const plays = join(repository, '..', 'shared', 'models', 'shakespeare-llama');
if (!existsSync(plays)) console.warn('SKIPPED: the plays are not at hand, only sampled text is evaluated');

interface Method {
  name: string;
  windowNats: number[];
  klDivergence: number;
  klMedian: number;
  klMax: number;
  topAgreement: number;
  maxLogitDifference: number;
}
const reference = readJson<{ windows: number[]; windowNats: number[]; methods: Method[] }>(
  'evaluation',
  'shakespeare-llama.json',
);
const two = { text, maxWindows: 2 };

const LINEARS: LinearName[] = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
];
type Quantize = (weight: Float32Array, shape: [number, number]) => QuantizedTensor;

const replacing = (quantize: Quantize) => async (block: DecoderBlock) => {
  for (const name of LINEARS) {
    const weight = await block.weight(name);
    const columns = name === 'mlp.down_proj' ? 768 : 256;
    block.replace(name, quantize(weight, [weight.length / columns, columns]));
  }
};
const groups =
  (dtype: 'int4' | 'int3' | 'int2', groupSize: number, scheme: 'symmetric' | 'asymmetric'): Quantize =>
  (weight, shape) =>
    quantizeTensor(weight, { dtype, shape, scheme, granularity: 'per-group', groupSize });
const int8: Quantize = (weight, shape) => quantizeTensor(weight, { dtype: 'int8', shape, granularity: 'per-channel' });

const METHODS: Record<string, Quantize> = {
  'int8 per-channel': int8,
  'int4 g32 symmetric': groups('int4', 32, 'symmetric'),
  'int4 g128 symmetric': groups('int4', 128, 'symmetric'),
  'int4 g32 asymmetric': groups('int4', 32, 'asymmetric'),
  'int4 g128 asymmetric': groups('int4', 128, 'asymmetric'),
  'int3 g128 asymmetric': groups('int3', 128, 'asymmetric'),
  'int2 g32 asymmetric': groups('int2', 32, 'asymmetric'),
  nf4: (weight, shape) => quantizeTensor(weight, { dtype: 'nf4', shape, granularity: 'per-group', groupSize: 64 }),
  'float8_e4m3fn per-channel': (weight, shape) =>
    quantizeTensor(weight, { dtype: 'float8_e4m3fn', shape, granularity: 'per-channel' }),
  mxfp4: (weight, shape) => quantizeTensor(weight, { dtype: 'mxfp4', shape }),
};

function method(name: string): Method {
  return reference.methods.find((candidate) => candidate.name === name) as Method;
}

/** Largest difference of the nats of the windows. */
function furthest(got: readonly number[], expected: readonly number[]): number {
  expect(got).toHaveLength(expected.length);
  return Math.max(...got.map((nats, i) => Math.abs(nats - (expected[i] as number))));
}

describe('the bundled model', () => {
  let original: DecoderModel;
  beforeAll(async () => {
    original = await openModel(LLAMA);
  });
  afterAll(() => original.close());

  it('has the nats of float64, and no distance from itself', async () => {
    const found = await evaluateModel(LLAMA, { ...two, against: original });
    expect(found).toMatchObject({ windowLength: 256, windows: 2, totalWindows: 256, tokens: 510, bytes: 510 });
    expect(furthest(found.windowNats, reference.windowNats)).toBeLessThan(1e-6);
    const [a, b] = reference.windowNats as [number, number];
    expect(found.natsPerToken.value).toBeCloseTo((a + b) / 2, 6);
    expect(found.natsPerToken.standardError).toBeCloseTo(Math.abs(a - b) / 2, 6);
    expect(found.natsPerByte.value).toBeCloseTo(found.natsPerToken.value, 12);
    expect(found.bitsPerByte.value).toBeCloseTo(found.natsPerToken.value / Math.LN2, 12);
    expect(found.perplexity.value).toBeCloseTo(Math.exp((a + b) / 2), 5);
    expect(found.checkpoint).toEqual({ bytes: 9709056, bitsPerWeight: 16 });
    expect(found.against).toMatchObject({
      natsChange: { value: 0, standardError: 0 },
      klDivergence: { value: 0, standardError: 0 },
      topAgreement: { value: 1, standardError: 0 },
      maxLogitDifference: 0,
    });
  });

  it.each(Object.keys(METHODS))('quantized to %s has the nats and the divergence of the reference', async (name) => {
    const expected = method(name);
    const onBlock = replacing(METHODS[name] as Quantize);
    const { windowNats, against } = await evaluateModel(LLAMA, { ...two, against: original, onBlock });
    expect(furthest(windowNats, expected.windowNats)).toBeLessThan(1e-5);
    expect(against?.klDivergence.value).toBeCloseTo(expected.klDivergence, 6);
    expect(against?.klPercentiles.p50).toBeCloseTo(expected.klMedian, 6);
    expect(against?.klPercentiles.max).toBeCloseTo(expected.klMax, 4);
    expect(against?.topAgreement.value).toBeCloseTo(expected.topAgreement, 12);
    expect(against?.maxLogitDifference).toBeCloseTo(expected.maxLogitDifference, 3);
    const changes = expected.windowNats.map((nats, i) => nats - (reference.windowNats[i] as number));
    expect(against?.natsChange.value).toBeCloseTo(((changes[0] ?? 0) + (changes[1] ?? 0)) / 2, 5);
  });

  /** Products of bytes, as W8A8 models compute them. */
  const multiplying = async (block: DecoderBlock) => {
    for (const name of LINEARS) {
      const weight = await block.weight(name);
      const columns = name === 'mlp.down_proj' ? 768 : 256;
      block.replace(name, await int8Layer(int8(weight, [weight.length / columns, columns])));
    }
  };

  it.each([
    ['by value', { onBlock: replacing(int8), activations: 'int8-dynamic' }],
    ['as integers', { onBlock: multiplying }],
  ] as const)('computes with activations of eight bits for each token, %s', async (_, options) => {
    const expected = method('int8 per-channel, activations int8 per token');
    const { windowNats, against } = await evaluateModel(LLAMA, { ...two, ...options, against: original });
    // A last bit decides how an activation is rounded, here and there: that makes about as much as the rounding itself.
    expect(furthest(windowNats, expected.windowNats)).toBeLessThan(5e-3);
    expect((against?.klDivergence.value ?? 0) / expected.klDivergence).toBeGreaterThan(0.8);
    expect((against?.klDivergence.value ?? 9) / expected.klDivergence).toBeLessThan(1.25);
    expect(Math.abs(against?.perplexityChange.value ?? 1)).toBeLessThan(1e-3);
  });

  it('gives the same with one block in memory at a time', async () => {
    const usual = await evaluateModel(original, { text, maxWindows: 1 });
    const sparing = await evaluateModel(original, { text, maxWindows: 1, residentBlocks: 'one' });
    expect(sparing.windowNats).toEqual(usual.windowNats);
    expect(usual.natsPerToken.standardError).toBeNull();
    expect(usual.checkpoint).toBeNull();
  });

  it('is evaluated on other windows by seed, and on shorter ones', async () => {
    const drawn = async (seed: number) =>
      (await evaluateModel(original, { text, windowLength: 33, maxWindows: 3, seed })).windowNats;
    expect(await drawn(1)).toEqual(await drawn(1));
    expect(await drawn(1)).not.toEqual(await drawn(2));
    const { windows, totalWindows, tokens } = await evaluateModel(original, { text, windowLength: 33, maxWindows: 3 });
    expect({ windows, totalWindows, tokens }).toEqual({ windows: 3, totalWindows: 65280 / 32, tokens: 96 });
  });

  it('tells how far it has come', async () => {
    const seen: string[] = [];
    await evaluateModel(original, {
      text,
      windowLength: 256,
      maxWindows: 17,
      onProgress: ({ windows, totalWindows, model, perplexity }) => {
        expect(model).toBe(LLAMA);
        expect(perplexity).toBeGreaterThan(3);
        seen.push(`${windows}/${totalWindows}`);
      },
    });
    expect(seen).toEqual(['16/17', '17/17']);
  });

  it.skipIf(!existsSync(plays))('has the nats of the reference on plays', async () => {
    const { float64_first_windows, fp32 } = JSON.parse(readFileSync(join(plays, 'reference.json'), 'utf8')) as {
      float64_first_windows: { valid: number[] };
      fp32: { per_window_valid: number[] };
    };
    const valid = readFileSync(join(plays, 'plays', 'valid.txt'), 'utf8');
    const float32 = join(plays, 'f32');
    const first = await evaluateModel(float32, { text: valid.slice(0, 8 * 255) });
    expect(furthest(first.windowNats, float64_first_windows.valid)).toBeLessThan(1e-6);
    const spread = await evaluateModel(float32, { text: valid, maxWindows: 3 });
    const expected = [0, 276, 552].map((i) => fp32.per_window_valid[i] as number);
    expect(furthest(spread.windowNats, expected)).toBeLessThan(1e-6);
  });

  it('names the place at which numbers stop being finite', async () => {
    const nothing = { rows: 256, cols: 768, forward: () => new Float32Array(255 * 256).fill(Number.NaN), dispose() {} };
    const failing = (layer: number, spoil: (block: DecoderBlock) => void) =>
      evaluateModel(original, {
        text,
        maxWindows: 1,
        onBlock: (block) => {
          if (block.index === layer) spoil(block);
        },
      }).catch((reason: unknown) => reason);
    const last = await failing(5, (block) => block.replace('mlp.down_proj', nothing));
    expect(last).toBeInstanceOf(NonFiniteError);
    expect((last as NonFiniteError).tensor).toBe('model.layers.5');
    expect((last as Error).message).toMatch(/NaN at position 0 of window 0\. .* come out of layer 5, at position 0\./);
    const early = await failing(2, (block) => block.setNorm('input_layernorm', new Float32Array(256).fill(Number.NaN)));
    expect(early).toBeInstanceOf(NonFiniteError);
    expect((early as NonFiniteError).tensor).toBe('model.layers.2.self_attn.q_proj.weight');
  });

  it('says what is wrong with what it is given', async () => {
    const call = (options: object, model: unknown = original) =>
      evaluateModel(model as string, options as EvaluateOptions);
    await expect(call({})).rejects.toThrow(/a string for text/);
    await expect(call({ text: 'too short' })).rejects.toThrow(/fills a window, 255 tokens, but it has 9/);
    await expect(call({ text, windowLength: 1 })).rejects.toThrow(/windowLength/);
    await expect(call({ text, windowLength: 257, maxWindows: 1 })).rejects.toThrow(/at most 256/);
    await expect(call({ text, maxWindow: 1 })).rejects.toThrow(/Unknown option "maxWindow"/);
    await expect(call({ text, activations: 'int4' })).rejects.toThrow(/activations/);
    await expect(call({ text, seed: -1 })).rejects.toThrow(/seed/);
    await expect(call({ text, against: 3 })).rejects.toThrow(/a path or a model that openModel opened for against/);
    await expect(call({ text }, null)).rejects.toThrow(/for model/);
    await expect(call({ text, tokenizer: join(VECTORS, 'absent') })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(call({ text, onBlock: 1 })).rejects.toThrow(/a function for onBlock/);
    const larger = join(VECTORS, 'models', 'qwen2-tied');
    await expect(call({ text, against: larger })).rejects.toThrow(
      /to have the vocabulary of .*, 259 tokens, but it has 304/,
    );
    const shifted = { size: 259, encode: () => Int32Array.of(7), decode: () => '' };
    const other: unknown = Object.create(original, { tokenizer: { value: shifted } });
    await expect(call({ text, against: other })).rejects.toThrow(/their tokenizers differ/);
    const foreign = { ...shifted, encode: (given: string) => new Int32Array(given.length).fill(300) };
    await expect(call({ text, tokenizer: foreign })).rejects.toThrow(/whose id is 300.*embeddings for 259 tokens/);
    await expect(call({ text }, join(repository, 'examples', 'text'))).rejects.toMatchObject({
      code: 'NOT_A_CHECKPOINT',
    });
    await expect(call({ text, signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough');
  });

  it('ends when the signal says so', async () => {
    const controller = new AbortController();
    const seen: number[] = [];
    const ended = evaluateModel(original, {
      text,
      signal: controller.signal,
      onBlock: ({ index }) => {
        seen.push(index);
        if (index === 1) controller.abort(new Error('enough'));
      },
    });
    await expect(ended).rejects.toThrow('enough');
    expect(seen).toEqual([0, 1]);
  });
});
