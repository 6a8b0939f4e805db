/** Folding scales into norms that a checkpoint stores in 16 bits, and layers that share what GPTQ factorizes. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fold, readBlockWeights, storableScales } from '../../lib/calibration/fold.js';
import { castTensor, gram, openModel } from '../../lib/index.js';
import type { InputStatistics } from '../../lib/methods/input-statistics.js';
import type { LinearWeight } from '../../lib/methods/linear-weight.js';
import { gptqTogether, quantizeWeight } from '../../lib/methods/quantize-weight.js';
import { writeDecoder } from '../support/decoder.js';
import { temporaryFolder } from '../support/files.js';
import { normal } from '../support/random.js';

const root = temporaryFolder();

describe('scales that are folded into norms', () => {
  it.each([
    ['F32', 'float32'],
    ['BF16', 'bfloat16'],
    ['F16', 'float16'],
  ] as const)('leave a function that %s files hold', async (dtype, type) => {
    const shape = { hidden: 48, inner: 64, heads: 4, kvHeads: 4, layers: 1, dtype } as const;
    const model = await openModel(writeDecoder(join(root, dtype), shape));
    const block = await model.openBlock(0);
    expect(block.normDtype('input_layernorm')).toBe(type);
    const [before, after] = [await readBlockWeights(block, model.config), await readBlockWeights(block, model.config)];
    const scales = normal(48, 5).map((x) => Math.exp(2 * x));
    // Quotients that float16 has no number for: the largest, and none at all.
    scales[3] = 1e-6;
    scales[4] = 1e9;
    const used = storableScales(block, after, 'mlp', scales);
    fold(after, 'mlp', used);
    const norm = before.norms.get('post_attention_layernorm') as Float32Array;
    const folded = after.norms.get('post_attention_layernorm') as Float32Array;
    const stored =
      type === 'float32'
        ? folded
        : castTensor(castTensor(folded, { from: 'float32', to: type }), { from: type, to: 'float32' });
    for (const name of ['mlp.gate_proj', 'mlp.up_proj'] as const) {
      const [old, changed] = [before, after].map(({ linears }) => (linears.get(name) as LinearWeight).data);
      for (let i = 0; i < (old as Float32Array).length; i++) {
        const expected = ((old as Float32Array)[i] as number) * (norm[i % 48] as number);
        const got = ((changed as Float32Array)[i] as number) * (stored[i % 48] as number);
        expect(Math.abs(got - expected)).toBeLessThanOrEqual(2 ** -21 * Math.abs(expected));
      }
    }
    for (let k = 5; k < 48; k++) expect((used[k] as number) / (scales[k] as number)).toBeCloseTo(1, 2);
    if (type === 'float16') expect(used[3]).toBe(1);
    block.dispose();
    await model.close();
  });
});

describe('GPTQ of layers that read the same', () => {
  const columns = 40;
  const x = normal(200 * columns, 9).map((value, i) => value * (i % 7 === 0 ? 5 : 1));
  const squares = gram(x, { k: columns });
  const statistics = {
    columns,
    rows: 200,
    gram: squares,
    sumOfSquares: Float64Array.from({ length: columns }, (_, i) => squares[i * columns + i] as number),
  } as unknown as InputStatistics;
  const settings = { dtype: 'int4', granularity: 'per-group', groupSize: 16 } as const;
  const others = { dtype: 'uint3', scheme: 'asymmetric', granularity: 'per-channel', axis: 0 } as const;
  const weight = (rows: number, seed: number) => ({ rows, columns, data: normal(rows * columns, seed) });
  const layers = [
    { name: 'q', weight: weight(21, 1), settings },
    { name: 'k', weight: weight(3, 2), settings: { ...settings } },
    { name: 'v', weight: weight(7, 3), settings: others },
    { name: 'w', weight: weight(18, 4), settings: others },
  ];

  it.each([
    undefined,
    { descAct: true, staticGroups: false },
    { descAct: false, staticGroups: false },
    { convention: 'gptq', groupAware: true },
  ] as const)('gives the bits of each alone: %j', async (gptq) => {
    const together = await gptqTogether(layers, statistics, gptq, undefined);
    for (const { name, weight: own, settings: how } of layers) {
      const choices = { name, ...(gptq === undefined ? {} : { gptq }) };
      const { tensor, order, warnings } = await quantizeWeight(own, 'gptq', how, statistics, choices);
      expect(together.get(name)).toEqual({ tensor, order, warnings });
    }
  });

  it('names the layer that is at fault, or warned of', async () => {
    const bad = layers.map((layer) =>
      layer.name === 'k'
        ? { ...layer, weight: { ...layer.weight, data: layer.weight.data.map((value, i) => (i === 50 ? NaN : value)) } }
        : layer,
    );
    await expect(gptqTogether(bad, statistics, undefined, undefined)).rejects.toMatchObject({
      code: 'NON_FINITE',
      tensor: 'k',
      index: 50,
    });
    const nothing = {
      ...statistics,
      gram: new Float32Array(columns * columns),
      sumOfSquares: new Float64Array(columns),
    };
    const rounded = await gptqTogether(layers, nothing, undefined, undefined);
    for (const { name } of layers) {
      expect(rounded.get(name)?.warnings).toEqual([`${name} was rounded to nearest: all of its inputs were zero.`]);
    }
  });
});
