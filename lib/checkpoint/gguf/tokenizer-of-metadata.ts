/**
 * The tokenizer of a Hugging Face folder from the metadata of a GGUF file: what tokenizer.ts writes, the other way round.
 *
 * Sources: llama.cpp, `src/llama-vocab.cpp` (what its tokenizers do with the keys, and what they take for absent ones);
 * huggingface/tokenizers (the fields of tokenizer.json); transformers, `convert_slow_tokenizer.py` (the order of merges that
 * follow from scores).
 *
 * @module
 */
import type { Json } from '../checkpoint.js';
import type { GgufMetadata } from './metadata.js';
import { type PreTokenizer, preTokenizerJson, preTokenizerNamed } from './pre-tokenizers.js';
import { TOKEN } from './vocabulary.js';

/** Files of a tokenizer. */
export interface TokenizerFiles {
  /** Name → text; none if the metadata have no tokenizer that can be written. */
  readonly files: ReadonlyMap<string, string>;
  /** What the metadata don't tell, and what follows, in sentences. */
  readonly warnings: readonly string[];
}

/** What keeps a tokenizer from being written. */
class NoTokenizer extends Error {}

const SPACE = '\u2581';

/** What config files call the special tokens, and GGUF their ids; last what SentencePiece models have without a key. */
const SPECIAL: readonly (readonly [name: string, key: string, usual: number | null])[] = [
  ['bos_token', 'bos_token_id', 1],
  ['eos_token', 'eos_token_id', 2],
  ['unk_token', 'unknown_token_id', 0],
  ['sep_token', 'seperator_token_id', null],
  ['pad_token', 'padding_token_id', null],
  ['cls_token', 'cls_token_id', null],
  ['mask_token', 'mask_token_id', null],
];

interface Token {
  readonly id: number;
  readonly text: string;
  readonly type: number;
  readonly score: number;
}

/** The keys `tokenizer.…` of a file, read with care: anybody may have written them. */
class Keys {
  constructor(private readonly metadata: GgufMetadata) {}

  string(key: string): string | undefined {
    const value = this.metadata.get(key)?.value;
    return typeof value === 'string' ? value : undefined;
  }

  bool(key: string): boolean | undefined {
    const value = this.metadata.get(key)?.value;
    return typeof value === 'boolean' ? value : undefined;
  }

  strings(key: string): readonly string[] | undefined {
    const entry = this.metadata.get(key);
    if (entry === undefined) return undefined;
    const isText = entry.type === 'array' && entry.elementType === 'string';
    if (!isText || !entry.value.every((text) => typeof text === 'string')) {
      throw new NoTokenizer(`${key} is no array of text`);
    }
    return entry.value as readonly string[];
  }

  numbers(key: string, count: number): ArrayLike<number> | undefined {
    const entry = this.metadata.get(key);
    if (entry === undefined) return undefined;
    const isNumbers = entry.type === 'array' && /^(u?int(8|16|32)|float(32|64))$/.test(entry.elementType);
    if (!isNumbers || entry.value.length < count) {
      throw new NoTokenizer(`${key} does not have a number for each of the ${count} tokens`);
    }
    return entry.value as ArrayLike<number>;
  }

  /** An id below `count`; null for one that no token has. */
  id(key: string, count: number): number | null | undefined {
    const value = this.metadata.get(key)?.value;
    if (value === undefined) return undefined;
    const id = Number(value);
    return (typeof value === 'number' || typeof value === 'bigint') && Number.isInteger(id) && id >= 0 && id < count
      ? id
      : null;
  }
}

