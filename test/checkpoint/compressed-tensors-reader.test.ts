import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../support/files.js';
import { checkpointFolder, floatBytes, rawTensor, type Tensors, withWeights } from '../support/layouts.js';
import { type EncodedArray, readJson } from '../support/vectors.js';

interface Case {
  name: string;
  format: string;
  version: string;
  weights: Record<string, unknown>;
  tensors: Record<string, EncodedArray>;
  dequant: EncodedArray;
}
const { cases } = readJson<{ cases: Case[] }>('compressed-tensors', 'checkpoints.json');
const root = temporaryFolder();
const NAMES: Record<string, string> = { BF16: 'bfloat16', F16: 'float16', F32: 'float32' };

const configOf = (format: string, weights: unknown, more: object = {}, version?: string) => ({
  quantization_config: {
    quant_method: 'compressed-tensors',
    format,
    ...(version === undefined ? {} : { version }),
    config_groups: { group_0: { targets: ['Linear'], weights, input_activations: null, output_activations: null } },
    ignore: ['lm_head'],
    ...more,
  },
});

const layer = (name: string, tensors: Record<string, EncodedArray>): Tensors =>
  Object.fromEntries(Object.entries(tensors).map(([part, tensor]) => [`${name}.${part}`, rawTensor(tensor)]));

describe('weights equal what compressed-tensors decompresses', () => {
  it.each(cases.map((c) => [c.version, c.name, c] as const))('%s: %s', async (_, __, c) => {
    const path = checkpointFolder(root, layer('model.up', c.tensors), configOf(c.format, c.weights, {}, c.version));
    await withWeights(path, async (weights) => {
      expect([...weights.keys()]).toEqual(['model.up.weight']);
      const weight = weights.get('model.up.weight');
      if (weight === undefined) throw new Error('no weight');
      expect(weight.shape).toEqual(c.dequant.shape);
      expect(weight.dtype).toBe(NAMES[c.dequant.dtype]);
      expect(weight.parts.length).toBe(Object.keys(c.tensors).length);
      const expected = Buffer.from(c.dequant.b64, 'base64');
      for (const strip of [weight.rows, 1, 3, 8]) {
        expect((await floatBytes(weight, strip)).equals(expected), `strips of ${strip} rows`).toBe(true);
      }
    });
  });
});
