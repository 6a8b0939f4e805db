import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.js';
import { floatsOf } from '../../lib/checkpoint/floats.js';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import { CheckpointError, castTensor } from '../../lib/index.js';
import { sameBytes } from '../support/bytes.js';
import { type RawTensor, temporaryFolder } from '../support/files.js';
import { awqWords, checkpointOf, readWhole, turned, weightOf } from '../support/packed.js';
import { random } from '../support/random.js';
import { type EncodedArray, float32, numbers, readJson } from '../support/vectors.js';

interface AwqCase {
  group_size: number;
  pseudo_dequant: EncodedArray;
  scales_NG: EncodedArray;
  zeros_NG: EncodedArray;
  codes_NK: EncodedArray;
  gemm: { qweight: EncodedArray; qzeros: EncodedArray; scales_GN: EncodedArray };
  converted_to_gptq_layout_v1: { qweight: EncodedArray; qzeros: EncodedArray };
}
const { cases } = readJson<{ cases: AwqCase[] }>('awq', 'awq.json');
const halves = readJson<{ cases: { float16: { scales: EncodedArray; weight: EncodedArray } }[] }>('awq', 'half.json');

const root = temporaryFolder();
let count = 0;
const nextFolder = () => join(root, String(count++));
const raw = (a: EncodedArray, dtype: string): RawTensor => ({
  dtype,
  shape: a.shape,
  data: new Uint8Array(Buffer.from(a.b64, 'base64')),
});
const config = (group: number, extra: Record<string, unknown> = {}) => ({
  'config.json': {
    quantization_config: {
      quant_method: 'awq',
      bits: 4,
      group_size: group,
      zero_point: true,
      version: 'gemm',
      ...extra,
    },
  },
});
const layer = 'model.layers.0.self_attn.q_proj';
const tensorsOf = ({ gemm }: AwqCase, scales = raw(gemm.scales_GN, 'F32')): Record<string, RawTensor> => ({
  [`${layer}.qweight`]: raw(gemm.qweight, 'I32'),
  [`${layer}.qzeros`]: raw(gemm.qzeros, 'I32'),
  [`${layer}.scales`]: scales,
});

describe('weights that AutoAWQ quantized and packed', () => {
  it.each(cases.map((c, i) => [c.group_size, c, i] as const))('groups of %i', async (groupSize, c, i) => {
    const checkpoint = await checkpointOf(nextFolder(), tensorsOf(c), config(groupSize));
    const weight = await weightOf(checkpoint, `${layer}.weight`);
    const [rows = 0, columns = 0] = c.codes_NK.shape;
    expect(weight).toMatchObject({ rows, columns, dtype: 'float32', rowStep: 8 });
    expect(weight.encoding).toEqual({ format: 'awq', dtype: 'int4', groupSize, traits: ['gemm', 'asymmetric'] });
    for (const blockRows of [8, 24, 64]) {
      const whole = await readWhole(weight, blockRows);
      expect(whole.codes).toEqual(numbers(c.codes_NK));
      expect(whole.zeroPoints).toEqual(numbers(c.zeros_NG).map((zero) => zero + 0));
      expect(whole.scales).toEqual(numbers(c.scales_NG));
    }
    const scratch = new Scratch();
    const floats = await floatsOf(await weight.read(0, rows, scratch), rows * columns, columns, scratch);
    expect(sameBytes(positiveZeros(floats), positiveZeros(float32(c.pseudo_dequant)))).toBe(true);

    const half = halves.cases[i]?.float16;
    if (half === undefined) throw new Error('no half-precision case');
    const small = await weightOf(
      await checkpointOf(nextFolder(), tensorsOf(c, raw(half.scales, 'F16')), config(groupSize), true),
      `${layer}.weight`,
    );
    const wide = await floatsOf(await small.read(0, rows, scratch), rows * columns, columns, scratch);
    expect(Array.from(castTensor(wide, { from: 'float32', to: 'float16' }))).toEqual(numbers(half.weight));
  });

  it.each(cases.map((c) => [c.group_size, c] as const))(
    "groups of %i: equal to GPTQ's layout, version 1, as AutoAWQ converts to it",
    async (groupSize, c) => {
      const { qweight, qzeros } = c.converted_to_gptq_layout_v1;
      const checkpoint = await checkpointOf(
        nextFolder(),
        {
          [`${layer}.qweight`]: raw(qweight, 'I32'),
          [`${layer}.qzeros`]: raw(qzeros, 'I32'),
          [`${layer}.scales`]: raw(c.gemm.scales_GN, 'F32'),
        },
        { 'config.json': { quantization_config: { quant_method: 'gptq', bits: 4, group_size: groupSize } } },
      );
      const whole = await readWhole(await weightOf(checkpoint, `${layer}.weight`), 32);
      expect(whole.codes).toEqual(numbers(c.codes_NK));
      // AutoAWQ subtracts 1 from whole words: with zero points of 0 among them.
      expect(whole.zeroPoints).toContain(0);
      expect(whole.zeroPoints).toEqual(numbers(c.zeros_NG).map((zero) => zero + 0));
    },
  );

  function positiveZeros(x: Float32Array): Float32Array {
    return x.map((value) => value + 0);
  }
});

