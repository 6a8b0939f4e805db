/** What methods are for: the bundled model, a little text. The differences are many times what chance makes of them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type CalibrationWindows,
  cutIntoWindows,
  type DecoderModel,
  type LayerActivations,
  type LinearName,
  layerOfPart,
  type ModelPart,
  type NormName,
  openModel,
  type QuantizeModelOptions,
  quantizeModel,
} from '../../lib/index.js';

const EXAMPLES = join(__dirname, '..', '..', 'examples');
const text = (name: string) => readFileSync(join(EXAMPLES, 'text', name), 'utf8');
const LENGTH = 256;

let model: DecoderModel;
let calibration: CalibrationWindows;
let evaluation: CalibrationWindows;
let float: number;

beforeAll(async () => {
  model = await openModel(join(EXAMPLES, 'shakespeare-llama'), { residentBlocks: 'one' });
  calibration = cutIntoWindows(model.tokenizer, [text('sampled-calib.txt')], { windowLength: LENGTH, count: 16 });
  evaluation = cutIntoWindows(model.tokenizer, [text('sampled-eval.txt')], { windowLength: LENGTH, count: 4 });
  float = await nats(null);
});
afterAll(() => model.close());

async function all(options: QuantizeModelOptions): Promise<ModelPart[]> {
  const parts: ModelPart[] = [];
  for await (const part of quantizeModel(model, options)) parts.push(part);
  return parts;
}

/** Mean nats per token that the model, quantized so, needs for the text. */
async function nats(options: (QuantizeModelOptions & { activations?: LayerActivations }) | null): Promise<number> {
  const { vocabSize, numLayers } = model.config;
  const parts = options === null ? [] : await all(options);
  const activations = options?.activations ?? 'none';
  let hidden = await model.embed(Int32Array.of(...evaluation.tokens.flatMap((tokens) => [...tokens])));
  for (let index = 0; index < numLayers; index++) {
    const block = await model.openBlock(index);
    for (const part of parts.filter((each) => each.block === index)) {
      const name = part.name.slice(`model.layers.${index}.`.length, -'.weight'.length);
      if (part.kind === 'float') block.setNorm(name as NormName, part.data);
      else block.replace(name as LinearName, await layerOfPart(part, null, activations));
    }
    hidden = await block.forward(hidden, { windowLength: LENGTH });
    block.dispose();
  }
  const logits = await model.head(hidden);
  let sum = 0;
  let count = 0;
  for (const [w, tokens] of evaluation.tokens.entries()) {
    for (let t = 0; t + 1 < LENGTH; t++, count++) {
      const row = logits.subarray((w * LENGTH + t) * vocabSize, (w * LENGTH + t + 1) * vocabSize);
      const largest = row.reduce((a, b) => Math.max(a, b));
      const total = row.reduce((a, b) => a + Math.exp(b - largest), 0);
      sum += largest + Math.log(total) - (row[tokens[t + 1] as number] as number);
    }
  }
  return sum / count;
}

describe('on the bundled model', () => {
  it('AWQ is closer than rounding to nearest', { timeout: 300_000 }, async () => {
    const weights = { dtype: 'uint2', scheme: 'asymmetric', granularity: 'per-group', groupSize: 32 } as const;
    const plain = (await nats({ method: 'rtn', weights })) - float;
    const awq =
      (await nats({ method: 'awq', weights, windows: calibration, mode: 'parallel', awq: { grid: 8 } })) - float;
    expect(plain).toBeGreaterThan(0.01);
    expect(awq).toBeLessThan(0.95 * plain);
  });

  it('SmoothQuant keeps static int8 activations usable, whose outliers spoil them otherwise', {
    timeout: 300_000,
  }, async () => {
    const plain =
      (await nats({ method: 'rtn', activations: 'static', windows: calibration, mode: 'parallel' })) - float;
    const smooth =
      (await nats({
        method: 'smoothquant',
        smoothquant: { alpha: 0.5 },
        activations: 'static',
        windows: calibration,
        mode: 'parallel',
      })) - float;
    const dynamic = (await nats({ method: 'rtn', activations: 'dynamic' })) - float;
    expect(Math.abs(dynamic)).toBeLessThan(0.001); // of perplexity, a tenth of a percent
    expect(plain).toBeGreaterThan(0.005);
    expect(Math.abs(smooth)).toBeLessThan(0.5 * plain);
    expect(smooth).toBeLessThan(0.005); // of perplexity, half a percent
  });
});
