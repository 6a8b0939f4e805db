import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type CompressedTensorsSettings,
  compressedTensorsWriter,
} from '../../lib/checkpoint/layouts/compressed-tensors/writer.js';
import type { LayoutWriter, Outline } from '../../lib/checkpoint/layouts/layout.js';
import type { Sharing } from '../../lib/checkpoint/layouts/scaled-weight.js';
import { inverseOrder } from '../../lib/checkpoint/layouts/writing.js';
import { dequantizeTensor, type QuantizedTensor, quantizeTensor } from '../../lib/index.js';
import { fitted } from '../../lib/pipeline/grids.js';
import { sameBytes } from '../support/bytes.js';
import { temporaryFolder } from '../support/files.js';
import {
  checkpointFolder,
  cutRows,
  elements,
  exactly,
  floats,
  forStrips,
  rawTensor,
  withWeights,
  written,
} from '../support/layouts.js';
import { normal, random } from '../support/random.js';
import { type EncodedArray, readJson } from '../support/vectors.js';

interface Case {
  name: string;
  format: CompressedTensorsSettings['format'];
  version: string;
  weights: { num_bits: number; type: string; strategy: string; symmetric: boolean; group_size: number | null };
  tensors: Record<string, EncodedArray>;
  dequant: EncodedArray;
}
const { cases } = readJson<{ cases: Case[] }>('compressed-tensors', 'checkpoints.json');
const root = temporaryFolder();
const NAMES = { BF16: 'bfloat16', F16: 'float16', F32: 'float32' } as const;

function sharingOf({ strategy, group_size, block_structure }: Record<string, unknown>): Sharing {
  if (strategy === 'tensor') return { granularity: 'per-tensor' };
  if (strategy === 'channel') return { granularity: 'per-channel' };
  if (strategy === 'block') return { granularity: 'per-block', blockShape: block_structure as [number, number] };
  return { granularity: 'per-group', groupSize: group_size as number };
}

/** The same numbers with signed codes. */
function signed(tensor: QuantizedTensor): QuantizedTensor {
  if (!tensor.dtype.startsWith('uint')) return tensor;
  const bits = Number(tensor.dtype.slice(4));
  const [, columns = 0] = tensor.shape;
  const rowBytes = Math.ceil((columns * bits) / 8);
  const data = tensor.data.slice();
  for (let i = 0; i < tensor.data.length; i++) {
    const first = (i % rowBytes) * 8;
    for (let bit = first; bit < first + 8; bit++) {
      if (bit % bits === bits - 1 && bit < columns * bits) data[i] = (data[i] as number) ^ (1 << (bit - first));
    }
  }
  const dtype = tensor.dtype.slice(1) as 'int4';
  const zeroPoints = tensor.zeroPoints?.map((zeroPoint) => zeroPoint - 2 ** (bits - 1)) ?? null;
  return { ...tensor, dtype, data, zeroPoints };
}

const writable = cases.filter(
  ({ format, weights, version }) =>
    (format !== 'pack-quantized' || [2, 3, 4, 8].includes(weights.num_bits)) &&
    (version === '0.18.0' || ![3, 5, 6, 7].includes(weights.num_bits)) &&
    weights.num_bits !== 1,
);

describe('bytes equal those of compressed-tensors', () => {
  it('in every format', () => expect(new Set(writable.map(({ format }) => format)).size).toBe(7));

  it.each(writable.map((c) => [c.version, c.name, c] as const))('%s: %s', async (_, __, c) => {
    const tensors = Object.fromEntries(Object.entries(c.tensors).map(([part, t]) => [`up.${part}`, rawTensor(t)]));
    const config = {
      quantization_config: {
        quant_method: 'compressed-tensors',
        format: c.format,
        version: c.version,
        config_groups: { group_0: { targets: ['Linear'], weights: c.weights } },
      },
    };
    const writer = compressedTensorsWriter({
      format: c.format,
      ...(c.weights.type === 'int' ? { dtype: `int${c.weights.num_bits}` as 'int4' } : {}),
      scheme: c.weights.symmetric ? 'symmetric' : 'asymmetric',
      sharing: sharingOf(c.weights),
      scaleDtype: NAMES[c.dequant.dtype as 'F32'],
      actOrder: 'weight_g_idx' in c.tensors,
    });
    await withWeights(checkpointFolder(root, tensors, config), async (weights) => {
      const weight = weights.get('up.weight');
      if (weight?.dtype == null) throw new Error('no weight');
      const outline: Outline = { name: weight.name, rows: weight.rows, columns: weight.columns, dtype: weight.dtype };
      const blocks: { tensor: QuantizedTensor; order: Int32Array | null }[] = [];
      await forStrips(weight, weight.rows, async (block) => {
        if (block.kind === 'quantized') blocks.push(block);
      });
      const { tensor: read, order } = blocks[0] as (typeof blocks)[number];
      // Codes of four bits in bytes are read as bytes.
      const tensor = c.format.startsWith('naive') ? await fitted(read, writer.recipe) : read;
      for (const whole of [tensor, signed(tensor)]) {
        for (const rows of [weight.rows, 1]) {
          const got = await written(
            writer,
            outline,
            (begin, end) => ({ tensor: cutRows(whole, begin, end), order }),
            rows,
          );
          expect(new Set(Object.keys(got))).toEqual(new Set(Object.keys(tensors)));
          for (const [name, expected] of Object.entries(tensors)) {
            expect(got[name]?.shape, name).toEqual(expected.shape);
            expect(got[name]?.dtype, name).toBe(expected.dtype);
            expect(sameBytes(got[name]?.data as Uint8Array, expected.data), `${name}, strips of ${rows}`).toBe(true);
          }
        }
      }
    });
  });
});

