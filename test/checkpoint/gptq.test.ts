import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { floatsOf } from '../../lib/checkpoint/floats.js';
import { gptqReader } from '../../lib/checkpoint/layouts/gptq.js';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import { CheckpointError, castTensor, quantizeTensor, unpackCodes } from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { type RawTensor, safetensors, temporaryFolder } from '../support/files.js';
import { checkpointOf, gptqWords, gptqZeroWords, readWhole, turned, weightOf } from '../support/packed.js';
import { normal, random } from '../support/random.js';
import { type EncodedArray, float32, numbers, readJson } from '../support/vectors.js';

interface GptqCase {
  op: string;
  bits: number;
  group_size: number;
  desc_act: boolean;
  static_groups: boolean;
  sym: boolean;
  Q: EncodedArray;
  zero: EncodedArray;
  packed: { qweight: EncodedArray; qzeros: EncodedArray; scales_f32: EncodedArray; g_idx: EncodedArray };
}
const { cases } = readJson<{ cases: GptqCase[] }>('gptq', 'gptq.json');
const halves = readJson<{ cases: { case: number; float16: HalfCase; bfloat16: HalfCase }[] }>(
  'gptq',
  'half.json',
).cases;
interface HalfCase {
  scales: EncodedArray;
  weight: EncodedArray;
}

const root = temporaryFolder();
let count = 0;
const nextFolder = () => join(root, String(count++));
const raw = (a: EncodedArray, dtype: string): RawTensor => ({
  dtype,
  shape: a.shape,
  data: new Uint8Array(Buffer.from(a.b64, 'base64')),
});

function configOf({ bits, group_size, desc_act, sym, static_groups }: GptqCase) {
  return {
    'quantize_config.json': {
      bits,
      group_size,
      desc_act,
      sym,
      static_groups,
      damp_percent: 0.01,
      true_sequential: true,
    },
  };
}

function tensorsOf({ packed }: GptqCase, scales: RawTensor, layer = 'model.layers.0.mlp.up_proj') {
  return {
    [`${layer}.qweight`]: raw(packed.qweight, 'I32'),
    [`${layer}.qzeros`]: raw(packed.qzeros, 'I32'),
    [`${layer}.scales`]: scales,
    [`${layer}.g_idx`]: raw(packed.g_idx, 'I32'),
  };
}