/** The tokens; without those that only fill up the embedding, which Hugging Face's files don't have. */
function tokensOf(keys: Keys): { tokens: Token[]; count: number } {
  const texts = keys.strings('tokenizer.ggml.tokens');
  if (texts === undefined) throw new NoTokenizer('it has no tokens');
  const types = keys.numbers('tokenizer.ggml.token_type', texts.length);
  const scores = keys.numbers('tokenizer.ggml.scores', texts.length);
  const ids = new Map<string, number>();
  const tokens: Token[] = [];
  for (const [id, text] of texts.entries()) {
    const type = types?.[id] ?? TOKEN.normal;
    if (type === TOKEN.unused && text === `[PAD${id}]`) continue;
    const other = ids.get(text);
    if (other !== undefined) throw new NoTokenizer(`tokens ${other} and ${id} are both ${JSON.stringify(text)}`);
    ids.set(text, id);
    tokens.push({ id, text, type, score: scores?.[id] ?? 0 });
  }
  return { tokens, count: texts.length };
}

/** What a model and its settings make of the tokens. */
interface Described {
  /** `normalizer`, `pre_tokenizer`, `decoder` and `model` of tokenizer.json. */
  readonly parts: Json;
  /** Whether texts begin with the beginning-of-text token unless the metadata say otherwise. */
  readonly addsBos: boolean;
}

function byteLevel(keys: Keys, tokens: readonly Token[], warnings: string[]): Described {
  const name = keys.string('tokenizer.ggml.pre');
  const way: PreTokenizer | undefined = preTokenizerNamed(name ?? 'default');
  if (way === undefined) {
    throw new NoTokenizer(`lowbit does not know how its pre-tokenizer ${JSON.stringify(name)} splits texts`);
  }
  if (name === undefined) {
    warnings.push(
      'The metadata do not say how texts are split into words (tokenizer.ggml.pre). The tokenizer splits them as llama.cpp ' +
        'does then, which may not be what the model was trained with.',
    );
  }
  const merges = keys.strings('tokenizer.ggml.merges');
  if (merges === undefined) throw new NoTokenizer('it has no merges');
  const texts = new Set(tokens.map(({ text }) => text));
  for (const merge of merges) {
    const [left = '', right = '', ...others] = merge.split(' ');
    if (others.length > 0 || !texts.has(left) || !texts.has(right) || !texts.has(left + right)) {
      throw new NoTokenizer(`its merge ${JSON.stringify(merge)} is not of two tokens into a third`);
    }
  }
  return {
    parts: {
      normalizer: way.normalizer === null ? null : { type: way.normalizer },
      pre_tokenizer: preTokenizerJson(way),
      decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: way.ignoresMerges,
        vocab: Object.fromEntries(tokens.map(({ text, id }) => [text, id])),
        merges,
      },
    },
    addsBos: way.addsBos,
  };
}

/** Characters of the longest token that merges are looked for; SentencePiece itself makes none longer than a few dozen. */
const MAX_MERGED = 256;

/**
 * Merges that make every token out of any two that it can be cut into: the higher its score, the earlier. Of the merges into
 * one token, those with a shorter left part come first, as transformers has them.
 */
function mergesOf(tokens: readonly Token[]): string[] {
  const parts = new Set(tokens.map(({ text }) => text));
  const isWhole = ({ type, text }: Token) =>
    (type === TOKEN.normal || type === TOKEN.userDefined || type === TOKEN.unused) && !text.includes(' ');
  const merges: string[] = [];
  for (const { text } of tokens.filter(isWhole).sort((a, b) => b.score - a.score || a.id - b.id)) {
    if (text.length > MAX_MERGED) continue;
    let left = '';
    for (const character of text) {
      left += character;
      const right = text.slice(left.length);
      if (parts.has(left) && parts.has(right)) merges.push(`${left} ${right}`);
    }
  }
  return merges;
}

