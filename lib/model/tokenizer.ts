/**
 * Texts to tokens and back, by tokenizer.json.
 *
 * @module
 */
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import type { Checkpoint, Json } from '../checkpoint/checkpoint.js';
import { readError } from '../checkpoint/file.js';
import { tokenizerOfMetadata } from '../checkpoint/gguf/tokenizer-of-metadata.js';
import { CheckpointError, invalidArgument } from '../errors.js';
import { tokenIdsOf } from './config.js';

/** Turns texts into tokens and back. */
export interface Tokenizer {
  /** One more than the highest id that it has; the model may have embeddings for more ids, or for fewer. */
  readonly size: number;
  /**
   * The tokens of a text.
   *
   * @param options - `addSpecialTokens`: whether to add what the model expects around a text, for example a token for its
   *   beginning; default true.
   */
  encode(text: string, options?: { addSpecialTokens?: boolean }): Int32Array;
  /**
   * The text of tokens.
   *
   * @param options - `skipSpecialTokens`: whether tokens that are no text are left out; default true.
   */
  decode(tokens: ArrayLike<number>, options?: { skipSpecialTokens?: boolean }): string;
}

async function jsonOf(path: string): Promise<Json | null> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw readError(path, cause);
  }
  try {
    return JSON.parse(text) as Json;
  } catch (cause) {
    const message = `${path} is not valid JSON: ${(cause as Error).message}.`;
    throw new CheckpointError('TOKENIZER_INVALID', message, { path, cause });
  }
}

/** A tokenizer that knows which ids are tokens: there may be gaps. */
export interface OwnTokenizer extends Tokenizer {
  has(id: number): boolean;
}

/** A tokenizer of tokenizer.json. */
class JsonTokenizer implements OwnTokenizer {
  readonly size: number;
  private readonly inner: HuggingFaceTokenizer;

  constructor(json: Json, config: Json, path: string) {
    try {
      this.inner = new HuggingFaceTokenizer(json, config);
    } catch (cause) {
      const message = `${path} can't be used as a tokenizer: ${(cause as Error).message}.`;
      throw new CheckpointError('TOKENIZER_INVALID', message, { path, cause });
    }
    let highest = -1;
    for (const id of this.inner.get_vocab().values()) highest = Math.max(highest, id);
    this.size = highest + 1;
  }

  encode(text: string, { addSpecialTokens = true }: { addSpecialTokens?: boolean } = {}): Int32Array {
    if (typeof text !== 'string') throw invalidArgument('text', 'a string', text);
    const { ids } = this.inner.encode(text, { add_special_tokens: addSpecialTokens });
    // What no token stands for is left out, as Hugging Face leaves it.
    return Int32Array.from((ids as (number | undefined)[]).filter((id) => id !== undefined));
  }

  has(id: number): boolean {
    return this.inner.id_to_token(id) !== undefined;
  }

  decode(tokens: ArrayLike<number>, { skipSpecialTokens = true }: { skipSpecialTokens?: boolean } = {}): string {
    const known = Array.from(tokens).filter((id) => this.has(id));
    if (known.length === 0) return '';
    // Clean-up would change what earlier tokens were decoded to, and drop bytes of the text.
    const options = { skip_special_tokens: skipSpecialTokens, clean_up_tokenization_spaces: false };
    return this.inner.decode(known, options);
  }
}

/**
 * The tokenizer of a model. It may have tokens that the model has no embedding for, such as those that were added and never
 * trained; they are refused when a text has one.
 */
export class TokenizerOfModel implements OwnTokenizer {
  readonly size: number;

  constructor(
    private readonly inner: OwnTokenizer,
    private readonly vocabSize: number,
    private readonly path: string,
  ) {
    this.size = inner.size;
  }

  /** @throws {@link CheckpointError} `TOKENIZER_MISMATCH`. */
  encode(text: string, options?: { addSpecialTokens?: boolean }): Int32Array {
    const tokens = this.inner.encode(text, options);
    checkEmbedded(tokens, this, this.vocabSize, this.path);
    return tokens;
  }

  decode(tokens: ArrayLike<number>, options?: { skipSpecialTokens?: boolean }): string {
    return this.inner.decode(tokens, options);
  }

  has(id: number): boolean {
    return this.inner.has(id);
  }
}

/**
 * @internal
 * @param path - Of the model.
 * @throws {@link CheckpointError} `TOKENIZER_MISMATCH` for a token that a model of `vocabSize` tokens has no embedding for.
 */
export function checkEmbedded(
  tokens: Int32Array,
  tokenizer: Pick<Tokenizer, 'decode'>,
  vocabSize: number,
  path: string,
): void {
  const id = tokens.find((token) => token < 0 || token >= vocabSize);
  if (id === undefined) return;
  const token = JSON.stringify(tokenizer.decode([id], { skipSpecialTokens: false }));
  const message =
    `The text has the token ${token}, whose id is ${id}, but ${path} has embeddings for ${vocabSize} tokens, 0 to ${vocabSize - 1}. ` +
    'Leave it out of the text, or, if it is no token that was only added, use the tokenizer that the model was trained with.';
  throw new CheckpointError('TOKENIZER_MISMATCH', message, { path });
}

/**
 * Tokens that end a text besides that of the config: models that talk end their turns with others, which
 * generation_config.json names, or the metadata of a GGUF file.
 *
 * @throws {@link CheckpointError} `TOKENIZER_INVALID`.
 */
export async function endTokensOf(checkpoint: Checkpoint): Promise<number[]> {
  const { gguf, folder } = checkpoint;
  if (gguf !== null) {
    return ['eot', 'eom'].flatMap((which) => tokenIdsOf(gguf.get(`tokenizer.ggml.${which}_token_id`)?.value));
  }
  if (folder === null) return [];
  return tokenIdsOf((await jsonOf(join(folder, 'generation_config.json')))?.['eos_token_id']);
}

/**
 * The tokenizer of a folder, or null if there is none.
 *
 * @throws {@link CheckpointError} `TOKENIZER_INVALID`.
 */
export async function openTokenizer(folder: string): Promise<OwnTokenizer | null> {
  const path = join(folder, 'tokenizer.json');
  const json = await jsonOf(path);
  if (json === null) return null;
  return new JsonTokenizer(json, (await jsonOf(join(folder, 'tokenizer_config.json'))) ?? {}, path);
}

/**
 * The tokenizer of a model: of a GGUF file its own, if it has one that can be written as tokenizer.json, else the one beside
 * the weights; null if there is none.
 */
export async function tokenizerOf(checkpoint: Checkpoint): Promise<OwnTokenizer | null> {
  const { gguf, folder, path } = checkpoint;
  const files = gguf === null ? null : tokenizerOfMetadata(gguf, null).files;
  const text = files?.get('tokenizer.json');
  if (text === undefined) return openTokenizer(folder ?? dirname(path));
  const config = JSON.parse(files?.get('tokenizer_config.json') ?? '{}') as Json;
  return new JsonTokenizer(JSON.parse(text) as Json, config, path);
}

/** @internal What the tokenizer puts before a text, most often one token for its beginning, or nothing. */
export function tokensBefore(tokenizer: Pick<Tokenizer, 'encode'>): Int32Array {
  const probe = 'a';
  const plain = tokenizer.encode(probe, { addSpecialTokens: false });
  const full = tokenizer.encode(probe, { addSpecialTokens: true });
  for (let at = 0; at + plain.length <= full.length; at++) {
    if (plain.every((token, i) => full[at + i] === token)) return full.slice(0, at);
  }
  return new Int32Array(0);
}