describe('weights that AutoGPTQ quantized and packed', () => {
  const quantized = cases.map((c, i) => [c, i] as const).filter(([c]) => c.op === 'gptq');
  const title = ([c]: readonly [GptqCase, number]) =>
    `${c.bits} bits, group ${c.group_size}, ${c.sym ? 'symmetric' : 'asymmetric'}${c.desc_act ? ', act-order' : ''}${c.static_groups ? ', static' : ''}`;

  it('there are nine of them', () => expect(quantized).toHaveLength(9));

  it.each(quantized.map((entry) => [title(entry), ...entry] as const))('%s: float32', async (_, c) => {
    const checkpoint = await checkpointOf(nextFolder(), tensorsOf(c, raw(c.packed.scales_f32, 'F32')), configOf(c));
    const weight = await weightOf(checkpoint, 'model.layers.0.mlp.up_proj.weight');
    const [rows = 0, columns = 0] = c.Q.shape;
    expect(weight).toMatchObject({ rows, columns, shape: [rows, columns], dtype: 'float32', rowStep: 32 });
    expect(weight.parts).toHaveLength(4);
    expect(weight.encoding).toMatchObject({
      format: 'gptq',
      dtype: `int${c.bits}`,
      groupSize: c.group_size === -1 ? null : c.group_size,
    });
    const mixed = c.desc_act && !c.static_groups && c.group_size < columns && c.group_size > 0;
    expect(weight.encoding.traits).toEqual(['v1', c.sym ? 'symmetric' : 'asymmetric', ...(mixed ? ['act-order'] : [])]);
    const scratch = new Scratch();
    const block = await weight.read(0, rows, scratch);
    const got = await floatsOf(block, rows * columns, columns, scratch);
    const expected = float32(c.Q);
    // A zero point of 0 has destroyed the fields above it in its word: what AutoGPTQ stored is not what it computed.
    const zeros = float32(c.zero);
    const groups = zeros.length / rows;
    const perWord = c.bits === 3 ? 32 : 32 / c.bits;
    let compared = 0;
    for (let n = 0; n < rows; n++) {
      const damaged = Array.from({ length: n % perWord }, (_, i) => n - 1 - i).some((below) =>
        Array.from({ length: groups }, (_, g) => zeros[below * groups + g]).includes(0),
      );
      if (damaged) continue;
      compared++;
      expect(
        sameBytes(got.subarray(n * columns, (n + 1) * columns), expected.subarray(n * columns, (n + 1) * columns)),
      ).toBe(true);
    }
    expect(compared).toBeGreaterThanOrEqual(c.sym ? rows : 2);
    await checkpoint.close();
  });

  it.each(halves.flatMap((h) => (['float16', 'bfloat16'] as const).map((t) => [`${h.case}: ${t}`, h, t] as const)))(
    'every bit of case %s',
    async (_, half, dtype) => {
      const c = cases[half.case] as GptqCase;
      const stored = dtype === 'float16' ? 'F16' : 'BF16';
      const folder = nextFolder();
      const checkpoint = await checkpointOf(folder, tensorsOf(c, raw(half[dtype].scales, stored)), configOf(c), true);
      const weight = await weightOf(checkpoint, 'model.layers.0.mlp.up_proj.weight');
      const scratch = new Scratch();
      const [rows = 0, columns = 0] = c.Q.shape;
      const floats = await floatsOf(await weight.read(0, rows, scratch), rows * columns, columns, scratch);
      const got = castTensor(floats, { from: 'float32', to: dtype });
      expect(Array.from(got)).toEqual(numbers(half[dtype].weight));
      expect(weight.dtype).toBe(dtype);
      await checkpoint.close();
    },
  );
});

/** A quantized layer of normal weights, in both versions. */
function layerOf(
  seed: number,
  { rows = 64, columns = 128, bits = 4 as 2 | 3 | 4 | 8, groupSize = 32, symmetric = false } = {},
) {
  const groups = columns / groupSize;
  const q = quantizeTensor(normal(rows * columns, seed), {
    shape: [rows, columns],
    dtype: `uint${bits}`,
    scheme: symmetric ? 'symmetric' : 'asymmetric',
    granularity: 'per-group',
    groupSize,
    scaleDtype: 'float16',
  });
  const zeros = q.zeroPoints ?? new Int32Array(q.scales.length).fill(2 ** (bits - 1));
  const codes = Array.from(unpackCodes(q));
  const scales = castTensor(q.scales, { from: 'float32', to: 'float16' });
  const tensors = (version: 1 | 2, layer = 'layer'): Record<string, RawTensor> => ({
    [`${layer}.qweight`]: {
      dtype: 'I32',
      shape: [(columns * bits) / 32, rows],
      data: gptqWords(codes, rows, columns, bits),
    },
    [`${layer}.qzeros`]: {
      dtype: 'I32',
      shape: [groups, (rows * bits) / 32],
      data: gptqZeroWords(
        zeros.map((z) => z - (version === 1 ? 1 : 0)),
        rows,
        groups,
        bits,
      ),
    },
    [`${layer}.scales`]: { dtype: 'F16', shape: [groups, rows], data: turned(scales, rows, groups) },
    [`${layer}.g_idx`]: {
      dtype: 'I32',
      shape: [columns],
      data: Int32Array.from({ length: columns }, (_, k) => Math.floor(k / groupSize)),
    },
  });
  return { q, zeros, codes, tensors, bits, groupSize, rows, columns };
}