function sentencePiece(keys: Keys, tokens: readonly Token[], warnings: string[]): Described {
  const long = tokens.filter(({ text, type }) => type === TOKEN.normal && text.length > MAX_MERGED).length;
  if (long > 0)
    warnings.push(`${long} tokens are longer than ${MAX_MERGED} characters. The tokenizer never makes them.`);
  const addsPrefix = keys.bool('tokenizer.ggml.add_space_prefix') ?? true;
  const unknown = tokens.find(({ type }) => type === TOKEN.unknown)?.text ?? null;
  const replace = { type: 'Replace', pattern: { String: ' ' }, content: SPACE };
  const decoders: Json[] = [
    { type: 'Replace', pattern: { String: SPACE }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
  ];
  return {
    parts: {
      normalizer: addsPrefix
        ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: SPACE }, replace] }
        : replace,
      pre_tokenizer: null,
      decoder: {
        type: 'Sequence',
        decoders: addsPrefix ? [...decoders, { type: 'Strip', content: ' ', start: 1, stop: 0 }] : decoders,
      },
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: unknown,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: true,
        byte_fallback: tokens.some(({ type }) => type === TOKEN.byte),
        ignore_merges: false,
        vocab: Object.fromEntries(tokens.map(({ text, id }) => [text, id])),
        merges: mergesOf(tokens),
      },
    },
    addsBos: true,
  };
}

/** Tokens that stand for themselves in any text. */
function addedTokens(tokens: readonly Token[]): { id: number; content: string; special: boolean }[] {
  return tokens
    .filter(({ type }) => type === TOKEN.control || type === TOKEN.userDefined || type === TOKEN.unknown)
    .map(({ id, text, type }) => ({
      id,
      content: text,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: type !== TOKEN.userDefined,
    }));
}

/** What puts the first and the last token around a text, and around each of two. */
function postProcessor(first: Token | null, last: Token | null, isSentencePiece: boolean): Json | null {
  const bytes = { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true };
  if (first === null && last === null) return isSentencePiece ? null : bytes;
  const around = (sequence: string, type: number) => [
    ...(first === null ? [] : [{ SpecialToken: { id: first.text, type_id: type } }]),
    { Sequence: { id: sequence, type_id: type } },
    ...(last === null ? [] : [{ SpecialToken: { id: last.text, type_id: type } }]),
  ];
  const named = [first, last].flatMap((token) => (token === null ? [] : [token]));
  const template = {
    type: 'TemplateProcessing',
    single: around('A', 0),
    pair: [...around('A', 0), ...around('B', 1)],
    special_tokens: Object.fromEntries(named.map(({ id, text }) => [text, { id: text, ids: [id], tokens: [text] }])),
  };
  return isSentencePiece ? template : { type: 'Sequence', processors: [bytes, template] };
}

/** One chat template, or the default one and others by their names. */
function chatTemplate(keys: Keys): string | { name: string; template: string }[] | undefined {
  const usual = keys.string('tokenizer.chat_template');
  const others = (keys.strings('tokenizer.chat_templates') ?? []).flatMap((name) => {
    const template = keys.string(`tokenizer.chat_template.${name}`);
    return template === undefined ? [] : [{ name, template }];
  });
  if (others.length === 0) return usual;
  return usual === undefined ? others : [{ name: 'default', template: usual }, ...others];
}

/** A tokenizer.json that the metadata hold whole. */
function storedJson(keys: Keys): Json | null {
  const text = keys.string('tokenizer.huggingface.json');
  if (text === undefined) return null;
  try {
    const json: unknown = JSON.parse(text);
    return typeof json === 'object' && json !== null && 'model' in json ? (json as Json) : null;
  } catch {
    return null;
  }
}

const MODELS: Readonly<Record<string, typeof byteLevel>> = { gpt2: byteLevel, llama: sentencePiece };