describe('configs', () => {
  const c = cases[0] as AwqCase;
  it.each([
    ['none', {}],
    [
      'quant_config.json of llm-awq',
      { 'quant_config.json': { zero_point: true, q_group_size: 32, w_bit: 4, version: 'GEMM' } },
    ],
    ['old names', config(32, { group_size: undefined, q_group_size: 32, bits: undefined, w_bit: 4, version: 'GEMM' })],
    ['nothing but the method', { 'config.json': { quantization_config: { quant_method: 'awq' } } }],
  ])('%s', async (_, files) => {
    const weight = await weightOf(await checkpointOf(nextFolder(), tensorsOf(c), files), `${layer}.weight`);
    expect(weight.encoding).toMatchObject({ format: 'awq', groupSize: 32 });
    expect((await readWhole(weight, 64)).codes).toEqual(numbers(c.codes_NK));
  });

  it('a file alone', async () => {
    const folder = nextFolder();
    await checkpointOf(folder, tensorsOf(c));
    const weight = await weightOf(await openCheckpoint(join(folder, 'model.safetensors')), `${layer}.weight`);
    expect(weight.encoding.format).toBe('awq');
  });

  it('no zero points: 8, whether they are stored or not', async () => {
    const next = random(1);
    const codes = Array.from({ length: 16 * 64 }, () => Math.floor(16 * next()));
    const scales = Float32Array.from({ length: 32 }, (_, i) => (i + 1) / 64);
    const tensors: Record<string, RawTensor> = {
      'l.qweight': { dtype: 'I32', shape: [64, 2], data: awqWords(codes, 16, 64) },
      'l.scales': { dtype: 'F32', shape: [2, 16], data: turned(scales, 16, 2) },
    };
    const stored = {
      ...tensors,
      'l.qzeros': { dtype: 'I32', shape: [2, 2], data: new Uint32Array(4).fill(0x88888888) },
    };
    for (const some of [tensors, stored]) {
      const weight = await weightOf(
        await checkpointOf(nextFolder(), some, config(32, { zero_point: false })),
        'l.weight',
      );
      expect(weight.encoding.traits).toEqual(['gemm', 'symmetric']);
      const whole = await readWhole(weight, 16);
      expect(whole).toMatchObject({ codes, scales: Array.from(scales), zeroPoints: new Array(32).fill(8) });
      expect(whole.blocks[0]).toMatchObject({ tensor: { scheme: 'symmetric' } });
    }
  });
});

