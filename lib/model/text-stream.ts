/**
 * The text of tokens that come one by one.
 *
 * @module
 */
import type { Tokenizer } from './tokenizer.js';

/** What stands for bytes that are no whole character (yet). */
const INCOMPLETE = '\ufffd';

/**
 * Decodes tokens as they come. A token can be part of a character, and what it is can depend on the one before it: the last
 * ones are decoded together, with and without the new one.
 */
export class TextStream {
  private readonly tokens: number[] = [];
  /** Tokens from here on are decoded together; those before `read` have been given out. */
  private begin = 0;
  private read = 0;

  constructor(private readonly tokenizer: Tokenizer) {}

  /** The text that a token completes, which may be none. */
  push(token: number): string {
    this.tokens.push(token);
    const known = this.tokenizer.decode(this.tokens.slice(this.begin, this.read));
    const now = this.tokenizer.decode(this.tokens.slice(this.begin));
    if (now.endsWith(INCOMPLETE) || now.length <= known.length) return '';
    this.begin = this.read;
    this.read = this.tokens.length;
    return now.slice(known.length);
  }

  /** What is left at the end: characters that did not become whole. */
  end(): string {
    const known = this.tokenizer.decode(this.tokens.slice(this.begin, this.read));
    return this.tokenizer.decode(this.tokens.slice(this.begin)).slice(known.length);
  }
}
