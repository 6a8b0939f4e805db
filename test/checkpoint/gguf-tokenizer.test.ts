/**
 * Tokenizers of GGUF metadata as files of a Hugging Face folder. What reads them is another implementation, tokenizers.js;
 * what ids texts must get was computed by Hugging Face's tokenizers and by sentencepiece.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer } from '@huggingface/tokenizers';
import { describe, expect, it } from 'vitest';
import { type GgufMetadata, type GgufValue, ggufValue } from '../../lib/checkpoint/gguf/metadata.js';
import { tokenizerMetadata } from '../../lib/checkpoint/gguf/tokenizer.js';
import { type TokenizerFiles, tokenizerOfMetadata } from '../../lib/checkpoint/gguf/tokenizer-of-metadata.js';
import { temporaryFolder, writeFolder } from '../support/files.js';
import { readJson, VECTORS } from '../support/vectors.js';

type Json = Record<string, unknown>;
const root = temporaryFolder();
let count = 0;
const folderWith = (files: Record<string, object | string | Buffer>) => writeFolder(join(root, String(count++)), files);
const examples = join(__dirname, '..', '..', 'examples');
const vector = (name: string, file: string) => readFileSync(join(VECTORS, 'tokenizers', name, file));

const jsonOf = ({ files }: TokenizerFiles, name: string) => JSON.parse(files.get(name) ?? 'null') as Json;
const readerOf = (files: TokenizerFiles) =>
  new Tokenizer(jsonOf(files, 'tokenizer.json'), jsonOf(files, 'tokenizer_config.json'));
const idsOf = (tokenizer: Tokenizer, text: string, special = false) =>
  Array.from(tokenizer.encode(text, { add_special_tokens: special }).ids);

/** Texts with everything that splits words: spaces, lines, digits, letters of many scripts. */
const texts = [
  ...readFileSync(join(examples, 'text', 'sampled-eval.txt'), 'utf8')
    .slice(0, 20_000)
    .split(/(?<=\n\n)/),
  ' leading',
  '   three leading, three trailing   ',
  "don't I'LL we'Ve \"quoted\"",
  'a1b22c333d4444e55555 3.14159 1,000,000',
  'tab\tnew\nline\r\nreturn\n\n\n  indented',
  'Ünïcödé façade ÀÉÎ ǅ ʰ Δδ Жж אב ﬁ 漢字かな한글 🙂👩‍👩‍👧 \u0301combining e\u0301',
  '<|begin|>after a token<tool> and <|end|>.',
  'f(x) = x**2; // comment /* a/b */ #!/bin/sh\n\t\t}',
];

const metadataOf = (folder: string, size: number, config: Json = {}) => tokenizerMetadata(folder, size, config);