describe('what is wrong is refused', () => {
  const c = cases[0] as AwqCase;
  const i32 = (...shape: number[]): RawTensor => ({
    dtype: 'I32',
    shape,
    data: new Int32Array(shape.reduce((a, b) => a * b, 1)),
  });
  const good = () => tensorsOf(c);
  const replaced = (suffix: string, tensor: RawTensor | null) => {
    const tensors = { ...good(), [`${layer}.${suffix}`]: tensor };
    if (tensor === null) delete tensors[`${layer}.${suffix}`];
    return tensors as Record<string, RawTensor>;
  };
  const bad: [string, string, string, Record<string, RawTensor>, Record<string, unknown>][] = [
    ['gemv', 'LAYOUT_UNSUPPORTED', '"gemv"', good(), { version: 'gemv' }],
    ['gemv_fast', 'LAYOUT_UNSUPPORTED', '"gemv_fast"', good(), { version: 'GEMV_FAST' }],
    ['marlin', 'LAYOUT_UNSUPPORTED', '"marlin"', good(), { version: 'marlin' }],
    ['8 bits', 'LAYOUT_UNSUPPORTED', '8 bits', good(), { bits: 8 }],
    ['no zero points', 'LAYOUT_INVALID', 'qzeros', replaced('qzeros', null), {}],
    ['no scales', 'LAYOUT_INVALID', 'scales', replaced('scales', null), {}],
    ['words along the other axis', 'LAYOUT_INVALID', 'expected [K, N / 8]', replaced('qweight', i32(16, 64)), {}],
    ['inputs in no whole words', 'LAYOUT_INVALID', 'expected [K, N / 8]', replaced('qweight', i32(127, 8)), {}],
    ['no inputs', 'LAYOUT_INVALID', 'expected [K, N / 8]', replaced('qweight', i32(0, 8)), {}],
    ['zero points of other groups', 'LAYOUT_INVALID', 'expected [4, 8]', replaced('qzeros', i32(3, 8)), {}],
    ['zero points of fewer channels', 'LAYOUT_INVALID', 'expected [4, 8]', replaced('qzeros', i32(4, 7)), {}],
    ['another group size', 'LAYOUT_INVALID', 'expected 2 for group_size 64', good(), { group_size: 64 }],
    ['an order of inputs', 'LAYOUT_INVALID', 'no such order', { ...good(), [`${layer}.g_idx`]: i32(128) }, {}],
    ['a word for the switch', 'CONFIG_INVALID', '"zero_point"', good(), { zero_point: 'yes' }],
  ];
  it.each(bad)('%s', async (_, code, words, tensors, extra) => {
    const checkpoint = await checkpointOf(nextFolder(), tensors, config(32, extra));
    const error = await weightsOf(checkpoint).catch((e: unknown) => e as CheckpointError);
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as CheckpointError).code).toBe(code);
    expect((error as CheckpointError).message).toContain(words);
  });

  it('tensors with its names that fit no layout, without a config', async () => {
    const checkpoint = await checkpointOf(nextFolder(), replaced('qweight', i32(64, 16)));
    await expect(weightsOf(checkpoint)).rejects.toMatchObject({ code: 'LAYOUT_INVALID' });
  });

  it('groups that do not divide the inputs, without a config', async () => {
    const tensors = {
      [`${layer}.qweight`]: i32(64, 1),
      [`${layer}.qzeros`]: i32(3, 1),
      [`${layer}.scales`]: { dtype: 'F32', shape: [3, 8], data: new Float32Array(24) },
    };
    await expect(weightsOf(await checkpointOf(nextFolder(), tensors))).rejects.toMatchObject({
      code: 'LAYOUT_INVALID',
      message: expect.stringContaining("can't be divided into evenly"),
    });
  });

  it('a scale that is not finite; rows that begin inside a word', async () => {
    const scales = float32(c.gemm.scales_GN);
    scales[64 + 3] = Number.NaN;
    const tensors = tensorsOf(c, { dtype: 'F32', shape: c.gemm.scales_GN.shape, data: scales });
    const weight = await weightOf(await checkpointOf(nextFolder(), tensors, config(32)), `${layer}.weight`);
    await expect(weight.read(0, 64, new Scratch())).rejects.toMatchObject({
      code: 'LAYOUT_INVALID',
      message: expect.stringContaining('holds NaN for group 1 of output channel 3'),
    });
    await expect(weight.read(4, 12, new Scratch())).rejects.toBeInstanceOf(RangeError);
  });
});
