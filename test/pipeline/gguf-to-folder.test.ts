/** GGUF models as Hugging Face folders: config, tokenizer and weights. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { GgufFile } from '../../lib/checkpoint/gguf/gguf-file.js';
import { type GgufTensorSpec, ggufTensorBytes, writeGguf } from '../../lib/checkpoint/gguf/gguf-writer.js';
import { type GgufMetadata, ggufValue } from '../../lib/checkpoint/gguf/metadata.js';
import { describeModel } from '../../lib/checkpoint/gguf/metadata-of-model.js';
import { convertCheckpoint, quantizeCheckpoint, verifyCheckpoint } from '../../lib/index.js';
import { temporaryFolder } from '../support/files.js';
import { VECTORS } from '../support/vectors.js';

const root = temporaryFolder();
let count = 0;
const fresh = (ending = '') => join(root, `${count++}${ending}`);
const jsonIn = (folder: string, name: string) =>
  JSON.parse(readFileSync(join(folder, name), 'utf8')) as Record<string, unknown>;

const models = [
  'llama-gqa',
  'llama-tied-headdim',
  'llama-bias',
  'llama-rope-linear',
  'llama-rope-llama3',
  'llama-rope-yarn',
  'qwen2-tied',
  'qwen3-qknorm',
];

describe('there and back', () => {
  it.each(models)('the model stays what it is: %s', async (name) => {
    const [source, gguf, back] = [join(VECTORS, 'models', name), fresh('.gguf'), fresh()];
    await quantizeCheckpoint(source, { format: 'gguf', dtype: 'f32', output: gguf });
    const report = await convertCheckpoint(gguf, { to: 'float', output: back });
    expect(report.warnings).toEqual([]);
    const config = jsonIn(back, 'config.json');
    // What decides what the model computes, as it is read for GGUF, is the same again.
    const [first, second] = [describeModel(jsonIn(source, 'config.json'), 'm'), describeModel(config, 'm')];
    expect(second).toEqual(first);
    expect((await verifyCheckpoint(source, back)).worst).toBeNull();
    const checkpoint = await openCheckpoint(back);
    expect([...checkpoint.tensors.keys()].filter((tensor) => !/^(model\.|lm_head)/.test(tensor))).toEqual([]);
    await checkpoint.close();
    for (const file of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json']) {
      expect(existsSync(join(back, file)), file).toBe(true);
    }
    // And the same GGUF file once more, but for the name and for how texts are normalized.
    const again = fresh('.gguf');
    await quantizeCheckpoint(back, { format: 'gguf', dtype: 'f32', output: again });
    const [a, b] = [await GgufFile.open(gguf), await GgufFile.open(again)];
    const without = (metadata: GgufMetadata) =>
      Object.fromEntries([...metadata].filter(([key]) => key !== 'general.name' && key !== 'tokenizer.ggml.scores'));
    expect(without(b.metadata)).toEqual(without(a.metadata));
    expect([...b.tensors.keys()].sort()).toEqual([...a.tensors.keys()].sort());
    await a.close();
    await b.close();
  });

  it('quantized again in another format, with the tokenizer', async () => {
    const [gguf, folder, repacked] = [fresh('.gguf'), fresh(), fresh()];
    const bundled = join(__dirname, '..', '..', 'examples', 'shakespeare-llama');
    await quantizeCheckpoint(bundled, { format: 'gguf', dtype: 'q4_0', output: gguf });
    await quantizeCheckpoint(gguf, { dtype: 'int4', groupSize: 32, requantize: true, output: folder });
    expect(existsSync(join(folder, 'tokenizer.json'))).toBe(true);
    await convertCheckpoint(gguf, { to: 'compressed-tensors', requantize: true, output: repacked });
    expect(jsonIn(repacked, 'generation_config.json')).toEqual({ bos_token_id: 1, eos_token_id: 2 });
    expect(jsonIn(repacked, 'lowbit.json')['version']).toBe(jsonIn(folder, 'lowbit.json')['version']);
  });
});

/** A copy of a GGUF file with other metadata, and tensors more. */
async function changed(
  source: string,
  change: (metadata: Map<string, ReturnType<typeof ggufValue.uint32>>) => void,
  more: GgufTensorSpec[] = [],
): Promise<string> {
  const file = await GgufFile.open(source);
  const metadata = new Map(file.metadata) as Parameters<typeof change>[0];
  change(metadata);
  const path = fresh('.gguf');
  const tensors = [...file.tensors.values()];
  const writer = await writeGguf(path, [...tensors, ...more], metadata);
  for (const tensor of tensors) {
    const bytes = new Uint8Array(tensor.bytes);
    await tensor.read(0, bytes);
    await writer.write(tensor.name, 0, bytes);
  }
  for (const spec of more) await writer.write(spec.name, 0, new Uint8Array(ggufTensorBytes(spec)));
  await writer.close();
  await file.close();
  return path;
}

