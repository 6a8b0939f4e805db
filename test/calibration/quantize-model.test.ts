import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { canFold, fold, readBlockWeights } from '../../lib/calibration/fold.js';
import {
  type CalibrationWindows,
  collectStatistics,
  cutIntoWindows,
  type DecoderModel,
  dequantizeTensor,
  type InputName,
  type LinearName,
  layerOfPart,
  type ModelPart,
  type NormName,
  type QuantizeModelOptions,
  quantizeModel,
  StatisticsFile,
  setNumThreads,
} from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';
import { normal } from '../support/random.js';
import { outputError } from '../support/statistics.js';
import { text, tinyModel, tinyWindows } from '../support/tiny-model.js';

const root = temporaryFolder();
let count = 0;
const fresh = () => join(root, String(count++));
const int4 = { dtype: 'int4', granularity: 'per-group', groupSize: 16 } as const;

async function partsOf(model: DecoderModel, options: QuantizeModelOptions): Promise<ModelPart[]> {
  const parts: ModelPart[] = [];
  for await (const part of quantizeModel(model, options)) parts.push(part);
  return parts;
}

/** What the model's last block gives for windows, with the parts in place. */
async function hiddenOf(
  model: DecoderModel,
  windows: CalibrationWindows,
  parts: readonly ModelPart[],
  activations: Parameters<typeof layerOfPart>[2] = 'none',
): Promise<Float32Array> {
  let hidden = await model.embed(Int32Array.of(...windows.tokens.flatMap((tokens) => [...tokens])));
  for (let index = 0; index < model.config.numLayers; index++) {
    const block = await model.openBlock(index);
    for (const part of parts.filter((each) => each.block === index)) {
      const name = part.name.slice(`model.layers.${index}.`.length, -'.weight'.length);
      if (part.kind === 'quantized') {
        const linear = name as LinearName;
        block.replace(linear, await layerOfPart(part, block.bias(linear), activations));
      } else if (name.endsWith('norm')) block.setNorm(name as NormName, part.data);
      else block.replace(name as LinearName, part.data);
    }
    hidden = await block.forward(hidden, { windowLength: windows.windowLength });
    block.dispose();
  }
  return hidden;
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - (b[i] as number))), 0);
}

function meanSquare(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + (value - (b[i] as number)) ** 2, 0) / a.length;
}

describe('folding', () => {
  it.each([
    ['llama-gqa', ['self_attn', 'mlp', 'mlp.down_proj']],
    ['llama-rope-linear', ['self_attn', 'self_attn.o_proj', 'mlp', 'mlp.down_proj']],
    ['llama-bias', ['self_attn', 'mlp']],
    ['qwen3-qknorm', ['self_attn', 'mlp', 'mlp.down_proj']],
  ] as const)('%s computes the same', async (name, foldable) => {
    const model = await tinyModel(name);
    const block = await model.openBlock(0);
    const hidden = normal(32 * model.config.hiddenSize, 1);
    const before = await block.forward(hidden, { windowLength: 16 });
    const weights = await readBlockWeights(block, model.config);
    const inputs: InputName[] = ['self_attn', 'self_attn.o_proj', 'mlp', 'mlp.down_proj'];
    expect(inputs.filter((input) => canFold(block, weights, input))).toEqual(foldable);
    for (const [i, input] of foldable.entries()) {
      const { columns } = weights.linears.get(
        ({ self_attn: 'self_attn.q_proj', mlp: 'mlp.up_proj' } as Record<string, LinearName>)[input] ??
          (input as LinearName),
      ) as { columns: number };
      fold(
        weights,
        input,
        normal(columns, i).map((value) => Math.exp(value)),
      );
    }
    for (const [norm, data] of weights.norms) block.setNorm(norm, data);
    for (const [linear, { data }] of weights.linears) block.replace(linear, data);
    const after = await block.forward(hidden, { windowLength: 16 });
    expect(largestDifference(before, hidden)).toBeGreaterThan(0.1);
    expect(largestDifference(after, before)).toBeLessThan(1e-5);
    block.dispose();
    await model.close();
  });
});

