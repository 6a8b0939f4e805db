/** Blocks: what calibration and methods see of them and do to them. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { quantizeTensor } from '../../lib/index.js';
import type { LinearLayer } from '../../lib/matmul/linear-layer.js';
import { prepack } from '../../lib/matmul/prepack.js';
import { INPUTS, type InputName, LINEARS } from '../../lib/model/decoder-weights.js';
import { PackedLinear } from '../../lib/model/linear-layer.js';
import { type DecoderModel, openModel } from '../../lib/model/model.js';
import { dequantizeTensor } from '../../lib/tensor/dequantize.js';
import { largestDifference } from '../support/models.js';
import { VECTORS } from '../support/vectors.js';

const ids = Int32Array.from({ length: 24 }, (_, i) => (i * 53 + 7) % 259);

async function withModel(name: string, body: (model: DecoderModel) => Promise<void>): Promise<void> {
  const model = await openModel(join(VECTORS, 'models', name));
  try {
    await body(model);
  } finally {
    await model.close();
  }
}

/** x·Wᵀ + bias in float64. */
function product(x: Float32Array, weight: Float32Array, bias: Float32Array | null, columns: number): Float64Array {
  const outputs = weight.length / columns;
  return Float64Array.from({ length: (x.length / columns) * outputs }, (_, at) => {
    const [row, output] = [Math.floor(at / outputs), at % outputs];
    let sum = bias?.[output] ?? 0;
    for (let i = 0; i < columns; i++)
      sum += (x[row * columns + i] as number) * (weight[output * columns + i] as number);
    return sum;
  });
}