describe('what a Hugging Face folder can not hold', async () => {
  const source = fresh('.gguf');
  await quantizeCheckpoint(join(VECTORS, 'models', 'llama-gqa'), { format: 'gguf', dtype: 'f32', output: source });
  const convert = (input: string) => convertCheckpoint(input, { to: 'float', output: fresh() });

  it('a tokenizer of another kind: a folder without one, and why', async () => {
    const input = await changed(source, (metadata) => metadata.set('tokenizer.ggml.model', ggufValue.string('rwkv')));
    const report = await convert(input);
    expect(report.warnings).toEqual([expect.stringContaining('"rwkv"')]);
    expect(existsSync(join(report.output, 'tokenizer.json'))).toBe(false);
    expect(existsSync(join(report.output, 'config.json'))).toBe(true);
  });

  const one = (name: string, ...shape: number[]): GgufTensorSpec => ({ name, dtype: 'f32', shape });
  type Change = Parameters<typeof changed>[1];
  const refused: [string, Change, GgufTensorSpec[], object, string][] = [
    [
      'another architecture',
      (metadata) => metadata.set('general.architecture', ggufValue.string('mamba')),
      [],
      { code: 'GGUF_UNSUPPORTED_MODEL' },
      'mamba',
    ],
    [
      'experts',
      (metadata) => metadata.set('llama.expert_count', ggufValue.uint32(8)),
      [],
      { code: 'GGUF_UNSUPPORTED_MODEL' },
      'mixture of 8 experts',
    ],
    [
      'a tensor that no such model has',
      () => {},
      [one('blk.0.ffn_gate_inp.weight', 4, 4)],
      { code: 'GGUF_UNSUPPORTED_MODEL', tensor: 'blk.0.ffn_gate_inp.weight' },
      'ffn_gate_inp',
    ],
    [
      'rotary factors of nothing',
      () => {},
      [one('rope_freqs.weight', 8)],
      { code: 'GGUF_UNSUPPORTED_MODEL' },
      'rotary',
    ],
    [
      'rotary factors that are no vector',
      () => {},
      [one('rope_freqs.weight', 2, 4)],
      { code: 'LAYOUT_INVALID', tensor: 'rope_freqs.weight' },
      'vector',
    ],
    [
      'a part of each head rotated',
      (metadata) => metadata.set('llama.rope.dimension_count', ggufValue.uint32(2)),
      [],
      { code: 'GGUF_UNSUPPORTED_MODEL' },
      'rotates only 2',
    ],
    [
      'a size missing',
      (metadata) => metadata.delete('llama.feed_forward_length'),
      [],
      { code: 'GGUF_METADATA_TYPE' },
      'llama.feed_forward_length',
    ],
  ];
  it.each(refused)('%s', async (_, change, more, expected, named) => {
    const input = await changed(source, change, more);
    await expect(convert(input)).rejects.toMatchObject({
      ...expected,
      message: expect.stringContaining(named) as string,
    });
  });
});
