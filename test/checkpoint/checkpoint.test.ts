import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { safetensors, temporaryFolder, writeFolder } from '../support/files.js';

const root = temporaryFolder();
const one = (name: string) => safetensors({ [name]: { dtype: 'F32', shape: [1], data: new Float32Array(1) } });
let count = 0;
const folder = (files: Record<string, string | Buffer | object>) => writeFolder(join(root, String(count++)), files);
const index = (weight_map: unknown) => ({ metadata: { total_size: 8 }, weight_map });

describe('openCheckpoint', () => {
  it('opens a file, a folder with one, and a folder with shards', async () => {
    const single = folder({ 'model.safetensors': one('a'), 'config.json': { model_type: 'llama' } });
    const sharded = folder({
      'model-00001-of-00002.safetensors': one('a'),
      'model-00002-of-00002.safetensors': one('b'),
      'model.safetensors.index.json': index({
        a: 'model-00001-of-00002.safetensors',
        b: 'model-00002-of-00002.safetensors',
      }),
    });
    const odd = folder({ 'weights.safetensors': one('w') });
    for (const [path, names, config] of [
      [join(single, 'model.safetensors'), ['a'], null],
      [single, ['a'], { model_type: 'llama' }],
      [sharded, ['a', 'b'], null],
      [odd, ['w'], null],
    ] as const) {
      const checkpoint = await openCheckpoint(path);
      expect([...checkpoint.tensors.keys()]).toEqual(names);
      expect(checkpoint.config).toEqual(config);
      await checkpoint.close();
    }
  });

  const bad: [string, () => string][] = [
    ['FILE_NOT_FOUND', () => join(root, 'absent')],
    ['NOT_A_CHECKPOINT', () => folder({ 'readme.md': 'nothing here' })],
    ['NOT_A_CHECKPOINT', () => folder({ 'a.safetensors': one('a'), 'b.safetensors': one('b') })],
    ['NOT_A_CHECKPOINT', () => folder({ 'pytorch_model.bin': 'PK' })],
    ['NOT_A_CHECKPOINT', () => join(folder({ 'model.onnx': 'an ONNX graph' }), 'model.onnx')],
    ['NOT_A_CHECKPOINT', () => join(folder({ 'model.pth': 'PK' }), 'model.pth')],
    ['INDEX_INVALID', () => folder({ 'model.safetensors.index.json': '{' })],
    ['INDEX_INVALID', () => folder({ 'model.safetensors.index.json': '[]' })],
    ['INDEX_INVALID', () => folder({ 'model.safetensors.index.json': {} })],
    ['INDEX_INVALID', () => folder({ 'model.safetensors.index.json': index({ a: 7 }) })],
    ['INDEX_INVALID', () => folder({ 'model.safetensors.index.json': index({ a: '../../etc/passwd' }) })],
    ['INDEX_INVALID', () => folder({ 'model.safetensors.index.json': index({ a: '..' }) })],
    ['INDEX_MISSING_SHARD', () => folder({ 'model.safetensors.index.json': index({ a: 'gone.safetensors' }) })],
    [
      'INDEX_MISSING_TENSOR',
      () =>
        folder({
          'x.safetensors': one('a'),
          'model.safetensors.index.json': index({ a: 'x.safetensors', b: 'x.safetensors' }),
        }),
    ],
    [
      'INDEX_DUPLICATE_TENSOR',
      () =>
        folder({
          'x.safetensors': one('a'),
          'y.safetensors': safetensors({
            a: { dtype: 'F32', shape: [1], data: new Float32Array(1) },
            b: { dtype: 'F32', shape: [1], data: new Float32Array(1) },
          }),
          'model.safetensors.index.json': index({ a: 'x.safetensors', b: 'y.safetensors' }),
        }),
    ],
    ['CONFIG_INVALID', () => folder({ 'model.safetensors': one('a'), 'config.json': 'not json' })],
    ['CONFIG_INVALID', () => folder({ 'model.safetensors': one('a'), 'config.json': '[1]' })],
    ['SAFETENSORS_HEADER_LENGTH', () => folder({ 'model.safetensors': Buffer.from([99, 0, 0, 0, 0, 0, 0, 0]) })],
  ];

  it.each(bad)('refuses with %s', async (code, path) => {
    await expect(openCheckpoint(path())).rejects.toMatchObject({ code });
  });
});
