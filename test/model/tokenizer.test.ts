/** Token ids against those of Hugging Face's tokenizers and SentencePiece. */
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openModel } from '../../lib/model/model.js';
import { TextStream } from '../../lib/model/text-stream.js';
import { openTokenizer } from '../../lib/model/tokenizer.js';
import { temporaryFolder } from '../support/files.js';
import { referenceOf } from '../support/models.js';
import { readJson, VECTORS } from '../support/vectors.js';

const folder = temporaryFolder();

describe('tokenizers', () => {
  it.each(['llama-bpe', 'tekken', 'gpt-2', 'smollm'])('%s: ids and texts are those of the reference', async (name) => {
    const { texts, size } = readJson<{
      size: number;
      texts: { text: string; ids: number[]; withSpecial: number[] }[];
    }>('tokenizers', name, 'expect.json');
    const tokenizer = await openTokenizer(join(VECTORS, 'tokenizers', name));
    expect(tokenizer?.size).toBe(size);
    for (const { text, ids, withSpecial } of texts) {
      expect({ text, ids: Array.from(tokenizer?.encode(text, { addSpecialTokens: false }) ?? []) }).toEqual({
        text,
        ids,
      });
      expect({ text, ids: Array.from(tokenizer?.encode(text) ?? []) }).toEqual({ text, ids: withSpecial });
      expect(tokenizer?.decode(ids, { skipSpecialTokens: false })).toBe(text);
    }
  });

  it('sentencepiece', async () => {
    const { texts } = readJson<{ texts: { text: string; ids: number[] }[] }>(
      'tokenizers',
      'sentencepiece',
      'expect.json',
    );
    const tokenizer = await openTokenizer(join(VECTORS, 'tokenizers', 'sentencepiece'));
    // A Metaspace step puts no space before a text that begins with one, where SentencePiece does.
    const others = texts.filter(({ text }) => !text.startsWith(' '));
    expect(others.length).toBeGreaterThan(texts.length / 2);
    for (const { text, ids } of others) {
      expect({ text, ids: Array.from(tokenizer?.encode(text, { addSpecialTokens: false }) ?? []) }).toEqual({
        text,
        ids,
      });
    }
  });

  it('special tokens in texts, and texts that are empty', async () => {
    const model = await openModel(join(VECTORS, 'models', 'qwen2-tied'));
    for (const { text, ids } of referenceOf('qwen2-tied').tokenizer_checks ?? []) {
      expect(Array.from(model.tokenizer.encode(text, { addSpecialTokens: false }))).toEqual(ids);
    }
    expect(model.tokenizer.decode([])).toBe('');
    await model.close();
  });

  it('give every character back, whatever a config says of cleaning up', async () => {
    const given = join(folder, 'clean');
    mkdirSync(given);
    copyFileSync(join(VECTORS, 'tokenizers', 'llama-bpe', 'tokenizer.json'), join(given, 'tokenizer.json'));
    const text = "he said ' hello ' and do n't stop .";
    for (const config of [{ clean_up_tokenization_spaces: true }, {}]) {
      writeFileSync(join(given, 'tokenizer_config.json'), JSON.stringify(config));
      const tokenizer = await openTokenizer(given);
      expect(tokenizer?.decode(tokenizer.encode(text, { addSpecialTokens: false }))).toBe(text);
    }
  });

  it('give the text of tokens that come one by one, character by character', async () => {
    const bytes = await openTokenizer(join(VECTORS, 'models', 'llama-gqa'));
    const bpe = await openTokenizer(join(VECTORS, 'tokenizers', 'llama-bpe'));
    for (const tokenizer of [bytes, bpe]) {
      if (tokenizer === null) throw new Error('no tokenizer');
      for (const text of ['naïve café 漢字 🦙!', '  two  spaces ', 'a\n\nb']) {
        const stream = new TextStream(tokenizer);
        const pieces = Array.from(tokenizer.encode(text, { addSpecialTokens: false }), (token) => stream.push(token));
        for (const piece of pieces) expect(piece).not.toContain('\ufffd');
        expect(pieces.join('') + stream.end()).toBe(text);
      }
      const half = new TextStream(tokenizer);
      const [first = 0] = tokenizer.encode('漢', { addSpecialTokens: false });
      expect(half.push(first)).toBe('');
      expect(half.end()).toBe('\ufffd');
    }
  });

  it('that do not fit are refused', async () => {
    const broken = join(folder, 'broken');
    const { cpSync, writeFileSync } = await import('node:fs');
    cpSync(join(VECTORS, 'models', 'llama-gqa'), broken, { recursive: true });
    writeFileSync(join(broken, 'tokenizer.json'), '{');
    await expect(openModel(broken)).rejects.toMatchObject({ code: 'TOKENIZER_INVALID' });
    writeFileSync(join(broken, 'tokenizer.json'), '{"model": {"type": "Unheard"}}');
    await expect(openModel(broken)).rejects.toMatchObject({ code: 'TOKENIZER_INVALID' });
  });
});