const integerSharing = fc.oneof(
  fc.constant<Sharing>({ granularity: 'per-tensor' }),
  fc.constant<Sharing>({ granularity: 'per-channel' }),
  fc.constantFrom(1, 2, 5, 16, 32).map((groupSize): Sharing => ({ granularity: 'per-group', groupSize })),
);
const block = fc
  .tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 20 }))
  .map((blockShape): Sharing => ({ granularity: 'per-block', blockShape }));
const scaleDtype = fc.constantFrom('float32' as const, 'float16' as const, 'bfloat16' as const);
const scheme = fc.constantFrom('symmetric' as const, 'asymmetric' as const);
const settings: fc.Arbitrary<CompressedTensorsSettings> = fc.oneof(
  fc.record({
    format: fc.constant('pack-quantized' as const),
    dtype: fc.constantFrom('int2' as const, 'int3' as const, 'int4' as const, 'int8' as const),
    scheme,
    sharing: integerSharing,
    scaleDtype,
  }),
  fc.record({
    format: fc.constantFrom('int-quantized' as const, 'naive-quantized' as const),
    dtype: fc.constantFrom('int2' as const, 'int3' as const, 'int4' as const, 'int8' as const),
    scheme,
    sharing: fc.oneof(integerSharing, block),
    scaleDtype,
  }),
  fc.record({ format: fc.constant('float-quantized' as const), sharing: fc.oneof(integerSharing, block), scaleDtype }),
  fc.record({
    format: fc.constantFrom(
      'nvfp4-pack-quantized' as const,
      'mxfp4-pack-quantized' as const,
      'mxfp8-quantized' as const,
    ),
    scaleDtype,
  }),
);

function quantized(writer: LayoutWriter, rows: number, columns: number, seed: number): QuantizedTensor {
  const { needsLargest: _, ordered: __, ...recipe } = writer.recipe;
  const { scaleDtype: rounded, ...fixed } = recipe;
  const options = fixed.dtype === 'nvfp4' || fixed.dtype.startsWith('mx') ? fixed : recipe;
  return quantizeTensor(normal(rows * columns, seed), {
    ...options,
    ...(fixed.scheme === 'symmetric' && !fixed.dtype.startsWith('int') ? { scheme: undefined } : {}),
    shape: [rows, columns],
  } as never);
}

/** Columns that a sharing allows. */
function columnsFor({ recipe }: LayoutWriter, units: number): number {
  return recipe.groupSize === undefined ? units : units * recipe.groupSize;
}

describe('what was written is read', () => {
  it('codes and scales are equal, for any shape and strips', async () => {
    await fc.assert(
      fc.asyncProperty(
        settings,
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 1000 }),
        async (given, rows, units, strip, seed) => {
          const writer = compressedTensorsWriter(given);
          const columns = columnsFor(writer, units);
          const weight: Outline = { name: 'a.b.weight', rows, columns, dtype: given.scaleDtype };
          expect(writer.refusal(weight)).toBeNull();
          const q = quantized(writer, rows, columns, seed);
          const tensors = await written(
            writer,
            weight,
            (begin, end) => ({ tensor: cutRows(q, begin, end), order: null }),
            strip,
          );
          const expected = elements(q);
          const config = { quantization_config: writer.config(['lm_head']), torch_dtype: 'bfloat16' };
          await withWeights(checkpointFolder(root, tensors, config), async (weights) => {
            expect([...weights.keys()]).toEqual([weight.name]);
            const read = weights.get(weight.name);
            if (read === undefined) throw new Error('no weight');
            expect([read.rows, read.columns]).toEqual([rows, columns]);
            const { codes, scales } = await exactly(read, strip);
            expect(codes).toEqual(expected.map(([code]) => code));
            expect(scales).toEqual(expected.map(([, scale]) => scale));
          });
        },
      ),
      { numRuns: 300 },
    );
  });

  it('an order of columns survives', async () => {
    const [rows, columns, groupSize] = [11, 96, 32];
    for (const dtype of ['int2', 'int3', 'int4', 'int8'] as const) {
      const writer = compressedTensorsWriter({
        format: 'pack-quantized',
        dtype,
        scheme: 'asymmetric',
        sharing: { granularity: 'per-group', groupSize },
        scaleDtype: 'float32',
        actOrder: true,
      });
      const next = random(5);
      const order = Int32Array.from({ length: columns }, (_, i) => i).sort(() => next() - 0.5);
      const q = quantized(writer, rows, columns, 3);
      const tensors = await written(
        writer,
        { name: 'x.weight', rows, columns, dtype: 'float32' },
        (begin, end) => ({ tensor: cutRows(q, begin, end), order }),
        32,
      );
      const inGroups = dequantizeTensor(q);
      const inverse = inverseOrder(order);
      const expected = Float32Array.from(
        inGroups,
        (_, i) => inGroups[Math.floor(i / columns) * columns + (inverse[i % columns] as number)] as number,
      );
      const config = { quantization_config: writer.config([]) };
      await withWeights(checkpointFolder(root, tensors, config), async (weights) => {
        const weight = weights.get('x.weight');
        if (weight === undefined) throw new Error('no weight');
        expect(weight.encoding.traits).toContain('act-order');
        expect(sameBytes(await floats(weight, 4), expected)).toBe(true);
      });
    }
  });
});

