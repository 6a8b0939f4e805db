/** The scale of static activations is that of what a layer reads in the quantized model: after scales were folded. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  type CalibrationWindows,
  collectStatistics,
  type DecoderModel,
  type InputName,
  type ModelPart,
  type NormName,
  type QuantizedPart,
  type QuantizeModelOptions,
  quantizeModel,
  StatisticsFile,
} from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';
import { tinyModel, tinyWindows } from '../support/tiny-model.js';

const root = temporaryFolder();
let count = 0;
const fresh = () => join(root, String(count++));

async function partsOf(model: DecoderModel, options: QuantizeModelOptions): Promise<ModelPart[]> {
  const parts: ModelPart[] = [];
  for await (const part of quantizeModel(model, options)) parts.push(part);
  return parts;
}

/** What the first block's layers read after a norm, with the scales that were folded into the norm. */
async function inputsOf(
  model: DecoderModel,
  { tokens, windowLength }: CalibrationWindows,
  parts: readonly ModelPart[],
  [norm, until]: readonly [NormName, InputName],
): Promise<number[]> {
  const block = await model.openBlock(0);
  const folded = parts.find(({ name }) => name === `model.layers.0.${norm}.weight`);
  if (folded?.kind !== 'float') throw new Error(`${norm} was not changed`);
  expect(folded.data).not.toEqual(block.norm(norm));
  block.setNorm(norm, folded.data);
  const hidden = await model.embed(Int32Array.of(...tokens.flatMap((each) => [...each])));
  const x = await block.forward(hidden, { windowLength, until });
  block.dispose();
  return [...x];
}

const partOf = (parts: readonly ModelPart[], name: string) =>
  parts.find((part) => part.name === `model.layers.0.${name}.weight`) as QuantizedPart;

const sources = ['sequential', 'parallel', 'file'] as const;

describe('static activations after SmoothQuant', () => {
  it.each(sources)('%s: the range that was asked for', async (source) => {
    const model = await tinyModel();
    const windows = tinyWindows(model);
    const output = fresh();
    await collectStatistics(model, windows, { output, gram: false });
    const statistics = source === 'file' ? await StatisticsFile.open(output) : null;
    const from = statistics === null ? { windows, mode: source as 'parallel' } : { statistics };
    const common = { method: 'smoothquant', smoothquant: { alpha: 0.7 }, ...from } as const;
    const ends = new Map<string, number[]>();
    for (const [name, range] of [
      ['minmax', 'minmax'],
      ['percentile', { percentile: 90 }],
      ['mse', 'mse'],
      ['entropy', 'entropy'],
    ] as const) {
      const parts = await partsOf(model, { ...common, activations: 'static', range });
      for (const [norm, input, layer] of [
        ['input_layernorm', 'self_attn', 'self_attn.q_proj'],
        ['post_attention_layernorm', 'mlp', 'mlp.up_proj'],
      ] as const) {
        // Layers before it are quantized in sequential mode, so that what comes to the second norm is another.
        if (source === 'sequential' && input === 'mlp') continue;
        const x = await inputsOf(model, windows, parts, [norm, input]);
        const magnitudes = x.map(Math.abs).sort((a, b) => a - b);
        const largest = magnitudes.at(-1) as number;
        const { inputScale, inputZeroPoint } = partOf(parts, layer);
        const end = 127 * (inputScale as number);
        ends.set(input, [...(ends.get(input) ?? []), end]);
        expect(inputZeroPoint).toBeNull();
        if (name === 'minmax') expect(Math.abs(end - largest)).toBeLessThan(1e-5 * largest);
        else expect(end).toBeLessThanOrEqual(largest * (1 + 1e-6));
        if (name === 'percentile') {
          const exact = magnitudes[Math.floor(0.9 * magnitudes.length)] as number;
          expect(Math.abs(end - exact)).toBeLessThan(largest / 128); // a bin or two of the histogram
          expect(end).toBeLessThan(0.9 * largest);
        }
      }
    }
    for (const found of ends.values()) expect(new Set(found).size).toBeGreaterThanOrEqual(3);
    await statistics?.close();
    await model.close();
  });

  it.each(['sequential', 'parallel'] as const)('%s: asymmetric codes for the extremes', async (mode) => {
    const model = await tinyModel();
    const windows = tinyWindows(model);
    const options = { method: 'smoothquant', windows, mode, smoothquant: { alpha: 0.7 } } as const;
    const parts = await partsOf(model, { ...options, activations: 'static-asymmetric' });
    const x = await inputsOf(model, windows, parts, ['input_layernorm', 'self_attn']);
    const [min, max] = [Math.min(...x), Math.max(...x)];
    const scale = (max - min) / 255;
    for (const name of ['q_proj', 'k_proj', 'v_proj']) {
      const { inputScale, inputZeroPoint } = partOf(parts, `self_attn.${name}`);
      expect(Math.abs((inputScale as number) - scale)).toBeLessThan(1e-5 * scale);
      expect(Math.abs((inputZeroPoint as number) - (-128 - min / scale))).toBeLessThanOrEqual(0.51);
    }
    await model.close();
  });

  it('asymmetric extremes need windows, or another range', async () => {
    const model = await tinyModel();
    const output = fresh();
    await collectStatistics(model, tinyWindows(model), { output, gram: false });
    const statistics = await StatisticsFile.open(output);
    const options = { method: 'smoothquant', statistics, activations: 'static-asymmetric' } as const;
    await expect(partsOf(model, options)).rejects.toMatchObject({ argument: 'activations' });
    const parts = await partsOf(model, { ...options, range: 'mse' });
    expect(partOf(parts, 'self_attn.q_proj').inputZeroPoint).not.toBeNull();
    await statistics.close();
    await model.close();
  });
});