const config = (extra: Record<string, unknown> = {}) => ({
  'config.json': {
    model_type: 'llama',
    quantization_config: { quant_method: 'gptq', bits: 4, group_size: 32, desc_act: false, sym: false, ...extra },
  },
});

describe('which version the zero points are', () => {
  const large = { rows: 256, columns: 256, groupSize: 128 };
  const one = layerOf(1, large);
  const two = layerOf(2, large);
  const open = (version: 1 | 2, files: Record<string, unknown>) =>
    checkpointOf(nextFolder(), { ...one.tensors(version, 'a'), ...two.tensors(version, 'b') }, files);
  const versionOf = async (...args: Parameters<typeof open>) => {
    const [weight] = await weightsOf(await open(...args));
    return weight?.encoding.traits[0];
  };
  const asked = { group_size: 128 };

  it.each([1, 2] as const)('asymmetric, version %i: label and data agree', async (version) => {
    const format = version === 1 ? 'gptq' : 'gptq_v2';
    expect(await versionOf(version, config({ ...asked, checkpoint_format: format }))).toBe(`v${version}`);
    expect(await versionOf(version, config({ ...asked, format }))).toBe(`v${version}`);
  });

  it.each([1, 2] as const)('asymmetric, version %i: without a label, by the mean of the codes', async (version) => {
    expect(await versionOf(version, config(asked))).toBe(`v${version}`);
    expect(await versionOf(version, {})).toBe(`v${version}`);
    expect(await versionOf(version, { 'quantize_config.json': { bits: 4, group_size: 128, desc_act: false } })).toBe(
      `v${version}`,
    );
  });

  it.each([1, 2] as const)('asymmetric, version %i under the label of the other: refused', async (version) => {
    const checkpoint = await open(
      version,
      config({
        ...asked,
        checkpoint_format: version === 1 ? 'gptq_v2' : 'gptq',
        meta: { quantizer: ['gptqmodel:1.4.0'] },
      }),
    );
    const error = await weightsOf(checkpoint).catch((e: unknown) => e as CheckpointError);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error).toMatchObject({ code: 'LAYOUT_AMBIGUOUS', path: checkpoint.path });
    expect((error as Error).message).toMatch(
      /says checkpoint_format "gptq.*on average -?\d\.\d\d as version 1, -?\d\.\d\d as version 2.*gptqmodel:1\.4\.0.*gptqVersion 1/,
    );
    for (const gptqVersion of [1, 2] as const) {
      const weights = await gptqReader({ gptqVersion }).claim(checkpoint, new Map(checkpoint.tensors));
      expect(weights.map(({ encoding }) => encoding.traits[0])).toEqual([`v${gptqVersion}`, `v${gptqVersion}`]);
    }
  });

  it.each([2, 3, 4, 8] as const)('symmetric, %i bits: by the words alone', async (bits) => {
    const layer = layerOf(3, { symmetric: true, bits, rows: 32, columns: 64 });
    for (const version of [1, 2] as const) {
      const read = async (extra: Record<string, unknown>) =>
        weightsOf(await checkpointOf(nextFolder(), layer.tensors(version), config({ bits, sym: true, ...extra })));
      expect((await read({}))[0]?.encoding.traits[0]).toBe(`v${version}`);
      const wrong = version === 1 ? 'gptq_v2' : 'gptq';
      await expect(read({ checkpoint_format: wrong })).rejects.toMatchObject({ code: 'LAYOUT_AMBIGUOUS' });
    }
  });

  describe("three bits, whose words GPTQModel's version 1 subtracts other constants from", () => {
    // gptqmodel/utils/model.py, convert_gptq_v2_to_v1_format: constants by the column of a word.
    const SUBTRACTED = [
      0b00100100100100100100100100100100, 0b10010010010010010010010010010010, 0b01001001001001001001001001001001,
    ];
    const three = { bits: 3 as const, rows: 256, columns: 256, groupSize: 128 };
    const modelled = (tensors: Record<string, RawTensor>) => {
      const qzeros = tensors['layer.qzeros'] as RawTensor;
      const data = (qzeros.data as Uint32Array).map((word, i) => word - (SUBTRACTED[(i % 24) % 3] as number));
      return { ...tensors, 'layer.qzeros': { ...qzeros, data } };
    };
    it.each([
      ['symmetric', true],
      ['asymmetric', false],
    ])('%s', async (_, symmetric) => {
      const layer = layerOf(20, { ...three, symmetric });
      const forms = [layer.tensors(1), modelled(layer.tensors(2)), layer.tensors(2)];
      for (const [i, tensors] of forms.entries()) {
        for (const checkpoint_format of [undefined, i < 2 ? 'gptq' : 'gptq_v2']) {
          const files = config({ bits: 3, group_size: 128, sym: symmetric, checkpoint_format });
          const weight = await weightOf(await checkpointOf(nextFolder(), tensors, files), 'layer.weight');
          expect(weight.encoding.traits[0]).toBe(i < 2 ? 'v1' : 'v2');
          expect((await readWhole(weight, 96)).zeroPoints).toEqual(Array.from(layer.zeros));
        }
      }
    });

    it('is told by the name of the tool, where the data do not tell', async () => {
      const layer = layerOf(21, { ...three, rows: 32, columns: 128 });
      const model = layer.tensors(2);
      const qzeros = model['layer.qzeros'] as RawTensor;
      const data = (qzeros.data as Uint32Array).map((word, i) => word - (SUBTRACTED[i % 3] as number));
      const meta = { quantizer: ['gptqmodel:2.0.0'] };
      for (const [tensors, extra] of [
        [{ ...model, 'layer.qzeros': { ...qzeros, data } }, { meta }],
        [layer.tensors(1), {}],
      ] as const) {
        const files = config({ bits: 3, group_size: 128, checkpoint_format: 'gptq', ...extra });
        const weight = await weightOf(await checkpointOf(nextFolder(), tensors, files), 'layer.weight');
        expect((await readWhole(weight, 32)).zeroPoints).toEqual(Array.from(layer.zeros));
      }
    });
  });

  it('without a config, weights whose zero points are all the middle are symmetric', async () => {
    const layer = layerOf(22, { symmetric: true });
    const weight = await weightOf(await checkpointOf(nextFolder(), layer.tensors(2)), 'layer.weight');
    expect(weight.encoding.traits).toEqual(['v2', 'symmetric']);
    const whole = await readWhole(weight, 64);
    expect(whole.blocks[0]).toMatchObject({ tensor: { scheme: 'symmetric' } });
    expect(whole.codes).toEqual(layer.codes);
  });

  it('the layouts of AutoRound are told by their shapes', async () => {
    const checkpoint = await open(1, config({ ...asked, quant_method: 'auto-round' }));
    expect((await weightsOf(checkpoint)).map(({ encoding }) => encoding.format)).toEqual(['gptq', 'gptq']);
  });

  it('the words of four bits are those that everyone knows', async () => {
    const layer = layerOf(4, { symmetric: true, rows: 32, columns: 64 });
    expect(new Set(layer.tensors(1)['layer.qzeros']?.data as Uint32Array)).toEqual(new Set([0x77777777]));
    expect(new Set(layer.tensors(2)['layer.qzeros']?.data as Uint32Array)).toEqual(new Set([0x88888888]));
  });

  it('too little data: version 1 where a config is as old as that, else refused', async () => {
    const small = layerOf(5, { rows: 32, columns: 64 });
    const [weight] = await weightsOf(await checkpointOf(nextFolder(), small.tensors(2), config()));
    expect(weight?.encoding.traits[0]).toBe('v1');
    const bare = await checkpointOf(nextFolder(), small.tensors(2));
    await expect(weightsOf(bare)).rejects.toMatchObject({ code: 'LAYOUT_AMBIGUOUS' });
  });

  it('both versions give the same codes, scales and zero points', async () => {
    const read = async (version: 1 | 2) =>
      readWhole(await weightOf(await open(version, config(asked)), 'a.weight'), 96);
    const [first, second] = [await read(1), await read(2)];
    expect(first.codes).toEqual(one.codes);
    expect(first.zeroPoints).toEqual(Array.from(one.zeros));
    expect(first.scales).toEqual(Array.from(one.q.scales));
    expect({ ...second, blocks: [] }).toEqual({ ...first, blocks: [] });
  });
});

