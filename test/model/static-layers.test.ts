import { describe, expect, it } from 'vitest';
import { Scratch } from '../../lib/checkpoint/scratch.js';
import { quantizeTensor } from '../../lib/index.js';
import { StaticInt8Linear } from '../../lib/matmul/static-int8.js';
import { layerOfWeight, RoundedInputLayer, staticLayer } from '../../lib/model/static-layers.js';
import { dequantizeTensor } from '../../lib/tensor/dequantize.js';
import { roundedInputs } from '../../lib/tensor/input-quantization.js';
import { temporaryFolder } from '../support/files.js';
import { withWeights } from '../support/layouts.js';
import { normal } from '../support/random.js';
import { staticCases, staticFolder } from '../support/static-cases.js';
import { float32, numbers } from '../support/vectors.js';

const root = temporaryFolder();

function largest(values: ArrayLike<number>): number {
  return Array.from(values).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
}

function expectClose(got: Float32Array, exact: readonly number[], bound: number): void {
  expect(got.length).toBe(exact.length);
  const limit = bound * largest(exact);
  for (const [i, value] of got.entries()) expect(Math.abs(value - (exact[i] as number))).toBeLessThanOrEqual(limit);
}

describe('layers with static activations', () => {
  it.each(staticCases.map((c) => [c.name, c] as const))('%s: what compressed-tensors computes', async (_, c) => {
    await withWeights(staticFolder(root, c), async (weights) => {
      const weight = weights.get('model.up.weight');
      if (weight?.input === undefined) throw new Error('no static activations');
      const input = await weight.input.read();
      const x = float32(c.x);
      // Activations past both ends are cut off, at −128 as at 127.
      const positiveZeros = (values: Float32Array) => values.map((value) => value + 0);
      expect(positiveZeros(roundedInputs(x, input))).toEqual(positiveZeros(float32(c.xq)));
      const bias = c.tensors['bias'] === undefined ? null : float32(c.tensors['bias']);
      const layer = await layerOfWeight(weight, bias, 'float32', new Scratch());
      expect(layer).toBeInstanceOf(input.dtype === 'int8' ? StaticInt8Linear : RoundedInputLayer);
      const out = new Float32Array(c.y.shape.reduce((a, b) => a * b, 1));
      expect(layer.forward(x, out)).toBe(out);
      expectClose(out, numbers(c.y), 3e-7);
      layer.dispose();
    });
  });

  const [m, n, k] = [11, 37, 90];
  const x = normal(m * k, 1, 2);
  const bias = normal(n, 2);
  const data = normal(n * k, 3);
  const [scale, zeroPoint] = [Math.fround(0.03), -19];
  const input = { dtype: 'int8', scale, zeroPoint } as const;
  const codeOf = (value: number) => {
    const ratio = Math.fround(value / scale);
    const low = Math.floor(ratio);
    const rounded = ratio - low > 0.5 || (ratio - low === 0.5 && low % 2 !== 0) ? low + 1 : low;
    return Math.min(127, Math.max(-128, rounded + zeroPoint));
  };

  it('integers are added exactly, and rounded once', async () => {
    const weight = quantizeTensor(data, { dtype: 'int8', shape: [n, k], granularity: 'per-channel', axis: 0 });
    const codes = new Int8Array(weight.data.buffer, weight.data.byteOffset, n * k);
    const layer = await staticLayer(weight, null, input, bias, 'float32');
    expect(layer).toBeInstanceOf(StaticInt8Linear);
    expect([layer.rows, layer.cols]).toEqual([n, k]);
    const expected = new Float32Array(m * n);
    for (let t = 0; t < m; t++) {
      for (let i = 0; i < n; i++) {
        let sum = 0;
        for (let c = 0; c < k; c++) sum += (codeOf(x[t * k + c] as number) - zeroPoint) * (codes[i * k + c] as number);
        expected[t * n + i] = sum * (scale * (weight.scales[i] as number)) + (bias[i] as number);
      }
    }
    expect(layer.forward(x)).toEqual(expected);
    expect(layer.forward(new Float32Array(0))).toHaveLength(0);
    layer.dispose();
  });

  it.each([
    ['groups', { dtype: 'int8', granularity: 'per-group', groupSize: 30 }],
    ['an asymmetric weight', { dtype: 'int8', scheme: 'asymmetric', granularity: 'per-channel' }],
    ['int4', { dtype: 'int4', granularity: 'per-channel' }],
  ] as const)('%s: by value', async (_, settings) => {
    const weight = quantizeTensor(data, { ...settings, shape: [n, k] } as never);
    const order = Int32Array.from({ length: k }, (_, i) => (i * 7) % k);
    const layer = await staticLayer(weight, order, input, bias, 'float32');
    expect(layer).toBeInstanceOf(RoundedInputLayer);
    const values = dequantizeTensor(weight);
    const exact: number[] = [];
    for (let t = 0; t < m; t++) {
      for (let i = 0; i < n; i++) {
        let sum = bias[i] as number;
        for (let c = 0; c < k; c++) {
          const from = x[t * k + (order[c] as number)] as number;
          sum += (codeOf(from) - zeroPoint) * scale * (values[i * k + c] as number);
        }
        exact.push(sum);
      }
    }
    expectClose(layer.forward(x), exact, 1e-6);
    layer.dispose();
  });

  it('numbers that are not finite are named', async () => {
    const weight = quantizeTensor(data, { dtype: 'int8', shape: [n, k], granularity: 'per-channel', axis: 0 });
    const layer = await staticLayer(weight, null, input, null, 'float32');
    const bad = x.slice();
    bad[5] = Number.NaN;
    expect(() => layer.forward(bad)).toThrow(expect.objectContaining({ code: 'NON_FINITE', index: 5 }));
    layer.dispose();
  });
});
