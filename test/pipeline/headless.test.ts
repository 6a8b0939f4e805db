/** Checkpoints that were saved without their output layer: `layers.0.…` instead of `model.layers.0.…`. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  collectStatistics,
  cutIntoWindows,
  evaluateModel,
  inspectCheckpoint,
  openModel,
  quantizeCheckpoint,
} from '../../lib/index.js';
import { writeDecoder } from '../support/decoder.js';
import { readSafetensors, temporaryFolder } from '../support/files.js';

const root = temporaryFolder();
let count = 0;
const fresh = () => join(root, `out-${count++}`);
const SHAPE = { hidden: 64, inner: 96, heads: 4, kvHeads: 4 } as const;
const TEXT = Array.from({ length: 500 }, (_, i) => ((i * 7919) % 9973).toString(36)).join(' ');
const text = join(root, 'text.txt');
writeFileSync(text, TEXT);
const calibration = { text: [text], windows: 4, windowLength: 32 };

const tensorsOf = (folder: string) => readSafetensors(readFileSync(join(folder, 'model.safetensors'))).tensors;

describe('a checkpoint without its output layer', () => {
  const bare = writeDecoder(fresh(), { ...SHAPE, bare: true });
  const whole = writeDecoder(fresh(), SHAPE);
  const tied = writeDecoder(fresh(), { ...SHAPE, bare: true, tied: true });

  it('runs block by block; with a tied output layer as a whole', async () => {
    const [model, other] = [await openModel(bare), await openModel(whole)];
    expect([model.weightPrefix, other.weightPrefix]).toEqual(['', 'model.']);
    const tokens = model.tokenizer.encode('To be, or not');
    const [a, b] = [await model.openBlock(1), await other.openBlock(1)];
    expect([a, b].map((block) => block.weightName('mlp.up_proj'))).toEqual([
      'layers.1.mlp.up_proj.weight',
      'model.layers.1.mlp.up_proj.weight',
    ]);
    const hidden = await model.embed(tokens);
    const run = { windowLength: tokens.length };
    expect(await a.forward(hidden, run)).toEqual(await b.forward(await other.embed(tokens), run));
    for (const block of [a, b]) block.dispose();
    const missing = {
      code: 'MODEL_WEIGHT_MISSING',
      tensor: 'lm_head.weight',
      message: expect.stringContaining('can be calibrated and quantized') as string,
    };
    await expect(model.logits(tokens)).rejects.toMatchObject(missing);
    await expect(model.head(new Float32Array(64))).rejects.toMatchObject(missing);
    await expect(model.generate('To be')).rejects.toMatchObject(missing);
    await expect(evaluateModel(bare, { text: TEXT, windowLength: 32 })).rejects.toMatchObject(missing);
    await model.close();
    await other.close();
    const { perplexity } = await evaluateModel(tied, { text: TEXT, windowLength: 32, maxWindows: 2 });
    expect(perplexity.value).toBeGreaterThan(1);
  });

  it('is calibrated like the whole model', async () => {
    const files: Buffer[] = [];
    for (const folder of [bare, whole]) {
      const model = await openModel(folder);
      const windows = cutIntoWindows(model.tokenizer, [TEXT], { windowLength: 32, count: 3 });
      const output = fresh();
      await collectStatistics(model, windows, { output });
      files.push(readFileSync(output));
      await model.close();
    }
    const [ours, theirs] = files.map((file) => readSafetensors(file).tensors);
    expect(ours).toEqual(theirs);
  });

  it.each([
    ['gptq', { dtype: 'int4', groupSize: 32, gptq: { descAct: true, staticGroups: false } }],
    ['awq', { dtype: 'int4', groupSize: 32, scheme: 'asymmetric' }],
    ['awq-gptq', { dtype: 'int3', groupSize: 16 }],
    ['smoothquant', { dtype: 'int8', activations: 'int8' }],
    ['hqq', { dtype: 'int4', groupSize: 32 }],
  ] as const)('%s gives the codes of the whole model', async (method, options) => {
    const [ours, theirs] = [fresh(), fresh()];
    const spec = { method, ...options, ...(method === 'hqq' ? {} : { calibration }) };
    const report = await quantizeCheckpoint(bare, { ...spec, output: ours });
    await quantizeCheckpoint(whole, { ...spec, output: theirs });
    expect(report.tensors.find(({ name }) => name === 'layers.1.mlp.down_proj.weight')?.kind).toBe('quantized');
    const expected = new Map(
      [...tensorsOf(theirs)]
        .filter(([name]) => name !== 'lm_head.weight')
        .map(([name, tensor]) => [name.replace(/^model\./, ''), tensor]),
    );
    expect(tensorsOf(ours)).toEqual(expected);
    const { weights } = await inspectCheckpoint(ours);
    expect(weights.filter(({ format }) => format === 'compressed-tensors')).toHaveLength(14);
  });

  it('that is tied is evaluated after it was quantized', async () => {
    const output = fresh();
    await quantizeCheckpoint(tied, { method: 'gptq', dtype: 'int8', groupSize: 32, calibration, output });
    const { against, checkpoint } = await evaluateModel(output, {
      text: TEXT,
      against: tied,
      windowLength: 32,
      maxWindows: 2,
    });
    expect(against?.klDivergence.value).toBeLessThan(0.01);
    expect(checkpoint?.bitsPerWeight).toBeGreaterThan(8);
  });
});