describe('the way from tensors to weights', () => {
  it('several layers of several widths and group sizes, float weights and biases, in shards', async () => {
    const a = layerOf(6, { rows: 96, columns: 64 });
    const b = layerOf(7, { bits: 8, groupSize: 64, rows: 32, columns: 128 });
    const tensors: Record<string, RawTensor> = {
      ...a.tensors(1, 'model.layers.0.mlp.up_proj'),
      'model.layers.0.mlp.up_proj.bias': { dtype: 'F16', shape: [96], data: new Uint16Array(96) },
      'model.norm.weight': { dtype: 'F16', shape: [64], data: new Uint16Array(64) },
      ...b.tensors(1, 'lm_head'),
    };
    const extra = {
      lm_head: true,
      checkpoint_format: 'gptq',
      dynamic: { '+:lm_head': { bits: 8, group_size: 64 }, '-:x': {} },
    };
    const checkpoint = await checkpointOf(nextFolder(), tensors, config(extra), true);
    const weights = await weightsOf(checkpoint);
    expect(weights.map(({ name, encoding }) => [name, encoding.format, encoding.dtype, encoding.groupSize])).toEqual(
      [
        ['lm_head.weight', 'gptq', 'int8', 64],
        ['model.layers.0.mlp.up_proj.weight', 'gptq', 'int4', 32],
        ['model.layers.0.mlp.up_proj.bias', 'float', 'float16', null],
        ['model.norm.weight', 'float', 'float16', null],
      ].sort((x, y) => place(x[0] as string) - place(y[0] as string)),
    );
    function place(name: string): number {
      return [...checkpoint.tensors.keys()].findIndex((stored) => stored.startsWith(name.replace('.weight', '')));
    }
    const up = weights.find(({ name }) => name.includes('up_proj.weight'));
    const head = weights.find(({ name }) => name === 'lm_head.weight');
    if (up === undefined || head === undefined) throw new Error('missing');
    for (const blockRows of [32, 64, 96]) {
      expect(await readWhole(up, blockRows)).toMatchObject({ codes: a.codes, zeroPoints: Array.from(a.zeros) });
    }
    expect(await readWhole(head, 32)).toMatchObject({ codes: b.codes, zeroPoints: Array.from(b.zeros) });
    const scratch = new Scratch();
    await expect(up.read(8, 40, scratch)).rejects.toBeInstanceOf(RangeError);
    await expect(up.read(0, 40, scratch)).rejects.toBeInstanceOf(RangeError);
    await checkpoint.close();
  });

  it('a file alone has no config', async () => {
    const layer = layerOf(8, { rows: 256, columns: 128, groupSize: 128 });
    const folder = nextFolder();
    await checkpointOf(folder, layer.tensors(2), config({ checkpoint_format: 'marlin' }));
    const weight = await weightOf(await openCheckpoint(join(folder, 'model.safetensors')), 'layer.weight');
    expect(weight.encoding).toMatchObject({ format: 'gptq', groupSize: null, traits: ['v2', 'asymmetric'] });
  });

  it('other methods are left alone', async () => {
    const checkpoint = await checkpointOf(
      nextFolder(),
      layerOf(9).tensors(1),
      config({ quant_method: 'something-else' }),
    );
    expect((await weightsOf(checkpoint)).map(({ encoding }) => encoding.format)).not.toContain('gptq');
  });

  it('inputs that are mixed come sorted, with the way back', async () => {
    const layer = layerOf(10, { rows: 32, columns: 128 });
    const next = random(11);
    const places = Array.from({ length: 128 }, (_, k) => k);
    for (let i = 127; i > 0; i--) {
      const j = Math.floor(next() * (i + 1));
      [places[i], places[j]] = [places[j] as number, places[i] as number];
    }
    // Input places[k] of the stored weight is input k of the layer above.
    const codes = new Array<number>(32 * 128);
    const index = new Int32Array(128);
    for (let k = 0; k < 128; k++) {
      index[places[k] as number] = Math.floor(k / 32);
      for (let n = 0; n < 32; n++) codes[n * 128 + (places[k] as number)] = layer.codes[n * 128 + k] as number;
    }
    const tensors = {
      ...layer.tensors(1),
      'layer.qweight': { dtype: 'I32', shape: [16, 32], data: gptqWords(codes, 32, 128, 4) },
      'layer.g_idx': { dtype: 'I32', shape: [128], data: index },
    };
    const weight = await weightOf(
      await checkpointOf(nextFolder(), tensors, config({ desc_act: true })),
      'layer.weight',
    );
    expect(weight.encoding.traits).toContain('act-order');
    const whole = await readWhole(weight, 32);
    const order = whole.order as number[];
    expect([...order].sort((x, y) => x - y)).toEqual(Array.from({ length: 128 }, (_, k) => k));
    for (let i = 0; i < 128; i++) {
      expect(index[order[i] as number]).toBe(Math.floor(i / 32));
      for (let n = 0; n < 32; n++) expect(whole.codes[n * 128 + i]).toBe(codes[n * 128 + (order[i] as number)]);
    }
  });

  it('the last group may be short', async () => {
    const [rows, columns] = [32, 96];
    const next = random(14);
    const codes = Array.from({ length: rows * columns }, () => Math.floor(16 * next()));
    const zeros = Int32Array.from({ length: 2 * rows }, () => 1 + Math.floor(15 * next()));
    const scales = Float32Array.from({ length: 2 * rows }, () => next());
    const weight = await weightOf(
      await checkpointOf(
        nextFolder(),
        {
          'layer.qweight': { dtype: 'I32', shape: [12, rows], data: gptqWords(codes, rows, columns, 4) },
          'layer.qzeros': {
            dtype: 'I32',
            shape: [2, 4],
            data: gptqZeroWords(
              zeros.map((z) => z - 1),
              rows,
              2,
              4,
            ),
          },
          'layer.scales': { dtype: 'F32', shape: [2, rows], data: turned(scales, rows, 2) },
        },
        config({ group_size: 64 }),
      ),
      'layer.weight',
    );
    const scratch = new Scratch();
    const floats = await floatsOf(await weight.read(0, rows, scratch), rows * columns, columns, scratch);
    const expected = Float32Array.from(codes, (code, i) => {
      const at = 2 * Math.floor(i / columns) + (i % columns < 64 ? 0 : 1);
      return (scales[at] as number) * (code - (zeros[at] as number));
    });
    expect(sameBytes(floats, expected)).toBe(true);
  });

  it.each(['F16', 'F32', 'BF16'])('groups of unequal sizes come as floats: scales in %s', async (stored) => {
    const layer = layerOf(12, { rows: 32, columns: 128 });
    // 48, 24, 40 and 16 inputs: all groups are multiples of 8.
    const sizes = [48, 24, 40, 16];
    const index = Int32Array.from(sizes.flatMap((size, g) => new Array<number>(size).fill(g)));
    for (let i = 0; i < 60; i++) [index[i], index[127 - i]] = [index[127 - i] as number, index[i] as number];
    const dtype = ({ F16: 'float16', F32: 'float32', BF16: 'bfloat16' } as const)[stored as 'F16'];
    const scales = castTensor(castTensor(layer.q.scales, { from: 'float32', to: dtype }) as never, {
      from: dtype,
      to: 'float32',
    }) as Float32Array;
    const tensors = {
      ...layer.tensors(1),
      'layer.scales': {
        dtype: stored,
        shape: [4, 32],
        data: castTensor(turned(scales, 32, 4), { from: 'float32', to: dtype }) as Uint16Array,
      },
      'layer.g_idx': { dtype: 'I32', shape: [128], data: index },
    };
    const weight = await weightOf(
      await checkpointOf(nextFolder(), tensors, config({ desc_act: true })),
      'layer.weight',
    );
    const block = await weight.read(0, 32, new Scratch());
    if (block.kind !== 'float') throw new Error(block.kind);
    expect(block.dtype).toBe(dtype);
    const expected = Float32Array.from({ length: 32 * 128 }, (_, i) => {
      const at = Math.floor(i / 128) * 4 + (index[i % 128] as number);
      return (scales[at] as number) * ((layer.codes[i] as number) - (layer.zeros[at] as number));
    });
    expect(sameBytes(block.data, castTensor(expected, { from: 'float32', to: dtype }))).toBe(true);
  });
});

