/** Logits and continuations of tiny decoders, one for each feature, against those that Hugging Face computes in float64. */
import { copyFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openModel } from '../../lib/model/model.js';
import { temporaryFolder, writeFolder } from '../support/files.js';
import { type EncodedArray, float32, readJson, VECTORS } from '../support/vectors.js';

interface Reference {
  sequences: { input_ids: number[]; logits: EncodedArray; greedy: { ids: number[] } }[];
}

const MODELS = [
  'llama-bias',
  'llama-gqa',
  'llama-rope-dynamic',
  'llama-rope-linear',
  'llama-rope-llama3',
  'llama-rope-yarn',
  'llama-tied-headdim',
  'mistral-sliding',
  'qwen2-sliding',
  'qwen2-tied',
  'qwen3-qknorm',
];
const folder = temporaryFolder();
let count = 0;

/** A model of test/vectors with one of its configs. */
function modelWith(name: string, config: string): string {
  const source = join(VECTORS, 'models', name);
  const target = writeFolder(join(folder, String(count++)), {});
  for (const file of readdirSync(source)) copyFileSync(join(source, file), join(target, file));
  copyFileSync(join(source, config), join(target, 'config.json'));
  rmSync(join(target, 'config.v4.json'));
  return target;
}

function largestDifference(got: Float32Array, expected: ArrayLike<number>): number {
  expect(got.length).toBe(expected.length);
  let largest = 0;
  for (let i = 0; i < got.length; i++) {
    const difference = Math.abs((got[i] as number) - (expected[i] as number));
    if (!(difference <= largest)) largest = difference; // a NaN must not get lost
  }
  return largest;
}

describe.each(MODELS.flatMap((name) => ['config.json', 'config.v4.json'].map((config) => [name, config] as const)))(
  '%s with %s',
  (name, config) => {
    const { sequences } = readJson<Reference>('models', name, 'reference.json');
    it('gives the logits of the reference', async () => {
      const model = await openModel(modelWith(name, config));
      for (const { input_ids: ids, logits } of sequences) {
        const got = await model.logits(Int32Array.from(ids));
        expect(largestDifference(got, float32(logits))).toBeLessThan(1e-4);
      }
      await model.close();
    });
  },
);
