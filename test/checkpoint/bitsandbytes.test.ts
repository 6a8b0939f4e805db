import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { llmInt8Writer } from '../../lib/checkpoint/layouts/bitsandbytes/int8-writer.js';
import { quantStateBytes } from '../../lib/checkpoint/layouts/bitsandbytes/quant-state.js';
import { dynamicMap } from '../../lib/checkpoint/layouts/bitsandbytes/tables.js';
import { type BitsandbytesSettings, bitsandbytesWriter } from '../../lib/checkpoint/layouts/bitsandbytes/writer.js';
import type { Outline } from '../../lib/checkpoint/layouts/layout.js';
import { castTensor, type QuantizedTensor, quantizeTensor } from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { type RawTensor, temporaryFolder } from '../support/files.js';
import { checkpointFolder, floatBytes, floats, type Tensors, withWeights, written } from '../support/layouts.js';
import { normal } from '../support/random.js';
import { type EncodedArray, float32, readJson } from '../support/vectors.js';

interface Case {
  op: string;
  quant_type: 'nf4' | 'fp4';
  blocksize: number;
  W: EncodedArray;
  packed: EncodedArray;
  packed_cuda_rule: EncodedArray;
  absmax: EncodedArray;
  dequant: EncodedArray;
  nested: {
    offset: number;
    absmax_u8: EncodedArray;
    nested_absmax: EncodedArray;
    nested_blocksize: number;
    dequant: EncodedArray;
  };
}
interface Codebooks {
  nf4: EncodedArray;
  fp4: EncodedArray;
  dynamic_signed: EncodedArray;
  dynamic_signed_fma: EncodedArray;
}
const file = readJson<{ cases: Case[] }>('bitsandbytes', 'four_bits.json');
const books = readJson<Codebooks>('bitsandbytes', 'codebooks.json');
const cases = file.cases;
const root = temporaryFolder();
const bytes = ({ b64 }: EncodedArray) => new Uint8Array(Buffer.from(b64, 'base64'));
const text = (value: object) => new TextEncoder().encode(JSON.stringify(value));

const tables = { nf4: float32(books.nf4), fp4: float32(books.fp4) };

/** The stored tensors of a case, as bitsandbytes saves them. */
function stored(name: string, c: Case, nested: boolean, changes: object = {}): Tensors {
  const blocks = c.absmax.shape[0] as number;
  const state = {
    quant_type: c.quant_type,
    blocksize: c.blocksize,
    dtype: 'float32',
    shape: c.W.shape,
    ...(nested ? { nested_blocksize: 256, nested_dtype: 'float32', nested_offset: c.nested.offset } : {}),
    ...changes,
  };
  const json = text(state);
  const packed = bytes(c.packed);
  return {
    [name]: { dtype: 'U8', shape: [packed.length, 1], data: packed },
    [`${name}.absmax`]: nested
      ? { dtype: 'U8', shape: [blocks], data: bytes(c.nested.absmax_u8) }
      : { dtype: 'F32', shape: [blocks], data: bytes(c.absmax) },
    [`${name}.quant_map`]: { dtype: 'F32', shape: [16], data: tables[c.quant_type] },
    [`${name}.quant_state.bitsandbytes__${c.quant_type}`]: { dtype: 'U8', shape: [json.length], data: json },
    ...(nested
      ? {
          [`${name}.nested_absmax`]: {
            dtype: 'F32',
            shape: [c.nested.nested_absmax.shape[0] as number],
            data: bytes(c.nested.nested_absmax),
          },
          [`${name}.nested_quant_map`]: { dtype: 'F32', shape: [256], data: float32(books.dynamic_signed) },
        }
      : {}),
  };
}

const parsed = (data: ArrayBufferView) =>
  JSON.parse(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString()) as Record<string, unknown>;

const named = cases.map((c) => [`${c.quant_type}, blocks of ${c.blocksize}, ${c.W.shape.join('×')}`, c] as const);

