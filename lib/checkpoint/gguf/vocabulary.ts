/**
 * The vocabulary of a GGUF file: texts, scores and types of tokens, as llama.cpp's tokenizers take them.
 *
 * @module
 */
import { CheckpointError } from '../../errors.js';
import { type GgufValue, ggufValue } from './metadata.js';

/** `llama_token_type`. */
export const TOKEN = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** What a token that the tokenizer does not have is scored: it must never win. */
const PADDING_SCORE = -10_000;
const ADDED_SCORE = -1000;

/** An added token: it stands for itself, whatever the algorithm would make of its text. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** Tokens of a model, by id. Ids that no token has are filled up, as the embedding has rows for them. */
export class Vocabulary {
  private readonly texts: (string | undefined)[];
  private readonly scores: Float32Array;
  private readonly types: Int32Array;
  private readonly ids = new Map<string, number>();

  /**
   * @param size - Rows of the embedding.
   * @param path - The file that tokens come from, for messages.
   */
  constructor(
    readonly size: number,
    private readonly path: string,
  ) {
    this.texts = new Array<string | undefined>(size).fill(undefined);
    this.scores = new Float32Array(size).fill(PADDING_SCORE);
    this.types = new Int32Array(size).fill(TOKEN.unused);
  }

  private refuse(message: string): never {
    throw new CheckpointError('TOKENIZER_INVALID', `${this.path}: ${message}`, { path: this.path });
  }

  /** @throws {@link CheckpointError} `TOKENIZER_INVALID` for an id that is taken or that the model has no embedding for. */
  add(id: unknown, text: string, type: number, score: number): void {
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0) {
      this.refuse(`expected a number as the id of token ${JSON.stringify(text)} but it is ${JSON.stringify(id)}.`);
    }
    if (id >= this.size) {
      this.refuse(
        `token ${JSON.stringify(text)} has the id ${id}, but the model has embeddings for ${this.size} tokens.`,
      );
    }
    if (this.texts[id] !== undefined) {
      this.refuse(`the tokens ${JSON.stringify(this.texts[id])} and ${JSON.stringify(text)} have the same id ${id}.`);
    }
    this.set(id, text, type, score);
  }

  private set(id: number, text: string, type: number, score: number): void {
    this.texts[id] = text;
    this.scores[id] = score;
    this.types[id] = type;
    this.ids.set(text, id);
  }

  /** Adds tokens, or changes the type of those that are there. */
  addAll(tokens: readonly AddedToken[]): void {
    for (const { id, content, special } of tokens) {
      const type = special ? TOKEN.control : TOKEN.userDefined;
      const there = Number.isInteger(id) ? this.texts[id] : undefined;
      if (there === undefined) {
        this.add(id, content, type, ADDED_SCORE);
      } else if (there !== content) {
        this.refuse(`token ${id} is ${JSON.stringify(there)}, but as an added token ${JSON.stringify(content)}.`);
      } else if (this.types[id] !== TOKEN.unknown) {
        this.types[id] = type;
      }
    }
  }

  /** Marks the token for what no other token stands for. */
  setUnknown(id: number): void {
    this.types[id] = TOKEN.unknown;
  }

  idOf(text: string): number | undefined {
    return this.ids.get(text);
  }

  /** The keys of the vocabulary; what changes later changes them too. */
  entries(): [string, GgufValue][] {
    const texts = this.texts.map((text, id) => text ?? `[PAD${id}]`);
    return [
      ['tokenizer.ggml.tokens', ggufValue.strings(texts)],
      ['tokenizer.ggml.scores', ggufValue.float32s(this.scores)],
      ['tokenizer.ggml.token_type', ggufValue.int32s(this.types)],
    ];
  }
}