describe('a block', () => {
  it('one after the other, then the head, give the logits', async () => {
    await withModel('qwen3-qknorm', async (model) => {
      let hidden = await model.embed(ids);
      for (let index = 0; index < model.config.numLayers; index++) {
        const block = await model.openBlock(index);
        const before = hidden.slice();
        const after = await block.forward(hidden, { windowLength: 12 });
        expect(largestDifference(hidden, before)).toBe(0);
        hidden = after;
        block.dispose();
        await expect(block.forward(hidden, { windowLength: 12 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      }
      const logits = await model.logits(ids, { windowLength: 12 });
      expect(largestDifference(await model.head(hidden), logits)).toBe(0);
    });
  });

  it('shows what each group of linear layers reads, and stops before any of them', async () => {
    await withModel('llama-bias', async (model) => {
      const block = await model.openBlock(1);
      const hidden = await model.embed(ids);
      const seen = new Map<InputName, Float32Array>();
      const out = await block.forward(hidden, {
        windowLength: 8,
        onInput: (input, x) => {
          seen.set(input, x.slice());
        },
      });
      expect([...seen.keys()]).toEqual(INPUTS.map(({ name }) => name));
      for (const [until, expected] of seen) {
        expect(largestDifference(await block.forward(hidden, { windowLength: 8, until }), expected)).toBe(0);
      }
      // The last two: out = hidden + o + down, with o from the float64 product.
      const part = (name: 'self_attn.o_proj' | 'mlp.down_proj', columns: number) => async () =>
        product(seen.get(name) as Float32Array, await block.weight(name), block.bias(name), columns);
      const [o, down] = [await part('self_attn.o_proj', 32)(), await part('mlp.down_proj', 64)()];
      const sum = Array.from(hidden, (value, i) => value + (o[i] as number) + (down[i] as number));
      expect(largestDifference(out, sum)).toBeLessThan(1e-5);
      block.dispose();
    });
  });

  it('uses what onInput returns instead', async () => {
    await withModel('llama-gqa', async (model) => {
      const block = await model.openBlock(0);
      const hidden = await model.embed(ids);
      const out = await block.forward(hidden, {
        windowLength: 24,
        onInput: async (input, x) =>
          input === 'self_attn.o_proj' || input === 'mlp.down_proj' ? x.fill(0) : undefined,
      });
      expect(largestDifference(out, hidden)).toBe(0);
      await expect(
        block.forward(hidden, { windowLength: 24, onInput: () => new Float32Array(3) }),
      ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      block.dispose();
    });
  });

  it('computes with what replaces a layer: floats, a quantized tensor, a layer of anyone', async () => {
    await withModel('llama-bias', async (model) => {
      const block = await model.openBlock(0);
      const hidden = await model.embed(ids);
      const options = { windowLength: 24 };
      const expected = await block.forward(hidden, options);
      for (const name of LINEARS) block.replace(name, await block.weight(name));
      expect(largestDifference(await block.forward(hidden, options), expected)).toBe(0);

      const weight = await block.weight('mlp.gate_proj');
      const shape = [64, 32] as const;
      const tensor = quantizeTensor(weight, { dtype: 'int4', shape, granularity: 'per-group', groupSize: 16 });
      const floats = dequantizeTensor(tensor);
      block.replace('mlp.gate_proj', tensor);
      expect(largestDifference(await block.weight('mlp.gate_proj'), floats)).toBe(0);
      const quantized = await block.forward(hidden, options);
      expect(largestDifference(quantized, expected)).toBeGreaterThan(1e-3);
      block.replace('mlp.gate_proj', floats);
      expect(largestDifference(await block.forward(hidden, options), quantized)).toBeLessThan(1e-5);

      let disposed = 0;
      const bias = block.bias('mlp.gate_proj');
      const layer: LinearLayer = {
        rows: 64,
        cols: 32,
        forward: (x, out = new Float32Array((x.length / 32) * 64)) => {
          out.set(product(x, floats, bias, 32));
          return out;
        },
        dispose: () => disposed++,
      };
      block.replace('mlp.gate_proj', layer);
      expect(largestDifference(await block.forward(hidden, options), quantized)).toBeLessThan(1e-5);
      block.dispose();
      expect(disposed).toBe(1);
    });
  });

  it('refuses what does not fit', async () => {
    await withModel('llama-gqa', async (model) => {
      await expect(model.openBlock(2)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      const block = await model.openBlock(0);
      const invalid = expect.objectContaining({ code: 'INVALID_ARGUMENT' }) as Error;
      expect(() => block.replace('mlp.up_proj', new Float32Array(5))).toThrow(invalid);
      const other = quantizeTensor(new Float32Array(32), { dtype: 'int8', shape: [4, 8] });
      expect(() => block.replace('mlp.up_proj', other)).toThrow(/\[72, 48\].*\[4, 8\]/);
      expect(() => block.weightName('mlp.any' as never)).toThrow(invalid);
      expect(() => block.setNorm('input_layernorm', new Float32Array(5))).toThrow(invalid);
      await expect(block.forward(new Float32Array(47), { windowLength: 1 })).rejects.toThrow(invalid);
      await expect(block.forward(new Float32Array(96), { windowLength: 3 })).rejects.toThrow(/whole windows of 3/);
      const hidden = new Float32Array(48).fill(Number.NaN);
      await expect(block.forward(hidden, { windowLength: 1 })).rejects.toMatchObject({
        code: 'NON_FINITE',
        tensor: 'model.layers.0.self_attn.q_proj.weight',
      });
      const aborted = AbortSignal.abort(new Error('enough'));
      await expect(block.forward(new Float32Array(48), { windowLength: 1, signal: aborted })).rejects.toThrow('enough');
      block.dispose();
    });
  });

  it('has norms that can be set', async () => {
    await withModel('llama-gqa', async (model) => {
      const block = await model.openBlock(0);
      const hidden = await model.embed(ids);
      const doubled = block.norm('post_attention_layernorm').map((value) => 2 * value);
      const before = await block.forward(hidden, { windowLength: 24, until: 'mlp' });
      block.setNorm('post_attention_layernorm', doubled);
      const after = await block.forward(hidden, { windowLength: 24, until: 'mlp' });
      expect(
        largestDifference(
          after,
          before.map((value) => 2 * value),
        ),
      ).toBe(0);
      block.dispose();
    });
  });
});

describe('a layer whose columns are in another order', () => {
  it('reads the activations in that order', () => {
    const [rows, columns] = [8, 32];
    const weight = Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i * 1.7));
    const order = Int32Array.from({ length: columns }, (_, i) => (i * 5 + 3) % columns);
    const moved = weight.map((_, i) => weight[i - (i % columns) + (order[i % columns] as number)] as number);
    const x = Float32Array.from({ length: 3 * columns }, (_, i) => Math.cos(i * 0.9));
    const layer = new PackedLinear(prepack(moved, { shape: [rows, columns] }), null, 'float32', order);
    const same = new PackedLinear(prepack(weight, { shape: [rows, columns] }), null, 'float32');
    expect(largestDifference(layer.forward(x), product(x, weight, null, columns))).toBeLessThan(1e-5);
    expect([layer.readsLike(layer), layer.readsLike(same), same.readsLike(layer), same.readsLike(same)]).toEqual([
      true,
      false,
      false,
      true,
    ]);
    layer.dispose();
    same.dispose();
  });
});
