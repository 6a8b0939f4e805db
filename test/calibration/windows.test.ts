import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { cutIntoWindows } from '../../lib/index.js';

/** A token for each byte, after one for the beginning: as the bundled model's tokenizer. */
const bytes = {
  encode: (text: string, options?: { addSpecialTokens?: boolean }) =>
    Int32Array.from([...(options?.addSpecialTokens === false ? [] : [1]), ...Buffer.from(text).map((b) => b + 3)]),
};
const letters = (count: number, first = 97) =>
  Array.from({ length: count }, (_, i) => String.fromCharCode(first + (i % 26))).join('');

describe('cutIntoWindows', () => {
  it('consecutive windows that do not overlap, each with the first token; the rest is left out', () => {
    const { tokens, places, texts, prefix } = cutIntoWindows(bytes, ['abcdefgh'], { windowLength: 4 });
    expect(tokens.map((window) => Array.from(window))).toEqual([
      [1, 100, 101, 102],
      [1, 103, 104, 105],
    ]);
    expect(places.map(({ start }) => start)).toEqual([0, 3]);
    expect(prefix).toEqual([1]);
    expect(texts).toEqual([{ sha256: createHash('sha256').update('abcdefgh').digest('hex'), bytes: 8, tokens: 8 }]);
  });

  it('without special tokens', () => {
    const { tokens } = cutIntoWindows(bytes, ['abcdefgh'], { windowLength: 4, addSpecialTokens: false });
    expect(tokens.map((window) => Array.from(window))).toEqual([
      [100, 101, 102, 103],
      [104, 105, 106, 107],
    ]);
  });

  it('the same windows whatever the order of the texts, and however often one comes', () => {
    const [a, b] = [letters(300), letters(200, 65)];
    const options = { windowLength: 11, count: 9, seed: 5 };
    const once = cutIntoWindows(bytes, [a, b], options);
    expect(cutIntoWindows(bytes, [b, a, b], options)).toEqual(once);
    expect(once.tokens).toHaveLength(9);
  });

  it('another seed takes other windows, each as often as any other', () => {
    const text = letters(100);
    const counts = new Map<number, number>();
    for (let seed = 0; seed < 400; seed++) {
      const { places } = cutIntoWindows(bytes, [text], { windowLength: 11, count: 3, seed });
      expect(new Set(places.map(({ start }) => start)).size).toBe(3);
      for (const { start } of places) counts.set(start, (counts.get(start) ?? 0) + 1);
    }
    expect(counts.size).toBe(10);
    // 400 draws with a chance of 0.3 each: 120, with a deviation of 9.
    for (const count of counts.values()) expect(Math.abs(count - 120)).toBeLessThan(5 * 9.2);
  });

  it('parts of several machines are the whole', () => {
    const text = letters(400);
    const options = { windowLength: 11, count: 23 };
    const whole = cutIntoWindows(bytes, [text], options);
    const parts = [0, 1, 2].map((index) => cutIntoWindows(bytes, [text], { ...options, shard: { index, count: 3 } }));
    const starts = parts.flatMap(({ places }) => places.map(({ start }) => start)).sort((x, y) => x - y);
    expect(starts).toEqual(whole.places.map(({ start }) => start));
    for (const part of parts) expect(part.selection).toEqual(whole.selection);
  });

  it('says how much text is needed, and how much came', () => {
    expect(() => cutIntoWindows(bytes, [letters(30)], { windowLength: 11, count: 4 })).toThrow(
      expect.objectContaining({
        code: 'CALIBRATION_TEXT_TOO_SHORT',
        message: expect.stringMatching(/4 windows of 10 tokens, 40 in all, but it has 30 tokens, enough for 3/),
      }),
    );
    expect(() => cutIntoWindows(bytes, ['abc'])).toThrow(/1 windows of 511 tokens/);
  });

  it.each([
    [{ windowLength: 1 }, 'windowLength'],
    [{ count: 0 }, 'count'],
    [{ seed: -1 }, 'seed'],
    [{ shard: { index: 2, count: 2 } }, 'shard.index'],
    [{ windowlength: 3 }, 'windowlength'],
  ])('refuses %j', (options, argument) => {
    expect(() => cutIntoWindows(bytes, [letters(100)], options as object)).toThrow(
      expect.objectContaining({ argument }),
    );
  });

  it('refuses a window that the first tokens fill', () => {
    const many = {
      encode: (text: string, options?: { addSpecialTokens?: boolean }) => {
        const ids = Array.from(Buffer.from(text), (byte) => byte + 10);
        return Int32Array.from(options?.addSpecialTokens ? [1, 2, 3, 4, 5, ...ids, 9] : ids);
      },
    };
    // What stands behind a text is none of them.
    expect(cutIntoWindows(many, ['abcd'], { windowLength: 6 }).prefix).toEqual([1, 2, 3, 4, 5]);
    expect(() => cutIntoWindows(many, ['x'], { windowLength: 5 })).toThrow(/more than the 5 tokens/);
  });
});
