/** Methods that make GGUF blocks. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  awqScales,
  type BlocksPart,
  collectStatistics,
  dequantizeBlocks,
  gptq,
  layerOfPart,
  quantizeBlocks,
  quantizeModel,
  rtn,
  StatisticsFile,
  unpackCodes,
} from '../../lib/index.js';
import { scaledSettings } from '../../lib/methods/linear-weight.js';
import { temporaryFolder } from '../support/files.js';
import { normal } from '../support/random.js';
import { statisticsOf } from '../support/statistics.js';
import { tinyModel, tinyWindows } from '../support/tiny-model.js';

const root = temporaryFolder();

describe('importance', () => {
  it('is divided by the squares of scales', () => {
    const given = { type: 'q4_0', importance: Float32Array.of(1, 8, 3, 0) } as const;
    expect(scaledSettings(given, Float32Array.of(2, 4, 0.5, 7)).importance).toEqual(Float32Array.of(0.25, 0.5, 12, 0));
    expect(scaledSettings(given, undefined)).toBe(given);
  });

  it('of the scaled inputs is what makes errors small that count', () => {
    const [rows, columns] = [64, 256];
    const weight = normal(rows * columns, 1);
    const importance = normal(columns, 2).map((x) => x ** 4);
    const scales = normal(columns, 3).map(Math.exp);
    const scaled = weight.map((w, i) => w * (scales[i % columns] as number));
    const lossWith = (weights: Float32Array) => {
      const blocks = quantizeBlocks(scaled, { type: 'q4_k', rowLength: columns, importance: weights });
      const back = dequantizeBlocks(blocks, { type: 'q4_k', rowLength: columns });
      return back.reduce((sum, value, i) => {
        const k = i % columns;
        return sum + (importance[k] as number) * (value / (scales[k] as number) - (weight[i] as number)) ** 2;
      }, 0);
    };
    const right = scaledSettings({ type: 'q4_k', importance }, scales).importance as Float32Array;
    expect(lossWith(right)).toBeLessThan(0.8 * lossWith(importance));
  });
});

describe('quantizeModel', () => {
  it('AWQ scales weights and importances, then makes ggml’s blocks', async () => {
    const model = await tinyModel('llama-rope-linear');
    const { hiddenSize, numLayers } = model.config;
    const path = join(root, 'statistics.safetensors');
    await collectStatistics(model, tinyWindows(model), { output: path });
    const statistics = await StatisticsFile.open(path);
    const importance = normal(hiddenSize, 4).map((x) => x * x);
    const settings = { type: 'q4_0', importance } as const;
    const parts = [];
    for await (const part of quantizeModel(model, {
      method: 'awq',
      statistics,
      awq: { clip: false },
      weights: (name) => (/gate_proj|up_proj/.test(name) ? settings : null),
    })) {
      parts.push(part);
    }
    let scaledBlocks = 0;
    for (let index = 0; index < numLayers; index++) {
      const block = await model.openBlock(index);
      const names = ['mlp.gate_proj', 'mlp.up_proj'] as const;
      const weights = await Promise.all(
        names.map(async (name) => {
          const data = await block.weight(name);
          return { data, rows: data.length / hiddenSize, columns: hiddenSize };
        }),
      );
      const inputs = await statistics.read(`layers.${index}.mlp`);
      const { scales, error, unscaledError } = await awqScales(weights, inputs, { weights: settings });
      if (error < unscaledError) scaledBlocks++;
      const ofScaled = importance.map((value, k) => value / (scales[k] as number) ** 2);
      for (const [i, name] of names.entries()) {
        const part = parts.find((each) => each.name === block.weightName(name)) as BlocksPart;
        const scaled = weights[i]?.data.map((w, j) => w * (scales[j % hiddenSize] as number)) as Float32Array;
        const expected = quantizeBlocks(scaled, { type: 'q4_0', rowLength: hiddenSize, importance: ofScaled });
        expect(part.kind).toBe('blocks');
        expect(Buffer.from(part.data).equals(expected)).toBe(true);
        const layer = await layerOfPart(part, null);
        const x = normal(hiddenSize, 5);
        const back = dequantizeBlocks(expected, { type: 'q4_0', rowLength: hiddenSize });
        const [first] = layer.forward(x);
        const sum = x.reduce((total, value, k) => total + value * (back[k] as number), 0);
        expect(first).toBeCloseTo(sum, 3);
        layer.dispose();
      }
      block.dispose();
    }
    expect(scaledBlocks).toBeGreaterThan(0);
    await statistics.close();
    await model.close();
  });

  it.each([
    ['gptq', { windows: true }],
    ['hqq', {}],
    ['llm-int8', {}],
  ] as const)('refuses blocks for %s', async (method, given) => {
    const model = await tinyModel('llama-rope-linear');
    const windows = 'windows' in given ? { windows: tinyWindows(model) } : {};
    const run = async () => {
      for await (const _ of quantizeModel(model, { method, weights: { type: 'q4_0' }, ...windows }));
    };
    await expect(run()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'weights' });
    await model.close();
  });
});

describe('codes of fewer bits than their dtype', () => {
  const [rows, columns] = [8, 96];
  const weight = normal(rows * columns, 6);
  const options = { dtype: 'int8', codeBits: 5, groupSize: 32, scaleDtype: 'float16' } as const;

  it('keep within ±15, with the scale that goes with that', async () => {
    const { tensor } = await rtn(weight, { ...options, shape: [rows, columns] });
    const codes = unpackCodes(tensor);
    for (let group = 0; group < codes.length / 32; group++) {
      const largest = weight.subarray(32 * group, 32 * group + 32).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      expect(tensor.scales[group]).toBeCloseTo(largest / 15, 3);
      const own = Array.from(codes.subarray(32 * group, 32 * group + 32));
      expect(Math.max(...own.map(Math.abs))).toBe(15);
      own.forEach((code, i) => {
        const exact = (weight[32 * group + i] as number) / (tensor.scales[group] as number);
        expect(Math.abs(code - exact)).toBeLessThanOrEqual(0.5 + 1e-2);
      });
    }
  });

  it('are what GPTQ makes as well', async () => {
    const x = normal(256 * columns, 7);
    const { tensor } = await gptq(weight, statisticsOf(x, columns), options);
    const codes = Array.from(unpackCodes(tensor));
    expect(Math.max(...codes.map(Math.abs))).toBe(15);
  });

  it.each([{ codeBits: 1 }, { codeBits: 9 }, { dtype: 'uint8' }, { scheme: 'asymmetric' }])(
    '%o is refused',
    async (changes) => {
      const given = { ...options, shape: [rows, columns], ...changes } as Parameters<typeof rtn>[1];
      await expect(rtn(weight, given)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument: 'codeBits' });
    },
  );
});
