import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compressedTensorsWriter } from '../../lib/checkpoint/layouts/compressed-tensors/writer.js';
import { fp8Writer } from '../../lib/checkpoint/layouts/fp8-writer.js';
import type { Outline } from '../../lib/checkpoint/layouts/layout.js';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import { quantizeTensor } from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { temporaryFolder } from '../support/files.js';
import {
  checkpointFolder,
  cutRows,
  elements,
  exactly,
  floatBytes,
  floats,
  rawTensor,
  type Tensors,
  withWeights,
  written,
} from '../support/layouts.js';
import { normal } from '../support/random.js';
import { type EncodedArray, readJson, VECTORS } from '../support/vectors.js';

interface Case {
  name: string;
  config: Record<string, unknown>;
  tensors: Record<string, EncodedArray>;
  dequant: EncodedArray;
}
const { cases } = readJson<{ cases: Case[] }>('fp8', 'checkpoints.json');
const root = temporaryFolder();
const layer = ({ tensors }: Case, name = 'model.up'): Tensors =>
  Object.fromEntries(Object.entries(tensors).map(([part, tensor]) => [`${name}.${part}`, rawTensor(tensor)]));
const configOf = (quantization_config: unknown) => ({ torch_dtype: 'bfloat16', quantization_config });

async function readAll(path: string, names: string[], expected: Buffer): Promise<void> {
  await withWeights(path, async (weights) => {
    expect([...weights.keys()].sort()).toEqual([...names].sort());
    for (const weight of weights.values()) {
      expect(weight.encoding.format).toBe('fp8');
      for (const strip of [weight.rows, 1, 7]) {
        expect((await floatBytes(weight, strip)).equals(expected), `strips of ${strip}`).toBe(true);
      }
    }
  });
}

describe('weights equal what PyTorch computes', () => {
  it.each(cases.map((c) => [c.name, c] as const))('%s', async (_, c) => {
    const expected = Buffer.from(c.dequant.b64, 'base64');
    await readAll(checkpointFolder(root, layer(c), configOf(c.config)), ['model.up.weight'], expected);
  });

  it.each(cases.filter(({ name }) => name !== 'blocks of 4 × 5').map((c) => [c.name, c] as const))(
    '%s, by names and shapes alone',
    async (_, c) => {
      const expected = Buffer.from(c.dequant.b64, 'base64');
      await readAll(checkpointFolder(root, layer(c)), ['model.up.weight'], expected);
    },
  );

  it('several layers in shards, beside tensors that are none', async () => {
    const c = cases[0] as Case;
    const norm = { dtype: 'BF16', shape: [4], data: new Uint16Array(4) };
    const tensors = { ...layer(c, 'a'), ...layer(c, 'b'), 'norm.weight': norm };
    await withWeights(checkpointFolder(root, tensors, configOf(c.config), 3), async (weights) => {
      expect([...weights.keys()].sort()).toEqual(['a.weight', 'b.weight', 'norm.weight']);
      expect(weights.get('norm.weight')?.encoding.format).toBe('float');
      expect(weights.get('b.weight')?.encoding).toMatchObject({
        dtype: 'float8_e4m3fn',
        groupSize: null,
        traits: ['blocks of 128×128', 'input dynamic'],
      });
    });
  });

  it('NVFP4 of ModelOpt becomes compressed-tensors without a change of codes and scales', async () => {
    const c = cases.find(({ name }) => name.startsWith('NVFP4')) as Case;
    await withWeights(checkpointFolder(root, layer(c, 'a'), configOf(c.config)), async (weights) => {
      const weight = weights.get('a.weight');
      if (weight === undefined) throw new Error('no weight');
      const { rows, columns } = weight;
      const block = await weight.read(0, rows, new Scratch());
      if (block.kind !== 'quantized') throw new Error(block.kind);
      const writer = compressedTensorsWriter({ format: 'nvfp4-pack-quantized', scaleDtype: 'bfloat16' });
      const { tensor } = block;
      const outline: Outline = { name: 'a.weight', rows, columns, dtype: 'bfloat16' };
      const got = await written(
        writer,
        outline,
        (begin, end) => ({ tensor: cutRows(tensor, begin, end), order: null }),
        4,
      );
      const stored = layer(c, 'a');
      for (const [to, from] of [
        ['a.weight_packed', 'a.weight'],
        ['a.weight_scale', 'a.weight_scale'],
      ] as const) {
        expect(sameBytes(got[to]?.data as Uint8Array, stored[from]?.data as Uint8Array), to).toBe(true);
      }
    });
  });

  it('experts in one tensor, with blocks of each', async () => {
    const [experts, rows, columns] = [3, 8, 10];
    const codes = Uint8Array.from({ length: experts * rows * columns }, (_, i) => (i * 37) % 0x78);
    const scale = Float32Array.from({ length: experts * 2 * 3 }, (_, i) => 2 ** (i - 8));
    const config = configOf({ quant_method: 'fp8', weight_block_size: [4, 4] });
    const tensors = (n: number) => ({
      'mlp.experts.down_proj': { dtype: 'F8_E4M3', shape: [experts, n, (rows * columns) / n], data: codes },
      'mlp.experts.down_proj_scale_inv': { dtype: 'F32', shape: [experts, 2, 3], data: scale },
    });
    const table = readFileSync(join(VECTORS, 'fp8', 'e4m3fn_decode_f32.bin'));
    await withWeights(checkpointFolder(root, tensors(8), config), async (weights) => {
      const weight = weights.get('mlp.experts.down_proj');
      expect(weight?.shape).toEqual([3, 8, 10]);
      if (weight === undefined) throw new Error('no weight');
      const values = await floats(weight, 5);
      values.forEach((value, i) => {
        const [expert, row, column] = [Math.floor(i / 80), Math.floor(i / 10) % 8, i % 10];
        const place = expert * 6 + Math.floor(row / 4) * 3 + Math.floor(column / 4);
        expect(value).toBe(table.readFloatLE(4 * (codes[i] as number)) * (scale[place] as number));
      });
    });
    await expect(withWeights(checkpointFolder(root, tensors(10), config), async () => 0)).rejects.toMatchObject({
      code: 'LAYOUT_SHAPE',
    });
  });

  it('FP8 without scales is left as it is', async () => {
    const tensors = { 'a.weight': { dtype: 'F8_E4M3', shape: [2, 2], data: new Uint8Array(4) } };
    await withWeights(checkpointFolder(root, tensors), async (weights) => {
      expect(weights.get('a.weight')?.encoding.format).toBe('other');
    });
  });
});

