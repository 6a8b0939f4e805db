import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { awqQuantConfig, awqWriter } from '../../lib/checkpoint/layouts/awq-writer.js';
import { gptqConfig, gptqWriter } from '../../lib/checkpoint/layouts/gptq-writer.js';
import type { LayoutWriter, Outline } from '../../lib/checkpoint/layouts/layout.js';
import { selectCodes } from '../../lib/checkpoint/layouts/repack.js';
import { writeSafetensors } from '../../lib/checkpoint/safetensors-writer.js';
import {
  CheckpointError,
  castTensor,
  InvalidArgumentError,
  type QuantizedTensor,
  ScaleOverflowError,
} from '../../lib/index.js';
import { readSafetensors, temporaryFolder } from '../support/files.js';
import {
  awqWords,
  checkpointOf,
  gptqWords,
  gptqZeroWords,
  packedRows,
  readWhole,
  turned,
  weightOf,
  writeWhole,
} from '../support/packed.js';
import { random } from '../support/random.js';
import { type EncodedArray, float32, numbers, readJson } from '../support/vectors.js';

const root = temporaryFolder();
let count = 0;
const nextFolder = () => join(root, String(count++));

type Bits = 2 | 3 | 4 | 8;

function tensorOf(
  codes: ArrayLike<number>,
  [rows, columns]: readonly [number, number],
  bits: Bits,
  groupSize: number | null,
  scales: Float32Array,
  zeroPoints: Int32Array | null,
  signed = false,
): QuantizedTensor {
  return {
    dtype: `${signed ? '' : 'u'}int${bits}`,
    shape: [rows, columns],
    scheme: zeroPoints === null ? 'symmetric' : 'asymmetric',
    ...(groupSize === null ? { granularity: 'per-channel', axis: 0 } : { granularity: 'per-group', groupSize }),
    data: packedRows(codes, rows, columns, bits),
    scales,
    zeroPoints,
  };
}

function outlineOf([rows, columns]: readonly [number, number]): Outline {
  return { name: 'model.layers.0.mlp.up_proj.weight', rows, columns, dtype: 'float16' };
}
const layer = 'model.layers.0.mlp.up_proj';
const words = (data: Uint8Array | undefined) => Array.from(new Uint32Array(Uint8Array.from(data ?? []).buffer));

describe("the words are the reference's", () => {
  interface PackCase {
    op: string;
    bits: Bits;
    group_size: number;
    codes_NK: EncodedArray;
    zero_NG: EncodedArray;
    scale_NG: EncodedArray;
    qweight: EncodedArray;
    qzeros_v1: EncodedArray;
  }
  const packs = readJson<{ cases: PackCase[] }>('gptq', 'gptq.json').cases.filter(
    ({ op }) => op === 'gptq_pack_layout',
  );
  it('there is one for every width', () => expect(packs.map(({ bits }) => bits)).toEqual([2, 3, 4, 8]));

  it.each(packs.map((c) => [c.bits, c] as const))('AutoGPTQ, %i bits', async (bits, c) => {
    const shape = c.codes_NK.shape as [number, number];
    const zeros = Int32Array.from(numbers(c.zero_NG));
    const tensor = tensorOf(numbers(c.codes_NK), shape, bits, c.group_size, float32(c.scale_NG), zeros);
    const settings = { bits, scheme: 'asymmetric', groupSize: c.group_size, scaleDtype: 'float32' } as const;
    const first = await writeWhole(gptqWriter(settings), outlineOf(shape), tensor, null, 32);
    const unsigned = (a: EncodedArray) => numbers(a).map((word) => word >>> 0);
    expect(words(first.get(`${layer}.qweight`)?.data)).toEqual(unsigned(c.qweight));
    expect(words(first.get(`${layer}.qzeros`)?.data)).toEqual(unsigned(c.qzeros_v1));
    expect(first.get(`${layer}.qzeros`)?.shape).toEqual(c.qzeros_v1.shape);
    expect(first.get(`${layer}.qweight`)?.shape).toEqual(c.qweight.shape);
    const second = await writeWhole(gptqWriter({ ...settings, version: 2 }), outlineOf(shape), tensor, null, 32);
    expect(words(second.get(`${layer}.qzeros`)?.data)).toEqual(
      Array.from(gptqZeroWords(zeros, shape[0], zeros.length / shape[0], bits)),
    );
    expect(words(second.get(`${layer}.qweight`)?.data)).toEqual(unsigned(c.qweight));
  });

  interface AwqCase {
    group_size: number;
    codes_NK: EncodedArray;
    zeros_NG: EncodedArray;
    scales_NG: EncodedArray;
    gemm: { qweight: EncodedArray; qzeros: EncodedArray; scales_GN: EncodedArray };
  }
  const awq = readJson<{ cases: AwqCase[] }>('awq', 'awq.json').cases;
  it.each(awq.map((c) => [c.group_size, c] as const))('AutoAWQ, groups of %i', async (groupSize, c) => {
    const shape = c.codes_NK.shape as [number, number];
    const zeros = Int32Array.from(numbers(c.zeros_NG));
    const tensor = tensorOf(numbers(c.codes_NK), shape, 4, groupSize, float32(c.scales_NG), zeros);
    const writer = awqWriter({ scheme: 'asymmetric', groupSize, scaleDtype: 'float32' });
    for (const blockRows of [8, 24, 64]) {
      const outputs = await writeWhole(writer, outlineOf(shape), tensor, null, blockRows);
      const bytes = (name: string) =>
        Buffer.from(outputs.get(`${layer}.${name}`)?.data as Uint8Array).toString('base64');
      expect(bytes('qweight')).toBe(c.gemm.qweight.b64);
      expect(bytes('qzeros')).toBe(c.gemm.qzeros.b64);
      expect(bytes('scales')).toBe(c.gemm.scales_GN.b64);
      for (const [name, { shape: expected }] of Object.entries(c.gemm)) {
        expect(outputs.get(`${layer}.${name.replace('_GN', '')}`)?.shape).toEqual(expected);
      }
    }
  });
});

