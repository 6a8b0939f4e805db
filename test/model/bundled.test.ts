/** The bundled model against float64, and in every quantized format against its own dequantized weights. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openModel } from '../../lib/model/model.js';
import { convertCheckpoint } from '../../lib/pipeline/convert-checkpoint.js';
import { quantizeCheckpoint } from '../../lib/pipeline/quantize-checkpoint.js';
import type { QuantizationSpec } from '../../lib/pipeline/spec.js';
import { readSafetensors, safetensors, temporaryFolder } from '../support/files.js';
import { BUNDLED, largestDifference } from '../support/models.js';
import { readJson } from '../support/vectors.js';

interface Reference {
  prompts: { prompt: string; ids: number[]; logits: number[] }[];
  greedy: { prompt: string; ids: number[]; text: string }[];
}
const reference = readJson<Reference>('models', 'shakespeare-llama.json');
/** The same of the bundled weights, which are those in bfloat16. */
const bundled = readJson<{ logits: number[][]; greedy: { prompt: string; ids: number[] }[] }>(
  'models',
  'shakespeare-llama-bf16.json',
);
const FLOAT32 = join(__dirname, '..', '..', '..', 'shared', 'models', 'shakespeare-llama', 'f32');
if (!existsSync(FLOAT32)) console.warn(`SKIPPED: there is no ${FLOAT32}, the bundled model in float32`);

describe('the bundled model', () => {
  it('gives the logits and texts of float64', async () => {
    const model = await openModel(BUNDLED);
    for (const [i, { prompt, ids }] of reference.prompts.entries()) {
      expect(Array.from(model.tokenizer.encode(prompt))).toEqual(ids);
      const logits = await model.logits(Int32Array.from(ids));
      expect(largestDifference(logits.subarray(-259), bundled.logits[i] ?? [])).toBeLessThan(1e-4);
    }
    for (const { prompt, ids } of bundled.greedy) {
      const texts: string[] = [];
      const { text, tokens, promptTokens } = await model.generate(prompt, {
        maxTokens: ids.length - prompt.length - 1,
        onToken: (_, piece) => texts.push(piece),
      });
      expect([...model.tokenizer.encode(prompt), ...tokens]).toEqual(ids);
      expect(promptTokens).toBe(prompt.length + 1);
      expect(text).toBe(String.fromCharCode(...ids.slice(prompt.length + 1).map((id) => id - 3)));
      expect(texts.join('')).toBe(text);
    }
    await model.close();
  });

  it.skipIf(!existsSync(FLOAT32))('in float32 too', async () => {
    const model = await openModel(FLOAT32);
    for (const { ids, logits } of reference.prompts) {
      const got = await model.logits(Int32Array.from(ids));
      expect(largestDifference(got.subarray(-259), logits)).toBeLessThan(1e-4);
    }
    for (const { prompt, text } of reference.greedy) {
      const { text: got } = await model.generate(prompt, { maxTokens: text.length - prompt.length });
      expect(prompt + got).toBe(text);
    }
    await model.close();
  });
});

const SPECS: [string, QuantizationSpec][] = [
  ['GGUF F16', { format: 'gguf', dtype: 'f16' }],
  ['GGUF Q8_0', { format: 'gguf', dtype: 'q8_0' }],
  ['GGUF Q4_K_M', { format: 'gguf', dtype: 'q4_k_m' }],
  ['compressed-tensors int4', { format: 'compressed-tensors', dtype: 'int4', groupSize: 32 }],
  ['compressed-tensors FP8', { format: 'compressed-tensors', dtype: 'float8_e4m3fn' }],
  ['compressed-tensors NVFP4', { format: 'compressed-tensors', dtype: 'nvfp4' }],
  ['GPTQ', { format: 'gptq', groupSize: 32 }],
  ['AWQ', { format: 'awq', groupSize: 64 }],
  ['NF4', { format: 'bitsandbytes' }],
  ['FP8 in blocks', { format: 'fp8' }],
];

describe.each(SPECS)('the bundled model as %s', (_, spec) => {
  const folder = temporaryFolder();
  const ids = Int32Array.from([...(reference.prompts[3]?.ids ?? []), ...(reference.prompts[0]?.ids ?? [])]);

  it('computes with the very values that dequantizing gives', async () => {
    const output = join(folder, spec.format === 'gguf' ? 'model.gguf' : 'model');
    await quantizeCheckpoint(BUNDLED, { ...spec, output });
    await convertCheckpoint(output, { to: 'float', floatDtype: 'float32', output: join(folder, 'float') });
    const quantized = await openModel(output);
    const floats = await openModel(join(folder, 'float'));
    const expected = await floats.logits(ids);
    expect(largestDifference(await quantized.logits(ids), expected)).toBeLessThan(1e-4);
    const original = await openModel(BUNDLED);
    expect(largestDifference(await original.logits(ids), expected)).toBeGreaterThan(spec.dtype === 'f16' ? 0 : 1e-4);
    const block = await quantized.openBlock(3);
    const same = await floats.openBlock(3);
    for (const name of ['self_attn.q_proj', 'self_attn.k_proj', 'mlp.down_proj'] as const) {
      expect(largestDifference(await block.weight(name), await same.weight(name))).toBe(0);
    }
    block.dispose();
    same.dispose();
    // In integers: near, with the same text.
    const fast = await openModel(output, { computeDtype: 'int16' });
    expect(largestDifference(await fast.logits(ids), expected)).toBeLessThan(0.02);
    for (const model of [quantized, floats, original, fast]) await model.close();
  });
});

describe('the bundled model as GPTQ in act-order', () => {
  const folder = temporaryFolder();

  it('computes with columns of any groups', async () => {
    const output = join(folder, 'model');
    await quantizeCheckpoint(BUNDLED, { format: 'gptq', groupSize: 32, output });
    // Other groups for the same codes make another model, of which nothing else is asked.
    const path = join(output, 'model.safetensors');
    const { metadata, tensors } = readSafetensors(readFileSync(path));
    let seed = 1;
    for (const [name, { bytes }] of tensors) {
      if (!name.endsWith('.g_idx')) continue;
      const groups = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
      for (let i = groups.length - 1; i > 0; i--) {
        seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
        const j = seed % (i + 1);
        [groups[i], groups[j]] = [groups[j] as number, groups[i] as number];
      }
    }
    const entries = [...tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype, shape, data: bytes }]);
    writeFileSync(path, safetensors(Object.fromEntries(entries), metadata));
    const config = join(output, 'config.json');
    const json = JSON.parse(readFileSync(config, 'utf8')) as { quantization_config: object };
    json.quantization_config = { ...json.quantization_config, desc_act: true };
    writeFileSync(config, JSON.stringify(json));

    await convertCheckpoint(output, { to: 'float', floatDtype: 'float32', output: join(folder, 'float') });
    const quantized = await openModel(output);
    const floats = await openModel(join(folder, 'float'));
    const ids = Int32Array.from(reference.prompts[3]?.ids ?? []);
    const expected = await floats.logits(ids);
    expect(largestDifference(await quantized.logits(ids), expected)).toBeLessThan(1e-4);
    const { tokens } = await floats.generate(ids, { maxTokens: 20 });
    expect((await quantized.generate(ids, { maxTokens: 20 })).tokens).toEqual(tokens);
    await quantized.close();
    await floats.close();
  });
});
