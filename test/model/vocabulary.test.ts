/** Tokenizers with more tokens, or fewer, than the model has embeddings for. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cutIntoWindows, evaluateModel, openModel, quantizeCheckpoint } from '../../lib/index.js';
import { writeDecoder } from '../support/decoder.js';
import { readSafetensors, safetensors, temporaryFolder } from '../support/files.js';

const root = temporaryFolder();
const SHAPE = { hidden: 32, inner: 48, heads: 2, kvHeads: 2, layers: 1 } as const;
const TEXT = 'To be, or not to be, that is the question. '.repeat(20);

describe('a tokenizer with tokens that the model has no embedding for', () => {
  // 420 tokens, and three that were added: <|begin|>, <|end|>, <tool>.
  const folder = writeDecoder(join(root, 'spare'), { ...SHAPE, vocab: 420, tokenizer: join('tokenizers', 'gpt-2') });
  const text = join(root, 'text.txt');
  writeFileSync(text, TEXT);

  it('does no harm while no text has them', async () => {
    const model = await openModel(folder);
    expect(model.tokenizer.size).toBe(423);
    const { tokens } = await model.generate('To be', { maxTokens: 4 });
    expect(tokens.every((token) => token < 420)).toBe(true);
    expect(cutIntoWindows(model.tokenizer, [TEXT], { windowLength: 16 }).tokens.length).toBeGreaterThan(3);
    await model.close();
    const { perplexity } = await evaluateModel(folder, { text: TEXT, windowLength: 16, maxWindows: 2 });
    expect(perplexity.value).toBeGreaterThan(1);
    const calibration = { text: [text], windows: 2, windowLength: 16 };
    const output = join(root, 'quantized');
    await quantizeCheckpoint(folder, { method: 'gptq', groupSize: 16, calibration, output });
    const quantized = await evaluateModel(output, { text: TEXT, against: folder, windowLength: 16, maxWindows: 2 });
    expect(quantized.against?.klDivergence.value).toBeGreaterThan(0);
  });

  it('is refused for a text that has one, by its name', async () => {
    const mismatch = {
      code: 'TOKENIZER_MISMATCH',
      message: expect.stringMatching(/the token "<tool>", whose id is 422.*embeddings for 420 tokens/) as string,
    };
    const model = await openModel(folder);
    const bad = `${TEXT}<tool>${TEXT}`;
    expect(() => model.tokenizer.encode(bad)).toThrow(expect.objectContaining(mismatch));
    await expect(model.generate('a <tool>')).rejects.toMatchObject(mismatch);
    expect(() => cutIntoWindows(model.tokenizer, [bad])).toThrow(expect.objectContaining(mismatch));
    await model.close();
    await expect(evaluateModel(folder, { text: bad, windowLength: 16 })).rejects.toMatchObject(mismatch);
    // A tokenizer of another model says so as well.
    const other = writeDecoder(join(root, 'other'), SHAPE);
    await expect(evaluateModel(other, { text: TEXT, tokenizer: folder, windowLength: 16 })).rejects.toMatchObject({
      code: 'TOKENIZER_MISMATCH',
    });
  });
});

describe('a model with embeddings for more ids than the tokenizer has', () => {
  // The tokenizer of bytes has 259 tokens; of the rows after them two are opposite and long, so that one always wins.
  const folder = writeDecoder(join(root, 'padded'), { ...SHAPE, vocab: 264 });
  const path = join(folder, 'model.safetensors');
  const { tensors } = readSafetensors(readFileSync(path));
  const head = tensors.get('lm_head.weight')?.bytes as Buffer;
  for (let i = 0; i < 32; i++) {
    head.writeFloatLE(1000 * (i + 1), 4 * (260 * 32 + i));
    head.writeFloatLE(-1000 * (i + 1), 4 * (261 * 32 + i));
  }
  const entries = [...tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype, shape, data: bytes }]);
  writeFileSync(path, safetensors(Object.fromEntries(entries)));

  it('never says what is no token', async () => {
    const model = await openModel(folder);
    const prompt = model.tokenizer.encode('To be');
    const logits = await model.logits(prompt);
    const last = logits.subarray(-264);
    expect(last.indexOf(Math.max(...last))).toBeGreaterThanOrEqual(260); // it would
    for (const options of [
      {},
      { temperature: 2, seed: 1 },
      { temperature: 2, seed: 2, topK: 300 },
      { topP: 0.5, temperature: 1 },
    ]) {
      const { tokens, text } = await model.generate('To be', { maxTokens: 8, ...options });
      expect(tokens.every((token) => token < 259)).toBe(true);
      expect(typeof text).toBe('string');
    }
    // Given as ids, they have embeddings.
    const { promptTokens } = await model.generate(Int32Array.of(260, 5), { maxTokens: 1 });
    expect(promptTokens).toBe(2);
    expect(model.tokenizer.decode([84, 261, 263])).toBe(model.tokenizer.decode([84]));
    await model.close();
  });
});
