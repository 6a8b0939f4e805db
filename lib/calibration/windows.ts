/**
 * Texts cut into windows of tokens, as calibration and evaluation read them.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { CalibrationError, InvalidArgumentError, invalidArgument } from '../errors.js';
import { tokensBefore } from '../model/tokenizer.js';
import { drawn } from '../random.js';
import * as validate from '../validate.js';

/** What windows need of a tokenizer. */
export interface WindowTokenizer {
  /** The tokens of a text; `addSpecialTokens`: with those that the model expects around it. */
  encode(text: string, options?: { addSpecialTokens?: boolean }): Int32Array;
}

/** Options of {@link cutIntoWindows}. */
export interface WindowOptions {
  /** Tokens of a window, those that the tokenizer puts in front (`<s>`) included. Default 512. */
  windowLength?: number;
  /** How many windows are taken. Default: 128, or all if there are fewer. */
  count?: number;
  /** Decides which windows are taken where there are more than `count`. Default 0. */
  seed?: number;
  /** Whether each window begins with what the tokenizer puts in front of a text. Default true. */
  addSpecialTokens?: boolean;
  /** Of the windows taken, only every `count`-th, from `index` (0-based) on: the part of one of several machines. */
  shard?: { readonly index: number; readonly count: number };
}

/** A text that windows were cut from. */
export interface WindowText {
  /** SHA-256 of its UTF-8 bytes, in hexadecimal. */
  readonly sha256: string;
  /** Of UTF-8. */
  readonly bytes: number;
  /** Without those that the tokenizer adds. */
  readonly tokens: number;
}

/** Where a window comes from. */
export interface WindowPlace {
  /** SHA-256 of the text. */
  readonly text: string;
  /** Its first token in the text. */
  readonly start: number;
}

/** Which windows of the texts were taken. */
export interface WindowSelection {
  /** See {@link WindowOptions}. */
  readonly seed: number;
  /** How many were taken, of all shards together. */
  readonly count: number;
}

/** Windows of tokens, and where they come from. */
export interface CalibrationWindows {
  /** Tokens of each. */
  readonly windowLength: number;
  /** What each window begins with. */
  readonly prefix: readonly number[];
  /** In the order of their hashes. */
  readonly texts: readonly WindowText[];
  /** How they were chosen. */
  readonly selection: WindowSelection;
  /** In the order of their texts, then of their places. */
  readonly places: readonly WindowPlace[];
  /** One for each place, `windowLength` tokens. */
  readonly tokens: readonly Int32Array[];
}

const OPTIONS: ReadonlySet<string> = new Set(['windowLength', 'count', 'seed', 'addSpecialTokens', 'shard']);
const DEFAULT_LENGTH = 512;

/** @internal The usual tokens of a window of a model: 512, or as many as it has positions. */
export function usualWindowLength(maxPositions: number): number {
  return Math.min(DEFAULT_LENGTH, maxPositions);
}

const DEFAULT_COUNT = 128;

interface Checked {
  readonly windowLength: number;
  readonly count: number | undefined;
  readonly seed: number;
  readonly special: boolean;
  readonly shard: { index: number; count: number };
}

function checked(options: WindowOptions): Checked {
  const given = validate.options<Record<string, unknown>>('options', options, OPTIONS);
  const shard = validate.options<Record<string, unknown>>(
    'shard',
    given['shard'] ?? { index: 0, count: 1 },
    new Set(['index', 'count']),
  );
  const shards = validate.integer('shard.count', shard['count'], 1);
  return {
    windowLength: validate.integer('windowLength', given['windowLength'] ?? DEFAULT_LENGTH, 2),
    count: given['count'] === undefined ? undefined : validate.integer('count', given['count'], 1),
    seed: validate.integer('seed', given['seed'] ?? 0, 0, 2 ** 32 - 1),
    special: validate.boolean('addSpecialTokens', given['addSpecialTokens'], true),
    shard: { index: validate.integer('shard.index', shard['index'], 0, shards - 1), count: shards },
  };
}

