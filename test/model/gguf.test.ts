/** Models in GGUF files: config from metadata, rows of query and key as Hugging Face has them. */
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openModel } from '../../lib/model/model.js';
import { temporaryFolder } from '../support/files.js';
import { writeModel } from '../support/gguf-model.js';
import { largestDifference, referenceOf } from '../support/models.js';
import { float32, VECTORS } from '../support/vectors.js';

const folder = temporaryFolder();

describe('GGUF', () => {
  it.each([
    'llama-bias',
    'llama-gqa',
    'llama-rope-linear',
    'llama-rope-llama3',
    'llama-rope-yarn',
    'llama-tied-headdim',
    'qwen2-tied',
    'qwen3-qknorm',
  ])('%s gives the logits and continuations of the reference', async (name) => {
    const home = join(folder, name);
    mkdirSync(home);
    await writeModel(join(VECTORS, 'models', name), join(home, 'model.gguf'), 'f32');
    copyFileSync(join(VECTORS, 'models', name, 'tokenizer.json'), join(home, 'tokenizer.json'));
    const model = await openModel(join(home, 'model.gguf'));
    for (const { input_ids: ids, logits, greedy } of referenceOf(name).sequences) {
      const prompt = Int32Array.from(ids);
      expect(largestDifference(await model.logits(prompt), float32(logits))).toBeLessThan(1e-4);
      const { tokens } = await model.generate(prompt, { maxTokens: greedy.ids.length });
      expect(Array.from(tokens)).toEqual(greedy.ids);
    }
    expect(model.tokenizer.encode('a').length).toBeGreaterThan(0);
    await model.close();
  });
});
