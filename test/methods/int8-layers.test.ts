import { describe, expect, it } from 'vitest';
import { int8Layer, quantizeTensor } from '../../lib/index.js';
import { normal } from '../support/random.js';

const [m, n, k] = [9, 21, 70];
const weight = quantizeTensor(normal(n * k, 1), { dtype: 'int8', shape: [n, k], granularity: 'per-channel', axis: 0 });
const codes = new Int8Array(weight.data.buffer);
const x = normal(m * k, 2, 3);
const bias = normal(n, 3);

/** x·Wᵀ + bias in float64, of what int8 makes of both. */
function expected(scaleOf: (row: number) => number, lowest = -127, zeroPoint = 0): Float64Array {
  const y = new Float64Array(m * n);
  for (let t = 0; t < m; t++) {
    const scale = scaleOf(t);
    for (let i = 0; i < n; i++) {
      let sum = 0;
      for (let c = 0; c < k; c++) {
        const ratio = Math.fround((x[t * k + c] as number) / scale);
        const code = Math.min(127, Math.max(lowest, roundHalfEven(ratio) + zeroPoint));
        sum += (code - zeroPoint) * (codes[i * k + c] as number);
      }
      y[t * n + i] = sum * scale * (weight.scales[i] as number) + (bias[i] as number);
    }
  }
  return y;
}

function roundHalfEven(value: number): number {
  const low = Math.floor(value);
  return value - low > 0.5 || (value - low === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

function expectClose(got: Float32Array, exact: Float64Array): void {
  expect(got).toHaveLength(exact.length);
  const largest = Math.max(...exact.map(Math.abs));
  for (const [i, value] of got.entries()) expect(Math.abs(value - (exact[i] as number))).toBeLessThan(1e-6 * largest);
}

describe('int8Layer', () => {
  it('dynamic: a scale for each token', async () => {
    const layer = await int8Layer(weight, { bias });
    expect([layer.rows, layer.cols]).toEqual([n, k]);
    const largest = (t: number) => Math.max(...x.subarray(t * k, (t + 1) * k).map(Math.abs));
    expectClose(
      layer.forward(x),
      expected((t) => Math.fround(largest(t) / 127)),
    );
    layer.dispose();
  });

  it('static: one scale, and what is larger is cut off', async () => {
    const inputScale = Math.fround(4 / 127); // more than one deviation, so that much is cut off
    const layer = await int8Layer(weight, { activations: { inputScale }, bias });
    const out = new Float32Array(m * n);
    expect(layer.forward(x, out)).toBe(out);
    expectClose(
      out,
      expected(() => inputScale, -128),
    );
    layer.dispose();
    for (const inputZeroPoint of [-128, 37]) {
      const asymmetric = await int8Layer(weight, { activations: { inputScale, inputZeroPoint }, bias });
      expectClose(
        asymmetric.forward(x),
        expected(() => inputScale, -128, inputZeroPoint),
      );
      asymmetric.dispose();
    }
  });

  it('LLM.int8(): columns with outliers are exact in x', async () => {
    const spiked = x.slice();
    spiked[3 * k + 7] = 50;
    const layer = await int8Layer(weight, { activations: { threshold: 20 }, bias });
    const y = layer.forward(spiked);
    // The column of the outlier by itself, in float; the rest in int8, as if it were not there.
    const rest = spiked.map((value, i) => (i % k === 7 ? 0 : value));
    const dynamic = await int8Layer(weight, { bias });
    const remaining = dynamic.forward(rest);
    const exact = Float64Array.from(remaining, (value, i) => {
      const [t, row] = [Math.floor(i / n), i % n];
      return value + (spiked[t * k + 7] as number) * (codes[row * k + 7] as number) * (weight.scales[row] as number);
    });
    expectClose(y, exact);
    layer.dispose();
    dynamic.dispose();
  });

  it('refuses what is not such a weight', async () => {
    const groups = quantizeTensor(normal(64, 1), {
      dtype: 'int8',
      shape: [2, 32],
      granularity: 'per-group',
      groupSize: 16,
    });
    await expect(int8Layer(groups)).rejects.toMatchObject({ argument: 'tensor' });
    await expect(int8Layer(weight, { activations: { inputScale: 0 } })).rejects.toMatchObject({
      argument: 'activations.inputScale',
    });
    await expect(int8Layer(weight, { activations: { inputScale: 1, inputZeroPoint: 128 } })).rejects.toMatchObject({
      argument: 'activations.inputZeroPoint',
    });
    await expect(int8Layer(weight, { bias: new Float32Array(3) })).rejects.toMatchObject({ argument: 'bias' });
  });
});
