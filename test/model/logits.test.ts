/** Logits and continuations of tiny decoders, one for each feature, against those that Hugging Face computes in float64. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openModel } from '../../lib/model/model.js';
import { setNumThreads } from '../../lib/runtime.js';
import { temporaryFolder } from '../support/files.js';
import { copyModel, largestDifference, MODELS, referenceOf } from '../support/models.js';
import { float32, VECTORS } from '../support/vectors.js';

const folder = temporaryFolder();
let count = 0;

describe.each(MODELS.flatMap((name) => ['config.json', 'config.v4.json'].map((config) => [name, config] as const)))(
  '%s with %s',
  (name, config) => {
    const { sequences } = referenceOf(name);
    it('gives the logits and continuations of the reference', async () => {
      const model = await openModel(copyModel(name, join(folder, String(count++)), config));
      for (const { input_ids: ids, logits, greedy, greedy_kv_cache: cached } of sequences) {
        const prompt = Int32Array.from(ids);
        expect(largestDifference(await model.logits(prompt), float32(logits))).toBeLessThan(1e-4);
        const { tokens, finishReason, promptTokens } = await model.generate(prompt, { maxTokens: greedy.ids.length });
        expect(Array.from(tokens)).toEqual((cached ?? greedy).ids);
        expect([finishReason, promptTokens]).toEqual(['length', ids.length]);
        // Without a cache: every step a pass over everything.
        const all = [...ids];
        for (const expected of greedy.ids) {
          const last = (await model.logits(Int32Array.from(all))).subarray(-model.config.vocabSize);
          expect(last.indexOf(Math.max(...last))).toBe(expected);
          all.push(expected);
        }
      }
      await model.close();
    });
  },
);

describe('windows', () => {
  const open = () => openModel(join(VECTORS, 'models', 'llama-gqa'));
  const ids = Int32Array.from({ length: 60 }, (_, i) => (i * 97 + 13) % 259);

  it('are independent of each other', async () => {
    const model = await open();
    const together = await model.logits(ids, { windowLength: 20 });
    for (let window = 0; window < 3; window++) {
      const alone = await model.logits(ids.subarray(window * 20, (window + 1) * 20));
      expect(largestDifference(together.subarray(window * 20 * 259, (window + 1) * 20 * 259), alone)).toBeLessThan(
        1e-5,
      );
    }
    const seen: number[] = [];
    await model.forEachLogits(ids, 20, (first, logits) => {
      seen.push(first);
      const from = first * 20 * 259;
      expect(largestDifference(logits, together.subarray(from, from + logits.length))).toBe(0);
    });
    expect(seen).toEqual([0]);
    expect(await model.logits(new Int32Array(0))).toEqual(new Float32Array(0));
    await model.close();
  });

  it('have the same bits for any number of threads, and with one block in memory at a time', async () => {
    const model = await open();
    const expected = await model.logits(ids, { windowLength: 30 });
    const text = await model.generate(ids, { maxTokens: 8 });
    const one = await openModel(model.path, { residentBlocks: 'one' });
    for (const threads of [1, 2, 7]) {
      setNumThreads(threads);
      expect(largestDifference(await model.logits(ids, { windowLength: 30 }), expected)).toBe(0);
      expect(largestDifference(await one.logits(ids, { windowLength: 30 }), expected)).toBe(0);
      expect((await one.generate(ids, { maxTokens: 8 })).tokens).toEqual(text.tokens);
    }
    await model.close();
    await one.close();
  });
});
