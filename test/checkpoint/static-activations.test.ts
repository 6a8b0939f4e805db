import { describe, expect, it } from 'vitest';
import { compressedTensorsWriter } from '../../lib/checkpoint/layouts/compressed-tensors/writer.js';
import type { Outline } from '../../lib/checkpoint/layouts/layout.js';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import { staticName } from '../../lib/tensor/input-quantization.js';
import { temporaryFolder } from '../support/files.js';
import { checkpointFolder, rawTensor, withWeights } from '../support/layouts.js';
import { type StaticCase, staticCases, staticConfig, staticFolder } from '../support/static-cases.js';
import { type EncodedArray, numbers } from '../support/vectors.js';

const root = temporaryFolder();

const named = (name: string): StaticCase => {
  const found = staticCases.find((c) => c.name === name);
  if (found === undefined) throw new Error(name);
  return found;
};

/** A stored number: float32 or bfloat16, or an integer of eight bits. */
function numberOf({ dtype, b64 }: EncodedArray): number {
  const bytes = Buffer.from(b64, 'base64');
  if (dtype === 'I8') return bytes.readInt8();
  if (dtype === 'F32') return bytes.readFloatLE();
  const wide = Buffer.alloc(4);
  bytes.copy(wide, 2);
  return wide.readFloatLE();
}

const f32 = (value: number, shape = [1]): EncodedArray => ({
  dtype: 'F32',
  shape,
  b64: Buffer.from(Float32Array.of(value).buffer).toString('base64'),
});

