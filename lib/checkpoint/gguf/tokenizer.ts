/**
 * The tokenizer of a Hugging Face folder as keys of a GGUF file.
 *
 * Sources: llama.cpp, `gguf-py/gguf/vocab.py` (`SpecialVocab`) and `conversion/base.py` (2026).
 *
 * @module
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError } from '../../errors.js';
import type { Json } from '../checkpoint.js';
import { readError } from '../file.js';
import { type GgufValue, ggufValue } from './metadata.js';
import { readSentencePiece, type SentencePieceModel } from './sentencepiece.js';
import { readTokenizerJson, type TokenizerEntries } from './tokenizer-json.js';
import { type AddedToken, Vocabulary } from './vocabulary.js';

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A file of the folder, or null if it is not there. */
async function readIfThere(path: string): Promise<Buffer | null> {
  try {
    return await readFile(path);
  } catch (cause) {
    const error = readError(path, cause);
    if (error.code === 'FILE_NOT_FOUND') return null;
    throw error;
  }
}

async function jsonIfThere(path: string): Promise<Json | null> {
  const bytes = await readIfThere(path);
  if (bytes === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw new CheckpointError('TOKENIZER_INVALID', `${path} is not valid JSON: ${(cause as Error).message}.`, {
      path,
      cause,
    });
  }
  if (isObject(value)) return value;
  throw new CheckpointError('TOKENIZER_INVALID', `Expected ${path} to hold a JSON object.`, { path });
}

/** Tokens that tokenizer_config.json and added_tokens.json add, and for a SentencePiece model tokenizer.json. */
function addedTokens(config: Json | null, added: Json | null, json: Json | null): AddedToken[] {
  const tokens = new Map<number, AddedToken>();
  const own = json?.['added_tokens'];
  for (const token of Array.isArray(own) ? (own as unknown[]) : []) {
    if (!isObject(token) || typeof token['id'] !== 'number' || typeof token['content'] !== 'string') continue;
    tokens.set(token['id'], { id: token['id'], content: token['content'], special: token['special'] === true });
  }
  for (const [content, id] of Object.entries(added ?? {})) {
    if (typeof id === 'number' && !tokens.has(id)) tokens.set(id, { id, content, special: false });
  }
  const decoder = config?.['added_tokens_decoder'];
  for (const [id, token] of Object.entries(isObject(decoder) ? decoder : {})) {
    if (!isObject(token) || typeof token['content'] !== 'string') continue;
    tokens.set(Number(id), { id: Number(id), content: token['content'], special: token['special'] === true });
  }
  return [...tokens.values()];
}

function fromSentencePiece(
  model: SentencePieceModel,
  added: readonly AddedToken[],
  config: Json | null,
  size: number,
  path: string,
): TokenizerEntries {
  if (!model.isBpe) {
    const message = `The tokenizer ${path} can't be written as GGUF: it is a unigram model; BPE can be.`;
    throw new CheckpointError('GGUF_UNSUPPORTED_TOKENIZER', message, { path });
  }
  const vocabulary = new Vocabulary(size, path);
  for (const [id, { text, score, type }] of model.pieces.entries()) vocabulary.add(id, text, type, score);
  // What is in the model already has its type there.
  vocabulary.addAll(added.filter(({ id }) => id >= model.pieces.length));
  const prefix = config?.['add_prefix_space'];
  return {
    vocabulary,
    entries: [
      ['tokenizer.ggml.model', ggufValue.string('llama')],
      ['tokenizer.ggml.pre', ggufValue.string('default')],
      ...vocabulary.entries(),
      ['tokenizer.ggml.add_space_prefix', ggufValue.bool(typeof prefix === 'boolean' ? prefix : model.addsSpacePrefix)],
    ],
    template: null,
    isByteLevel: false,
  };
}

/** What GGUF calls the special tokens of tokenizer_config.json. */
const SPECIAL = [
  ['bos', 'bos_token_id'],
  ['eos', 'eos_token_id'],
  ['unk', 'unknown_token_id'],
  ['sep', 'seperator_token_id'],
  ['pad', 'padding_token_id'],
] as const;

function specialIds(
  { vocabulary, template }: TokenizerEntries,
  sources: readonly (Json | null)[],
  config: Json,
): Map<string, number> {
  const ids = new Map<string, number>();
  for (const [name] of SPECIAL) {
    for (const source of sources) {
      const given = source?.[`${name}_token`];
      const text = isObject(given) ? given['content'] : given;
      const id = typeof text === 'string' ? vocabulary.idOf(text) : undefined;
      if (id !== undefined && !ids.has(name)) ids.set(name, id);
    }
    // What is put before every text is the beginning, whatever config.json says.
    const first = name === 'bos' && template?.first ? vocabulary.idOf(template.first) : undefined;
    if (!ids.has(name) && first !== undefined) ids.set(name, first);
    const given = config[`${name}_token_id`];
    const id: unknown = Array.isArray(given) ? given[0] : given;
    if (!ids.has(name) && typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < vocabulary.size) {
      ids.set(name, id);
    }
  }
  return ids;
}

