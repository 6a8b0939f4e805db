import { describe, expect, it } from 'vitest';
import { chooseWindows, windowsOf } from '../../lib/evaluate/windows.js';
import { type Tokenizer, tokensBefore } from '../../lib/model/tokenizer.js';

/** Bytes as tokens, each three more, after `before`. */
function byteTokenizer(...before: number[]): Tokenizer {
  return {
    size: 259,
    encode: (text, { addSpecialTokens = true } = {}) =>
      Int32Array.from([...(addSpecialTokens ? before : []), ...[...Buffer.from(text)].map((byte) => byte + 3)]),
    decode: (tokens) =>
      Buffer.from(
        Array.from(tokens)
          .filter((token) => token >= 3)
          .map((token) => token - 3),
      ).toString(),
  };
}

/** Words as tokens, with the space before them, which decoding strips from the first, as sentencepiece does. */
function wordTokenizer(): Tokenizer {
  const words: string[] = [];
  return {
    size: 1000,
    encode: (text) =>
      Int32Array.from(text.match(/ ?[^ ]+/g) ?? [], (word) => {
        if (!words.includes(word)) words.push(word);
        return words.indexOf(word);
      }),
    decode: (tokens) =>
      Array.from(tokens, (token) => words[token])
        .join('')
        .replace(/^ /, ''),
  };
}

const whole = { windowLength: 4, maxWindows: null, seed: null };

describe('windows of a text', () => {
  it('begin with what the tokenizer puts before a text, follow one another, and drop what fills none', () => {
    const windows = windowsOf('abcdefgh', byteTokenizer(1), whole);
    expect(windows).toMatchObject({ total: 2, inputLength: 3, scored: 3 });
    expect([...windows.inputs(0, 2)]).toEqual([1, 100, 101, 1, 103, 104]);
    expect([...windows.targets(0, 2)]).toEqual([100, 101, 102, 103, 104, 105]);
    expect([...windows.inputs(1, 1)]).toEqual([1, 103, 104]);
    expect([...windows.bytes]).toEqual([3, 3]);
  });

  it('do not score their first token where nothing comes before it', () => {
    const windows = windowsOf('abcdefgh', byteTokenizer(), whole);
    expect(windows).toMatchObject({ total: 2, inputLength: 3, scored: 3 });
    expect([...windows.inputs(0, 2)]).toEqual([100, 101, 102, 104, 105, 106]);
    expect([...windows.targets(0, 2)]).toEqual([101, 102, 103, 105, 106, 107]);
    expect([...windows.bytes]).toEqual([3, 3]);
  });

  it('do not score what comes before the text', () => {
    const windows = windowsOf('abcdefgh', byteTokenizer(1, 2), whole);
    expect(windows).toMatchObject({ total: 4, inputLength: 3, scored: 2 });
    expect([...windows.targets(0, 1)]).toEqual([2, 100, 101]);
    expect([...windows.bytes]).toEqual([2, 2, 2, 2]);
  });

  it('count the bytes of a character for the token that completes it', () => {
    const windows = windowsOf('aé😀bcdé', byteTokenizer(1), whole); // 1 + 2 + 4 + 1 + 1 + 1 + 2 bytes, windows of three
    expect([...windows.bytes]).toEqual([3, 0, 6, 3]);
  });

  it('count bytes of spaces that decoding strips', () => {
    const windows = windowsOf('to be or not to be, that is', wordTokenizer(), { ...whole, windowLength: 2 });
    expect(windows).toMatchObject({ total: 4, scored: 1 });
    expect([...windows.bytes]).toEqual([3, 4, 4, 3]); // " be", " not", " be,", " is"
  });

  it('are evenly spaced, or drawn by a seed, without repetition', () => {
    expect([...chooseWindows(828, 207, null)]).toEqual(Array.from({ length: 207 }, (_, i) => 4 * i));
    expect([...chooseWindows(3, 5, 7)]).toEqual([0, 1, 2]);
    const drawn = [1, 1, 2].map((seed) => [...chooseWindows(1000, 100, seed)]);
    expect(drawn[0]).toEqual(drawn[1]);
    expect(drawn[0]).not.toEqual(drawn[2]);
    for (const indices of drawn) {
      expect(new Set(indices).size).toBe(100);
      expect(indices).toEqual([...indices].sort((a, b) => a - b));
      expect(Math.min(...indices)).toBeGreaterThanOrEqual(0);
      expect(Math.max(...indices)).toBeLessThan(1000);
      const mean = indices.reduce((a, b) => a + b, 0) / 100;
      expect(Math.abs(mean - 500)).toBeLessThan(4 * 29); // four standard errors of a uniform draw
    }
  });

  it('say how much text is needed', () => {
    expect(() => windowsOf('abc', byteTokenizer(1), { ...whole, windowLength: 256 })).toThrow(
      /fills a window, 255 tokens, but it has 3/,
    );
    expect(() => windowsOf('abc', byteTokenizer(1, 2, 1), { ...whole, windowLength: 3 })).toThrow(/at least 4/);
  });

  it('know what a tokenizer puts before a text, whatever it puts after it', () => {
    const both: Tokenizer = {
      ...byteTokenizer(1),
      encode: (text, options) =>
        options?.addSpecialTokens === false
          ? byteTokenizer(1).encode(text, options)
          : Int32Array.from([...byteTokenizer(1).encode(text), 2]),
    };
    expect([...tokensBefore(both)]).toEqual([1]);
    expect([...tokensBefore(byteTokenizer())]).toEqual([]);
  });
});
