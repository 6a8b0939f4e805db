/**
 * Vocabularies from tokenizer.json of Hugging Face tokenizers: BPE over bytes (Llama 3, Qwen, Mistral's Tekken, GPT-2), and
 * BPE over characters with a token for each byte, as SentencePiece has it (Llama 2, Mistral).
 *
 * Sources: huggingface/tokenizers (the file's fields); llama.cpp, `src/llama-vocab.cpp` (what its tokenizers do with a
 * vocabulary).
 *
 * @module
 */
import { CheckpointError } from '../../errors.js';
import type { Json } from '../checkpoint.js';
import { type GgufValue, ggufValue } from './metadata.js';
import { preTokenizerNameOf } from './pre-tokenizers.js';
import { type AddedToken, TOKEN, Vocabulary } from './vocabulary.js';

/** A vocabulary with what else belongs to it. */
export interface TokenizerEntries {
  readonly vocabulary: Vocabulary;
  /** `tokenizer.ggml.model`, `tokenizer.ggml.pre`, the vocabulary, merges … */
  readonly entries: [string, GgufValue][];
  /** Whether every text has tokens, so that none is unknown. */
  readonly isByteLevel: boolean;
  /** Token texts at the beginning and the end of every text, if the file says so. */
  readonly template: { readonly first: string | null; readonly last: string | null } | null;
}

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const listOf = (value: unknown): Json[] => (Array.isArray(value) ? value.filter(isObject) : []);

/** The steps of a normalizer, pre-tokenizer or post-processor: those of a `Sequence`, one after the other. */
function stepsOf(value: unknown): Json[] {
  if (!isObject(value)) return [];
  if (value['type'] !== 'Sequence') return [value];
  const inner = value['normalizers'] ?? value['pretokenizers'] ?? value['processors'];
  return listOf(inner).flatMap(stepsOf);
}

/** A tokenizer.json that is being read. */
class Reader {
  readonly model: Json;
  private readonly normalizer: Json[];
  private readonly preTokenizer: Json[];

  constructor(
    private readonly json: Json,
    private readonly path: string,
    /** Tokens that other files of the folder add. */
    private readonly more: readonly AddedToken[],
  ) {
    const model = json['model'];
    if (!isObject(model)) this.invalid('it has no "model"');
    this.model = model;
    this.normalizer = stepsOf(json['normalizer']);
    this.preTokenizer = stepsOf(json['pre_tokenizer']);
  }

  invalid(what: string): never {
    throw new CheckpointError('TOKENIZER_INVALID', `${this.path} is not a valid tokenizer: ${what}.`, {
      path: this.path,
    });
  }

  unsupported(what: string): never {
    const message = `The tokenizer ${this.path} can't be written as GGUF: ${what}.`;
    throw new CheckpointError('GGUF_UNSUPPORTED_TOKENIZER', message, { path: this.path });
  }

  tokens(): [string, unknown][] {
    const vocab = this.model['vocab'];
    return isObject(vocab) ? Object.entries(vocab) : this.invalid('its model has no "vocab"');
  }

  added(): AddedToken[] {
    const own = listOf(this.json['added_tokens']).map(({ id, content, special }) => {
      if (typeof content !== 'string' || typeof id !== 'number') this.invalid('an added token lacks its id or content');
      return { id, content, special: special === true };
    });
    // The file's own say best what they are; another file may know more of them.
    const ids = new Set(own.map(({ id }) => id));
    return [...own, ...this.more.filter(({ id }) => !ids.has(id))];
  }

  /** Pairs that are merged, the first ones first. */
  merges(): [string, string][] {
    const merges = this.model['merges'];
    if (!Array.isArray(merges)) this.invalid('its model has no "merges"');
    return merges.map((merge: unknown) => {
      const parts = typeof merge === 'string' ? merge.split(' ') : merge;
      const [left, right] = Array.isArray(parts) && parts.length === 2 ? (parts as unknown[]) : [];
      if (typeof left !== 'string' || typeof right !== 'string') this.invalid('a merge is not two tokens');
      return [left, right];
    });
  }