/** Whether texts begin and end with special tokens. */
function surroundings(
  { template, vocabulary }: TokenizerEntries,
  ids: ReadonlyMap<string, number>,
  config: Json | null,
  usually: boolean,
  path: string,
): [string, GgufValue][] {
  /** Whether the template has this token there; another one can't be expressed. */
  const inTemplate = (text: string | null, name: string) => {
    if (text === null) return false;
    if (vocabulary.idOf(text) === ids.get(name)) return true;
    const message = `The tokenizer of ${path} can't be written as GGUF: it puts ${JSON.stringify(text)} around texts, which is not its ${name} token.`;
    throw new CheckpointError('GGUF_UNSUPPORTED_TOKENIZER', message, { path });
  };
  const given = (key: string, otherwise: boolean) => {
    const value = config?.[key];
    return typeof value === 'boolean' ? value : otherwise;
  };
  const first = template === null ? given('add_bos_token', usually) : inTemplate(template.first, 'bos');
  const last = template === null ? given('add_eos_token', false) : inTemplate(template.last, 'eos');
  return [
    ['tokenizer.ggml.add_bos_token', ggufValue.bool(first)],
    ['tokenizer.ggml.add_eos_token', ggufValue.bool(last)],
  ];
}

/** Chat templates: one, or a default one among several with names. */
function chatTemplates(file: Buffer | null, ...sources: (Json | null)[]): [string, GgufValue][] {
  if (file !== null) return [['tokenizer.chat_template', ggufValue.string(file.toString('utf8'))]];
  const given = sources.map((source) => source?.['chat_template']).find((value) => value !== undefined);
  if (typeof given === 'string') return [['tokenizer.chat_template', ggufValue.string(given)]];
  const entries: [string, GgufValue][] = [];
  const names: string[] = [];
  for (const choice of Array.isArray(given) ? (given as unknown[]) : []) {
    if (!isObject(choice)) continue;
    const { name, template } = choice;
    if (typeof name !== 'string' || typeof template !== 'string' || !/^\w+$/.test(name) || names.includes(name))
      continue;
    names.push(name);
    const key = name === 'default' ? 'tokenizer.chat_template' : `tokenizer.chat_template.${name}`;
    entries.push([key, ggufValue.string(template)]);
  }
  const others = names.filter((name) => name !== 'default');
  if (others.length > 0) entries.push(['tokenizer.chat_templates', ggufValue.strings(others)]);
  return entries;
}

async function vocabularyOf(folder: string, size: number, config: Json | null): Promise<[TokenizerEntries, boolean]> {
  const modelPath = join(folder, 'tokenizer.model');
  const jsonPath = join(folder, 'tokenizer.json');
  const model = await readIfThere(modelPath);
  const json = await jsonIfThere(jsonPath);
  const more = await jsonIfThere(join(folder, 'added_tokens.json'));
  if (model !== null) {
    try {
      const added = addedTokens(config, more, json);
      return [fromSentencePiece(readSentencePiece(model, modelPath), added, config, size, modelPath), true];
    } catch (error) {
      // Llama 3 has a tokenizer.model of another kind beside its tokenizer.json.
      if (json === null || (error as CheckpointError).code !== 'TOKENIZER_INVALID') throw error;
    }
  }
  if (json !== null) return [readTokenizerJson(json, size, jsonPath, addedTokens(config, more, null)), false];
  const message = `${folder} has no tokenizer. Expected tokenizer.json or tokenizer.model.`;
  throw new CheckpointError('GGUF_UNSUPPORTED_TOKENIZER', message, { path: folder });
}

/**
 * The keys `tokenizer.…` of a GGUF file.
 *
 * @param folder - With `tokenizer.model` (SentencePiece, BPE) or `tokenizer.json`, and tokenizer_config.json,
 *   special_tokens_map.json, added_tokens.json, chat_template.jinja and chat_template.json where there are such.
 * @param size - Rows of the model's embedding. Ids that no token has get one that never occurs.
 * @param config - config.json, for ids of special tokens that are named nowhere else.
 * @throws {@link CheckpointError} `TOKENIZER_INVALID`, `GGUF_UNSUPPORTED_TOKENIZER`, `READ_FAILED`.
 */
export async function tokenizerMetadata(folder: string, size: number, config: Json): Promise<Map<string, GgufValue>> {
  const settings = await jsonIfThere(join(folder, 'tokenizer_config.json'));
  const special = await jsonIfThere(join(folder, 'special_tokens_map.json'));
  const [tokenizer, isSentencePiece] = await vocabularyOf(folder, size, settings);
  const ids = specialIds(tokenizer, [settings, special], config);
  const unknown = ids.get('unk');
  if (unknown !== undefined && !tokenizer.isByteLevel) tokenizer.vocabulary.setUnknown(unknown);
  const template = await readIfThere(join(folder, 'chat_template.jinja'));
  return new Map([
    ...tokenizer.entries,
    ...SPECIAL.flatMap(([name, key]): [string, GgufValue][] => {
      const id = ids.get(name);
      return id === undefined ? [] : [[`tokenizer.ggml.${key}`, ggufValue.uint32(id)]];
    }),
    ...surroundings(tokenizer, ids, settings, isSentencePiece, folder),
    ...chatTemplates(template, await jsonIfThere(join(folder, 'chat_template.json')), settings),
  ]);
}