function describe(keys: Keys, contextLength: number | null, warnings: string[]): Map<string, string> {
  const model = keys.string('tokenizer.ggml.model');
  if (model === undefined || model === 'none' || model === 'no_vocab') throw new NoTokenizer('it has none');
  const stored = storedJson(keys);
  if (stored === null && !Object.hasOwn(MODELS, model)) {
    throw new NoTokenizer(`its model is ${JSON.stringify(model)}; gpt2 and llama can be`);
  }
  const { tokens, count } = tokensOf(keys);
  const byId = new Map(tokens.map((token) => [token.id, token]));
  const isLlama = model === 'llama';
  const special = new Map<string, Token>();
  for (const [name, key, usual] of SPECIAL) {
    const given = keys.id(`tokenizer.ggml.${key}`, count);
    const token = byId.get(given ?? (given === undefined && isLlama ? usual : null) ?? -1);
    if (given === null) warnings.push(`tokenizer.ggml.${key} is the id of no token. The tokenizer has no ${name}.`);
    // What llama.cpp takes for granted in a SentencePiece model need not be there.
    const isThere = given !== undefined || token?.type === TOKEN.control || token?.type === TOKEN.unknown;
    if (token !== undefined && isThere) special.set(name, token);
  }
  const described = stored === null ? (MODELS[model] as typeof byteLevel)(keys, tokens, warnings) : null;
  const surround = (name: 'bos' | 'eos', usual: boolean): boolean => {
    const adds = keys.bool(`tokenizer.ggml.add_${name}_token`) ?? usual;
    if (adds && !special.has(`${name}_token`)) {
      warnings.push(`The metadata want texts to have a ${name} token, but don't say which. The tokenizer adds none.`);
      return false;
    }
    return adds;
  };
  const [addsBos, addsEos] = [surround('bos', described?.addsBos ?? isLlama), surround('eos', false)];
  const texts = Object.fromEntries([...special].map(([name, { text }]) => [name, text]));
  const added = addedTokens(tokens);
  const template = chatTemplate(keys);
  const first = (addsBos && special.get('bos_token')) || null;
  const last = (addsEos && special.get('eos_token')) || null;
  const json = stored ?? {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    post_processor: postProcessor(first, last, isLlama),
    ...described?.parts,
  };
  const settings: Json = {
    add_bos_token: addsBos,
    add_eos_token: addsEos,
    added_tokens_decoder: Object.fromEntries(added.map(({ id, ...token }) => [String(id), token])),
    ...texts,
    clean_up_tokenization_spaces: false,
    ...(contextLength === null ? {} : { model_max_length: contextLength }),
    ...(template === undefined ? {} : { chat_template: template }),
    // The class that takes tokenizer.json as it is.
    tokenizer_class: 'PreTrainedTokenizerFast',
  };
  const ends = ['eos_token_id', 'eot_token_id', 'eom_token_id'].flatMap((key) => {
    const id = key === 'eos_token_id' ? special.get('eos_token')?.id : keys.id(`tokenizer.ggml.${key}`, count);
    return typeof id === 'number' ? [id] : [];
  });
  const ending = [...new Set(ends)];
  const generation: Json = {
    ...(special.has('bos_token') ? { bos_token_id: special.get('bos_token')?.id } : {}),
    ...(ending.length === 0 ? {} : { eos_token_id: ending.length === 1 ? ending[0] : ending }),
    ...(special.has('pad_token') ? { pad_token_id: special.get('pad_token')?.id } : {}),
  };
  const pretty = (value: Json) => `${JSON.stringify(value, null, 2)}\n`;
  return new Map([
    ['tokenizer.json', `${JSON.stringify(json)}\n`],
    ['tokenizer_config.json', pretty(settings)],
    ['special_tokens_map.json', pretty(texts)],
    ...(Object.keys(generation).length === 0 ? [] : [['generation_config.json', pretty(generation)] as const]),
  ]);
}

/**
 * tokenizer.json, tokenizer_config.json (with the chat template), special_tokens_map.json and generation_config.json, as far
 * as the metadata tell what is in them. Texts get the ids that llama.cpp gives them.
 *
 * @param contextLength - Tokens of the longest text, or null where it is not known.
 * @returns No files, and the reason among the warnings, for tokenizers other than byte-level BPE (`gpt2`) and SentencePiece
 *   BPE (`llama`), for unknown ways to split texts and for vocabularies that contradict themselves.
 */
export function tokenizerOfMetadata(metadata: GgufMetadata, contextLength: number | null): TokenizerFiles {
  const warnings: string[] = [];
  try {
    return { files: describe(new Keys(metadata), contextLength, warnings), warnings };
  } catch (error) {
    if (!(error instanceof NoTokenizer)) throw error;
    const advice = 'Take the tokenizer of the model that the file was made from.';
    return { files: new Map(), warnings: [`No tokenizer could be written: ${error.message}. ${advice}`] };
  }
}