describe('static activations', () => {
  it('are what a function of the layer says, with scales of the type of the weights’', async () => {
    const model = await tinyModel();
    const windows = tinyWindows(model);
    const int8 = { dtype: 'int8', granularity: 'per-channel', axis: 0, scaleDtype: 'bfloat16' } as const;
    const float8 = { dtype: 'float8_e4m3fn', granularity: 'per-channel', axis: 0, scaleDtype: 'bfloat16' } as const;
    const parts = await partsOf(model, {
      method: 'rtn',
      windows,
      activations: (name) => (name.includes('down') ? 'dynamic' : name.includes('o_proj') ? 'none' : 'static'),
      weights: (name) => (name.includes('self_attn') ? float8 : int8),
    });
    let largest = 0;
    const block = await model.openBlock(0);
    const hidden = await model.embed(Int32Array.of(...windows.tokens.flatMap((tokens) => [...tokens])));
    await block.forward(hidden, {
      windowLength: windows.windowLength,
      until: 'self_attn.o_proj',
      onInput: (input, x) => {
        if (input === 'self_attn') largest = x.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
        return undefined;
      },
    });
    block.dispose();
    for (const part of parts as QuantizedPart[]) {
      const isStatic = !/down|o_proj/.test(part.name);
      expect(part.inputScale !== null).toBe(isStatic);
      if (part.inputScale === null) continue;
      expect(new Uint32Array(Float32Array.of(part.inputScale).buffer)[0]).toSatisfy(
        (bits: number) => (bits & 0xffff) === 0,
      );
    }
    // E4M3 numbers end at 448; bfloat16 has eight bits.
    const { inputScale } = partOf(parts, 'self_attn.q_proj');
    expect(Math.abs((inputScale as number) - largest / 448)).toBeLessThan((2 ** -8 * largest) / 448);
    await model.close();
  });

  it('refuse weights that they are not multiplied with', async () => {
    const model = await tinyModel();
    const windows = tinyWindows(model, 2);
    const float8 = { dtype: 'float8_e4m3fn' } as const;
    const int4 = { dtype: 'int4', granularity: 'per-group', groupSize: 16 } as const;
    for (const options of [
      { method: 'rtn', activations: 'static', weights: int4 },
      { method: 'rtn', activations: 'static-asymmetric', weights: float8 },
      { method: 'rtn', activations: 'dynamic', weights: float8 },
      { method: 'smoothquant', activations: 'static', weights: float8 },
    ] as const) {
      await expect(partsOf(model, { ...options, windows })).rejects.toMatchObject({ argument: 'weights' });
    }
    await expect(
      partsOf(model, { method: 'rtn', windows, activations: (() => 'int8') as never }),
    ).rejects.toMatchObject({ argument: 'activations' });
    await model.close();
  });
});