describe('what was written is read', () => {
  it('codes and scales are equal, for any shape and strips', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('per-block' as const, 'per-tensor' as const, 'per-channel' as const),
        fc.integer({ min: 1, max: 300 }),
        fc.integer({ min: 1, max: 300 }),
        fc.integer({ min: 1, max: 300 }),
        fc.integer({ min: 1, max: 999 }),
        async (granularity, rows, columns, strip, seed) => {
          const writer = fp8Writer({ granularity });
          const weight: Outline = { name: 'x.weight', rows, columns, dtype: 'bfloat16' };
          const { needsLargest: _, scheme: __, ...recipe } = writer.recipe;
          const q = quantizeTensor(normal(rows * columns, seed), { ...recipe, shape: [rows, columns] } as never);
          const tensors = await written(
            writer,
            weight,
            (begin, end) => ({ tensor: cutRows(q, begin, end), order: null }),
            strip,
          );
          const expected = elements(q);
          for (const config of [configOf(writer.config(['lm_head'])), undefined]) {
            await withWeights(checkpointFolder(root, tensors, config), async (weights) => {
              const read = weights.get('x.weight');
              if (read === undefined) throw new Error('no weight');
              const { codes, scales } = await exactly(read, strip);
              expect(codes.every((code, i) => code === expected[i]?.[0])).toBe(true);
              expect(scales.every((scale, i) => scale === expected[i]?.[1])).toBe(true);
            });
          }
        },
      ),
      { numRuns: 25 },
    );
  });

  it('configs are those of transformers', () => {
    expect(fp8Writer().config(['lm_head'])).toEqual({
      quant_method: 'fp8',
      fmt: 'e4m3',
      activation_scheme: 'dynamic',
      weight_block_size: [128, 128],
      modules_to_not_convert: ['lm_head'],
    });
    expect(fp8Writer({ granularity: 'per-tensor' }).config([])).toMatchObject({ weight_block_size: null });
    expect(fp8Writer({ granularity: 'per-channel' }).config([])).toMatchObject({ quant_method: 'fbgemm_fp8' });
    const writer = fp8Writer();
    expect(writer.rowStep({ name: 'a.weight', rows: 1, columns: 1, dtype: 'bfloat16' })).toBe(128);
    expect(writer.refusal({ name: 'a.table', rows: 1, columns: 1, dtype: 'bfloat16' })).toContain('.weight');
  });
});