describe('four bits', () => {
  it('the dynamic map is that of bitsandbytes', () => {
    expect(sameBytes(dynamicMap(), float32(books.dynamic_signed_fma))).toBe(true);
    // Without fused multiply-adds some values differ in their last bit.
    const other = float32(books.dynamic_signed);
    dynamicMap().forEach((value, i) => {
      expect(Math.abs(value - (other[i] as number))).toBeLessThanOrEqual(2 ** -22 * Math.abs(value));
    });
  });

  it.each(named)('reads %s as bitsandbytes dequantizes it, nested or not, in any strips', async (_, c) => {
    for (const nested of [false, true]) {
      const config = { quantization_config: { quant_method: 'bitsandbytes', load_in_4bit: true } };
      for (const given of [config, undefined]) {
        await withWeights(checkpointFolder(root, stored('x.weight', c, nested), given, 2), async (weights) => {
          const weight = weights.get('x.weight');
          if (weight === undefined) throw new Error('no weight');
          expect([...weights.keys()]).toEqual(['x.weight']);
          expect(weight.shape).toEqual(c.W.shape);
          expect(weight.encoding).toMatchObject({ dtype: c.quant_type, groupSize: c.blocksize });
          const expected = float32(nested ? c.nested.dequant : c.dequant);
          for (const strip of [weight.rows, 1, 3, 5]) {
            const got = await floats(weight, strip);
            expect(Array.from(got, (x) => x + 0)).toEqual(Array.from(expected, (x) => x + 0));
          }
        });
      }
    }
  });

  it('reads codes that are stored as floats', async () => {
    const c = cases[0] as Case;
    const packed = bytes(c.packed);
    for (const [dtype, width] of [
      ['BF16', 2],
      ['F16', 2],
      ['F32', 4],
      ['I8', 1],
    ] as const) {
      const tensors = stored('x.weight', c, false);
      tensors['x.weight'] = { dtype, shape: [packed.length / width, 1], data: packed };
      await withWeights(checkpointFolder(root, tensors), async (weights) => {
        const weight = weights.get('x.weight');
        if (weight === undefined) throw new Error('no weight');
        expect(sameBytes(await floats(weight), float32(c.dequant))).toBe(true);
      });
    }
  });

  it('rounds once to the type that the weight had', async () => {
    const c = cases[0] as Case;
    await withWeights(checkpointFolder(root, stored('x.weight', c, false, { dtype: 'float16' })), async (weights) => {
      const weight = weights.get('x.weight');
      if (weight === undefined) throw new Error('no weight');
      expect(weight.dtype).toBe('float16');
      const got = await floatBytes(weight);
      const expected = castTensor(float32(c.dequant), { from: 'float32', to: 'float16' });
      expect(sameBytes(got, expected)).toBe(true);
    });
  });

  it.each(named)('writes the bytes of bitsandbytes: %s', async (_, c) => {
    for (const nested of [false, true]) {
      const writer = bitsandbytesWriter({
        dtype: c.quant_type,
        blockSize: c.blocksize,
        nested,
        computeDtype: 'bfloat16',
      });
      const [rows = 0, columns = 0] = c.W.shape;
      const weight: Outline = { name: 'x.weight', rows, columns, dtype: 'float32' };
      const q = quantizeTensor(float32(c.W), {
        dtype: c.quant_type,
        groupSize: c.blocksize,
        granularity: 'per-group',
        shape: [1, rows * columns],
      });
      for (const strip of [rows, 3]) {
        const got = await written(
          writer,
          weight,
          (begin, end) => ({ tensor: cutBlocks(q, begin * columns, end * columns), order: null }),
          strip,
        );
        const expected = stored('x.weight', c, nested);
        expect(new Set(Object.keys(got))).toEqual(new Set(Object.keys(expected)));
        for (const [name, tensor] of Object.entries(expected)) {
          const data = got[name]?.data as Uint8Array;
          if (name.includes('quant_state')) {
            const { nested_offset: offset, ...rest } = parsed(data);
            const { nested_offset: expectedOffset, ...expectedRest } = parsed(tensor.data);
            expect(rest).toEqual(expectedRest);
            // a mean: PyTorch adds in float32
            if (nested) expect(Math.abs((offset as number) / (expectedOffset as number) - 1)).toBeLessThan(2 ** -22);
          } else if (name.endsWith('nested_absmax')) {
            expect(
              Math.abs(
                (new Float32Array(data.buffer)[0] as number) / (float32(c.nested.nested_absmax)[0] as number) - 1,
              ),
            ).toBeLessThan(2 ** -20);
          } else if (name.endsWith('nested_quant_map')) {
            expect(sameBytes(data, float32(books.dynamic_signed_fma))).toBe(true);
          } else if (name === 'x.weight') {
            // The two backends differ in the sign of zero, and in the codes of blocks of zeros.
            const cuda = bytes(c.packed_cuda_rule);
            const torch = bytes(c.packed);
            const half = (byte: number | undefined, low: boolean) =>
              low ? (byte as number) & 15 : (byte as number) >> 4;
            for (let i = 0; i < 2 * data.length; i++) {
              const either = [torch, cuda].map((b) => half(b[i >> 1], i % 2 === 1));
              expect(either, `element ${i}`).toContain(half(data[i >> 1], i % 2 === 1));
            }
          } else {
            expect(got[name]?.shape).toEqual(tensor.shape);
            expect(sameBytes(got[name]?.data as Uint8Array, tensor.data), name).toBe(true);
          }
        }
      }
    }
  });

  it('writes quant_state as Python does, with spaces where a number is not known yet', () => {
    const state = { quantType: 'nf4', blockSize: 64, dtype: 'bfloat16', shape: [2, 64] } as const;
    expect(Buffer.from(quantStateBytes({ ...state, nested: null })).toString()).toBe(
      '{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]}',
    );
    const nested = (offset: number) => quantStateBytes({ ...state, nested: { blockSize: 256, offset } });
    const lengths = [0, Math.fround(0.1), -1.1754943508222875e-38, Math.fround(3.4028234663852886e38)].map(
      (x) => nested(x).length,
    );
    expect(new Set(lengths).size).toBe(1);
    expect(Buffer.from(nested(0.5)).toString()).toMatch(
      /^\{"quant_type": "nf4", .*"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0\.5\} +$/,
    );
  });

  it('what was written is read, for any shape', async () => {
    const settings = fc.record({
      dtype: fc.constantFrom('nf4' as const, 'fp4' as const),
      blockSize: fc.constantFrom(32, 64, 128, 512),
      nested: fc.boolean(),
      computeDtype: fc.constant('bfloat16' as const),
    });
    await fc.assert(
      fc.asyncProperty(
        settings,
        fc.integer({ min: 1, max: 30 }),
        fc.oneof(
          fc.integer({ min: 1, max: 150 }),
          fc.integer({ min: 1, max: 5 }).map((units) => 128 * units),
        ),
        fc.integer({ min: 1, max: 30 }),
        fc.integer({ min: 1, max: 999 }),
        async (given: BitsandbytesSettings, rows, columns, strip, seed) => {
          const writer = bitsandbytesWriter(given);
          const weight: Outline = { name: 'x.weight', rows, columns, dtype: 'bfloat16' };
          expect(writer.refusal(weight)).toBeNull();
          expect(writer.refusal({ ...weight, rows: 0 })).toContain('empty');
          const { needsLargest: _, scaleDtype: __, scheme: ___, acrossRows: ____, ...recipe } = writer.recipe;
          const q = quantizeTensor(normal(rows * columns, seed), { ...recipe, shape: [1, rows * columns] } as never);
          const tensors = await written(
            writer,
            weight,
            (begin, end) => ({ tensor: cutBlocks(q, begin * columns, end * columns), order: null }),
            strip,
          );
          // bitsandbytes' torch backend ends an odd number of codes with that of 0.
          const last = ((tensors['x.weight'] as RawTensor).data as Uint8Array).at(-1) as number;
          if ((rows * columns) % 2 === 1) expect(last & 15).toBe(given.dtype === 'nf4' ? 7 : 0);
          const path = checkpointFolder(root, tensors, { quantization_config: writer.config([]) });
          await withWeights(path, async (weights) => {
            const read = weights.get('x.weight');
            if (read === undefined) throw new Error('no weight');
            const values = await floats(read, strip);
            const nested = given.nested === true ? nestedScales(q.scales) : q.scales;
            const book = tables[given.dtype as 'nf4'];
            const size = given.blockSize as number;
            const expected = Float32Array.from(values, (_, i) => {
              const code = ((q.data[i >> 1] as number) >> (4 * (i % 2))) & 15;
              return Math.fround((book[code] as number) * (nested[Math.floor(i / size)] as number));
            });
            expect(Array.from(values, (x) => x + 0)).toEqual(Array.from(expected, (x) => x + 0));
          });
        },
      ),
      { numRuns: 60 },
    );
  });
});

/** Elements of a tensor of one row, whole blocks. */
function cutBlocks(q: QuantizedTensor, begin: number, end: number): QuantizedTensor {
  const size = q.groupSize as number;
  return {
    ...q,
    shape: [1, end - begin],
    data: q.data.slice(begin / 2, Math.ceil(end / 2)),
    scales: q.scales.slice(begin / size, Math.ceil(end / size)),
  };
}

/** Scales as they come back, by plain arithmetic. */
function nestedScales(scales: Float32Array): Float32Array {
  const { fround } = Math;
  const map = dynamicMap();
  const offset = fround(scales.reduce((sum, x) => sum + x, 0) / scales.length);
  return scales.map((scale, i) => {
    const block = scales.slice(i - (i % 256), i - (i % 256) + 256);
    const absmax = block.reduce((most, x) => Math.max(most, Math.abs(fround(x - offset))), 0);
    const x = fround(fround(scale - offset) / Math.max(absmax, fround(1e-38)));
    let best = 0;
    for (let j = 1; j < 256; j++) {
      if (x > fround(fround((map[j - 1] as number) + (map[j] as number)) / 2)) best = j;
    }
    return fround(fround((map[best] as number) * absmax) + offset);
  });
}

describe('LLM.int8()', () => {
  const { cases: int8 } = readJson<{ cases: { W: EncodedArray; CB: EncodedArray; SCB: EncodedArray }[] }>(
    'bitsandbytes',
    'llm_int8.json',
  );
  const { weights: expected } = readJson<{ weights: EncodedArray[] }>('bitsandbytes', 'llm_int8_weights.json');
  const tensors = (i: number, format = true): Tensors => {
    const { CB, SCB } = int8[i] as (typeof int8)[number];
    return {
      'a.weight': { dtype: 'I8', shape: CB.shape, data: bytes(CB) },
      'a.SCB': { dtype: 'F32', shape: SCB.shape, data: bytes(SCB) },
      ...(format ? { 'a.weight_format': { dtype: 'U8', shape: [], data: Uint8Array.of(0) } } : {}),
    };
  };

  it.each([0, 1])('reads weights as bitsandbytes dequantizes them (%i)', async (i) => {
    for (const format of [true, false]) {
      await withWeights(checkpointFolder(root, tensors(i, format)), async (weights) => {
        const weight = weights.get('a.weight');
        if (weight === undefined) throw new Error('no weight');
        expect(weight.encoding).toMatchObject({ format: 'bitsandbytes', dtype: 'int8' });
        for (const strip of [99, 1, 4]) {
          expect(sameBytes(await floats(weight, strip), float32(expected[i] as EncodedArray))).toBe(true);
        }
      });
    }
  });

  it('writes weights as bitsandbytes does, in any strips', async () => {
    for (const { W, CB, SCB } of int8) {
      const [rows, columns] = W.shape as [number, number];
      const outline: Outline = { name: 'a.weight', rows, columns, dtype: 'float32' };
      expect(llmInt8Writer.outputs(outline)).toEqual([
        { name: 'a.weight', dtype: 'I8', shape: [rows, columns] },
        { name: 'a.SCB', dtype: 'F32', shape: [rows] },
        { name: 'a.weight_format', dtype: 'U8', shape: [] },
      ]);
      for (const strip of [rows, 4]) {
        const codes = new Uint8Array(rows * columns);
        const absmax = new Uint8Array(4 * rows);
        const format: number[] = [];
        const w = float32(W);
        for (let begin = 0; begin < rows; begin += strip) {
          const data = w.slice(begin * columns, (begin + strip) * columns);
          const signal = new AbortController().signal;
          const pieces = await llmInt8Writer.own?.quantize(outline, begin, { dtype: 'float32', data }, signal);
          for (const piece of pieces ?? []) {
            if (piece.tensor === 'a.weight') codes.set(piece.data, piece.begin);
            else if (piece.tensor === 'a.SCB') absmax.set(piece.data, piece.begin);
            else format.push(...piece.data);
          }
        }
        expect(sameBytes(codes, bytes(CB))).toBe(true);
        expect(sameBytes(absmax, bytes(SCB))).toBe(true);
        expect(format).toEqual([0]);
      }
    }
    const odd = { name: 'a.W', rows: 2, columns: 2, dtype: 'float32' } as const;
    expect(llmInt8Writer.refusal(odd)).toMatch(/\.weight/);
    expect(llmInt8Writer.refusal({ ...odd, name: 'a.weight', rows: 0 })).toMatch(/empty/);
    expect(llmInt8Writer.config(['lm_head'])).toMatchObject({
      quant_method: 'bitsandbytes',
      load_in_4bit: false,
      load_in_8bit: true,
      llm_int8_skip_modules: ['lm_head'],
    });
  });

  it.each([-1, '6', Number.NaN])('refuses the threshold %s', async (threshold) => {
    const config = { quantization_config: { quant_method: 'bitsandbytes', llm_int8_threshold: threshold } };
    const run = withWeights(checkpointFolder(root, tensors(0), config), async () => 0);
    // JSON has no NaN: it is null, which is the default.
    if (typeof threshold === 'number' && Number.isNaN(threshold)) await expect(run).resolves.toBe(0);
    else await expect(run).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });

  it('refuses tiles', async () => {
    const tiled = { ...tensors(0), 'a.weight_format': { dtype: 'U8', shape: [], data: Uint8Array.of(2) } };
    await expect(withWeights(checkpointFolder(root, tiled), async () => 0)).rejects.toMatchObject({
      code: 'LAYOUT_UNSUPPORTED',
    });
  });
});

describe('what can be wrong', () => {
  const c = cases[0] as Case;
  const good = (nested = true) => stored('x.weight', c, nested);
  const bad: [string, string, () => Tensors, object?][] = [
    ['no absmax', 'LAYOUT_MISSING_PART', () => without(good(), 'x.weight.absmax')],
    ['no quant_map', 'LAYOUT_MISSING_PART', () => without(good(), 'x.weight.quant_map')],
    ['no codes', 'LAYOUT_MISSING_PART', () => without(good(), 'x.weight')],
    ['no nested_absmax', 'LAYOUT_MISSING_PART', () => without(good(), 'x.weight.nested_absmax')],
    ['no nested_quant_map', 'LAYOUT_MISSING_PART', () => without(good(), 'x.weight.nested_quant_map')],
    ['no quant_state', 'LAYOUT_MISSING_PART', () => without(good(), 'x.weight.quant_state.bitsandbytes__nf4')],
    [
      'int8 without SCB',
      'LAYOUT_MISSING_PART',
      () => ({ 'a.weight': { dtype: 'I8', shape: [2, 2], data: new Int8Array(4) } }),
      { quantization_config: { quant_method: 'bitsandbytes' } },
    ],
    [
      'too few codes',
      'LAYOUT_SHAPE',
      () => ({ ...good(), 'x.weight': { dtype: 'U8', shape: [4, 1], data: new Uint8Array(4) } }),
    ],
    [
      'too few blocks',
      'LAYOUT_SHAPE',
      () => ({ ...good(false), 'x.weight.absmax': { dtype: 'F32', shape: [2], data: new Float32Array(2) } }),
    ],
    [
      'codes of another type',
      'LAYOUT_DTYPE',
      () => ({ ...good(), 'x.weight': { dtype: 'I32', shape: [128], data: new Int32Array(128) } }),
    ],
    [
      'floats where codes belong',
      'LAYOUT_DTYPE',
      () => ({ ...good(), 'x.weight.absmax': { dtype: 'F32', shape: [16], data: new Float32Array(16) } }),
    ],
    [
      'codes where floats belong',
      'LAYOUT_DTYPE',
      () => ({ ...good(false), 'x.weight.absmax': { dtype: 'U8', shape: [16], data: new Uint8Array(16) } }),
    ],
    [
      'another table',
      'LAYOUT_UNSUPPORTED',
      () => ({ ...good(), 'x.weight.quant_map': { dtype: 'F32', shape: [16], data: new Float32Array(16) } }),
    ],
    [
      'NaN in a table',
      'LAYOUT_SCALE',
      () => ({
        ...good(),
        'x.weight.nested_quant_map': { dtype: 'F32', shape: [256], data: new Float32Array(256).fill(Number.NaN) },
      }),
    ],
    [
      'NaN in absmax',
      'LAYOUT_SCALE',
      () => ({
        ...good(false),
        'x.weight.absmax': { dtype: 'F32', shape: [16], data: new Float32Array(16).fill(Number.NaN) },
      }),
    ],
    [
      'negative absmax',
      'LAYOUT_SCALE',
      () => ({ ...good(false), 'x.weight.absmax': { dtype: 'F32', shape: [16], data: new Float32Array(16).fill(-1) } }),
    ],
    ['a field that nobody knows', 'LAYOUT_INVALID', () => stored('x.weight', c, true, { rotation: 'hadamard' })],
    [
      'another type of codes than its name says',
      'LAYOUT_INVALID',
      () => stored('x.weight', c, true, { quant_type: 'fp4' }),
    ],
    ['a block size of 48', 'LAYOUT_INVALID', () => stored('x.weight', c, true, { blocksize: 48 })],
    ['a shape that overflows', 'LAYOUT_INVALID', () => stored('x.weight', c, true, { shape: [2 ** 40, 2 ** 40] })],
    ['a shape of nothing', 'LAYOUT_INVALID', () => stored('x.weight', c, true, { shape: [0, 64] })],
    ['a dtype of 64 bits', 'LAYOUT_INVALID', () => stored('x.weight', c, true, { dtype: 'float64' })],
    ['an offset that is no number', 'LAYOUT_INVALID', () => stored('x.weight', c, true, { nested_offset: null })],
    ['half of the nested fields', 'LAYOUT_INVALID', () => stored('x.weight', c, true, { nested_blocksize: undefined })],
    [
      'no JSON',
      'LAYOUT_INVALID',
      () => ({
        ...good(),
        'x.weight.quant_state.bitsandbytes__nf4': { dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 255) },
      }),
    ],
    [
      'a JSON array',
      'LAYOUT_INVALID',
      () => ({ ...good(), 'x.weight.quant_state.bitsandbytes__nf4': { dtype: 'U8', shape: [2], data: text([]) } }),
    ],
  ];

  it.each(bad)('%s: %s', async (_, code, tensors, config) => {
    const path = checkpointFolder(root, tensors(), config);
    await expect(
      withWeights(path, async (weights) => {
        for (const weight of weights.values()) await floats(weight);
      }),
    ).rejects.toMatchObject({ code, path: expect.stringContaining('model.safetensors') });
  });

  it('settings', () => {
    expect(() => bitsandbytesWriter({ blockSize: 100, computeDtype: 'float32' })).toThrow(RangeError);
    expect(bitsandbytesWriter({ nested: true, computeDtype: 'bfloat16' }).config(['lm_head'])).toMatchObject({
      quant_method: 'bitsandbytes',
      load_in_4bit: true,
      bnb_4bit_quant_type: 'nf4',
      bnb_4bit_use_double_quant: true,
      bnb_4bit_compute_dtype: 'bfloat16',
      llm_int8_skip_modules: ['lm_head'],
    });
  });
});

function without(tensors: Tensors, name: string): Tensors {
  const { [name]: _, ...rest } = tensors;
  return rest;
}