/** Everything that a weight can be. */
const weights = fc.record({
  seed: fc.integer(),
  bits: fc.constantFrom<Bits>(2, 3, 4, 8),
  rows: fc.integer({ min: 1, max: 6 }).map((n) => 32 * n),
  groupSize: fc.constantFrom(32, 64, 96, null),
  groups: fc.integer({ min: 1, max: 5 }),
  /** Multiples of 32 by which the last group is shorter. */
  missing: fc.integer({ min: 0, max: 2 }),
  symmetric: fc.boolean(),
  signed: fc.boolean(),
  version: fc.constantFrom(1 as const, 2 as const),
  actOrder: fc.boolean(),
  scaleDtype: fc.constantFrom('float16' as const, 'bfloat16' as const, 'float32' as const),
  blockRows: fc.integer({ min: 1, max: 6 }).map((n) => 32 * n),
});

/** A weight with random codes, scales and zero points. */
function randomWeight(w: typeof weights extends fc.Arbitrary<infer T> ? T : never, lowestZero: number) {
  const next = random(w.seed);
  const columns = (w.groupSize ?? 32) * w.groups - 32 * Math.min(w.missing, (w.groupSize ?? 32) / 32 - 1);
  const groups = w.groupSize === null ? 1 : w.groups;
  const below = (n: number) => Math.floor(n * next());
  const middle = 2 ** (w.bits - 1);
  const codes = Array.from({ length: w.rows * columns }, () => below(2 ** w.bits));
  const wide = Float32Array.from({ length: w.rows * groups }, () => (next() - 0.5) / 16);
  const scales = castTensor(castTensor(wide, { from: 'float32', to: w.scaleDtype }) as never, {
    from: w.scaleDtype,
    to: 'float32',
  }) as Float32Array;
  const zeros = Int32Array.from(scales, () => (w.symmetric ? middle : lowestZero + below(2 ** w.bits - lowestZero)));
  // The same weight with signed codes: everything less the middle.
  const shift = w.signed ? middle : 0;
  const tensor = tensorOf(
    codes.map((code) => code - shift),
    [w.rows, columns],
    w.bits,
    w.groupSize,
    scales,
    w.symmetric && w.signed ? null : zeros.map((zero) => zero - shift),
    w.signed,
  );
  const places = Int32Array.from({ length: columns }, (_, i) => i);
  for (let i = columns - 1; i > 0; i--) {
    const j = below(i + 1);
    [places[i], places[j]] = [places[j] as number, places[i] as number];
  }
  return { codes, columns, groups, scales, zeros, tensor, places };
}