/**
 * Cuts texts into consecutive windows of tokens that do not overlap, and chooses some of them. What remains at the end of a text
 * is left out. Which windows come out depends neither on the order of the texts nor on their names.
 *
 * @param tokenizer - That of the model.
 * @param texts - One string for each file.
 * @param options - Defaults: 128 windows of 512 tokens.
 * @returns The windows, in an order that depends on what the texts hold alone.
 * @throws {@link CalibrationError} `CALIBRATION_TEXT_TOO_SHORT` if the texts have fewer windows than `count`, or none;
 *   {@link InvalidArgumentError}.
 *
 * @example
 * ```ts
 * const windows = cutIntoWindows(model.tokenizer, [await readFile('calib.txt', 'utf8')], { windowLength: 256 });
 * ```
 */
export function cutIntoWindows(
  tokenizer: WindowTokenizer,
  texts: readonly string[],
  options: WindowOptions = {},
): CalibrationWindows {
  const { windowLength, count, seed, special, shard } = checked(options);
  if (typeof tokenizer?.encode !== 'function')
    throw invalidArgument('tokenizer', 'the tokenizer of a model', tokenizer);
  if (!Array.isArray(texts) || texts.length === 0 || texts.some((text) => typeof text !== 'string')) {
    throw new InvalidArgumentError('texts', 'Expected texts to be an array of at least one string.');
  }
  const prefix = special ? Array.from(tokensBefore(tokenizer)) : [];
  const step = windowLength - prefix.length;
  if (step < 1) {
    throw new InvalidArgumentError(
      'windowLength',
      `Expected windowLength to be more than the ${prefix.length} tokens that come first, but received ${windowLength}.`,
    );
  }
  const sources = [...new Set(texts)].map((text) => {
    const bytes = Buffer.from(text);
    const tokens = tokenizer.encode(text, { addSpecialTokens: false });
    return { sha256: createHash('sha256').update(bytes).digest('hex'), bytes: bytes.length, tokens };
  });
  sources.sort((a, b) => (a.sha256 < b.sha256 ? -1 : 1));
  const candidates: { text: (typeof sources)[number]; start: number }[] = [];
  for (const text of sources) {
    for (let start = 0; start + step <= text.tokens.length; start += step) candidates.push({ text, start });
  }
  const wanted = count ?? Math.max(1, Math.min(DEFAULT_COUNT, candidates.length));
  if (candidates.length < wanted) {
    const total = sources.reduce((sum, { tokens }) => sum + tokens.length, 0);
    throw new CalibrationError(
      'CALIBRATION_TEXT_TOO_SHORT',
      `Expected text for ${wanted} windows of ${step} tokens, ${wanted * step} in all, but ` +
        `${texts.length === 1 ? 'it has' : 'the texts have'} ${total} tokens, enough for ${candidates.length}. ` +
        'Give more text, or take fewer or shorter windows.',
    );
  }
  const chosen = Array.from(drawn(candidates.length, wanted, seed))
    .filter((_, i) => i % shard.count === shard.index)
    .map((i) => candidates[i] as (typeof candidates)[number]);
  return {
    windowLength,
    prefix,
    texts: sources.map(({ sha256, bytes, tokens }) => ({ sha256, bytes, tokens: tokens.length })),
    selection: { seed, count: wanted },
    places: chosen.map(({ text, start }) => ({ text: text.sha256, start })),
    tokens: chosen.map(({ text, start }) => Int32Array.of(...prefix, ...text.tokens.subarray(start, start + step))),
  };
}

/**
 * @internal
 * @throws {@link CalibrationError} `VOCABULARY_MISMATCH` for a token that the model has no embedding for.
 */
export function checkVocabulary({ tokens }: CalibrationWindows, vocabSize: number): void {
  for (const window of tokens) {
    const at = window.findIndex((token) => token < 0 || token >= vocabSize);
    if (at === -1) continue;
    const message =
      `The tokenizer gave the token ${window[at]} but the model has embeddings for 0 to ${vocabSize - 1}. ` +
      'Use the tokenizer that the model was trained with.';
    throw new CalibrationError('VOCABULARY_MISMATCH', message);
  }
}

/** @internal Compares places: by text, then by start. */
export function comparePlaces(a: WindowPlace, b: WindowPlace): number {
  if (a.text !== b.text) return a.text < b.text ? -1 : 1;
  return a.start - b.start;
}
