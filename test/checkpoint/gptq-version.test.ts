import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { weightsOf } from '../../lib/checkpoint/weights.js';
import { CheckpointError } from '../../lib/index.js';
import { type RawTensor, temporaryFolder } from '../support/files.js';
import {
  checkpointOf,
  gptqFiles as config,
  gptqWords,
  gptqLayerOf as layerOf,
  readWhole,
  weightOf,
} from '../support/packed.js';
import { random } from '../support/random.js';

const root = temporaryFolder();
let count = 0;
const nextFolder = () => join(root, String(count++));

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
      /says checkpoint_format "gptq.*on average -?\d\.\d\d as version 1, -?\d\.\d\d as version 2.*gptqmodel:1\.4\.0.*with gptqVersion, 1/,
    );
    for (const gptqVersion of [1, 2] as const) {
      const weights = await weightsOf(checkpoint, { gptqVersion });
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

  it.each([1, 2] as const)('act-order, asymmetric, version %i: by the mean of the codes', async (version) => {
    const next = random(23);
    const places = Array.from({ length: 256 }, (_, k) => [next(), k] as const).sort(([a], [b]) => a - b);
    const codes = new Array<number>(256 * 256);
    const index = new Int32Array(256);
    places.forEach(([, to], k) => {
      index[to] = Math.floor(k / 128);
      for (let n = 0; n < 256; n++) codes[n * 256 + to] = one.codes[n * 256 + k] as number;
    });
    const tensors = {
      ...one.tensors(version),
      'layer.qweight': { dtype: 'I32', shape: [32, 256], data: gptqWords(codes, 256, 256, 4) },
      'layer.g_idx': { dtype: 'I32', shape: [256], data: index },
    };
    const read = (extra: Record<string, unknown>) =>
      checkpointOf(nextFolder(), tensors, config({ ...asked, desc_act: true, ...extra })).then(weightsOf);
    expect((await read({}))[0]?.encoding.traits).toEqual([`v${version}`, 'asymmetric', 'act-order']);
    const wrong = version === 1 ? 'gptq_v2' : 'gptq';
    await expect(read({ checkpoint_format: wrong })).rejects.toMatchObject({ code: 'LAYOUT_AMBIGUOUS' });
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