async function openWritten(writer: LayoutWriter, outputs: Awaited<ReturnType<typeof writeWhole>>) {
  const config = { 'config.json': { quantization_config: writer.config(['lm_head']) } };
  const tensors = [...outputs].map(([name, tensor]) => [name, { ...tensor, shape: [...tensor.shape] }]);
  return checkpointOf(nextFolder(), Object.fromEntries(tensors), config);
}

describe('what is written is read again', () => {
  it('GPTQ: any shape, width, group size, scheme, version and order', async () => {
    await fc.assert(
      fc.asyncProperty(weights, async (w) => {
        const x = randomWeight(w, w.version === 1 ? 1 : 0);
        const { bits, rows, groupSize, version, actOrder, scaleDtype } = w;
        const scheme = w.symmetric ? 'symmetric' : 'asymmetric';
        const writer = gptqWriter({ bits, scheme, groupSize, version, actOrder, scaleDtype });
        const weight = outlineOf([rows, x.columns]);
        expect(writer.refusal(weight)).toBeNull();
        const outputs = await writeWhole(writer, weight, x.tensor, actOrder ? x.places : null, w.blockRows);

        // As stored: input places[i] is number i of the tensor.
        const stored = x.codes.slice();
        const index = new Int32Array(x.columns);
        for (let i = 0; i < x.columns; i++) {
          const to = actOrder ? (x.places[i] as number) : i;
          index[to] = groupSize === null ? 0 : Math.floor(i / groupSize);
          for (let n = 0; n < rows; n++) stored[n * x.columns + to] = x.codes[n * x.columns + i] as number;
        }
        expect(words(outputs.get(`${layer}.qweight`)?.data)).toEqual(
          Array.from(gptqWords(stored, rows, x.columns, bits)),
        );
        const less = x.zeros.map((zero) => zero - (version === 1 ? 1 : 0));
        expect(words(outputs.get(`${layer}.qzeros`)?.data)).toEqual(
          Array.from(gptqZeroWords(less, rows, x.groups, bits)),
        );
        expect(words(outputs.get(`${layer}.g_idx`)?.data)).toEqual(Array.from(index));

        const checkpoint = await openWritten(writer, outputs);
        const got = await weightOf(checkpoint, weight.name);
        const mixed = index.some((group, k) => group !== (groupSize === null ? 0 : Math.floor(k / groupSize)));
        expect(got.encoding).toEqual({
          format: 'gptq',
          dtype: `int${bits}`,
          groupSize,
          traits: [`v${version}`, scheme, ...(mixed ? ['act-order'] : [])],
        });
        const whole = await readWhole(got, w.blockRows);
        expect(whole.scales).toEqual(Array.from(x.scales));
        expect(whole.zeroPoints).toEqual(Array.from(x.zeros));
        const order = whole.order ?? Array.from({ length: x.columns }, (_, k) => k);
        const size = groupSize ?? x.columns;
        order.forEach((k, i) => {
          expect(index[k]).toBe(Math.floor(i / size));
        });
        const expected = Array.from({ length: rows * x.columns }, (_, i) => {
          const row = Math.floor(i / x.columns) * x.columns;
          return stored[row + (order[i - row] as number)];
        });
        expect(whole.codes).toEqual(expected);
        await checkpoint.close();
      }),
      { numRuns: 60 },
    );
  });

  it('AWQ: any shape, group size and scheme', async () => {
    await fc.assert(
      fc.asyncProperty(weights, fc.integer({ min: 1, max: 30 }), async (w, n) => {
        const four = { ...w, bits: 4 as const, rows: 8 * n, missing: 0 };
        const x = randomWeight(four, 0);
        const { rows, groupSize, scaleDtype } = four;
        const scheme = w.symmetric ? 'symmetric' : 'asymmetric';
        const writer = awqWriter({ scheme, groupSize, scaleDtype });
        const weight = outlineOf([rows, x.columns]);
        expect(writer.refusal(weight)).toBeNull();
        const blockRows = w.blockRows / 4;
        const outputs = await writeWhole(writer, weight, x.tensor, null, blockRows);
        expect(words(outputs.get(`${layer}.qweight`)?.data)).toEqual(Array.from(awqWords(x.codes, rows, x.columns)));
        expect(words(outputs.get(`${layer}.qzeros`)?.data)).toEqual(Array.from(awqWords(x.zeros, rows, x.groups)));
        const scales = new Uint8Array(turned(x.scales, rows, x.groups).buffer);
        if (scaleDtype === 'float32') expect(outputs.get(`${layer}.scales`)?.data).toEqual(scales);

        const checkpoint = await openWritten(writer, outputs);
        const got = await weightOf(checkpoint, weight.name);
        expect(got.encoding).toEqual({ format: 'awq', dtype: 'int4', groupSize, traits: ['gemm', scheme] });
        const whole = await readWhole(got, blockRows);
        expect(whole).toMatchObject({ codes: x.codes, scales: Array.from(x.scales), zeroPoints: Array.from(x.zeros) });
        await checkpoint.close();
      }),
      { numRuns: 60 },
    );
  });

  it('codes that do not begin on a word of memory', async () => {
    const codes = Array.from({ length: 32 * 64 }, (_, i) => (i * 7) % 16);
    const tensor = tensorOf(codes, [32, 64], 4, 32, new Float32Array(64).fill(1), null);
    const moved = new Uint8Array(tensor.data.length + 1);
    moved.set(tensor.data, 1);
    const writer = gptqWriter({ bits: 4, scheme: 'symmetric', groupSize: 32 });
    const pieces = await writer.encode(outlineOf([32, 64]), 0, { ...tensor, data: moved.subarray(1) }, null);
    const qweight = pieces.find(({ tensor: name }) => name.endsWith('qweight'));
    expect(words(qweight?.data)).toEqual(Array.from(gptqWords(codes, 32, 64, 4)));
  });

  it('an order that names codes that are not there is refused by the addon', async () => {
    const out = new Uint32Array(4);
    const order = Int32Array.from({ length: 32 }, (_, i) => i);
    await selectCodes(new Uint32Array([1, 2, 3, 4]), 4, order, 1, out);
    expect(Array.from(out)).toEqual([1, 2, 3, 4]);
    for (const wrong of [32, -1]) {
      order[5] = wrong;
      await expect(selectCodes(new Uint32Array(4), 4, order, 1, out)).rejects.toBeInstanceOf(InvalidArgumentError);
    }
    await expect(selectCodes(new Uint32Array(4), 4, new Int32Array(31), 1, out)).rejects.toBeInstanceOf(
      InvalidArgumentError,
    );
  });

  it('through the writer of files, in pieces', async () => {
    const x = randomWeight(
      {
        seed: 5,
        bits: 4,
        rows: 96,
        groupSize: 32,
        groups: 2,
        missing: 0,
        symmetric: true,
        signed: false,
        version: 1,
        actOrder: false,
        scaleDtype: 'float16',
        blockRows: 32,
      },
      1,
    );
    const writer = gptqWriter({ bits: 4, scheme: 'symmetric', groupSize: 32 });
    const weight = outlineOf([96, 64]);
    const path = join(root, 'written.safetensors');
    const file = await writeSafetensors(path, writer.outputs(weight), new Map());
    for (const { tensor, begin, data, rowBytes = data.length, stride = 0 } of await writer.encode(
      weight,
      0,
      x.tensor,
      null,
    )) {
      for (let from = 0, to = begin; from < data.length; from += rowBytes, to += stride) {
        await file.write(tensor, to, data.subarray(from, from + rowBytes));
      }
    }
    await file.close();
    const { tensors } = readSafetensors(readFileSync(path));
    expect(words(tensors.get(`${layer}.qweight`)?.bytes)).toEqual(Array.from(gptqWords(x.codes, 96, 64, 4)));
    expect(words(tensors.get(`${layer}.qzeros`)?.bytes)).toEqual(new Array(2 * 12).fill(0x77777777));
    const half = castTensor(turned(x.scales, 96, 2), { from: 'float32', to: 'float16' });
    expect(tensors.get(`${layer}.scales`)?.bytes.equals(Buffer.from(half.buffer))).toBe(true);
  });
});