  /** Token texts that the post-processor puts around a text; null if there is no such step. */
  template(): TokenizerEntries['template'] {
    const step = stepsOf(this.json['post_processor']).find(({ type }) => type === 'TemplateProcessing');
    if (step === undefined) return null;
    const single = listOf(step['single']);
    const names = single.map((item) => {
      const token = item['SpecialToken'];
      return isObject(token) && typeof token['id'] === 'string' ? token['id'] : null;
    });
    const text = names.indexOf(null);
    if (text < 0 || text > 1 || names.length - text > 2 || names.lastIndexOf(null) !== text) {
      this.unsupported('it puts more than one token before or after a text');
    }
    return { first: text === 1 ? (names[0] as string) : null, last: names[text + 1] ?? null };
  }

  get isByteLevel(): boolean {
    return this.preTokenizer.some(({ type }) => type === 'ByteLevel');
  }

  /** llama.cpp's name for how texts are split before pairs are merged. */
  preTokenizerName(): string {
    // llama.cpp's own converter leaves NFC out as well; most texts are in this form.
    for (const step of this.normalizer) {
      if (step['type'] !== 'NFC') this.unsupported(`llama.cpp has no normalizer ${JSON.stringify(step)}`);
    }
    const steps = [...this.preTokenizer];
    const last = steps.pop() as Json;
    if (last['type'] !== 'ByteLevel') this.unsupported(`its pre-tokenizer does not end with ByteLevel`);
    if (last['add_prefix_space'] === true) this.unsupported('it puts a space before every text');
    const name = preTokenizerNameOf(steps, last['use_regex'] !== false);
    if (name !== undefined) return name;
    return this.unsupported(
      `llama.cpp is not known to split texts as its pre-tokenizer does: ${JSON.stringify(steps)}`,
    );
  }

  /** Whether spaces become U+2581, and whether one is put before a text. */
  spaces(): { replaced: boolean; prefixed: boolean } {
    let [replaced, prefixed] = [false, false];
    for (const step of this.normalizer) {
      const pattern = isObject(step['pattern']) ? step['pattern']['String'] : undefined;
      if (step['type'] === 'Prepend' && (step['prepend'] === SPACE || step['prepend'] === ' ')) prefixed = true;
      else if (step['type'] === 'Replace' && pattern === ' ' && step['content'] === SPACE) replaced = true;
      else this.unsupported(`llama.cpp has no normalizer ${JSON.stringify(step)}`);
    }
    for (const step of this.preTokenizer) {
      if (step['type'] !== 'Metaspace' || (step['replacement'] ?? SPACE) !== SPACE) {
        this.unsupported(`llama.cpp has no pre-tokenizer ${JSON.stringify(step)}`);
      }
      if (step['split'] !== false && this.tokens().some(([text]) => text.indexOf(SPACE, 1) > 0)) {
        this.unsupported('it splits texts at spaces, but has tokens with spaces inside');
      }
      replaced = true;
      prefixed ||=
        step['prepend_scheme'] === undefined ? step['add_prefix_space'] !== false : step['prepend_scheme'] !== 'never';
    }
    return { replaced, prefixed };
  }
}

/** What SentencePiece writes for a space. */
const SPACE = '\u2581';
const BYTE = /^<0x([0-9A-F]{2})>$/;

/**
 * The vocabulary of a tokenizer.json.
 *
 * @param json - The file.
 * @param size - Rows of the model's embedding.
 * @param more - Tokens that other files of the folder add.
 * @throws {@link CheckpointError} `TOKENIZER_INVALID`; `GGUF_UNSUPPORTED_TOKENIZER` for what llama.cpp would tokenize
 *   otherwise.
 */
export function readTokenizerJson(
  json: Json,
  size: number,
  path: string,
  more: readonly AddedToken[] = [],
): TokenizerEntries {
  const reader = new Reader(json, path, more);
  const { model } = reader;
  if (model['type'] !== undefined && model['type'] !== 'BPE') {
    reader.unsupported(`its model is ${JSON.stringify(model['type'])}; BPE can be`);
  }
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix', 'dropout']) {
    if (model[key]) reader.unsupported(`llama.cpp has no ${key}`);
  }
  return reader.isByteLevel ? byteLevel(reader, size, path) : sentencePiece(reader, size, path);
}