describe('what is wrong is refused', () => {
  const layer = layerOf(13, { rows: 32, columns: 64 });
  const good = () => layer.tensors(1);
  const i32 = (...shape: number[]): RawTensor => ({
    dtype: 'I32',
    shape,
    data: new Int32Array(shape.reduce((a, b) => a * b, 1)),
  });
  const f16 = (...shape: number[]): RawTensor => ({
    dtype: 'F16',
    shape,
    data: new Uint16Array(shape.reduce((a, b) => a * b, 1)),
  });
  const without = (name: string) => {
    const { [name]: _, ...rest } = good();
    return rest;
  };
  const bad: [string, string, string, Record<string, RawTensor>, Record<string, unknown>?][] = [
    ['no scales', 'LAYOUT_INVALID', 'no "layer.scales"', without('layer.scales')],
    ['no zero points', 'LAYOUT_INVALID', 'no "layer.qzeros"', without('layer.qzeros')],
    ['no g_idx, though desc_act', 'LAYOUT_INVALID', 'no "layer.g_idx"', without('layer.g_idx'), { desc_act: true }],
    ['codes in floats', 'LAYOUT_INVALID', 'expected I32', { ...good(), 'layer.qweight': f16(8, 32) }],
    ['codes in one axis', 'LAYOUT_INVALID', 'expected two axes', { ...good(), 'layer.qweight': i32(256) }],
    ['too few channels', 'LAYOUT_INVALID', 'expected [K · 4 / 32, 32]', { ...good(), 'layer.qweight': i32(8, 31) }],
    ['no inputs', 'LAYOUT_INVALID', 'expected [K · 4 / 32, 32]', { ...good(), 'layer.qweight': i32(0, 32) }],
    ['no channels', 'LAYOUT_INVALID', 'expected [groups', { ...good(), 'layer.scales': f16(2, 0) }],
    ['too few zero points', 'LAYOUT_INVALID', 'expected [2, 4]', { ...good(), 'layer.qzeros': i32(2, 5) }],
    ['zero points of other groups', 'LAYOUT_INVALID', 'expected [2, 4]', { ...good(), 'layer.qzeros': i32(1, 4) }],
    ['zero points of another width', 'LAYOUT_INVALID', 'is 8 bits', { ...good(), 'layer.qzeros': i32(2, 8) }],
    ['integer scales', 'LAYOUT_INVALID', 'expected F16, BF16 or F32', { ...good(), 'layer.scales': i32(2, 32) }],
    ['one axis of scales', 'LAYOUT_INVALID', 'expected [groups', { ...good(), 'layer.scales': f16(64) }],
    ['another group size', 'LAYOUT_INVALID', 'expected 4 for group_size 16', good(), { group_size: 16 }],
    ['a short g_idx', 'LAYOUT_INVALID', 'expected [64]', { ...good(), 'layer.g_idx': i32(63) }],
    ['two axes of g_idx', 'LAYOUT_INVALID', 'expected one axis', { ...good(), 'layer.g_idx': i32(64, 1) }],
    [
      'a group that is not there',
      'LAYOUT_INVALID',
      'puts input 5 into group 2',
      { ...good(), 'layer.g_idx': withFive(2) },
    ],
    ['a negative group', 'LAYOUT_INVALID', 'puts input 5 into group -1', { ...good(), 'layer.g_idx': withFive(-1) }],
    ['the weight stored twice', 'LAYOUT_INVALID', 'stored twice', { ...good(), 'layer.weight': f16(32, 64) }],
    ['marlin', 'LAYOUT_UNSUPPORTED', 'marlin', good(), { checkpoint_format: 'marlin' }],
    [
      'marlin, under other names',
      'LAYOUT_UNSUPPORTED',
      'marlin',
      { 'layer.B': i32(4, 64) },
      { checkpoint_format: 'marlin' },
    ],
    ['old marlin', 'LAYOUT_UNSUPPORTED', 'marlin', good(), { is_marlin_format: true }],
    ['bits in words', 'CONFIG_INVALID', '"bits"', good(), { bits: 'four' }],
    ['a group size of 0', 'CONFIG_INVALID', '"group_size"', good(), { group_size: 0 }],
    ['desc_act as a number', 'CONFIG_INVALID', '"desc_act"', good(), { desc_act: 1 }],
    ['dynamic as a list', 'CONFIG_INVALID', '"dynamic"', good(), { dynamic: [1] }],
    ['bits of a layer in words', 'CONFIG_INVALID', '"dynamic"["+:a"]', good(), { dynamic: { '+:a': { bits: 'x' } } }],
  ];
  function withFive(group: number): RawTensor {
    const data = Int32Array.from({ length: 64 }, (_, k) => Math.floor(k / 32));
    data[5] = group;
    return { dtype: 'I32', shape: [64], data };
  }

  it.each(bad)('%s', async (_, code, words, tensors, extra = {}) => {
    const checkpoint = await checkpointOf(nextFolder(), tensors, config(extra));
    const error = await weightsOf(checkpoint).catch((e: unknown) => e as CheckpointError);
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as CheckpointError).code).toBe(code);
    expect((error as CheckpointError).message).toContain(words);
    if (code === 'LAYOUT_INVALID') expect((error as CheckpointError).tensor).toMatch(/^layer\./);
  });

  it.each([
    ['quantize_config.json', '{'],
    ['quantize_config.json', '[]'],
    ['config.json', '{"quantization_config": 4}'],
  ])('a %s of %s', async (name, content) => {
    const folder = nextFolder();
    await checkpointOf(folder, good());
    writeFileSync(join(folder, name), content);
    await expect(openCheckpoint(folder).then(weightsOf)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });

  it.each([
    [0x7c00, 'Infinity'],
    [0x7e00, 'NaN'],
  ])('a scale of %i', async (bits, word) => {
    const scales = (good()['layer.scales'] as RawTensor).data as Uint16Array;
    scales[32 + 7] = bits;
    const tensors = { ...good(), 'layer.scales': { dtype: 'F16', shape: [2, 32], data: scales } };
    const weight = await weightOf(await checkpointOf(nextFolder(), tensors, config()), 'layer.weight');
    await expect(weight.read(0, 32, new Scratch())).rejects.toMatchObject({
      code: 'LAYOUT_INVALID',
      tensor: 'layer.scales',
      message: expect.stringContaining(`holds ${word} for group 1 of output channel 7`),
    });
  });

  it('a file that became shorter, or another one, since', async () => {
    const folder = nextFolder();
    const checkpoint = await checkpointOf(folder, good(), config({ desc_act: true }));
    const weight = await weightOf(checkpoint, 'layer.weight');
    writeFileSync(join(folder, 'model.safetensors'), safetensors({ x: i32(1) }));
    await expect(weight.read(0, 32, new Scratch())).rejects.toMatchObject({ code: 'FILE_TRUNCATED' });
  });
});