describe('what a layout can not hold', () => {
  const shape = [32, 64] as const;
  const zeroed = (zero: number, signed = false) => {
    const zeros = new Int32Array(64).fill(8 - (signed ? 8 : 0));
    zeros[2 * 20 + 1] = zero;
    return tensorOf(new Array(32 * 64).fill(3), shape, 4, 32, new Float32Array(64).fill(1), zeros, signed);
  };
  const gptq = (version: 1 | 2) => gptqWriter({ bits: 4, scheme: 'asymmetric', groupSize: 32, version });

  it.each([false, true])('version 1: a zero point of 0 (signed: %s)', async (signed) => {
    const tensor = zeroed(signed ? -8 : 0, signed);
    const error = await gptq(1)
      .encode(outlineOf(shape), 0, tensor, null)
      .catch((e: unknown) => e as CheckpointError);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error).toMatchObject({ code: 'ZERO_POINT_OUT_OF_RANGE', tensor: outlineOf(shape).name });
    expect((error as Error).message).toMatch(/group 1 of output channel 20 has 0.*write version 2/);
    await expect(gptq(2).encode(outlineOf(shape), 0, tensor, null)).resolves.toHaveLength(4);
  });

  it.each([-1, 16])('a zero point of %i', async (zero) => {
    for (const writer of [gptq(1), gptq(2), awqWriter({ scheme: 'asymmetric', groupSize: 32 })]) {
      const encoded = writer.encode(outlineOf(shape), 0, zeroed(zero), null);
      await expect(encoded).rejects.toMatchObject({ code: 'ZERO_POINT_OUT_OF_RANGE' });
    }
  });

  it.each(['float16', 'bfloat16'] as const)('a scale that %s can not hold', async (scaleDtype) => {
    const scales = new Float32Array(64).fill(1);
    scales[2 * 3 + 1] = 3.4028235e38;
    const tensor = tensorOf(new Array(32 * 64).fill(3), shape, 4, 32, scales, new Int32Array(64).fill(8));
    const writer = gptqWriter({ bits: 4, scheme: 'asymmetric', groupSize: 32, scaleDtype });
    const error = await writer.encode(outlineOf(shape), 0, tensor, null).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ScaleOverflowError);
    expect(error).toMatchObject({ index: 7, tensor: outlineOf(shape).name });
  });

  it("AWQ: GPTQ's act-order", async () => {
    const order = Int32Array.from({ length: 64 }, (_, i) => 63 - i);
    const encoded = awqWriter({ scheme: 'asymmetric', groupSize: 32 }).encode(outlineOf(shape), 0, zeroed(8), order);
    await expect(encoded).rejects.toMatchObject({ code: 'LAYOUT_UNSUPPORTED' });
  });

  it('blocks and tensors that are not what the writer was made for', async () => {
    const small = zeroed(8);
    const wrong: [LayoutWriter, number, QuantizedTensor, Int32Array | null][] = [
      [gptq(1), 8, small, null],
      [gptq(1), 32, small, null],
      [gptq(1), 0, small, new Int32Array(64)],
      [gptqWriter({ bits: 4, scheme: 'asymmetric', groupSize: 32, actOrder: true }), 0, small, new Int32Array(64)],
      [gptqWriter({ bits: 8, scheme: 'asymmetric', groupSize: 32 }), 0, small, null],
      [gptqWriter({ bits: 4, scheme: 'asymmetric', groupSize: 64 }), 0, small, null],
      [gptqWriter({ bits: 4, scheme: 'asymmetric', groupSize: null }), 0, small, null],
      [awqWriter({ scheme: 'asymmetric', groupSize: 64 }), 0, small, null],
      [awqWriter({ scheme: 'asymmetric', groupSize: 32 }), 4, small, null],
    ];
    for (const [writer, begin, tensor, order] of wrong) {
      await expect(writer.encode(outlineOf(shape), begin, tensor, order)).rejects.toBeInstanceOf(RangeError);
    }
  });

  it.each([
    [[30, 64], 32, 'output channels are no multiple of 32', 'output channels are no multiple of 8'],
    [[32, 36], null, 'inputs are no multiple of 32', 'inputs are no multiple of 8'],
    [[0, 64], 32, 'empty', 'empty'],
  ] as const)('a weight of %j in groups of %s', (dims, groupSize, first, second) => {
    expect(gptqWriter({ bits: 4, scheme: 'symmetric', groupSize }).refusal(outlineOf(dims))).toContain(first);
    expect(awqWriter({ scheme: 'symmetric', groupSize }).refusal(outlineOf(dims))).toContain(second);
    const odd = { ...outlineOf([32, 64]), name: 'model.embed' };
    expect(gptqWriter({ bits: 4, scheme: 'symmetric', groupSize: null }).refusal(odd)).toContain('<layer>.weight');
  });
});

