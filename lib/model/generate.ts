/**
 * Continuing a text, token after token, with a cache of keys and values.
 *
 * @module
 */
import { InvalidArgumentError, invalidArgument } from '../errors.js';
import * as validate from '../validate.js';
import { turn } from './operations.js';
import { Sampler, type SamplingOptions } from './sampler.js';
import { TextStream } from './text-stream.js';
import type { Tokenizer } from './tokenizer.js';

/** Options of {@link DecoderModel.generate}. */
export interface GenerateOptions extends SamplingOptions {
  /** How many tokens at most; default 256. The positions of the model are another limit. */
  maxTokens?: number;
  /** Texts and token ids that end the generation, besides the tokens that end a text for the model. */
  stop?: string | number | readonly (string | number)[];
  /** Ends the generation early: it rejects with the signal's reason. */
  signal?: AbortSignal;
  /**
   * Called for each token, with the text that it completes, which may be none. What could be the beginning of a stop text is
   * held back until it is known not to be; what is still held back at the end comes with null instead of a token.
   */
  onToken?: (token: number | null, text: string) => void;
}

/** The result of {@link DecoderModel.generate}. */
export interface Generation {
  /** The text, without the prompt and without what ended it. Empty for a model without tokenizer. */
  readonly text: string;
  /** The tokens, without those of the prompt, and without a token that ended it. */
  readonly tokens: Int32Array;
  /** `'stop'`: by a token or text that ends it. `'length'`: there were as many tokens as there may be. */
  readonly finishReason: 'stop' | 'length';
  /** Tokens of the prompt, special ones included. */
  readonly promptTokens: number;
  /** Seconds that the prompt took, and the tokens after the first. */
  readonly promptSeconds: number;
  readonly tokenSeconds: number;
}

const OPTIONS: ReadonlySet<string> = new Set([
  'maxTokens',
  'temperature',
  'topK',
  'topP',
  'seed',
  'stop',
  'signal',
  'onToken',
]);

/** A sequence that grows: what a model gives {@link generate}. */
export interface Sequence {
  /** Takes tokens in; the logits after the last one, valid until the next call. */
  extend(tokens: Int32Array): Promise<Float32Array>;
}

/** What {@link generate} needs of a model. */
export interface Generator {
  readonly tokenizer: Tokenizer;
  readonly hasTokenizer: boolean;
  /** Ids of the model that are no tokens of its tokenizer. */
  readonly unknownTokens: readonly number[];
  /** Tokens that end a text. */
  readonly endTokens: readonly number[];
  /** Checks the tokens, and gives the sequence with room for so many; `room` is what there is. */
  begin(prompt: Int32Array, wanted: number, signal: AbortSignal | undefined): { sequence: Sequence; room: number };
}

interface Stops {
  readonly tokens: ReadonlySet<number>;
  readonly texts: readonly string[];
}

function stopsOf(value: unknown, endTokens: readonly number[], hasTokenizer: boolean): Stops {
  const given: unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value];
  const tokens = new Set<number>(endTokens);
  const texts: string[] = [];
  for (const stop of given) {
    if (typeof stop === 'number' && Number.isInteger(stop)) tokens.add(stop);
    else if (typeof stop === 'string' && stop !== '') texts.push(stop);
    else throw invalidArgument('stop', 'token ids and texts that are not empty', stop);
  }
  if (texts.length > 0 && !hasTokenizer) {
    throw new InvalidArgumentError('stop', 'Expected token ids for stop, because the model has no tokenizer.');
  }
  return { tokens, texts };
}

/** Where the first of the stop texts begins, or −1. */
function stopIn(text: string, stops: readonly string[]): number {
  const places = stops.map((stop) => text.indexOf(stop)).filter((place) => place >= 0);
  return places.length === 0 ? -1 : Math.min(...places);
}

/** How much of the end of a text could be the beginning of a stop text. */
function heldBack(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) longest = length;
    }
  }
  return longest;
}

/** The text so far: what has been given out, and what is held back. */
class Output {
  text = '';
  private given = 0;
  private readonly stream: TextStream | null;

  constructor(
    tokenizer: Tokenizer | null,
    private readonly stops: readonly string[],
  ) {
    this.stream = tokenizer === null ? null : new TextStream(tokenizer);
  }

  /** Takes a token, or the end; what can be given out, and whether a stop text ends it. */
  take(token: number | null): { text: string; stopped: boolean } {
    if (this.stream === null) return { text: '', stopped: false };
    this.text += token === null ? this.stream.end() : this.stream.push(token);
    const place = stopIn(this.text, this.stops);
    if (place >= 0) this.text = this.text.slice(0, place);
    const until = this.text.length - (place >= 0 || token === null ? 0 : heldBack(this.text, this.stops));
    const text = this.text.slice(this.given, until);
    this.given = Math.max(this.given, until);
    return { text, stopped: place >= 0 };
  }
}

/**
 * Continues a prompt.
 *
 * @throws {@link InvalidArgumentError}; {@link NonFiniteError} for a model whose numbers leave the range of float32.
 */
export async function generate(
  model: Generator,
  promptValue: string | Int32Array,
  options: GenerateOptions = {},
): Promise<Generation> {
  const given = validate.options<GenerateOptions>('options', options, OPTIONS);
  const maxTokens = validate.integer('maxTokens', given.maxTokens ?? 256, 0);
  const signal = validate.abortSignal('signal', given.signal);
  const { onToken } = given;
  if (onToken !== undefined && typeof onToken !== 'function') throw invalidArgument('onToken', 'a function', onToken);
  const stops = stopsOf(given.stop, model.endTokens, model.hasTokenizer);
  // An end may have no text.
  const sampler = new Sampler(
    given,
    model.unknownTokens.filter((token) => !stops.tokens.has(token)),
  );
  if (typeof promptValue !== 'string' && !(promptValue instanceof Int32Array)) {
    throw invalidArgument('prompt', 'a string or an Int32Array of token ids', promptValue);
  }
  const prompt = typeof promptValue === 'string' ? model.tokenizer.encode(promptValue) : promptValue;
  if (prompt.length === 0) throw new InvalidArgumentError('prompt', 'Expected at least one token for prompt.');
  signal?.throwIfAborted();

  const { sequence, room } = model.begin(prompt, maxTokens, signal);
  const limit = Math.min(maxTokens, room);
  const output = new Output(model.hasTokenizer ? model.tokenizer : null, stops.texts);
  const tokens: number[] = [];
  let finishReason: Generation['finishReason'] = 'length';
  let stoppedByText = false;
  const start = performance.now();
  let first = start;
  let logits = await sequence.extend(prompt);
  while (tokens.length < limit) {
    const token = sampler.choose(logits);
    if (tokens.length === 0) first = performance.now();
    if (stops.tokens.has(token)) {
      finishReason = 'stop';
      break;
    }
    tokens.push(token);
    const taken = output.take(token);
    onToken?.(token, taken.text);
    stoppedByText = taken.stopped;
    if (stoppedByText) {
      finishReason = 'stop';
      break;
    }
    await turn();
    signal?.throwIfAborted();
    if (tokens.length < limit) logits = await sequence.extend(Int32Array.of(token));
  }
  const end = performance.now();
  const rest = stoppedByText ? '' : output.take(null).text;
  if (rest !== '') onToken?.(null, rest);
  return {
    text: output.text,
    tokens: Int32Array.from(tokens),
    finishReason,
    promptTokens: prompt.length,
    promptSeconds: (tokens.length === 0 ? end - start : first - start) / 1000,
    tokenSeconds: (tokens.length === 0 ? 0 : end - first) / 1000,
  };
}
