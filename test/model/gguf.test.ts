/** Models in GGUF files: config from metadata, rows of query and key as Hugging Face has them. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { writeGguf } from '../../lib/checkpoint/gguf/gguf-writer.js';
import { type GgufValue, ggufValue } from '../../lib/checkpoint/gguf/metadata.js';
import { openModel } from '../../lib/model/model.js';
import { openTokenizer } from '../../lib/model/tokenizer.js';
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
    const path = join(folder, `${name}.gguf`);
    await writeModel(join(VECTORS, 'models', name), path, 'f32');
    const model = await openModel(path);
    for (const { input_ids: ids, logits, greedy } of referenceOf(name).sequences) {
      const prompt = Int32Array.from(ids);
      expect(largestDifference(await model.logits(prompt), float32(logits))).toBeLessThan(1e-4);
      const { tokens } = await model.generate(prompt, { maxTokens: greedy.ids.length });
      expect(Array.from(tokens)).toEqual(greedy.ids);
    }
    // Its tokenizer is in the file.
    const original = await openTokenizer(join(VECTORS, 'models', name));
    for (const text of ['ROMEO\tBut soft, what light', "O,  don't\n\n stay 1623!", 'café 漢字 🙂', '']) {
      expect(model.tokenizer.encode(text)).toEqual(original?.encode(text));
    }
    await model.close();
  });
});

describe('a GGUF file that can not be run', () => {
  const tensors = [{ name: 'token_embd.weight', dtype: 'f32', shape: [4, 8] }];
  const { string, uint32 } = ggufValue;
  const write = async (metadata: [string, GgufValue][]) => {
    const path = join(folder, `refused-${metadata.length}.gguf`);
    const writer = await writeGguf(path, tensors, new Map(metadata));
    await writer.write('token_embd.weight', 0, new Uint8Array(128));
    await writer.close();
    return path;
  };

  it('is told by its architecture, or what it has besides', async () => {
    await expect(openModel(await write([['general.architecture', string('gemma3')]]))).rejects.toMatchObject({
      code: 'MODEL_UNSUPPORTED',
      message: expect.stringMatching(/its architecture is gemma3. Those it can are llama/) as string,
    });
    const experts: [string, GgufValue][] = [
      ['general.architecture', string('llama')],
      ['llama.expert_count', uint32(8)],
    ];
    await expect(openModel(await write(experts))).rejects.toMatchObject({
      code: 'MODEL_UNSUPPORTED',
      message: expect.stringMatching(/^lowbit can't run .*: it is a mixture of 8 experts/) as string,
    });
  });
});