function byteLevel(reader: Reader, size: number, path: string): TokenizerEntries {
  const pre = reader.preTokenizerName();
  const vocabulary = new Vocabulary(size, path);
  for (const [text, id] of reader.tokens()) vocabulary.add(id, text, TOKEN.normal, 0);
  vocabulary.addAll(reader.added());
  const merges = reader.merges().map(([left, right]) => {
    if (vocabulary.idOf(left + right) === undefined) reader.invalid(`no token is what ${left} and ${right} merge into`);
    return `${left} ${right}`;
  });
  const [tokens, , types] = vocabulary.entries() as [[string, GgufValue], unknown, [string, GgufValue]];
  return {
    vocabulary,
    entries: [
      ['tokenizer.ggml.model', ggufValue.string('gpt2')],
      ['tokenizer.ggml.pre', ggufValue.string(pre)],
      tokens,
      types,
      ['tokenizer.ggml.merges', ggufValue.strings(merges)],
    ],
    template: reader.template(),
    isByteLevel: true,
  };
}

/**
 * Scores that make llama.cpp merge pairs in the order of the merges: it merges whichever two neighbours make the token of
 * the highest score, so that all merges into one token must follow each other, and any two tokens that make a third one
 * must be a merge.
 */
function scoresOf(reader: Reader, ids: ReadonlyMap<string, unknown>): Map<string, number> {
  const merges = reader.merges();
  const scores = new Map<string, number>();
  const pairs = new Set<string>();
  let previous = '';
  for (const [left, right] of merges) {
    const text = left + right;
    if (!ids.has(text)) reader.invalid(`no token is what ${left} and ${right} merge into`);
    pairs.add(`${left} ${right}`);
    if (text === previous) continue;
    if (scores.has(text)) {
      reader.unsupported(
        `its merges into ${JSON.stringify(text)} do not follow each other, which scores can't express`,
      );
    }
    scores.set(text, -scores.size - 1);
    previous = text;
  }
  const added = new Set(reader.added().map(({ content }) => content));
  for (const text of ids.keys()) {
    if (BYTE.test(text) || added.has(text)) continue;
    const characters = Array.from(text);
    let left = '';
    for (const character of characters.slice(0, -1)) {
      left += character;
      const right = text.slice(left.length);
      if (ids.has(left) && ids.has(right) && !pairs.has(`${left} ${right}`)) {
        reader.unsupported(
          `${JSON.stringify(left)} and ${JSON.stringify(right)} make a token but are no merge, so that llama.cpp would merge them`,
        );
      }
    }
  }
  return scores;
}

function sentencePiece(reader: Reader, size: number, path: string): TokenizerEntries {
  const { model } = reader;
  if (model['byte_fallback'] !== true) reader.unsupported('it has neither a ByteLevel pre-tokenizer nor byte_fallback');
  const { replaced, prefixed } = reader.spaces();
  const tokens = reader.tokens();
  const ids = new Map(tokens);
  const scores = scoresOf(reader, ids);
  const unknown = model['unk_token'];
  const vocabulary = new Vocabulary(size, path);
  // llama.cpp writes spaces as U+2581 before it looks for tokens, whether the model does or not.
  const hasSpace = ids.has(' ') || ids.has(SPACE);
  for (let byte = 0; byte < 256; byte++) {
    const text = `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
    // The byte of a space is in no other character.
    if (!ids.has(text) && !(byte === 32 && hasSpace)) reader.unsupported(`it has no token ${text} for a byte`);
  }
  for (const [text, id] of tokens) {
    let spelled = text;
    if (!replaced) {
      if (text.includes(SPACE)) reader.unsupported(`its token ${JSON.stringify(text)} would stand for a space`);
      spelled = text === '<0x20>' && !hasSpace ? SPACE : text.replaceAll(' ', SPACE);
    }
    const type = text === unknown ? TOKEN.unknown : BYTE.test(spelled) ? TOKEN.byte : TOKEN.normal;
    vocabulary.add(id, spelled, type, scores.get(text) ?? (type === TOKEN.normal ? -scores.size - 1 : 0));
  }
  vocabulary.addAll(reader.added());
  return {
    vocabulary,
    entries: [
      ['tokenizer.ggml.model', ggufValue.string('llama')],
      ['tokenizer.ggml.pre', ggufValue.string('default')],
      ...vocabulary.entries(),
      ['tokenizer.ggml.add_space_prefix', ggufValue.bool(prefixed)],
    ],
    template: reader.template(),
    isByteLevel: false,
  };
}