describe('what can be wrong', () => {
  const codes = (shape: number[], dtype = 'F8_E4M3') => ({
    dtype,
    shape,
    data: new Uint8Array(shape.reduce((a, b) => a * b, 1)),
  });
  const scales = (shape: number[], value = 1) => ({
    dtype: 'F32',
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value),
  });
  const fp8 = { quant_method: 'fp8', weight_block_size: [128, 128] };
  const bad: [string, string, Tensors, object?][] = [
    ['no scale', 'LAYOUT_MISSING_PART', { 'a.weight': codes([2, 2]) }, fp8],
    ['no weight', 'LAYOUT_MISSING_PART', { 'a.weight_scale_inv': scales([1, 1]) }, fp8],
    [
      'a float weight',
      'LAYOUT_DTYPE',
      { 'a.weight': { dtype: 'BF16', shape: [1, 1], data: new Uint16Array(1) }, 'a.weight_scale': scales([]) },
      fp8,
    ],
    [
      'integer scales',
      'LAYOUT_DTYPE',
      { 'a.weight': codes([2, 2]), 'a.weight_scale_inv': { dtype: 'I32', shape: [1, 1], data: new Int32Array(1) } },
      fp8,
    ],
    [
      'both scales',
      'LAYOUT_INVALID',
      { 'a.weight': codes([2, 2]), 'a.weight_scale': scales([]), 'a.weight_scale_inv': scales([]) },
    ],
    ['experts without scales', 'LAYOUT_MISSING_PART', { 'experts.up_proj': codes([2, 2, 2]) }, fp8],
    ['scales without experts', 'LAYOUT_MISSING_PART', { 'experts.up_proj_scale_inv': scales([2, 1, 1]) }, fp8],
    ['too few blocks', 'LAYOUT_SHAPE', { 'a.weight': codes([130, 2]), 'a.weight_scale_inv': scales([1, 2]) }, fp8],
    ['scales of nothing', 'LAYOUT_SHAPE', { 'a.weight': codes([6, 6]), 'a.weight_scale': scales([5]) }],
    ['three axes', 'LAYOUT_SHAPE', { 'a.weight': codes([2, 2, 2]), 'a.weight_scale': scales([]) }],
    ['blocks or groups', 'LAYOUT_AMBIGUOUS', { 'a.weight': codes([1, 130]), 'a.weight_scale': scales([1, 2]) }],
    [
      'an infinite scale',
      'LAYOUT_SCALE',
      { 'a.weight': codes([2, 2]), 'a.weight_scale': scales([1], Number.POSITIVE_INFINITY) },
    ],
    [
      'a block of no rows',
      'CONFIG_INVALID',
      { 'a.weight': codes([2, 2]), 'a.weight_scale_inv': scales([1, 1]) },
      { ...fp8, weight_block_size: [0, 128] },
    ],
    [
      'another algorithm',
      'LAYOUT_UNSUPPORTED',
      { 'a.weight': codes([2, 2]) },
      { quant_method: 'modelopt', quant_algo: 'W4A8_AWQ' },
    ],
    [
      'scaled inputs',
      'LAYOUT_UNSUPPORTED',
      { 'a.weight': codes([2, 2]), 'a.weight_scale': scales([]), 'a.pre_quant_scale': scales([2]) },
    ],
    [
      'NVFP4 without its scales',
      'LAYOUT_MISSING_PART',
      { 'a.weight': codes([2, 8], 'U8'), 'a.weight_scale_2': scales([]) },
    ],
    [
      'a negative second scale',
      'LAYOUT_SCALE',
      { 'a.weight': codes([2, 8], 'U8'), 'a.weight_scale': codes([2, 1]), 'a.weight_scale_2': scales([], -1) },
    ],
    [
      'NVFP4 with too few scales',
      'LAYOUT_SHAPE',
      { 'a.weight': codes([2, 16], 'U8'), 'a.weight_scale': codes([2, 1]), 'a.weight_scale_2': scales([]) },
    ],
  ];

  it.each(bad)('%s: %s', async (_, code, tensors, config) => {
    const path = checkpointFolder(root, tensors, config === undefined ? undefined : configOf(config));
    const reading = withWeights(path, async (weights) => {
      for (const weight of weights.values()) await floats(weight);
    });
    await expect(reading).rejects.toMatchObject({ code, path: expect.stringContaining(path) });
  });

  it('NaN among E4M3 scales', async () => {
    const c = cases.find(({ name }) => name.startsWith('NVFP4')) as Case;
    const tensors = layer(c);
    const scale = tensors['model.up.weight_scale'] as Tensors[string];
    tensors['model.up.weight_scale'] = { ...scale, data: new Uint8Array(scale.data.byteLength).fill(0x7f) };
    const reading = withWeights(checkpointFolder(root, tensors), async (weights) => {
      for (const weight of weights.values()) await floats(weight);
    });
    await expect(reading).rejects.toMatchObject({ code: 'LAYOUT_SCALE', tensor: 'model.up.weight_scale' });
  });
});