describe('settings', () => {
  const scale = { scaleDtype: 'bfloat16' } as const;
  const wrong: [string, CompressedTensorsSettings][] = [
    ['FP8 in words', { format: 'pack-quantized', dtype: 'float8_e4m3fn', ...scale }],
    ['FP8 as integers', { format: 'int-quantized', dtype: 'float8_e4m3fn', ...scale }],
    ['integers as FP8', { format: 'float-quantized', dtype: 'int8', ...scale }],
    ['integer activations beside FP8', { format: 'float-quantized', activations: 'int8', ...scale }],
    ['activations that need calibration', { format: 'nvfp4-pack-quantized', activations: 'mxfp4', ...scale }],
    ['zero points of floats', { format: 'float-quantized', scheme: 'asymmetric', ...scale }],
    [
      'blocks in words',
      { format: 'pack-quantized', sharing: { granularity: 'per-block', blockShape: [2, 2] }, ...scale },
    ],
    ['an order without groups', { format: 'int-quantized', actOrder: true, ...scale }],
  ];
  it.each(wrong)('refuse %s', (_, given) => expect(() => compressedTensorsWriter(given)).toThrow(RangeError));

  it('refuse weights that do not fit', () => {
    const writer = compressedTensorsWriter({ format: 'pack-quantized', ...scale });
    const weight = { name: 'a.weight', rows: 4, columns: 128, dtype: 'bfloat16' } as const;
    expect(writer.refusal(weight)).toBeNull();
    expect(writer.refusal({ ...weight, columns: 130 })).toContain('130');
    expect(writer.refusal({ ...weight, columns: 192 })).toBe(
      'its 192 inputs are no multiple of the group size, 128: choose a group size of 64 or 32, or a scale per channel',
    );
    const blocks = compressedTensorsWriter({ format: 'mxfp4-pack-quantized', ...scale });
    expect(blocks.refusal({ ...weight, columns: 130 })).toContain('the 32 of a block of mxfp4');
    expect(writer.refusal({ ...weight, name: 'a.table' })).toContain('.weight');
  });

  it('say what vLLM and transformers read', () => {
    const block = compressedTensorsWriter({
      format: 'float-quantized',
      sharing: { granularity: 'per-block', blockShape: [128, 128] },
      ...scale,
    }).config(['lm_head']);
    expect(block).toMatchObject({
      quant_method: 'compressed-tensors',
      format: 'float-quantized',
      ignore: ['lm_head'],
      config_groups: {
        group_0: {
          targets: ['Linear'],
          weights: { num_bits: 8, type: 'float', strategy: 'block', block_structure: [128, 128], symmetric: true },
          input_activations: { strategy: 'group', group_size: 128, dynamic: true },
        },
      },
    });
    expect(compressedTensorsWriter({ format: 'nvfp4-pack-quantized', ...scale }).config([])).toMatchObject({
      config_groups: { group_0: { weights: { strategy: 'tensor_group', group_size: 16, num_bits: 4 } } },
    });
    expect(compressedTensorsWriter({ format: 'pack-quantized', dtype: 'int3', ...scale }).config([])).toMatchObject({
      version: '0.18.0',
    });
  });

  it('refuse tensors that are not what the recipe says', async () => {
    const writer = compressedTensorsWriter({ format: 'nvfp4-pack-quantized', ...scale });
    const weight: Outline = { name: 'a.weight', rows: 2, columns: 16, dtype: 'bfloat16' };
    const q = quantized(writer, 2, 16, 1);
    const other = quantizeTensor(normal(32, 1), { dtype: 'int4', shape: [2, 16] });
    await expect(writer.encode(weight, 0, other, null)).rejects.toThrow(RangeError);
    await writer.encode(weight, 0, cutRows(q, 0, 1), null);
    const strip = { ...cutRows(q, 1, 2), globalScale: 3 };
    await expect(writer.encode(weight, 1, strip, null)).rejects.toThrow('global');
  });
});