describe('static activations in compressed-tensors checkpoints', () => {
  it.each(staticCases.map((c) => [c.name, c] as const))(
    '%s: read and written as compressed-tensors does',
    async (_, c) => {
      const scale = c.tensors['input_scale'] as EncodedArray;
      const zeroPoint = c.tensors['input_zero_point'];
      await withWeights(staticFolder(root, c), async (weights) => {
        const weight = weights.get('model.up.weight');
        if (weight?.input === undefined) throw new Error('no static activations');
        const input = await weight.input.read();
        expect(input.scale).toBe(numberOf(scale));
        expect(input.zeroPoint).toBe(zeroPoint === undefined ? null : numberOf(zeroPoint));
        const isAsymmetric = zeroPoint !== undefined;
        expect(weight.encoding.traits.at(-1)).toBe(
          `input ${c.input_activations['type']}8 tensor static${isAsymmetric ? ' asymmetric' : ''}`,
        );

        const block = await weight.read(0, weight.rows, new Scratch());
        if (block.kind !== 'quantized') throw new Error('not quantized');
        const writer = compressedTensorsWriter({
          format: c.format as 'int-quantized',
          activations: staticName(weight.input),
          scaleDtype: scale.dtype === 'F32' ? 'float32' : 'bfloat16',
          sharing: { granularity: c.weights['strategy'] === 'tensor' ? 'per-tensor' : 'per-channel' },
        });
        const { rows, columns } = weight;
        const outline: Outline = { name: weight.name, rows, columns, dtype: 'bfloat16', input };
        const { bias: __, ...stored } = c.tensors;
        expect(new Set(writer.outputs(outline).map(({ name }) => name))).toEqual(
          new Set(Object.keys(stored).map((part) => `model.up.${part}`)),
        );
        const pieces = await writer.encode(outline, 0, block.tensor, null);
        for (const { name, dtype, shape } of writer.outputs(outline)) {
          const expected = stored[name.slice('model.up.'.length)] as EncodedArray;
          expect({ name, dtype, shape }).toEqual({ name, dtype: expected.dtype, shape: expected.shape });
          const data = pieces.find(({ tensor }) => tensor === name)?.data ?? new Uint8Array(0);
          expect(Buffer.from(data).toString('base64')).toBe(expected.b64);
        }
        const config = writer.config([]) as { config_groups: { group_0: { input_activations: object } } };
        const { type, num_bits, symmetric, strategy, dynamic, group_size } = c.input_activations;
        expect(config.config_groups.group_0.input_activations).toMatchObject({
          ...{ type, num_bits, symmetric, strategy, dynamic, group_size },
        });
        const without = { name: weight.name, rows, columns, dtype: 'bfloat16' } as const;
        await expect(writer.encode(without, 0, block.tensor, null)).rejects.toThrow(RangeError);
      });
    },
  );

  const symmetric = named('int8 symmetric bfloat16');
  const asymmetric = named('int8 asymmetric bfloat16');

  it.each([
    ['a scale is missing', symmetric, { input_scale: null }, 'LAYOUT_MISSING_PART'],
    ['a zero point is missing', asymmetric, { input_zero_point: null }, 'LAYOUT_MISSING_PART'],
    ['scales of channels', symmetric, { input_scale: f32(1, [1, 1, 1]) }, 'LAYOUT_SHAPE'],
    ['a scale of another type', symmetric, { input_scale: asymmetric.tensors['input_zero_point'] }, 'LAYOUT_DTYPE'],
    ['a zero point of another type', asymmetric, { input_zero_point: f32(3) }, 'LAYOUT_DTYPE'],
  ] as [string, StaticCase, Record<string, EncodedArray | null>, string][])(
    'says that %s',
    async (_, c, change, code) => {
      await expect(withWeights(staticFolder(root, c, change), async () => {})).rejects.toMatchObject({ code });
    },
  );

  it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e-45])('refuses the scale %f', async (value) => {
    await withWeights(staticFolder(root, symmetric, { input_scale: f32(value) }), async (weights) => {
      const input = weights.get('model.up.weight')?.input;
      await expect(input?.read()).rejects.toMatchObject({ code: 'LAYOUT_SCALE', tensor: 'model.up.input_scale' });
    });
  });

  it('takes a scale without axes, and no scale where activations are not static', async () => {
    await withWeights(staticFolder(root, symmetric, { input_scale: f32(0.5, []) }), async (weights) => {
      expect(await weights.get('model.up.weight')?.input?.read()).toEqual({
        dtype: 'int8',
        scale: 0.5,
        zeroPoint: null,
      });
    });
    const dynamic = {
      ...symmetric,
      input_activations: { ...symmetric.input_activations, strategy: 'token', dynamic: true },
    };
    await withWeights(staticFolder(root, dynamic), async (weights) => {
      expect(weights.get('model.up.weight')?.input).toBeUndefined();
    });
    const tensors = Object.entries(symmetric.tensors).map(
      ([part, tensor]) => [`a.${part}`, rawTensor(tensor)] as const,
    );
    const config = { ...(staticConfig(symmetric) as object), quantization_config: undefined };
    await withWeights(checkpointFolder(root, Object.fromEntries(tensors), config), async (weights) => {
      expect(weights.get('a.weight')?.input).toBeUndefined(); // nothing says what the scale is for
    });
  });

  it('reads those of FP8 checkpoints whose config calls them static', async () => {
    const c = named('float8 float32');
    const { bias: _, ...stored } = c.tensors;
    const tensors = Object.entries(stored).map(([part, tensor]) => [`a.${part}`, rawTensor(tensor)] as const);
    for (const [config, isStatic] of [
      [{ quant_method: 'fp8', activation_scheme: 'static' }, true],
      [{ quant_method: 'modelopt', quant_algo: 'FP8' }, true],
      [{ quant_method: 'fp8', activation_scheme: 'dynamic' }, false],
    ] as const) {
      await withWeights(
        checkpointFolder(root, Object.fromEntries(tensors), { quantization_config: config }),
        async (weights) => {
          const found = await weights.get('a.weight')?.input?.read();
          const scale = numberOf(c.tensors['input_scale'] as EncodedArray);
          expect(found).toEqual(isStatic ? { dtype: 'float8_e4m3fn', scale, zeroPoint: null } : undefined);
        },
      );
    }
  });

  it('writers refuse weights that engines do not multiply with static activations', () => {
    const scaleDtype = 'bfloat16' as const;
    for (const settings of [
      { format: 'pack-quantized', dtype: 'int8', sharing: { granularity: 'per-channel' } },
      { format: 'int-quantized', dtype: 'int4' },
      { format: 'int-quantized', scheme: 'asymmetric' },
      { format: 'int-quantized', sharing: { granularity: 'per-group', groupSize: 32 } },
    ] as const) {
      expect(() => compressedTensorsWriter({ ...settings, activations: 'int8-static', scaleDtype })).toThrow(
        RangeError,
      );
    }
  });

  it('has vectors that are cut off at both ends', () => {
    for (const { x, xq } of staticCases) {
      const [from, to] = [numbers(x), numbers(xq)];
      expect(Math.max(...from)).toBeGreaterThan(2 * Math.max(...to));
      expect(Math.min(...from)).toBeLessThan(2 * Math.min(...to));
    }
  });
});