describe('quantizeModel', () => {
  it('yields what changes, in the order of computation', async () => {
    const model = await tinyModel();
    const parts = await partsOf(model, {
      method: 'awq',
      windows: tinyWindows(model),
      weights: (name) => (name.includes('layers.1') || name.includes('k_proj') ? null : int4),
    });
    expect(parts.map(({ kind, name }) => [kind, name])).toEqual([
      ['float', 'model.layers.0.input_layernorm.weight'],
      ['float', 'model.layers.0.post_attention_layernorm.weight'],
      ['quantized', 'model.layers.0.self_attn.q_proj.weight'],
      ['float', 'model.layers.0.self_attn.k_proj.weight'],
      ['quantized', 'model.layers.0.self_attn.v_proj.weight'],
      ['quantized', 'model.layers.0.self_attn.o_proj.weight'],
      ['quantized', 'model.layers.0.mlp.gate_proj.weight'],
      ['quantized', 'model.layers.0.mlp.up_proj.weight'],
      ['quantized', 'model.layers.0.mlp.down_proj.weight'],
    ]);
    const [, , , key] = parts;
    expect(key).toMatchObject({ shape: [16, 48] });
    await model.close();
  });

  it.each(['rtn', 'gptq', 'awq', 'awq-gptq'] as const)(
    '%s stays close to the model, AWQ and GPTQ closer than RTN',
    async (method) => {
      const model = await tinyModel('llama-rope-linear');
      const windows = tinyWindows(model, 12);
      const weights = { dtype: 'int3', granularity: 'per-group', groupSize: 16 } as const;
      const float = await hiddenOf(model, windows, []);
      const error = async (options: QuantizeModelOptions) =>
        meanSquare(float, await hiddenOf(model, windows, await partsOf(model, options)));
      const plain = await error({ method: 'rtn', weights });
      const got = await error({ method, weights, windows });
      if (method === 'rtn') expect(got).toBe(plain);
      else expect(got).toBeLessThan(0.9 * plain);
      await model.close();
    },
  );

  it('the relative error is that of the layer, for the inputs that it gets', async () => {
    const model = await tinyModel('llama-rope-linear');
    const windows = tinyWindows(model);
    const parts = await partsOf(model, {
      method: 'gptq',
      windows,
      weights: int4,
      gptq: { descAct: true, staticGroups: false },
    });
    // Of the last layer of the first block, whose inputs all other layers of the block have changed.
    const block = await model.openBlock(0);
    const part = parts.find(({ name }) => name === 'model.layers.0.mlp.down_proj.weight');
    if (part?.kind !== 'quantized' || part.order === null) return expect.fail('no act-order');
    const weight = await block.weight('mlp.down_proj');
    for (const other of parts) {
      if (other.kind !== 'quantized' || other.block !== 0 || other === part) continue;
      const name = other.name.slice('model.layers.0.'.length, -'.weight'.length) as LinearName;
      block.replace(name, await layerOfPart(other, null));
    }
    const hidden = await model.embed(Int32Array.of(...windows.tokens.flatMap((tokens) => [...tokens])));
    const x = await block.forward(hidden, { windowLength: 16, until: 'mlp.down_proj' });
    const columns = model.config.intermediateSize;
    const values = dequantizeTensor(part.tensor);
    const stored = new Float32Array(values.length);
    values.forEach((value, i) => {
      stored[i - (i % columns) + (part.order?.[i % columns] as number)] = value;
    });
    const relative =
      outputError(x, stored, weight, columns) / outputError(x, weight, new Float32Array(weight.length), columns);
    expect((part.relativeError as number) / relative).toBeCloseTo(1, 3);
    block.dispose();
    await model.close();
  });

  it('in parallel: the same from windows and from a file of statistics', async () => {
    const model = await tinyModel();
    const windows = tinyWindows(model);
    const output = fresh();
    await collectStatistics(model, windows, { output });
    const statistics = await StatisticsFile.open(output);
    for (const method of ['awq', 'gptq', 'smoothquant'] as const) {
      const weights = method === 'smoothquant' ? {} : { weights: int4 };
      const fromFile = await partsOf(model, { method, statistics, ...weights });
      const parallel = await partsOf(model, { method, windows, mode: 'parallel', ...weights });
      // SmoothQuant needs no Gram matrices, and does not collect them only to know errors.
      const known = method === 'smoothquant' ? { relativeError: null } : {};
      expect(parallel).toEqual(fromFile.map((part) => (part.kind === 'quantized' ? { ...part, ...known } : part)));
      const sequential = await partsOf(model, { method, windows, ...weights });
      expect(sequential.map(({ name }) => name)).toEqual(fromFile.map(({ name }) => name));
      expect(sequential).not.toEqual(fromFile);
    }
    await statistics.close();
    await model.close();
  });

  it('any number of threads gives the same', async () => {
    const model = await tinyModel();
    const windows = tinyWindows(model, 3);
    const results: ModelPart[][] = [];
    for (const threads of [1, 3]) {
      setNumThreads(threads);
      results.push(await partsOf(model, { method: 'awq-gptq', windows, weights: int4 }));
    }
    expect(results[1]).toEqual(results[0]);
    await model.close();
  });

  it('goes on with the block that was under way', async () => {
    const model = await tinyModel('llama-rope-linear');
    const windows = tinyWindows(model);
    const whole = await partsOf(model, { method: 'gptq', windows, weights: int4 });
    for (const end of [3, 7, 9, 14]) {
      const scratch = fresh();
      mkdirSync(scratch);
      const options = { method: 'gptq', windows, weights: int4, scratch } as const;
      const kept = new Map<string, ModelPart>();
      for await (const part of quantizeModel(model, options)) {
        if (kept.size === end) break; // asked for, and not kept
        kept.set(part.name, part);
      }
      const rest = await partsOf(model, options);
      const firstOfRest = end < 7 ? 0 : 7; // parts of the block under way come again
      expect(rest).toEqual(whole.slice(end === 14 ? 14 : firstOfRest));
      for (const part of rest) kept.set(part.name, part);
      expect([...kept.values()]).toEqual(whole);
    }
    await model.close();
  });

  it('the folder of another run is refused', async () => {
    const model = await tinyModel('llama-rope-linear');
    const scratch = fresh();
    mkdirSync(scratch);
    await partsOf(model, { method: 'rtn', weights: int4, scratch });
    await expect(partsOf(model, { method: 'rtn', scratch })).rejects.toMatchObject({ code: 'UNFINISHED_WORK' });
    await model.close();
  });

  it.each(['dynamic', 'static', 'static-asymmetric'] as const)(
    'int8 activations, %s: errors a hundred times below the signal',
    async (activations) => {
      const model = await tinyModel('llama-bias');
      const windows = tinyWindows(model);
      const float = await hiddenOf(model, windows, []);
      for (const method of ['rtn', 'smoothquant'] as const) {
        const parts = await partsOf(model, { method, windows, activations });
        for (const part of parts) {
          if (part.kind === 'quantized') {
            expect(part.inputScale === null).toBe(activations === 'dynamic');
            expect(part.inputZeroPoint === null).toBe(activations !== 'static-asymmetric');
          }
        }
        const got = await hiddenOf(model, windows, parts, activations);
        const error = meanSquare(got, float);
        expect(error).toBeGreaterThan(0);
        expect(error).toBeLessThan(1e-2 * meanSquare(float, new Float32Array(float.length)));
      }
      await model.close();
    },
  );

  it('LLM.int8(), NF4 with nested scales, HQQ', async () => {
    const model = await tinyModel();
    const int8 = await partsOf(model, { method: 'llm-int8' });
    expect(int8).toHaveLength(14);
    const windows = tinyWindows(model, 2);
    const float = await hiddenOf(model, windows, []);
    const error = meanSquare(await hiddenOf(model, windows, int8, { threshold: 3 }), float);
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(1e-2 * meanSquare(float, new Float32Array(float.length)));
    const nf4 = await partsOf(model, {
      method: 'rtn',
      weights: { dtype: 'nf4', granularity: 'per-group', groupSize: 64, nested: true },
    });
    expect(nf4[0]).toMatchObject({ tensor: { dtype: 'nf4', nestedScales: { offset: expect.any(Number) } } });
    const uint4 = { dtype: 'uint4', scheme: 'asymmetric', granularity: 'per-group', groupSize: 16 } as const;
    const hqq = await partsOf(model, { method: 'hqq', weights: uint4 });
    expect(hqq).toHaveLength(14);
    expect(hqq).not.toEqual(await partsOf(model, { method: 'rtn', weights: uint4 }));
    await model.close();
  });

  it('stops when it is told to', async () => {
    const model = await tinyModel();
    const interrupt = new AbortController();
    const run = partsOf(model, {
      method: 'gptq',
      windows: tinyWindows(model),
      weights: int4,
      signal: interrupt.signal,
      onProgress: ({ windows }) => {
        if (windows === 2) interrupt.abort(new Error('enough'));
      },
    });
    await expect(run).rejects.toThrow('enough');
    await model.close();
  });

  it('refuses what can not work', async () => {
    const [model, other] = [await tinyModel(), await tinyModel('llama-rope-linear')];
    const windows = tinyWindows(model, 2);
    const refused = (options: object) => partsOf(model, options as QuantizeModelOptions);
    await expect(refused({ method: 'gptk' })).rejects.toMatchObject({ argument: 'method' });
    await expect(refused({ method: 'gptq' })).rejects.toMatchObject({ argument: 'windows' });
    await expect(refused({ method: 'rtn', activations: 'static' })).rejects.toMatchObject({ argument: 'windows' });
    await expect(refused({ method: 'rtn', activations: 'dynamic', weights: int4 })).rejects.toMatchObject({
      argument: 'weights',
    });
    await expect(refused({ method: 'gptq', windows, weights: { dtype: 'nf4' } })).rejects.toMatchObject({
      argument: 'weights',
    });
    await expect(refused({ method: 'hqq', weights: { ...int4, scheme: 'symmetric' } })).rejects.toMatchObject({
      argument: 'weights',
    });
    await expect(refused({ method: 'awq', windows, weights: 4 })).rejects.toMatchObject({ argument: 'weights' });
    const foreign = fresh();
    await collectStatistics(other, tinyWindows(other, 2), { output: foreign });
    const without = fresh();
    await collectStatistics(model, windows, { output: without, gram: false });
    const empty = fresh();
    await collectStatistics(model, tinyWindows(model, 2, { index: 2, count: 3 }), { output: empty });
    for (const [path, code] of [
      [foreign, 'STATISTICS_MISMATCH'],
      [without, 'STATISTICS_MISSING'],
      [empty, 'STATISTICS_MISSING'],
    ] as const) {
      const statistics = await StatisticsFile.open(path);
      await expect(refused({ method: 'awq', statistics })).rejects.toMatchObject({ code });
      await expect(refused({ method: 'awq', statistics, windows })).rejects.toMatchObject({ argument: 'statistics' });
      await expect(refused({ method: 'awq', statistics, mode: 'sequential' })).rejects.toMatchObject({
        argument: 'mode',
      });
      await statistics.close();
    }
    const long = cutIntoWindows(model.tokenizer, [text(400)], { windowLength: 200, count: 1 });
    await expect(refused({ method: 'awq', windows: long })).rejects.toMatchObject({ argument: 'windows' });
    await model.close();
    await other.close();
  });
});