describe('texts have the ids of the original tokenizer', () => {
  interface Expected {
    size: number;
    texts: { text: string; ids: number[]; withSpecial?: number[] }[];
  }

  it.each(['llama-bpe', 'tekken', 'gpt-2', 'smollm'])('byte-level BPE: %s', async (name) => {
    const { size, texts: expected } = readJson<Expected>('tokenizers', name, 'expect.json');
    const original = JSON.parse(vector(name, 'tokenizer.json').toString()) as Json;
    // Rows of the embedding that no token has are filled up in GGUF, and are no tokens afterwards.
    const metadata = await metadataOf(folderWith({ 'tokenizer.json': original }), size + 5);
    const files = tokenizerOfMetadata(metadata, 2048);
    expect(files.warnings).toEqual([]);
    const got = readerOf(files);
    for (const { text, ids, withSpecial } of expected) {
      expect({ text, ids: idsOf(got, text) }).toEqual({ text, ids });
      expect({ text, ids: idsOf(got, text, true) }).toEqual({ text, ids: withSpecial });
    }
    const reference = new Tokenizer(original, { clean_up_tokenization_spaces: false });
    for (const text of texts) {
      const ids = idsOf(reference, text, true);
      expect({ text, ids: idsOf(got, text, true) }).toEqual({ text, ids });
      expect(got.decode(ids)).toBe(reference.decode(ids));
    }
    // What decides ids is the same, field by field.
    const json = jsonOf(files, 'tokenizer.json');
    for (const field of ['pre_tokenizer', 'decoder', 'added_tokens']) expect(json[field]).toEqual(original[field]);
    const [model, originalModel] = [json['model'] as Json, original['model'] as Json];
    const merges = (originalModel['merges'] as string[][]).map((merge) => merge.join(' '));
    expect(model['merges']).toEqual(merges);
    expect(model['ignore_merges']).toBe(originalModel['ignore_merges']);
    const added = (original['added_tokens'] as { content: string; id: number }[]).map(({ content, id }) => [
      content,
      id,
    ]);
    const vocabulary = { ...(originalModel['vocab'] as Json), ...Object.fromEntries(added) };
    expect(model['vocab']).toEqual(vocabulary);
    // And once more into GGUF.
    const again = folderWith(Object.fromEntries(files.files));
    expect(await metadataOf(again, size + 5)).toEqual(metadata);
  });

  it('byte-level BPE with the normalizer of its family: qwen2', async () => {
    const folder = join(VECTORS, 'models', 'qwen2-tied');
    const { tokenizer_checks: checks } = readJson<{ tokenizer_checks: { text: string; ids: number[] }[] }>(
      'models',
      'qwen2-tied',
      'reference.json',
    );
    const original = readJson<Json>('models', 'qwen2-tied', 'tokenizer.json');
    const files = tokenizerOfMetadata(await metadataOf(folder, 304), 128);
    const got = readerOf(files);
    for (const { text, ids } of checks) expect({ text, ids: idsOf(got, text, true) }).toEqual({ text, ids });
    const reference = new Tokenizer(original, { clean_up_tokenization_spaces: false });
    for (const text of texts) expect(idsOf(got, text, true)).toEqual(idsOf(reference, text, true));
    for (const field of ['normalizer', 'pre_tokenizer', 'added_tokens', 'decoder']) {
      expect(jsonOf(files, 'tokenizer.json')[field]).toEqual(original[field]);
    }
    expect(jsonOf(files, 'tokenizer_config.json')).toMatchObject({
      add_bos_token: false,
      eos_token: '<|endoftext|>',
      pad_token: '<|endoftext|>',
      model_max_length: 128,
    });
    expect(jsonOf(files, 'special_tokens_map.json')).toEqual({
      eos_token: '<|endoftext|>',
      pad_token: '<|endoftext|>',
    });
    expect(jsonOf(files, 'generation_config.json')).toEqual({ eos_token_id: 297, pad_token_id: 297 });
  });

  it.each(['tokenizer.model', 'tokenizer.json'])('SentencePiece, from %s', async (file) => {
    const { pieces, texts: expected } = readJson<Expected & { pieces: unknown[] }>(
      'tokenizers',
      'sentencepiece',
      'expect.json',
    );
    const folder = folderWith({
      [file]: vector('sentencepiece', file),
      'tokenizer_config.json': { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' },
    });
    const metadata = await metadataOf(folder, pieces.length + 2);
    const files = tokenizerOfMetadata(metadata, null);
    expect(files.warnings).toEqual([]);
    const got = readerOf(files);
    for (const { text, ids } of expected) {
      expect({ text, ids: idsOf(got, text) }).toEqual({ text, ids });
      expect(idsOf(got, text, true)).toEqual([1, ...ids]);
      if (ids.length > 0) expect(got.decode(ids)).toBe(text);
    }
    // Merges and vocabulary are those that transformers makes of tokenizer.model.
    const original = JSON.parse(vector('sentencepiece', 'tokenizer.json').toString()) as { model: Json };
    const model = jsonOf(files, 'tokenizer.json')['model'] as Json;
    expect(model['vocab']).toEqual(original.model['vocab']);
    expect(model['merges']).toEqual((original.model['merges'] as string[][]).map((merge) => merge.join(' ')));
    expect(model).toMatchObject({ unk_token: '<unk>', byte_fallback: true, fuse_unk: true });
    // And once more into GGUF: other scores, the same order.
    const again = await metadataOf(folderWith(Object.fromEntries(files.files)), pieces.length + 2);
    for (const [key, value] of metadata)
      if (!key.endsWith('.scores')) expect([key, again.get(key)]).toEqual([key, value]);
  });

  it('the bundled tokenizer of bytes', async () => {
    const folder = join(examples, 'shakespeare-llama');
    const original = JSON.parse(readFileSync(join(folder, 'tokenizer.json'), 'utf8')) as Json;
    const files = tokenizerOfMetadata(await metadataOf(folder, 259, { bos_token_id: 1 }), 256);
    expect(files.warnings).toEqual([]);
    const [got, reference] = [readerOf(files), new Tokenizer(original, {})];
    for (const text of texts) {
      expect(idsOf(got, text, true)).toEqual([1, ...Array.from(Buffer.from(text), (byte) => byte + 3)]);
      expect(idsOf(got, text, true)).toEqual(idsOf(reference, text, true));
    }
  });
});

describe('files beside the vocabulary', () => {
  const small = (more: Record<string, GgufValue> = {}, leave: readonly string[] = []): GgufMetadata => {
    const all = new Map<string, GgufValue>([
      ['tokenizer.ggml.model', ggufValue.string('gpt2')],
      ['tokenizer.ggml.pre', ggufValue.string('gpt-2')],
      ['tokenizer.ggml.tokens', ggufValue.strings(['a', 'b', 'ab', '<s>', '</s>', '<eot>', '<own>'])],
      ['tokenizer.ggml.token_type', ggufValue.int32s(Int32Array.of(1, 1, 1, 3, 3, 3, 4))],
      ['tokenizer.ggml.merges', ggufValue.strings(['a b'])],
      ['tokenizer.ggml.bos_token_id', ggufValue.uint32(3)],
      ['tokenizer.ggml.eos_token_id', ggufValue.uint32(4)],
      ...Object.entries(more),
    ]);
    for (const key of leave) all.delete(key);
    return all;
  };

  it('all that ends a text, tokens around it, several chat templates', () => {
    const files = tokenizerOfMetadata(
      small({
        'tokenizer.ggml.eot_token_id': ggufValue.uint32(5),
        'tokenizer.ggml.add_bos_token': ggufValue.bool(true),
        'tokenizer.ggml.add_eos_token': ggufValue.bool(true),
        'tokenizer.chat_template': ggufValue.string('D'),
        'tokenizer.chat_templates': ggufValue.strings(['tools', 'missing']),
        'tokenizer.chat_template.tools': ggufValue.string('T'),
      }),
      99,
    );
    expect(files.warnings).toEqual([]);
    expect([...files.files.keys()]).toEqual([
      'tokenizer.json',
      'tokenizer_config.json',
      'special_tokens_map.json',
      'generation_config.json',
    ]);
    expect(idsOf(readerOf(files), 'ab<own>', true)).toEqual([3, 2, 6, 4]);
    expect(jsonOf(files, 'generation_config.json')).toEqual({ bos_token_id: 3, eos_token_id: [4, 5] });
    expect(jsonOf(files, 'tokenizer_config.json')).toMatchObject({
      add_bos_token: true,
      add_eos_token: true,
      bos_token: '<s>',
      chat_template: [
        { name: 'default', template: 'D' },
        { name: 'tools', template: 'T' },
      ],
      model_max_length: 99,
      added_tokens_decoder: { 3: { content: '<s>', special: true }, 6: { content: '<own>', special: false } },
    });
    const one = tokenizerOfMetadata(small({ 'tokenizer.chat_template': ggufValue.string('D') }), null);
    expect(jsonOf(one, 'tokenizer_config.json')['chat_template']).toBe('D');
    expect(jsonOf(one, 'tokenizer_config.json')['add_bos_token']).toBe(false);
  });

  it('aliases of pre-tokenizers, and whether texts begin with a token where nothing says so', () => {
    const adds = (pre: string) => {
      const files = tokenizerOfMetadata(small({ 'tokenizer.ggml.pre': ggufValue.string(pre) }), null);
      expect(files.warnings).toEqual([]);
      return jsonOf(files, 'tokenizer_config.json')['add_bos_token'];
    };
    expect(['llama-bpe', 'llama3', 'llama-v3', 'tekken'].map(adds)).toEqual([true, true, true, true]);
    expect(['qwen2', 'deepseek-r1-qwen', 'gpt-4o', 'smollm', 'smaug-bpe'].map(adds)).toEqual(Array(5).fill(false));
  });

  it('a file that does not say how texts are split: as llama.cpp does it, with a warning', () => {
    const files = tokenizerOfMetadata(small({}, ['tokenizer.ggml.pre']), null);
    expect(files.warnings).toEqual([expect.stringContaining('tokenizer.ggml.pre')]);
    const splits = jsonOf(files, 'tokenizer.json')['pre_tokenizer'] as { pretokenizers: { type: string }[] };
    expect(splits.pretokenizers.map(({ type }) => type)).toEqual(['Split', 'Split', 'Split', 'Split', 'ByteLevel']);
    expect(idsOf(readerOf(files), 'ab')).toEqual([2]);
  });

  it('a tokenizer.json in the metadata is taken as it is', () => {
    const stored = { model: { type: 'Unigram', vocab: [] } };
    const files = tokenizerOfMetadata(
      small({
        'tokenizer.ggml.model': ggufValue.string('t5'),
        'tokenizer.huggingface.json': ggufValue.string(JSON.stringify(stored)),
      }),
      null,
    );
    expect(jsonOf(files, 'tokenizer.json')).toEqual(stored);
    expect(files.warnings).toEqual([]);
  });

  it('ids that no token has are said, not written', () => {
    const files = tokenizerOfMetadata(
      small({
        'tokenizer.ggml.padding_token_id': ggufValue.uint32(7),
        'tokenizer.ggml.bos_token_id': ggufValue.uint32(2 ** 32 - 1),
        'tokenizer.ggml.add_bos_token': ggufValue.bool(true),
      }),
      null,
    );
    expect(files.warnings).toEqual([
      expect.stringContaining('bos_token_id'),
      expect.stringContaining('padding_token_id'),
      expect.stringContaining('bos token'),
    ]);
    expect(jsonOf(files, 'special_tokens_map.json')).toEqual({ eos_token: '</s>' });
  });

  const { string, strings, int32s } = ggufValue;
  const none: [string, Record<string, GgufValue>, string[], string][] = [
    ['another model', { 'tokenizer.ggml.model': string('bert') }, [], '"bert"'],
    ['a model named like a property of objects', { 'tokenizer.ggml.model': string('constructor') }, [], 'constructor'],
    ['no model', {}, ['tokenizer.ggml.model'], 'it has none'],
    ['no vocabulary', { 'tokenizer.ggml.model': string('no_vocab') }, [], 'it has none'],
    ['an unknown pre-tokenizer', { 'tokenizer.ggml.pre': string('kimi-k2') }, [], '"kimi-k2"'],
    ['no tokens', {}, ['tokenizer.ggml.tokens'], 'no tokens'],
    ['tokens that are numbers', { 'tokenizer.ggml.tokens': int32s(Int32Array.of(1)) }, [], 'tokenizer.ggml.tokens'],
    [
      'tokens that are no text',
      { 'tokenizer.ggml.tokens': strings([Uint8Array.of(255), 'b']) },
      [],
      'tokenizer.ggml.tokens',
    ],
    ['too few types', { 'tokenizer.ggml.token_type': int32s(Int32Array.of(1)) }, [], 'tokenizer.ggml.token_type'],
    ['types that are text', { 'tokenizer.ggml.token_type': strings(['1']) }, [], 'tokenizer.ggml.token_type'],
    [
      'a token twice',
      { 'tokenizer.ggml.tokens': strings(['a', 'b', 'ab', '<s>', '</s>', 'a', 'c']) },
      [],
      'tokens 0 and 5 are both "a"',
    ],
    ['no merges', {}, ['tokenizer.ggml.merges'], 'no merges'],
    ['a merge into no token', { 'tokenizer.ggml.merges': strings(['b a']) }, [], '"b a"'],
    ['a merge of three', { 'tokenizer.ggml.merges': strings(['a b ab']) }, [], '"a b ab"'],
  ];
  it.each(none)('no files but the reason: %s', (_, more, leave, reason) => {
    const { files, warnings } = tokenizerOfMetadata(small(more, leave), null);
    expect(files.size).toBe(0);
    expect(warnings.length).toBe(1);
    expect(warnings[0]).toContain('No tokenizer could be written');
    expect(warnings[0]).toContain(reason);
  });

  it('tokens of a length that no tokenizer makes do not take forever', () => {
    const long = 'x'.repeat(100_000);
    const { files, warnings } = tokenizerOfMetadata(
      new Map([
        ['tokenizer.ggml.model', ggufValue.string('llama')],
        ['tokenizer.ggml.tokens', ggufValue.strings(['<unk>', 'x', 'xx', long, '__proto__'])],
      ]),
      null,
    );
    expect(warnings).toEqual([expect.stringContaining('longer than'), expect.stringContaining('bos token')]);
    const model = JSON.parse(files.get('tokenizer.json') ?? '') as { model: { vocab: Json; merges: string[] } };
    expect(model.model.merges).toEqual(['x x']);
    expect(Object.entries(model.model.vocab).find(([text]) => text === '__proto__')).toEqual(['__proto__', 4]);
  });
});