describe('a shorter last group', () => {
  it('has a place in GPTQ', () => {
    const writer = gptqWriter({ bits: 4, scheme: 'symmetric', groupSize: 64 });
    expect(writer.refusal(outlineOf([32, 96]))).toBeNull();
    const shapes = Object.fromEntries(writer.outputs(outlineOf([32, 96])).map(({ name, shape }) => [name, shape]));
    expect(shapes).toEqual({
      [`${layer}.qweight`]: [12, 32],
      [`${layer}.qzeros`]: [2, 4],
      [`${layer}.scales`]: [2, 32],
      [`${layer}.g_idx`]: [96],
    });
  });

  it('has none in AWQ, which says what would do', () => {
    const writer = awqWriter({ scheme: 'symmetric', groupSize: 128 });
    expect(writer.refusal(outlineOf([32, 192]))).toBe(
      'its 192 inputs are no multiple of the group size, 128: choose a group size of 64 or 32, or a scale per channel',
    );
    expect(writer.refusal(outlineOf([32, 200]))).toContain('choose a scale per channel');
  });
});

describe('configs', () => {
  it('GPTQ', () => {
    const settings = { bits: 4, scheme: 'symmetric', groupSize: 128, actOrder: true, tools: ['lowbit:1.0.0'] } as const;
    const config = gptqWriter(settings).config(['lm_head', 'model.layers.0.mlp.gate']);
    expect(config).toEqual({
      bits: 4,
      group_size: 128,
      desc_act: true,
      static_groups: false,
      sym: true,
      lm_head: false,
      true_sequential: true,
      quant_method: 'gptq',
      checkpoint_format: 'gptq',
      pack_dtype: 'int32',
      dynamic: { '-:^model\\.layers\\.0\\.mlp\\.gate$': {} },
      meta: { quantizer: ['lowbit:1.0.0'] },
    });
    expect(gptqConfig(settings, [])).not.toHaveProperty('dynamic');
    expect(
      gptqConfig({ ...settings, version: 2, groupSize: null, scheme: 'asymmetric', lmHead: true }, []),
    ).toMatchObject({
      checkpoint_format: 'gptq_v2',
      group_size: -1,
      sym: false,
      lm_head: true,
    });
  });

  it('AWQ', () => {
    const settings = { scheme: 'asymmetric', groupSize: 128 } as const;
    expect(awqWriter(settings).config(['lm_head'])).toEqual({
      quant_method: 'awq',
      bits: 4,
      group_size: 128,
      zero_point: true,
      version: 'gemm',
      modules_to_not_convert: ['lm_head'],
    });
    expect(awqQuantConfig({ scheme: 'symmetric', groupSize: null }, [])).toEqual({
      zero_point: false,
      q_group_size: -1,
      w_bit: 4,
      version: 'GEMM',
      modules_to_not_convert: null,
    });
  });

  it('recipes', () => {
    expect(gptqWriter({ bits: 4, scheme: 'symmetric', groupSize: 64, actOrder: true }).recipe).toMatchObject({
      ordered: true,
      noLowestZeroPoint: true,
    });
    expect(gptqWriter({ bits: 3, scheme: 'asymmetric', groupSize: 64, version: 2 }).recipe).toEqual({
      dtype: 'uint3',
      scheme: 'asymmetric',
      granularity: 'per-group',
      groupSize: 64,
      scaleDtype: 'float16',
      needsLargest: false,
    });
    expect(awqWriter({ scheme: 'symmetric', groupSize: null, scaleDtype: 'bfloat16' }).recipe).toEqual({
      dtype: 'uint4',
      scheme: 'symmetric',
      granularity: 'per-channel',
      axis: 0,
      scaleDtype: 'bfloat16',
      needsLargest: false,
    });
  });
});
