/** Models of LLM.int8(), from float weights to logits. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  convertCheckpoint,
  type DecoderModel,
  evaluateModel,
  type LinearLayer,
  type LinearName,
  llmInt8Linear,
  openModel,
  prepackLlmInt8,
  quantizeCheckpoint,
  quantizeLlmInt8,
} from '../../lib/index.js';
import { readSafetensors, temporaryFolder } from '../support/files.js';
import { BUNDLED, largestDifference } from '../support/models.js';

const root = temporaryFolder();
const folder = join(root, 'int8');
const LINEARS: LinearName[] = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
];

/** A layer as transformers makes it of a float weight. */
function layerOf(weight: Float32Array, columns: number, threshold: number): LinearLayer {
  const packed = prepackLlmInt8(quantizeLlmInt8(weight, { shape: [weight.length / columns, columns] }));
  return {
    rows: packed.rows,
    cols: packed.cols,
    forward: (x, out) => llmInt8Linear(x, packed, { threshold, ...(out === undefined ? {} : { out }) }),
    dispose: () => packed.dispose(),
  };
}

/** Logits of the float model with layers of LLM.int8() in the place of its own. */
async function expected(tokens: Int32Array, threshold: number): Promise<Float32Array> {
  const model = await openModel(BUNDLED);
  const { numLayers, hiddenSize, intermediateSize } = model.config;
  let hidden = await model.embed(tokens);
  for (let index = 0; index < numLayers; index++) {
    const block = await model.openBlock(index);
    for (const name of LINEARS) {
      const columns = name === 'mlp.down_proj' ? intermediateSize : hiddenSize;
      block.replace(name, layerOf(await block.weight(name), columns, threshold));
    }
    hidden = await block.forward(hidden, { windowLength: tokens.length });
    block.dispose();
  }
  const logits = await model.head(hidden);
  await model.close();
  return logits;
}

async function logitsOf(model: DecoderModel, tokens: Int32Array): Promise<Float32Array> {
  const logits = await model.logits(tokens);
  await model.close();
  return logits;
}

describe('LLM.int8()', () => {
  beforeAll(async () => {
    await quantizeCheckpoint(BUNDLED, { format: 'bitsandbytes', dtype: 'int8', output: folder });
  });
  const tokens = Int32Array.from('To be, or not to be', (letter) => letter.charCodeAt(0) + 3);

  it('computes as bitsandbytes does: int8, and columns with outliers in float', async () => {
    const logits = await logitsOf(await openModel(folder), tokens);
    expect(largestDifference(logits, await expected(tokens, 6))).toBe(0);
    // The threshold matters here: the inputs of down_proj have outliers.
    expect(largestDifference(logits, await expected(tokens, 0))).toBeGreaterThan(1e-3);
    expect(logits).toEqual(await logitsOf(await openModel(folder, { residentBlocks: 'one' }), tokens));
  });

  it('computes with the values of the file where that is asked for', async () => {
    const float = join(root, 'float');
    await convertCheckpoint(folder, { to: 'float', floatDtype: 'float32', output: float });
    const logits = await logitsOf(await openModel(folder, { activations: 'float32' }), tokens);
    expect(logits).toEqual(await logitsOf(await openModel(float), tokens));
  });

  it('is close to the model', async () => {
    const text = readFileSync(join(BUNDLED, '..', 'text', 'sampled-eval.txt'), 'utf8');
    const { against, activations } = await evaluateModel(folder, {
      text,
      against: BUNDLED,
      windowLength: 256,
      maxWindows: 3,
    });
    expect(activations).toBe('llm-int8');
    expect(against?.klDivergence.value).toBeGreaterThan(0);
    expect(against?.klDivergence.value).toBeLessThan(1e-3);
  });

  it('continues texts', async () => {
    const model = await openModel(folder);
    const { tokens: continued } = await model.generate('ROMEO\t', { maxTokens: 8 });
    expect(continued.length).toBe(8);
    await model.close();
  });

  it('is stored with the names and types of transformers', () => {
    const { tensors } = readSafetensors(readFileSync(join(folder, 'model.safetensors')));
    const layer = 'model.layers.2.mlp.up_proj';
    expect(tensors.get(`${layer}.weight`)).toMatchObject({ dtype: 'I8', shape: [768, 256] });
    expect(tensors.get(`${layer}.SCB`)).toMatchObject({ dtype: 'F32', shape: [768] });
    expect(tensors.get(`${layer}.weight_format`)).toMatchObject({ dtype: 'U8', shape: [] });
    const { quantization_config: config } = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
    expect(config).toMatchObject({
      quant_method: 'bitsandbytes',
      load_in_8bit: true,
      llm_int8_skip_modules: ['lm_head'],
    });
  });

  it.each([
    [{ groupSize: 64 }, 'groupSize'],
    [{ granularity: 'per-group' }, 'granularity'],
    [{ scheme: 'asymmetric' }, 'scheme'],
    [{ range: 'mse' }, 'range'],
    [{ nested: true }, 'nested'],
  ] as const)('refuses %o', async (given, argument) => {
    const output = join(root, 'none');
    const run = quantizeCheckpoint(BUNDLED, { format: 'bitsandbytes', dtype: 'int8', ...given, output });
    await expect(run).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', argument });
  });
});
