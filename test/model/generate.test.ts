/** Continuing texts: what ends them, and how tokens are chosen. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type DecoderModel, openModel } from '../../lib/model/model.js';
import { Sampler } from '../../lib/model/sampler.js';
import { temporaryFolder } from '../support/files.js';
import { BUNDLED, copyModel, referenceOf } from '../support/models.js';
import { VECTORS } from '../support/vectors.js';

const folder = temporaryFolder();

async function withBundled<T>(body: (model: DecoderModel) => Promise<T>): Promise<T> {
  const model = await openModel(BUNDLED);
  try {
    return await body(model);
  } finally {
    await model.close();
  }
}

describe('generate', () => {
  it('ends at stop texts, which are no part of the text, even in pieces', async () => {
    await withBundled(async (model) => {
      const whole = await model.generate('ROMEO\t', { maxTokens: 40 });
      expect(whole).toMatchObject({ text: 'I will not be a man to the courtesy.\n\n\t[', finishReason: 'length' });
      const pieces: [number | null, string][] = [];
      const onToken = (token: number | null, text: string) => pieces.push([token, text]);
      const stopped = await model.generate('ROMEO\t', { maxTokens: 40, stop: [' man to', 'xyz'], onToken });
      expect(stopped).toMatchObject({ text: 'I will not be a', finishReason: 'stop' });
      expect(pieces.map(([, text]) => text).join('')).toBe('I will not be a');
      expect(pieces.length).toBe(stopped.tokens.length);
      // " ma" could be the beginning of a stop text until the end comes.
      pieces.length = 0;
      const cut = await model.generate('ROMEO\t', { maxTokens: 18, stop: ' man to', onToken });
      expect(cut).toMatchObject({ text: 'I will not be a ma', finishReason: 'length' });
      expect(pieces.at(-1)).toEqual([null, ' ma']);
      expect(pieces.map(([, text]) => text).join('')).toBe(cut.text);
    });
  });

  it('ends at the tokens that config.json and generation_config.json name', async () => {
    const { sequences } = referenceOf('llama-gqa');
    const [first] = sequences;
    const { input_ids: ids = [], greedy } = first ?? {};
    const ended = greedy?.ids ?? [];
    for (const [file, position] of [
      ['config.json', 3],
      ['generation_config.json', 5],
    ] as const) {
      const path = copyModel('llama-gqa', join(folder, file));
      const home = join(path, file);
      const json = existsSync(home) ? (JSON.parse(readFileSync(home, 'utf8')) as object) : {};
      writeFileSync(home, JSON.stringify({ ...json, eos_token_id: [2, ended[position]] }));
      const model = await openModel(path);
      const { tokens, finishReason } = await model.generate(Int32Array.from(ids), { maxTokens: 16 });
      expect([Array.from(tokens), finishReason]).toEqual([
        ended.slice(0, ended.indexOf(ended[position] ?? -1)),
        'stop',
      ]);
      await model.close();
    }
  });

  it('ends at stop tokens', async () => {
    await withBundled(async (model) => {
      const dot = '.'.charCodeAt(0) + 3;
      const { text, tokens, finishReason } = await model.generate('ROMEO\t', { maxTokens: 80, stop: dot });
      expect([text, finishReason]).toEqual(['I will not be a man to the courtesy', 'stop']);
      expect(tokens.length).toBe(text.length);
    });
  });

  it('ends where the positions of the model end', async () => {
    await withBundled(async (model) => {
      const prompt = Int32Array.from({ length: 250 }, (_, i) => (i === 0 ? 1 : 100));
      const { tokens, finishReason } = await model.generate(prompt, { maxTokens: 50 });
      expect([tokens.length, finishReason]).toEqual([6, 'length']);
      const longer = Int32Array.from({ length: 257 }, () => 100);
      await expect(model.generate(longer)).rejects.toThrow(/at most 256 tokens in a sequence.*there are 257/);
      await expect(model.logits(longer)).rejects.toThrow(/at most 256 tokens/);
    });
  });

  it('ends with the reason of its signal', async () => {
    await withBundled(async (model) => {
      const control = new AbortController();
      let count = 0;
      const onToken = () => {
        if (++count === 5) control.abort(new Error('enough'));
      };
      await expect(model.generate('ROMEO\t', { maxTokens: 100, signal: control.signal, onToken })).rejects.toThrow(
        'enough',
      );
      expect(count).toBe(5);
      await expect(model.generate('a', { signal: AbortSignal.abort(new Error('never')) })).rejects.toThrow('never');
    });
  });

  it('samples the same with the same seed, and something else with another one', async () => {
    await withBundled(async (model) => {
      const text = async (seed: number) =>
        (await model.generate('ROMEO\t', { maxTokens: 40, temperature: 1, topP: 0.95, topK: 50, seed })).text;
      expect(await text(1)).toBe(await text(1));
      expect(await text(1)).not.toBe(await text(2));
    });
  });

  it('refuses what makes no sense', async () => {
    const model = await openModel(join(VECTORS, 'models', 'llama-gqa'));
    const invalid = { code: 'INVALID_ARGUMENT' };
    await expect(model.generate(new Int32Array(0))).rejects.toMatchObject(invalid);
    await expect(model.generate(3 as never)).rejects.toMatchObject(invalid);
    await expect(model.generate(Int32Array.of(5, 259))).rejects.toThrow(
      /\[0, 259\), the rows of its embedding, but received 259 at index 1/,
    );
    for (const options of [
      { temperature: -1 },
      { topK: 0 },
      { topP: 0 },
      { topP: 1.5 },
      { seed: -1 },
      { maxTokens: 1.5 },
      { stop: [''] },
      { onToken: 3 },
      { maxtokens: 3 },
    ]) {
      await expect(model.generate('a', options as never)).rejects.toMatchObject(invalid);
    }
    expect((await model.generate('a', { maxTokens: 0 })).tokens.length).toBe(0);
    await model.close();
    await expect(model.generate('a')).rejects.toThrow(/has been closed/);
    await expect(model.logits(Int32Array.of(1))).rejects.toThrow(/has been closed/);
    await model.close();
  });
});

describe('choosing a token', () => {
  const logits = Float32Array.of(1, 3, 2, 0, 3);
  const counts = (options: ConstructorParameters<typeof Sampler>[0], among = logits) => {
    const sampler = new Sampler({ seed: 7, ...options });
    const result = new Array<number>(among.length).fill(0);
    for (let i = 0; i < 20000; i++) (result[sampler.choose(among)] as number)++;
    return result.map((count) => (count ?? 0) / 20000);
  };
  /** The frequencies of tokens that have logits, by softmax. */
  const softmax = (values: number[], temperature: number) => {
    const powers = values.map((value) => Math.exp(value / temperature));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => power / sum);
  };
  const near = (got: number[], expected: number[]) => {
    for (const [i, share] of expected.entries()) expect(Math.abs((got[i] ?? -1) - share)).toBeLessThan(0.015);
  };

  it('greedy: the first of the most likely', () => {
    expect(new Sampler({}).choose(logits)).toBe(1);
    expect(new Sampler({ temperature: 2, topK: 1 }).choose(logits)).toBe(1);
  });

  it('by the probabilities that the temperature makes', () => {
    near(counts({ temperature: 1 }), softmax([1, 3, 2, 0, 3], 1));
    near(counts({ temperature: 2 }), softmax([1, 3, 2, 0, 3], 2));
  });

  it('among the most likely only', () => {
    near(
      counts({ temperature: 1, topK: 3 }),
      [0, ...softmax([3, 2], 1), 0, 0].map((_, i) => softmaxOf(i)),
    );
    function softmaxOf(i: number): number {
      const [three, two] = [Math.exp(3), Math.exp(2)];
      const sum = 2 * three + two;
      return i === 1 || i === 4 ? three / sum : i === 2 ? two / sum : 0;
    }
    // 0.39 and 0.39 of all: the second reaches 0.7
    near(counts({ temperature: 1, topP: 0.7 }), [0, 0.5, 0, 0, 0.5]);
    near(counts({ temperature: 1, topP: 0.1 }), [0, 1, 0, 0, 0]);
  });

  it('not among numbers that are none', () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => new Sampler({}).choose(Float32Array.of(0, bad))).toThrow(
        expect.objectContaining({ code: 'NON_FINITE', index: 1 }) as Error,
      );
    }
  });
});
