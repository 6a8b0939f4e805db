/**
 * A text as windows of tokens.
 *
 * @module
 */
import { InvalidArgumentError } from '../errors.js';
import { type Tokenizer, tokensBefore } from '../model/tokenizer.js';
import { drawn } from '../random.js';

/** How a text is cut. */
export interface Windowing {
  /** Tokens of a window, those before the text included. */
  readonly windowLength: number;
  /** Windows at most; null: all. */
  readonly maxWindows: number | null;
  /** Chooses the windows at random; null: they lie evenly over the text. */
  readonly seed: number | null;
}

/** The windows of a text that are evaluated. */
export interface TextWindows {
  /** Their numbers in the text, ascending. */
  readonly indices: Int32Array;
  /** Windows that the text has. */
  readonly total: number;
  /** Tokens that a model is given of each window: all but the last, which is only predicted. */
  readonly inputLength: number;
  /** Tokens scored in each window, the last ones. */
  readonly scored: number;
  /** Those before a text, and all of the text. */
  readonly tokens: Int32Array;
  /** UTF-8 bytes of the scored tokens of each window. */
  readonly bytes: Int32Array;
  /** The inputs of `count` windows from the first-th on, one after the other. */
  inputs(first: number, count: number): Int32Array;
  /** The tokens that follow them; those before the first scored one are there as well. */
  targets(first: number, count: number): Int32Array;
}

/** `count` of the numbers below `total`, ascending: evenly spaced, or drawn without repetition. */
export function chooseWindows(total: number, count: number, seed: number | null): Int32Array {
  if (count >= total) return Int32Array.from({ length: total }, (_, i) => i);
  if (seed === null) return Int32Array.from({ length: count }, (_, i) => Math.floor((i * total) / count));
  return drawn(total, count, seed);
}

const REPLACEMENT = '\uFFFD';

/**
 * Bytes of text before each of some tokens, ascending. A token may end within a character, which then counts for the token
 * that completes it.
 */
function bytesBefore(text: string, tokens: Int32Array, tokenizer: Tokenizer, places: readonly number[]): number[] {
  // Up to `token`, the text is decoded whole: up to `offset`, and `bytes`.
  const whole = { token: 0, offset: 0, bytes: 0 };
  return places.map((place) => {
    let decoded = tokenizer.decode(tokens.subarray(whole.token, place), { skipSpecialTokens: false });
    const follows = (part: string) => text.startsWith(part, whole.offset);
    if (!follows(decoded)) {
      const begun = decoded.replace(new RegExp(`${REPLACEMENT}+$`), '');
      if (begun !== decoded && follows(begun)) return whole.bytes + Buffer.byteLength(begun);
      // Some tokenizers strip the space before the first word of what they decode.
      if (follows(` ${decoded}`)) decoded = ` ${decoded}`;
    }
    whole.token = place;
    whole.offset += decoded.length;
    whole.bytes += Buffer.byteLength(decoded);
    return whole.bytes;
  });
}

/**
 * Cuts a text into consecutive windows that do not overlap. Each begins with what the tokenizer puts before a text
 * ("<s>"), then come tokens of the text; what is left at the end and fills no window is dropped. Every token of the text is
 * scored given those before it in its window; where nothing is put before the text, the first of each window is not.
 *
 * @throws {@link InvalidArgumentError} if the text does not fill a window.
 */
export function windowsOf(text: string, tokenizer: Tokenizer, windowing: Windowing): TextWindows {
  const before = tokensBefore(tokenizer);
  const { windowLength } = windowing;
  const content = windowLength - before.length;
  if (content < 1 || windowLength < 2) {
    const needed = Math.max(2, before.length + 1);
    throw new InvalidArgumentError(
      'windowLength',
      `Expected windowLength to be at least ${needed}, so that a token is left to score, but received ${windowLength}.`,
    );
  }
  const tokens = tokenizer.encode(text, { addSpecialTokens: false });
  const total = Math.floor(tokens.length / content);
  if (total === 0) {
    throw new InvalidArgumentError(
      'text',
      `Expected a text that fills a window, ${content} tokens, but it has ${tokens.length}. ` +
        'Take a longer text or a smaller windowLength.',
    );
  }
  const indices = chooseWindows(total, windowing.maxWindows ?? total, windowing.seed);
  const first = before.length === 0 ? 1 : 0;
  const places = Array.from(indices).flatMap((index) => [index * content + first, (index + 1) * content]);
  const ends = bytesBefore(text, tokens, tokenizer, places);
  const window = (i: number) => {
    const begin = (indices[i] as number) * content;
    const result = new Int32Array(windowLength);
    result.set(before);
    result.set(tokens.subarray(begin, begin + content), before.length);
    return result;
  };
  const inputLength = windowLength - 1;
  const all = new Int32Array(before.length + tokens.length);
  all.set(before);
  all.set(tokens, before.length);
  const collect = (from: number, count: number, shift: number) => {
    const result = new Int32Array(count * inputLength);
    for (let i = 0; i < count; i++) result.set(window(from + i).subarray(shift, shift + inputLength), i * inputLength);
    return result;
  };
  return {
    indices,
    total,
    inputLength,
    scored: content - first,
    tokens: all,
    bytes: Int32Array.from(indices, (_, i) => (ends[2 * i + 1] as number) - (ends[2 * i] as number)),
    inputs: (from, count) => collect(from, count, 0),
    targets: (from, count) => collect(from, count, 1),
  };
}
